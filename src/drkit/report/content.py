"""What a report says, section by section; markdown.py and page.py only give it a form."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from drkit.model import LossAccount, Mark, MarkKind, RunRecord, Verdict, type_json
from drkit.report import calibration, charts, events, numbers, steps, timeline, touched
from drkit.report.document import Block, Cell, Figure, Grid, Listing, Section, Text
from drkit.report.objectives import table

WIDE_PX, NARROW_PX = 820.0, 344.0
_HALF_WIDE_PX = 640.0


def warnings(record: RunRecord) -> tuple[str, ...]:
    """Return what a reader must not miss, before any number."""
    said = []
    half_way = record.kind == "playbook" and not record.ended
    pending = [u for u in record.undo if not u.done]
    if half_way:
        said.append(
            f"The playbook has not come to its end, and nothing is put back by itself. Go on: drkit resume "
            f"{record.run_id}. Put back what it did ({len(pending)} undo record(s)): drkit undo {record.run_id}"
        )
    elif pending:
        said.append(
            f"{len(pending)} undo record(s) still pending: something may still be broken. drkit undo {record.run_id}"
        )
    if not record.ended and not half_way:
        said.append("The run was cut short and nobody finished it; this report shows what was on disk.")
    said += [
        f"Nobody watched from {_at(record, lo)} to {_at(record, hi)}: drkit had died or was stopped, "
        "and another process went on. What the service did meanwhile was not seen."
        for lo, hi in steps.gaps(record)
    ]
    said += [f"The probe {s.name} died before it was told to stop." for s in record.history.series if not s.complete]
    said += [
        f"The rows of {s.series} had not settled when they were read back."
        for s in record.history.survivors
        if not s.settled
    ]
    return (*said, *calibration.warnings(record))


def in_short(record: RunRecord) -> str:
    """Return the run in one line."""
    rows = [f"{r.objective} achieved: {r.achieved}; target: {r.target}" for r in table(record).rows[:2]]
    return ". ".join(part for part in (steps.in_short(record), *rows) if part) + "."


def sections(record: RunRecord) -> tuple[Section, ...]:
    """Return everything below the verdict, in reading order."""
    playbook = record.kind == "playbook"
    return (
        Section("targets", "Targets and what was achieved", _targets(record)),
        *((Section("steps", "Steps", steps.blocks(record)),) if playbook else ()),
        Section("timeline", "What happened", _timeline(record)),
        Section("outages", "Outages", _outages(record)),
        Section("recovery", "Recovery time and its parts", _recovery(record)),
        Section("data", "Data: what became of acknowledged writes", _data(record)),
        Section("service", "Availability and latency", _service(record)),
        Section(
            "touched",
            "What was changed, and what is kept" if playbook else "What was touched, and put back",
            touched.blocks(record),
        ),
        Section("events", "Events", _events(record)),
        Section("method", "How it was measured", _method(record)),
        Section("identity", "Run and environment", _identity(record)),
    )


def _targets(record: RunRecord) -> tuple[Block, ...]:
    found = table(record).rows
    pictures = any(r.gauge for r in found)  # without any, the column is left out
    head = ("objective", "target", "achieved", *(("picture",) if pictures else ()), "verdict")
    rows: list[tuple[Cell, ...]] = []
    for r in found:
        unjudged = "over many runs" if r.objective == "MTTR" else "not promised"
        rows.append((r.objective, r.target, r.achieved, *((r.gauge or "",) if pictures else ()), r.verdict or unjudged))
    return (
        Grid("Objectives", head, tuple(rows)),
        Text(
            "Achieved values are intervals: a client only samples, so the truth lies between samples. "
            "A target passes when the upper bound meets it."
        ),
    )


def _timeline(record: RunRecord) -> tuple[Block, ...]:
    whole = timeline.extent(record)
    if whole is None:
        return (Text("Nothing was recorded in this run."),)
    blocks: list[Block] = [_drawn(record, whole, "The whole run", timeline.key(record))]
    if near := timeline.around_the_outage(record):
        blocks.append(_drawn(record, near, "Around the outage", ()))
    flags = tuple(f"{_when(record, f.mark)} {f.words}" for f in timeline.flags(record))
    if flags:
        blocks.append(Listing(flags, "The numbered moments (seconds since the start of the run)"))
    if phases := timeline.phases(record):
        told = tuple(
            (name, numbers.moment(lo, lo, record.origin_ns), numbers.seconds((hi - lo) / 1e9))
            for name, lo, hi in phases
        )
        blocks.append(Grid("Phases", ("phase", "from", "lasted"), told))
    return tuple(blocks)


def _drawn(record: RunRecord, window: tuple[int, int], caption: str, key: tuple[tuple[str, str], ...]) -> Figure:
    wide, narrow = (timeline.picture(record, window, px, caption) for px in (WIDE_PX, NARROW_PX))
    return Figure(caption, wide, narrow, key)


def _outages(record: RunRecord) -> tuple[Block, ...]:
    if not record.measurement.outages:
        return (Text(f"No outage was seen. {_unmeasured(record, 'outages', 'rta')}".strip()),)
    rows = tuple(
        (
            o.series,
            numbers.moment(o.start_lo_ns, o.start_hi_ns, record.origin_ns),
            "not recovered"
            if o.end_lo_ns is None or o.end_hi_ns is None
            else numbers.moment(o.end_lo_ns, o.end_hi_ns, record.origin_ns),
            numbers.interval(o.lasted),
            ", ".join(
                f"{numbers.count(n)} × {why}" for why, n in sorted(o.failures.items(), key=lambda x: (-x[1], x[0]))
            ),
        )
        for o in record.measurement.outages
    )
    return touched.capped("Each outage of each client", ("series", "began", "ended", "lasted", "failed attempts"), rows)


def _recovery(record: RunRecord) -> tuple[Block, ...]:
    m, d = record.measurement, record.measurement.decomposition
    verified = record.objective.verified
    named = (
        ("rta", f"RTA{'' if verified else ' (headline)'}", "first impact → service restored", m.rta),
        ("rta_slo", "RTA, latency and errors too", "first impact → SLO restored", m.rta_slo),
        (
            "rta_verified",
            f"RTA, data verified{' (headline)' if verified else ''}",
            "first impact → data verified",
            m.rta_verified,
        ),
        (
            "since_recovery_start",
            "Since recovery began",
            "recovery start → service restored (NIST SP 800-34)",
            m.since_recovery_start,
        ),
        (
            "since_plan_start",
            "Since the plan began",
            "plan start → service restored (as AWS ARC counts)",
            m.since_plan_start,
        ),
        ("redundancy", "Redundancy restored", "first impact → the next failure is survivable again", m.redundancy),
        ("ttd", "TTD", "impact → detected by an independent alarm", d.ttd),
        ("tti", "TTI", "detected → declared", d.tti),
        ("ttm", "TTM", "declared → recovery ended", d.ttm),
        ("ttv", "TTV", "recovery ended → service restored", d.ttv),
    )
    rows = tuple(
        (
            name,
            span,
            (numbers.difference(v) if v else _absent(record, key)),
        )
        for key, name, span, v in named
    )
    blocks: list[Block] = [Grid("Recovery time", ("number", "from → to", "value"), rows)]
    if any((d.ttd, d.tti, d.ttm, d.ttv)):
        wide, narrow = (charts.parts_of_recovery(d, px) for px in (_HALF_WIDE_PX, NARROW_PX))
        blocks.append(Figure("Detect, decide, mitigate, verify, one after the other", wide, narrow))
    if m.rta_by_series:
        how = {s.name: f"{s.kind}, {s.connection} connections" for s in record.history.series}
        each = [(name, m.rta_by_series[name]) for name in sorted(m.rta_by_series)]
        blocks.append(
            Grid(
                "Each client's own recovery: fresh against pooled",
                ("series", "client", "recovery time"),
                tuple((n, how.get(n, ""), numbers.interval(v)) for n, v in each),
            )
        )
        if len(each) > 1:
            title = "Recovery time of each client"
            wide, narrow = (charts.bars(each, px, title) for px in (_HALF_WIDE_PX, NARROW_PX))
            blocks.append(Figure(title, wide, narrow))
    return tuple(blocks)


def _data(record: RunRecord) -> tuple[Block, ...]:
    losses = record.measurement.losses
    points = tuple(
        f"Recovery point: {_when(record, m)} {m.name}: {events.sentence(m)}".rstrip(": ")
        for m in record.history.marks
        if m.kind is MarkKind.RECOVERY_POINT
    )
    restored = (Listing(points, "What was recovered from (seconds since the start of the run)"),) if points else ()
    if not losses:
        return (Text(f"No writer's account was made. {_unmeasured(record, 'rpa')}".strip()), *restored)
    unknown = record.measurement.unmeasured.get("rpa", "") if record.measurement.rpa is None else ""
    accounts = tuple((name, *(tell(x) for x in losses)) for name, tell in _ACCOUNT)
    return (
        *((Text(f"The recovery point was not measured: {unknown}."),) if unknown else ()),
        *restored,
        Grid("Data-loss account, one column a writer", ("", *(x.series for x in losses)), accounts),
        Text(
            "Lost: acknowledged and gone. Recovered: of unknown outcome and there, which is allowed. "
            "Phantom, resurrected, corrupt, duplicated, lost later (acknowledged after recovery) or holes: "
            "integrity is broken, whatever the RPA."
        ),
    )


_ACCOUNT: tuple[tuple[str, Callable[[LossAccount], str]], ...] = (
    ("acknowledged", lambda x: numbers.count(x.acknowledged)),
    ("unknown outcome", lambda x: numbers.count(x.unknown)),
    ("certainly failed", lambda x: numbers.count(x.failed)),
    ("rows read back", lambda x: numbers.count(x.read)),
    ("LOST", lambda x: numbers.few(x.lost)),
    ("recovered", lambda x: numbers.few(x.recovered)),
    ("phantom", lambda x: numbers.few(x.phantom)),
    ("resurrected", lambda x: numbers.few(x.resurrected)),
    ("corrupt", lambda x: numbers.few(x.corrupt)),
    ("duplicated", lambda x: numbers.few(x.duplicated)),
    ("holes", lambda x: numbers.count(x.holes)),
    ("lost later", lambda x: numbers.few(x.lost_later)),
    ("integrity", lambda x: "BROKEN" if x.integrity_broken else "whole"),
    ("RPA", lambda x: numbers.interval(x.rpa, "no upper bound")),
)


def _service(record: RunRecord) -> tuple[Block, ...]:
    m, blocks = record.measurement, list[Block]()
    if m.availability:
        rows = tuple(
            (
                a.series,
                numbers.seconds(a.observed_s),
                numbers.percent(a.time_share_lo, a.time_share_hi),
                f"{numbers.percent(round(a.request_share, 6))} "
                f"({numbers.count(a.good)} of {numbers.count(a.eligible)})",
                f"≤ {numbers.percent(round(a.error_rate_upper95, 6))}",
                numbers.interval(a.brownout_s),
            )
            for a in m.availability
        )
        blocks.append(
            Grid(
                "Availability",
                ("series", "observed", "of the time", "of the requests", "error rate (95 % bound)", "brown-out"),
                rows,
            )
        )
    if m.latency:
        told = tuple(
            (x.series, numbers.count(x.count), *(numbers.seconds(v) for v in (x.p50_s, x.p95_s, x.p99_s, x.max_s)))
            for x in m.latency
        )
        blocks.append(
            Grid(
                "Latency, from the moment an attempt was due; time-outs count at τ",
                ("series", "n", "p50", "p95", "p99", "max"),
                told,
            )
        )
    whole = timeline.extent(record)
    if whole and (wide := charts.latency(record, whole, WIDE_PX)):
        key = (("p50", "p50"), ("p95", "p95"), *((("target", "p95 target"),) if record.objective.p95_s else ()))
        blocks.append(
            Figure(
                "Latency over time (logarithmic; successes, and time-outs at τ)",
                wide,
                charts.latency(record, whole, NARROW_PX),
                key,
            )
        )
    return tuple(blocks) or (Text(f"Nothing was observed. {_unmeasured(record, 'availability', 'latency')}".strip()),)


def _events(record: RunRecord) -> tuple[Block, ...]:
    marks = sorted(record.history.marks, key=lambda m: (m.t_lo_ns, m.t_hi_ns))
    if not marks:
        return (Text("No event was recorded."),)
    rows = tuple(
        (_when(record, m), str(m.kind).replace("-", " "), numbers.short(m.name), events.sentence(m)) for m in marks
    )
    return touched.capped("Events, in seconds since the start of the run", ("when", "kind", "name", "detail"), rows)


def _method(record: RunRecord) -> tuple[Block, ...]:
    blocks: list[Block] = []
    series = tuple(
        (
            s.name,
            f"{s.kind}, {s.connection}, {s.role}",
            numbers.seconds(s.every_s),
            numbers.seconds(s.timeout_s),
            numbers.count(len(s.attempts)),
            f"{numbers.count(s.ticks_lost)} of {numbers.count(s.ticks_due)}"
            + (f" ({numbers.percent(round(s.ticks_lost / s.ticks_due, 6))})" if s.ticks_due else ""),
            "yes" if s.complete else "NO",
        )
        for s in record.history.series
    )
    if series:
        blocks.append(
            Grid(
                "Open-loop probes: starts never wait for earlier answers",
                ("series", "client", "period p", "time-out τ", "attempts", "ticks lost", "complete"),
                series,
            )
        )
    else:
        blocks.append(Text("No probe ran."))
    if rest := _settings(record):
        blocks.append(_facts("Settings of the instrument", rest))
    blocks += calibration.blocks(record)
    if record.measurement.unmeasured:
        blocks.append(_facts("Not measured, and why", record.measurement.unmeasured))
    return tuple(blocks)


def _settings(record: RunRecord) -> dict[str, type_json]:
    """Return the instrument's settings; a probe that ran has its own in the table of probes."""
    ran = {s.name for s in record.history.series}
    told: dict[str, type_json] = {}
    for key, value in record.instrument.items():
        if key == "probes" and isinstance(value, Mapping):
            told |= {f"probe {name}, which did not run": v for name, v in value.items() if name not in ran}
        elif key not in ("calibration", "certificate"):
            told[_CALLED.get(key, key)] = numbers.seconds(value) if key == "window_s" else value
    return told


