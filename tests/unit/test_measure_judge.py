"""Numbers and verdicts of whole runs. `good` passes; every other test is its twin in which one thing really is bad."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from drkit.measure import Settings, judge, measure
from drkit.model import (
    Attempt,
    Connection,
    ErrorClass,
    History,
    Interval,
    Judgement,
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

MS = 1_000_000
S = 1000 * MS
SETTINGS = Settings(window_s=3.0)
RTO = Objective(rto_s=5.0, rpo_s=1.0)


def series(
    name: str,
    *down: tuple[int, int],
    role: Role = Role.SERVICE,
    connection: Connection = Connection.FRESH,
    until_ms: int = 20_000,
    every_ms: int = 100,
    answer_ms: int = 10,
    from_ms: int = 0,
    tau_ms: int = 0,
) -> Series:
    """A probe of a server that is down in each of `down` (ms); tau_ms: it hangs there instead of refusing."""
    attempts = []
    for seq, at in enumerate(range(from_ms, until_ms, every_ms)):
        failed = any(s <= at < x for s, x in down)
        took = (tau_ms or 2) if failed else answer_ms
        error = (ErrorClass.TIMEOUT if tau_ms else ErrorClass.REFUSED) if failed else None
        outcome = (Outcome.UNKNOWN if tau_ms else Outcome.FAILED) if failed else Outcome.OK
        attempts.append(Attempt(seq, at * MS, at * MS, (at + took) * MS, outcome, error))
    kind = ProbeKind.SQL if role is Role.WRITES else ProbeKind.HTTP
    n = len(attempts)
    return Series(name, kind, role, every_ms / 1000, (tau_ms or 1000) / 1000, tuple(attempts), connection, ticks_due=n)


def survivors(of: Series, *, without: Iterable[int] = (), plus: Iterable[int] = (), settled: bool = True) -> Survivors:
    there = {a.seq for a in of.attempts if a.outcome is Outcome.OK} - set(without) | set(plus)
    return Survivors(of.name, 30 * S, 31 * S, tuple(SurvivingRow(k) for k in sorted(there)), settled)


def mark(kind: MarkKind, at_s: float, name: str = "", **detail: Any) -> Mark:
    return Mark(int(at_s * S), int(at_s * S) + 10 * MS, kind, name, detail)


FAULT = (mark(MarkKind.FAULT_REQUESTED, 5, "lose-zone"), mark(MarkKind.FAULT_EFFECTIVE, 5.2, "lose-zone"))


def history(*more: Mark, services: Iterable[Series] = (), without: Iterable[int] = ()) -> History:
    writes = series("writes", (5100, 7000), role=Role.WRITES)
    services = tuple(services) or (series("http", (5050, 6900)),)
    return History((*FAULT, *more), (*services, writes), (survivors(writes, without=without),))


def judged(run: History, objective: Objective = RTO, settings: Settings = SETTINGS) -> Judgement:
    return judge(measure(run, settings), run, objective)


def found(judgement: Judgement, what: str) -> list[Verdict]:
    return [r.verdict for r in judgement.reasons if r.what == what]


def test_good() -> None:
    verdict = judged(history())
    assert verdict.verdict is Verdict.PASS, verdict.reasons
    assert {"rto", "rpo", "fault", "integrity"} <= {r.what for r in verdict.reasons}


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_headline_spans_from_the_first_impact_to_the_last_restoration() -> None:
    found = measure(history(), SETTINGS)
    assert found.impact == (5000 * MS, 5102 * MS)  # http: last success sent, first failure answered
    assert found.service_restored == (6900 * MS, 7010 * MS)  # writes
    assert found.rta == Interval(1.798, 2.01)
    assert found.rta.covers(7.0 - 5.05)
    assert found.headline_series == ("http", "writes")
    assert [o.series for o in found.outages] == ["http", "writes"]
    assert found.outages[0].failures == {"refused": 18}


def test_pooled_connections_are_a_finding_of_their_own() -> None:
    pooled = series("pooled", (5050, 9000), connection=Connection.POOLED)
    found = measure(history(services=[series("http", (5050, 6900)), pooled]), SETTINGS)
    assert found.rta == Interval(1.798, 2.01)
    assert found.rta_by_series["pooled"].covers(9.0 - 5.05)
    assert set(found.rta_by_series) == {"http", "pooled", "writes"}


def test_pooled_alone_is_the_headline() -> None:
    run = History(FAULT, (series("pooled", (5050, 9000), connection=Connection.POOLED),))
    assert measure(run, SETTINGS).headline_series == ("pooled",)


def test_a_blip_of_success_does_not_end_an_outage_and_two_outages_are_listed() -> None:
    flapping = measure(History(FAULT, (series("http", (5000, 6000), (8000, 9000)),)), SETTINGS)
    assert len(flapping.outages) == 1
    twice = measure(History(FAULT, (series("http", (5000, 6000), (10_000, 11_000)),)), SETTINGS)
    assert len(twice.outages) == 2
    assert twice.rta is not None
    assert twice.rta.covers(6.0)


def test_an_outage_before_the_fault_is_listed_and_does_not_count() -> None:
    run = History(FAULT, (series("http", (500, 900), (5050, 6900)),))
    found = measure(run, SETTINGS)
    assert len(found.outages) == 2
    assert found.impact == (5000 * MS, 5102 * MS)


def test_without_a_failure_one_may_still_hide_between_samples() -> None:
    run = History(FAULT, (series("http"),))
    found = measure(run, SETTINGS)
    assert found.rta == Interval(0.0, 0.11)
    assert found.impact is None
    assert judged(run, Objective(rto_s=1)).verdict is Verdict.PASS
    assert judged(run, Objective(rto_s=0.05)).verdict is Verdict.INCONCLUSIVE


def test_the_four_parts_add_up_and_keep_their_sign() -> None:
    run = history(
        mark(MarkKind.DETECTED, 6, "rds-event"),
        mark(MarkKind.DECLARED, 6.5, "promote"),
        mark(MarkKind.ACTIVITY, 8, "promote"),
        mark(MarkKind.RECOVERY_START, 6.6, "promote"),
        mark(MarkKind.RECOVERY_END, 8),
        mark(MarkKind.DATA_VERIFIED, 9),
        mark(MarkKind.REDUNDANCY_RESTORED, 15),
    )
    found = measure(run, SETTINGS)
    parts = found.decomposition
    assert parts.ttd is not None
    assert parts.tti is not None
    assert parts.ttm is not None
    assert parts.ttv is not None
    assert parts.ttv.hi_s < 0  # restored before the last step was done
    assert Interval(
        sum(p.lo_s for p in (parts.ttd, parts.tti, parts.ttm, parts.ttv)),
        sum(p.hi_s for p in (parts.ttd, parts.tti, parts.ttm, parts.ttv)),
    ).covers(7.0 - 5.05)
    assert found.rta_verified is not None
    assert found.rta_verified.covers(9 - 5.05)
    assert found.redundancy is not None
    assert found.redundancy.covers(15 - 5.05)
    assert found.since_recovery_start is not None
    assert found.since_recovery_start.covers(7.0 - 6.6)
    assert found.since_plan_start is not None
    assert found.since_plan_start.covers(7.0 - 6.5)
    absent = measure(history(), SETTINGS)
    assert absent.decomposition.ttd is None
    assert {"ttd", "rta_slo", "rta_verified", "redundancy"} <= set(absent.unmeasured)


def test_slo_restored_comes_after_the_service_when_it_is_slow() -> None:
    slow = series("http", (5050, 6900))
    slow = replace(
        slow,
        attempts=tuple(
            replace(a, done_ns=a.done_ns + 500 * MS) if 6900 * MS <= a.sent_ns < 10_000 * MS else a
            for a in slow.attempts
        ),
    )
    run = History(FAULT, (slow,))
    found = measure(run, Settings(window_s=3.0, p95_s=0.2, error_rate=0.01))
    assert found.rta_slo is not None
    assert found.rta is not None
    assert found.rta_slo.lo_s >= found.rta.lo_s
    assert found.rta_slo.covers(9.9 - 5.05)  # the last slow answer; five in a hundred may be
    assert found.availability[0].brownout_s.covers(10.0 - 6.9)
    quick = measure(History(FAULT, (series("http", (5050, 6900)),)), Settings(window_s=3.0, p95_s=0.2, error_rate=0.01))
    assert quick.rta_slo is not None
    assert quick.rta_slo.hi_s < 2.2
    assert quick.availability[0].brownout_s == Interval(0.0, 0.0)


def test_time_outs_enter_the_latency_at_tau_and_refusals_do_not() -> None:
    hung = measure(History(FAULT, (series("http", (5000, 7000), tau_ms=1000),)), SETTINGS).latency[0]
    assert hung.count == 200
    assert hung.p50_s == pytest.approx(0.010, rel=1e-3)
    assert hung.p95_s == pytest.approx(1.0, rel=1e-3)
    assert measure(History(FAULT, (series("http", (5000, 7000)),)), SETTINGS).latency[0].count == 180


def test_availability_is_an_interval() -> None:
    seen = measure(History(FAULT, (series("http", (5050, 6900)),)), SETTINGS).availability[0]
    assert seen.time_share_lo <= 1 - 1.85 / seen.observed_s <= seen.time_share_hi
    assert (seen.good, seen.eligible) == (182, 200)
    clean = measure(History(FAULT, (series("http"),)), SETTINGS).availability[0]
    assert clean.error_rate_upper95 == 3 / 200
    assert clean.time_share_hi == 1.0
    assert clean.time_share_lo == pytest.approx(1 - 0.11 / clean.observed_s)


# --- INVALID and ABORTED ----------------------------------------------------------------------------------------------

BAD_MARKS: list[tuple[Mark, Verdict, str]] = [
    (mark(MarkKind.TOOTHLESS, 6, "lose-zone"), Verdict.INVALID, "fault"),
    (mark(MarkKind.FAULT_REQUESTED, 6, "stop-writer"), Verdict.INVALID, "fault"),
    (mark(MarkKind.BASELINE_MISSING, 1, "http"), Verdict.INVALID, "baseline"),
    (mark(MarkKind.HYPOTHESIS, 1, "writes-accepted", held=False), Verdict.INVALID, "baseline"),
    (mark(MarkKind.CLOCK_STEPPED, 6), Verdict.INVALID, "clock"),
    (mark(MarkKind.ABORTED, 6, "a person", why="drkit abort"), Verdict.ABORTED, "aborted"),
    (mark(MarkKind.GUARD, 6, "error-rate"), Verdict.ABORTED, "guard"),
    (mark(MarkKind.INSTRUMENT, 6, "http"), Verdict.INCONCLUSIVE, "instrument"),
    (mark(MarkKind.GUARDIAN, 6, "lease lapsed"), Verdict.INCONCLUSIVE, "guardian"),
    (mark(MarkKind.RESIDUE, 19, "acl-1"), Verdict.FAIL, "residue"),
    (mark(MarkKind.UNDO, 19, "restore_acl", ok=False, message="AccessDenied"), Verdict.FAIL, "undo"),
    (mark(MarkKind.PHASE, 18, "redundancy"), Verdict.FAIL, "redundancy"),
    (mark(MarkKind.HYPOTHESIS, 19, "writes-accepted", held=False), Verdict.FAIL, "hypothesis"),
    (mark(MarkKind.HYPOTHESIS, 19, "writes-accepted"), Verdict.INCONCLUSIVE, "hypothesis"),
]


@pytest.mark.parametrize(("bad", "verdict", "what"), BAD_MARKS, ids=lambda v: v.kind if isinstance(v, Mark) else str(v))
def test_a_bad_mark_is_never_a_pass(bad: Mark, verdict: Verdict, what: str) -> None:
    judgement = judged(history(bad))
    assert judgement.verdict is verdict
    assert judgement.reasons[0].verdict is verdict
    assert judgement.reasons[0].what == what


def test_the_good_twins_of_bad_marks_pass() -> None:
    run = history(
        mark(MarkKind.HYPOTHESIS, 1, "writes-accepted", held=True),
        mark(MarkKind.HYPOTHESIS, 19, "writes-accepted", held=True),
        mark(MarkKind.UNDO, 15, "restore_acl", ok=False, seq=1),
        mark(MarkKind.UNDO, 16, "restore_acl", ok=True, seq=1),
        mark(MarkKind.PHASE, 18, "redundancy"),
        mark(MarkKind.REDUNDANCY_RESTORED, 19),
    )
    assert judged(run).verdict is Verdict.PASS


def test_an_undo_of_something_else_does_not_make_up_for_a_failed_one() -> None:
    run = history(
        mark(MarkKind.UNDO, 15, "restore_acl", ok=False, seq=1), mark(MarkKind.UNDO, 16, "restore_acl", ok=True, seq=2)
    )
    assert judged(run).verdict is Verdict.FAIL


def test_a_fault_seen_only_before_it_was_requested_was_not_seen() -> None:
    early = replace(FAULT[1], t_lo_ns=S, t_hi_ns=2 * S)
    run = replace(history(), marks=(FAULT[0], early))
    assert judged(run).verdict is Verdict.INVALID


def test_a_run_without_a_fault_tested_nothing() -> None:
    assert judged(replace(history(), marks=())).verdict is Verdict.INVALID
    planned = replace(history(), marks=(mark(MarkKind.RECOVERY_START, 5),))
    assert judged(planned).verdict is Verdict.PASS


def test_no_success_before_the_fault_is_no_baseline() -> None:
    late = series("http", (5050, 6900), from_ms=5100)
    judgement = judged(history(services=[late]))
    assert judgement.verdict is Verdict.INVALID
    assert "baseline" in {r.what for r in judgement.reasons if r.verdict is Verdict.INVALID}


def test_failing_before_the_fault_and_through_it_is_no_baseline() -> None:
    assert found(judged(history(services=[series("http", (4000, 6900))])), "baseline") == [Verdict.INVALID]
    assert found(judged(history(services=[series("http", (1000, 1200), (5050, 6900))])), "baseline") == []


def test_one_per_cent_of_lost_ticks() -> None:
    http = series("http", (5050, 6900))
    assert judged(history(services=[replace(http, ticks_lost=2)])).verdict is Verdict.PASS
    assert judged(history(services=[replace(http, ticks_lost=3)])).verdict is Verdict.INVALID
    witness = replace(http, name="inside", role=Role.WITNESS, ticks_lost=100)
    assert judged(history(services=[http, witness])).verdict is Verdict.PASS


# --- FAIL and INCONCLUSIVE --------------------------------------------------------------------------------------------


def test_the_three_answers_to_an_objective() -> None:
    assert judged(history(), Objective(rto_s=2.1)).verdict is Verdict.PASS
    assert judged(history(), Objective(rto_s=1.9)).verdict is Verdict.INCONCLUSIVE
    assert judged(history(), Objective(rto_s=1.7)).verdict is Verdict.FAIL


def test_nothing_promised_is_inconclusive() -> None:
    assert judged(history(), Objective()).verdict is Verdict.INCONCLUSIVE
    assert judged(history(), Objective(mttr_s=300)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("name", ["http", "pooled"])
def test_never_restored_fails_however_long_the_target(name: str) -> None:
    connection = Connection.POOLED if name == "pooled" else Connection.FRESH
    dead = series(name, (5050, 20_000), connection=connection)
    run = history(services=[dead, *([series("http")] if name == "pooled" else [])])
    judgement = judged(run, Objective(rto_s=900))
    assert judgement.verdict is Verdict.FAIL
    assert "> 14.7" in judgement.reasons[0].sentence


def test_never_restored_has_no_upper_bound() -> None:
    found = measure(history(services=[series("http", (5050, 20_000))]), SETTINGS)
    assert found.rta is not None
    assert found.rta.hi_s == math.inf
    assert found.rta.lo_s == pytest.approx(19.9 - 5.102)
    assert found.service_restored is None


def test_a_probe_that_died_in_the_outage_cannot_tell() -> None:
    died = replace(series("http", (5050, 20_000), until_ms=7000), complete=False)
    assert judged(history(services=[died])).verdict is Verdict.INCONCLUSIVE
    assert judged(history(services=[died]), Objective(rto_s=1)).verdict is Verdict.FAIL


def test_a_probe_that_stopped_too_early_cannot_tell() -> None:
    assert measure(history(services=[series("http", until_ms=6000)]), SETTINGS).rta is None
    assert judged(history(services=[series("http", until_ms=6000)])).verdict is Verdict.INCONCLUSIVE


def test_an_incomplete_series_cannot_pass() -> None:
    http = replace(series("http", (5050, 6900)), complete=False)
    assert judged(history(services=[http])).verdict is Verdict.INCONCLUSIVE


def test_one_lost_write_is_judged_by_the_recovery_point() -> None:
    run = history(without=[50])
    assert judged(run, Objective(rto_s=5, rpo_s=1)).verdict is Verdict.PASS
    assert judged(run, Objective(rto_s=5, rpo_s=0)).verdict is not Verdict.PASS
    assert judged(history(without=range(40, 51)), Objective(rto_s=5, rpo_s=0.5)).verdict is Verdict.FAIL


def test_no_lost_write_is_a_promise_of_its_own_beside_a_generous_recovery_point() -> None:
    """A synchronous standby that loses two seconds is broken, also where five minutes may be lost."""
    promise = Objective(rto_s=5, rpo_s=300, lost_writes_max=0)
    assert judged(history(), promise).verdict is Verdict.PASS
    assert found(judged(history(), promise), "lost-writes") == [Verdict.PASS]
    lossy = judged(history(without=range(40, 51)), promise)
    assert found(lossy, "rpo") == [Verdict.PASS]
    assert found(lossy, "lost-writes") == [Verdict.FAIL]
    assert lossy.verdict is Verdict.FAIL
    few = judged(history(without=[50]), replace(promise, lost_writes_max=1))
    assert found(few, "lost-writes") == [Verdict.PASS]
    writes = series("writes", (5100, 7000), role=Role.WRITES)
    unread = History(FAULT, (series("http", (5050, 6900)), writes))
    assert found(judged(unread, promise), "lost-writes") == [Verdict.INCONCLUSIVE]
    unsettled = History(unread.marks, unread.series, (survivors(writes, settled=False),))
    assert found(judged(unsettled, promise), "lost-writes") == [Verdict.INCONCLUSIVE]


def test_a_target_of_nothing_lost_is_met_by_nothing_lost() -> None:
    assert judged(history(), Objective(rpo_s=0)).verdict is Verdict.PASS
    unsettled = history()
    unsettled = replace(unsettled, survivors=tuple(replace(s, settled=False) for s in unsettled.survivors))
    assert judged(unsettled, Objective(rpo_s=0)).verdict is Verdict.INCONCLUSIVE


def test_rows_not_read_back_cannot_tell() -> None:
    judgement = judged(replace(history(), survivors=()))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "rpo" in {r.what for r in judgement.reasons}


Break = Callable[[Survivors], Survivors]


@pytest.mark.parametrize(
    "broken",
    [
        lambda s: replace(s, rows=(*s.rows, SurvivingRow(9999))),
        lambda s: replace(s, rows=(*s.rows, SurvivingRow(55))),
        lambda s: replace(s, rows=(*s.rows, s.rows[3])),
        lambda s: replace(s, rows=(replace(s.rows[0], intact=False), *s.rows[1:])),
        lambda s: replace(s, rows=s.rows[:10] + s.rows[11:]),
        lambda s: replace(s, rows=s.rows[:-1]),
    ],
    ids=["phantom", "resurrected", "duplicated", "corrupt", "hole", "lost-later"],
)
def test_broken_integrity_fails_whatever_the_recovery_point(broken: Break) -> None:
    run = history()
    run = replace(run, survivors=tuple(broken(s) for s in run.survivors))
    judgement = judged(run, Objective(rto_s=900, rpo_s=900))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.reasons[0].what == "integrity"


def test_service_levels() -> None:
    run = history(services=[series("http")])
    good = Objective(availability=0.99, p95_s=0.05, error_rate=0.02)
    assert judged(run, good).verdict is Verdict.PASS
    assert found(judged(run, Objective(p95_s=0.005)), "p95") == [Verdict.FAIL]
    assert found(judged(run, Objective(error_rate=0.001)), "error-rate") == [Verdict.INCONCLUSIVE]
    assert found(judged(run, Objective(availability=0.9999)), "availability") == [Verdict.INCONCLUSIVE]
    bad = history(services=[series("http", (5050, 6900))])
    assert found(judged(bad, good), "availability") == [Verdict.FAIL]
    assert found(judged(bad, good), "error-rate") == [Verdict.FAIL]


def test_reasons_come_gravest_first() -> None:
    judgement = judged(history(mark(MarkKind.RESIDUE, 19, "acl"), mark(MarkKind.INSTRUMENT, 6, "http")))
    gravity = [list(Verdict).index(r.verdict) for r in judgement.reasons]
    assert gravity == sorted(gravity, reverse=True)
    assert judgement.verdict is Verdict.FAIL


def test_an_empty_history_is_never_a_pass() -> None:
    assert judged(History((), ())).verdict is Verdict.INVALID
    assert measure(History((), ()), SETTINGS).rta is None


def test_being_restored_only_by_taking_the_fault_away_is_no_recovery() -> None:
    verdict = judged(history(mark(MarkKind.PHASE, 6.0, "undo")))
    assert Verdict.FAIL in found(verdict, "recovery")
    assert verdict.verdict is Verdict.FAIL
    assert not found(judged(history(mark(MarkKind.PHASE, 15.0, "undo"))), "recovery")


def test_an_outage_that_only_the_undo_ended_has_no_end() -> None:
    by_itself = measure(history(), SETTINGS).rta
    found = measure(history(mark(MarkKind.PHASE, 6.0, "undo")), SETTINGS)
    assert by_itself is not None
    assert by_itself.hi_s < 3
    assert found.rta is not None
    assert found.rta.lo_s == pytest.approx(6.0 - 5.102)  # down from 5.1 s at the latest until the undo
    assert found.rta.hi_s == math.inf
    assert found.service_restored is None
    assert judged(history(mark(MarkKind.PHASE, 6.0, "undo")), Objective(rto_s=0.5)).verdict is Verdict.FAIL


def test_what_putting_back_brings_about_is_no_part_of_the_recovery() -> None:
    """Undoing the loss of a database makes RDS fail over once more: nobody detected or declared that."""
    later = (MarkKind.DETECTED, MarkKind.DECLARED, MarkKind.RECOVERY_START, MarkKind.RECOVERY_END)
    promoted = [mark(MarkKind.DECLARED, 6.0, "promote"), mark(MarkKind.RECOVERY_END, 6.5, "promote")]
    noise = [mark(kind, 11.0, "rds-failover") for kind in later]
    undo = mark(MarkKind.PHASE, 10.0, "undo")
    with_noise = measure(history(*promoted, undo, *noise), SETTINGS)
    assert with_noise.decomposition == measure(history(*promoted, undo), SETTINGS).decomposition
    assert with_noise.decomposition.ttd is None
    assert with_noise.decomposition.ttm is not None
    assert with_noise.decomposition.ttm.covers(0.5)
    verified = measure(history(undo, mark(MarkKind.DATA_VERIFIED, 12.0)), SETTINGS).rta_verified
    assert verified is not None
    assert verified.covers(12.0 - 5.05)


def test_an_alarm_that_is_the_decision_leaves_nothing_to_decide() -> None:
    """Three seconds between two looks at RDS' events: how long it lasted is not known, but it was one event."""
    wide = [Mark(5 * S, 8 * S, kind, "rds-failover", {}) for kind in (MarkKind.DETECTED, MarkKind.DECLARED)]
    assert measure(history(*wide), SETTINGS).decomposition.tti == Interval(0.0, 0.0)
    by_a_person = replace(wide[1], name="approval")
    found = measure(history(wide[0], by_a_person), SETTINGS).decomposition.tti
    assert found == Interval(-3.0, 3.0)


