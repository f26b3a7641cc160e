"""What the API says besides objects: its discovery documents, tables for kubectl get, and a little OpenAPI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from drkit import clock
from drkit.lab.kube.resources import (
    AUTOSCALER,
    BUDGET,
    DAEMON_SET,
    DEPLOYMENT,
    EVENT,
    NODE,
    POD,
    REPLICA_SET,
    RESOURCES,
    Object,
    Resource,
    is_deleted,
    is_ready,
    name_of,
    node_of,
    status_of,
    zone_of,
)

VERSION = {
    "major": "1", "minor": "33", "gitVersion": "v1.33.0-drkit-lab", "gitCommit": "", "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "python", "platform": "any",
}  # fmt: skip
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_OF_SUBRESOURCE = {"eviction": ("policy", "v1", "Eviction"), "scale": ("autoscaling", "v1", "Scale")}


# --- discovery --------------------------------------------------------------------------------------------------------


def groups() -> Object:
    """Return the APIGroupList."""
    names = dict.fromkeys(r.group for r in RESOURCES if r.group)
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(name) for name in names]}


def group(name: str) -> Object:
    versions = [
        {"groupVersion": f"{name}/{v}", "version": v}
        for v in dict.fromkeys(r.version for r in RESOURCES if r.group == name)
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def resources(group_name: str, version: str) -> Object:
    """Return the APIResourceList of a group's version; empty if there is none."""
    found: list[Object] = []
    for r in _of(group_name, version):
        found.append(
            {
                "name": r.plural, "singularName": r.kind.lower(), "namespaced": r.namespaced, "kind": r.kind,
                "verbs": _VERBS, "shortNames": list(r.short_names),
            }
        )  # fmt: skip
        for subresource in r.subresources:
            other = _OF_SUBRESOURCE.get(subresource)
            verbs = ["create"] if subresource in ("eviction", "binding") else ["get", "patch", "update"]
            entry: Object = {
                "name": f"{r.plural}/{subresource}", "singularName": "", "namespaced": r.namespaced,
                "kind": other[2] if other else r.kind, "verbs": verbs,
            }  # fmt: skip
            found.append({**entry, "group": other[0], "version": other[1]} if other else entry)
    group_version = f"{group_name}/{version}" if group_name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": found}


def _of(group_name: str, version: str) -> list[Resource]:
    return [r for r in RESOURCES if (r.group, r.version) == (group_name, version)]


# --- OpenAPI: just enough for kubectl apply, which asks whether the server validates fields --------------------------


def openapi_index() -> Object:
    paths = dict.fromkeys(_root(r) for r in RESOURCES)
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in paths}}


def openapi(path: str) -> Object | None:
    """Return the document of one path of the index, None if there is none."""
    known = [r for r in RESOURCES if _root(r) == path]
    if not known:
        return None
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in ("fieldValidation", "dryRun")]
    paths = {}
    for r in known:
        where = "/namespaces/{namespace}" if r.namespaced else ""
        kind = {"group": r.group, "version": r.version, "kind": r.kind}
        patch = {
            "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": kind, "parameters": parameters,
            "responses": {},
        }  # fmt: skip
        paths[f"/{path}{where}/{r.plural}/{{name}}"] = {"patch": patch}
    info = {"title": "Kubernetes", "version": VERSION["gitVersion"]}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": {}}}


def _root(r: Resource) -> str:
    return f"apis/{r.group}/{r.version}" if r.group else f"api/{r.version}"


# --- tables -----------------------------------------------------------------------------------------------------------


def table(resource: Resource, objects: Sequence[Object], version: str) -> Object:
    """Return objects as kubectl get shows them."""
    columns, cells = _TABLES.get(resource, (("Name", "Age"), lambda o: (name_of(o), _age(o))))
    return {
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version},
        "columnDefinitions": [
            {"name": c, "type": "string", "format": "name" if c == "Name" else "", "description": "", "priority": 0}
            for c in columns
        ],
        "rows": [{"cells": [str(c) for c in cells(o)], "object": _partial(o)} for o in objects],
    }  # fmt: skip


