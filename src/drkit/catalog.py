"""Experiments as files: found, read, checked. Nothing unknown or misspelt gets past here.

An experiment is a valid Chaos Toolkit document with a `drkit` extension. YAML holds data only: names, numbers, order.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from drkit.errors import BadDocument, UnknownName
from drkit.guard import BlastRadius
from drkit.model import Connection, Objective, ProbeKind, Role
from drkit.project import Project, parse

UNDO_MODULE = "drkit.chaos.undo"  # its rollback serves plain `chaos run`; drkit itself always undoes

# The keys of Chaos Toolkit's own format; a misspelt `rollback` must not silently mean "no rollbacks".
_DOCUMENT_KEYS = {
    "title", "description", "version", "tags", "configuration", "secrets", "extensions", "contributions",
    "steady-state-hypothesis", "method", "rollbacks", "controls", "runtime", "templates", "dry",
}  # fmt: skip
_ACTIVITY_KEYS = {
    "name",
    "type",
    "provider",
    "tolerance",
    "pauses",
    "background",
    "controls",
    "configuration",
    "secrets",
    "timeout_s",
    "contributions",
    "fault",
    "role",
}
_PROVIDER_KEYS = {
    "python": {"type", "module", "func", "arguments", "secrets"},
    "process": {"type", "path", "arguments", "timeout", "env", "secrets"},
    "http": {
        "type",
        "url",
        "method",
        "headers",
        "arguments",
        "timeout",
        "expected_status",
        "verify_tls",
        "max_retries",
        "secrets",
    },
}
_HYPOTHESIS_KEYS = {"title", "description", "probes", "controls", "contributions"}
_ROLES = ("fault", "recovery", "assist")  # fmt: skip


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


def names(project: Project) -> dict[str, Path]:
    """Return all experiments that can be named; a project's own hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in project.folders("experiments"):
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.json"))):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load(name: str, project: Project) -> Experiment:
    """Return the experiment of a name or a file, checked down to every key and argument.

    Raises UnknownName when there is none, BadDocument (with file, line or key, and a guess) when it is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        known = names(project)
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise UnknownName(f"no experiment is called {name!r}", hint)
        path = known[name]
    return _check(path)


def _check(path: Path) -> Experiment:
    document, digest = _read(path)
    return checked(document, path, digest)


def checked(document: dict[str, Any], path: Path, digest: str) -> Experiment:
    """Return a document that was read elsewhere as an Experiment. Raises BadDocument as `load` does."""
    where = str(path)
    _known_keys(document, _DOCUMENT_KEYS, where, "the experiment")
    for key, kind, needed in _TYPES:
        if (needed or key in document) and not isinstance(document.get(key), kind):
            raise BadDocument(f"{where}: {key} is missing or not a {_KINDS[kind]}", "see docs/adding-an-experiment.md")
    hypothesis = document.get("steady-state-hypothesis", {})
    if not isinstance(hypothesis, dict) or not isinstance(hypothesis.get("probes", []), list):
        raise BadDocument(
            f"{where}: steady-state-hypothesis is not a mapping with a list of probes", "give it a title and probes"
        )
    _known_keys(hypothesis, _HYPOTHESIS_KEYS, where, "steady-state-hypothesis")
    _no_secret_values(document.get("secrets", {}), f"{where}: secrets")
    drkit = parse(Extension, _extension(document, where), f"{where}: extensions")
    groups: tuple[tuple[str, Iterable[Any]], ...] = (
        ("method", document["method"]),
        ("rollbacks", document.get("rollbacks") or ()),
        ("steady-state-hypothesis", hypothesis.get("probes") or ()),
        ("witnesses", drkit.witnesses),
        ("redundancy", drkit.redundancy),
    )
    for group, activities in groups:
        for activity in activities:
            _check_activity(activity, f"{where}: {group}", group)
    _check_with_chaoslib(document, where)
    _check_extension(drkit, document["method"], f"{where}: extensions")
    return Experiment(path.stem, path, digest, document, drkit)


_KINDS: dict[type, str] = {str: "text", list: "list", dict: "mapping"}
_TYPES: tuple[tuple[str, type, bool], ...] = (  # key, what it is, whether it must be there
    ("title", str, True),
    ("description", str, True),
    ("method", list, True),
    ("rollbacks", list, False),
    ("extensions", list, False),
    ("configuration", dict, False),
    ("secrets", dict, False),
)


def _extension(document: Mapping[str, Any], where: str) -> Any:
    for extension in document.get("extensions", []):
        if isinstance(extension, dict) and extension.get("name") == "drkit":
            return extension
    raise BadDocument(
        f"{where}: there is no drkit extension, so nothing says what to measure",
        "add `extensions: [{name: drkit, …}]`; see docs/adding-an-experiment.md",
    )


def _no_secret_values(secrets: Any, where: str) -> None:
    """Refuse secrets that are values: an experiment's document is kept in every run."""
    if isinstance(secrets, dict) and secrets.get("type") in ("env", "vault"):
        return
    if not isinstance(secrets, dict):
        raise BadDocument(f"{where} holds a value", "refer to it: {type: env, key: NAME} or {type: vault, …}")
    for name, secret in secrets.items():
        _no_secret_values(secret, f"{where}.{name}")