def test_without_a_plan_there_is_no_start_of_one() -> None:
    found = measure(history(mark(MarkKind.PHASE, 6.4, "recovery"), mark(MarkKind.DECLARED, 6.5, "rds")), SETTINGS)
    assert found.since_plan_start is None
    assert "since_plan_start" in found.unmeasured


def test_a_hypothesis_that_did_not_hold_beforehand_is_a_missing_baseline_though_no_fault_followed() -> None:
    before = mark(MarkKind.HYPOTHESIS, 4, "writes-accepted", when="before", held=False)
    only_before = History((before,), history().series)
    verdict = judged(only_before)
    assert Verdict.INVALID in found(verdict, "baseline")
    assert not found(verdict, "hypothesis")


# --- playbooks --------------------------------------------------------------------------------------------------------


def step(at_s: float, name: str, state: str, **detail: Any) -> Mark:
    return mark(MarkKind.STEP, at_s, name, state=state, **detail)


PLAYED = (
    mark(MarkKind.HYPOTHESIS, 1, "replica-there", when="prerequisite", held=True, why=""),
    mark(MarkKind.DECLARED, 6, "playbook", by="ann"),
    mark(MarkKind.RECOVERY_START, 6, "promote"),
    step(6, "promote", "begun"),
    step(6.8, "promote", "done", result={}),
    mark(MarkKind.RECOVERY_END, 6.8, "promote"),
    step(7.2, "check", "done", already=True),
)
ENDED = (mark(MarkKind.RECOVERED, 19, "toy"), mark(MarkKind.RUN_ENDED, 19, "toy"))


