"""What people say to a playbook that is under way: yes, no, done, or a note for its history."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from drkit import clock, project
from drkit.catalog import StepCall, checked_playbook, single
from drkit.cli import aim, console, stored
from drkit.errors import Refused, UnknownName, UsageError
from drkit.model import Mark, MarkKind
from drkit.rundir import RunDir
from drkit.standing import answer_of, open_question


def approve(name: str, step: str, *, yes: bool, note: str, reports: Path | None, as_json: bool) -> int:
    run = RunDir.find(aim.here(reports).reports, name)
    mark = answer(run, step, yes=yes, note=note)
    if as_json:
        console.out_json({"run_id": run.run_id, "step": step, **mark.detail})
    else:
        console.out(f"{mark.detail['by']} said {'yes' if yes else 'no'} to {step} of {run.run_id}")
    return 0


def note(name: str, text: str, *, reports: Path | None, as_json: bool) -> int:
    run = RunDir.find(aim.here(reports).reports, name)
    if not text.strip():
        raise UsageError("the note is empty", "say what shall be remembered")
    running = stored.is_running(run)
    if run.sealed and stored.has_ended(run):
        raise UsageError(
            f"run {run.run_id} has ended and is sealed: its evidence is closed", "keep the note beside its report"
        )
    by = project.operator()
    run.mark(MarkKind.NOTE, by, message=text.strip())
    if run.sealed and not running:  # stopped half-way: the seal has to hold for what it says now
        from drkit.engine import finish

        finish(run)
    if as_json:
        console.out_json({"run_id": run.run_id, "by": by, "note": text.strip()})
    else:
        console.out(f"noted in {run.run_id}, by {by}")
    return 0


def answer(run: RunDir, step: str, *, yes: bool, note: str) -> Mark:
    """Write a person's answer into a run's history and return it; the first answer to a question counts.

    Raises UsageError if nothing is asked, UnknownName for a step that the run does not have, Refused if the one who
    started the run answers what another person has to.
    """
    identity = stored.identity(run)
    call = _call(run, identity, step)
    if stored.has_ended(run):
        raise UsageError(f"run {run.run_id} has ended", f"its report: drkit report {run.run_id}")
    if not stored.is_running(run):
        raise UsageError(
            f"nobody is at work on run {run.run_id}: an answer would not be heard",
            f"go on with it first, and it asks again: drkit resume {run.run_id}",
        )
    marks = run.marks()
    if not open_question(marks, step):
        waits = waiting(run)
        raise UsageError(
            f"{step} asks nothing now",
            f"what waits: {'; '.join(command(run, c.name) for c in waits)}" if waits else "nothing waits for an answer",
        )
    by, said = project.operator(), note.strip()
    if call.four_eyes and by == identity.get("started_by"):
        raise Refused(
            f"{by} has started this run: another person has to answer {step}",
            f"a colleague says: {command(run, step)} (who is at work: $DRKIT_OPERATOR, else the login)",
        )
    if call.manual and yes and not said:
        raise UsageError(
            f"{step} is manual work: say what was done", f'drkit approve {run.run_id} {step} --note "what was done"'
        )
    at = clock.wall_utc().isoformat(timespec="seconds")
    mark = run.mark(MarkKind.ANSWER, step, by=by, yes=yes, note=said, at=at)
    _must_count(run, step, mark)
    return mark


def waiting(run: RunDir) -> tuple[StepCall, ...]:
    """Return the steps of a run that wait for an answer now."""
    marks = run.marks()
    return tuple(c for c in calls(run, stored.identity(run)) if c.by_person and open_question(marks, c.name))


def calls(run: RunDir, identity: dict[str, Any]) -> tuple[StepCall, ...]:
    """Return the steps of a playbook's run, one by one. Raises UsageError for an experiment's."""
    if identity.get("kind") != "playbook":
        raise UsageError(f"run {run.run_id} is an experiment: it has no steps", "drkit status shows what goes on")
    book = checked_playbook(identity["document"], run.path / "run.json", str(identity.get("playbook_sha256", "")))
    return tuple(single(book.calls(identity["configuration"])))


def command(run: RunDir, step: str, *, manual: bool = False) -> str:
    """Return the command that answers a question."""
    return shlex.join(["drkit", "approve", run.run_id, step]) + (' --note "what was done"' if manual else "")


def _call(run: RunDir, identity: dict[str, Any], step: str) -> StepCall:
    known = calls(run, identity)
    found = next((c for c in known if c.name == step), None)
    if found is None:
        asks = ", ".join(c.name for c in known if c.by_person) or "none"
        raise UnknownName(f"run {run.run_id} has no step {step!r}", f"steps that ask a person: {asks}")
    if not found.by_person:
        asks = ", ".join(c.name for c in known if c.by_person) or "none"
        raise UsageError(f"{step} asks nobody: drkit carries it out", f"steps that ask a person: {asks}")
    return found


def _must_count(run: RunDir, step: str, mine: Mark) -> None:
    """Raise UsageError unless the answer that was just written is the one that counts."""
    marks = run.marks()
    at = max((n for n, m in enumerate(marks) if m == mine), default=None)
    first = None if at is None else answer_of(marks[: at + 1], step)
    if first is None or at is None:
        raise UsageError(f"{step} was not asking any more when the answer came", f"drkit status {run.run_id}")
    if first != mine:
        said = "yes" if first.detail.get("yes") is True else "no"
        raise UsageError(
            f"{first.detail.get('by')} was quicker and said {said}: this answer does not count",
            f"drkit status {run.run_id}",
        )
    before = [m for m in marks[:at] if m.kind is MarkKind.STEP and m.name == step]
    if not before or before[-1].detail.get("state") != "waiting":
        raise UsageError(f"{step} was given up before the answer came", f"drkit resume {run.run_id} asks again")
