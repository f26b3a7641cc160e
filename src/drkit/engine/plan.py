"""What a run would do, resolved to exact resources with read-only calls, and the digest under which it is approved."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drkit import chaos
from drkit.catalog import Experiment, function_of
from drkit.clock import NS_PER_S
from drkit.engine.activity import pauses_of
from drkit.engine.foreign import is_foreign, use_environment_of
from drkit.errors import PlanDrift, UsageError
from drkit.model import Effect, MarkKind, Plan, PlannedStep
from drkit.project import Project
from drkit.rundir import RunDir
from drkit.targets import Target


@dataclass(frozen=True, slots=True)
class Resolved:
    """An experiment aimed at a target: its configuration, and the plan made from it."""

    plan: Plan
    configuration: Mapping[str, Any]
    secrets: Mapping[str, Any]
    unresolved: tuple[str, ...]  # activities of other libraries: what they will hit is theirs to decide


def resolve(experiment: Experiment, target: Target, project: Project, variables: Mapping[str, str]) -> Resolved:
    """Ask the target what the experiment would hit. Breaks nothing.

    variables: values for the experiment's configuration. Raises UsageError for one it does not have, TargetError when
    the target does not answer.
    """
    from chaoslib import substitute
    from chaoslib.configuration import load_configuration
    from chaoslib.exceptions import ChaosException
    from chaoslib.secret import load_secrets

    use_environment_of(target)
    known = experiment.variables
    for name in variables:
        if name not in known:
            raise UsageError(
                f"{experiment.name} has no variable {name!r}", f"it has: {', '.join(known) or 'none'}; see drkit show"
            )
    raw = experiment.document.get("configuration") or {}
    try:
        configuration = dict(load_configuration(raw, {k: _typed(raw[k], v) for k, v in variables.items()}))
        secrets = load_secrets(experiment.document.get("secrets") or {}, configuration)
    except (ChaosException, ValueError, TypeError, LookupError, AttributeError) as e:
        raise UsageError(f"{experiment.name}: {e}", "see its configuration with: drkit show") from e
    if "zone" in configuration:
        configuration["zone"] = chaos.zone_of(target, str(configuration["zone"]))
    for activity in experiment.method:
        try:
            pauses_of(activity, configuration, secrets)
        except ValueError as e:
            raise UsageError(f"{experiment.name}: {activity['name']}: {e}", "give a number of seconds") from e
    effects: list[Effect] = []
    unresolved: list[str] = []
    notes: list[str] = []
    for activity in (*experiment.method, *experiment.rollbacks):
        function = function_of(activity["provider"])
        planner = chaos.planner(function) if function else None
        if planner is not None:
            arguments = substitute(activity["provider"].get("arguments") or {}, configuration, secrets)
            effects += planner(target, **arguments)
        elif activity["type"] == "action" and is_foreign(activity):
            unresolved.append(activity["name"])
            notes.append(f"{activity['name']}: what it will hit is decided by {_whose(activity['provider'])}")
    subject = {
        "experiment_sha256": experiment.sha256,
        "target": [target.name, target.account_id, target.region],
        "configuration": configuration,
    }
    plan = plan_of(experiment.name, target, project, subject, effects, notes)
    return Resolved(plan, configuration, secrets, tuple(unresolved))


def plan_of(
    name: str,
    target: Target,
    project: Project,
    subject: Mapping[str, Any],
    effects: Sequence[Effect],
    notes: Sequence[str],
    steps: Sequence[PlannedStep] = (),
) -> Plan:
    """Return a plan with its digest: of its effects, and of the subject (what else must be as it was when approved)."""
    approved = {**subject, "effects": [asdict(e) for e in effects]}
    durations = _durations_of(project, name, target.kind)
    return Plan(
        name=name,
        target=target.name,
        kind=target.kind,
        effects=tuple(effects),
        digest=hashlib.sha256(json.dumps(approved, sort_keys=True, default=str).encode()).hexdigest(),
        expected_s=statistics.median(durations) if durations else None,
        expected_from_runs=len(durations),
        notes=tuple(notes),
        steps=tuple(steps),
    )


def refuse_drift(plan: Plan, approved_digest: str, command: str = "drkit plan") -> None:
    """Raise PlanDrift unless the plan is the one that was approved (a digest, or its first 8 or more characters)."""
    if len(approved_digest) < 8 or not plan.digest.startswith(approved_digest.lower()):
        raise PlanDrift(
            f"the plan is now {plan.digest[:12]}, not {approved_digest[:12]}: the target or the experiment has changed",
            f"look at it again: {command} {plan.name}",
        )


def _typed(declared: Any, value: str) -> Any:
    """Return a value given as text as what the experiment declares it to be. Raises ValueError."""
    from chaoslib import convert_to_type

    return convert_to_type(declared.get("env_var_type") if isinstance(declared, dict) else None, value)


def _whose(provider: Mapping[str, Any]) -> str:
    return str(provider.get("module") or provider.get("path") or provider.get("url") or "it")


def _durations_of(project: Project, name: str, kind: str) -> list[float]:
    """Return how long earlier runs of the same experiment on the same kind of target took, in seconds."""
    found: list[float] = []
    for run in RunDir.all(project.reports)[-50:]:
        if f"-{name}-" not in run.run_id:
            continue
        marks = run.marks()
        if marks and marks[-1].kind is MarkKind.RUN_ENDED and run.identity.get("target_kind") == kind:
            found.append((marks[-1].t_hi_ns - marks[0].t_lo_ns) / NS_PER_S)
    return found
