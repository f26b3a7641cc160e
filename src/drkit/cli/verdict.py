"""A run's record as the command line tells it: its exit code, its verdict table, its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from drkit import report
from drkit.cli import console
from drkit.model import Interval, Mark, MarkKind, RunRecord, Verdict
from drkit.report import numbers

STILL_BROKEN = 5
_GRAVITY = (0, 3, 1, 2, 4, 5)  # exit codes, mildest first: what is proven is graver than what is not known


def exit_code(record: RunRecord) -> int:
    """Return 0 pass, 1 fail, 3 inconclusive, invalid or aborted; 5 before all of them if something is still broken."""
    if still_broken(record):
        return STILL_BROKEN
    return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(record.judgement.verdict, 3)


def worst(codes: Iterable[int]) -> int:
    """Return the gravest of exit codes; 0 of none."""
    return max(codes, key=_GRAVITY.index, default=0)


def still_broken(record: RunRecord) -> tuple[str, ...]:
    """Return one sentence for each thing that the run changed and nobody has put back since."""
    marks = record.history.marks
    undone = {m.detail.get("seq") for m in marks if m.kind is MarkKind.UNDO and m.detail.get("ok") is True}
    found = [
        f"{u.verb} has not been undone: {_told(marks, u.seq) or 'nobody tried'}"
        for u in record.undo
        # What a playbook that stands half-way has done is meant to be there, until somebody says otherwise.
        if not u.done and u.seq not in undone and (record.ended or record.kind != "playbook")
    ]
    cleaned_ns = max((m.t_hi_ns for m in marks if m.kind is MarkKind.CLEANED_UP), default=-1)
    found += [
        str(m.detail.get("why") or m.name) for m in marks if m.kind is MarkKind.RESIDUE and m.t_hi_ns > cleaned_ns
    ]
    return tuple(found)


def _told(marks: Sequence[Mark], seq: int) -> str:
    said = [m.detail.get("sentence", "") for m in marks if m.kind is MarkKind.UNDO and m.detail.get("seq") == seq]
    return str(said[-1]) if said else ""


def text(record: RunRecord, directory: Path) -> str:
    """Return the verdict with its table and reasons, gravest first."""
    shown = report.table(record)
    rows = [(r.objective, r.target, r.achieved, str(r.verdict).upper() if r.verdict else "–") for r in shown.rows]
    lines = [
        f"{record.name} on {record.target}: {console.colour(str(shown.verdict).upper())}",
        shown.kind,
        "",
        *_coloured(console.table(("objective", "target", "achieved", "verdict"), rows, "  ")),
        "",
    ]
    lines += [
        f"  {console.colour(str(r.verdict).upper())}  {r.what}: {r.sentence}"
        for r in shown.reasons
        if r.verdict is not Verdict.PASS
    ]
    if passed := list(dict.fromkeys(r.what for r in shown.reasons if r.verdict is Verdict.PASS)):
        lines.append(f"  {console.colour('PASS')}  {', '.join(passed)}")
    lines += ["", *_steps(record), data_loss(record), parts_of_recovery(record)]
    if broken := still_broken(record):
        lines += [f"STILL BROKEN: {sentence}" for sentence in broken] + [f"put it back: drkit undo {record.run_id}"]
    elif kept := sum(u.kept for u in record.undo):
        lines.append(f"kept: what the playbook has done stays as it is ({kept} undo record{'s'[: kept > 1]} closed)")
    elif record.undo and any(m.kind is MarkKind.CLEANED_UP for m in record.history.marks):
        lines.append("put back: everything; nothing was left behind")
    if not record.ended and record.kind == "playbook":
        lines.append("nothing is put back: the target stays as the playbook has left it")
        lines.append(f"go on: drkit resume {record.run_id}; or put back what it did: drkit undo {record.run_id}")
    elif not record.ended:
        lines.append("this run was cut short, and nobody finished it")
    page = directory / "report.html"
    lines.append(f"report: {_near(page)}" if page.exists() else f"report: none yet; drkit report {record.run_id}")
    return "\n".join(line for n, line in enumerate(lines) if line or lines[n - 1])


def _steps(record: RunRecord) -> list[str]:
    """Return the table of a playbook's steps; nothing for an experiment, or one that came to no step."""
    rows = [(s.name, s.by, s.took, numbers.short(s.came, 90)) for s in report.steps(record)]
    return [console.table(("step", "by", "took", "what came of it"), rows, "  "), ""] if rows else []


