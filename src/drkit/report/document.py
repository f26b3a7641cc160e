"""What a report consists of, before it is Markdown or HTML: sections of text, lists, tables and pictures.

A picture never says anything alone: the same facts stand beside it in words, so Markdown can leave it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from drkit.model import Interval, Verdict


@dataclass(frozen=True, slots=True)
class Gauge:
    """An achieved interval against its limit, both "smaller is better"; drawn in HTML, left out in Markdown."""

    what: str
    achieved: Interval
    limit_s: float
    in_words: str


Cell = str | Verdict | Gauge


@dataclass(frozen=True, slots=True)
class Text:
    words: str


@dataclass(frozen=True, slots=True)
class Listing:
    items: tuple[str, ...]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture, drawn twice: for wide pages and for narrow ones."""

    caption: str
    wide: str  # svg
    narrow: str  # svg
    key: tuple[tuple[str, str], ...] = ()  # swatch name, meaning


Block = Text | Listing | Grid | Figure


@dataclass(frozen=True, slots=True)
class Section:
    anchor: str
    title: str
    blocks: tuple[Block, ...]
