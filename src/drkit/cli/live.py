"""What a person sees while a run goes on: a picture on a terminal, plain lines anywhere else.

A view is told of the run from several threads and must never disturb it: whatever goes wrong here turns the view off.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

from drkit.model import Role
from drkit.report import numbers

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

    from drkit.engine import ProbeView, Progress

HEARTBEAT_S = 5.0


class View(Protocol):
    """A drkit.engine.Watcher that can be closed."""

    def progress(self, now: Progress) -> None: ...

    def event(self, at_s: float, text: str) -> None: ...

    def say(self, text: str) -> None:
        """Print words that are no event of the run."""

    def hold(self) -> None:
        """Draw nothing while a person types; events still scroll by."""

    def go_on(self) -> None:
        """Draw again."""

    def close(self) -> None: ...


@contextlib.contextmanager
def view(title: str, stream: TextIO | None = None) -> Iterator[View]:
    """Show a run on a stream (standard error) until the block ends."""
    stream = stream or sys.stderr
    shown: View = Picture(title, stream) if _draws(stream) else Lines(stream)
    try:
        yield shown
    finally:
        shown.close()


@contextlib.contextmanager
def board(stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """Give a function that shows a text in place of the one before; where nothing can be drawn, the lines that are new.

    The text is a result: it goes to standard output.
    """
    stream = stream or sys.stdout
    shown: list[str] = []

    def lines(text: str) -> None:
        for line in text.splitlines():
            if line not in shown:
                stream.write(line + "\n")
        stream.flush()
        shown[:] = text.splitlines()

    if not _draws(stream):
        yield lines
        return
    from rich.text import Text

    drawn = _start("status", stream, transient=False)
    try:
        yield lambda text: drawn.update(Text(numbers.plain(text)), refresh=True)
    finally:
        drawn.stop()


def _draws(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "") and not os.environ.get("CI")


class Lines:
    """One line an event, and one every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._told_s = 0.0

    def event(self, at_s: float, text: str) -> None:
        self._write(at_s, text)

    def progress(self, now: Progress) -> None:
        if now.elapsed_s - self._told_s < HEARTBEAT_S:
            return
        probes = ", ".join(_brief(p) for p in now.probes)
        clock = outage(now)
        at = f"{now.phase}, {steps_in_words(now.steps)}" if now.steps else now.phase
        self._write(now.elapsed_s, f"{at}: {probes}" + (f"; {clock}" if now.outage_s else ""))

    def say(self, text: str) -> None:
        with self._lock, contextlib.suppress(Exception):
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def hold(self) -> None:
        pass

    def go_on(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _write(self, at_s: float, text: str) -> None:
        self._told_s = max(self._told_s, at_s)
        self.say(f"{at_s:7.2f} s  {_line(text)}")


class Picture:
    """The run as it is now, redrawn in place; events scroll by above it and stay."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._title = title
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._held = False
        with contextlib.suppress(Exception):
            self._live = _start(title, stream)

    def event(self, at_s: float, text: str) -> None:
        from rich.text import Text

        self._draw(lambda live: live.console.print(Text(f"{at_s:7.2f} s  {_line(text)}", style=_style_of(text))))

    def say(self, text: str) -> None:
        from rich.text import Text

        self._draw(lambda live: live.console.print(Text(numbers.plain(text))))

    def progress(self, now: Progress) -> None:
        if not self._held:
            self._draw(lambda live: live.update(picture(self._title, now), refresh=True))

    def hold(self) -> None:
        self._held = True
        self._draw(lambda live: live.stop())

    def go_on(self) -> None:
        self._draw(lambda live: live.start())
        self._held = False

    def close(self) -> None:
        self._draw(lambda live: live.stop())
        self._live = None

    def _draw(self, how: Callable[[Live], None]) -> None:
        with self._lock:
            if self._live is None:
                return
            try:
                how(self._live)
            except Exception:  # noqa: BLE001  (the run is more important than its picture)
                with contextlib.suppress(Exception):
                    self._live.stop()
                self._live = None


def _start(title: str, stream: TextIO, *, transient: bool = True) -> Live:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    class Quiet(Console):
        def on_broken_pipe(self) -> None:
            self.quiet = True  # rich's own would end the process

    live = Live(
        Text(f"{title}: starting …"),
        console=Quiet(file=stream, highlight=False),
        auto_refresh=False,
        transient=transient,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    live.start()
    return live


def picture(title: str, now: Progress) -> RenderableType:
    """Return the run at one moment, for rich. Words say everything; colours only repeat it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((title, "bold"), f"   phase {now.phase}   {_elapsed(now.elapsed_s)}")
    if now.steps:
        head.append(f"   {steps_in_words(now.steps)}")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("probe", "now"):
        table.add_column(name, no_wrap=True)
    for name in ("rate", "p95", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last error", no_wrap=True, overflow="ellipsis")
    for p in now.probes:
        table.add_row(
            p.name + (" (witness)" if p.role is Role.WITNESS else ""),
            _state(p),
            f"{p.rate_per_s:.0f}/s",
            "–" if p.p95_s is None else f"{p.p95_s * 1000:.1f} ms",
            f"{p.failures} of {p.attempts}",
            p.last_error or "–",
        )
    lines: list[RenderableType] = [Text(""), head, table]
    style = "bold red" if now.outage_s and not now.outage_over else "bold"
    lines.append(Text.assemble("service: ", (outage(now), style)))
    if now.guards:
        lines.append(Text(f"guards: {', '.join(now.guards)}"))
    stops = "and puts nothing back; drkit resume goes on" if now.steps else "and puts everything back"
    lines.append(Text(f"Ctrl-C stops the run {stops}", style="dim"))
    return Group(*lines)


def outage(now: Progress) -> str:
    """Return the outage clock in words: at least and at most so long."""
    if now.outage_s is None:
        if now.steps:
            return "no failure seen"
        return "no failure since the fault" if now.phase not in ("starting", "baseline") else "not broken yet"
    lo, hi = now.outage_s
    return f"was down for {lo:.2f}–{hi:.2f} s" if now.outage_over else f"down for {lo:.2f}–{hi:.2f} s so far"


def steps_in_words(steps: tuple[tuple[str, str], ...]) -> str:
    """Return how far a playbook is, of its steps as (name, state): "2 of 5 steps done, now promote"."""
    done = sum(state == "done" for _, state in steps)
    at = [(f"{n} (waits for a person)" if s == "waiting" else n) for n, s in steps if s in ("begun", "waiting")]
    return f"{done} of {len(steps)} steps done" + (f", now {', '.join(at)}" if at else "")


def _state(probe: ProbeView) -> RenderableType:
    from rich.text import Text

    witness = probe.role is Role.WITNESS  # one that fails is a fault that bites
    if probe.ok is None:
        return Text("waiting", style="dim")
    return Text("ok", style="green") if probe.ok else Text("FAILING", style="yellow" if witness else "bold red")


def _brief(probe: ProbeView) -> str:
    if probe.ok is None:
        return f"{probe.name} waiting"
    if not probe.ok:
        return f"{probe.name} FAILING ({probe.last_error or 'unknown'})"
    p95 = "" if probe.p95_s is None else f" p95 {probe.p95_s * 1000:.1f} ms"
    return f"{probe.name} ok {probe.rate_per_s:.0f}/s{p95}"


def _style_of(text: str) -> str:
    if text.startswith(("NOT ", "STOPPED", "stopped", "aborted", "guard:", "left behind")):
        return "bold red"
    return "dim" if text.endswith("…") else ""


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:04.1f} min" if minutes else f"{rest:.1f} s"


def _line(text: str) -> str:
    return " ".join(numbers.plain(text).split())
