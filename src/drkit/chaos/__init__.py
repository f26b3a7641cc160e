"""What experiments name: faults, recoveries and witnesses, one small module a family.

A function here is an ordinary Chaos Toolkit activity. What it may break and where its undo is written it finds in the
current context, which the engine makes (under plain `chaos run`: its control, for the target named by DRKIT_TARGET).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

from drkit.chaos.state import State
from drkit.errors import DrkitError, Refused, UsageError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.undo import UndoJournal

Planner = Callable[..., tuple[Effect, ...]]  # (target, **the fault's own arguments), with read-only calls
Purpose = Literal["fault", "recovery", "assist"]
Hit = dict[str, Any]  # {"hit": [what was really hit], …}: an empty list is a fault without teeth


@dataclass(frozen=True, slots=True)
class Context:
    """One run, as its faults see it."""

    target: Target
    permit: Permit
    undo: UndoJournal
    before: State  # of the target, when the run began
    stop: threading.Event  # set when the run aborts; waits give up


_current: Context | None = None
P = ParamSpec("P")


def enter(context: Context | None) -> None:
    """Make a context the current one of this process (None: there is none any more)."""
    global _current
    _current = context


def current() -> Context:
    """Return the context that faults and witnesses act in. Raises Refused if nobody has authorised a run."""
    if _current is None:
        raise Refused(
            "nothing is broken without a run that was authorised",
            "use drkit run; for plain chaos run, keep the control drkit.engine.control and set DRKIT_TARGET",
        )
    return _current


def fault(*, plan: Planner, role: Purpose = "fault") -> Callable[[Callable[P, Hit]], Callable[P, Hit]]:
    """Mark a function as one that changes the target.

    plan: what `drkit plan` and the guard ask first. role: "fault" is damage, which a witness must see; "recovery" is a
    decision to recover (a promotion); "assist" only helps what happens by itself.
    """

    def mark(function: Callable[P, Hit]) -> Callable[P, Hit]:
        @functools.wraps(function)
        def call(*args: P.args, **arguments: P.kwargs) -> Hit:
            context = current()
            context.permit.check()
            try:
                return function(*args, **arguments)
            except DrkitError as e:
                # Chaos Toolkit shows the class and the first line only.
                raise type(e)(f"{e.message}{f' (hint: {e.hint})' if e.hint else ''}", e.hint) from e

        call.drkit_plan = plan  # type: ignore[attr-defined]  # mypy knows no attributes of functions
        call.drkit_role = role  # type: ignore[attr-defined]
        return call

    return mark


def planner(function: Callable[..., Any]) -> Planner | None:
    """Return how to plan a function, or None if it changes nothing (or is not drkit's)."""
    return getattr(function, "drkit_plan", None)


def zone_of(target: Target, zone: str) -> str:
    """Return the full name of a zone given as "b", "eu-central-1b", or "writer" (where the database's writer is now).

    Within a run, "writer" stays the zone where the writer was when the run began. Raises UsageError for a zone that the
    target does not have.
    """
    if zone == "writer" and _current is not None and _current.before.writer_zone:
        return _current.before.writer_zone
    if zone == "writer" and target.database:
        from drkit.targets.aws.database import Database

        return Database(target).instance(target.database.instance_id).zone
    for full in target.zones:
        if zone in (full, full.removeprefix(target.region)):
            return full
    raise UsageError(f"{target.name} has no zone {zone!r}", f"zones: {', '.join(target.zones)}, or writer")