def recovery(*marks: Mark, down: tuple[int, int] = (5050, 6900)) -> History:
    """A playbook's run on a service that went down while it was watched: no fault of drkit's."""
    writes = series("writes", down, role=Role.WRITES)
    return History(marks, (series("http", down), writes), (survivors(writes),))


def test_a_playbook_that_came_to_its_end_passes() -> None:
    verdict = judged(recovery(*PLAYED, *ENDED))
    assert verdict.verdict is Verdict.PASS, verdict.reasons
    assert [r.sentence for r in verdict.reasons if r.what == "steps"] == ["2 of 2 done"]
    assert found(verdict, "prerequisite") == [Verdict.PASS]
    assert found(verdict, "rto") == [Verdict.PASS]


def steps_of(*marks: Mark) -> tuple[Verdict, str]:
    verdict = judged(recovery(*marks))
    (reason,) = (r for r in verdict.reasons if r.what == "steps")
    assert reason.verdict is Verdict.FAIL
    return verdict.verdict, reason.sentence


def test_one_that_stopped_at_a_step_fails_with_the_step_and_why() -> None:
    failed = step(8, "shift-traffic", "failed", why="no such record")
    assert steps_of(*PLAYED, step(7.5, "shift-traffic", "begun"), failed) == (
        Verdict.FAIL,
        "2 steps done, then shift-traffic did not succeed: no such record",
    )


