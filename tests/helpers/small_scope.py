"""Every small schedule, every truth: what an outage bracket is checked against.

A schedule is a few attempts (send, completion) on an integer grid; a truth is a server that is down in [S, X), with S
and X on a grid twice as fine; each attempt's fate is decided at some moment between its send and its completion, so
where its flight lies partly inside [S, X) it may go either way, and both are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

from drkit.errors import Unmeasurable
from drkit.model import Attempt, Interval, Outcome

S_NS = 1_000_000_000
Flight = tuple[int, int]
OutageFunction = Callable[[Sequence[Attempt]], Interval]


STEP_S = 0.5


@dataclass(frozen=True, slots=True)
class Flaw:
    """A bracket that misses a truth, or is wider than all truths of its schedule by more than a grid step."""

    schedule: tuple[Flight, ...]
    fates: tuple[bool, ...]
    lengths: Interval
    bracket: Interval


def attempts_of(schedule: Sequence[Flight], fates: Sequence[bool]) -> list[Attempt]:
    return [
        Attempt(n, sent * S_NS, sent * S_NS, done * S_NS, Outcome.OK if fate else Outcome.UNKNOWN)
        for n, ((sent, done), fate) in enumerate(zip(schedule, fates, strict=True))
    ]


def schedules(attempts: int, horizon: int) -> Iterator[tuple[Flight, ...]]:
    """Every multiset of flights on 0..horizon, in send order, however they overlap."""
    flights = [(s, c) for s in range(horizon + 1) for c in range(s, horizon + 1)]
    yield from combinations_with_replacement(flights, attempts)


def truths(horizon: int) -> list[tuple[float, float]]:
    steps = [n * STEP_S for n in range(2 * horizon + 2)]
    return [(s, x) for s, x in product(steps, steps) if s < x]


def possible(flight: Flight, fate: bool, down: tuple[float, float]) -> bool:
    """Whether an attempt of that flight can have had that fate: the model, stated once."""
    (sent, done), (start, end) = flight, down
    return (sent < start or done >= end) if fate else (sent < end and done >= start)


def consistent(
    schedule: Sequence[Flight], fates: Sequence[bool], candidates: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    return [d for d in candidates if all(possible(f, ok, d) for f, ok in zip(schedule, fates, strict=True))]


def may_be_two(schedule: Sequence[Flight], fates: Sequence[bool]) -> bool:
    """Whether a success lies between two failures: then the bracket also allows for two outages, so it may be wider."""
    failed = [sent for (sent, _), ok in zip(schedule, fates, strict=True) if not ok]
    return any(
        ok and min(failed) <= sent and done <= max(failed) for (sent, done), ok in zip(schedule, fates, strict=True)
    )


def first_flaw(measure: OutageFunction, *, attempts: int, horizon: int) -> tuple[Flaw | None, int]:
    """Return the first bracket that is wrong, if any, and how many truths were compared."""
    candidates = truths(horizon)
    compared = 0
    for schedule in schedules(attempts, horizon):
        for fates in product((False, True), repeat=attempts):
            if all(fates):
                continue  # unseen outages have a test of their own
            try:
                bracket = measure(attempts_of(schedule, fates))
            except Unmeasurable:
                continue
            lengths = [x - s for s, x in consistent(schedule, fates, candidates)]
            if not lengths:
                continue  # it takes more than one outage to explain
            compared += len(lengths)
            true = Interval(min(lengths), max(lengths))
            misses = not (bracket.covers(true.lo_s) and bracket.covers(true.hi_s))
            too_wide = bracket.lo_s < true.lo_s - STEP_S or bracket.hi_s > true.hi_s + STEP_S
            if misses or (too_wide and not may_be_two(schedule, fates)):
                return Flaw(schedule, fates, true, bracket), compared
    return None, compared
