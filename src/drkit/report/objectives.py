"""Targets against what was achieved: the rows that the command line, Markdown, HTML and JSON all show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from drkit.measure import recovery_time
from drkit.model import Availability, Interval, Latency, Reason, Role, RunRecord, Verdict
from drkit.report import numbers
from drkit.report.document import Gauge
from drkit.report.steps import mode

_PerSeries = TypeVar("_PerSeries", Availability, Latency)

_JUDGED_AS = {  # objective → what the reasons call it
    "rto": {"rto"},
    "rpo": {"rpo"},
    "lost-writes": {"lost-writes"},
    "mttr": {"mttr"},
    "availability": {"availability"},
    "p95": {"p95", "latency"},
    "error-rate": {"error-rate", "error_rate", "errors"},
}


@dataclass(frozen=True, slots=True)
class Row:
    """One objective. `verdict` is None where nothing was promised, or one run cannot tell (MTTR)."""

    objective: str  # "RTO"
    target: str  # "≤ 900 s (15 min)"
    achieved: str  # "1.92–1.96 s"
    verdict: Verdict | None
    gauge: Gauge | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The verdict table of one run; `kind` (lab or AWS, in words) is to be shown first."""

    kind: str
    verdict: Verdict
    rows: tuple[Row, ...]
    reasons: tuple[Reason, ...]


def kind_of_target(record: RunRecord) -> str:
    """Return the sentence that stands first in every report."""
    if how := mode(record):
        return f"Playbook, {how}. {_kind(record)}"
    return _kind(record)


def _kind(record: RunRecord) -> str:
    if record.target_kind == "lab":
        speed = next((record.environment[k] for k in ("speed", "lab_speed") if k in record.environment), None)
        at = f" at speed {numbers.words(speed)}" if speed is not None else ""
        return f"LAB run{at}: times are the lab's, not AWS's. Real processes, and no evidence for AWS objectives."
    if record.target_kind == "aws":
        return "AWS run: times are those of real AWS resources."
    return f"Run against a target of kind {numbers.short(record.target_kind, 40)}."


def table(record: RunRecord) -> Table:
    """Return the verdict table: RTO, RPO and lost writes always, other objectives where one was promised."""
    promised, got = record.objective, record.measurement
    rows = [
        _recovery_row(record),
        _time_row(record, "rpo", "RPO", promised.rpo_s, got.rpa, _why(record, "rpa")),
        _lost_row(record, promised.lost_writes_max),
    ]
    if promised.mttr_s is not None:
        row = _time_row(record, "mttr", "MTTR", promised.mttr_s, got.rta, _why(record, "rta"), "(this run, n = 1)")
        judged = any(r.what in _JUDGED_AS["mttr"] for r in record.judgement.reasons)
        rows.append(row if judged else replace(row, verdict=None))
    if promised.availability is not None:
        rows.append(_availability_row(record, promised.availability))
    if promised.p95_s is not None:
        rows.append(_p95_row(record, promised.p95_s))
    if promised.error_rate is not None:
        rows.append(_error_row(record, promised.error_rate))
    return Table(kind_of_target(record), record.judgement.verdict, tuple(rows), record.judgement.reasons)


def _recovery_row(record: RunRecord) -> Row:
    achieved, why = recovery_time(record.measurement, record.objective)
    name = "RTO, data verified" if record.objective.verified else "RTO"
    told = f"not measured: {numbers.short(why)}" if why else "not measured"
    return _time_row(record, "rto", name, record.objective.rto_s, achieved, told)


def _time_row(
    record: RunRecord, key: str, name: str, limit_s: float | None, got: Interval | None, why: str, more: str = ""
) -> Row:
    achieved = numbers.interval(got, "not recovered" if key != "rpo" else "no upper bound") if got else why
    gauge = Gauge(name, got, limit_s, achieved) if got and limit_s is not None else None
    return Row(
        name,
        f"≤ {numbers.seconds(limit_s)}" if limit_s is not None else "none",
        f"{achieved} {more}".strip(),
        _verdict(record, key) if limit_s is not None else None,
        gauge,
    )


def _lost_row(record: RunRecord, most: int | None) -> Row:
    losses = record.measurement.losses
    achieved = _why(record, "rpa")
    if losses:
        lost, acknowledged = sum(len(x.lost) for x in losses), sum(x.acknowledged for x in losses)
        unknown = "" if record.measurement.rpa else f"; {achieved}"  # none could be lost: that is no achievement
        achieved = f"{numbers.count(lost)} of {numbers.count(acknowledged)} acknowledged{unknown}"
    target = "no limit" if most is None else "none" if most == 0 else f"≤ {numbers.count(most)}"
    return Row("Lost writes", target, achieved, None if most is None else _verdict(record, "lost-writes"))


