"""What is known of a run before it starts: run.json."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import drkit
from drkit import certificate, measure
from drkit.catalog import Experiment, Playbook, ProbeData
from drkit.engine.plan import Resolved
from drkit.engine.plan_recovery import ResolvedRecovery
from drkit.model import Objective, Plan
from drkit.project import Project
from drkit.targets import Target


def identity_of(experiment: Experiment, target: Target, project: Project, resolved: Resolved) -> dict[str, Any]:
    """Return everything about a run that is known before it starts: run.json."""
    return {
        "kind": "experiment",
        "title": experiment.title,
        "description": experiment.description,
        "hypothesis": experiment.drkit.hypothesis,
        "configuration": dict(resolved.configuration),
        "experiment_sha256": experiment.sha256,
        "document": dict(experiment.document),
        **_common(experiment.drkit.objective, experiment.drkit.probes, target, project, resolved.plan),
    }


def identity_of_recovery(
    playbook: Playbook, target: Target, project: Project, resolved: ResolvedRecovery, *, mode: str, started_by: str
) -> dict[str, Any]:
    """Return everything about a playbook's run that is known before it starts; mode: "practice" or "real"."""
    common = _common(playbook.file.objective, playbook.file.probes, target, project, resolved.plan)
    practised_on = "the lab" if target.kind == "lab" else f"a copy of {target.copy_of}"
    return {
        "kind": "playbook",
        "title": playbook.title,
        "description": playbook.description,
        "hypothesis": playbook.file.hypothesis,
        "configuration": dict(resolved.variables),
        "playbook_sha256": playbook.sha256,
        "document": dict(playbook.document),
        "mode": mode,
        "started_by": started_by,
        **common,
        "environment": {
            "mode": "a real recovery" if mode == "real" else f"practice, on {practised_on}",
            "started by": started_by,
            **common["environment"],
        },
    }


def _common(
    objective: Objective, probes: Sequence[ProbeData], target: Target, project: Project, plan: Plan
) -> dict[str, Any]:
    calibration = certificate.load(project.home / "calibration.json")
    return {
        "target_kind": target.kind,
        "objective": asdict(objective),
        "settings": asdict(
            measure.Settings(window_s=target.stable_window_s, p95_s=objective.p95_s, error_rate=objective.error_rate)
        ),
        "plan": asdict(plan),
        "environment": _environment(target),
        "instrument": {
            "window_s": target.stable_window_s,
            "probes": {
                p.name: {
                    "every_s": p.every_s or target.probe_period_s,
                    "timeout_s": p.timeout_s or target.probe_timeout_s,
                }
                for p in probes
            },
            "calibration": calibration.to_json() if calibration else None,
        },
    }


def _environment(target: Target) -> dict[str, Any]:
    lab = target.lab
    return {
        "drkit": drkit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        **{name: metadata.version(name) for name in ("chaostoolkit-lib", "boto3", "psycopg")},
        "account": target.account_id,
        "region": target.region,
        "recovery_region": target.recovery_region or "",
        "phases are multiplied by": target.pace,
        **({"lab_speed": lab.speed, "lab_fsync": lab.fsync, **lab.facts} if lab else {}),
    }