def _check_extension(drkit: Extension, method: list[dict[str, Any]], where: str) -> None:
    """Refuse what could never be measured or never pass, before it costs a run."""
    names = [p.name for p in drkit.probes]
    if len(set(names)) != len(names):
        raise BadDocument(f"{where}: two probes have the same name", "each probe writes a file of its own name")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise BadDocument(f"{where}: probe {name!r} is no name for a file", "use letters, digits, dots and dashes")
    if not any(p.role is not Role.WITNESS and p.connection is Connection.FRESH for p in drkit.probes):
        raise BadDocument(
            f"{where}: no probe stands for the service", "one with role service or writes and fresh connections does"
        )
    whole = asdict(drkit)
    for part in (*(whole[k] for k in ("objective", "blast_radius", "phases", "guards")), *whole["probes"]):
        for key, value in part.items():
            if isinstance(value, int | float) and not (0 <= value < math.inf):
                raise BadDocument(f"{where}: {key} is {value}", "it has to be a number from 0 up")
    for probe in drkit.probes:
        for key in ("every_s", "timeout_s", "too_slow_s"):
            if getattr(probe, key) == 0:
                raise BadDocument(f"{where}: {key} of probe {probe.name} is 0", "leave it out for the target's own")
    faults = [a["name"] for a in method if role_in_method(a) == "fault"]
    for witness in drkit.witnesses:
        if "fault" in witness and witness["fault"] not in faults:
            close = difflib.get_close_matches(str(witness["fault"]), faults, 1, 0.5)
            raise BadDocument(
                f"{where}: witness {witness['name']!r}: no fault of the method is called {witness['fault']!r}",
                f"did you mean {close[0]}?" if close else f"faults: {', '.join(faults) or 'none'}",
            )
    witnessed = {w.get("fault", next(iter(faults), "")) for w in drkit.witnesses}
    for name in faults:
        if name not in witnessed:
            raise BadDocument(
                f"{where}: no witness says whether {name} took effect, so no run of it could pass",
                f"add a probe to witnesses with fault: {name}; an action that breaks nothing has role: assist",
            )


def role_in_method(activity: Mapping[str, Any]) -> str:
    """Return "probe", or what an action is for: "fault", "recovery" or "assist".

    drkit's own functions know it, others say it in `role`; an action that says nothing counts as damage.
    """
    if activity["type"] == "probe":
        return "probe"
    return str(getattr(function_of(activity["provider"]), "drkit_role", None) or activity.get("role") or "fault")


def _read(path: Path) -> tuple[dict[str, Any], str]:
    try:
        raw = path.read_bytes()
        document = json.loads(raw) if path.suffix == ".json" else yaml.load(raw, Loader=_StrictLoader)  # noqa: S506
    except FileNotFoundError:
        raise UnknownName(f"no experiment file {path}", "drkit list shows the names that work") from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark
        line = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise BadDocument(f"{path}{line}: {e.problem}", "not valid YAML") from None
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise BadDocument(f"cannot read {path}: {e}", "") from None
    if not isinstance(document, dict):
        raise BadDocument(f"{path}: an experiment is a mapping, not {type(document).__name__}", "")
    return document, hashlib.sha256(raw).hexdigest()


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(problem="a mapping cannot be a key", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _known_keys(value: Mapping[str, Any], known: set[str], where: str, what: str) -> None:
    for key in value:
        if key not in known and not str(key).startswith("x-"):
            close = difflib.get_close_matches(str(key), known, 1, 0.6)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(sorted(known))}"
            raise BadDocument(f"{where}: unknown key {key} in {what}", hint)


