"""Putting back, as an activity: the rollback of a shipped experiment, for plain `chaos run`."""

from __future__ import annotations

from drkit import undo
from drkit.chaos import current
from drkit.errors import StillBroken
from drkit.model import UndoRecord
from drkit.targets.aws.permissions import asks


def put_back(verb: str, region: str) -> None:
    """Put back now what one verb has pending in one region, before the rest. Raises StillBroken if it can't be."""
    context = current()
    _checked(undo.replay(context.undo, context.target, only=lambda r: r.verb == verb and r.region == region))


@asks()  # what it calls is the undo of the faults before it
def everything() -> list[str]:
    """Put back everything that is pending, newest first; return a sentence for each. Raises StillBroken."""
    context = current()
    return _checked(undo.replay(context.undo, context.target))


def _checked(results: tuple[undo.Undone, ...]) -> list[str]:
    failed: list[UndoRecord] = [u.record for u in results if not u.ok]
    if failed:
        raise StillBroken(
            "not put back: " + "; ".join(u.sentence for u in results if not u.ok), "drkit undo last tries again"
        )
    return [u.sentence for u in results]