def test_the_step_that_failed_last_is_named_and_not_one_that_was_tried_again() -> None:
    first = (step(2, "early", "begun"), step(3, "early", "failed", why="once"), step(4, "early", "done"))
    two = (step(7.5, "a", "failed", why="x"), step(8, "b", "failed", why="y"))
    assert steps_of(*first, *two)[1] == "1 step done, then b did not succeed: y"


def test_one_that_was_left_is_told_where() -> None:
    assert steps_of(*PLAYED, step(8, "shift", "begun"))[1] == (
        "2 steps done, then left at shift: drkit died or was stopped there"
    )
    assert "(it waited for a person)" in steps_of(*PLAYED, step(8, "approve", "waiting"))[1]
    assert steps_of(*PLAYED)[1] == "left after check: drkit died or was stopped there"


def test_the_end_is_believed_only_if_every_step_is_done() -> None:
    assert steps_of(*PLAYED, step(8, "shift", "begun"), *ENDED)[0] is Verdict.FAIL


def test_a_playbook_that_had_nothing_to_do_proves_nothing() -> None:
    verdict = judged(recovery(step(6, "promote", "done", already=True), *ENDED))
    assert verdict.verdict is Verdict.INVALID
    assert found(verdict, "steps") == [Verdict.INVALID]


