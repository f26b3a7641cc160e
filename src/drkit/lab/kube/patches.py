"""The three ways to patch an object. Sources: RFC 7386, RFC 6902; Kubernetes, "Strategic Merge Patch"."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from drkit.lab.kube.resources import ApiError, Object

# By which key the elements of a list are merged (patchMergeKey of k8s.io/api); other lists are replaced.
_MERGE_KEYS = {
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "env": "name", "volumes": "name",
    "volumeMounts": "mountPath", "conditions": "type", "addresses": "type", "ownerReferences": "uid",
    "imagePullSecrets": "name", "topologySpreadConstraints": "topologyKey", "hostAliases": "ip", "podIPs": "ip",
    "secrets": "name",
}  # fmt: skip
_SETS = ("finalizers",)  # of plain values, merged as sets


def merged(old: Any, patch: Any) -> Any:
    """Apply a JSON merge patch: None deletes, lists are replaced."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merged(new.get(key), value)
    return new


def strategically_merged(old: Any, patch: Any, kind: str) -> Any:
    """Apply a strategic merge patch: as merge, but lists of known elements are merged element by element."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {k: copy.deepcopy(v) for k, v in patch.items() if k != "$patch"}
    new = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            new[name] = [x for x in new.get(name) or () if x not in value]
        elif key == "$retainKeys":
            new = {k: v for k, v in new.items() if k in value}
        elif key.startswith("$"):
            continue
        elif value is None:
            new.pop(key, None)
        elif isinstance(value, list):
            new[key] = _merged_list(new.get(key) or [], value, key, kind, patch.get(f"$setElementOrder/{key}"))
        else:
            new[key] = strategically_merged(new.get(key), value, kind)
    return new


def _merged_list(old: list[Any], patch: list[Any], name: str, kind: str, order: list[Any] | None) -> list[Any]:
    if name in _SETS:
        return list(dict.fromkeys([*old, *patch]))
    by = _MERGE_KEYS.get(name) or (("port" if kind == "Service" else "containerPort") if name == "ports" else None)
    if by is None or not all(isinstance(x, dict) for x in patch):
        return copy.deepcopy(patch)
    new = list(old)
    for change in patch:
        if change.get("$patch") == "replace":
            new = []
            continue
        at = next((i for i, x in enumerate(new) if x.get(by) == change.get(by)), None)
        if change.get("$patch") == "delete":
            if at is not None:
                del new[at]
        elif at is None:
            new.append(strategically_merged({}, change, kind))
        else:
            new[at] = strategically_merged(new[at], change, kind)
    if order:
        place = {x.get(by): i for i, x in enumerate(order)}
        new.sort(key=lambda x: place.get(x.get(by), len(place)))
    return new


def json_patched(old: Object, operations: Sequence[Mapping[str, Any]]) -> Object:
    """Apply a JSON patch: add, replace, remove, test. Raises ApiError 422 for one that does not fit."""
    new: Object = copy.deepcopy(old)
    for operation in operations:
        path = [p.replace("~1", "/").replace("~0", "~") for p in str(operation.get("path", "")).split("/")[1:]]
        try:
            _operate(new, path, operation)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as e:
            why = f"the server rejected our request due to an error in our request: {operation.get('op')} {e}"
            raise ApiError(422, "Invalid", why) from None
    return new


def _operate(root: Any, path: Sequence[str], operation: Mapping[str, Any]) -> None:
    place = root
    for key in path[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]
    key, verb = path[-1], operation["op"]
    if isinstance(place, list):
        _operate_on_list(place, key, verb, operation)
        return
    match verb:
        case "test":
            if place.get(key) != operation["value"]:
                raise KeyError(f"test of {'/'.join(path)} failed")
        case "remove":
            del place[key]
        case "replace" if key not in place:
            raise KeyError(key)
        case "add" | "replace":
            place[key] = copy.deepcopy(operation["value"])
        case _:
            raise KeyError(f"unknown operation {verb}")


def _operate_on_list(place: list[Any], key: str, verb: str, operation: Mapping[str, Any]) -> None:
    match verb:
        case "test":
            if place[int(key)] != operation["value"]:
                raise KeyError(f"test of element {key} failed")
        case "remove":
            del place[int(key)]
        case "add" if key == "-":
            place.append(copy.deepcopy(operation["value"]))
        case "add":
            place.insert(int(key), copy.deepcopy(operation["value"]))
        case "replace":
            place[int(key)] = copy.deepcopy(operation["value"])
        case _:
            raise KeyError(f"unknown operation {verb}")
