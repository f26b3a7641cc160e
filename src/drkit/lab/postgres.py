"""Real PostgreSQL servers on loopback: start, break, promote, rebuild, and leave nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from drkit import clock
from drkit.errors import LabError
from drkit.lab import ports, template, ward
from drkit.lab.binaries import Binaries, environment, find
from drkit.lab.helper import Helper
from drkit.lab.pgwire import ServerError, Session, type_row
from drkit.lab.template import ADMIN, DBNAME, REPLICATOR, USER

_START_TIMEOUT_S = 60.0
_PORT_TRIES = 10


class NodeRole(StrEnum):
    PRIMARY = "primary"
    STANDBY = "standby"
    DOWN = "down"  # no answer


class Node:
    """One server and its data directory. Questions go through a socket of ours, never through the lab's network."""

    def __init__(self, name: str, data: Path, *, sockets: Path, log: Path, binaries: Binaries) -> None:
        self.name = name
        self.data = data
        self.log = log
        self.port = 0
        self.started = 0.0
        self.sockets = sockets
        self.binaries = binaries
        self._settings: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    # life

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's first process exists (it may be suspended)."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Start, and return when it answers; harmless if it runs. Raises LabError with the log's end."""
        with self._lock:
            if self.running:
                return
            for _ in range(_PORT_TRIES):
                self.port = self.port or ports.free()
                if self._launch(timeout_s):
                    # After a crash recovery archive_timeout is ignored until the checkpointer wakes; this wakes it.
                    self.query("select pg_reload_conf()", timeout_s=10)
                    return
                self.port = 0  # taken by somebody between our look and the server's
            raise LabError(f"PostgreSQL {self.name} finds no free port", hint=f"see {self.log}")

    def _launch(self, timeout_s: float) -> bool:
        """Return whether the server came up; False if its port was taken; raises LabError for anything else."""
        command = self.binaries.command("postgres", "-D", self.data, "-p", str(self.port), "-k", self.sockets)
        said_before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=environment(),
                start_new_session=True, **self.binaries.popen,
            )  # fmt: skip
        self.started = psutil.Process(self._process.pid).create_time()
        deadline_ns = clock.now_ns() + int(timeout_s * clock.NS_PER_S)
        while not self._answers():
            if self._process.poll() is not None:
                said = self.log.read_bytes()[said_before:].decode(errors="replace")
                if "could not bind" in said or "Address already in use" in said:
                    return False
                raise LabError(f"PostgreSQL {self.name} did not start: {said.strip()[-1000:]}", hint=f"see {self.log}")
            if clock.now_ns() > deadline_ns:
                self.kill()
                raise LabError(f"PostgreSQL {self.name} did not start in {timeout_s:g} s", hint=f"see {self.log}")
            clock.sleep_s(0.01)
        return True

    def _answers(self) -> bool:
        try:
            self.session(timeout_s=1.0).close()
        except (OSError, ServerError):
            return False
        return True

    def stop(self) -> None:
        """Shut down cleanly, ending sessions; kill it if that takes more than 20 s."""
        with self._lock:
            if self._process is None or not self.running:
                return
            self.resume()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """End all its processes at once, as its machine dies; killing only the first would be no such thing."""
        with self._lock:
            if self._process is None or not self.running:
                return
            with contextlib.suppress(psutil.NoSuchProcess):
                ward.end_trees([psutil.Process(self._process.pid)])
            self._process.wait()

    def suspend(self) -> None:
        """Stop all its processes: the kernel still accepts connections, and nothing ever answers."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        for process in reversed(self._tree()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def _tree(self) -> list[psutil.Process]:
        if self._process is None or not self.running:
            return []
        first = psutil.Process(self._process.pid)
        first_stopped = first.status() == psutil.STATUS_STOPPED
        if not first_stopped:
            first.suspend()  # so that no child is born while we count them
        tree = [first, *first.children(recursive=True)]
        if not first_stopped:
            first.resume()
        return tree

    def shared_memory(self) -> int | None:
        """Return the id of its System V segment, which outlives a SIGKILL; None if there is none."""
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        except (OSError, IndexError, ValueError):
            return None

    def wipe(self) -> None:
        """End it and delete its data directory; what runs afterwards can only be a new copy."""
        with self._lock:
            segment = self.shared_memory()
            self.kill()
            if segment is not None:
                ward.release([segment])
            shutil.rmtree(self.data, ignore_errors=True)

    # settings

    def configure(self, **settings: str | int | float | None) -> None:
        """Change settings, None to go back to the default; they hold at once where PostgreSQL allows it."""
        with self._lock:
            for key, value in settings.items():
                if value is None:
                    self._settings.pop(key, None)
                else:
                    self._settings[key] = str(value)
            self._write_settings()
            if self.running:
                self.query("select pg_reload_conf()", timeout_s=10)

    def _write_settings(self) -> None:
        if not self.data.is_dir():
            return  # a copy to come gets them
        lines = [f"{key} = '{_quoted(value)}'\n" for key, value in self._settings.items()]
        (self.data / "postgresql.auto.conf").write_text("".join(lines))

    def follow(self, port: int) -> None:
        """Make the stopped server a standby of whoever is behind this loopback port."""
        conninfo = (
            f"host={ports.HOST} port={port} user={REPLICATOR} application_name={self.name} connect_timeout=2 "
            "keepalives_idle=2 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=3000 "
            "sslmode=disable gssencmode=disable"
        )
        self.configure(primary_conninfo=conninfo, synchronous_standby_names=None)
        (self.data / "standby.signal").touch()
        self.binaries.give(self.data)

    def clone(self, source: Node) -> None:
        """Replace its data by a fresh base backup of a running server; it is stopped afterwards. Raises LabError."""
        with self._lock:
            self.wipe()
            self.data.mkdir(mode=0o700)
            self.binaries.give(self.data)
            self.binaries.run(
                "pg_basebackup", "-h", self.sockets, "-p", str(source.port), "-U", ADMIN, "-D", self.data,
                "-c", "fast", "-X", "stream", "--no-sync", timeout_s=120,
            )  # fmt: skip
            self._write_settings()

    # questions and commands

    def session(self, *, timeout_s: float) -> Session:
        """Open a superuser's session; raises OSError (TimeoutError) or ServerError."""
        return Session(self.sockets / f".s.PGSQL.{self.port}", user=ADMIN, dbname=DBNAME, timeout_s=timeout_s)

    def query(self, sql: str, *, timeout_s: float = 5.0) -> list[type_row]:
        """Run a statement as superuser; raises OSError (TimeoutError) or ServerError."""
        with self.session(timeout_s=timeout_s) as session:
            return session.query(sql, timeout_s=timeout_s)

    def role(self, timeout_s: float = 2.0) -> NodeRole:
        """Return what the server says it is."""
        try:
            ((recovering,),) = self.query("select pg_is_in_recovery()", timeout_s=timeout_s)
        except (OSError, ServerError):
            return NodeRole.DOWN
        return NodeRole.STANDBY if recovering == "t" else NodeRole.PRIMARY

    def promote(self, timeout_s: float = 30.0) -> None:
        """Make a standby a primary; returns when it is one. Harmless if it is. Raises LabError, TimedOut."""
        try:
            with self.session(timeout_s=5) as session:
                ask = "select pg_is_in_recovery()"
                if session.query(ask, timeout_s=5) == [("f",)]:
                    return
                session.query("select pg_promote(false)", timeout_s=5)  # waiting there would poll every 100 ms
                clock.wait_until(
                    lambda: session.query(ask, timeout_s=5) == [("f",)],
                    f"PostgreSQL {self.name} is promoted", timeout_s=timeout_s, every_s=0.002,
                )  # fmt: skip
        except (OSError, ServerError) as error:
            raise LabError(f"PostgreSQL {self.name} cannot be promoted: {error}", hint=f"see {self.log}") from error

    def footprint(self) -> Mapping[str, Any] | None:
        """Return {name, pid, started} of the running server."""
        if not self.running:
            return None
        return {"name": f"postgres {self.name}", "pid": self.pid, "started": self.started}


