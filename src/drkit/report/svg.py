"""Small SVG: escaped tags, scales, ticks. Colours and hatches are classes that the page's style sheet fills in."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass

from drkit.report import numbers

CHAR_PX = 6.6  # a generous width of one 11 px character


def tag(name: str, inner: str = "", **attributes: str | float) -> str:
    """Return one element; `inner` is already markup, attributes are escaped. `cls` is class, `_` becomes `-`."""
    written = "".join(
        f' {"class" if k == "cls" else k.replace("_", "-")}="{escape(px(v) if isinstance(v, float) else str(v))}"'
        for k, v in attributes.items()
    )
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def text(x: float, y: float, words: str, cls: str = "", anchor: str = "start") -> str:
    """Return a line of text with its baseline at y."""
    return tag(
        "text",
        escape(words),
        x=float(x),
        y=float(y),
        text_anchor=anchor,
        **({"cls": cls} if cls else {}),
    )


def escape(words: str) -> str:
    """Return text fit for an element or an attribute."""
    return html.escape(numbers.plain(words))


def rect(x: float, y: float, width: float, height: float, cls: str) -> str:
    return tag("rect", x=float(x), y=float(y), width=float(max(width, 0)), height=float(height), cls=cls)


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), cls=cls)


def drawing(parts: list[str], width: float, height: float, title: str, desc: str) -> str:
    """Return a whole picture that scales to its place and tells a screen reader what it shows."""
    told = tag("title", escape(title)) + tag("desc", escape(desc))
    frame = f'viewBox="0 0 {px(width)} {px(height)}" style="max-width:{px(width * 1.25)}px"'
    name = f'role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg"'
    return f"<svg {frame} {name}>{told}{''.join(parts)}</svg>"


def px(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    rounded = round(float(value), 1)
    return str(int(rounded)) if rounded == int(rounded) else str(rounded)


def width_of(words: str) -> float:
    return len(words) * CHAR_PX


def fitting(room_px: float, *choices: str) -> str:
    """Return the first of the choices that fits, else nothing."""
    return next((c for c in choices if width_of(c) <= room_px), "")


@dataclass(frozen=True, slots=True)
class Linear:
    """Maps lo..hi to left..right."""

    lo: float
    hi: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        share = (value - self.lo) / (self.hi - self.lo) if self.hi > self.lo else 0.0
        return self.left + min(max(share, 0.0), 1.0) * (self.right - self.left)

    def ticks(self, apart_px: float) -> list[float]:
        """Return round values at least so many pixels apart."""
        span, room = self.hi - self.lo, abs(self.right - self.left)
        if span <= 0 or room <= 0:
            return [self.lo]
        step = _round_up(span * apart_px / room)
        first = math.ceil(self.lo / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.hi / step + 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Log:
    """Maps lo..hi (both > 0) to left..right by their logarithms; anything at or below lo is at the left."""

    lo: float
    hi: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        if value <= self.lo or self.hi <= self.lo:
            return self.left
        share = math.log(value / self.lo) / math.log(self.hi / self.lo)
        return self.left + min(share, 1.0) * (self.right - self.left)

    def ticks(self, apart_px: float) -> list[float]:
        """Return powers of ten at least so many pixels apart."""
        decades = range(math.ceil(math.log10(self.lo) - 1e-9), math.floor(math.log10(self.hi) + 1e-9) + 1)
        per_decade = abs(self.right - self.left) / max(math.log10(self.hi / self.lo), 1e-9)
        every = max(1, math.ceil(apart_px / max(per_decade, 1e-9)))
        return [10.0**d for d in decades if (d - decades.start) % every == 0]


def _round_up(step: float) -> float:
    ten = 10.0 ** math.floor(math.log10(step))
    return next(m * ten for m in (1, 2, 5, 10) if m * ten >= step * (1 - 1e-9))
