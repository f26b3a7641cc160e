"""A machine with other work makes probes late. That makes a run INVALID, rightly; most tests ask something else."""

from __future__ import annotations

from drkit.model import RunRecord, Verdict


def verdict_but_for_late_ticks(record: RunRecord) -> Verdict:
    """Return a run's verdict, leaving out that probes lost more than 1 % of their ticks."""
    return Verdict.worst(
        r.verdict
        for r in record.judgement.reasons
        if not (r.verdict is Verdict.INVALID and r.what == "instrument" and " ticks: more than 1 %" in r.sentence)
    )
