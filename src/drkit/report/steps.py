"""A playbook's steps as its reader wants them: where each stands, by whom, when, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from drkit.model import Mark, MarkKind, RunRecord
from drkit.report import events, numbers
from drkit.report.document import Block, Grid, Listing, Text
from drkit.standing import Standing, names_of, standings

_S = 1e9


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step. lo_ns..hi_ns: from when it was begun to when it ended (None: it was not, or has not)."""

    name: str
    by: str  # "drkit", "a person", or who it was
    state: str  # pending, begun, waiting, done, failed
    began: str  # "12.3 s" after the start of the run, "–"
    took: str
    tries: int
    came: str  # what came of it, in words
    why: str  # of one that failed
    note: str
    lo_ns: int | None
    hi_ns: int | None


def steps(record: RunRecord) -> tuple[StepRow, ...]:
    """Return the steps of a playbook's run in order, also those it did not come to; () for an experiment."""
    if record.kind != "playbook":
        return ()
    planned = {s.name: s for s in record.steps}
    marks = record.history.marks
    names = tuple(planned) or names_of(marks)
    rows = []
    for now in standings(marks, names).values():
        by = planned[now.name].by if now.name in planned else "drkit"
        ended_ns = now.ended_ns
        began_ns = now.began_ns if now.began_ns is not None else ended_ns
        rows.append(
            StepRow(
                name=now.name,
                by=now.by or by,
                state=now.state,
                began=numbers.ABSENT if began_ns is None else _after(began_ns - record.origin_ns),
                took=_after(ended_ns - began_ns)
                if ended_ns is not None and now.began_ns is not None and began_ns
                else numbers.ABSENT,
                tries=now.tries,
                came=_came(now, by),
                why=now.why,
                note=now.note,
                lo_ns=began_ns,
                hi_ns=ended_ns,
            )
        )
    return tuple(rows)


def _after(ns: int) -> str:
    return numbers.seconds(round(ns / _S, 2))


def _came(now: Standing, by: str) -> str:
    """Return what came of a step, in words."""
    match now.state:
        case "pending":
            return "not begun"
        case "begun":
            return "left under way"
        case "waiting":
            return "answered; nobody was there to go on" if now.by else "waits for an answer"
        case "failed":
            return f"failed: {now.why}" if now.why else "failed"
        case "done":
            if by != "drkit":
                return "answered with yes"
            told = {k.replace("_", " "): v for k, v in now.result.items()}
            return ": ".join(p for p in (now.done_words, numbers.words(told)) if p)


def in_short(record: RunRecord) -> str:
    """Return how far a playbook came, in one sentence; "" for an experiment."""
    if record.kind != "playbook":
        return ""
    rows = steps(record)
    done = sum(r.state == "done" for r in rows)
    counted = f"{done} of {len(rows)} steps done"
    if any(m.kind is MarkKind.RECOVERED for m in record.history.marks):
        return f"Complete: {counted}"
    if at := next((r for r in rows if r.state in ("failed", "begun", "waiting")), None):
        return f"Stopped at {at.name}: {counted}" if record.ended else f"Stands half-way, at {at.name}: {counted}"
    return f"Not complete: {counted}"


def mode(record: RunRecord) -> str:
    """Return "practice, on the lab" or "a real recovery"; "" for an experiment."""
    return str(record.environment.get("mode", "")) if record.kind == "playbook" else ""


def gaps(record: RunRecord) -> tuple[tuple[int, int], ...]:
    """Return when nobody watched, as (from, to) in ns: between a process that stopped and the one that went on."""
    found = []
    marks = record.history.marks
    attempts = [a for s in record.history.series for a in s.attempts]
    for n, mark in enumerate(marks):
        if mark.kind is not MarkKind.RESUMED:
            continue
        seen = [m.t_hi_ns for m in marks[:n]] + [a.done_ns for a in attempts if a.done_ns <= mark.t_lo_ns]
        again = min((a.sent_ns for a in attempts if a.sent_ns >= mark.t_lo_ns), default=mark.t_hi_ns)
        lo_ns = max((t for t in seen if t <= again), default=mark.t_lo_ns)
        found.append((lo_ns, again))
    return tuple(found)


def blocks(record: RunRecord) -> tuple[Block, ...]:
    """Return the steps as a table, what people decided and noted, and what was asked before the first step."""
    rows = tuple(
        (r.name, r.by, r.began, r.took, str(r.tries) if r.tries else numbers.ABSENT, r.came, r.note)
        for r in steps(record)
    )
    if not rows:
        return (Text("No step is known of this run."),)
    noted = any(r[-1] for r in rows)  # without any, the column is left out
    head = ("step", "by", "began at", "took", "tries", "what came of it", *(("note",) if noted else ()))
    found: list[Block] = [Grid("Steps, in order", head, tuple(r if noted else r[:-1] for r in rows))]
    marks = record.history.marks
    for kind, caption in ((MarkKind.ANSWER, "What people decided and did"), (MarkKind.NOTE, "Notes of people")):
        if said := tuple(_said(record, m) for m in marks if m.kind is kind):
            found.append(Listing(said, caption))
    asked = [m for m in marks if m.kind is MarkKind.HYPOTHESIS and m.detail.get("when") == "prerequisite"]
    if asked:
        head = ("prerequisite", "answer", "why")
        answers = tuple((m.name, "held" if _held(m) else "DID NOT HOLD", _unless_held(m)) for m in asked)
        found.append(Grid("Prerequisites, asked before the first step", head, answers))
    return tuple(found)


def _said(record: RunRecord, mark: Mark) -> str:
    return f"{numbers.moment(mark.t_lo_ns, mark.t_hi_ns, record.origin_ns)} {mark.name}: {events.sentence(mark)}"


def _held(mark: Mark) -> bool:
    return mark.detail.get("held") is True


def _unless_held(mark: Mark) -> str:
    return "" if _held(mark) else numbers.short(mark.detail.get("why", ""))
