"""The outage bracket against every small schedule and every truth, and against mutants of itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import small_scope

from drkit.measure import Settings, _outage, outage, outages
from drkit.model import Attempt, Interval, Outcome, ProbeKind, Role, Series


@pytest.mark.parametrize(("attempts", "horizon"), [(3, 5), (4, 4), (5, 3)])
def test_the_bracket_covers_every_truth_of_every_small_schedule_and_no_more(attempts: int, horizon: int) -> None:
    flaw, compared = small_scope.first_flaw(outage, attempts=attempts, horizon=horizon)
    assert flaw is None
    assert compared > 5_000


def test_an_outage_between_samples_hides_in_the_longest_gap_and_nowhere_else() -> None:
    candidates = small_scope.truths(5)
    for schedule in small_scope.schedules(4, 5):
        fates = (True,) * len(schedule)
        first_sent, last_sent = schedule[0][0], schedule[-1][0]
        if first_sent == last_sent:
            continue
        bracket = outage(small_scope.attempts_of(schedule, fates))
        hidden = [x - s for s, x in small_scope.consistent(schedule, fates, candidates) if first_sent < s <= last_sent]
        assert bracket.lo_s == 0.0
        assert max(hidden, default=0.0) <= bracket.hi_s <= max(hidden, default=0.0) + 0.5


FLAPS = [
    # One outage around 1.5 s can explain it; so can one in (0, 1) and one in (1, 2), which span more.
    (((0, 0), (0, 2), (1, 1), (1, 2), (2, 2)), (True, False, True, False, True), Interval(0.0, 2.0)),
    # Two outages for certain; the slow success was decided between them and says nothing about the end of the second.
    (((0, 0), (1, 1), (2, 2), (3, 6), (4, 4), (7, 7)), (True, False, True, True, False, True), Interval(3.0, 7.0)),
]


@pytest.mark.parametrize(("schedule", "fates", "expected"), FLAPS)
def test_a_success_between_two_failures_does_not_narrow_the_bracket(
    schedule: tuple[tuple[int, int], ...], fates: tuple[bool, ...], expected: Interval
) -> None:
    assert outage(small_scope.attempts_of(schedule, fates)) == expected


def test_start_and_end_lie_in_their_own_brackets() -> None:
    assert _first_misplaced(_outage) is None


def _first_misplaced(module: ModuleType) -> object:
    """Return the first schedule whose start or end lies outside its bracket, or whose end is looser than it need be."""
    candidates = small_scope.truths(4)
    for schedule in small_scope.schedules(4, 4):
        for fates in product((False, True), repeat=4):
            attempts = small_scope.attempts_of(schedule, fates)
            failures = [a for a in attempts if a.outcome is not Outcome.OK]
            successes = [a for a in attempts if a.outcome is Outcome.OK]
            if not failures or not successes:
                continue
            found = module._bracket(failures, module._Successes(successes))
            down = small_scope.consistent(schedule, fates, candidates)
            if found.start_lo_ns is None or found.end_hi_ns is None or not down:
                continue
            starts, ends = zip(*down, strict=True)
            if not (found.start_lo_ns <= min(starts) * 1e9 and max(starts) * 1e9 <= found.start_hi_ns):
                return schedule, fates
            if not (found.end_lo_ns <= min(ends) * 1e9 and max(ends) * 1e9 == found.end_hi_ns):
                return schedule, fates
    return None


# --- a flapping server: several outages, closed by W only when stable -------------------------------------------------


@pytest.mark.parametrize("flight_ns", [0, 3_000_000])
def test_the_span_of_a_flapping_server_is_covered_when_answers_are_quick(flight_ns: int) -> None:
    """Every pattern of ten samples: the server is down in each cell of time whose sample failed."""
    period_ns = 20_000_000
    for fates in product((False, True), repeat=8):
        pattern = (True, *fates, True)
        attempts = [
            Attempt(n, n * period_ns, n * period_ns, n * period_ns + flight_ns, Outcome.OK if ok else Outcome.FAILED)
            for n, ok in enumerate(pattern)
        ]
        down = [n for n, ok in enumerate(pattern) if not ok]
        if not down:
            continue
        bracket = outage(attempts)
        for early_ns, late_ns in product((1, period_ns - flight_ns), (flight_ns + 1, period_ns + flight_ns)):
            start_ns = down[0] * period_ns - (early_ns if early_ns > 1 else 0)
            end_ns = down[-1] * period_ns + late_ns
            assert bracket.covers((end_ns - start_ns) / 1e9)


# --- mutants ----------------------------------------------------------------------------------------------------------

MUTANTS = {
    "start from the first failure's send": (
        "start_hi_ns = min(f.done_ns for f in failures)",
        "start_hi_ns = min(f.sent_ns for f in failures)",
    ),
    "start from the last completion": (
        "start_hi_ns = min(f.done_ns for f in failures)",
        "start_hi_ns = failures[-1].done_ns",
    ),
    "end from the last failure's completion": (
        "end_lo_ns = max(f.sent_ns for f in failures)",
        "end_lo_ns = max(f.done_ns for f in failures)",
    ),
    "start at the last success's completion": (
        "accumulate((k.sent_ns for k in by_done), max)",
        "accumulate((k.done_ns for k in by_done), max)",
    ),
    "last success by send order": (
        "by_done = sorted(in_order, key=lambda k: k.done_ns)\n        self._dones = [k.done_ns",
        "by_done = list(in_order)\n        self._dones = [k.sent_ns",
    ),
    "last success to complete, not last sent": (
        "list(accumulate((k.sent_ns for k in by_done), max))",
        "[k.sent_ns for k in by_done]",
    ),
    "end at the first success's send": (
        "list(accumulate((k.done_ns for k in reversed(in_order)), min))",
        "list(accumulate((k.sent_ns for k in reversed(in_order)), min))",
    ),
    "first success after the last failure's send": (
        "ends = [successes.first_done_of_sent_from(f.done_ns) for f in failures]",
        "ends = [successes.first_done_of_sent_from(f.sent_ns) for f in failures]",
    ),
    "completion of the first one sent, not the first completion": (
        "list(accumulate((k.done_ns for k in reversed(in_order)), min))[::-1]",
        "[k.done_ns for k in in_order]",
    ),
    "gaps after the first failure ignored": ("sent_before_ns=start_hi_ns,", "sent_before_ns=failures[0].sent_ns,"),
    "gap ends at any completion": ("done_after_ns=end_lo_ns)", "done_after_ns=start_lo_ns)"),
    "gap ends at a send": ("min((a.done_ns for a in together", "min((a.sent_ns for a in together"),
    "gap left out": ("        if one_outage:\n", "        if False:\n"),
    "one outage assumed always": ("one_outage = all(", "one_outage = any("),
    "too few successes looked at": ("bisect_right(self._sends, hi_ns)]", "bisect_left(self._sends, hi_ns)]"),
    "lower bound not floored by what failed": (
        "lo_ns = max(0, end_lo_ns - start_hi_ns)",
        "lo_ns = max(0, end_lo_ns - failures[0].sent_ns)",
    ),
    "upper bound from the certain start": ("hi_ns = end_hi_ns - start_lo_ns", "hi_ns = end_hi_ns - start_hi_ns"),
}


def _mutant(old: str, new: str) -> ModuleType:
    source = Path(_outage.__file__).read_text()
    assert source.count(old) == 1, f"no longer in the source once: {old}"
    module = ModuleType("drkit_outage_mutant")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source.replace(old, new), "<mutant>", "exec"), module.__dict__)  # noqa: S102
    return module


@pytest.fixture(params=MUTANTS, ids=lambda name: name.replace(" ", "-"))
def mutant(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    yield _mutant(*MUTANTS[request.param])
    sys.modules.pop("drkit_outage_mutant", None)


def test_the_search_kills_every_mutant_of_the_formula(mutant: ModuleType) -> None:
    def measured(attempts: list[Attempt]) -> Interval:
        try:
            return mutant.outage(attempts)
        except ValueError:  # an interval upside down is a wrong answer too
            return Interval(-1.0, -1.0)

    for attempts, horizon in [(3, 4), (4, 4), (5, 3)]:
        flaw, _ = small_scope.first_flaw(measured, attempts=attempts, horizon=horizon)
        if flaw is not None:
            return
    wrong = [
        expected
        for schedule, fates, expected in FLAPS
        if measured(small_scope.attempts_of(schedule, fates)) != expected
    ]
    assert wrong or _first_misplaced(mutant) is not None, "the mutant lives"


def test_an_outage_ends_only_when_successes_last_for_the_window() -> None:
    """Every pattern of nine samples a second apart against the definition, said again as plainly as can be."""
    for fates in product((False, True), repeat=9):
        attempts = small_scope.attempts_of([(n, n) for n in range(9)], fates)
        series = Series("s", ProbeKind.HTTP, Role.SERVICE, 1.0, 1.0, tuple(attempts))
        found = outages(series, Settings(window_s=2.0))
        text = "".join("." if ok else "x" for ok in fates)
        assert [(o.start_hi_ns // 10**9, None if o.end_lo_ns is None else o.end_lo_ns // 10**9) for o in found] == (
            _spans(text)
        ), text


def _spans(text: str) -> list[tuple[int, int | None]]:
    found: list[tuple[int, int | None]] = []
    at = text.find("x")
    while at >= 0:
        stable = text.find("...", at)
        last = text.rfind("x", at, stable if stable >= 0 else None)
        found.append((at, last if stable >= 0 else None))
        at = text.find("x", stable) if stable >= 0 else -1
    return found
