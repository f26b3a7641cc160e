"""What became of acknowledged writes: the loss account of one writer series and its achieved recovery point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from drkit.measure._outage import in_send_order
from drkit.measure._settings import NS_PER_S
from drkit.model import Attempt, Interval, LossAccount, Outage, Outcome, Series, Survivors

_FLUSH_NS = NS_PER_S  # a probe writes its attempts to disk well within this time

Moment: TypeAlias = tuple[int, int]  # lo_ns, hi_ns


@dataclass(frozen=True, slots=True)
class Disaster:
    """When writes began to be lost: no later than hi_ns; what was over by certainly_before_ns was before it."""

    certainly_before_ns: int
    hi_ns: int


def account(
    series: Series,
    readings: Sequence[Survivors],
    *,
    restored_ns: int | None = None,
    outages: Sequence[Outage] = (),
    fault: Moment | None = None,
    restored_to: Moment | None = None,
) -> LossAccount:
    """Return the loss account of a writer from one or more readings of its rows; at least one.

    restored_ns: this series' SERVICE_RESTORED (upper bound); writes acknowledged from then on are not part of the
    achieved recovery point, but one of them missing from a later reading is `lost_later`, an integrity finding. None:
    no outage was seen, so every acknowledged write counts. A reading is not asked for what was acknowledged after it
    began.
    A write is lost if any reading lacks it; phantom, resurrected, corrupt or duplicated if any reading has it so.
    Semantics: Jepsen's checker/set-full with a single final state; docs/measurement.md, "Recovery point".
    """
    by_seq = {a.seq: a for a in series.attempts}
    of = {outcome: {s for s, a in by_seq.items() if a.outcome is outcome} for outcome in Outcome}
    acked = of[Outcome.OK]
    counted = {s for s in acked if restored_ns is None or by_seq[s].done_ns < restored_ns}

    read: set[int] = set()
    missing: set[int] = set()
    corrupt: set[int] = set()
    duplicated: set[int] = set()
    for reading in readings:
        rows = Counter(row.seq for row in reading.rows)
        read |= rows.keys()
        missing |= {s for s in acked if by_seq[s].done_ns <= reading.read_lo_ns} - rows.keys()
        corrupt |= {row.seq for row in reading.rows if not row.intact}
        duplicated |= {s for s, times in rows.items() if times > 1}

    lost = sorted(missing & counted, key=lambda s: (by_seq[s].done_ns, s))
    unrecorded = _may_be_unrecorded(series)

    def on_record(seq: int) -> bool:
        return (unrecorded is None or seq <= unrecorded) and not any(lo <= seq < hi for lo, hi in series.unrecorded)

    holes, rpa = _recovery_point(series, [by_seq[s] for s in lost], counted, read, outages, fault, restored_to)
    return LossAccount(
        series=series.name,
        acknowledged=len(counted),
        unknown=len(of[Outcome.UNKNOWN]),
        failed=len(of[Outcome.FAILED]),
        read=len(read),
        lost=tuple(sorted(lost)),
        recovered=tuple(sorted(of[Outcome.UNKNOWN] & read)),
        phantom=tuple(sorted(s for s in read - by_seq.keys() if on_record(s))),
        resurrected=tuple(sorted(of[Outcome.FAILED] & read)),
        corrupt=tuple(sorted(corrupt)),
        duplicated=tuple(sorted(duplicated)),
        holes=holes,
        rpa=rpa,
        lost_later=tuple(sorted(missing - counted)),
    )


def _may_be_unrecorded(series: Series) -> int | None:
    """Return the last sequence number whose attempt must be on record; None if all must be.

    A probe that died kept no record of the attempts then in flight: their rows are unknown, not phantom.
    """
    if series.complete:
        return None
    if not series.attempts:
        return -1
    horizon_ns = max(a.done_ns for a in series.attempts) - round(series.timeout_s * NS_PER_S) - _FLUSH_NS
    return max((a.seq for a in series.attempts if a.due_ns <= horizon_ns), default=-1)


def _recovery_point(
    series: Series,
    lost: Sequence[Attempt],
    counted: set[int],
    read: set[int],
    outages: Sequence[Outage],
    fault: Moment | None,
    restored_to: Moment | None,
) -> tuple[int, Interval]:
    """Return the number of holes and the achieved recovery point; `lost` by acknowledgement.

    restored_to: the moment of the backup; where no write of the run is left, it may lie before the first one.
    """
    if not lost:
        return 0, Interval(0.0, series.every_s)
    first_ns, last_lost_ns = lost[0].done_ns, lost[-1].done_ns
    disaster = _disaster(series, first_ns, outages, fault)
    ok = [a for a in in_send_order(series.attempts) if a.seq in counted]
    last_ok_ns = max([last_lost_ns, *(a.done_ns for a in ok if disaster is None or a.done_ns <= disaster.hi_ns)])
    until_ns = last_ok_ns if disaster is None else max(disaster.hi_ns, last_ok_ns)
    lost_seqs = {a.seq for a in lost}
    kept_ns = max((a.done_ns for a in ok if a.done_ns <= first_ns and a.seq not in lost_seqs), default=None)
    if kept_ns is None:  # not one acknowledged write is left from before: all since the first attempt
        kept_ns = min(a.sent_ns for a in series.attempts)
        if restored_to is not None:
            kept_ns = min(kept_ns, restored_to[0])
    holes = [
        a
        for a in ok
        if a.seq in read
        and a.seq not in lost_seqs
        and a.sent_ns >= first_ns  # two commits in flight at once may survive in either order
        and (disaster is None or a.done_ns <= disaster.certainly_before_ns)  # later ones are the new writer's
    ]
    return len(holes), Interval((last_ok_ns - first_ns) / NS_PER_S, (until_ns - kept_ns) / NS_PER_S)


def _disaster(series: Series, first_lost_ns: int, outages: Sequence[Outage], fault: Moment | None) -> Disaster | None:
    """Return when the writer went away: the first outage after the first lost write, else the fault, else unknown."""
    for outage in outages:
        if outage.start_hi_ns >= first_lost_ns or outage is outages[-1]:
            first_failure_ns = min(
                (
                    a.sent_ns
                    for a in series.attempts
                    if a.outcome is not Outcome.OK
                    and a.done_ns >= outage.start_hi_ns
                    and a.sent_ns >= outage.start_lo_ns
                ),
                default=outage.start_lo_ns,
            )
            return Disaster(certainly_before_ns=first_failure_ns, hi_ns=outage.start_hi_ns)
    if fault is not None and first_lost_ns <= fault[1]:
        return Disaster(certainly_before_ns=fault[0], hi_ns=fault[1])
    return None