def test_a_step_that_was_begun_and_found_done_after_a_kill_is_work() -> None:
    resumed = (step(6, "promote", "begun"), mark(MarkKind.RESUMED, 7, "ann"), step(7, "promote", "done", already=True))
    assert judged(recovery(*resumed, *ENDED)).verdict is Verdict.PASS


def test_a_prerequisite_that_does_not_hold_is_invalid_and_the_last_answer_counts() -> None:
    missing = mark(MarkKind.HYPOTHESIS, 1, "replica-there", when="prerequisite", held=False, why="no replica")
    verdict = judged(recovery(missing))
    assert verdict.verdict is Verdict.INVALID
    (reason,) = (r for r in verdict.reasons if r.what == "prerequisite")
    assert reason.sentence == "a prerequisite did not hold: replica-there: no replica; nothing was touched"
    again = judged(recovery(missing, mark(MarkKind.RESUMED, 2, "ann"), *PLAYED, *ENDED))
    assert found(again, "prerequisite") == [Verdict.PASS]
    assert again.verdict is Verdict.PASS


@pytest.mark.parametrize(
    "early",
    [
        mark(MarkKind.ABORTED, 2, "aborted", why="Ctrl-C"),
        mark(MarkKind.GUARD, 2, "person", why="a person stopped it"),
        mark(MarkKind.INSTRUMENT, 2, "engine", why="the lock was lost"),
        mark(MarkKind.INSTRUMENT, 2, "report", why="disk full"),
    ],
    ids=lambda m: f"{m.kind} {m.name}",
)
def test_what_stopped_an_earlier_process_does_not_count_once_another_went_on(early: Mark) -> None:
    resumed = mark(MarkKind.RESUMED, 3, "ann")
    assert judged(recovery(early, resumed, *PLAYED, *ENDED)).verdict is Verdict.PASS
    for twin in (recovery(resumed, early, *PLAYED, *ENDED), recovery(early, *PLAYED, *ENDED)):
        assert judged(twin).verdict in (Verdict.ABORTED, Verdict.INCONCLUSIVE)


