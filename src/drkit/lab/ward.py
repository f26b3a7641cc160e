"""Ends what a lab leaves behind, also when the lab itself was killed with -9.

    python -m drkit.lab.ward '{}'        each line on stdin is a footprint; when stdin ends, the last one is swept

A footprint is JSON: `processes`: [{name, pid, started}] (a pid alone may be somebody else's by now), `shared_memory`:
[System V ids], `remove`: [directories].
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from drkit import clock

_START_TOLERANCE_S = 1.0  # create_time() is derived from the boot time, which the kernel may correct


def sweep(footprint: Mapping[str, Any]) -> list[str]:
    """End exactly the processes of a footprint with all their children, then its shared memory and directories.

    Returns the names of what was still running. Idempotent.
    """
    found = {}
    for entry in footprint.get("processes", ()):
        process = find(entry["pid"], entry["started"])
        if process is not None:
            found[entry["name"]] = process
    end_trees(found.values())
    release(footprint.get("shared_memory", ()))
    for directory in footprint.get("remove", ()):
        shutil.rmtree(directory, ignore_errors=True)
    return list(found)


def find(pid: int, started: float) -> psutil.Process | None:
    """Return the process if it still runs and is the one that started then."""
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started) > _START_TOLERANCE_S or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process


def end_trees(roots: Iterable[psutil.Process]) -> None:
    """Kill processes with all their children: the roots are stopped first, so that they start no more."""
    doomed: list[psutil.Process] = []
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            root.suspend()
            doomed += [*root.children(recursive=True), root]
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # psutil's wait would take zombies for living ones: only their parent can reap them, and it may be stopped.
    clock.wait_until(lambda: not any(map(_lives, doomed)), "killed processes are gone", timeout_s=10, every_s=0.002)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def release(shared_memory: Iterable[int]) -> None:
    """Remove System V segments that killed servers left; those that are gone or still attached are left alone."""
    for segment in shared_memory:
        subprocess.run(["ipcrm", "-m", str(segment)], capture_output=True, check=False)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    footprint: dict[str, Any] = {}
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    for line in sys.stdin:
        footprint = json.loads(line)
        sys.stdout.write("{}\n")
        sys.stdout.flush()
    sweep(footprint)


if __name__ == "__main__":
    main()
