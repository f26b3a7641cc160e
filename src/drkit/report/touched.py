"""What a run changed, and what became of each change."""

from __future__ import annotations

from drkit.model import MarkKind, RunRecord, UndoRecord
from drkit.report import events, numbers
from drkit.report.document import Block, Cell, Grid, Listing, Text

_MOST_ROWS = 300


def blocks(record: RunRecord) -> tuple[Block, ...]:
    """Return the planned effects, the undo records, and what was left behind."""
    playbook = record.kind == "playbook"
    found: list[Block] = []
    if record.effects:
        rows = tuple(
            (
                e.what or e.call,
                e.call,
                e.resource,
                e.zone or e.region or numbers.ABSENT,
                e.undo or numbers.ABSENT,
                *(() if playbook else ("yes" if e.consented else "no",)),
            )
            for e in record.effects
        )
        found += capped(
            "Planned effects, in order",
            ("effect", "call", "resource", "where", "undo", *(() if playbook else ("consented",))),
            rows,
        )
    else:
        found.append(Text("No effect was planned."))
    if record.undo:
        half_way = playbook and not record.ended
        undone = tuple(
            (str(u.seq), u.verb, _undo_arguments(u), u.region or numbers.ABSENT, _undo_state(u, half_way=half_way))
            for u in record.undo
        )
        caption = f"Undo records, each written before its {'change' if playbook else 'fault'}"
        found += capped(caption, ("no.", "verb", "arguments", "region", "state"), undone)
    else:
        found.append(
            Text(
                "No undo record was written: this run changed nothing that can be put back."
                if playbook
                else "No undo record was written: nothing was broken by this run."
            )
        )
    residue = [m for m in record.history.marks if m.kind is MarkKind.RESIDUE]
    if residue:
        found.append(
            Listing(
                tuple(f"{m.name}: {events.sentence(m)}" for m in residue),
                "Residue: differences that should not be there",
            )
        )
    return tuple(found)


def _undo_arguments(u: UndoRecord) -> str:
    """Return with what it will be undone; its region has a column of its own."""
    told = {k.replace("_", " "): v for k, v in u.args.items() if not (k == "aws_region" and v == u.region)}
    return numbers.short(numbers.words(told), 600)


def _undo_state(u: UndoRecord, *, half_way: bool) -> str:
    if u.kept:
        return "kept on purpose: the playbook came to its end"
    if half_way and not u.done:
        return "pending: drkit undo would carry it out"
    return "done" if u.done else "PENDING: not known to be put back"


def capped(caption: str, head: tuple[str, ...], rows: tuple[tuple[Cell, ...], ...]) -> tuple[Block, ...]:
    """Return a table, and below one that is too long how much is missing."""
    blocks: tuple[Block, ...] = (Grid(caption, head, rows[:_MOST_ROWS]),)
    if len(rows) > _MOST_ROWS:
        blocks += (Text(f"… and {numbers.count(len(rows) - _MOST_ROWS)} more, all of them in report.json."),)
    return blocks
