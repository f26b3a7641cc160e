"""All numbers of one run, from its history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from drkit.measure._loss import account
from drkit.measure._outage import in_send_order, longest_gap_ns, outages
from drkit.measure._quality import availability, latency, slo_restored
from drkit.measure._settings import NS_PER_S, Settings
from drkit.model import (
    Connection,
    Decomposition,
    History,
    Interval,
    LossAccount,
    Mark,
    MarkKind,
    Measurement,
    Objective,
    Outage,
    Outcome,
    Role,
    Series,
)
from drkit.standing import is_playbook

Moment = tuple[int, int]  # lo_ns, hi_ns
NONE_BEFORE = (
    "no write of ours was acknowledged before the outage, so none could be lost; what others lost is not known"
)


def measure(history: History, settings: Settings) -> Measurement:
    """Return all numbers of one run; an absent one is None, with the reason in `unmeasured`.

    The headline RTA is the span from the first impact to the last restoration over the series that stand for the
    service with fresh connections (over the pooled ones only where there is no other). Outages that were over before
    the first fault was requested are listed and do not count. One that was over only after drkit began to take the
    fault away has no end: on a real night the fault would have stayed.
    """
    service = [s for s in history.series if s.role is not Role.WITNESS]
    headline = [s for s in service if s.connection is Connection.FRESH] or service
    fault = _fault(history.marks)
    undo_ns = _undo_ns(history.marks)
    by_series = {s.name: outages(s, settings) for s in service}
    told = _moment(_first(history.marks, MarkKind.IMPACT))
    spans = {s.name: _span(s, by_series[s.name], fault, undo_ns, told, settings) for s in service}
    total = _hull([spans[s.name] for s in headline])

    unmeasured: dict[str, str] = {}
    if total.lasted is None:
        unmeasured["rta"] = total.why
    between = _Differences(unmeasured, total.impact, total.restored)
    marks = tuple(m for m in history.marks if m.t_lo_ns < undo_ns or m.kind in _AFTER_UNDO)
    losses = _losses(history, service, spans, by_series, fault, unmeasured)
    drill = told is None and not any(by_series.values())
    rpa = (_of_backup(marks, losses) if drill else None) or _worst([loss.rpa for loss in losses])
    if rpa == _ANYTHING:
        rpa, unmeasured["rpa"] = None, NONE_BEFORE
    return Measurement(
        outages=tuple(
            sorted((o for found in by_series.values() for o in found), key=lambda o: (o.start_lo_ns, o.series))
        ),
        headline_series=tuple(s.name for s in headline),
        impact=total.impact,
        service_restored=total.restored,
        rta=total.lasted,
        rta_slo=_rta_slo(headline, total, settings, unmeasured),
        rta_verified=between.since_impact(
            "rta_verified",
            _first(marks, MarkKind.DATA_VERIFIED),
            instead=_drill_start(marks),
        ),
        since_recovery_start=between.until_restored("since_recovery_start", _first(marks, MarkKind.RECOVERY_START)),
        since_plan_start=between.until_restored("since_plan_start", _plan_start(marks)),
        redundancy=between.since_impact("redundancy", _last(marks, MarkKind.REDUNDANCY_RESTORED), instead=fault),
        decomposition=_decompose(marks, between),
        losses=losses,
        rpa=rpa,
        availability=tuple(availability(s, by_series[s.name], settings) for s in service if s.attempts),
        latency=tuple(found for s in service if (found := latency(s)) is not None),
        rta_by_series={name: span.lasted for name, span in spans.items() if span.lasted is not None},
        unmeasured=unmeasured,
    )


def recovery_time(measurement: Measurement, objective: Objective) -> tuple[Interval | None, str]:
    """Return what is held against rto_s, and why there is nothing if there is nothing.

    Where the promise is about verified data, it is the later of SERVICE_RESTORED and DATA_VERIFIED, since IMPACT_START.
    """
    m = measurement
    if objective.verified and m.impact is None and m.rta is not None and m.rta_verified is not None:
        return _worst([m.rta, m.rta_verified]), ""  # a drill: nothing failed, and what it restored was verified
    if not objective.verified or m.impact is None or m.rta is None:
        return m.rta, m.unmeasured.get("rta", "")
    if m.rta_verified is not None:
        return _worst([m.rta, m.rta_verified]), ""
    if objective.rto_s is not None and m.rta.lo_s > objective.rto_s:  # verified even later
        return Interval(m.rta.lo_s, math.inf), ""
    return None, "the data was never verified"


def acknowledged_before_outage(history: History, series: Series) -> bool:
    """Return whether a writer has an acknowledged write from before the outage, so that there was one to lose.

    Only a playbook may begin when the service is down; an experiment without such a write has no baseline and is
    INVALID. Without an outage, told or seen, any acknowledged write will do.
    """
    if not is_playbook(history.marks):
        return True
    return _acknowledged_by(series, min(_told_ns(history.marks), _first_failure_ns(series)))


# --- impact and restoration -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Span:
    """From the first impact to the last restoration. `lasted` None: not measurable, `why` says why."""

    impact: Moment | None = None
    restored: Moment | None = None
    last_failure_ns: int = 0
    lasted: Interval | None = None
    why: str = ""


def _span(
    series: Series,
    found: Sequence[Outage],
    fault: Moment | None,
    undo_ns: float,
    told: Moment | None,
    settings: Settings,
) -> _Span:
    """Return what one series knows of the outages since the fault.

    told: since when the service was down, of a recovery that began after its outage; nothing is known of it here.
    """
    counted = [o for o in found if fault is None or o.end_hi_ns is None or o.end_hi_ns >= fault[0]]
    if not counted:
        return _untouched(series, fault, settings)
    first, last = counted[0], counted[-1]
    successes = [a for a in series.attempts if a.outcome is Outcome.OK]
    older = first.recovered and math.isinf(first.lasted.hi_s)
    unseen = older or not any(a.done_ns <= first.start_hi_ns and a.sent_ns <= first.start_lo_ns for a in successes)
    if unseen and told is None:
        ended = None if last.end_lo_ns is None or last.end_hi_ns is None else (last.end_lo_ns, last.end_hi_ns)
        return _Span(restored=ended, why=f"{series.name}: nothing succeeded before the first failure")
    impact = told if unseen and told is not None else (first.start_lo_ns, first.start_hi_ns)
    last_failure_ns = max(a.sent_ns for a in series.attempts if a.outcome is not Outcome.OK)
    if last.end_lo_ns is None or last.end_hi_ns is None:
        return _Span(impact, None, last_failure_ns, _difference((last_failure_ns, math.inf), impact, floor_s=0.0))
    cured = [o.end_lo_ns for o in counted if o.end_lo_ns and o.end_hi_ns and o.start_hi_ns < undo_ns < o.end_hi_ns]
    if cured:
        down_until_ns = min(int(undo_ns), max(cured))
        return _Span(impact, None, down_until_ns, _difference((down_until_ns, math.inf), impact, floor_s=0.0))
    restored = (last.end_lo_ns, last.end_hi_ns)
    lasted = first.lasted if first is last and not unseen else _difference(restored, impact, floor_s=0.0)
    return _Span(impact, restored, last_failure_ns, lasted)


def _untouched(series: Series, fault: Moment | None, settings: Settings) -> _Span:
    """Return the span of a series without a failure: at most its longest gap, if it was watched for W afterwards."""
    successes = [a for a in in_send_order(series.attempts) if a.outcome is Outcome.OK]
    since_ns = -math.inf
    if fault is not None:
        watched_ns = max((a.sent_ns for a in successes), default=fault[1]) - fault[1]
        if watched_ns < settings.window_ns:
            return _Span(why=f"{series.name}: not watched for {settings.window_s:g} s after the fault")
        since_ns = max((a.sent_ns for a in successes if a.done_ns <= fault[0]), default=-math.inf)
    gap_ns = longest_gap_ns(successes, sent_from_ns=since_ns)
    if gap_ns is None:
        return _Span(why=f"{series.name}: fewer than two attempts succeeded")
    return _Span(lasted=Interval(0.0, gap_ns / NS_PER_S))


def _hull(spans: Sequence[_Span]) -> _Span:
    """Return the span over several series: from the earliest impact to the latest restoration."""
    if not spans:
        return _Span(why="no probe stood for the service")
    known = [s.lasted for s in spans if s.lasted is not None]
    if len(known) < len(spans):
        return _Span(why="; ".join(s.why for s in spans if s.why))
    hit = [s for s in spans if s.impact is not None]
    if not hit:
        return _Span(lasted=_worst(known))
    if len(hit) == 1:
        return hit[0]
    impacts = [s.impact for s in hit if s.impact is not None]
    ends = [s.restored for s in hit if s.restored is not None]
    impact = (min(lo for lo, _ in impacts), min(hi for _, hi in impacts))
    last_failure_ns = max(s.last_failure_ns for s in hit)
    if len(ends) < len(hit):
        return _Span(impact, None, last_failure_ns, _difference((last_failure_ns, math.inf), impact, floor_s=0.0))
    restored = (max(lo for lo, _ in ends), max(hi for _, hi in ends))
    return _Span(impact, restored, last_failure_ns, _difference(restored, impact, floor_s=0.0))


def _rta_slo(
    headline: Sequence[Series], total: _Span, settings: Settings, unmeasured: dict[str, str]
) -> Interval | None:
    """Return SLO_RESTORED − IMPACT_START; never earlier than SERVICE_RESTORED."""
    if not settings.has_slo:
        unmeasured["rta_slo"] = "no SLO was set"
        return None
    if total.impact is None:
        unmeasured["rta_slo"] = "no failed attempt"
        return None
    if total.restored is None:
        unmeasured["rta_slo"] = "the service was never restored"
        return None
    lo_ns, hi_ns = total.restored
    found = [slo_restored(s, settings, since_ns=total.impact[0]) for s in headline]
    whole = [moment for moment in found if moment is not None]
    if len(whole) < len(found):
        unmeasured["rta_slo"] = f"not one whole window of {settings.window_s:g} s was observed after the impact"
        return None
    never = any(hi is None for _, hi in whole)
    lo_ns = max([lo_ns, *(lo for lo, _ in whole)])
    hi_ns = max([hi_ns, *(hi for _, hi in whole if hi is not None)])
    return _difference((lo_ns, math.inf if never else max(lo_ns, hi_ns)), total.impact, floor_s=0.0)


# --- differences of events --------------------------------------------------------------------------------------------


def _difference(later: tuple[float, float], earlier: tuple[float, float], *, floor_s: float = -math.inf) -> Interval:
    """Return later − earlier in seconds; not below floor_s."""
    lo_s = max(floor_s, (later[0] - earlier[1]) / NS_PER_S)
    return Interval(lo_s, max(lo_s, (later[1] - earlier[0]) / NS_PER_S))


@dataclass(frozen=True, slots=True)
class _Differences:
    """Differences to IMPACT_START and SERVICE_RESTORED; notes the reason of each that cannot be had."""

    unmeasured: dict[str, str]
    impact: Moment | None
    restored: Moment | None

    def since_impact(self, name: str, later: Mark | None, *, instead: Moment | None = None) -> Interval | None:
        return self.of(name, _moment(later), self.impact or instead, "the event was not seen", "no failed attempt")

    def until_restored(self, name: str, earlier: Mark | None) -> Interval | None:
        return self.of(name, self.restored, _moment(earlier), "no restoration was seen", "the event was not seen")

    def of(
        self, name: str, later: Moment | None, earlier: Moment | None, no_later: str, no_earlier: str
    ) -> Interval | None:
        if later is None or earlier is None:
            self.unmeasured[name] = no_later if later is None else no_earlier
            return None
        return _difference(later, earlier)


def _decompose(marks: Sequence[Mark], between: _Differences) -> Decomposition:
    """Return RTA in four parts; their bounds overlap because each event is itself an interval.

    Where the target recovers by itself, its alarm and its decision are one observation: between them lies nothing.
    """
    alarm, decision = _first(marks, MarkKind.DETECTED), _first(marks, MarkKind.DECLARED)
    detected, declared = _moment(alarm), _moment(decision)
    ended = _moment(_last(marks, MarkKind.RECOVERY_END))
    seen = "the event was not seen"
    return Decomposition(
        ttd=between.of("ttd", detected, between.impact, seen, "no failed attempt"),
        tti=Interval(0.0, 0.0)
        if alarm and decision and (alarm.name, detected) == (decision.name, declared)
        else between.of("tti", declared, detected, seen, seen),
        ttm=between.of("ttm", ended, declared, seen, seen),
        ttv=between.of("ttv", between.restored, ended, "no restoration was seen", seen),
    )


def _first(marks: Sequence[Mark], kind: MarkKind) -> Mark | None:
    return min((m for m in marks if m.kind is kind), key=lambda m: m.t_lo_ns, default=None)


def _last(marks: Sequence[Mark], kind: MarkKind) -> Mark | None:
    return max((m for m in marks if m.kind is kind), key=lambda m: m.t_hi_ns, default=None)


def _plan_start(marks: Sequence[Mark]) -> Mark | None:
    """Return when the first step of a recovery plan was begun; None if the target recovered by itself."""
    carried_out = {m.name for m in marks if m.kind in {MarkKind.ACTIVITY, MarkKind.STEP}} | {"playbook"}
    return _first([m for m in marks if m.name in carried_out], MarkKind.DECLARED)


# Events that belong to the run although they come after drkit has begun to put things back. The others are its doing.
_AFTER_UNDO = (MarkKind.DATA_VERIFIED, MarkKind.REDUNDANCY_RESTORED)


def _undo_ns(marks: Sequence[Mark]) -> float:
    """Return when drkit began to take the fault away; infinite if it never did."""
    return min((m.t_lo_ns for m in marks if m.kind is MarkKind.PHASE and m.name == "undo"), default=math.inf)


def _moment(mark: Mark | None) -> Moment | None:
    return None if mark is None else (mark.t_lo_ns, mark.t_hi_ns)


def _fault(marks: Sequence[Mark]) -> Moment | None:
    """Return from when the first fault was requested to when the last one was known to be effective."""
    requested = [m for m in marks if m.kind is MarkKind.FAULT_REQUESTED]
    if not requested:
        return None
    known = [m for m in marks if m.kind in {MarkKind.FAULT_REQUESTED, MarkKind.FAULT_EFFECTIVE}]
    return min(m.t_lo_ns for m in requested), max(m.t_hi_ns for m in known)


# --- losses -----------------------------------------------------------------------------------------------------------


def _losses(
    history: History,
    service: Sequence[Series],
    spans: Mapping[str, _Span],
    by_series: Mapping[str, Sequence[Outage]],
    fault: Moment | None,
    unmeasured: dict[str, str],
) -> tuple[LossAccount, ...]:
    writers = [s for s in service if s.role is Role.WRITES]
    losses = []
    for series in writers:
        readings = [r for r in history.survivors if r.series == series.name]
        if not readings:
            unmeasured["rpa"] = f"{series.name}: its rows were not read back"
            continue
        restored = spans[series.name].restored
        found = account(
            series,
            readings,
            restored_ns=None if restored is None else restored[1],
            outages=by_series[series.name],
            fault=fault,
            restored_to=_moment(_first(history.marks, MarkKind.RECOVERY_POINT)),
        )
        if not acknowledged_before_outage(history, series):
            found = replace(found, rpa=_of_others(found, history.marks, series, by_series[series.name]))
        losses.append(found)
    if not writers:
        unmeasured["rpa"] = "no probe wrote"
    return tuple(losses)


_ANYTHING = Interval(0.0, math.inf)


def _of_others(found: LossAccount, marks: Sequence[Mark], series: Series, outages: Sequence[Outage]) -> Interval:
    """Return the recovery point where no write of ours was acknowledged before the outage, so none stands for others'.

    What others lost was written between the recovery point and the impact, so it is no more than that; it may be
    anything where no recovery point is known. What we lost of later writes counts as well.
    """
    point, told = _first(marks, MarkKind.RECOVERY_POINT), _moment(_first(marks, MarkKind.IMPACT))
    impact_hi_ns: float = math.inf
    if outages and (told is None or _acknowledged_by(series, _first_failure_ns(series))):
        impact_hi_ns = outages[0].start_hi_ns
    elif told is not None:
        impact_hi_ns = told[1]
    hi_s = math.inf if point is None else max(0.0, (impact_hi_ns - point.t_lo_ns) / NS_PER_S)
    return Interval(found.rpa.lo_s, max(hi_s, found.rpa.hi_s)) if found.lost else Interval(0.0, hi_s)


def _acknowledged_by(series: Series, moment_ns: float) -> bool:
    return any(a.outcome is Outcome.OK and a.done_ns <= moment_ns for a in series.attempts)


def _first_failure_ns(series: Series) -> float:
    return min((a.sent_ns for a in series.attempts if a.outcome is not Outcome.OK), default=math.inf)


def _told_ns(marks: Sequence[Mark]) -> float:
    """Return when the service went down, at the earliest, as a person told it; infinite if nobody did."""
    told = _first(marks, MarkKind.IMPACT)
    return math.inf if told is None else told.t_lo_ns


def _of_backup(marks: Sequence[Mark], losses: Sequence[LossAccount]) -> Interval | None:
    """Return how much of the time before a restore its backup lacks, at most, where no client has lost a write by it.

    That is so in a drill, whose restored database nobody is led to. None for any other run. Precondition: the service
    had no outage; with one the clients' own writes decide.
    """
    point, start = _first(marks, MarkKind.RECOVERY_POINT), _drill_start(marks)
    if point is None or start is None or any(loss.lost for loss in losses):
        return None
    return Interval(0.0, max(0.0, (start[1] - point.t_lo_ns) / NS_PER_S))


def _drill_start(marks: Sequence[Mark]) -> Moment | None:
    """Return when a playbook began to act: where nothing fails, its times count from there; None for an experiment."""
    played = any(m.kind is MarkKind.STEP for m in marks)
    return _moment(_first(marks, MarkKind.RECOVERY_START)) if played else None


def _worst(intervals: Sequence[Interval]) -> Interval | None:
    """Return the bounds of the greatest of several unknown numbers."""
    if not intervals:
        return None
    return Interval(max(i.lo_s for i in intervals), max(i.hi_s for i in intervals))
