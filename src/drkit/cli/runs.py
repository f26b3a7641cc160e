"""`drkit run`: one experiment after another, watched by a person, told as a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drkit import catalog
from drkit.catalog import Experiment
from drkit.cli import aim, console, live, look, verdict
from drkit.errors import Aborted, DrkitError, UsageError
from drkit.model import RunRecord, Verdict
from drkit.project import Project
from drkit.targets import Target

_GUARDIAN = "its guardian does it now; what it says in the end: drkit history"


def run(
    names: Sequence[str],
    target_name: str | None,
    *,
    zone: str | None,
    var: Sequence[str],
    plan: str | None,
    reports: Path | None,
    speed: float | None,
    as_json: bool,
) -> int:
    """Run experiments in order and return the gravest exit code; after one that must not be followed, stop."""
    found = aim.here(reports)
    variables = look.variables(zone, var)
    experiments = [catalog.load(name, found) for name in names]  # all of them, before anything is started or broken
    if plan is not None and len(experiments) > 1:
        raise UsageError("--plan approves one experiment, not several", "run them one by one")
    for experiment in experiments:
        _refuse_unknown(experiment, variables)
    target = aim.at_or_start(found, target_name, speed=speed, say=console.say)
    results: list[dict[str, Any]] = []
    for n, experiment in enumerate(experiments):
        try:
            result = _result(_watched(experiment, found, target, variables, plan), found, as_json=as_json)
        except DrkitError as e:
            if len(experiments) == 1:
                raise
            if not as_json:
                console.problem(e.message, console.hint_of(e), e.exit_code, as_json=False)
            hint = console.hint_of(e)
            result = {"name": experiment.name, "error": e.message, "hint": hint, "exit_code": e.exit_code}
        results.append(result)
        left = [e.name for e in experiments[n + 1 :]]
        if left and (why := _no_further(result)):
            console.say(f"not running {', '.join(left)}: {why}")
            results += [{"name": name, "error": f"not run: {why}", "hint": "", "exit_code": 3} for name in left]
            break
    code = verdict.worst(r["exit_code"] for r in results)
    if as_json:
        console.out_json({"runs": results, "exit_code": code})
    return code


def _watched(
    experiment: Experiment, found: Project, target: Target, variables: dict[str, str], plan: str | None
) -> RunRecord:
    """Run one experiment while a person watches."""
    from drkit import engine

    try:
        with live.view(f"{experiment.name} on {target.name}") as watcher:
            return engine.run(experiment, target, found, variables=variables, approved_digest=plan, watcher=watcher)
    except KeyboardInterrupt:  # the second one: the first only asks the run to stop
        raise Aborted("interrupted again before everything was put back", _GUARDIAN) from None


def _result(record: RunRecord, found: Project, *, as_json: bool) -> dict[str, Any]:
    directory = found.reports / record.run_id
    if not as_json:
        console.out(verdict.text(record, directory))
    return {**verdict.as_json(record, directory), "error": None, "hint": ""}


def _refuse_unknown(experiment: Experiment, variables: dict[str, str]) -> None:
    known = experiment.variables
    for name in variables:
        if name not in known:
            raise UsageError(
                f"{experiment.name} has no variable {name!r}", f"it has: {', '.join(known) or 'none'}; see drkit show"
            )


def _no_further(result: dict[str, Any]) -> str:
    if result["exit_code"] == verdict.STILL_BROKEN:
        return "something is still broken"
    stopped = result.get("verdict") == Verdict.ABORTED or result["hint"] == _GUARDIAN
    return "the run before was stopped" if stopped else ""
