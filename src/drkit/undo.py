"""What must be put back: a write-ahead journal, and the verbs that replay it.

A fault calls `journal.will(...)` first; the line is on disk (fsync) when that returns. Replaying is safe at any time,
any number of times: each verb asks first whether its work is still to be done.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from drkit import clock
from drkit.errors import DrkitError, RunDirError, UnknownName
from drkit.model import UndoRecord
from drkit.rundir import lock

Verb = TypeVar("Verb", bound=Callable[..., str])
_VERBS: dict[str, Callable[..., str]] = {}


def verb(name: str) -> Callable[[Verb], Verb]:
    """Register `fn(target, **args) -> str`: it puts one thing back, is idempotent, and returns a sentence about it."""

    def register(fn: Verb) -> Verb:
        if _VERBS.setdefault(name, fn) is not fn:
            raise ValueError(f"two undo verbs are called {name!r}")
        return fn

    return register


class CloudCopy(Protocol):
    """A second copy of the journal beside the resources, for the case that this machine is lost."""

    def put(self, run_id: str, record: UndoRecord) -> None: ...

    def delete(self, run_id: str, record: UndoRecord) -> None: ...

    def records(self, run_id: str) -> tuple[UndoRecord, ...]: ...


@dataclass(frozen=True, slots=True)
class Undone:
    """The result of putting one thing back."""

    record: UndoRecord
    ok: bool
    sentence: str


class UndoJournal:
    """undo.jsonl of one run: `will` lines and `done` lines (put back, or kept), appended and fsynced.

    Only one process replays it at a time (`replay` takes a lock on it); others may read it at any time.
    """

    def __init__(self, path: Path, run_id: str, cloud: CloudCopy | None = None) -> None:
        self.path = path
        self.run_id = run_id
        self._cloud = cloud
        self._lock = threading.Lock()

    def will(self, verb: str, /, *, region: str = "", **args: Any) -> UndoRecord:
        """Write down how to undo what is about to be done; it is on disk when this returns.

        args must survive JSON. Raises UnknownName for a verb nobody registered, RunDirError if it cannot be written;
        in both cases the fault must not happen. A cloud copy that cannot be written is an error too.
        """
        if verb not in _VERBS:
            raise UnknownName(f"no undo verb is called {verb!r}", "known verbs: " + ", ".join(sorted(_VERBS)))
        with self._lock:
            seq = max((r.seq for r in self.records()), default=0) + 1
            record = UndoRecord(seq, verb, args, region, clock.now_ns())
            self._append({"seq": record.seq, "verb": verb, "args": args, "region": region, "at_ns": record.at_ns})
        if self._cloud is not None:
            self._cloud.put(self.run_id, record)
        return record

    def keep(self, record: UndoRecord) -> None:
        """Note that what a record would put back is to stay: a playbook that came to its end keeps its effects.

        As `done`, and no replay carries the record out any more.
        """
        self._settle(record, {"done": record.seq, "kept": True})

    def done(self, record: UndoRecord) -> None:
        """Note that a record has been carried out, in the cloud first.

        One that is left on disk alone is merely carried out again; one left in the cloud alone, by a kill in between or
        a full disk, would keep every other run away from a target that is whole.
        """
        self._settle(record, {"done": record.seq})

    def _settle(self, record: UndoRecord, entry: dict[str, Any]) -> None:
        try:
            if self._cloud is not None:
                self._cloud.delete(self.run_id, record)
        finally:
            with self._lock:
                self._append(entry)

    def tidy(self) -> None:
        """Delete what the cloud holds of records that were carried out. Raises TargetError.

        A copy may arrive after its undo: its writer stood still, or the call was on its way when it was killed. Left
        there, it would keep every other run away from a target that is whole.
        """
        if self._cloud is not None:
            done = {r.seq for r in self.records() if r.done}
            for copy in self._cloud.records(self.run_id):
                if copy.seq in done:
                    self._cloud.delete(self.run_id, copy)

    def records(self) -> tuple[UndoRecord, ...]:
        """Return all records in the order written.

        A torn line (a crash while writing it) is no record: its fault has not happened. Nor is one that cannot be read
        for another reason; the search for residue is there for that.
        """
        records: dict[int, UndoRecord] = {}
        try:
            text = self.path.read_text("utf-8", errors="replace")
        except FileNotFoundError:
            return ()
        for line in text.split("\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                if "done" in entry:
                    kept = bool(entry.get("kept"))
                    records[entry["done"]] = replace(records[entry["done"]], done=True, kept=kept)
                else:
                    records[entry["seq"]] = UndoRecord(
                        int(entry["seq"]), entry["verb"], dict(entry["args"]), entry["region"], int(entry["at_ns"])
                    )
        return tuple(records.values())

    def pending(self) -> tuple[UndoRecord, ...]:
        """Return what has not been put back yet and is not to stay either, newest first."""
        return tuple(r for r in reversed(self.records()) if not r.done)

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        try:
            new = not self.path.exists()
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(fd).st_size
                # A line torn by an earlier crash must not swallow this one.
                if size and os.pread(fd, 1, size - 1) != b"\n":
                    line = b"\n" + line
                if os.write(fd, line) < len(line):  # a full disk takes a part, without an error
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(fd)
            finally:
                os.close(fd)
            if new:
                _sync_directory(self.path.parent)
        except OSError as e:
            raise RunDirError(
                f"cannot write {self.path}: {e.strerror}", "free some disk space; without an undo nothing is broken"
            ) from e


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replay(
    journal: UndoJournal,
    target: Any,
    *,
    only: Callable[[UndoRecord], bool] = lambda _: True,
    told: Callable[[Undone], None] = lambda _: None,
    again: bool = False,
) -> tuple[Undone, ...]:
    """Put back everything that is pending (and that `only` agrees to), newest first; one failure stops no other.

    Two replays exclude each other (engine, guardian and `drkit undo` may all try); the later one finds nothing to do.
    `told` hears of each result as it comes. again: what was put back already too, for a fault whose call arrived after
    its undo.
    """
    results: list[Undone] = []
    if not journal.path.exists():
        return ()
    with journal.path.open("rb") as file:
        # A process that was stopped in its own replay must not keep the guardian from its: each verb asks first.
        lock(file.fileno(), 10.0)
        records = tuple(r for r in reversed(journal.records()) if not r.kept) if again else journal.pending()
        for record in filter(only, records):
            put_back = _VERBS.get(record.verb)
            try:
                if put_back is None:
                    undone = Undone(record, False, f"this version of drkit has no undo verb {record.verb!r}")
                else:
                    undone = Undone(record, True, put_back(target, **record.args))
            except DrkitError as e:
                undone = Undone(record, False, e.message)
            except Exception as e:  # noqa: BLE001  (one broken undo must not keep the others from running)
                undone = Undone(record, False, f"{type(e).__name__}: {e}")
            if undone.ok and not record.done:
                # A full disk must not keep the others from running; this one is then merely asked again next time.
                with contextlib.suppress(DrkitError):
                    journal.done(record)
            results.append(undone)
            told(undone)
    return tuple(results)
