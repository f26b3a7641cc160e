"""What is left of a lab on this machine. Others start and end processes meanwhile: ask only about the lab's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

import psutil

_START_TOLERANCE_S = 1.0  # create_time() is derived from the boot time, which the kernel may correct


def lives(process: psutil.Process | int, started: float | None = None) -> bool:
    """Return whether a process runs: no zombie, none that ends while it is asked, no other one that got its pid.

    started: of a pid, its create_time(); a psutil.Process knows its own.
    """
    try:
        if isinstance(process, int):
            process = psutil.Process(process)
        if started is not None and abs(process.create_time() - started) > _START_TOLERANCE_S:
            return False
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def segments(mine: Iterable[int | None]) -> set[int | None]:
    """Return which of these System V shared memory segments exist; None, which is none, never does."""
    listed = subprocess.run(["ipcs", "-m"], capture_output=True, text=True, check=True).stdout
    existing = {int(line.split()[1]) for line in listed.splitlines() if line.startswith("0x")}
    return set(mine) & existing
