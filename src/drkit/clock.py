"""Time: the only module that reads a clock or sleeps.

Durations come from one monotonic clock (`CLOCK_MONOTONIC`: the same for every process of a machine, never stepped).
Wall time is for people: it is kept once per run and never subtracted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from drkit.errors import Aborted, TimedOut

NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """What code that waits needs of time; tests pass one whose time is a number."""

    def now_ns(self) -> int: ...
    def sleep_s(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep_s(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


SYSTEM = SystemClock()


def now_ns() -> int:
    """Return the monotonic time in nanoseconds; comparable between processes of one machine until it reboots."""
    return time.monotonic_ns()


def wall_utc() -> datetime:
    """Return the time of day in UTC, for people and file names; never for durations."""
    return datetime.now(UTC)


def sleep_s(seconds: float) -> None:
    """Sleep; a negative time returns at once."""
    SYSTEM.sleep_s(seconds)


def wall_minus_monotonic_ns() -> int:
    """Return how far the wall clock is ahead of the monotonic one; if that changes, a clock was stepped."""
    before = time.monotonic_ns()
    wall = time.time_ns()
    return wall - (before + time.monotonic_ns()) // 2


def wait_until(
    holds: Callable[[], bool],
    what: str,
    *,
    timeout_s: float,
    every_s: float = 0.05,
    since_ns: int | None = None,
    stop: threading.Event | None = None,
    clock: Clock = SYSTEM,
) -> tuple[int, int]:
    """Ask `holds` until it is true; return the bracket (lo_ns, hi_ns) in which it became true.

    lo_ns is when the last question answered with no was sent; if the first answer was yes it is `since_ns`, the moment
    from which the condition may have been true (default: when the first question was sent). hi_ns is when the yes came.
    Raises TimedOut with `what` ("the standby is in sync") when the time is over, Aborted once `stop` is set.
    """
    deadline_ns = clock.now_ns() + int(timeout_s * NS_PER_S)
    last_no_ns = None
    while True:
        asked_ns = clock.now_ns()
        if holds():
            return _first(last_no_ns, since_ns, asked_ns), clock.now_ns()
        last_no_ns = asked_ns
        if clock.now_ns() >= deadline_ns:
            raise TimedOut(f"not within {timeout_s:g} s: {what}")
        if stop is not None and stop.is_set():
            raise Aborted(f"stopped while waiting: {what}")
        clock.sleep_s(every_s)


def _first(*values: int | None) -> int:
    return next(v for v in values if v is not None)
