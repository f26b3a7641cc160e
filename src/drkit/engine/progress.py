"""What a person watching a run is told, as values; the command line draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from drkit.model import Role


@dataclass(frozen=True, slots=True)
class ProbeView:
    """One probe, as of its last second."""

    name: str
    role: Role
    ok: bool | None  # how its newest attempt ended; None before the first
    rate_per_s: float
    p95_s: float | None
    attempts: int
    failures: int
    last_error: str  # class of the newest failure, ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A run at one moment. `outage_s` is how long the service has been failing so far, as (at least, at most)."""

    run_id: str
    name: str
    target: str
    target_kind: str
    phase: str
    elapsed_s: float
    probes: tuple[ProbeView, ...]
    outage_s: tuple[float, float] | None
    outage_over: bool
    guards: tuple[str, ...]  # "outage 0.4 of 15 s"
    steps: tuple[tuple[str, str], ...] = ()  # of a playbook, in order: name, state


class Watcher(Protocol):
    """Told of a run while it goes on, from several threads. One that raises is told nothing more."""

    def progress(self, now: Progress) -> None: ...

    def event(self, at_s: float, text: str) -> None: ...


class Shielded:
    """Passes on what a watcher is told, and goes on without one that fails: a closed terminal must not stop an undo."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher: Watcher = watcher

    def progress(self, now: Progress) -> None:
        self._tell(lambda: self._watcher.progress(now))

    def event(self, at_s: float, text: str) -> None:
        self._tell(lambda: self._watcher.event(at_s, text))

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:  # noqa: BLE001  (the run is more important than who watches it)
            self._watcher = Nobody()


class Nobody:
    """Watches nothing."""

    def progress(self, now: Progress) -> None:
        pass

    def event(self, at_s: float, text: str) -> None:
        pass
