"""Stored runs, read so that a damaged one is an error with a sentence and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drkit import lease
from drkit.errors import DrkitError, RunDirError
from drkit.model import MarkKind, RunRecord
from drkit.rundir import RunDir
from drkit.undo import UndoJournal

_DAMAGE = (DrkitError, OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError)


def record_of(run: RunDir) -> RunRecord:
    """Return a run measured and judged by today's code. Raises RunDirError if it can't be read."""
    from drkit.engine import record_of as judged

    try:
        return judged(run)
    except _DAMAGE as e:
        raise _damaged(run, e) from e


def alteration(run: RunDir) -> str:
    """Return "" if the run is as it was written and sealed, else one sentence."""
    try:
        return run.broken_at()
    except _DAMAGE as e:
        return _damaged(run, e).message


def identity(run: RunDir) -> dict[str, Any]:
    """Return run.json. Raises RunDirError if it can't be read."""
    try:
        value = run.identity
        for key in ("number", "name", "target", "target_kind", "started_at"):
            value[key]
    except _DAMAGE as e:
        raise _damaged(run, e) from e
    return value


def derived(run: RunDir) -> dict[str, Any] | None:
    """Return measurement.json as it was stored, or None if there is none that can be read."""
    try:
        value = json.loads((run.path / "measurement.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(value, dict) and isinstance(value.get("measurement"), dict) and "judgement" in value
    return value if whole else None


def registered(home: Path) -> dict[int, str]:
    """Return every run that was ever started here, by number: the register is written before an outcome is known."""
    found: dict[int, str] = {}
    try:
        lines = (home / "register.jsonl").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            entry = json.loads(line)
            found[int(entry["number"])] = str(entry["run_id"])
        except (ValueError, KeyError, TypeError):
            continue  # a torn line
    return found


def left_open(reports: Path) -> tuple[RunDir, ...]:
    """Return the runs that have left something broken and that nobody is at work on, oldest first.

    A playbook that stands half-way is none of them: what it has done so far is meant to be there.
    """
    runs = ((run, UndoJournal(run.path / "undo.jsonl", run.run_id)) for run in RunDir.all(reports))
    return tuple(run for run, journal in runs if journal.pending() and not is_running(run) and not half_way(run))


def half_way(run: RunDir) -> bool:
    """Return whether a run is a playbook's that has come as far as a step, has not ended, and is not under way."""
    try:
        if run.identity.get("kind") != "playbook" or is_running(run):
            return False
        marks = run.marks()
    except _DAMAGE:
        return False
    return any(m.kind is MarkKind.STEP for m in marks) and not any(m.kind is MarkKind.RUN_ENDED for m in marks)


def has_ended(run: RunDir) -> bool:
    """Return whether a run has come to its end, or was put back."""
    return any(m.kind is MarkKind.RUN_ENDED for m in run.marks())


def is_running(run: RunDir) -> bool:
    """Return whether a drkit process, or the guardian of a dead one, is at work on the run."""
    try:
        return lease.running(run)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError):
        return False  # a lease that nobody can read is held by nobody


def _damaged(run: RunDir, e: BaseException) -> RunDirError:
    if isinstance(e, DrkitError):
        return RunDirError(e.message, e.hint)
    told = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
    return RunDirError(f"run {run.run_id} is damaged: {told}", f"look at the files in {run.path}")