def test_a_clock_that_was_stepped_counts_also_after_a_resume() -> None:
    stepped = mark(MarkKind.CLOCK_STEPPED, 2, "wall clock", why="it moved by 3600.0 s")
    assert judged(recovery(stepped, mark(MarkKind.RESUMED, 3, "ann"), *PLAYED, *ENDED)).verdict is Verdict.INVALID


def test_a_machine_that_was_restarted_in_between_has_no_times_to_compare() -> None:
    verdict = judged(recovery(*PLAYED, mark(MarkKind.RESUMED, 0.5, "ann"), *ENDED))
    assert verdict.verdict is Verdict.INVALID
    assert found(verdict, "clock") == [Verdict.INVALID]


def test_rows_that_could_be_read_later_do_not_spoil_a_playbook() -> None:
    unread = mark(MarkKind.INSTRUMENT, 8, "writes", why="rows not read back: refused")
    run = recovery(*PLAYED, unread, *ENDED)
    assert judged(run).verdict is Verdict.PASS
    (reading,) = run.survivors
    early = replace(reading, read_lo_ns=7 * S, read_hi_ns=7 * S, settled=False)
    assert judged(replace(run, survivors=(early, reading))).verdict is Verdict.PASS
    assert judged(replace(run, survivors=(early,))).verdict is Verdict.INCONCLUSIVE
    assert judged(history(unread)).verdict is Verdict.INCONCLUSIVE  # an experiment reads them once


def test_a_service_that_was_down_before_the_run_is_no_missing_baseline_but_its_rto_needs_a_beginning() -> None:
    down = recovery(*PLAYED, *ENDED, down=(0, 6900))
    verdict = judged(down)
    assert found(verdict, "baseline") == []
    assert verdict.verdict is Verdict.INCONCLUSIVE
    (reason,) = (r for r in verdict.reasons if r.what == "rto")
    assert reason.sentence == "the service was down before this run began; say since when: --since"
    since = mark(MarkKind.IMPACT, -2, "ann")
    told = judged(replace(down, marks=(since, *down.marks)), Objective(rto_s=10))
    assert told.verdict is Verdict.PASS, told.reasons
    assert judged(replace(down, marks=(since, *down.marks)), Objective(rto_s=5)).verdict is Verdict.FAIL


def test_a_person_who_says_it_is_down_while_every_client_is_answered_is_not_overruled() -> None:
    run = recovery(mark(MarkKind.IMPACT, -2, "ann"), *PLAYED, *ENDED, down=(0, 0))
    assert found(judged(run), "rto") == [Verdict.INCONCLUSIVE]


VERIFIED = Objective(rto_s=5.0, verified=True)


@pytest.mark.parametrize(
    ("at_s", "verdict"),
    [
        (9.0, Verdict.PASS),
        (6.0, Verdict.PASS),
        (10.04, Verdict.INCONCLUSIVE),
        (12.0, Verdict.FAIL),
        (None, Verdict.INCONCLUSIVE),
    ],
)
def test_a_promise_of_verified_data_is_kept_when_the_data_is_verified(at_s: float | None, verdict: Verdict) -> None:
    verified = () if at_s is None else (mark(MarkKind.DATA_VERIFIED, at_s, "marker rows"),)
    assert found(judged(recovery(*PLAYED, *verified, *ENDED), VERIFIED), "rto") == [verdict]


def test_verified_data_of_a_service_that_stays_down_is_no_recovery() -> None:
    run = recovery(*PLAYED, mark(MarkKind.DATA_VERIFIED, 8, "marker rows"), *ENDED, down=(5050, 20_000))
    assert found(judged(run, VERIFIED), "rto") == [Verdict.FAIL]


def test_what_was_unrecovered_for_longer_than_promised_failed_whether_verified_or_not() -> None:
    run = recovery(*PLAYED, *ENDED, down=(5050, 15_000))
    assert found(judged(run, VERIFIED), "rto") == [Verdict.FAIL]


