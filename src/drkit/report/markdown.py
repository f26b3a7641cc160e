"""The report as Markdown, for a terminal or a pull request."""

from __future__ import annotations

import re
from typing import assert_never

from drkit.model import RunRecord, Verdict
from drkit.report import content, numbers
from drkit.report.document import Block, Cell, Figure, Gauge, Grid, Listing, Text
from drkit.report.objectives import kind_of_target

_SPECIAL = re.compile(r"([\\`*|<]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|~~)")  # what would be markup where it stands


def render(record: RunRecord) -> str:
    """Return the whole report; its pictures are left out, their facts are in its tables."""
    lines = [
        f"> **{_safe(kind_of_target(record))}**",
        "",
        f"# {_safe(record.title or record.name)}: {_verdict(record.judgement.verdict)}",
        "",
        _safe(content.in_short(record)),
        "",
    ]
    for warning in content.warnings(record):
        lines += [f"> **Note:** {_safe(warning)}", ""]
    lines += [f"- **{_verdict(r.verdict)}** {_safe(r.what)}: {_safe(r.sentence)}" for r in record.judgement.reasons]
    if not record.judgement.reasons:
        lines.append("- Nothing was judged.")
    lines.append("")
    for told in (record.description, record.hypothesis and f"Hypothesis: {record.hypothesis}"):
        if told:
            lines += [_safe(told), ""]
    for section in content.sections(record):
        lines += [f"## {_safe(section.title)}", ""]
        for block in section.blocks:
            lines += _block(block)
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block) -> list[str]:
    match block:
        case Text():
            return [_safe(block.words), ""]
        case Listing():
            items = [f"{n}. {_safe(item)}" for n, item in enumerate(block.items, 1)]
            return ([f"{_safe(block.caption)}:", ""] if block.caption else []) + items + [""]
        case Grid():
            return _grid(block)
        case Figure():
            return []
        case _:
            assert_never(block)


def _grid(grid: Grid) -> list[str]:
    drawn = {n for row in grid.rows for n, cell in enumerate(row) if isinstance(cell, Gauge)}
    drawn |= {n for n, name in enumerate(grid.head) if name == "picture"}
    rows = [[_cell(c) for n, c in enumerate(row) if n not in drawn] for row in grid.rows]
    head = [_safe(h) for n, h in enumerate(grid.head) if n not in drawn]
    table = [f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows)]
    return [f"*{_safe(grid.caption)}*", "", *table, ""]


def _cell(cell: Cell) -> str:
    match cell:
        case Verdict():
            return f"**{_verdict(cell)}**"
        case Gauge():
            return ""
        case str():
            return _safe(cell)
        case _:
            assert_never(cell)


def _verdict(verdict: Verdict) -> str:
    return f"{content.GLYPHS[verdict]} {verdict.upper()}"


def _safe(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(numbers.plain(text).split()))
