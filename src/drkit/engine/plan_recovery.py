"""What a playbook would do, step by step, resolved with read-only calls, and the digest under which it is approved."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drkit.catalog import Playbook, StepCall, arguments_of, filled_text, single, step_function
from drkit.clock import NS_PER_S
from drkit.engine.plan import plan_of
from drkit.errors import TargetError, UsageError
from drkit.model import Effect, Plan, PlannedStep
from drkit.playbook import info_of, standings
from drkit.project import Project
from drkit.rundir import RunDir
from drkit.targets import Target


@dataclass(frozen=True, slots=True)
class ResolvedRecovery:
    plan: Plan
    variables: Mapping[str, str]


def resolve(playbook: Playbook, target: Target, project: Project, variables: Mapping[str, str]) -> ResolvedRecovery:
    """Ask the target what a playbook would touch. Changes nothing.

    A region that does not answer is no reason not to recover from its loss: its effects are then named, not resolved.
    Raises UsageError for a variable that the playbook does not have.
    """
    known = playbook.variables
    for name in variables:
        if name not in known:
            raise UsageError(
                f"{playbook.name} has no variable {name!r}",
                f"it has: {', '.join(known) or 'none'}; see drkit playbook show {playbook.name}",
            )
    chosen = {**known, **variables}
    effects: list[Effect] = []
    notes: list[str] = []
    steps: list[PlannedStep] = []
    took = _took(project, playbook.name, target.kind)
    for block in playbook.calls(chosen):
        for call in single((block,)):
            found = _effects(call, target, chosen, notes)
            effects += found
            steps.append(
                PlannedStep(
                    name=call.name,
                    what=filled_text(call.approval or call.manual, chosen) if call.by_person else _doc(call),
                    by=_by(call),
                    effects=tuple(found),
                    parallel=bool(block.parallel),
                    expected_s=statistics.median(took[call.name]) if took.get(call.name) else None,
                )
            )
    subject = {
        "playbook_sha256": playbook.sha256,
        "target": [target.name, target.account_id, target.region, target.recovery_region],
        "variables": chosen,
    }
    return ResolvedRecovery(plan_of(playbook.name, target, project, subject, effects, notes, steps), chosen)


def _effects(call: StepCall, target: Target, variables: Mapping[str, str], notes: list[str]) -> Sequence[Effect]:
    if call.by_person:
        return ()
    planner = info_of(call).plan
    if planner is None:
        return ()
    try:
        return planner(target, **arguments_of(call, variables))
    except TargetError as e:
        notes.append(f"{call.name}: what it will touch could not be asked: {e.message}")
        return ()


def _doc(call: StepCall) -> str:
    lines = (step_function(call).__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""


def _by(call: StepCall) -> str:
    if call.approval:
        return "another person" if call.four_eyes else "a person"
    return "a person" if call.manual else "drkit"


def _took(project: Project, name: str, kind: str) -> dict[str, list[float]]:
    """Return how long each step took in earlier runs on the same kind of target, in seconds."""
    found: dict[str, list[float]] = {}
    for run in [r for r in RunDir.all(project.reports) if f"-{name}-" in r.run_id][-20:]:
        marks = run.marks()
        if run.identity.get("target_kind") != kind:
            continue
        for one in standings(marks, {m.name for m in marks}).values():
            if one.state == "done" and not one.already and one.began_ns is not None and one.ended_ns is not None:
                found.setdefault(one.name, []).append((one.ended_ns - one.began_ns) / NS_PER_S)
    return found
