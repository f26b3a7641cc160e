"""The timeline picture: phases, marks, outage brackets, and what each probe saw.

Attempts are counted into bins as wide as a few pixels, so the picture stays small however long the run was. Successes
stand above their line and failures hang below it: readable without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from drkit.model import Mark, MarkKind, Measurement, Outage, Outcome, RunRecord, Series
from drkit.report import numbers, svg
from drkit.report.steps import steps

FLAGGED = {
    MarkKind.FAULT_REQUESTED: "fault requested",
    MarkKind.FAULT_EFFECTIVE: "fault effective",
    MarkKind.DETECTED: "detected",
    MarkKind.DECLARED: "declared",
    MarkKind.RECOVERY_START: "recovery started",
    MarkKind.RECOVERY_END: "recovery ended",
    MarkKind.DATA_VERIFIED: "data verified",
    MarkKind.REDUNDANCY_RESTORED: "redundancy restored",
    MarkKind.ABORTED: "aborted",
    MarkKind.CLEANED_UP: "cleaned up",
    MarkKind.EVENT: "event of the target",
    MarkKind.GUARD: "guard tripped",
    MarkKind.UNDO: "undone",
    MarkKind.INSTRUMENT: "instrument failed",
    MarkKind.TOOTHLESS: "fault did not bite",
    MarkKind.BASELINE_MISSING: "no steady state",
    MarkKind.CLOCK_STEPPED: "clock stepped",
    MarkKind.RESIDUE: "residue",
    MarkKind.GUARDIAN: "guardian acted",
    MarkKind.ANSWER: "a person answered",
    MarkKind.RESUMED: "another process went on",
    MarkKind.RECOVERED: "playbook complete",
}
_FAULTS = {MarkKind.FAULT_REQUESTED, MarkKind.FAULT_EFFECTIVE}
_MOST_FLAGS = 40
_PAD, _HALF, _FLAG = 10.0, 20.0, 18.0
_STEP_PX = 17.0
_STATES = {"done": "stepdone", "failed": "stepfailed", "waiting": "unsure"}  # others are under way
_KEY = (
    ("ok", "answered (above the line)"),
    ("failed", "failed (below the line)"),
    ("unknown", "no trusted answer (below, hatched)"),
    ("certain", "certainly out"),
    ("unsure", "may have been out"),
    ("faultflag", "fault"),
    ("flag", "other moment, or several (3–6)"),
)


def key(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """Return what the picture's signs mean, as (swatch, words)."""
    if record.kind != "playbook":
        return _KEY
    mine = (("stepdone", "step, done"), ("stepfailed", "step, failed (✗)"), ("step", "step, under way"))
    return (*mine, *(k for k in _KEY if k[0] != "faultflag"))


@dataclass(frozen=True, slots=True)
class Flag:
    """A numbered moment; the number stands in the picture, the words in the list below it."""

    number: int
    mark: Mark
    words: str

    @property
    def fault(self) -> bool:
        return self.mark.kind in _FAULTS


def flags(record: RunRecord) -> tuple[Flag, ...]:
    """Return the moments worth a flag, in order of time; of very many, those of the lesser kinds are left out."""
    marks = [m for m in record.history.marks if m.kind in FLAGGED]
    if len(marks) > _MOST_FLAGS:
        marks = [m for m in marks if m.kind not in (MarkKind.EVENT, MarkKind.UNDO)][:_MOST_FLAGS]
    marks.sort(key=lambda m: (m.t_lo_ns, m.t_hi_ns))
    return tuple(Flag(n, m, _told(m)) for n, m in enumerate(marks, 1))


def _told(mark: Mark) -> str:
    what = FLAGGED[mark.kind]
    if mark.kind is MarkKind.UNDO and mark.detail.get("ok") is False:
        what = "undo FAILED"
    return f"{what}: {numbers.short(mark.name, 90)}" if mark.name else what


def extent(record: RunRecord) -> tuple[int, int] | None:
    """Return the first and the last moment of the run, in ns; None if nothing at all was recorded."""
    # Since when a person says that the service is down may be hours before the run.
    marks = [m for m in record.history.marks if m.kind is not MarkKind.IMPACT]
    times = [t for m in marks for t in (m.t_lo_ns, m.t_hi_ns)]
    for s in record.history.series:
        if s.attempts:
            times += [s.attempts[0].due_ns, max(a.done_ns for a in s.attempts)]
    return (min(times), max(times)) if times and max(times) > min(times) else None


