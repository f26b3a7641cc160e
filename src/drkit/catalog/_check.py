"""Experiments read and checked, down to every key and argument."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from drkit.catalog._experiment import Experiment, Extension, role_in_method
from drkit.errors import BadDocument, UnknownName
from drkit.model import Connection, Role
from drkit.project import parse

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


def read(path: Path) -> Experiment:
    """Return the experiment in a file. Raises BadDocument."""
    document, digest = read_document(path)
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
    _check_variables(document, where)
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


_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}")  # "$$" is chaoslib's escape: it becomes "$", and what follows is text


def _check_variables(document: Mapping[str, Any], where: str) -> None:
    """Refuse every `${name}` that nothing would be put in for: chaoslib passes it on as it stands, without a word."""
    secrets = document.get("secrets") or {}
    groups = [s for s in secrets.values() if isinstance(s, dict) and s.get("type") not in ("env", "vault")]
    known = [str(name) for part in (document.get("configuration") or {}, *groups) for name in part]
    # A group that is a whole vault path brings names that only the vault knows.
    unlisted = any(isinstance(s, dict) and s.get("type") == "vault" and "key" not in s for s in secrets.values())
    for place, text in _texts(document):
        for name in (m[1] for m in _VARIABLE.finditer(text) if m[1] is not None):
            usable = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
            if usable and (name in known or unlisted):
                continue
            if name in known:
                raise BadDocument(
                    f"{where}: {place}: nothing can be put in for ${{{name}}}",
                    "name the variable with letters, digits and _ only",
                )
            close = difflib.get_close_matches(name, known, 1, 0.5)
            listed = f"variables: {', '.join(known)}" if known else "declare it in configuration"
            raise BadDocument(
                f"{where}: {place}: there is no variable ${{{name}}}",
                f"did you mean ${{{close[0]}}}?" if close else f"{listed}; for the text itself write $${{{name}}}",
            )


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text in a document with its place: "method.0.name"; keys are not looked at, chaoslib leaves them."""
    match value:
        case str():
            yield place, value
        case dict():
            for key, inner in value.items():
                yield from _texts(inner, f"{place}.{key}".lstrip("."))
        case list() | tuple():
            for n, inner in enumerate(value):
                yield from _texts(inner, f"{place}.{n}".lstrip("."))


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
        if "$" in probe.zone and probe.zone != "${zone}":
            raise BadDocument(f"{where}: zone of probe {probe.name} is {probe.zone}", 'it is a zone, or "${zone}"')
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


def read_document(path: Path) -> tuple[dict[str, Any], str]:
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
    function = check_function(provider, where)
    if hasattr(function, "drkit_plan"):
        if group != "method" or activity["type"] != "action":
            raise BadDocument(f"{where}: {provider['func']} breaks things, so it is an action of the method", "")
        if "role" in activity:
            raise BadDocument(f"{where}: {provider['func']} knows its own role", "leave role out")


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def check_function(
    provider: Mapping[str, Any], where: str, *, given_by_us: tuple[str, ...] = ("configuration", "secrets")
) -> Callable[..., Any]:
    """Return the function that a provider names, if its arguments fit; given_by_us: what no file gives."""
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
        if parameter.default is parameter.empty and name not in given and name not in given_by_us:
            raise BadDocument(f"{where}: {module}.{func} needs the argument {name}", "add it to arguments")
    return found


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
