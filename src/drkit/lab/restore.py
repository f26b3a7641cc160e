"""A new server from what is in the bucket: a base backup streamed and unpacked at once, its log fetched beside it.

S3 that answers 503, or breaks off, is asked again until it has refused for PATIENCE_S.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from drkit import clock
from drkit.errors import LabError
from drkit.lab.archive import Base, History
from drkit.lab.pgwire import ServerError
from drkit.lab.postgres import Node

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PATIENCE_S = 60.0
RECOVERY_TIMEOUT_S = 900.0
_CHUNK_BYTES = 1 << 20
_AT_ONCE = 4
_AGAIN_S = 0.5
_ENDED_EARLY = "recovery ended before configured recovery target was reached"

log = logging.getLogger("drkit.lab.restore")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a server comes from: a tar, and the log to be replayed on it (none: what is in the tar is all).

    `until`: every transaction that committed by then, that very microsecond included, and none that committed later;
    None: everything that is archived. Commits are compared by their time stamps, as PostgreSQL does.
    """

    bucket: str
    key: str
    log_prefix: str = ""
    first_segment: str = ""
    until: datetime | None = None

    @classmethod
    def of(cls, bucket: str, history: History, base: Base, until: datetime | None) -> Source:
        return cls(bucket, base.key, history.prefix, base.first_segment, until)


