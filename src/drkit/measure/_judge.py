"""The verdict on one run, with its reasons.

Three questions, gravest first: does the run prove anything (INVALID, ABORTED), did the system fail (FAIL), could we
tell (INCONCLUSIVE)? Only what is left over passes. Each check yields reasons; none of them can undo another's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from drkit.measure._quality import unwatched_s
from drkit.measure._run import NONE_BEFORE, acknowledged_before_outage, recovery_time
from drkit.measure._steps import judge_steps
from drkit.model import (
    Connection,
    History,
    Interval,
    Judgement,
    LossAccount,
    Mark,
    MarkKind,
    Measurement,
    Objective,
    Outcome,
    Reason,
    Role,
    Series,
    Verdict,
)
from drkit.standing import is_playbook, since_resumed

_MAX_TICKS_LOST = 0.01
_PROMISES = frozenset({"rto", "rpo", "lost-writes", "availability", "p95", "error-rate", "hypothesis"})


def judge(measurement: Measurement, history: History, objective: Objective) -> Judgement:
    """Return the verdict and every point that was looked at, gravest first.

    A promise is an objective or a hypothesis after the fault; a run in which none was judged is INCONCLUSIVE. mttr_s is
    a promise about many runs and not judged here. docs/measurement.md, "Verdicts".
    """
    service = [s for s in history.series if s.role is not Role.WITNESS]
    reasons = [
        *_aborted(history),
        *_fault(history),
        *_baseline(measurement, history, service),
        *_instruments(history, service),
        *_put_back(history),
        *_hypothesis(history),
        *judge_steps(history.marks),
        *_recovery(measurement, history, service),
        *_recovery_time(measurement, history, service, objective),
        *_recovery_point(measurement, history, service, objective),
        *_service_level(measurement, history, service, objective),
    ]
    if not any(r.what in _PROMISES for r in reasons):
        reasons.append(Reason(Verdict.INCONCLUSIVE, "objective", "nothing was promised, so nothing was judged"))
    gravity = list(Verdict)
    reasons.sort(key=lambda r: -gravity.index(r.verdict))
    return Judgement(Verdict.worst(r.verdict for r in reasons), tuple(reasons))


# --- does the run prove anything? -------------------------------------------------------------------------------------


def _aborted(history: History) -> Iterator[Reason]:
    for mark in _current(history, MarkKind.ABORTED):
        yield Reason(Verdict.ABORTED, "aborted", f"the run was stopped: {_words(mark)}")
    for mark in _current(history, MarkKind.GUARD):
        yield Reason(Verdict.ABORTED, "guard", f"a guard tripped: {_words(mark)}")
    for mark in _of(history, MarkKind.GUARDIAN):
        yield Reason(Verdict.INCONCLUSIVE, "guardian", f"drkit died and the guardian put things back: {_words(mark)}")
    for mark in _of(history, MarkKind.RUN_ENDED):
        if mark.name == "drkit undo" and not is_playbook(history.marks):
            words = "drkit and its guardian died; later a person put things back with drkit undo"
            yield Reason(Verdict.INCONCLUSIVE, "undo", words)


def _fault(history: History) -> Iterator[Reason]:
    if is_playbook(history.marks):
        return
    toothless = _of(history, MarkKind.TOOTHLESS)
    for mark in toothless:
        yield Reason(Verdict.INVALID, "fault", f"the fault did not bite: {_words(mark)}")
    requested = _of(history, MarkKind.FAULT_REQUESTED)
    if not requested and not _of(history, MarkKind.RECOVERY_START):
        yield Reason(Verdict.INVALID, "fault", "nothing was tested: no fault was requested and no recovery begun")
    seen = _of(history, MarkKind.FAULT_EFFECTIVE)
    for name in dict.fromkeys(mark.name for mark in requested):
        last_request_ns = max(m.t_lo_ns for m in requested if m.name == name)
        if any(m.t_hi_ns >= last_request_ns and name in (m.name, m.detail.get("fault")) for m in seen):
            yield Reason(Verdict.PASS, "fault", f"{name} was seen to take effect")
        else:
            yield Reason(Verdict.INVALID, "fault", f"{name} was never seen to take effect")


def _baseline(measurement: Measurement, history: History, service: list[Series]) -> Iterator[Reason]:
    for mark in _of(history, MarkKind.BASELINE_MISSING):
        yield Reason(Verdict.INVALID, "baseline", f"no steady state before the fault: {_words(mark)}")
    fault_ns = _first_fault_ns(history)
    headline = [s for s in service if s.name in measurement.headline_series]
    if not headline:
        yield Reason(Verdict.INVALID, "baseline", "no probe stood for the service")
    if is_playbook(history.marks):  # it may begin when the service is down already
        return
    for series in headline:
        if not _answered_before(series, fault_ns):
            yield Reason(Verdict.INVALID, "baseline", f"{series.name}: nothing succeeded before the fault")
        for outage in measurement.outages:
            if outage.series != series.name or fault_ns is None or outage.start_hi_ns >= fault_ns:
                continue
            if outage.end_hi_ns is None or outage.end_hi_ns >= fault_ns:
                yield Reason(
                    Verdict.INVALID, "baseline", f"{series.name}: it was failing before the fault was requested"
                )


def _instruments(history: History, service: list[Series]) -> Iterator[Reason]:
    for mark in _of(history, MarkKind.CLOCK_STEPPED):
        yield Reason(Verdict.INVALID, "clock", f"a clock was stepped during the run: {_words(mark)}")
    for mark in _current(history, MarkKind.INSTRUMENT):
        if not (is_playbook(history.marks) and _read_later(mark, history)):
            yield Reason(Verdict.INCONCLUSIVE, "instrument", f"an instrument failed: {_words(mark)}")
    for series in service:
        if series.ticks_lost > _MAX_TICKS_LOST * series.ticks_due:
            share = f"{series.ticks_lost} of {series.ticks_due} ticks"
            yield Reason(Verdict.INVALID, "instrument", f"{series.name} lost {share}: more than 1 %")
        if not series.complete:
            yield Reason(
                Verdict.INCONCLUSIVE, "instrument", f"{series.name}: the probe died before it was told to stop"
            )


# --- did the system fail? ---------------------------------------------------------------------------------------------


def _put_back(history: History) -> Iterator[Reason]:
    for mark in _of(history, MarkKind.RESIDUE):
        yield Reason(Verdict.FAIL, "residue", f"something was left behind: {_words(mark)}")
    undone = _of(history, MarkKind.UNDO)
    for mark in undone:
        if mark.detail.get("ok") is not True and not any(_retried(mark, later) for later in undone):
            yield Reason(Verdict.FAIL, "undo", f"could not be put back: {_words(mark)}")
    asked = any(m.name == "redundancy" for m in _of(history, MarkKind.PHASE))
    if asked and not _of(history, MarkKind.REDUNDANCY_RESTORED):
        yield Reason(Verdict.FAIL, "redundancy", "redundancy was not restored: the next failure may not be survivable")


def _retried(failed: Mark, later: Mark) -> bool:
    """Return whether a later undo of the very same record went well."""
    seq = failed.detail.get("seq")
    return (
        seq is not None
        and later.detail.get("seq") == seq
        and later.detail.get("ok") is True
        and later.t_lo_ns >= failed.t_lo_ns
    )


def _hypothesis(history: History) -> Iterator[Reason]:
    fault_ns = _first_fault_ns(history)
    for mark in _of(history, MarkKind.HYPOTHESIS):
        if mark.detail.get("when") == "prerequisite":
            continue  # of a playbook: judge_steps
        held = mark.detail.get("held")
        before = mark.detail.get("when") == "before" or (fault_ns is not None and mark.t_lo_ns < fault_ns)
        if before and held is not True:
            yield Reason(Verdict.INVALID, "baseline", f"the hypothesis did not hold before the fault: {_words(mark)}")
        elif held is True and not before:
            yield Reason(Verdict.PASS, "hypothesis", f"held after the fault: {mark.name}")
        elif held is False:
            yield Reason(Verdict.FAIL, "hypothesis", f"did not hold after the fault: {_words(mark)}")
        elif not before:
            yield Reason(Verdict.INCONCLUSIVE, "hypothesis", f"could not be asked after the fault: {_words(mark)}")


def _recovery(measurement: Measurement, history: History, service: list[Series]) -> Iterator[Reason]:
    undo_ns = min((m.t_lo_ns for m in _of(history, MarkKind.PHASE) if m.name == "undo"), default=math.inf)
    died = {s.name for s in service if not s.complete}
    pooled = {s.name for s in service if s.connection is Connection.POOLED}
    for outage in measurement.outages:
        if not outage.recovered:
            who = f"{outage.series} (pooled connections)" if outage.series in pooled else outage.series
            verdict = Verdict.INCONCLUSIVE if outage.series in died else Verdict.FAIL
            yield Reason(
                verdict, "recovery", f"{who} was not restored: down > {outage.lasted.lo_s:.3f} s, as long as seen"
            )
        elif outage.start_hi_ns < undo_ns < (outage.end_hi_ns or 0):
            # Nobody was answered until drkit took the fault away; on a real night it would have stayed.
            yield Reason(
                Verdict.FAIL,
                "recovery",
                f"{outage.series} was not restored while the fault was there, only by putting it back",
            )


def _recovery_time(
    measurement: Measurement, history: History, service: list[Series], objective: Objective
) -> Iterator[Reason]:
    if objective.rto_s is None:
        return
    told = bool(_of(history, MarkKind.IMPACT))
    headline = [s for s in service if s.name in measurement.headline_series]
    if is_playbook(history.marks) and not told and not all(_answered_before(s, None) for s in headline):
        why = "the service was down before this run began; say since when: --since"
        yield Reason(Verdict.INCONCLUSIVE, "rto", why)
    elif told and measurement.impact is None and measurement.rta is not None:
        why = "a person said since when the service is down, and no client saw it fail"
        yield Reason(Verdict.INCONCLUSIVE, "rto", why)
    else:
        achieved, why = recovery_time(measurement, objective)
        name = "RTO, data verified," if objective.verified else "RTO"
        yield _against("rto", name, achieved, objective.rto_s, why)


def _recovery_point(
    measurement: Measurement, history: History, service: list[Series], objective: Objective
) -> Iterator[Reason]:
    settled = True
    readings = history.survivors
    if is_playbook(history.marks):  # it may read them again and again until they have settled
        readings = tuple({r.series: r for r in sorted(readings, key=lambda r: r.read_lo_ns)}.values())
    for reading in readings:
        if not reading.settled:
            settled = False
            yield Reason(Verdict.INCONCLUSIVE, "rpo", f"{reading.series}: two readings of its rows never agreed")
    read_back = {r.series for r in history.survivors}
    for series in service:
        if series.role is Role.WRITES and series.name not in read_back:
            settled = False
            yield Reason(Verdict.INCONCLUSIVE, "rpo", f"{series.name}: its rows were not read back")
    for loss in measurement.losses:
        yield _integrity(loss)
    writers = [s for s in service if s.role is Role.WRITES]
    before = all(acknowledged_before_outage(history, s) for s in writers)
    if objective.lost_writes_max is not None:
        yield _lost_writes(measurement, objective.lost_writes_max, settled=settled, before=before)
    if objective.rpo_s is None:
        return
    nothing_lost = bool(measurement.losses) and not any(loss.lost for loss in measurement.losses)
    if objective.rpo_s == 0 and nothing_lost and settled and before:
        yield Reason(Verdict.PASS, "rpo", "no acknowledged write was lost, target 0 s")
    else:
        yield _against("rpo", "RPO", measurement.rpa, objective.rpo_s, measurement.unmeasured.get("rpa", ""))


def _lost_writes(measurement: Measurement, most: int, *, settled: bool, before: bool) -> Reason:
    """before: each writer has an acknowledged write from before the outage."""
    lost = sum(len(loss.lost) for loss in measurement.losses)
    acknowledged = sum(loss.acknowledged for loss in measurement.losses)
    text = f"{lost} of {acknowledged} acknowledged writes lost, at most {most} may be"
    if lost > most:
        return Reason(Verdict.FAIL, "lost-writes", text)
    if not before:
        return Reason(Verdict.INCONCLUSIVE, "lost-writes", NONE_BEFORE)
    if not (settled and acknowledged):
        return Reason(Verdict.INCONCLUSIVE, "lost-writes", "whether acknowledged writes were lost is not known for all")
    return Reason(Verdict.PASS, "lost-writes", text)


def _integrity(loss: LossAccount) -> Reason:
    found: Mapping[str, int] = {
        "phantom": len(loss.phantom),
        "resurrected": len(loss.resurrected),
        "corrupt": len(loss.corrupt),
        "duplicated": len(loss.duplicated),
        "surviving after the first lost one": loss.holes,
        "lost after the service was restored": len(loss.lost_later),
    }
    account = f"{loss.series}: {len(loss.lost)} lost of {loss.acknowledged} acknowledged, {loss.unknown} unknown"
    if loss.integrity_broken:
        wrong = ", ".join(f"{n} {what}" for what, n in found.items() if n)
        return Reason(Verdict.FAIL, "integrity", f"{account}; {wrong}")
    return Reason(Verdict.PASS, "integrity", f"{account}; nothing phantom, resurrected, corrupt or duplicated")


def _service_level(
    measurement: Measurement, history: History, service: list[Series], objective: Objective
) -> Iterator[Reason]:
    """Yield the worst series of each promise; p95 and errors are promised of the service, not of our marker writes.

    None of them passes if for a while, between two processes that played a run, nobody watched.
    """
    unwatched = {s.name: unwatched_s(s, history.marks) for s in service}

    def judged(verdict: Verdict, what: str, name: str, text: str) -> Reason:
        if verdict is Verdict.PASS and unwatched[name]:
            return Reason(Verdict.INCONCLUSIVE, what, f"{text}, but nobody watched for {unwatched[name]:.1f} s")
        return Reason(verdict, what, text)

    headline = [s for s in service if s.name in measurement.headline_series]
    users = {s.name for s in headline if s.role is Role.SERVICE} or {s.name for s in headline}
    seen = [a for a in measurement.availability if a.series in users]
    waits = [found for found in measurement.latency if found.series in users]
    if objective.availability is not None:
        if not seen:
            yield Reason(Verdict.INCONCLUSIVE, "availability", "availability was not measured")
        for a in seen:
            unavailable = Interval(1 - a.time_share_hi, 1 - a.time_share_lo)
            text = (
                f"{a.series} was available for [{a.time_share_lo:.4%}, {a.time_share_hi:.4%}] of {a.observed_s:.1f} s"
            )
            verdict = unavailable.judge(1 - objective.availability)
            yield judged(verdict, "availability", a.series, f"{text}, target {objective.availability:.4%}")
    if objective.p95_s is not None:
        if not waits:
            yield Reason(Verdict.INCONCLUSIVE, "p95", "latency was not measured")
        for found in waits:
            verdict = Verdict.PASS if found.p95_s <= objective.p95_s else Verdict.FAIL
            text = f"{found.series}: p95 {found.p95_s * 1000:.1f} ms of {found.count} requests"
            yield judged(verdict, "p95", found.series, f"{text}, target {objective.p95_s * 1000:.1f} ms")
    if objective.error_rate is not None:
        if not seen:
            yield Reason(Verdict.INCONCLUSIVE, "error-rate", "the error rate was not measured")
        for a in seen:
            failures = a.eligible - a.good
            sure = f"at most {a.error_rate_upper95:.3%} with 95 % confidence"
            text = f"{a.series}: {failures} of {a.eligible} requests failed, {sure}"
            verdict = Verdict.INCONCLUSIVE
            if failures > objective.error_rate * a.eligible:
                verdict = Verdict.FAIL
            elif a.error_rate_upper95 <= objective.error_rate:
                verdict = Verdict.PASS
            yield judged(verdict, "error-rate", a.series, f"{text}, target {objective.error_rate:.3%}")


# --- small questions --------------------------------------------------------------------------------------------------


def _against(what: str, name: str, achieved: Interval | None, limit_s: float, why_not: str) -> Reason:
    if achieved is None:
        return Reason(Verdict.INCONCLUSIVE, what, f"{name} could not be measured: {why_not or 'no reason known'}")
    bounds = (
        f"[{achieved.lo_s:.3f} s, {achieved.hi_s:.3f} s]" if achieved.hi_s < math.inf else f"> {achieved.lo_s:.3f} s"
    )
    return Reason(achieved.judge(limit_s), what, f"{name} achieved {bounds}, target {limit_s:g} s")


def _of(history: History, kind: MarkKind) -> list[Mark]:
    return [m for m in history.marks if m.kind is kind]


def _current(history: History, kind: MarkKind) -> list[Mark]:
    """Return the marks of a kind that the process wrote which played the run last.

    What stopped an earlier one, or went wrong in it, is over where another went on. A clock that was stepped is not:
    times on both sides of it are compared.
    """
    return [m for m in since_resumed(history.marks) if m.kind is kind]


def _read_later(failed: Mark, history: History) -> bool:
    """Return whether a mark is of a writer's rows that could not be read back then, and could be later."""
    if not str(failed.detail.get("why", "")).startswith("rows not read back"):
        return False
    return any(r.series == failed.name and r.read_hi_ns >= failed.t_hi_ns for r in history.survivors)


def _answered_before(series: Series, fault_ns: int | None) -> bool:
    """Return whether anything succeeded before the fault; without one, before the first failure."""
    failed_ns = min((a.sent_ns for a in series.attempts if a.outcome is not Outcome.OK), default=math.inf)
    before_ns = failed_ns if fault_ns is None else fault_ns
    return any(a.outcome is Outcome.OK and a.done_ns <= before_ns for a in series.attempts)


def _first_fault_ns(history: History) -> int | None:
    return min((m.t_lo_ns for m in _of(history, MarkKind.FAULT_REQUESTED)), default=None)


def _words(mark: Mark) -> str:
    """Return a mark's name and what its detail says to people."""
    said = next((str(mark.detail[k]) for k in ("why", "sentence", "message") if mark.detail.get(k)), "")
    return f"{mark.name}: {said}" if said and mark.name else mark.name or said