def test_a_playbook_that_was_undone_says_so() -> None:
    undone = (mark(MarkKind.UNDO, 9, "promote", ok=True, seq=1), mark(MarkKind.RUN_ENDED, 10, "drkit undo"))
    verdict = judged(recovery(*PLAYED, step(8, "shift", "failed", why="x"), *undone))
    assert verdict.verdict is Verdict.FAIL
    assert found(verdict, "undo") == [Verdict.FAIL]
    assert not any("guardian" in r.sentence for r in verdict.reasons)


# --- what was lost before anybody wrote -------------------------------------------------------------------------------

POINT = MarkKind.RECOVERY_POINT
NONE_BEFORE = (
    "no write of ours was acknowledged before the outage, so none could be lost; what others lost is not known"
)
NO_LOSS = Objective(rpo_s=1.0, lost_writes_max=0)


def rpa_of(run: History) -> Interval | None:
    return measure(run, SETTINGS).rpa


@pytest.mark.parametrize("rpo_s", [0, 1.0, 3600.0])
@pytest.mark.parametrize("told", [(), (mark(MarkKind.IMPACT, -2, "ann"),)], ids=["", "since"])
@pytest.mark.parametrize("down", [(0, 6900), (0, 20_000)], ids=["restored", "never"])
def test_nothing_lost_of_nothing_is_no_recovery_point(
    rpo_s: float, told: tuple[Mark, ...], down: tuple[int, int]
) -> None:
    run = recovery(*told, *PLAYED, *ENDED, down=down)
    numbers = measure(run, SETTINGS)
    assert numbers.rpa is None
    assert numbers.unmeasured["rpa"] == NONE_BEFORE
    assert numbers.losses[0].acknowledged == 0
    verdict = judged(run, Objective(rpo_s=rpo_s, lost_writes_max=0))
    assert found(verdict, "rpo") == found(verdict, "lost-writes") == [Verdict.INCONCLUSIVE]
    assert all(NONE_BEFORE in r.sentence for r in verdict.reasons if r.what in ("rpo", "lost-writes"))


def test_a_write_acknowledged_before_the_outage_is_enough_and_a_promotion_does_not_widen_it() -> None:
    run = recovery(*PLAYED, mark(POINT, 3, "promote"), *ENDED)
    assert rpa_of(run) == Interval(0.0, 0.1)
    verdict = judged(run, NO_LOSS)
    assert found(verdict, "rpo") == found(verdict, "lost-writes") == [Verdict.PASS]


@pytest.mark.parametrize(
    ("told_s", "point_s", "most_s"),
    [(None, -40.0, 40.002), (-30.0, -40.0, 10.01), (-30.0, -30.0, 0.01), (-30.0, -20.0, 0.0)],
)
def test_the_recovery_point_bounds_what_others_lost(told_s: float | None, point_s: float, most_s: float) -> None:
    told = () if told_s is None else (mark(MarkKind.IMPACT, told_s, "ann"),)
    run = recovery(*told, *PLAYED, mark(POINT, point_s, "promote"), *ENDED, down=(0, 6900))
    rpa = rpa_of(run)
    assert rpa is not None
    assert (rpa.lo_s, round(rpa.hi_s, 6)) == (0.0, most_s)
    assert found(judged(run, Objective(rpo_s=45)), "rpo") == [Verdict.PASS]
    assert found(judged(run, Objective(rpo_s=5)), "rpo") == [
        Verdict.INCONCLUSIVE if most_s > 5 else Verdict.PASS  # at most: so it never fails by this
    ]
    nothing = [Verdict.PASS if most_s == 0 else Verdict.INCONCLUSIVE]
    assert found(judged(run, Objective(rpo_s=0)), "rpo") == nothing


def test_what_we_lost_of_later_writes_counts_although_the_run_began_in_an_outage() -> None:
    writes = series("writes", (0, 1000), (5000, 7000), role=Role.WRITES)
    lost = range(15, 50)  # acknowledged between the two outages
    run = History((*PLAYED, *ENDED), (writes,), (survivors(writes, without=lost),))
    assert rpa_of(run) == Interval(3.4, math.inf)
    assert found(judged(run, Objective(rpo_s=1)), "rpo") == [Verdict.FAIL]
    assert found(judged(run, Objective(rpo_s=9, lost_writes_max=0)), "rpo") == [Verdict.INCONCLUSIVE]
    assert found(judged(run, Objective(rpo_s=9, lost_writes_max=0)), "lost-writes") == [Verdict.FAIL]


def test_a_write_that_got_lost_after_the_restoration_is_no_recovery_point_of_an_outage_before_the_run() -> None:
    run = recovery(*PLAYED, *ENDED, down=(0, 6900))
    writes = run.series[1]
    verdict = judged(replace(run, survivors=(survivors(writes, without=[150]),)))
    assert found(verdict, "integrity") == [Verdict.FAIL]
    assert found(verdict, "rpo") == [Verdict.INCONCLUSIVE]


def test_a_person_who_says_it_was_down_while_every_client_is_answered_leaves_the_recovery_point_open() -> None:
    told = mark(MarkKind.IMPACT, -2, "ann")
    assert found(judged(recovery(told, *PLAYED, *ENDED, down=(0, 0)), NO_LOSS), "rpo") == [Verdict.INCONCLUSIVE]
    assert rpa_of(recovery(told, mark(POINT, -9, "restore"), *PLAYED, *ENDED, down=(0, 0))) == Interval(0.0, 7.01)


def test_a_drill_is_as_far_behind_as_its_backup_only_if_nothing_failed() -> None:
    point = mark(POINT, 2, "restore")
    assert rpa_of(recovery(*PLAYED, point, *ENDED, down=(0, 0))) == Interval(0.0, 4.01)
    assert rpa_of(recovery(*PLAYED, point, *ENDED)) == Interval(0.0, 0.1)