def _availability_row(record: RunRecord, target: float) -> Row:
    worst: Availability | None = min(
        _of_service(record, record.measurement.availability), key=lambda a: a.time_share_lo, default=None
    )
    if worst is None:
        return Row(
            "Availability",
            f"≥ {numbers.percent(target)}",
            _why(record, "availability"),
            _verdict(record, "availability"),
        )
    achieved = numbers.percent(worst.time_share_lo, worst.time_share_hi)
    down = Interval(max(0.0, 1 - worst.time_share_hi), max(0.0, 1 - worst.time_share_lo))
    return Row(
        "Availability",
        f"≥ {numbers.percent(target)}",
        f"{achieved} of {numbers.seconds(worst.observed_s)} ({worst.series})",
        _verdict(record, "availability"),
        Gauge("downtime", down, 1 - target, achieved),
    )


def _p95_row(record: RunRecord, limit_s: float) -> Row:
    worst: Latency | None = max(_of_service(record, record.measurement.latency), key=lambda x: x.p95_s, default=None)
    target = f"≤ {numbers.seconds(limit_s)}"
    if worst is None:
        return Row("Latency p95", target, _why(record, "latency"), _verdict(record, "p95"))
    achieved = numbers.seconds(worst.p95_s)
    return Row(
        "Latency p95",
        target,
        f"{achieved}, n = {numbers.count(worst.count)} ({worst.series})",
        _verdict(record, "p95"),
        Gauge("p95", Interval(worst.p95_s, worst.p95_s), limit_s, achieved),
    )


def _error_row(record: RunRecord, limit: float) -> Row:
    worst: Availability | None = max(
        _of_service(record, record.measurement.availability), key=lambda a: a.error_rate_upper95, default=None
    )
    if worst is None:
        return Row(
            "Error rate", f"≤ {numbers.percent(limit)}", _why(record, "error_rate"), _verdict(record, "error-rate")
        )
    rate = 1 - worst.good / worst.eligible if worst.eligible else 0.0
    achieved = (
        f"{numbers.percent(round(rate, 6))}, 95 % upper bound {numbers.percent(round(worst.error_rate_upper95, 6))}"
    )
    return Row(
        "Error rate",
        f"≤ {numbers.percent(limit)}",
        f"{achieved}, n = {numbers.count(worst.eligible)} ({worst.series})",
        _verdict(record, "error-rate"),
        Gauge("error rate", Interval(rate, max(rate, worst.error_rate_upper95)), limit, achieved),
    )


def _of_service(record: RunRecord, values: tuple[_PerSeries, ...]) -> list[_PerSeries]:
    """Return the values of the series these objectives are promised of: the headline's service, else its writers."""
    roles = {s.name: s.role for s in record.history.series}
    headline = record.measurement.headline_series or [n for n, role in roles.items() if role is not Role.WITNESS]
    users = {n for n in headline if roles.get(n) is Role.SERVICE} or set(headline)
    return [v for v in values if v.series in users]


def unjudged(record: RunRecord) -> tuple[str, ...]:
    """Return the promised objectives that no reason speaks of; MTTR is over many runs, so it may be missing."""
    promised = {
        "rto": record.objective.rto_s,
        "rpo": record.objective.rpo_s,
        "lost-writes": record.objective.lost_writes_max,
        "availability": record.objective.availability,
        "p95": record.objective.p95_s,
        "error-rate": record.objective.error_rate,
    }
    named = {r.what for r in record.judgement.reasons}
    return tuple(key for key, limit in promised.items() if limit is not None and not named & _JUDGED_AS[key])


def _verdict(record: RunRecord, key: str) -> Verdict:
    """An objective that nobody judged is INCONCLUSIVE, never PASS; a run that proves nothing judges none."""
    if record.judgement.verdict in (Verdict.INVALID, Verdict.ABORTED):
        return record.judgement.verdict
    return Verdict.worst(r.verdict for r in record.judgement.reasons if r.what in _JUDGED_AS[key])


def _why(record: RunRecord, number: str) -> str:
    reason = record.measurement.unmeasured.get(number, "")
    return f"not measured: {numbers.short(reason)}" if reason else "not measured"
