"""Base backups and write-ahead log of the lab's databases, in S3 of the second region.

A server's archive_command puts a finished segment into a spool directory and waits until the uploader here has stored
it: a segment is archived only when it really is in the bucket. While a server's place is cut, nothing is uploaded.
Keys: `<prefix>/base/<name>.tar`, `<prefix>/wal/<segment>`.
"""

from __future__ import annotations

import shlex
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from drkit import clock
from drkit.errors import LabError
from drkit.lab.binaries import environment
from drkit.lab.postgres import Node
from drkit.lab.template import ADMIN

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# $1 the segment's path, $2 its name, $3 the spool. Gives up when the server that started it is gone.
_COMMAND = """\
set -e
cp "$1" "$3/$2.part"
mv "$3/$2.part" "$3/$2.ready"
while [ -e "$3/$2.ready" ]; do
    kill -0 "$PPID" 2>/dev/null || exit 1
    sleep 0.05
done
"""
_UPLOAD_EVERY_S = 0.05


class Archive:
    """Uploads what the servers spool, from a thread of its own, until `stop`."""

    def __init__(
        self,
        directory: Path,
        *,
        endpoint_url: str,
        region: str,
        bucket: str,
        prefix: str,
        reachable: Callable[[str], bool],
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.stored = 0  # segments uploaded so far
        self._directory = directory
        self._reachable = reachable
        self._s3 = _client(endpoint_url, region)
        self._script = directory / "archive.sh"
        self._spools: dict[str, Path] = {}
        self._backups = 0
        self._stop = threading.Event()
        directory.mkdir(parents=True, exist_ok=True)
        self._script.write_text(_COMMAND)
        self._thread = threading.Thread(target=self._upload, name="wal-uploader", daemon=True)
        self._thread.start()

    def attach(self, node: Node, *, timeout_s: float) -> None:
        """Let a server archive its log here whenever it is a primary, each segment `timeout_s` old at the most."""
        spool = self._directory / f"spool-{node.name}"
        spool.mkdir(exist_ok=True)
        node.binaries.give(spool)
        self._spools[node.name] = spool
        script, to = (shlex.quote(str(path)).replace("%", "%%") for path in (self._script, spool))
        node.configure(archive_command=f'/bin/sh {script} "%p" "%f" {to}', archive_timeout=max(1, round(timeout_s)))

    def base_backup(self, node: Node) -> str:
        """Stream a base backup of a running server into the bucket; return its key once its log is archived as well.

        Raises LabError. Source: PostgreSQL manual, pg_basebackup; the log is not in the tar but in the archive.
        """
        self._backups += 1
        stamp = f"{clock.wall_utc():%Y%m%dT%H%M%SZ}"
        key = f"{self.prefix}/base/{stamp}-{self._backups:03}.tar"
        command = node.binaries.command(
            "pg_basebackup", "-h", node.sockets, "-p", str(node.port), "-U", ADMIN,
            "-D", "-", "-F", "t", "-X", "none", "-c", "fast", "-l", key,
        )  # fmt: skip
        errors_to = self._directory / "base_backup.log"
        with (
            errors_to.open("wb") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env=environment(), cwd="/", **node.binaries.popen
            ) as backup,
        ):
            assert backup.stdout is not None
            try:
                self._s3.upload_fileobj(backup.stdout, self.bucket, key)
            except BaseException:
                backup.kill()
                raise
        if backup.returncode:
            self._s3.delete_object(Bucket=self.bucket, Key=key)
            raise LabError(f"the base backup failed: {errors_to.read_text()[-400:].strip()}")
        return key

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _upload(self) -> None:
        while not self._stop.wait(_UPLOAD_EVERY_S):
            for name, spool in list(self._spools.items()):
                if self._reachable(name):
                    self._upload_all(sorted(spool.glob("*.ready")))

    def _upload_all(self, segments: Iterable[Path]) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        for segment in segments:
            try:
                self._s3.put_object(
                    Bucket=self.bucket, Key=f"{self.prefix}/wal/{segment.stem}", Body=segment.read_bytes()
                )
            except (BotoCoreError, ClientError, OSError):
                return  # tried again at the next turn; the server keeps the segment until then
            segment.unlink(missing_ok=True)
            self.stored += 1


def _client(endpoint_url: str, region: str) -> S3Client:
    import boto3  # only labs with an archive pay for it
    from botocore.config import Config

    return boto3.session.Session(aws_access_key_id="lab", aws_secret_access_key="lab", region_name=region).client(  # noqa: S106
        "s3",
        endpoint_url=endpoint_url,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 2}, connect_timeout=2, read_timeout=10),
    )
