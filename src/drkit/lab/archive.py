"""Base backups and write-ahead log of the lab's databases, in S3 of the second region.

A server's archive_command puts a finished segment into a spool directory and waits until the uploader here has stored
it: a segment is archived only when it really is in the bucket. While a server's place is cut, nothing is uploaded.
Keys: `<prefix>/base/<name>.tar`, `<prefix>/wal/<segment>`; a prefix holds one history, and so one instance's log.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drkit import clock
from drkit.errors import LabError
from drkit.lab.binaries import environment
from drkit.lab.calls import CLIENT
from drkit.lab.pgwire import ServerError, Session
from drkit.lab.postgres import Node
from drkit.lab.template import ADMIN

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger("drkit.lab.archive")

# $1 the segment's path, $2 its name, $3 the spool. Gives up when the server that started it is gone.
_COMMAND = """\
set -e
cp "$1" "$3/$2.part"
mv "$3/$2.part" "$3/$2.ready"
while [ -e "$3/$2.ready" ]; do
    kill -0 "$PPID" 2>/dev/null || exit 1
    sleep 0.02
done
"""
_UPLOAD_EVERY_S = 0.02
SEGMENT_BYTES = 1 << 20  # as the template is made
_IN_FLIGHT = timedelta(milliseconds=20)  # a commit takes its time stamp this long before it is in the log, at the most


@dataclass(frozen=True, slots=True)
class Base:
    """One base backup. It is whole, and can be restored to, from `ended` on; its log begins with `first_segment`."""

    key: str
    first_segment: str
    ended: datetime


@dataclass(frozen=True, slots=True)
class _Mark:
    """Once this segment is archived, so is every transaction that committed before `at`."""

    segment: str
    at: datetime


@dataclass(slots=True)
class History:
    """What is kept of one instance: its log without a gap from its first base backup to `latest`."""

    prefix: str
    nodes: tuple[str, ...]
    timeout_s: float
    bases: list[Base] = field(default_factory=list)
    latest: datetime | None = None  # every transaction that committed up to here is in the bucket
    stored: set[str] = field(default_factory=set)
    marks: list[_Mark] = field(default_factory=list)  # of segments on their way
    writer: str = ""  # the node that was seen to write last
    xids: tuple[str, str] = ("", "")  # oldest running and next transaction id when the log was last switched
    due_ns: int = 0

    @property
    def earliest(self) -> datetime | None:
        return self.bases[0].ended if self.bases else None

    def base_for(self, moment: datetime | None) -> Base | None:
        """Return the newest base backup that was whole by then."""
        return next((b for b in reversed(self.bases) if moment is None or b.ended <= moment), None)


class Archive:
    """Uploads what the servers spool, from threads of its own, until `stop`."""

    def __init__(
        self,
        directory: Path,
        *,
        endpoint_url: str,
        region: str,
        bucket: str,
        reachable: Callable[[str], bool],
    ) -> None:
        self.bucket = bucket
        self.s3 = s3_client(endpoint_url, region)
        self._directory = directory
        self._reachable = reachable
        self._script = directory / "archive.sh"
        self._spools: dict[str, tuple[Node, Path, History]] = {}
        self._lock = threading.Lock()  # of histories and spools
        self._backups = 0
        self._stop = threading.Event()
        directory.mkdir(parents=True, exist_ok=True)
        self._script.write_text(_COMMAND)
        self._threads = [
            threading.Thread(target=self._upload, name="wal-uploader", daemon=True),
            threading.Thread(target=self._switch, name="wal-switcher", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, prefix: str, nodes: Iterable[Node], *, timeout_s: float) -> History:
        """Let servers archive their log under a prefix whenever they are primaries, each segment that old at the most.

        They are one instance: at most one of them is a primary. What they archived elsewhere before ends there.
        """
        nodes = tuple(nodes)
        history = History(prefix, tuple(node.name for node in nodes), timeout_s)
        with self._lock:
            for node in nodes:
                spool = self._directory / f"spool-{node.name}"
                spool.mkdir(exist_ok=True)
                for old in spool.iterdir():  # of a server that is no more
                    old.unlink(missing_ok=True)
                node.binaries.give(spool)
                self._spools[node.name] = node, spool, history
        for node in nodes:
            script, to = (
                shlex.quote(str(path)).replace("%", "%%") for path in (self._script, self._spools[node.name][1])
            )
            node.configure(archive_command=f'/bin/sh {script} "%p" "%f" {to}', archive_timeout=max(1, round(timeout_s)))
        return history

    def forget(self, history: History) -> None:
        """Delete all that is kept of an instance, and keep no more of it."""
        with self._lock:
            self._spools = {name: spool for name, spool in self._spools.items() if spool[2] is not history}
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{history.prefix}/")
        for page in pages:
            if found := page.get("Contents"):
                self.s3.delete_objects(Bucket=self.bucket, Delete={"Objects": [{"Key": o["Key"]} for o in found]})
        history.bases.clear()
        history.latest = None

    def base_backup(self, node: Node, history: History) -> str:
        """Stream a base backup of a running server into the bucket; return its key once its log is archived as well.

        Raises LabError. Source: PostgreSQL manual, pg_basebackup; the log is not in the tar but in the archive.
        """
        self._backups += 1
        stamp = f"{clock.wall_utc():%Y%m%dT%H%M%SZ}"
        key = f"{history.prefix}/base/{stamp}-{self._backups:03}.tar"
        ((first_segment,),) = _asked(node, "select pg_walfile_name(pg_current_wal_lsn())")
        self.copy(node, self.s3, self.bucket, key, with_log=False)
        ended = clock.wall_utc()
        with self._lock:
            history.bases.append(Base(key, first_segment or "", ended))
            history.xids = "", ""
        self._stop.wait(2 * _IN_FLIGHT.total_seconds())
        with contextlib.suppress(OSError, ServerError):
            self._switch_log(node.name, history)  # the archive reaches past the backup's end as soon as can be
        return key

    def copy(self, node: Node, s3: S3Client, bucket: str, key: str, *, with_log: bool) -> None:
        """Stream a base backup of a server into an object; `with_log`: it needs nothing else. Raises LabError."""
        command = node.binaries.command(
            "pg_basebackup", "-h", node.sockets, "-p", str(node.port), "-U", ADMIN,
            "-D", "-", "-F", "t", "-X", "fetch" if with_log else "none", "-c", "fast", "-l", key,
        )  # fmt: skip
        errors_to = self._directory / f"base_backup-{node.name}.log"
        with (
            errors_to.open("wb") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment(), cwd="/", **node.binaries.popen
            ) as backup,
        ):
            assert backup.stdout is not None
            try:
                s3.upload_fileobj(backup.stdout, bucket, key)
            except BaseException:
                backup.kill()
                raise
        if backup.returncode:
            s3.delete_object(Bucket=bucket, Key=key)
            raise LabError(f"the base backup failed: {errors_to.read_text()[-400:].strip()}")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    # --- upload -------------------------------------------------------------------------------------------------------

    def _upload(self) -> None:
        while not self._stop.wait(_UPLOAD_EVERY_S):
            for name, (_, spool, history) in self._walk():
                if self._reachable(name):
                    self._upload_all(history, sorted(spool.glob("*.ready")))

    def _walk(self) -> list[tuple[str, tuple[Node, Path, History]]]:
        with self._lock:
            return list(self._spools.items())

    def _upload_all(self, history: History, segments: Iterable[Path]) -> None:
        for segment in segments:
            if not self._store(history, segment.stem, segment):
                return  # tried again at the next turn; the server keeps the segment until then
            segment.unlink(missing_ok=True)

    def _store(self, history: History, name: str, path: Path) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.s3.put_object(Bucket=self.bucket, Key=f"{history.prefix}/wal/{name}", Body=path.read_bytes())
        except (BotoCoreError, ClientError, OSError):
            return False
        with self._lock:
            history.stored.add(name)
            # Segments of one server come in their order; a .history or a .backup file says nothing of them.
            there = [m for m in history.marks if len(name) == len(m.segment) and m.segment <= name]
            for mark in there:
                history.latest = max(history.latest or mark.at, mark.at)
                history.marks.remove(mark)
        return True

    # --- up to when the archive reaches -------------------------------------------------------------------------------

    def _switch(self) -> None:
        while not self._stop.wait(0.2):
            for history in {id(h): h for _, (_, _, h) in self._walk()}.values():
                if clock.now_ns() >= history.due_ns:
                    history.due_ns = clock.now_ns() + int(history.timeout_s * clock.NS_PER_S)
                    for name in history.nodes:
                        with contextlib.suppress(OSError, ServerError, LabError):
                            self._switch_log(name, history)

    def _switch_log(self, name: str, history: History) -> None:
        """Let the writer begin a new segment, and note what is archived when the one before it is.

        Without a commit since the last time nothing is switched: what was archived then reaches up to now.
        """
        node = self._spools[name][0]
        if not node.running or not self._reachable(name):
            return
        with node.session(timeout_s=2) as session:
            # now() is from before the snapshot, so whoever commits after the snapshot has a time stamp after now().
            ((standby, oldest, following, at),) = session.query(
                "select pg_is_in_recovery(), pg_snapshot_xmin(s), pg_snapshot_xmax(s), extract(epoch from now())"
                " from pg_current_snapshot() s",
                timeout_s=2,
            ) or [(None,) * 4]  # fmt: skip
            if standby != "f" or at is None:
                return
            moment = datetime.fromtimestamp(float(at), clock.wall_utc().tzinfo) - _IN_FLIGHT
            if history.writer != name:
                history.marks.clear()  # the one before it will store no more
                if not self._close_gap(node, history, session):
                    history.due_ns = 0
                    return
                history.writer = name
            elif history.xids == (following, following):
                with self._lock:
                    if history.marks:
                        history.marks[-1] = _Mark(history.marks[-1].segment, moment)
                    elif history.latest is not None:
                        history.latest = max(history.latest, moment)
                return
            ((end, current),) = session.query("select l, pg_walfile_name(l) from pg_switch_wal() l", timeout_s=2)
            segment = _segment_before(end or "", timeline=(current or "")[:8])
        history.xids = oldest or "", following or ""
        with self._lock:
            if segment in history.stored:
                history.latest = max(history.latest or moment, moment)
            else:
                history.marks.append(_Mark(segment, moment))

    def _close_gap(self, node: Node, history: History, session: Session) -> bool:
        """Store what the writer before had not archived when it died: a standby has it, and takes it for archived."""
        ((now,),) = session.query("select pg_walfile_name(pg_current_wal_lsn())", timeout_s=2)
        if not history.bases or not now:
            return True
        first = history.bases[0].first_segment
        for path in sorted((node.data / "pg_wal").iterdir()):
            name = path.name
            whole = (node.data / "pg_wal" / "archive_status" / f"{name}.done").exists()
            if len(name) == len(now) and whole and first <= name < now and name not in history.stored:
                log.info("%s of %s was not archived before", name, history.prefix)
                if not self._store(history, name, path):
                    return False
        return True


def _segment_before(lsn: str, *, timeline: str) -> str:
    """Return the segment that ends at a position or holds what is just before it.

    On a boundary pg_walfile_name says the one before up to PostgreSQL 16, and the one after since.
    """
    high, low = (int(part, 16) for part in lsn.split("/"))
    number = ((high << 32 | low) - 1) // SEGMENT_BYTES
    each = (1 << 32) // SEGMENT_BYTES
    return f"{timeline}{number // each:08X}{number % each:08X}"


def _asked(node: Node, sql: str) -> list[Any]:
    try:
        return list(node.query(sql))
    except (OSError, ServerError) as error:
        raise LabError(f"PostgreSQL {node.name} does not answer: {error}") from error


def s3_client(endpoint_url: str, region: str, *, attempts: int = 2, answer_s: float = 60.0) -> S3Client:
    """Return a client of the lab's own, whose calls are nobody's deeds: they are not in calls.jsonl."""
    import boto3  # only labs with an archive pay for it
    from botocore.config import Config

    return boto3.session.Session(aws_access_key_id="lab", aws_secret_access_key="lab", region_name=region).client(  # noqa: S106
        "s3",
        endpoint_url=endpoint_url,
        config=Config(
            s3={"addressing_style": "path"}, retries={"max_attempts": attempts}, connect_timeout=2,
            read_timeout=answer_s,
            user_agent_extra=CLIENT,
            response_checksum_validation="when_required", request_checksum_calculation="when_required",
        ),
    )  # fmt: skip