_CALLED = {
    "window_s": "W: successes must last so long to count as restored",
    "lab_speed": "speed of the lab",
    "lab_fsync": "the lab's PostgreSQL waits for the disk (fsync)",
    "rds_monitor": "the RDS monitor asks every",
    "recovery_region": "recovery region",
    "asg_replaces_after": "the Auto Scaling group replaces after",
}
_FSYNC_OFF = (
    "no; sound here, because the lab's faults are of processes and networks, and the page cache survives SIGKILL. "
    "With it: drkit lab up --fsync"
)


def _environment(record: RunRecord) -> dict[str, type_json]:
    told = {_CALLED.get(k, k): v for k, v in record.environment.items()}
    if record.environment.get("lab_fsync") is False:
        told[_CALLED["lab_fsync"]] = _FSYNC_OFF
    return told


def _identity(record: RunRecord) -> tuple[Block, ...]:
    run = {
        "run": record.run_id,
        "number in the register": record.number,
        record.kind: record.name,
        "target": f"{record.target} ({record.target_kind})",
        "started": numbers.to_the_second(record.started_at),
        "plan digest": record.plan_digest or "none",
        "ended": record.ended,
    }
    facts = tuple((k, numbers.words(v)) for k, v in run.items())
    return (Grid("Run", ("", "value"), facts), _facts("Environment", _environment(record)))


def _facts(caption: str, values: Mapping[str, type_json]) -> Grid:
    return Grid(caption, ("", "value"), tuple(_flat(values)) or (("none recorded", ""),))


def _flat(values: Mapping[str, type_json], under: str = "") -> Iterable[tuple[str, str]]:
    for key in sorted(values, key=str):
        value = values[key]
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", numbers.short(numbers.words(value), 600) or "none"


def _at(record: RunRecord, ns: int) -> str:
    return numbers.moment(ns, ns, record.origin_ns)


def _when(record: RunRecord, mark: Mark) -> str:
    return numbers.moment(mark.t_lo_ns, mark.t_hi_ns, record.origin_ns)


def _absent(record: RunRecord, number: str) -> str:
    reason = record.measurement.unmeasured.get(number, "")
    return f"– ({numbers.short(reason)})" if reason else numbers.ABSENT


def _unmeasured(record: RunRecord, *names: str) -> str:
    return next(
        (f"({numbers.short(record.measurement.unmeasured[n])})" for n in names if n in record.measurement.unmeasured),
        "",
    )


GLYPHS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.INCONCLUSIVE: "?", Verdict.INVALID: "⊘", Verdict.ABORTED: "■"}
