"""What a checked experiment holds, and what its activities are for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drkit.guard import BlastRadius
from drkit.model import Connection, Objective, ProbeKind, Role

UNDO_MODULE = "drkit.chaos.undo"  # its rollback serves plain `chaos run`; drkit itself always undoes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeData:
    """One client to watch with. Addresses come from the target: an experiment names what, not where."""

    name: str
    kind: ProbeKind
    role: Role = Role.SERVICE
    call: Literal["read", "write", "health"] = "read"  # http: which path of the service
    zone: str = ""  # http: only the service inside this zone ("${zone}" is resolved)
    connection: Connection = Connection.FRESH
    every_s: float | None = None  # default: the target's probe period
    timeout_s: float | None = None  # default: the target's
    too_slow_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """How long things may take, in seconds on AWS; a target's `pace` shortens them (the lab's is 0.05)."""

    baseline_s: float = 60.0
    hold_s: float = 120.0  # at least this long between the fault and putting things back
    bite_s: float = 300.0  # the witnesses must have seen the fault by then
    recover_s: float = 900.0  # service must be stable by then
    redundancy_s: float = 3600.0  # the next failure must be survivable again by then
    observe_until: Literal["recovered", "redundant"] = "redundant"  # when probes stop and marker rows are read last


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """When to stop and undo at once."""

    outage_max_s: float | None = None  # on AWS; shortened by the target's pace like every phase
    error_rate_max: float | None = None  # 0..1, of the worst client over the last W, from W after the fault on
    p95_max_s: float | None = None  # the same of the time that 95 % wait at most
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """The `drkit` extension of an experiment's file."""

    name: Literal["drkit"]
    hypothesis: str
    objective: Objective
    probes: tuple[ProbeData, ...]
    blast_radius: BlastRadius = field(default_factory=BlastRadius)
    phases: Phases = field(default_factory=Phases)
    guards: Guards = field(default_factory=Guards)
    witnesses: tuple[dict[str, Any], ...] = ()  # Chaos Toolkit probes: they must come true after the fault
    redundancy: tuple[dict[str, Any], ...] = ()  # Chaos Toolkit probes: they must be true again at the end
    recovered_by: tuple[str, ...] = ()  # playbooks that may be run while the fault is there; what they do is to stay


@dataclass(frozen=True, slots=True)
class Experiment:
    """A checked experiment. `document` is the Chaos Toolkit document as written; `sha256` is of the file."""

    name: str
    path: Path
    sha256: str
    document: Mapping[str, Any]
    drkit: Extension

    @property
    def title(self) -> str:
        return str(self.document["title"])

    @property
    def description(self) -> str:
        return str(self.document.get("description", "")).strip()

    @property
    def method(self) -> tuple[dict[str, Any], ...]:
        return tuple(self.document["method"])

    @property
    def hypothesis_probes(self) -> tuple[dict[str, Any], ...]:
        return tuple((self.document.get("steady-state-hypothesis") or {}).get("probes", ()))

    @property
    def rollbacks(self) -> tuple[dict[str, Any], ...]:
        """Return the rollbacks that are the experiment's own, in the order of the file."""
        return tuple(r for r in self.document.get("rollbacks") or () if r["provider"].get("module") != UNDO_MODULE)

    @property
    def variables(self) -> dict[str, str]:
        """Return the experiment's configuration variables with their defaults: what `--var` may set."""
        configuration = self.document.get("configuration") or {}
        return {k: str(v.get("default", "")) if isinstance(v, dict) else str(v) for k, v in configuration.items()}


def role_in_method(activity: Mapping[str, Any]) -> str:
    """Return "probe", or what an action is for: "fault", "recovery" or "assist".

    drkit's own functions know it, others say it in `role`; an action that says nothing counts as damage.
    """
    if activity["type"] == "probe":
        return "probe"
    return str(getattr(function_of(activity["provider"]), "drkit_role", None) or activity.get("role") or "fault")


def function_of(provider: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return the function that a Python provider names, or None where there is none."""
    if provider.get("type") != "python":
        return None
    try:
        function = getattr(importlib.import_module(str(provider["module"])), str(provider["func"]), None)
    except Exception:  # noqa: BLE001  (importing somebody's module runs it)
        return None
    return function if callable(function) else None
