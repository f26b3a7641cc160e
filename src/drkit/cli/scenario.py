"""Many runs of one scenario: which ones may be taken together, and what they show. PURE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drkit import measure
from drkit.measure import Mttr
from drkit.model import Interval, Verdict
from drkit.report import numbers


@dataclass(frozen=True, slots=True)
class Past:
    """One run as its scenario's statistics want it. `counts`: it shows how long a recovery takes."""

    scenario: str
    limit_s: float
    mttr_s: float | None
    rta: Interval | None
    counts: bool


@dataclass(frozen=True, slots=True)
class Summary:
    scenario: str
    mttr: Mttr | None
    target_s: float | None
    left_out: int  # runs that prove nothing

    @property
    def verdict(self) -> Verdict | None:
        return None if self.mttr is None or self.target_s is None else self.mttr.judge(self.target_s)

    def text(self) -> str:
        left = f"; {self.left_out} more prove nothing" if self.left_out else ""
        if self.mttr is None:
            return f"  {self.scenario}: no run to count{left}"
        m = self.mttr
        words = [f"mean {numbers.interval(m.mean)} (n = {m.n}{left})"]
        if m.n > 1:
            words += [f"median {numbers.interval(m.median)}", f"worst {numbers.interval(m.worst)}"]
        if m.ci95 is not None:
            words.append(f"95 % confidence {numbers.interval(m.ci95)}")
        if self.target_s is not None:
            words.append(f"target ≤ {numbers.seconds(self.target_s)}: {str(self.verdict).upper()}")
        if m.never_recovered:
            words.append(f"{m.never_recovered} never recovered")
        return f"  {self.scenario}: {', '.join(words)}\n      {m.statement}"

    def to_json(self) -> dict[str, Any]:
        m = self.mttr
        return {
            "scenario": self.scenario,
            "n": m.n if m else 0,
            "left_out": self.left_out,
            "never_recovered": m.never_recovered if m else 0,
            "mean": _span(m.mean if m else None),
            "median": _span(m.median if m else None),
            "worst": _span(m.worst if m else None),
            "ci95": _span(m.ci95 if m else None),
            "met_rto": m.met if m else 0,
            "supports": m.supports if m else None,
            "target_s": self.target_s,
            "verdict": str(self.verdict) if self.verdict else None,
        }


def past(
    identity: Mapping[str, Any],
    *,
    verdict: str,
    rta: Interval | None,
    impact: bool,
    stopped_by_a_person: bool = False,
) -> Past:
    """Return a stored run as one of its scenario. Raises KeyError for an identity that is not one.

    An INVALID run proves nothing, and neither does one that was stopped before anything failed, or by a person before
    it could have missed its RTO; every other run counts, also one that never recovered or that a guard stopped.
    """
    objective = identity["objective"]
    limit_s = objective["rto_s"] or 0.0
    if stopped_by_a_person and rta is not None and rta.lo_s <= limit_s and not math.isfinite(rta.hi_s):
        return Past(_name(identity), limit_s, objective["mttr_s"], rta, counts=False)
    proves = verdict != Verdict.INVALID and (verdict != Verdict.ABORTED or impact) and (rta is not None or impact)
    return Past(_name(identity), limit_s, objective["mttr_s"], rta, proves)


def summaries(runs: Sequence[Past]) -> tuple[Summary, ...]:
    """Return one summary for each scenario, in the order of their first runs."""
    groups: dict[str, list[Past]] = {}
    for run in runs:
        groups.setdefault(run.scenario, []).append(run)
    return tuple(
        Summary(
            name,
            measure.mttr([r.rta for r in group if r.counts], limit_s=max(r.limit_s for r in group)),
            group[-1].mttr_s,
            sum(not r.counts for r in group),
        )
        for name, group in groups.items()
    )


def _name(identity: Mapping[str, Any]) -> str:
    """Return what makes runs comparable: experiment, target, its kind and speed, and the variables that were chosen.

    To lose the zone where the writer is, is one scenario, whichever zone that was; to lose another zone is another.
    """
    words = []
    for key, value in sorted(identity.get("configuration", {}).items()):
        if key == "zone":
            writer_zone = identity.get("before", {}).get("writer_zone")
            words.append("the writer's zone" if value == writer_zone else f"zone {value}, not the writer's")
        else:
            words.append(f"{key} = {value}")
    target = f"{identity['target']} ({identity['target_kind']})"
    environment = identity.get("environment", {})
    if (speed := environment.get("lab_speed", 1.0)) != 1.0:
        target += f" at speed {speed:g}"
    if (standby := environment.get("standby", "synchronous")) != "synchronous":
        words.append("no standby" if standby == "none" else f"{standby} standby")
    return f"{identity['name']} on {target}" + (f", {', '.join(words)}" if words else "")


def _span(value: Interval | None) -> dict[str, float] | None:
    return None if value is None else {"lo_s": value.lo_s, "hi_s": value.hi_s}
