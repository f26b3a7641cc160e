"""One run a target at a time, and somebody who undoes when the run dies.

The runner holds a lease: it locks the target and renews lease.json twice a second. A guardian process watches. When the
runner is gone, or its renewals stop for longer than the lease's time to live, the guardian takes the run over for good
(lease.taken) and puts everything back. The target's lock is shared with the guardian (an inherited descriptor), so no
other run can begin in between.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import psutil

from drkit import clock
from drkit.errors import RunDirError, TargetBusy
from drkit.rundir import RunDir, safe_name

RENEW_S = 0.5
TTL_S = 10.0  # twenty renewals: a busy machine does not lose its lease (a dead process is noticed at once)


class TargetLock:
    """Exclusive use of a target, until every process that inherited it has closed it."""

    def __init__(self, home: Path, target: str, *, lab_directory: str | None = None, recovery: bool = False) -> None:
        """Raise TargetBusy, naming the run that holds the target.

        lab_directory: of a lab (HOME/labs/NAME). Its lock is in the home that it was made in, and stays when the lab
        goes: projects with homes of their own exclude each other on it. recovery: the lock of playbooks, of which one
        may join an experiment that has the target.
        """
        lab = Path(lab_directory) if lab_directory else None
        locks, name = (lab.parent.parent / "locks", lab.name) if lab else (home / "locks", safe_name(target))
        locks.mkdir(parents=True, exist_ok=True)
        path = locks / (f"{name}.recovery.lock" if recovery else f"{name}.lock")
        self._file: TextIO = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another run"
            self._file.close()
            if recovery:
                raise TargetBusy(
                    f"a playbook is under way on {target}: {holder}", f"see how far it is: drkit status {holder}"
                ) from None
            raise TargetBusy(
                f"target {target} is in use by {holder}",
                "wait for it, or stop it with: drkit abort last; a killed run is undone by its guardian within seconds",
            ) from None
        self.name("")  # whoever held it before

    def name(self, run_id: str) -> None:
        """Write down for whom it is held."""
        self._file.seek(0)
        self._file.truncate()
        self._file.write(run_id)
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class Lease:
    """The runner's side. Make it after the run's directory and before the first fault.

    End it with `release` when the run has come to its end, or `abandon` it when it has not: then the guardian does.
    A playbook's has no guardian: what was half recovered must not be undone by a machine, `drkit resume` goes on.
    """

    def __init__(
        self,
        run: RunDir,
        lock: TargetLock,
        *,
        lost: Callable[[str], None],
        ttl_s: float = TTL_S,
        guarded: bool = True,
    ) -> None:
        """Start the guardian and wait until it watches. `lost` is called if the lease is taken away.

        The run's directory must hold target.json. Raises RunDirError if the guardian does not start.
        """
        self._run = run
        self._lost = lost
        self._stop = threading.Event()
        self._holder = {"pid": os.getpid(), "ttl_s": ttl_s}
        self._guardian: subprocess.Popen[str] | None = None
        try:
            self._renew()
            if guarded:
                self._guardian = self._start_guardian(lock)
        except OSError as e:
            raise RunDirError(f"cannot start the guardian: {e.strerror}", "without one nothing is broken") from e
        # On a busy machine the guardian takes longer to start than a lease lives.
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        if self._guardian is None:
            return
        assert self._guardian.stdout is not None
        with self._guardian.stdout as said:
            if said.readline().strip() != "watching":
                self._stop.set()
                raise RunDirError("the guardian did not start", f"see {run.path / 'guardian.log'}")

    def _start_guardian(self, lock: TargetLock) -> subprocess.Popen[str]:
        with (self._run.path / "guardian.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "drkit.guardian", str(self._run.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(lock.fileno(),),
                start_new_session=True,  # a Ctrl-C or a closed terminal must not reach it
                text=True,
            )

    def taken(self) -> str | None:
        """Return why the lease is lost, or None while it is held."""
        if (self._run.path / "lease.taken").exists():
            return "the guardian has taken the run over, because its lease had lapsed"
        return None

    def release(self) -> None:
        """End the lease: everything is put back or written down as not."""
        self._end({"released": True})
        if self._guardian is None:
            return
        if self.taken():
            self._guardian.wait()  # it is putting things back; the target is not free before it has
            return
        try:
            self._guardian.wait(10)
        except subprocess.TimeoutExpired:
            self._guardian.kill()
            self._guardian.wait()

    def abandon(self) -> None:
        """Leave the run to the guardian, at once: this process did not bring it to its end. Raises nothing."""
        with contextlib.suppress(OSError):
            self._end({"abandoned": True})

    def _end(self, how: dict[str, Any]) -> None:
        self._stop.set()
        self._thread.join(5)
        self._write({**self._holder, **how})

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_S):
            if why := self.taken():
                self._lost(why)
                return
            try:
                self._renew()
            except OSError:
                continue  # a full disk must not end the run this way; the lease lapses if it stays full
            if self._guardian is not None and self._guardian.poll() is not None:
                self._lost("the guardian has died, so nobody would undo if drkit did too")
                return

    def _renew(self) -> None:
        self._write({**self._holder, "renewed_ns": clock.now_ns()})

    def _write(self, value: dict[str, Any]) -> None:
        path = self._run.path / "lease.json"
        # Overwritten in place: it needs no new block, so it works on a full disk, and a reader retries a torn read.
        text = json.dumps(value).ljust(256)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(fd, text.encode(), 0)
        finally:
            os.close(fd)


def holder(run: RunDir) -> dict[str, Any] | None:
    """Return the lease as last written, or None if there is none (or it was caught half written)."""
    try:
        value = json.loads((run.path / "lease.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def lapsed(lease: dict[str, Any]) -> bool:
    """Return whether nobody holds the lease any more: given back, its process gone, or not renewed in time."""
    if lease.get("released") or lease.get("abandoned"):
        return True
    age_ns = clock.now_ns() - int(lease["renewed_ns"])
    in_time = 0 <= age_ns <= float(lease["ttl_s"]) * clock.NS_PER_S  # negative: from before a reboot
    return not in_time or not alive(lease["pid"])


def alive(pid: int) -> bool:
    """Return whether there is a process of that pid. Wall clocks jump, so its start is not compared; renewals are."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def take(run: RunDir) -> bool:
    """Take a lapsed run over, once and for good; False if somebody else has."""
    try:
        (run.path / "lease.taken").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def running(run: RunDir) -> bool:
    """Return whether a living drkit process holds the run."""
    lease = holder(run)
    return lease is not None and not lapsed(lease)