def _partial(obj: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def _age(obj: Object) -> str:
    made = datetime.fromisoformat(obj["metadata"]["creationTimestamp"])
    seconds = int((clock.wall_utc() - made).total_seconds())
    return f"{seconds}s" if seconds < 120 else f"{seconds // 60}m" if seconds < 7200 else f"{seconds // 3600}h"


def _pod(pod: Object) -> tuple[Any, ...]:
    containers = status_of(pod).get("containerStatuses") or []
    ready = f"{sum(bool(c.get('ready')) for c in containers)}/{len(pod['spec']['containers'])}"
    phase = "Terminating" if is_deleted(pod) else status_of(pod).get("phase", "Pending")
    restarts = sum(int(c.get("restartCount", 0)) for c in containers)
    return name_of(pod), ready, phase, restarts, _age(pod), node_of(pod) or "<none>"


def _node(node: Object) -> tuple[Any, ...]:
    state = "Ready" if is_ready(node) else "NotReady"
    off = ",SchedulingDisabled" if node["spec"].get("unschedulable") else ""
    return name_of(node), state + off, zone_of(node), _age(node), VERSION["gitVersion"]


def _deployment(obj: Object) -> tuple[Any, ...]:
    s = status_of(obj)
    ready = f"{s.get('readyReplicas', 0)}/{obj['spec']['replicas']}"
    return name_of(obj), ready, s.get("updatedReplicas", 0), s.get("availableReplicas", 0), _age(obj)


def _replica_set(obj: Object) -> tuple[Any, ...]:
    s = status_of(obj)
    return name_of(obj), obj["spec"]["replicas"], s.get("replicas", 0), s.get("readyReplicas", 0), _age(obj)


def _daemon_set(obj: Object) -> tuple[Any, ...]:
    s = status_of(obj)
    return name_of(obj), s.get("desiredNumberScheduled", 0), s.get("numberReady", 0), _age(obj)


def _budget(obj: Object) -> tuple[Any, ...]:
    spec = obj["spec"]
    limits = (str(spec.get(k, "N/A")) for k in ("minAvailable", "maxUnavailable"))
    return name_of(obj), *limits, status_of(obj).get("disruptionsAllowed", 0), _age(obj)


def _autoscaler(obj: Object) -> tuple[Any, ...]:
    spec, s = obj["spec"], status_of(obj)
    target = f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"
    return name_of(obj), target, spec["minReplicas"], spec["maxReplicas"], s.get("currentReplicas", 0), _age(obj)


def _event(obj: Object) -> tuple[Any, ...]:
    about = obj.get("involvedObject") or {}
    subject = f"{about.get('kind', '').lower()}/{about.get('name', '')}"
    return _age(obj), obj.get("type", ""), obj.get("reason", ""), subject, obj.get("message", "")


_TABLES: dict[Resource, tuple[tuple[str, ...], Callable[[Object], tuple[Any, ...]]]] = {
    POD: (("Name", "Ready", "Status", "Restarts", "Age", "Node"), _pod),
    NODE: (("Name", "Status", "Zone", "Age", "Version"), _node),
    DEPLOYMENT: (("Name", "Ready", "Up-to-date", "Available", "Age"), _deployment),
    REPLICA_SET: (("Name", "Desired", "Current", "Ready", "Age"), _replica_set),
    DAEMON_SET: (("Name", "Desired", "Ready", "Age"), _daemon_set),
    BUDGET: (("Name", "Min available", "Max unavailable", "Allowed disruptions", "Age"), _budget),
    AUTOSCALER: (("Name", "Reference", "Minpods", "Maxpods", "Replicas", "Age"), _autoscaler),
    EVENT: (("Last seen", "Type", "Reason", "Object", "Message"), _event),
}