def data_loss(record: RunRecord) -> str:
    """Return what became of the writes, in one line."""
    losses = record.measurement.losses
    if not losses:
        return "data: no writer's rows were read back, so nothing is known of losses"
    total = {
        name: sum(len(getattr(x, name)) for x in losses)
        for name in ("lost", "recovered", "phantom", "resurrected", "corrupt", "duplicated", "lost_later")
    }
    acknowledged, unknown = sum(x.acknowledged for x in losses), sum(x.unknown for x in losses)
    line = f"data: {numbers.count(total['lost'])} lost of {numbers.count(acknowledged)} acknowledged writes"
    line += f"; {numbers.count(unknown)} without an answer, of which {numbers.count(total['recovered'])} are there"
    odd = [f"{n} {name.replace('_', ' ')}" for name, n in total.items() if n and name not in ("lost", "recovered")]
    return line + (f"; {', '.join(odd)}" if odd else "")


def parts_of_recovery(record: RunRecord) -> str:
    """Return where the recovery time went, in one line; "" if there was none."""
    m = record.measurement
    parts = m.decomposition
    told = [
        f"{name} {numbers.interval(value)}"
        for name, value in (
            ("detect", parts.ttd),
            ("decide", parts.tti),
            ("mitigate", parts.ttm),
            ("verify", parts.ttv),
            ("redundant again after", m.redundancy),
        )
        if value is not None
    ]
    return f"time: {'; '.join(told)}" if told and m.impact is not None else ""


def as_json(record: RunRecord, directory: Path) -> dict[str, Any]:
    """Return a run for programs: the verdict and its numbers; everything else is in report.json."""
    m = record.measurement
    return {
        "run_id": record.run_id,
        "number": record.number,
        "name": record.name,
        "target": record.target,
        "target_kind": record.target_kind,
        "started_at": record.started_at,
        "ended": record.ended,
        "verdict": str(record.judgement.verdict),
        "exit_code": exit_code(record),
        "reasons": [
            {"verdict": str(r.verdict), "what": r.what, "sentence": r.sentence} for r in record.judgement.reasons
        ],
        "objectives": [
            {
                "objective": r.objective,
                "target": r.target,
                "achieved": r.achieved,
                "verdict": r.verdict and str(r.verdict),
            }
            for r in report.table(record).rows
        ],
        "rta": span(m.rta),
        "rpa": span(m.rpa),
        "rta_verified": span(m.rta_verified),
        "redundancy": span(m.redundancy),
        "acknowledged_writes": sum(x.acknowledged for x in m.losses) if m.losses else None,
        "lost_writes": sum(len(x.lost) for x in m.losses) if m.losses else None,
        "still_broken": still_broken(record),
        "steps": [
            {"name": s.name, "by": s.by, "state": s.state, "tries": s.tries, "why": s.why} for s in report.steps(record)
        ],
        "directory": str(directory),
        "report": str(directory / "report.html"),
    }


def span(value: Interval | None) -> dict[str, float] | None:
    """Return an interval as JSON shows it: {"lo_s", "hi_s"}."""
    return None if value is None else {"lo_s": value.lo_s, "hi_s": value.hi_s}


def _coloured(table: str) -> list[str]:
    lines = []
    for line in table.splitlines():
        head, _, last = line.rpartition(" ")
        lines.append(f"{head} {console.colour(last)}")
    return lines


def _near(path: Path) -> Path:
    """Return a path as short as it can be said from here."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