def around_the_outage(record: RunRecord) -> tuple[int, int] | None:
    """Return the window worth a closer look, in ns; None if there was no outage or it fills the picture anyway."""
    whole, outages = extent(record), record.measurement.outages
    if whole is None or not outages:
        return None
    ends = [o.end_hi_ns if o.end_hi_ns is not None else whole[1] for o in outages]
    starts = [o.start_lo_ns for o in outages]
    starts += [m.t_lo_ns for m in record.history.marks if m.kind is MarkKind.FAULT_REQUESTED and m.t_lo_ns < max(ends)]
    lo, hi = min(starts), max(ends)
    pad = max((hi - lo) // 4, 200_000_000)
    lo, hi = max(whole[0], lo - pad), min(whole[1], hi + pad)
    return (lo, hi) if hi - lo < 0.6 * (whole[1] - whole[0]) else None


def phases(record: RunRecord) -> list[tuple[str, int, int]]:
    """Return the phases as (name, from ns, to ns)."""
    whole = extent(record)
    starts = sorted((m for m in record.history.marks if m.kind is MarkKind.PHASE), key=lambda m: m.t_lo_ns)
    if whole is None or not starts:
        return []
    ends = [m.t_lo_ns for m in starts[1:]] + [whole[1]]
    return [(m.name, m.t_lo_ns, max(end, m.t_lo_ns)) for m, end in zip(starts, ends, strict=True)]


def picture(record: RunRecord, window: tuple[int, int], width: float, title: str) -> str:
    """Return the timeline of a window (ns) as SVG of the given width in px."""
    return _Timeline(record, window, width).draw(title)


class _Timeline:
    def __init__(self, record: RunRecord, window: tuple[int, int], width: float) -> None:
        self.record, self.window, self.width = record, window, width
        lo, hi = ((t - record.origin_ns) / 1e9 for t in window)
        self.x = svg.Linear(lo, hi, _PAD, width - _PAD)
        self.parts: list[str] = []
        self.captions: list[tuple[float, float]] = []  # from..to, downwards
        self.y = 14.0

    def at(self, t_ns: int) -> float:
        return self.x((t_ns - self.record.origin_ns) / 1e9)

    def seen(self, lo_ns: int, hi_ns: int) -> bool:
        return hi_ns >= self.window[0] and lo_ns <= self.window[1]

    def draw(self, title: str) -> str:
        self._axis_labels()
        top = self.y
        self._phases()
        flags_top = self.y
        shown = self._flags()
        self._steps()
        self._headline()
        for series in self.record.history.series:
            self._lane(series)
        grid = [svg.line(self.x(t), top, self.x(t), self.y, "grid") for t in self.x.ticks(70)]
        guides = [
            svg.line(self.at(f.mark.t_lo_ns), upper, self.at(f.mark.t_lo_ns), lower, "guide")
            for f in shown
            if f.fault
            for upper, lower in self._between_captions(flags_top)
        ]
        return svg.drawing(grid + guides + self.parts, self.width, self.y + 6, title, self._told())

    def _between_captions(self, top: float) -> list[tuple[float, float]]:
        """Return the heights that lines through the picture may take: all below `top` but the lines of words."""
        edges = [top, *(edge for caption in self.captions for edge in caption), self.y]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]

    def _caption(self, label: str) -> None:
        """Write a line of words with its baseline at y; no guide is drawn through it."""
        self.parts.append(svg.text(_PAD, self.y, label, "label"))
        self.captions.append((self.y - 13, self.y + 6))

    def _told(self) -> str:
        m = self.record.measurement
        lanes = ", ".join(f"{s.name}: {_tally(s)}" for s in self.record.history.series) or "no probe recorded anything"
        headline = f"Outage {numbers.interval(m.rta)}. " if m.rta else "No outage was measured. "
        return headline + lanes + ". The same facts stand in the tables of this report."

    def _axis_labels(self) -> None:
        for t in self.x.ticks(70):
            x, words = self.x(t), numbers.seconds(round(t, 6)).split(" (")[0]
            half = svg.width_of(words) / 2
            x = min(max(x, half), self.width - half)
            self.parts.append(svg.text(x, self.y, words, "small", "middle"))
        self.y += 8

    def _phases(self) -> None:
        bands = [p for p in phases(self.record) if self.seen(p[1], p[2])]
        if not bands:
            return
        for n, (name, lo, hi) in enumerate(bands):
            a, b = self.at(lo), self.at(hi)
            self.parts.append(svg.rect(a, self.y, b - a, 18, f"phase{n % 2}"))
            if words := svg.fitting(b - a - 6, numbers.short(name, 60)):
                self.parts.append(svg.text((a + b) / 2, self.y + 13, words, "small", "middle"))
        self.y += 24

    def _flags(self) -> list[Flag]:
        shown = [f for f in flags(self.record) if self.seen(f.mark.t_lo_ns, f.mark.t_lo_ns)]
        row_ends: list[float] = []
        for group in self._together(shown):
            first, last = group[0], group[-1]
            label = str(first.number) if first is last else f"{first.number}–{last.number}"
            half = max(8.0, svg.width_of(label) / 2 + 3)
            x = min(max(self.at(first.mark.t_lo_ns), half + 1), self.width - half - 1)
            row = next((n for n, end in enumerate(row_ends) if x - half - 1 > end), len(row_ends))
            row_ends[row : row + 1] = [x + half + 1]
            y = self.y + row * (_FLAG + 2)
            shape = svg.tag(
                "rect", x=x - half, y=y, width=2 * half, height=16.0, rx=0.0 if first.fault else 8.0,
                cls="faultflag" if first.fault else "flag",
            )  # fmt: skip
            number = svg.text(x, y + 12, label, "flagtext faulttext" if first.fault else "flagtext", "middle")
            told = svg.tag("title", svg.escape("; ".join(f.words for f in group)))
            self.parts.append(svg.tag("g", told + shape + number))
        self.y += len(row_ends) * (_FLAG + 2) + 4
        return shown

    def _together(self, shown: Sequence[Flag]) -> list[list[Flag]]:
        """Return the flags in groups that have one place in the picture: "3–6" instead of a tower of four."""
        groups: list[list[Flag]] = []
        for f in shown:
            near = groups and self.at(f.mark.t_lo_ns) - self.at(groups[-1][0].mark.t_lo_ns) < _FLAG / 2
            if near and f.fault == groups[-1][0].fault:
                groups[-1].append(f)
            else:
                groups.append([f])
        return groups

    def _steps(self) -> None:
        """Draw each step that was begun as a bar, with its name beside it."""
        for row in steps(self.record):
            if row.lo_ns is None:
                continue
            end_ns = self.window[1] if row.hi_ns is None else row.hi_ns
            if not self.seen(row.lo_ns, end_ns):
                continue
            a, b = (self.at(min(max(t, self.window[0]), self.window[1])) for t in (row.lo_ns, end_ns))
            wide = max(b - a, 3.0)
            sign = "✗ " if row.state == "failed" else ""
            waits = " (a person)" if row.by != "drkit" else ""
            told = svg.tag("title", svg.escape(f"{row.name}: {row.state}, took {row.took}"))
            bar = svg.rect(a, self.y, wide, _STEP_PX - 5, _STATES.get(row.state, "step"))
            left = a > self.width / 2
            room = (a if left else self.width - a - wide) - 2 * _PAD
            words = svg.fitting(room, f"{sign}{row.name}{waits}", f"{sign}{row.name}", f"{sign}{row.name[:14]}…")
            name = svg.text(a - 5 if left else a + wide + 5, self.y + 10, words, "small", "end" if left else "start")
            self.parts.append(svg.tag("g", told + bar + name))
            self.y += _STEP_PX

    def _headline(self) -> None:
        m: Measurement = self.record.measurement
        if m.impact is None or not self.seen(
            m.impact[0], m.service_restored[1] if m.service_restored else self.window[1]
        ):
            return
        self.y += 12
        words = f"Service out: {numbers.interval(m.rta)}" if m.rta else "Service out"
        self._caption(svg.fitting(self.width - 2 * _PAD, words, "Service out"))
        self.y += 6
        end_lo, end_hi = m.service_restored or (None, None)
        least_s = m.rta.lo_s if m.rta is not None else 0.0
        self._bracket(m.impact[0], m.impact[1], end_lo, end_hi, least_s, height=12)
        self.y += 18

    def _bracket(
        self, start_lo: int, start_hi: int, end_lo: int | None, end_hi: int | None, least_s: float, height: float
    ) -> None:
        """Draw the certain part solid and the uncertain ends hatched; open to the right if it never ended.

        One without an end was certainly there for least_s; whether it was afterwards nobody knows.
        """
        y = self.y
        stop_lo = min(self.window[1], start_hi + int(least_s * 1e9)) if end_lo is None else end_lo
        stop_hi = self.window[1] if end_hi is None else end_hi
        first = self.window[0]  # it may have begun long before the run
        a, b, c, d = (self.at(max(t, first)) for t in (start_lo, start_hi, stop_lo, stop_hi))
        if c < b:  # the two brackets overlap: nothing about it is certain
            self.parts.append(svg.rect(a, y, max(d - a, 2), height, "unsure"))
        else:
            self.parts.append(svg.rect(a, y, b - a, height, "unsure"))
            self.parts.append(svg.rect(b, y, max(c - b, 1), height, "certain"))
            self.parts.append(svg.rect(c, y, d - c, height, "unsure"))
        if end_hi is None:
            tip = f"M{svg.px(d - 8)} {svg.px(y - 2)}l8 {svg.px(height / 2 + 2)}l-8 {svg.px(height / 2 + 2)}z"
            self.parts.append(svg.tag("path", d=tip, cls="certain"))

    def _lane(self, series: Series) -> None:
        self.y += 16
        name = numbers.short(series.name, 40)
        about = f"{name} · {series.role}, {series.connection} connections"
        label = svg.fitting(self.width - 2 * _PAD, f"{about} · {_tally(series)}", about, name, name[:20] + "…")
        self._caption(label)
        self.y += 5
        outages = [
            o for o in self.record.measurement.outages if o.series == series.name and self.seen(*_span(o, self.window))
        ]
        if outages:
            for o in outages:
                self._bracket(o.start_lo_ns, o.start_hi_ns, o.end_lo_ns, o.end_hi_ns, o.lasted.lo_s, height=7)
            self.y += 10
        line = self.y + _HALF
        self.parts.append(svg.line(_PAD, line, self.width - _PAD, line, "rule"))
        room = self.width - 2 * _PAD
        each, kinds = _bars(series, self.window, room)
        for cls, heights, down in kinds:
            if path := _steps(heights, line, each, room, down=down):
                self.parts.append(svg.tag("path", d=path, cls=cls))
        self.y = line + _HALF + 2


