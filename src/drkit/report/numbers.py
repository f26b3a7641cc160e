"""Numbers as people read them: always a unit, never more certainty than was measured.

Intervals are rounded outwards, so the printed one still covers the measured one, and with enough digits that its two
ends differ when the measured ends do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

from drkit.model import Interval, type_json

ABSENT = "–"
NOT_RECOVERED = "not recovered"
_MINUS = "−"
_MS_BELOW_S = 0.1
_MINUTES_FROM_S = 600.0


def seconds(value_s: float) -> str:
    """Return one duration with a unit that suits its size: "2.4 ms", "0.25 s", "900 s (15 min)"."""
    if not math.isfinite(value_s):
        return "unbounded"
    scale, unit = _unit(abs(value_s))
    digits = 0 if abs(value_s * scale) >= 1000 else 3 if unit == "s" else 1
    return f"{_number(value_s * scale, digits, ROUND_HALF_EVEN)} {unit}{_in_minutes(value_s)}"


def interval(value: Interval | None, beyond: str = NOT_RECOVERED) -> str:
    """Return "1.92–1.96 s"; "> 12.3 s, not recovered" (`beyond`) without an upper bound; "–" for no value."""
    if value is None:
        return ABSENT
    lo, hi = value.lo_s, value.hi_s
    if not math.isfinite(lo):
        return "unknown"
    if not math.isfinite(hi):
        scale, unit = _unit(abs(lo))
        return f"> {_number(lo * scale, 1, ROUND_FLOOR)} {unit}" + (f", {beyond}" if beyond else "")
    scale, unit = _unit(max(abs(lo), abs(hi)))
    low, high = _ends(lo * scale, hi * scale, 3 if unit == "s" else 2)
    joined = low if low == high else f"{low} to {high}" if lo < 0 else f"{low}–{high}"
    return f"{joined} {unit}{_in_minutes(hi)}"


def difference(value: Interval, beyond: str = NOT_RECOVERED) -> str:
    """Return a time between two events: an interval, and what it means that it is negative, or may be."""
    words = interval(value, beyond)
    if value.hi_s < 0:
        return f"{words} (negative: healed by itself before that)"
    if value.lo_s == value.hi_s == 0:
        return f"{words} (one and the same observation)"
    if value.lo_s < 0:
        return f"{words} (their moments overlap: which came first is not known)"
    return words


def to_the_second(iso: str) -> str:
    """Return a moment of ISO 8601 for people: "2026-11-22 21:53:41 UTC"; what is none as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)?", iso)
    if found is None:
        return iso
    day, time, zone = found.groups(default="")
    return f"{day} {time} {'UTC' if zone in ('Z', '+00:00', '-00:00') else zone}".strip()


def moment(lo_ns: int, hi_ns: int, origin_ns: int) -> str:
    """Return when something happened, in seconds after the origin: "12.29–12.31 s"."""
    lo_s, hi_s = (lo_ns - origin_ns) / 1e9, (hi_ns - origin_ns) / 1e9
    if hi_s < lo_s:  # a torn record is still to be read
        lo_s, hi_s = hi_s, lo_s
    if hi_s - lo_s < 0.001:
        return f"{_number(lo_s, 3, ROUND_HALF_EVEN)} s"
    low, high = _ends(lo_s, hi_s, 3)
    return f"{low}{' to ' if lo_s < 0 else '–'}{high} s"


def percent(lo: float, hi: float | None = None) -> str:
    """Return a share (0..1) or an interval of shares: "99.95 %", "99.91–99.97 %"."""
    hi = lo if hi is None else hi
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return ABSENT
    low, high = _ends(lo * 100, hi * 100, 4)
    return f"{low} %" if low == high else f"{low}–{high} %"


def count(n: int) -> str:
    """Return a count with thousands apart: "12,345"."""
    return f"{n:,}"


def ranges(numbers: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return sorted runs of consecutive numbers as (first, last)."""
    runs: list[tuple[int, int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return runs


def few(numbers: tuple[int, ...], most: int = 4) -> str:
    """Return how many, and which, briefly: "7 (#12–#17, #40)"."""
    if not numbers:
        return "0"
    runs = ranges(numbers)
    shown = ", ".join(f"#{a}" if a == b else f"#{a}–#{b}" for a, b in runs[:most])
    return f"{count(len(numbers))} ({shown}{', …' if len(runs) > most else ''})"


def plain(text: object) -> str:
    """Return text without the characters that XML and terminals choke on (controls, lone surrogates)."""
    raw = str(text).encode("utf-8", "replace").decode("utf-8")
    return "".join(
        c if c in "\n\t" or (c >= " " and c != "\x7f" and c not in "\ufffe\uffff") else "\ufffd" for c in raw
    )


def short(text: object, most: int = 220) -> str:
    """Return text on one line of at most `most` characters."""
    line = " ".join(plain(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def words(value: type_json) -> str:
    """Return a JSON value as words: "zone: a; instances: i-1, i-2"."""
    match value:
        case None:
            return ABSENT
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case Mapping():
            return "; ".join(f"{k}: {words(value[k])}" for k in sorted(value, key=str))
        case list() | tuple():
            return ", ".join(words(v) for v in value)
        case _:
            return str(value)


def _unit(size_s: float) -> tuple[float, str]:
    return (1000.0, "ms") if 0 < size_s < _MS_BELOW_S else (1.0, "s")


def _ends(lo: float, hi: float, exact_digits: int) -> tuple[str, str]:
    width = hi - lo
    if round(width, 9) <= 0:
        return (_number(lo, exact_digits, ROUND_HALF_EVEN),) * 2
    digits = min(6, max(0, math.ceil(-math.log10(width / 10))))
    low, high = _number(lo, digits, ROUND_FLOOR, keep=True), _number(hi, digits, ROUND_CEILING, keep=True)
    while "." in low and "." in high and low[-1] == high[-1] == "0":
        low, high = low[:-1], high[:-1]
    return low.removesuffix("."), high.removesuffix(".")


def _number(value: float, digits: int, rounding: str, *, keep: bool = False) -> str:
    rounded = Decimal(repr(round(value, 9))).quantize(Decimal(1).scaleb(-digits), rounding=rounding)
    text = f"{abs(rounded):,f}"
    if "." in text and (not keep or rounded == 0):
        text = text.rstrip("0").rstrip(".")
    return (_MINUS if rounded < 0 else "") + text


def _in_minutes(value_s: float) -> str:
    if abs(value_s) < _MINUTES_FROM_S or not math.isfinite(value_s):
        return ""
    minutes, hours = value_s / 60, value_s / 3600
    about = "" if value_s % 60 == 0 else "≈ "
    return f" ({about}{hours:.3g} h)" if hours >= 2 else f" ({about}{minutes:.3g} min)"