def test_an_experiment_has_its_recovery_point_as_ever() -> None:
    writes = series("writes", (0, 7000), role=Role.WRITES)
    run = History(FAULT, (writes,), (survivors(writes),))
    assert rpa_of(run) == Interval(0.0, 0.1)
    assert judged(run).verdict is Verdict.INVALID  # without a baseline


# --- between two processes --------------------------------------------------------------------------------------------


def alive(kind: MarkKind, at_s: float, boot: str | None, ahead_s: float | None) -> Mark:
    more: dict[str, Any] = {} if boot is None else {"boot_id": boot}
    return mark(kind, at_s, "ann", **more, **({} if ahead_s is None else {"wall_minus_monotonic_ns": int(ahead_s * S)}))


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        (("a", 100.0), ("a", 100.9), ""),
        (("a", 100.0), ("b", 100.0), "restarted"),
        (("a", 100.0), ("a", 101.1), "asleep"),
        (("a", 100.0), ("a", 98.9), "asleep"),
        (("", 100.0), ("b", 100.0), ""),  # not on Linux
        (("", 100.0), ("", 3700.0), "asleep"),
        ((None, None), ("b", 3700.0), ""),  # begun by drkit before it wrote them down
        (("a", 100.0), (None, None), ""),
    ],
)
def test_a_restart_and_sleep_between_two_processes_are_found(
    first: tuple[str | None, float | None], then: tuple[str | None, float | None], said: str
) -> None:
    started = alive(MarkKind.RUN_STARTED, 0, *first)
    resumed = alive(MarkKind.RESUMED, 6.3, *then)
    verdict = judged(recovery(started, *PLAYED[:4], resumed, *PLAYED[4:], *ENDED))
    assert verdict.verdict is (Verdict.INVALID if said else Verdict.PASS), verdict.reasons
    assert found(verdict, "clock") == ([Verdict.INVALID] if said else [])
    assert all(said in r.sentence for r in verdict.reasons if r.what == "clock")


def test_each_process_is_compared_with_the_last_one_that_wrote_it_down() -> None:
    lives = [alive(MarkKind.RUN_STARTED, 0, "a", 100), alive(MarkKind.RESUMED, 1, None, None)]
    again = alive(MarkKind.RESUMED, 2, "b", 100)
    assert judged(recovery(*lives, *PLAYED[:1], again, *PLAYED[1:], *ENDED)).verdict is Verdict.INVALID


SLO = Objective(availability=0.5, p95_s=1.0, error_rate=0.5)


def with_gap(lo_s: float, hi_s: float, *, objective: Objective, resumed: bool = True, seqs: bool = False) -> Judgement:
    run = recovery(*PLAYED, *((mark(MarkKind.RESUMED, hi_s - 0.01, "ann"),) if resumed else ()), *ENDED)
    cut = []
    for s in run.series:
        kept = tuple(a for a in s.attempts if not lo_s * S <= a.sent_ns < hi_s * S)
        first = min((a.seq for a in kept if a.sent_ns >= hi_s * S), default=999)
        cut.append(replace(s, attempts=kept, unrecorded=((first - 1, first),) if seqs else ()))
    return judged(replace(run, series=tuple(cut)), objective)


@pytest.mark.parametrize("how", [{}, {"resumed": False, "seqs": True}, {"seqs": True}], ids=["mark", "seq", "both"])
def test_no_promise_of_all_the_time_passes_where_nobody_watched(how: dict[str, bool]) -> None:
    verdict = with_gap(10, 12, objective=SLO, **how)
    for what in ("availability", "p95", "error-rate"):
        assert found(verdict, what) == [Verdict.INCONCLUSIVE]
    assert all("but nobody watched for 2.1 s" in r.sentence for r in verdict.reasons if r.what == "p95")
    worse = with_gap(10, 12, objective=Objective(availability=0.9999, p95_s=0.001, error_rate=0.001), **how)
    for what in ("availability", "p95", "error-rate"):
        assert found(worse, what) == [Verdict.FAIL]  # what was seen is bad enough


def test_nobody_watched_to_the_end_if_no_probe_went_on() -> None:
    assert found(with_gap(10, 99, objective=SLO), "p95") == [Verdict.INCONCLUSIVE]


def test_promises_of_all_the_time_pass_in_one_life() -> None:
    verdict = with_gap(10, 10, objective=SLO, resumed=False)
    for what in ("availability", "p95", "error-rate"):
        assert found(verdict, what) == [Verdict.PASS]


LOOKED = (step(5, "there", "begun"), step(6, "there", "done", looked=True))
APPROVED = (
    step(5, "ok", "waiting"),
    mark(MarkKind.ANSWER, 5.5, "ok", by="bob", yes=True),
    step(5.6, "ok", "done", result={"by": "bob"}),
)
READ = (step(8, "ledger", "begun"), step(9, "ledger", "done"), mark(MarkKind.DATA_VERIFIED, 9, "ledger"))


@pytest.mark.parametrize("only", [LOOKED, APPROVED, READ, (*LOOKED, *APPROVED, *READ)])
def test_looking_asking_and_reading_are_no_recovery(only: tuple[Mark, ...]) -> None:
    there = step(6, "promote", "done", already=True)
    assert found(judged(recovery(*only, there, *ENDED)), "steps") == [Verdict.INVALID]
    promoted = (step(6, "promote", "begun"), step(7, "promote", "done"))
    assert found(judged(recovery(*only, *promoted, *ENDED)), "steps") == [Verdict.PASS]


@pytest.mark.parametrize("only", [LOOKED, APPROVED, READ])
def test_a_playbook_of_nothing_else_did_what_it_is_for(only: tuple[Mark, ...]) -> None:
    assert found(judged(recovery(*only, *ENDED)), "steps") == [Verdict.PASS]
