"""The verdict as JUnit XML, for a CI server.

PASS is a passed test and FAIL a failed one. INCONCLUSIVE, INVALID and ABORTED are errors: most CI servers count skipped
tests as green, and unknown is never a pass. An objective that was promised and judged by nobody is an error too.
"""

from __future__ import annotations

import html
from collections import Counter
from typing import assert_never

from drkit.model import Reason, RunRecord, Verdict
from drkit.report import numbers, timeline
from drkit.report.objectives import kind_of_target, unjudged
from drkit.report.steps import StepRow, mode, steps


def render(record: RunRecord) -> str:
    """Return one test suite with one test case a reason."""
    reasons = list(record.judgement.reasons)
    reasons += [_of_step(row) for row in steps(record)]
    reasons += [Reason(Verdict.INCONCLUSIVE, key, "promised, and judged by nobody") for key in unjudged(record)]
    if Verdict.worst(r.verdict for r in reasons) is not record.judgement.verdict or not reasons:
        reasons.append(Reason(record.judgement.verdict, "verdict", f"the run's verdict is {record.judgement.verdict}"))
    whole = timeline.extent(record)
    took = f"{(whole[1] - whole[0]) / 1e9:.3f}" if whole else "0.000"
    failures = sum(r.verdict is Verdict.FAIL for r in reasons)
    errors = sum(r.verdict not in (Verdict.FAIL, Verdict.PASS) for r in reasons)
    counts = f'tests="{len(reasons)}" failures="{failures}" errors="{errors}" skipped="0"'
    suite = f"drkit.{record.name}"
    facts = {
        "kind of target": kind_of_target(record),
        **({"mode": mode(record)} if mode(record) else {}),
        "target": record.target,
        "run": record.run_id,
        "verdict": str(record.judgement.verdict),
        "rta": numbers.interval(record.measurement.rta),
        "rpa": numbers.interval(record.measurement.rpa, "no upper bound"),
    }
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<testsuites name="drkit" {counts} time="{took}">',
            f'  <testsuite name="{_a(suite)}" {counts} time="{took}"',
            f'    timestamp="{_a(record.started_at)}" hostname="{_a(record.target)}">',
            "    <properties>",
            *(f'      <property name="{_a(k)}" value="{_a(v)}"/>' for k, v in facts.items()),
            "    </properties>",
            *(_case(suite, name, r) for name, r in zip(_names(reasons), reasons, strict=True)),
            "  </testsuite>",
            "</testsuites>",
            "",
        ]
    )


def _of_step(row: StepRow) -> Reason:
    """Return a step as a test case: done passes, failed fails, everything else is not known to be done."""
    known = {"done": Verdict.PASS, "failed": Verdict.FAIL}
    return Reason(known.get(row.state, Verdict.INCONCLUSIVE), f"step {row.name}", row.came)


def _names(reasons: list[Reason]) -> list[str]:
    """Name each reason by what it is about, so that a CI server can follow it from run to run."""
    seen: Counter[str] = Counter()
    named = []
    for reason in reasons:
        seen[reason.what] += 1
        named.append(reason.what if seen[reason.what] == 1 else f"{reason.what} {seen[reason.what]}")
    return named


def _case(suite: str, name: str, reason: Reason) -> str:
    opening = f'    <testcase classname="{_a(suite)}" name="{_a(name)}" time="0">'
    match reason.verdict:
        case Verdict.PASS:
            told = f"<system-out>{_a(reason.sentence)}</system-out>"
        case Verdict.FAIL:
            told = f'<failure type="{reason.verdict}" message="{_a(reason.sentence)}"/>'
        case Verdict.INCONCLUSIVE | Verdict.INVALID | Verdict.ABORTED:
            told = f'<error type="{reason.verdict}" message="{_a(reason.sentence)}"/>'
        case _:
            assert_never(reason.verdict)
    return f"{opening}{told}</testcase>"


def _a(value: str) -> str:
    return html.escape(" ".join(numbers.plain(value).split()))
