"""The file of one probe: written line by line as attempts complete, read back as a Series.

    {"probe": {…ProbeSpec…}, "t0_ns": …}                             first line, written before the probe starts
    {"k": seq, "d": due_ns, "s": sent_ns, "c": done_ns, "o": outcome, "e": class, "m": detail}
    {"k": first seq, "n": ticks, "d": due_ns, "lost": why}           ticks that were not attempted
    {"end": true, "due": ticks, "lost": ticks}                       last line, only if the probe was told to stop

A lost tick is one that was skipped, or (as an ordinary attempt) sent later than one period after it was due.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drkit import clock, errors
from drkit.model import Attempt, ErrorClass, Outcome, Series
from drkit.probes.spec import ProbeSpec


def create(spec: ProbeSpec, path: Path) -> None:
    """Make the probe's file with its first line. Raises RunDirError if it cannot be written."""
    line = json.dumps({"probe": spec.to_json(), "t0_ns": clock.now_ns()}) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        raise errors.RunDirError(f"cannot write {path}: {error.strerror}") from error


def spec_of(path: Path) -> ProbeSpec:
    """Return what the probe of this file was told. Raises RunDirError if its first line cannot be read."""
    try:
        with path.open("rb") as file:
            return _spec(json.loads(file.readline()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.RunDirError(f"not a probe's file: {path}") from error


def _spec(header: Any) -> ProbeSpec:
    return ProbeSpec.from_json(header["probe"])


class Writer:
    """Appends to a probe's file, one system call a line: what it was told is on its way to disk when it returns.

    Raises OSError when the disk does (full, gone).
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def attempt(self, done: Attempt) -> None:
        more = ""
        if done.error is not None:
            more = f',"e":"{done.error.value}"'
        if done.detail:
            more += f',"m":{json.dumps(done.detail)}'
        self._write(
            f'{{"k":{done.seq},"d":{done.due_ns},"s":{done.sent_ns},"c":{done.done_ns},"o":"{done.outcome.value}"{more}}}\n'
        )

    def lost(self, first_seq: int, ticks: int, due_ns: int, why: str) -> None:
        self._write(json.dumps({"k": first_seq, "n": ticks, "d": due_ns, "lost": why}) + "\n")

    def end(self, ticks_due: int, ticks_lost: int) -> None:
        self._write(json.dumps({"end": True, "due": ticks_due, "lost": ticks_lost}) + "\n")

    def _write(self, line: str) -> None:
        data = line.encode()
        written = os.write(self._fd, data)
        while written < len(data):  # a full disk takes a part first and raises on the next call
            written += os.write(self._fd, data[written:])


@dataclass(slots=True)
class _Ticks:
    """Counts ticks while lines are read, so that a file without its last line still has them."""

    every_ns: int
    first: int = 0
    due: int = 0
    lost: int = 0
    ended: bool = False

    def take(self, line: dict[str, Any]) -> Attempt | None:
        """Count one line; return its attempt if it is one."""
        if "end" in line:
            self.due, self.lost, self.ended = line["due"], line["lost"], True
            return None
        if "lost" in line:
            self.due = max(self.due, line["k"] + line["n"] - self.first)
            self.lost += line["n"]
            return None
        attempt = Attempt(
            seq=line["k"],
            due_ns=line["d"],
            sent_ns=line["s"],
            done_ns=line["c"],
            outcome=Outcome(line["o"]),
            error=ErrorClass(line["e"]) if "e" in line else None,
            detail=line.get("m", ""),
        )
        self.due = max(self.due, attempt.seq + 1 - self.first)
        self.lost += is_late(attempt, self.every_ns)
        return attempt


def is_late(attempt: Attempt, every_ns: int) -> bool:
    return attempt.sent_ns - attempt.due_ns > every_ns


class Tail:
    """Follows a probe's file while it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.spec: ProbeSpec | None = None  # known once the first line was read
        self.ticks: _Ticks = _Ticks(0)

    def poll(self) -> list[Attempt]:
        """Return the attempts that completed since the last call, in the order they completed.

        A line that is still being written waits for the next call; a file that is not there yet has none.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        attempts = []
        for raw in whole.splitlines():
            try:
                line = json.loads(raw)
                if self.spec is None:
                    self.spec = _spec(line)
                    self.ticks = _Ticks(int(self.spec.every_s * clock.NS_PER_S), self.spec.first_seq)
                elif (attempt := self.ticks.take(line)) is not None:
                    attempts.append(attempt)
            except (ValueError, KeyError, TypeError) as error:
                raise errors.RunDirError(f"damaged line in {self._path}: {raw[:80]!r}") from error
        return attempts


GENERATION = 1_000_000_000  # sequence numbers of each probe that goes on for one that died


def read(*paths: Path) -> Series:
    """Return the attempts of a probe's file in the order sent; of several, those of the probes that went on for it.

    A torn last line is dropped; without an end line the series is not `complete`. Of probes that died before another
    went on the last attempts may be `unrecorded`. Raises RunDirError if there is no such file, no first line, or a
    damaged line in the middle.
    """
    lives = sorted((_read(path) for path in paths), key=lambda life: life[0].first_seq)
    series = [s for _, s in lives]
    died = [
        (_must_be_recorded(one) + 1 if one.attempts else spec.first_seq, following.first_seq)
        for (spec, one), (following, _) in itertools.pairwise(lives)
        if not one.complete
    ]
    return replace(
        series[-1],
        attempts=tuple(a for s in series for a in s.attempts),
        ticks_due=sum(s.ticks_due for s in series),
        ticks_lost=sum(s.ticks_lost for s in series),
        unrecorded=tuple(died),
    )


def _must_be_recorded(series: Series) -> int:
    """Return the newest sequence number that was certainly written down: its time was over well before the end."""
    last_ns = max(a.done_ns for a in series.attempts)
    horizon_ns = last_ns - round((series.timeout_s + 1.0) * clock.NS_PER_S)
    first = min(a.seq for a in series.attempts)
    return max((a.seq for a in series.attempts if a.due_ns <= horizon_ns), default=first - 1)


def _read(path: Path) -> tuple[ProbeSpec, Series]:
    if not path.exists():
        raise errors.RunDirError(f"no probe file: {path}")
    tail = Tail(path)
    attempts = tail.poll()
    spec = tail.spec
    if spec is None:
        raise errors.RunDirError(f"not a probe's file: {path}")
    return spec, Series(
        name=spec.name,
        kind=spec.kind,
        role=spec.role,
        every_s=spec.every_s,
        timeout_s=spec.timeout_s,
        attempts=tuple(sorted(attempts, key=lambda attempt: (attempt.sent_ns, attempt.seq))),
        connection=spec.connection,
        ticks_due=tail.ticks.due,
        ticks_lost=tail.ticks.lost,
        complete=tail.ticks.ended,
    )
