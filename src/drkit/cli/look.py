"""Looking without touching: which experiments there are, what one does, and what a run of it would hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drkit import catalog
from drkit.catalog import Experiment
from drkit.cli import aim, console
from drkit.errors import DrkitError, UsageError
from drkit.model import Effect, Objective
from drkit.project import Project
from drkit.report import numbers
from drkit.targets import Target

if TYPE_CHECKING:
    from drkit.targets.aws.permissions import Needed


def list_(*, as_json: bool) -> int:
    found = aim.here()
    rows: list[dict[str, Any]] = []
    for name, path in catalog.names(found).items():
        try:
            experiment = catalog.load(str(path), found)
        except DrkitError as e:
            rows.append(
                {"name": name, "title": "", "tags": [], "path": str(path), "problem": e.message, "hint": e.hint}
            )
            continue
        tags = list(experiment.document.get("tags") or ())
        rows.append(
            {"name": name, "title": experiment.title, "tags": tags, "path": str(path), "problem": None, "hint": ""}
        )
    if as_json:
        console.out_json({"experiments": rows})
        return 0
    own = found.root / "experiments"
    console.out(
        console.table(
            ("experiment", "what it shows", "from"),
            [
                (
                    r["name"],
                    r["title"] or f"cannot be used: {r['problem']}",
                    "here" if Path(r["path"]).parent == own else "drkit",
                )
                for r in rows
            ],
        )
    )
    console.say("\nmore of one: drkit show NAME")
    return 0


def show(name: str, *, as_json: bool) -> int:
    experiment = catalog.load(name, aim.here())
    if as_json:
        console.out_json(_as_json(experiment))
        return 0
    part = experiment.drkit
    lines = [f"{experiment.name}: {experiment.title}", "", *wrapped(experiment.description), ""]
    lines += ["hypothesis", *wrapped(part.hypothesis.strip(), "  "), "", "objectives"]
    lines += [f"  {name:13} {limit}" for name, limit in promised(part.objective)]
    lines += ["", "method"]
    lines += [f"  {n}. {_activity(a)}" for n, a in enumerate(experiment.method, 1)]
    lines += ["", "the fault must be seen by", *(f"  - {w['name']}" for w in part.witnesses)]
    lines += ["", "redundant again when", *(f"  - {p['name']}" for p in part.redundancy)]
    probes = [
        (
            p.name,
            str(p.kind),
            str(p.role),
            str(p.connection),
            f"{p.every_s * 1000:g} ms" if p.every_s else "the target's",
            f"{p.timeout_s:g} s" if p.timeout_s else "the target's",
        )
        for p in part.probes
    ]
    lines += [
        "",
        "measured by",
        console.table(("probe", "kind", "role", "connections", "every", "time-out"), probes, "  "),
    ]
    radius = ", ".join(f"{k.removesuffix('_max')} {v}" for k, v in asdict(part.blast_radius).items() if v is not None)
    lines += ["", f"blast radius, at most: {radius}"]
    phases = ", ".join(
        f"{k.removesuffix('_s')} {v:g} s" for k, v in asdict(part.phases).items() if isinstance(v, float)
    )
    lines += [f"phases on AWS: {phases}"]
    if experiment.variables:
        lines += ["", "variables (--var KEY=VALUE)", *(f"  {k} = {v}" for k, v in experiment.variables.items())]
    lines += ["", f"file: {experiment.path}"]
    console.out("\n".join(lines))
    return 0


def plan(
    name: str, target_name: str | None, *, zone: str | None, var: Sequence[str], reports: Path | None, as_json: bool
) -> int:
    from drkit import engine

    found = aim.here(reports)
    experiment = catalog.load(name, found)
    target = aim.at(found, target_name)
    made = engine.plan(experiment, target, found, variables(zone, var))
    permissions = needed(experiment, target, found, made.effects)
    if as_json:
        console.out_json(
            {
                "experiment": made.name,
                "target": made.target,
                "target_kind": made.kind,
                "digest": made.digest,
                "expected_s": made.expected_s,
                "expected_from_runs": made.expected_from_runs,
                "effects": [asdict(e) for e in made.effects],
                "iam_actions": permissions.actions,
                "iam_untold": permissions.untold,
                "notes": made.notes,
            }
        )
        return 0
    lines = [f"{made.name} on {made.target} ({made.kind}) would, in this order:", ""]
    for n, effect in enumerate(made.effects, 1):
        place = effect.zone or effect.region
        lines.append(f"{n:3}. {effect.what or effect.call}")
        lines.append(f"     call: {effect.call} {effect.resource}" + (f" in {place}" if place else ""))
        lines.append(f"     undo: {effect.undo or 'none needed'}")
        if not effect.consented:
            lines.append("     it does not carry the consent tag: a run would be refused")
    lines += ["", *(f"note: {note}" for note in made.notes)]
    lines.append(f"IAM actions: {', '.join(permissions.actions)}")
    lines += [f"and those of {', '.join(permissions.untold)}, which does not tell"] if permissions.untold else []
    lines.append(
        f"takes about {numbers.seconds(made.expected_s)} (median of {made.expected_from_runs} earlier)"
        if made.expected_s is not None
        else "how long it takes is not known: no run of it yet"
    )
    lines += [f"digest: {made.digest}", "", f"approve it: drkit run {made.name} --plan {made.digest[:12]}"]
    console.out("\n".join(lines))
    return 0


def needed(experiment: Experiment, target: Target, found: Project, effects: Sequence[Effect]) -> Needed:
    """Return what a run needs to be allowed, as `drkit plan` and `drkit doctor` tell it. Asks nothing."""
    from drkit.targets.aws import permissions

    return permissions.needed(experiment, target, alarms=found.settings.guard.stop_alarms, effects=effects)


def variables(zone: str | None, var: Sequence[str]) -> dict[str, str]:
    """Return what --zone and --var say. Raises UsageError."""
    values = {} if zone is None else {"zone": zone}
    for word in var:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise UsageError(f"--var {word}: not KEY=VALUE", "for example: --var lag_s=5")
        if values.setdefault(key, value) != value:
            raise UsageError(f"--var {key} is given twice", "say it once")
    return values


def _as_json(experiment: Experiment) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "title": experiment.title,
        "description": experiment.description,
        "path": str(experiment.path),
        "sha256": experiment.sha256,
        "variables": experiment.variables,
        "method": [a["name"] for a in experiment.method],
        **{k: v for k, v in asdict(experiment.drkit).items() if k != "name"},
    }


def promised(objective: Objective) -> list[tuple[str, str]]:
    """Return each promise as (what, limit in words)."""
    found = [(n, getattr(objective, f"{n.lower()}_s")) for n in ("RTO", "RPO", "MTTR")]
    lines = [(n, f"≤ {numbers.seconds(v)}") for n, v in found if v is not None]
    if objective.verified:
        lines = [(n, f"{limit}, until the data is verified" if n == "RTO" else limit) for n, limit in lines]
    if objective.lost_writes_max is not None:
        lines.append(("lost writes", f"≤ {objective.lost_writes_max}"))
    if objective.availability is not None:
        lines.append(("availability", f"≥ {numbers.percent(objective.availability)}"))
    if objective.p95_s is not None:
        lines.append(("latency p95", f"≤ {numbers.seconds(objective.p95_s)}"))
    if objective.error_rate is not None:
        lines.append(("error rate", f"≤ {numbers.percent(objective.error_rate)}"))
    return lines


def _activity(activity: dict[str, Any]) -> str:
    provider = activity["provider"]
    arguments = ", ".join(f"{k}={v}" for k, v in (provider.get("arguments") or {}).items())
    does = (
        f"{provider.get('module')}.{provider.get('func')}({arguments})"
        if provider["type"] == "python"
        else provider["type"]
    )
    return f"{activity['name']}  [{does}]"


def wrapped(text: str, indent: str = "") -> list[str]:
    """Return text in lines of a terminal's width."""
    import textwrap

    return textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=indent)
