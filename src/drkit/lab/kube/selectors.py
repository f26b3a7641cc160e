"""Label and field selectors. Source: Kubernetes, "Labels and Selectors", "Field Selectors"."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from drkit.lab.kube.resources import ApiError, Object, labels_of

Match = Callable[[Object], bool]

_PART = re.compile(r"(?:[^,(]|\([^)]*\))+")
_SET = re.compile(r"^([^\s!=]+)\s+(in|notin)\s+\(([^)]*)\)$")
_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
_FIELDS = (
    "metadata.name", "metadata.namespace", "spec.nodeName", "spec.unschedulable", "spec.restartPolicy", "status.phase",
    "status.podIP", "involvedObject.kind", "involvedObject.name", "involvedObject.namespace", "involvedObject.uid",
    "reason", "type", "source",
)  # fmt: skip


class Requirement(NamedTuple):
    key: str
    operator: str  # in, notin, exists, absent
    values: Sequence[str] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "in":
                return self.key in labels and labels[self.key] in self.values
            case "notin":
                return self.key not in labels or labels[self.key] not in self.values
            case "exists":
                return self.key in labels
        return self.key not in labels


def everything(_: Object) -> bool:
    return True


def parsed(labels: str, fields: str = "") -> Match:
    """Return what two selectors of a request mean together. Raises ApiError for what can't be read."""
    if not labels and not fields:
        return everything
    requirements, conditions = _labels(labels), _fields(fields)
    return lambda obj: (
        all(r.holds(labels_of(obj)) for r in requirements)
        and all((_field(obj, path) == value) is equal for path, value, equal in conditions)
    )


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector matches. An empty one matches everything, none at all nothing."""
    if selector is None:
        return False
    wanted = [Requirement(k, "in", [v]) for k, v in (selector.get("matchLabels") or {}).items()]
    wanted += [
        Requirement(e["key"], _OPERATORS[e["operator"]], e.get("values") or ())
        for e in selector.get("matchExpressions") or ()
    ]
    return all(r.holds(labels) for r in wanted)


def _labels(text: str) -> list[Requirement]:
    found = []
    for part in (p.strip() for p in _PART.findall(text)):
        if not part:
            continue
        if in_set := _SET.match(part):
            found.append(Requirement(in_set[1], in_set[2], [v.strip() for v in in_set[3].split(",")]))
        elif "!=" in part:
            key, value = part.split("!=", 1)
            found.append(Requirement(key.strip(), "notin", [value.strip()]))
        elif "=" in part:
            key, value = re.split("==?", part, maxsplit=1)
            found.append(Requirement(key.strip(), "in", [value.strip()]))
        elif part.startswith("!"):
            found.append(Requirement(part[1:].strip(), "absent"))
        elif re.search(r"[\s()]", part):
            raise ApiError(400, "BadRequest", f"unable to parse requirement: {part!r}")
        else:
            found.append(Requirement(part, "exists"))
    return found


def _fields(text: str) -> list[tuple[str, str, bool]]:
    found = []
    for part in (p.strip() for p in text.split(",")):
        if not part:
            continue
        if "=" not in part:
            raise ApiError(400, "BadRequest", f"invalid selector: {part!r}; can't understand it")
        path, value = (p.strip() for p in re.split("!=|==?", part, maxsplit=1))
        if path not in _FIELDS:
            raise ApiError(400, "BadRequest", f"field label not supported: {path}")
        found.append((path, value, "!=" not in part))
    return found


def _field(obj: Object, path: str) -> str:
    value: Any = obj
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or path == "spec.unschedulable":
        return str(bool(value)).lower()
    return "" if value is None else str(value)
