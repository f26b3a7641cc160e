"""Whether a playbook came to its end, from its history; nothing for an experiment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from drkit.measure._settings import NS_PER_S
from drkit.model import Mark, MarkKind, Reason, Verdict, type_json
from drkit.standing import Standing, names_of, standings

_MAX_CLOCK_STEP_S = 1.0


def judge_steps(marks: Sequence[Mark]) -> Iterator[Reason]:
    """Yield what there is to say of prerequisites and steps; nothing for a history without either.

    A run that is complete passes; every other one fails, with the step at which it stands.
    """
    yield from _prerequisites(marks)
    yield from _restarted(marks)
    found = list(standings(marks, names_of(marks)).values())
    ended = any(m.kind is MarkKind.RECOVERED for m in marks)
    if not found and not ended:
        return
    done = [s for s in found if s.state == "done"]
    complete = ended and len(done) == len(found)
    if any(m.kind is MarkKind.RUN_ENDED and m.name == "drkit undo" for m in marks) and not complete:
        yield Reason(Verdict.FAIL, "undo", "the playbook was not finished; what it had done was put back by drkit undo")
    if not complete:
        yield Reason(Verdict.FAIL, "steps", _left(found, len(done)))
    elif _nothing_done(marks, found):
        yield Reason(Verdict.INVALID, "steps", "nothing was recovered: every step was done before the run began")
    else:
        yield Reason(Verdict.PASS, "steps", f"{len(done)} of {len(found)} done")


def _nothing_done(marks: Sequence[Mark], found: Sequence[Standing]) -> bool:
    """Return whether every step was done before the run began; what only looks, reads or asks people is no recovery."""
    read = {m.name for m in marks if m.kind is MarkKind.DATA_VERIFIED}
    acting = [s for s in found if not (s.looked or s.by or s.name in read)]
    return all(s.already and not s.tries for s in acting or found)


def _prerequisites(marks: Sequence[Mark]) -> Iterator[Reason]:
    """Yield one reason for each prerequisite, as it was answered last."""
    asked = {m.name: m for m in marks if m.kind is MarkKind.HYPOTHESIS and m.detail.get("when") == "prerequisite"}
    for name, mark in asked.items():
        if mark.detail.get("held") is True:
            yield Reason(Verdict.PASS, "prerequisite", f"{name} held")
        else:
            why = str(mark.detail.get("why") or "it does not hold")
            yield Reason(
                Verdict.INVALID, "prerequisite", f"a prerequisite did not hold: {name}: {why}; nothing was touched"
            )


def _restarted(marks: Sequence[Mark]) -> Iterator[Reason]:
    """Yield if the machine was restarted or asleep in between: its monotonic clock began anew or stood still.

    Each process that plays a run writes down which boot it is of, and how far the wall clock is ahead of the monotonic
    one. Histories of drkit before that have neither.
    """
    boot, ahead_ns = "", None
    for before, mark in itertools.pairwise((None, *marks)):
        if mark is None or mark.kind not in (MarkKind.RUN_STARTED, MarkKind.RESUMED):
            continue
        boot_now, ahead_now_ns = str(mark.detail.get("boot_id") or ""), mark.detail.get("wall_minus_monotonic_ns")
        resumed = mark.kind is MarkKind.RESUMED
        if resumed and ((before and mark.t_hi_ns < before.t_hi_ns) or (boot and boot_now and boot != boot_now)):
            yield Reason(
                Verdict.INVALID, "clock", "the machine was restarted before the run went on: its times do not compare"
            )
        elif resumed and _apart_s(ahead_ns, ahead_now_ns) > _MAX_CLOCK_STEP_S:
            why = (
                f"the wall clock moved by {_apart_s(ahead_ns, ahead_now_ns):.1f} s against the monotonic one before "
                "the run went on: the machine was asleep, or a clock was stepped"
            )
            yield Reason(Verdict.INVALID, "clock", why)
        boot, ahead_ns = boot_now or boot, ahead_ns if ahead_now_ns is None else ahead_now_ns


def _apart_s(one: type_json, other: type_json) -> float:
    return abs(other - one) / NS_PER_S if isinstance(one, int) and isinstance(other, int) else 0.0


def _left(found: Sequence[Standing], done: int) -> str:
    """Return where a playbook that is not complete stands, and why."""
    so_far = f"{done} step{'' if done == 1 else 's'} done, then "
    failed = [s for s in found if s.state == "failed"]
    if failed:
        last = max(failed, key=lambda s: s.ended_ns or 0)
        return f"{so_far}{last.name} did not succeed: {last.why or 'no reason known'}"
    under_way = [s for s in found if s.state in ("begun", "waiting")]
    if under_way:
        at = ", ".join(s.name for s in under_way)
        waits = " (it waited for a person)" if under_way[-1].state == "waiting" else ""
        return f"{so_far}left at {at}{waits}: drkit died or was stopped there"
    last_done = [s.name for s in found if s.state == "done"]
    return f"left after {last_done[-1]}: drkit died or was stopped there" if last_done else "no step was begun"
