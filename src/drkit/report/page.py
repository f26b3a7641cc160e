"""The report as one self-contained HTML page: no script, nothing fetched, everything escaped."""

from __future__ import annotations

import html
import re
from typing import assert_never

from drkit.model import Reason, RunRecord, Verdict
from drkit.report import charts, content, numbers, svg
from drkit.report.document import Block, Cell, Figure, Gauge, Grid, Listing, Section, Text
from drkit.report.objectives import kind_of_target
from drkit.report.steps import mode
from drkit.report.style import CSS, DEFS

# Even if something were not escaped, the page may neither run nor fetch anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SHORT = 16  # rows of a table that is kept on one sheet of paper
_UNIT = re.compile(r"(?<=\d) (?=(?:s|ms|%|min|h)(?![\w-]))|(?<=[≤≥>]) (?=\d)")


def render(record: RunRecord) -> str:
    """Return the page."""
    sections = content.sections(record)
    title = record.title or record.name
    verdict = record.judgement.verdict
    how = f" · {mode(record)}" if mode(record) else ""
    about = f"{record.kind} {record.name}{how} · target {record.target} · run no. {record.number}"
    about += f" · {numbers.to_the_second(record.started_at)}"
    band = "band" if record.target_kind == "lab" else "band aws"
    links = "".join(f'<a href="#{s.anchor}">{_e(s.title)}</a>' for s in sections)
    told = [record.description, f"Hypothesis: {record.hypothesis}" if record.hypothesis else ""]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"/>',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            '<meta name="color-scheme" content="light dark"/>',
            f"<title>{_e(verdict.upper())}: {_e(title)}</title><style>{CSS}</style></head><body>{DEFS}",
            f'<div class="{band}" role="note">{_e(kind_of_target(record))}</div>',
            f"<main><header><h1>{_e(title)}</h1>",
            f'<p class="meta">{_e(about)}</p></header>',
            f'<div class="hero {verdict}"><span class="verdict">{_named(verdict)}</span>',
            f"<p>{_e(content.in_short(record))}</p>{_reasons(record.judgement.reasons)}</div>",
            *(f'<p class="loud"><b>Note:</b> {_e(w)}</p>' for w in content.warnings(record)),
            *(f"<p>{_e(t)}</p>" for t in told if t),
            f'<nav aria-label="Sections">{links}</nav>',
            *(_section(s) for s in sections),
            f"<footer>Made by drkit from the recorded history of run {_e(record.run_id)}; ",
            "the same history yields the same page.</footer>",
            "</main></body></html>",
            "",
        ]
    )


def _reasons(reasons: tuple[Reason, ...]) -> str:
    if not reasons:
        return "<ul><li>Nothing was judged.</li></ul>"
    return (
        f"<ul>{''.join(f'<li>{_verdict(r.verdict)} <b>{_e(r.what)}</b>: {_e(r.sentence)}</li>' for r in reasons)}</ul>"
    )


def _section(section: Section) -> str:
    blocks = "".join(_block(b) for b in section.blocks)
    heading = f'<h2 id="{section.anchor}-h">{_e(section.title)}</h2>'
    return f'<section id="{section.anchor}" aria-labelledby="{section.anchor}-h">{heading}{blocks}</section>'


def _block(block: Block) -> str:
    match block:
        case Text():
            return f"<p>{_e(block.words)}</p>"
        case Listing():
            caption = f"<p><b>{_e(block.caption)}</b></p>" if block.caption else ""
            return f'{caption}<ol class="moments">{"".join(f"<li>{_e(i)}</li>" for i in block.items)}</ol>'
        case Grid():
            return _grid(block)
        case Figure():
            return (
                f"<figure><figcaption>{_e(block.caption)}</figcaption>"
                f'<div class="canvas"><div class="wide">{block.wide}</div>'
                f'<div class="narrow">{block.narrow}</div></div>{_key(block.key)}</figure>'
            )
        case _:
            assert_never(block)


def _grid(grid: Grid) -> str:
    head = "".join(f'<th scope="col">{_e(h)}</th>' if h else "<td></td>" for h in grid.head)
    rows = "".join(
        "<tr>" + "".join(_cell(c, grid.head[n], first=n == 0) for n, c in enumerate(row)) + "</tr>" for row in grid.rows
    )
    named = "" if grid.head == ("", "value") else f"<thead><tr>{head}</tr></thead>"  # facts by name need no heading
    short = ' class="short"' if len(grid.rows) <= _SHORT else ""
    return f"<table{short}><caption>{_e(grid.caption)}</caption>{named}<tbody>{rows}</tbody></table>"


def _cell(cell: Cell, column: str, *, first: bool) -> str:
    label = f' data-label="{_e(column)}"' if column not in ("", "value") else ""
    match cell:
        case Verdict():
            return f"<td{label}>{_verdict(cell)}</td>"
        case Gauge():
            return f'<td class="picture"{label}>{charts.gauge(cell)}</td>'
        case str():
            return f'<th scope="row">{_e(cell)}</th>' if first else f"<td{label}>{_e(cell)}</td>"
        case _:
            assert_never(cell)


def _key(entries: tuple[tuple[str, str], ...]) -> str:
    if not entries:
        return ""
    return f'<ul class="key">{"".join(f"<li>{_swatch(name)}{_e(meaning)}</li>" for name, meaning in entries)}</ul>'


def _swatch(name: str) -> str:
    match name:
        case "ok":
            inner = svg.rect(0, 1, 26, 7, "ok") + svg.line(0, 8, 26, 8, "rule")
        case "failed" | "unknown":
            inner = svg.rect(0, 6, 26, 7, name) + svg.line(0, 6, 26, 6, "rule")
        case "p50" | "p95" | "target":
            inner = svg.line(0, 7, 26, 7, name)
        case "flag":
            inner = svg.tag("circle", cx=13.0, cy=7.0, r=6.0, cls="flag")
        case "faultflag":
            inner = svg.rect(7, 1, 12, 12, "faultflag")
        case _:
            inner = svg.rect(0, 2, 26, 9, name)
    return f'<svg viewBox="0 0 26 14" aria-hidden="true">{inner}</svg>'


def _named(verdict: Verdict) -> str:
    return f'<span aria-hidden="true">{content.GLYPHS[verdict]}</span> {verdict.upper()}'


def _verdict(verdict: Verdict) -> str:
    return f'<span class="verdict {verdict}">{_named(verdict)}</span>'


def _e(text: object) -> str:
    """Return text escaped, with numbers kept on one line with their units."""
    return html.escape(_UNIT.sub("\u00a0", numbers.plain(text)))