def _quoted(value: str) -> str:
    return value.replace("'", "''")


class Scratch:
    """One throw-away server, for tests and for `drkit calibrate`.

        with Scratch() as server:
            psycopg.connect(server.dsn)

    Its database belongs to the user in `dsn`, who is no superuser; `node.query` runs as one.
    """

    def __init__(
        self, *, fsync: bool = False, cache: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        self._fsync = fsync
        self._cache = cache
        self._settings = dict(settings or {})
        self.node: Node
        self.host = ports.HOST
        self.dbname = DBNAME
        self.user = USER

    @property
    def port(self) -> int:
        return self.node.port

    @property
    def dsn(self) -> str:
        return f"host={self.host} port={self.port} user={self.user} dbname={self.dbname}"

    def __enter__(self) -> Scratch:
        binaries = find()
        self._directory = make_directory(binaries)
        try:
            self._ward = Helper("drkit.lab.ward", {}, log=self._directory / "ward.log")
            data = self._directory / "data"
            template.copy(binaries, data, fsync=self._fsync, cache=self._cache)
            self.node = Node("scratch", data, sockets=self._directory, log=self._directory / "log", binaries=binaries)
            self.node.configure(**self._settings)
            self.node.start()
            self._ward.ask(
                processes=[self.node.footprint()],
                shared_memory=[self.node.shared_memory()],
                remove=[str(self._directory)],
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "node"):
            self.node.wipe()
        if hasattr(self, "_ward"):
            with contextlib.suppress(LabError):
                self._ward.ask()
            self._ward.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


def make_directory(binaries: Binaries) -> Path:
    """Return a new directory for sockets, which only we may enter; short, for a socket's path has at most 103 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="drkit-"))
    if "user" in binaries.popen:
        os.chown(directory, binaries.popen["user"], binaries.popen["group"])
    return directory