def _span(o: Outage, window: tuple[int, int]) -> tuple[int, int]:
    return o.start_lo_ns, window[1] if o.end_hi_ns is None else o.end_hi_ns


def _tally(series: Series) -> str:
    n = dict.fromkeys(Outcome, 0)
    for a in series.attempts:
        n[a.outcome] += 1
    told = f"{numbers.count(n[Outcome.OK])} ok, {numbers.count(n[Outcome.FAILED])} failed"
    return told + (f", {numbers.count(n[Outcome.UNKNOWN])} unknown" if n[Outcome.UNKNOWN] else "")


def _bars(series: Series, window: tuple[int, int], room_px: float) -> tuple[float, list[tuple[str, list[int], bool]]]:
    """Return the width of a bin and, for each kind of bar, (class, heights, hangs down), all in px.

    A single failure is always visible.
    """
    lo, hi = window
    period = max(round(series.every_s * 1e9), 1)  # a bin is a whole number of periods, else its counts would beat
    bin_ns = max(2, math.ceil((hi - lo) / max(room_px / 3, 1) / period)) * period
    bins = math.ceil((hi - lo) / bin_ns)
    tallies = {o: [0] * bins for o in Outcome}
    for a in series.attempts:
        if lo <= a.due_ns < hi:
            tallies[a.outcome][(a.due_ns - lo) // bin_ns] += 1
    most = max((sum(x) for x in zip(*tallies.values(), strict=True)), default=0) or 1
    last = (hi - lo - (bins - 1) * bin_ns) / bin_ns  # the last bin is cut off by the window: it stands for a whole one
    for counts in tallies.values():
        counts[-1] = min(most, math.ceil(counts[-1] / last))

    def heights(counts: Sequence[int]) -> list[int]:
        return [0 if n == 0 else max(4, round((_HALF - 1) * n / most)) for n in counts]

    bad = [f + u for f, u in zip(tallies[Outcome.FAILED], tallies[Outcome.UNKNOWN], strict=True)]
    return room_px * bin_ns / (hi - lo), [
        ("ok", heights(tallies[Outcome.OK]), False),
        ("unknown", heights([b if u else 0 for b, u in zip(bad, tallies[Outcome.UNKNOWN], strict=True)]), True),
        ("failed", heights(tallies[Outcome.FAILED]), True),
    ]


def _steps(heights: Sequence[int], line: float, each: float, room: float, *, down: bool) -> str:
    """Return one path of boxes on a line; neighbours of one height are one box."""
    path, n = list[str](), 0
    while n < len(heights):
        end = n
        while end < len(heights) and heights[end] == heights[n]:
            end += 1
        if h := heights[n]:
            dy = h if down else -h
            path.append(
                f"M{svg.px(_PAD + n * each)} {svg.px(line)}v{dy}h{svg.px(min(end * each, room) - n * each)}v{-dy}z"
            )
        n = end
    return "".join(path)
