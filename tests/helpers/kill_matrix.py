"""One run of a playbook killed with SIGKILL at one step after another: before its effect, resumed, and after it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lab_calls import Calls, effect_of

from drkit import catalog, clock, project
from drkit.catalog import StepCall
from drkit.clock import NS_PER_S
from drkit.rundir import RunDir
from drkit.targets import Target

MOMENT_S = 240.0  # until a step is reached; a machine with other work is slow
END_S = 300.0
END = "the end"  # when every step is done: rows are read, the undo is settled, the report written, the claim given back
SOON_S = 0.15  # after its beginning: a step whose effect is no AWS call
When = Literal["before", "after"]
Point = tuple[str, When]
Start = Callable[..., subprocess.Popen[str]]  # (verb, words …) → play_playbook.py as a process


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what had really happened by then."""

    step: str
    wanted: When
    effect: str  # "there", "not there", "no call"; of this step
    done: bool
    tries: int

    @property
    def text(self) -> str:
        stood = "done" if self.done else f"begun {self.tries} times" if self.tries else "not begun"
        return f"{self.step:24}{self.wanted:8} effect {self.effect:10} {stood}"


@dataclass(slots=True)
class Pass:
    """What came of one run that was killed again and again."""

    run: RunDir
    steps: tuple[str, ...]
    kills: list[Kill] = field(default_factory=list)
    skipped: list[Point] = field(default_factory=list)  # the step was done already: its kill before came too late
    resumes: int = 0
    said: str = ""

    @property
    def table(self) -> str:
        lines = [kill.text for kill in self.kills]
        return "\n".join([*lines, f"{len(self.kills)} kills, {self.resumes} resumes, too late for {self.skipped}"])


class History:
    """A run's history, followed while it grows."""

    def __init__(self, run: RunDir) -> None:
        self._path, self._offset = run.path / "history.jsonl", 0
        self._events: dict[str, list[tuple[str, int]]] = {}

    def events(self, step: str) -> list[str]:
        """Return what is written of a step by now: observed, waiting, answered, begun, done, failed."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            mark = json.loads(line)
            state = (
                mark["detail"]["state"] if mark["kind"] == "step" else "answered" if mark["kind"] == "answer" else ""
            )
            if (mark["kind"], mark["name"]) == ("phase", "verification"):
                self._events.setdefault(END, []).append(("begun", mark["t_lo_ns"]))
            elif mark["kind"] == "run-ended":
                self._events.setdefault(END, []).append(("done", mark["t_lo_ns"]))
            elif state:
                self._events.setdefault(mark["name"], []).append((state, mark["t_lo_ns"]))
        return [state for state, _ in self._events.get(step, [])]

    def began_ns(self, step: str) -> int | None:
        """Return when a step was begun first."""
        self.events(step)
        return next((at_ns for state, at_ns in self._events.get(step, []) if state == "begun"), None)


class Matrix:
    """Plays one playbook on one lab, and kills its runner."""

    def __init__(
        self, target: Target, home: Path, reports: Path, play: Start, name: str, variables: Mapping[str, str]
    ) -> None:
        playbook = catalog.load_playbook(name, project.find(home))
        self.calls = Calls(home)
        self._calls = playbook.calls({**playbook.variables, **variables})
        self.steps: dict[str, StepCall] = {c.name: c for c in catalog.single(self._calls)}
        self.run: RunDir | None = None  # the newest that was started
        self._target, self._reports, self._play = target, reports, play
        self._words = (name, *(f"{k}={v}" for k, v in variables.items()))

    @property
    def points(self) -> tuple[Point, ...]:
        """Return every kill point there is, in order; of steps that go on side by side the slowest comes last."""
        found: list[Point] = []
        for call in self._calls:
            names = [c.name for c in catalog.single((call,))]
            found += [(name, "before") for name in names]
            found += [(name, "after") for name in reversed(names)]
        return (*found, (END, "before"), (END, "after"))

    def start(self, **more: bool) -> tuple[subprocess.Popen[str], RunDir]:
        """Start the playbook (more: for play); return its process and its run, as soon as that is there."""
        before = {r.path for r in RunDir.all(self._reports)}
        process = self._play("run", *self._words, **more)
        found: list[RunDir] = []

        def there() -> bool:
            found[:] = [r for r in RunDir.all(self._reports) if r.path not in before]
            if process.poll() is not None and not found:
                raise AssertionError(process.communicate()[0])
            return bool(found) and (found[0].path / "history.jsonl").exists()

        clock.wait_until(there, "the playbook has begun", timeout_s=60, every_s=0.005)
        self.run = found[0]
        return process, found[0]

    def killed_at(self, points: Iterable[Point]) -> Pass:
        """Play it, killed at each of these points in turn and resumed, and in the end undisturbed."""
        process, run = self.start()
        came, history = Pass(run, tuple(self.steps)), History(run)
        for step, when in points:
            if "done" in history.events(step):
                came.skipped.append((step, when))
                continue
            self._wait(process, history, step, when)
            if process.poll() is not None:
                break  # it has come to its end
            process.send_signal(signal.SIGKILL)
            process.communicate()
            came.kills.append(self._what_happened(history, step, when))
            process = self._play("resume", run.run_id)
            came.resumes += 1
        return self._end(came, process)

    def _end(self, came: Pass, process: subprocess.Popen[str]) -> Pass:
        came.said, _ = process.communicate(timeout=END_S)
        assert process.returncode == 0, f"{came.table}\n{came.said}"
        return came

    def _wait(self, process: subprocess.Popen[str], history: History, step: str, when: When) -> None:
        """Wait until the process has begun the step (again), or until its effect is there, too."""
        before = len(history.events(step))
        begun_ns: list[int] = []

        def reached() -> bool:
            new = history.events(step)[before:]
            assert "failed" not in new, process.communicate()[0]
            if "done" in new or (process.poll() is not None and history.events(step)[-1:] == ["done"]):
                return True
            assert process.poll() is None, process.communicate()[0]
            if when == "before":
                return "begun" in new or "waiting" in history.events(step)
            if step in self.steps and self.steps[step].by_person:
                return "answered" in new
            if "begun" not in new or step == END:
                return False
            begun_ns.append(clock.now_ns())
            if self._effect(history, step) == "no call":
                return clock.now_ns() - begun_ns[0] > SOON_S * NS_PER_S
            return self._effect(history, step) == "there"

        clock.wait_until(reached, f"{step} has come so far", timeout_s=MOMENT_S, every_s=0.002)

    def _effect(self, history: History, step: str) -> str:
        effect = effect_of(self.steps[step], self._target) if step in self.steps else None
        from_ns = history.began_ns(step)
        if effect is None:
            return "no call"
        return "there" if from_ns is not None and self.calls.has(effect, from_ns) else "not there"

    def _what_happened(self, history: History, step: str, when: When) -> Kill:
        events = history.events(step)
        tries = events.count("begun") + events.count("waiting")
        return Kill(step, when, self._effect(history, step), "done" in events, tries)