class Restore:
    """One restore into a node without data; `run` it once. `cancel` ends it soon, with a LabError."""

    def __init__(self, s3: S3Client, source: Source, node: Node, *, scratch: Path) -> None:
        self._s3, self._source, self._node = s3, source, node
        self._log_directory = scratch
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def run(self) -> None:
        """Return when the server answers and is a primary of its own. Raises LabError, TimedOut."""
        shutil.rmtree(self._log_directory, ignore_errors=True)
        self._log_directory.mkdir(parents=True)
        began_ns = clock.now_ns()
        try:
            with ThreadPoolExecutor(_AT_ONCE + 1) as pool:
                tar = pool.submit(self._patiently, self._unpack)
                keys = self._patiently(self._log_keys)
                fetched = [pool.submit(self._patiently, partial(self._fetch, key)) for key in keys]
                size = tar.result()
                for one in fetched:
                    one.result()
            unpacked_ns = clock.now_ns()
            self._node.binaries.give(self._node.data)
            self._node.binaries.give(self._log_directory)
            self._recover()
        finally:
            shutil.rmtree(self._log_directory, ignore_errors=True)
        log.info(
            "%s: %d bytes unpacked in %.2f s, recovered from %d files of log in %.2f s",
            self._node.name,
            size,
            (unpacked_ns - began_ns) / clock.NS_PER_S,
            len(fetched),
            (clock.now_ns() - unpacked_ns) / clock.NS_PER_S,
        )

    # --- out of the bucket --------------------------------------------------------------------------------------------

    def _patiently(self, fetch: Callable[[], T]) -> T:
        """Fetch, again and again if S3 will not; raises LabError once it has refused for PATIENCE_S without a pause."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        refused_since_ns: int | None = None
        while not self._cancelled.is_set():
            try:
                return fetch()
            except (BotoCoreError, ClientError, HTTPError, OSError) as error:
                if isinstance(error, ClientError) and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                    raise LabError(f"{self._source.key} cannot be restored: {error}") from error
                now_ns = clock.now_ns()
                refused_since_ns = refused_since_ns or now_ns
                if now_ns - refused_since_ns > PATIENCE_S * clock.NS_PER_S:
                    raise LabError(f"S3 has refused for {PATIENCE_S:g} s: {error}") from error
                log.info("S3 refuses, tried again: %s", error)
                self._cancelled.wait(_AGAIN_S)
        raise LabError("the restore was given up")

    def _unpack(self) -> int:
        """Stream the tar into `tar`: it is on disk when it has arrived. Returns its size in bytes."""
        data = self._node.data
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        body = self._s3.get_object(Bucket=self._source.bucket, Key=self._source.key)["Body"]
        size = 0
        with subprocess.Popen(
            ["tar", "-x", "--no-same-owner", "-f", "-", "-C", str(data)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as tar:  # fmt: skip
            assert tar.stdin is not None
            assert tar.stderr is not None
            with contextlib.suppress(OSError, AttributeError):  # Linux only, and not with pipes beyond a user's share
                fcntl.fcntl(tar.stdin, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)
            try:
                while chunk := body.read(_CHUNK_BYTES):
                    if self._cancelled.is_set():
                        raise LabError("the restore was given up")
                    tar.stdin.write(chunk)
                    size += len(chunk)
                tar.stdin.close()
                said = tar.stderr.read().decode(errors="replace")
                if tar.wait():
                    raise LabError(f"{self._source.key} cannot be unpacked: {said[-300:].strip()}")
            except BrokenPipeError:
                tar.wait()
                said = tar.stderr.read().decode(errors="replace")
                raise LabError(f"{self._source.key} cannot be unpacked: {said[-300:].strip()}") from None
            except BaseException:
                tar.kill()
                raise
            finally:
                body.close()
        return size

    def _log_keys(self) -> list[str]:
        """Return the keys of all log from the backup's first segment on, and of the histories of its timelines."""
        if not self._source.log_prefix:
            return []
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._source.bucket, Prefix=f"{self._source.log_prefix}/wal/"
        )
        keys = [o["Key"] for page in pages for o in page.get("Contents", ())]
        first = self._source.first_segment[8:]  # without its timeline: the same place in any of them
        return [
            key for key in keys
            if (name := key.rpartition("/")[2]).endswith(".history") or (name[8:] >= first and "." not in name)
        ]  # fmt: skip

    def _fetch(self, key: str) -> None:
        body = self._s3.get_object(Bucket=self._source.bucket, Key=key)["Body"].read()
        (self._log_directory / key.rpartition("/")[2]).write_bytes(body)

    # --- recovery -----------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Start the server on what was fetched, and let it be its own from where its log ends, or `until`."""
        until = self._source.until
        fetched = shlex.quote(str(self._log_directory)).replace("%", "%%")
        settings: dict[str, str | None] = {
            "restore_command": f'cp {fetched}/"%f" "%p"',
            "recovery_target_timeline": "latest",
            "recovery_target_time": f"{until:%Y-%m-%d %H:%M:%S.%f}+00" if until else None,
            "recovery_target_action": "promote" if until else None,
        }
        (self._node.data / "standby.signal").unlink(missing_ok=True)  # a backup of a replica has it
        if self._source.log_prefix:
            (self._node.data / "recovery.signal").touch()
        self._node.configure(**settings, synchronous_standby_names=None, primary_conninfo=None)
        self._node.binaries.give(self._node.data)
        try:
            self._play()
        except LabError as error:
            # PostgreSQL refuses to stop before a target that no later commit shows to be reached. `until` is a moment
            # up to which the archive is known to be whole, so what is there is all there was.
            if until is None or _ENDED_EARLY not in str(error):
                raise
            self._node.configure(recovery_target_time=None, recovery_target_action=None)
            self._play()
        self._node.configure(**dict.fromkeys(settings))

    def _play(self) -> None:
        said_before = self._node.log.stat().st_size if self._node.log.exists() else 0
        self._node.start(timeout_s=RECOVERY_TIMEOUT_S)

        def over() -> bool:
            if self._cancelled.is_set():
                raise LabError("the restore was given up")
            if not self._node.running:
                said = self._node.log.read_bytes()[said_before:].decode(errors="replace")
                raise LabError(f"PostgreSQL {self._node.name} did not recover: {said.strip()[-1000:]}")
            try:
                return self._node.query("select pg_is_in_recovery()") == [("f",)]
            except (OSError, ServerError):
                return False

        clock.wait_until(over, f"{self._node.name} has recovered", timeout_s=RECOVERY_TIMEOUT_S, every_s=0.02)
