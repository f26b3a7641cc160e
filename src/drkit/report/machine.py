"""The report for programs: report.json, described in docs/report-json.md."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from drkit.model import Interval, LossAccount, Mark, Outage, Outcome, RunRecord, Series, Survivors, type_json
from drkit.report import numbers
from drkit.report.objectives import kind_of_target, table
from drkit.report.steps import mode, steps

SCHEMA = "drkit.report/1"


def render(record: RunRecord) -> str:
    """Return the record and its verdict table as JSON. Raw attempts stay in probes/*.jsonl; here they are counted."""
    seen = _Seen(record.origin_ns)
    m = record.measurement
    document = {
        "schema": SCHEMA,
        "target_kind": seen.json(record.target_kind),
        "target": seen.json(record.target),
        "kind_of_target_in_words": seen.json(kind_of_target(record)),
        "verdict": str(record.judgement.verdict),
        "reasons": seen.json(record.judgement.reasons),
        "run": {
            k: seen.json(getattr(record, k))
            for k in (
                "run_id",
                "number",
                "name",
                "title",
                "description",
                "kind",
                "hypothesis",
                "started_at",
                "origin_ns",
                "plan_digest",
                "ended",
            )
        },
        "objective": seen.json(record.objective),
        "verdict_table": [
            {
                "objective": r.objective,
                "target": r.target,
                "achieved": seen.json(r.achieved),
                "verdict": str(r.verdict) if r.verdict else None,
            }
            for r in table(record).rows
        ],
        "measurement": {
            **{
                f.name: seen.json(getattr(m, f.name)) for f in fields(m) if f.name not in ("impact", "service_restored")
            },
            "impact": seen.bracket(m.impact),
            "service_restored": seen.bracket(m.service_restored),
        },
        "series": [seen.json(s) for s in record.history.series],
        "survivors": [seen.json(s) for s in record.history.survivors],
        "mode": seen.json(mode(record)) or None,
        "steps": [seen.json(s) for s in steps(record)],
        "effects": seen.json(record.effects),
        "undo": seen.json(record.undo),
        "marks": seen.json(record.history.marks),
        "environment": seen.json(record.environment),
        "instrument": seen.json(record.instrument),
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


class _Seen:
    """Values as JSON; moments also in seconds after the run's origin."""

    def __init__(self, origin_ns: int) -> None:
        self.origin_ns = origin_ns

    def json(self, value: object) -> type_json:
        match value:
            case None | bool() | int():
                return value
            case str():
                return numbers.plain(value)
            case float():
                return value if math.isfinite(value) else None
            case Interval():
                return {"lo_s": self.json(value.lo_s), "hi_s": self.json(value.hi_s)}
            case Mark():
                return {**self._fields(value), **(self.bracket((value.t_lo_ns, value.t_hi_ns)) or {})}
            case Outage():
                ended = (
                    None if value.end_lo_ns is None or value.end_hi_ns is None else (value.end_lo_ns, value.end_hi_ns)
                )
                told = {k: v for k, v in self._fields(value).items() if not k.endswith("_ns")}
                return {
                    **told,
                    "began": self.bracket((value.start_lo_ns, value.start_hi_ns)),
                    "ended": self.bracket(ended),
                    "recovered": value.recovered,
                }
            case LossAccount():
                return {
                    k: {"rows": len(v), "ranges": numbers.ranges(v)} if isinstance(v, tuple) else self.json(v)
                    for k, v in self._raw(value).items()
                } | {"integrity_broken": value.integrity_broken}
            case Series():
                tally = {str(o): sum(a.outcome is o for a in value.attempts) for o in Outcome}
                return {
                    **{k: self.json(v) for k, v in self._raw(value).items() if k != "attempts"},
                    "attempts": len(value.attempts),
                    **tally,
                }
            case Survivors():
                return {
                    "series": self.json(value.series),
                    "read": self.bracket((value.read_lo_ns, value.read_hi_ns)),
                    "rows": len(value.rows),
                    "corrupt_rows": sum(not r.intact for r in value.rows),
                    "settled": value.settled,
                }
            case Mapping():
                return {numbers.plain(k): self.json(value[k]) for k in sorted(value, key=str)}
            case list() | tuple():
                return [self.json(v) for v in value]
            case _ if is_dataclass(value):
                return self._fields(value)
            case _:
                return numbers.plain(value)

    def bracket(self, moment: tuple[int, int] | None) -> dict[str, type_json] | None:
        """Return a moment as its two ends, in ns of the monotonic clock and in s after the origin."""
        if moment is None:
            return None
        lo, hi = moment
        return {"lo_ns": lo, "hi_ns": hi, "lo_s": (lo - self.origin_ns) / 1e9, "hi_s": (hi - self.origin_ns) / 1e9}

    def _fields(self, value: object) -> dict[str, type_json]:
        return {k: self.json(v) for k, v in self._raw(value).items() if k not in ("t_lo_ns", "t_hi_ns")}

    def _raw(self, value: object) -> dict[str, object]:
        return {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]  # only dataclasses come here
