"""`drkit playbook run` and `drkit resume`: a recovery, watched by a person who may be asked."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

from drkit import catalog, clock
from drkit.catalog import StepCall
from drkit.cli import aim, answers, console, live, playbooks, stored, verdict
from drkit.cli.live import View
from drkit.errors import Aborted, DrkitError, UsageError
from drkit.model import RunRecord
from drkit.project import Project
from drkit.rundir import RunDir
from drkit.standing import open_question

LOOK_S = 0.3  # how often a terminal looks whether its question was answered elsewhere


def run(
    name: str,
    target_name: str | None,
    *,
    var: Sequence[str],
    plan: str | None,
    real: bool,
    since: str | None,
    instead_of: str,
    to_time: str | None,
    reports: Path | None,
    speed: float | None,
    as_json: bool,
) -> int:
    from drkit import engine

    found = aim.here(reports)
    book = catalog.load_playbook(name, found)
    wishes = engine.Wishes(
        variables=playbooks.variables_of(book, var, to_time),
        approved_digest=plan,
        real=real,
        since=_since(since),
        instead_of=instead_of,
    )
    target = aim.at_or_start(found, target_name, speed=speed, say=console.say, whole=False)
    return _watched(
        f"{book.name} on {target.name}",
        lambda view, ask: engine.recover(book, target, found, wishes, watcher=view, ask=ask),
        found,
        as_json=as_json,
    )


def resume(name: str, *, reports: Path | None, as_json: bool) -> int:
    from drkit import engine

    found = aim.here(reports)
    gone_on = RunDir.find(found.reports, name)
    identity = stored.identity(gone_on)
    if stored.is_running(gone_on):
        raise UsageError(f"run {gone_on.run_id} is going on", f"see how far it is: drkit status {gone_on.run_id}")
    return _watched(
        f"{identity['name']} on {identity['target']}",
        lambda view, ask: engine.resume(gone_on, found, watcher=view, ask=ask),
        found,
        as_json=as_json,
    )


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = playbooks.time_of("--since", text)
    if moment > clock.wall_utc():
        raise UsageError(f"--since {text} is in the future", "give the time with its offset, or in UTC with Z")
    return moment


Ask = Callable[[RunDir, StepCall, str], None]


def _watched(title: str, play: Callable[[View, Ask], RunRecord], found: Project, *, as_json: bool) -> int:
    """Let a recovery be played while a person watches, and tell what came of it."""
    try:
        with live.view(title) as view, Questions(view) as questions:
            record = play(view, questions.ask)
    except KeyboardInterrupt:  # the second one: the first only asks the run to stop
        raise Aborted(
            "interrupted again before the run could be finished; nothing is put back",
            "go on with it: drkit resume last; put back what it did: drkit undo last",
        ) from None
    directory = found.reports / record.run_id
    if as_json:
        console.out_json(verdict.as_json(record, directory))
    else:
        console.out(verdict.text(record, directory))
    return verdict.exit_code(record)


class Questions:
    """Tells a person what a playbook asks, and takes the answer where there is a terminal to type it.

    Only yes and no, as whole words, are answers. `ask` returns at once; the typing is waited for in a thread of its
    own, which looks meanwhile whether somebody else has answered (`drkit approve`).
    """

    def __init__(self, view: View, stream: TextIO | None = None, *, terminal: bool | None = None) -> None:
        """stream: standard input. terminal: whether a person types there; None: look."""
        self._view, self._stream = view, stream or sys.stdin
        self._terminal = self._has_terminal() if terminal is None else terminal
        self._over = threading.Event()
        self._rest = b""
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Questions:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2)

    def ask(self, run: RunDir, call: StepCall, text: str) -> None:
        """Print a question, with the command that answers it; let it be answered here if that may be."""
        words = " ".join(text.split())
        who = "another person" if call.four_eyes else "a person"
        verb = "asks" if call.approval else "is to be done by"
        lines = [f"{call.name} {verb} {who}: {words}"]
        here = self._terminal and not call.four_eyes
        told = answers.command(run, call.name, manual=bool(call.manual))
        if call.four_eyes:
            lines.append(f"  a colleague, not the one who started this run, answers: {told}")
        elif here:
            lines.append(f"  type yes or no here, or answer elsewhere: {told}")
        else:
            lines.append(f"  answer with: {told} (or with --no)")
        self._view.say("\n".join(lines))
        if here:
            thread = threading.Thread(target=self._typed, args=(run, call), name=f"question {call.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _typed(self, run: RunDir, call: StepCall) -> None:
        self._view.hold()
        try:
            self._forget()
            if (yes := self._yes_or_no(run, call)) is None:
                return
            note = ""
            while call.manual and yes and not note.strip():
                self._view.say(f"what was done for {call.name}?")
                if (line := self._line(run, call)) is None:
                    return
                note = line
            try:
                answers.answer(run, call.name, yes=yes, note=note)
            except DrkitError as e:
                self._view.say(f"not answered: {e.message}" + (f"; {e.hint}" if e.hint else ""))
        finally:
            self._view.go_on()

    def _forget(self) -> None:
        """Drop what was typed before the question was there: nobody meant it as its answer."""
        self._rest = b""
        fd = self._stream.fileno()
        while select.select([fd], [], [], 0)[0] and os.read(fd, 4096):
            pass

    def _yes_or_no(self, run: RunDir, call: StepCall) -> bool | None:
        while (line := self._line(run, call)) is not None:
            if (said := line.strip()) in ("yes", "no"):
                return said == "yes"
            self._view.say("type yes or no, as a whole word")
        return None

    def _line(self, run: RunDir, call: StepCall) -> str | None:
        """Return the next line that is typed; None once the question is not open any more, or nobody types."""
        # Not readline: a thread that is inside it when the process ends takes the process down with it.
        fd = self._stream.fileno()
        while b"\n" not in self._rest:
            if self._over.is_set() or not open_question(run.marks(), call.name):
                return None
            if select.select([fd], [], [], LOOK_S)[0]:
                data = os.read(fd, 4096)
                if not data:
                    return None
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", errors="replace")

    def _has_terminal(self) -> bool:
        try:
            return self._stream.isatty()
        except (AttributeError, ValueError):  # closed, or replaced by something that is no stream
            return False
