"""What an object gets when it is made, and what makes it invalid; both only as far as drkit and kubectl notice it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drkit.lab.kube.resources import (
    AUTOSCALER,
    BUDGET,
    DAEMON_SET,
    DEPLOYMENT,
    NAMESPACE,
    NODE,
    POD,
    REPLICA_SET,
    SERVICE,
    Object,
    Resource,
    name_of,
)
from drkit.lab.kube.selectors import selects

NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"


def apply(resource: Resource, obj: Object, *, toleration_s: int) -> None:
    """Complete a new object. Raises ApiError 422."""
    if resource == POD:
        _pod(obj, toleration_s)
    elif resource in _DEFAULTS:
        _DEFAULTS[resource](obj)
    check(resource, obj, None)


def check(resource: Resource, obj: Object, old: Object | None) -> None:
    """Raise ApiError 422 for an object that can't be, or can't become so."""
    name, spec = name_of(obj), obj.get("spec") or {}
    if resource in (DEPLOYMENT, REPLICA_SET, DAEMON_SET):
        template = spec.get("template") or {}
        if not selects(spec.get("selector"), (template.get("metadata") or {}).get("labels") or {}):
            raise resource.invalid(
                name, "Invalid value: `selector` does not match template `labels`", "spec.template.metadata.labels"
            )
        if old is not None and spec["selector"] != old["spec"]["selector"]:
            raise resource.invalid(name, "Invalid value: field is immutable", "spec.selector")
        if not isinstance(spec.get("replicas", 0), int) or spec.get("replicas", 0) < 0:
            raise resource.invalid(name, "Invalid value: must be greater than or equal to 0", "spec.replicas")
    elif resource == BUDGET and {"minAvailable", "maxUnavailable"} <= set(spec):
        raise resource.invalid(name, "Invalid value: minAvailable and maxUnavailable cannot be both set", "spec")


def _pod(obj: Object, toleration_s: int) -> None:
    spec = obj["spec"] = obj.get("spec") or {}
    if not spec.get("containers"):
        raise POD.invalid(name_of(obj), "Required value", "spec.containers")
    _complete(
        spec, restartPolicy="Always", terminationGracePeriodSeconds=30, dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler", serviceAccountName="default", enableServiceLinks=True, securityContext={},
        volumes=[], tolerations=[],
    )  # fmt: skip
    if not spec.get("nodeName"):
        spec.pop("nodeName", None)
    tolerations: list[dict[str, Any]] = list(spec["tolerations"])
    spec["tolerations"] = tolerations
    for key in (NOT_READY, UNREACHABLE):
        if not any(t.get("key") in (key, None) and t.get("effect") in ("NoExecute", "", None) for t in tolerations):
            tolerations.append(
                {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": toleration_s}
            )
    obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _replicated(obj: Object) -> None:
    _complete(obj["spec"], replicas=1)
    obj["status"] = {}


def _deployment(obj: Object) -> None:
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}
    _complete(obj["spec"], strategy=rolling, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    _replicated(obj)


def _node(obj: Object) -> None:
    spec, status = obj.setdefault("spec", {}), obj.setdefault("status", {})
    _complete(status, conditions=[])
    spec["taints"] = [*(spec.get("taints") or []), {"key": NOT_READY, "effect": "NoSchedule"}]


def _namespace(obj: Object) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name_of(obj)
    obj["spec"], obj["status"] = {"finalizers": ["kubernetes"]}, {"phase": "Active"}


def _autoscaler(obj: Object) -> None:
    _complete(obj["spec"], minReplicas=1)
    obj["status"] = {}


def _with_status(obj: Object) -> None:
    obj["status"] = {}


def _complete(place: dict[str, Any], **values: Any) -> None:
    for key, value in values.items():
        place.setdefault(key, value)


_DEFAULTS: dict[Resource, Callable[[Object], None]] = {
    DEPLOYMENT: _deployment,
    REPLICA_SET: _replicated,
    DAEMON_SET: _with_status,
    NODE: _node,
    NAMESPACE: _namespace,
    BUDGET: _with_status,
    SERVICE: _with_status,
    AUTOSCALER: _autoscaler,
}
