"""Random histories: a simulated server whose truth is known, injected losses, and histories that make no sense."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.measure import Settings, account, judge, measure, outages
from drkit.model import (
    Attempt,
    Connection,
    ErrorClass,
    History,
    Mark,
    MarkKind,
    Objective,
    Outcome,
    ProbeKind,
    Role,
    Series,
    SurvivingRow,
    Survivors,
    Verdict,
)
from drkit.standing import is_playbook

MS = 1_000_000
W = Settings(window_s=1.0, p95_s=0.1, error_rate=0.01)


def open_loop(
    rng: random.Random, down_ms: tuple[float, float], *, period_ms: int, tau_ms: int, hangs: bool, until_ms: float
) -> Series:
    """A probe whose attempts overlap: each is decided after a random delay, and answered after another one."""
    start, end = down_ms
    attempts = []
    for seq in range(int(until_ms / period_ms)):
        sent = seq * period_ms + rng.uniform(0, period_ms / 4)
        decided = sent + rng.expovariate(1 / 8)
        outcome, done, error = Outcome.OK, decided + rng.expovariate(1 / 8), None
        if start <= decided < end:
            outcome = rng.choice([Outcome.FAILED, Outcome.UNKNOWN])
            error = ErrorClass.TIMEOUT if hangs else ErrorClass.REFUSED
            done = max(decided, sent + tau_ms) if hangs else decided + rng.expovariate(1 / 4)
        attempts.append(Attempt(seq, int(sent * MS), int(sent * MS), int(done * MS) + 1, outcome, error))
    return Series("http", ProbeKind.HTTP, Role.SERVICE, period_ms / 1000, tau_ms / 1000, tuple(attempts), ticks_due=1)


@given(
    seed=st.integers(0, 2**32),
    lasts_ms=st.floats(1, 3000),
    period_ms=st.sampled_from([5, 20, 100]),
    hangs=st.booleans(),
    connection=st.sampled_from(Connection),
)
@settings(max_examples=300, deadline=None)
def test_the_truth_of_a_simulated_server_is_covered(
    seed: int, lasts_ms: float, period_ms: int, hangs: bool, connection: Connection
) -> None:
    rng = random.Random(seed)
    start = 1000 + rng.uniform(0, 500)
    down = (start, start + lasts_ms)
    series = open_loop(rng, down, period_ms=period_ms, tau_ms=300, hangs=hangs, until_ms=down[1] + 2500)
    found = outages(series, W)
    measured = measure(History((), (series,)), W)
    assert measured.rta is not None
    assert measured.rta.covers(lasts_ms / 1000)
    if any(a.outcome is not Outcome.OK for a in series.attempts):
        assert len(found) == 1
        assert found[0].recovered
        assert measured.impact is not None
        assert measured.service_restored is not None
        assert measured.impact[0] <= down[0] * MS <= measured.impact[1]
        assert measured.service_restored[0] <= down[1] * MS <= measured.service_restored[1]
    longest_flight = max(a.done_ns - a.sent_ns for a in series.attempts if a.outcome is Outcome.OK) / MS
    slack_ms = 300 if hangs else 60
    assert measured.rta.width_s * 1000 <= 3 * period_ms + 3 * longest_flight + slack_ms


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_injected_losses_are_counted_exactly(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    outcomes = data.draw(st.lists(st.sampled_from(Outcome), min_size=n, max_size=n))
    attempts = tuple(Attempt(k, k * 10, k * 10, k * 10 + 5, o) for k, o in enumerate(outcomes))
    series = Series("w", ProbeKind.SQL, Role.WRITES, 1e-8, 1e-8, attempts)

    def some_of(outcome: Outcome) -> set[int]:
        return data.draw(st.sets(st.sampled_from([k for k, o in enumerate(outcomes) if o is outcome] or [-1]))) - {-1}

    lost, recovered, resurrected = some_of(Outcome.OK), some_of(Outcome.UNKNOWN), some_of(Outcome.FAILED)
    phantom = data.draw(st.sets(st.integers(n, n + 9)))
    there = {k for k, o in enumerate(outcomes) if o is Outcome.OK} - lost | recovered | resurrected | phantom
    twice = data.draw(st.sets(st.sampled_from(sorted(there)))) if there else set()
    corrupt = data.draw(st.sets(st.sampled_from(sorted(there)))) if there else set()
    rows = tuple(SurvivingRow(k, intact=k not in corrupt) for k in [*there, *twice])
    found = account(series, [Survivors("w", 10_000, 10_001, rows)])
    assert set(found.lost) == lost
    assert set(found.recovered) == recovered
    assert set(found.resurrected) == resurrected
    assert set(found.phantom) == phantom
    assert set(found.duplicated) == twice
    assert set(found.corrupt) == corrupt
    assert found.holes == (sum(k > min(lost) for k in there if k < n and outcomes[k] is Outcome.OK) if lost else 0)
    assert found.rpa.lo_s >= 0


moments = st.integers(0, 50)
attempt_lists = st.lists(
    st.tuples(moments, moments, st.sampled_from(Outcome), st.sampled_from([None, *ErrorClass])), max_size=12
).map(
    lambda made: tuple(
        Attempt(k, s * 100 * MS, s * 100 * MS, (s + took) * 100 * MS, o, e) for k, (s, took, o, e) in enumerate(made)
    )
)
any_series = st.builds(
    Series,
    name=st.sampled_from("abc"),
    kind=st.sampled_from(ProbeKind),
    role=st.sampled_from(Role),
    every_s=st.just(0.1),
    timeout_s=st.just(1.0),
    attempts=attempt_lists,
    connection=st.sampled_from(Connection),
    ticks_due=st.integers(0, 100),
    ticks_lost=st.integers(0, 2),
    complete=st.booleans(),
)
any_mark = st.builds(
    lambda at, took, kind, name, detail: Mark(at * 100 * MS, (at + took) * 100 * MS, kind, name, detail),
    moments,
    moments,
    st.sampled_from(MarkKind),
    st.sampled_from(["lose-zone", "redundancy", "recovery"]),
    st.dictionaries(st.sampled_from(["ok", "held", "seq"]), st.booleans()),
)
any_survivors = st.builds(
    lambda name, at, seqs, settled: Survivors(
        name, at * 100 * MS, (at + 1) * 100 * MS, tuple(SurvivingRow(k, intact=k != 3) for k in seqs), settled
    ),
    st.sampled_from("abc"),
    moments,
    st.lists(st.integers(0, 14), max_size=14),
    st.booleans(),
)
any_history = st.builds(
    History,
    marks=st.lists(any_mark, max_size=6).map(tuple),
    series=st.lists(any_series, max_size=3, unique_by=lambda s: s.name).map(tuple),
    survivors=st.lists(any_survivors, max_size=3).map(tuple),
)


@given(any_history, st.sampled_from([Objective(), Objective(rto_s=1, rpo_s=0), Objective(rto_s=9, rpo_s=9, p95_s=1)]))
@settings(max_examples=400, deadline=None)
def test_no_history_breaks_the_measuring_and_a_pass_is_earned(history: History, objective: Objective) -> None:
    found = measure(history, W)
    judgement = judge(found, history, objective)
    kinds = {m.kind for m in history.marks}
    if judgement.verdict is Verdict.PASS:
        assert kinds & {MarkKind.FAULT_EFFECTIVE, MarkKind.RECOVERY_START}
        assert not kinds & {MarkKind.TOOTHLESS, MarkKind.ABORTED, MarkKind.INSTRUMENT, MarkKind.RESIDUE}
        assert found.rta is not None or objective.rto_s is None
        assert not any(loss.integrity_broken for loss in found.losses)
    if any(r.what == "rpo" and r.verdict is Verdict.PASS for r in judgement.reasons):
        writers = [s for s in history.series if s.role is Role.WRITES]
        written = any(a.outcome is Outcome.OK for s in writers for a in s.attempts)
        assert written or MarkKind.RECOVERY_POINT in kinds or not is_playbook(history.marks)
    for o in found.outages:
        assert o.start_lo_ns <= o.start_hi_ns
        assert o.lasted.lo_s >= 0
        if o.end_lo_ns is not None and o.end_hi_ns is not None:
            assert o.end_lo_ns <= o.end_hi_ns
    assert (found.rta is None) == ("rta" in found.unmeasured)
