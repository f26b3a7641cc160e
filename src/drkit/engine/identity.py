"""What is known of a run before it starts: run.json."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib import metadata
from typing import Any

import drkit
from drkit import certificate, measure
from drkit.catalog import Experiment
from drkit.engine.plan import Resolved
from drkit.project import Project
from drkit.targets import Target


def identity_of(experiment: Experiment, target: Target, project: Project, resolved: Resolved) -> dict[str, Any]:
    """Return everything about a run that is known before it starts: run.json."""
    objective = experiment.drkit.objective
    calibration = certificate.load(project.home / "calibration.json")
    return {
        "kind": "experiment",
        "title": experiment.title,
        "description": experiment.description,
        "hypothesis": experiment.drkit.hypothesis,
        "target_kind": target.kind,
        "objective": asdict(objective),
        "settings": asdict(
            measure.Settings(window_s=target.stable_window_s, p95_s=objective.p95_s, error_rate=objective.error_rate)
        ),
        "plan": asdict(resolved.plan),
        "configuration": dict(resolved.configuration),
        "document": dict(experiment.document),
        "experiment_sha256": experiment.sha256,
        "environment": _environment(target),
        "instrument": {
            "window_s": target.stable_window_s,
            "probes": {
                p.name: {
                    "every_s": p.every_s or target.probe_period_s,
                    "timeout_s": p.timeout_s or target.probe_timeout_s,
                }
                for p in experiment.drkit.probes
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
