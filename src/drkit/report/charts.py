"""The smaller pictures: intervals against a limit, the parts of the recovery time, latency over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from drkit.model import Decomposition, ErrorClass, Interval, Outcome, RunRecord, Series
from drkit.report import numbers, svg
from drkit.report.document import Gauge

_LOG_FROM = 20.0  # a limit this many times what was achieved would squeeze it to nothing on a linear scale


def gauge(g: Gauge, width: float = 240) -> str:
    """Return a bar up to the achieved interval, with the limit as an upright line; smaller is better."""
    lo, hi = max(g.achieved.lo_s, 0.0), g.achieved.hi_s
    endless = not math.isfinite(hi)
    reach = max(g.limit_s, lo if endless else hi, 1e-9)
    small = min(v for v in (hi, g.limit_s, reach) if v > 0)
    logarithmic = reach / small > _LOG_FROM
    top = reach * (3 if logarithmic else 1.25)
    x: svg.Log | svg.Linear = (
        svg.Log(10.0 ** math.floor(math.log10(small / 4)), top, 2, width - 2)
        if logarithmic
        else svg.Linear(0, top, 2, width - 2)
    )
    end = width - 2 if endless else x(hi)
    parts = [svg.rect(2, 6, width - 4, 12, "trough")]
    if logarithmic:
        parts += [svg.line(x(t), 18, x(t), 21, "rule") for t in x.ticks(1)]
    parts.append(svg.rect(2, 6, x(lo) - 2, 12, "certain"))
    parts.append(svg.rect(x(lo), 6, max(end - x(lo), 1.5), 12, "unsure"))
    at = x(g.limit_s)
    parts.append(svg.line(at, 1, at, 23, "limit"))
    parts.append(svg.text(at, 32, "target", "tiny", "end" if at > width - 22 else "middle" if at > 22 else "start"))
    if logarithmic and at > 70:
        parts.append(svg.text(2, 32, "log scale", "tiny"))
    desc = f"{g.in_words}; bar against the limit, {'logarithmic' if logarithmic else 'linear'} scale, smaller is better"
    return svg.drawing(parts, width, 35, f"{g.what} against its limit", desc)


def bars(rows: Sequence[tuple[str, Interval]], width: float, title: str) -> str:
    """Return intervals on one linear scale from 0: solid up to the lower bound, hatched to the upper."""
    top = max((v.hi_s if math.isfinite(v.hi_s) else v.lo_s * 1.3 for _, v in rows), default=1.0) or 1.0
    x, parts, y = svg.Linear(0, top, 10, width - 10), list[str](), 4.0
    for name, value in rows:
        y += 14
        words = numbers.interval(value)
        parts.append(svg.text(14, y, svg.fitting(width - 24, f"{name}: {words}", words), "label"))
        end = x(value.hi_s) if math.isfinite(value.hi_s) else width - 10
        parts.append(svg.rect(10, y + 5, x(value.lo_s) - 10, 12, "certain"))
        parts.append(svg.rect(x(value.lo_s), y + 5, max(end - x(value.lo_s), 1.5), 12, "unsure"))
        y += 22
    parts.append(svg.line(10, 4, 10, y, "rule"))
    told = "; ".join(f"{name}: {numbers.interval(value)}" for name, value in rows)
    return svg.drawing(parts, width, y + 4, title, told)


def parts_of_recovery(d: Decomposition, width: float) -> str:
    """Return detect, decide, mitigate, verify as a staircase in time; a negative part runs backwards, outlined."""
    named = (("TTD", "detect", d.ttd), ("TTI", "decide", d.tti), ("TTM", "mitigate", d.ttm), ("TTV", "verify", d.ttv))
    stairs, at = [], 0.0
    for short, verb, value in named:
        finite = value is not None and math.isfinite(value.hi_s)
        stairs.append((short, verb, value, at))
        if value is not None and finite:
            at += (value.lo_s + value.hi_s) / 2
    reached = [s + edge for _, _, v, s in stairs if v for edge in (0.0, v.lo_s, v.hi_s) if math.isfinite(edge)]
    lo, hi = min([0.0, *reached]), max([0.0, *reached]) or 1.0
    x, parts, y = svg.Linear(lo, hi, 12, width - 12), list[str](), 4.0
    for short, verb, value, start in stairs:
        y += 14
        words = "its events were not all seen" if value is None else numbers.interval(value, "no end seen")
        backwards = value is not None and value.hi_s < 0
        label = svg.fitting(
            width - 24,
            f"{short}, {verb}: {numbers.difference(value, 'no end seen') if value else words}",
            f"{short}: {words}{' (negative)' if backwards else ''}",
            short,
        )
        parts.append(svg.text(12, y, label, "label"))
        if value is not None:
            a, b = x(start + value.lo_s), x(start + value.hi_s if math.isfinite(value.hi_s) else hi)
            s = x(start)
            if backwards:
                parts.append(svg.rect(a, y + 5, max(s - a, 1.5), 12, "backwards"))
                parts.append(svg.tag("path", d=f"M{svg.px(a + 7)} {svg.px(y + 6)}l-6 5l6 5", cls="arrow"))
            else:
                parts.append(svg.rect(s, y + 5, max(a - s, 0), 12, "certain"))
                parts.append(svg.rect(max(a, s) if value.lo_s >= 0 else a, y + 5, max(b - a, 1.5), 12, "unsure"))
            parts.append(svg.line(s, y + 3, s, y + 19, "rule"))
        y += 22
    told = "; ".join(f"{s} {numbers.interval(v, 'no end seen') if v else 'not seen'}" for s, _, v, _ in stairs)
    return svg.drawing(parts, width, y + 4, "Parts of the recovery time", told)


def latency(record: RunRecord, window: tuple[int, int], width: float) -> str:
    """Return p50 (solid) and p95 (dashed) of each series over time, on one logarithmic scale."""
    room = width - 58
    curves = [(s, c) for s in record.history.series if (c := _percentiles(s, window, room))]
    values = [v for _, c in curves for _, p50, p95 in c for v in (p50, p95)]
    if not values:
        return ""
    limit = record.objective.p95_s
    lo = 10.0 ** math.floor(math.log10(max(min(values), 1e-5)))
    hi = 10.0 ** math.ceil(math.log10(max([*values, *([limit] if limit else []), lo * 10])))
    start_s, end_s = ((t - record.origin_ns) / 1e9 for t in window)
    time = svg.Linear(start_s, end_s, 48, width - 10)
    parts, y = list[str](), 14.0
    for t in time.ticks(70):
        words = numbers.seconds(round(t, 6)).split(" (")[0]
        half = svg.width_of(words) / 2
        parts.append(svg.text(min(time(t), width - half), y, words, "small", "middle"))
    for series, curve in curves:
        y += 18
        name = numbers.short(series.name, 40)
        parts.append(svg.text(48, y, svg.fitting(width - 60, f"{name} · {series.connection}", name), "label"))
        scale = svg.Log(lo, hi, y + 70, y + 8)
        for t in scale.ticks(18):
            parts.append(svg.line(48, scale(t), width - 10, scale(t), "grid"))
            parts.append(svg.text(44, scale(t) + 4, numbers.seconds(t), "tiny", "end"))
        if limit and series.role == "service":
            parts.append(svg.line(48, scale(limit), width - 10, scale(limit), "target"))
        for cls, which in (("p95", 2), ("p50", 1)):
            parts.append(
                svg.tag(
                    "path",
                    d=_curve([(48 + c[0] * room, scale(c[which])) for c in curve], _bin_px(series, window, room)),
                    cls=cls,
                )
            )
        y += 74
    told = "; ".join(f"{s.name}: p95 at most {numbers.seconds(max(c[2] for c in curve))}" for s, curve in curves)
    return svg.drawing(parts, width, y + 6, "Latency over time, p50 and p95", told)


def _bins(series: Series, window: tuple[int, int], room_px: float) -> int:
    by_period = int((window[1] - window[0]) / 1e9 / max(4 * series.every_s, 1e-6))
    return max(4, min(int(room_px // 6), by_period))


def _bin_px(series: Series, window: tuple[int, int], room_px: float) -> float:
    return room_px / _bins(series, window, room_px)


def _percentiles(series: Series, window: tuple[int, int], room_px: float) -> list[tuple[float, float, float]]:
    """Return (place in the window, 0..1; p50 in s; p95 in s). Time-outs enter at τ; refusals have no latency."""
    lo, hi = window
    bins = _bins(series, window, room_px)
    samples: list[list[float]] = [[] for _ in range(bins)]
    for a in series.attempts:
        waited = a.error is ErrorClass.TIMEOUT
        if lo <= a.due_ns <= hi and (a.outcome is Outcome.OK or waited):
            took_s = series.timeout_s if waited else (a.done_ns - a.due_ns) / 1e9
            samples[min((a.due_ns - lo) * bins // (hi - lo), bins - 1)].append(max(took_s, 1e-5))
    return [
        ((n + 0.5) / bins, _rank(sorted(values), 0.50), _rank(sorted(values), 0.95))
        for n, values in enumerate(samples)
        if values
    ]


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _curve(points: Sequence[tuple[float, float]], bin_px: float) -> str:
    """Return a path; it breaks where bins are empty, and a lone point is a short dash."""
    path, last = list[str](), -math.inf
    for x, y in points:
        joined = x - last <= 2.5 * bin_px
        path.append(f"{'L' if joined else 'M'}{svg.px(x)} {svg.px(y)}" + ("" if joined else "h1"))
        last = x
    return "".join(path)