def _check_activity(activity: Any, where: str, group: str) -> None:
    if not isinstance(activity, dict) or not activity.get("name") or not isinstance(activity["name"], str):
        raise BadDocument(
            f"{where}: an activity has a name, a type and a provider", "- {name: …, type: …, provider: …}"
        )
    where = f"{where}: {activity['name']}"
    _known_keys(activity, _ACTIVITY_KEYS, where, "the activity")
    if activity.get("type") not in ("action", "probe"):
        raise BadDocument(f"{where}: type is {activity.get('type')!r}", "it is action or probe")
    provider = activity.get("provider")
    if not isinstance(provider, dict) or str(provider.get("type")) not in _PROVIDER_KEYS:
        raise BadDocument(f"{where}: provider is missing or unknown", "provider: {type: python, module: …, func: …}")
    _known_keys(provider, _PROVIDER_KEYS[provider["type"]], where, "its provider")
    pauses = activity.get("pauses", {})
    if not isinstance(pauses, dict):
        raise BadDocument(f"{where}: pauses is {pauses!r}", "pauses: {before: 1, after: 2}")
    _known_keys(pauses, {"before", "after"}, where, "pauses")
    for key, value in pauses.items():
        if not (_is_seconds(value) or str(value).startswith("${")):
            raise BadDocument(f"{where}: the pause {key} is {value!r}", "it is a number of seconds, from 0 up")
    if not _is_seconds(activity.get("timeout_s", 1)) or activity.get("timeout_s") == 0:
        raise BadDocument(f"{where}: timeout_s is {activity['timeout_s']!r}", "it is a number of seconds above 0")
    if "role" in activity and activity["role"] not in _ROLES:
        raise BadDocument(f"{where}: role is {activity['role']!r}", f"it is one of {', '.join(_ROLES)}")
    if group in ("witnesses", "redundancy") and "tolerance" not in activity:
        raise BadDocument(f"{where}: tolerance is missing", "without one it would hold whatever it answers")
    if provider["type"] != "python":
        return
    function = _check_function(provider, where)
    if hasattr(function, "drkit_plan"):
        if group != "method" or activity["type"] != "action":
            raise BadDocument(f"{where}: {provider['func']} breaks things, so it is an action of the method", "")
        if "role" in activity:
            raise BadDocument(f"{where}: {provider['func']} knows its own role", "leave role out")


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _check_function(provider: Mapping[str, Any], where: str) -> Callable[..., Any]:
    module, func = str(provider.get("module")), str(provider.get("func"))
    given = provider.get("arguments", {})
    if not isinstance(given, dict):
        raise BadDocument(f"{where}: arguments is {given!r}", "arguments: {name: value}")
    try:
        inside = vars(importlib.import_module(module))
    except Exception as e:  # noqa: BLE001  (importing somebody's module runs it, and it may raise anything)
        raise BadDocument(f"{where}: cannot import {module}: {e}", "is its package installed?") from None
    function = inside.get(func)
    if not callable(function):
        close = difflib.get_close_matches(func, [n for n, f in inside.items() if callable(f) and n[0] != "_"], 1, 0.5)
        raise BadDocument(f"{where}: there is no {module}.{func}", f"did you mean {close[0]}?" if close else "")
    found: Callable[..., Any] = function
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return found  # written in C: it does not say
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return found
    for name in given:
        if name not in parameters:
            close = difflib.get_close_matches(str(name), parameters, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"it takes: {', '.join(parameters) or 'nothing'}"
            raise BadDocument(f"{where}: {module}.{func} takes no argument {name}", hint)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given and name not in ("configuration", "secrets"):
            raise BadDocument(f"{where}: {module}.{func} needs the argument {name}", "add it to arguments")
    return found


def function_of(provider: Mapping[str, Any]) -> Callable[..., Any] | None:
    """Return the function that a Python provider names, or None where there is none."""
    if provider.get("type") != "python":
        return None
    try:
        function = getattr(importlib.import_module(str(provider["module"])), str(provider["func"]), None)
    except Exception:  # noqa: BLE001  (importing somebody's module runs it)
        return None
    return function if callable(function) else None


def _check_with_chaoslib(document: dict[str, Any], where: str) -> None:
    from chaoslib.exceptions import ChaosException
    from chaoslib.experiment import ensure_experiment_is_valid

    try:
        ensure_experiment_is_valid(document)
    except (
        ChaosException,
        TypeError,
        AttributeError,
        LookupError,
        ValueError,
    ) as e:  # it trusts the types of some keys
        raise BadDocument(f"{where}: {e}", "Chaos Toolkit refuses it: see chaos validate") from None
