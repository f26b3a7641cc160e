"""The kinds that the cluster serves, by group and version, and the errors that it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]  # a Kubernetes object as JSON has it; one that is in the store is never changed in place


class ApiError(Exception):
    """What the API server answers instead of an object: a Status. code: HTTP's."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details = dict(details or {})
        if retry_after_s is not None:
            self.details["retryAfterSeconds"] = retry_after_s
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s is not None else {}

    @property
    def status(self) -> Object:
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": self.details, "code": self.code,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind. group "" is the core group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def not_found(self, name: str) -> ApiError:
        details = {"name": name, "group": self.group, "kind": self.plural}
        return ApiError(404, "NotFound", f'{self.qualified} "{name}" not found', details)

    def conflict(self, name: str, why: str) -> ApiError:
        message = f'Operation cannot be fulfilled on {self.qualified} "{name}": {why}'
        return ApiError(409, "Conflict", message, {"name": name, "group": self.group, "kind": self.plural})

    def invalid(self, name: str, why: str, field_name: str = "") -> ApiError:
        details: dict[str, Any] = {"name": name, "group": self.group, "kind": self.kind}
        if field_name:
            details["causes"] = [{"reason": "FieldValueInvalid", "message": why, "field": field_name}]
        text = f"{field_name}: {why}" if field_name else why
        return ApiError(422, "Invalid", f'{self.kind} "{name}" is invalid: {text}', details)


STATUS, SCALE = ("status",), ("status", "scale")
NODE = Resource("", "v1", "nodes", "Node", False, ("no",), STATUS)
POD = Resource("", "v1", "pods", "Pod", True, ("po",), ("status", "eviction", "binding"))
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", False, ("ns",), STATUS)
SERVICE = Resource("", "v1", "services", "Service", True, ("svc",), STATUS)
EVENT = Resource("", "v1", "events", "Event", True, ("ev",))
CONFIG_MAP = Resource("", "v1", "configmaps", "ConfigMap", True, ("cm",))
SECRET = Resource("", "v1", "secrets", "Secret")
SERVICE_ACCOUNT = Resource("", "v1", "serviceaccounts", "ServiceAccount", True, ("sa",))
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment", True, ("deploy",), SCALE)
REPLICA_SET = Resource("apps", "v1", "replicasets", "ReplicaSet", True, ("rs",), SCALE)
DAEMON_SET = Resource("apps", "v1", "daemonsets", "DaemonSet", True, ("ds",), STATUS)
BUDGET = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, ("pdb",), STATUS)
LEASE = Resource("coordination.k8s.io", "v1", "leases", "Lease")
ENDPOINT_SLICE = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
AUTOSCALER = Resource(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True, ("hpa",), STATUS
)
RESOURCES = (
    NODE, POD, NAMESPACE, SERVICE, EVENT, CONFIG_MAP, SECRET, SERVICE_ACCOUNT, DEPLOYMENT, REPLICA_SET, DAEMON_SET,
    BUDGET, LEASE, ENDPOINT_SLICE, AUTOSCALER,
)  # fmt: skip
BY_PATH = {(r.group, r.version, r.plural): r for r in RESOURCES}
BY_KIND = {r.kind: r for r in RESOURCES}


@dataclass(frozen=True, slots=True)
class Zones:
    """The labels by which a node says where it is."""

    zone: str = "topology.kubernetes.io/zone"
    region: str = "topology.kubernetes.io/region"
    hostname: str = "kubernetes.io/hostname"


LABELS = Zones()


# --- small questions about objects ------------------------------------------------------------------------------------


def name_of(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def namespace_of(obj: Object) -> str | None:
    found: str | None = obj["metadata"].get("namespace")
    return found


def uid_of(obj: Object) -> str:
    return str(obj["metadata"]["uid"])


def labels_of(obj: Object) -> dict[str, str]:
    found: dict[str, str] | None = obj["metadata"].get("labels")
    return found or {}


def status_of(obj: Object) -> Object:
    return obj.get("status") or {}


def condition(obj: Object, kind: str) -> Object | None:
    return next((c for c in status_of(obj).get("conditions") or () if c["type"] == kind), None)


def holds(obj: Object, kind: str) -> bool:
    """Return whether a condition is there and "True"."""
    found = condition(obj, kind)
    return found is not None and found["status"] == "True"


def is_ready(obj: Object) -> bool:
    return holds(obj, "Ready")


def is_deleted(obj: Object) -> bool:
    """Return whether its deletion was asked for; it may still run."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def is_over(pod: Object) -> bool:
    return status_of(pod).get("phase") in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Return whether a pod counts as one of its ReplicaSet's."""
    return not is_deleted(pod) and not is_over(pod)


def node_of(pod: Object) -> str:
    """Return the node that a pod is bound to, "" for none."""
    return str(pod["spec"].get("nodeName") or "")


def zone_of(node: Object) -> str:
    return labels_of(node).get(LABELS.zone, "")


def controller_of(obj: Object) -> Object | None:
    """Return the owner reference of the controller, None for an object of its own."""
    return next((r for r in obj["metadata"].get("ownerReferences") or () if r.get("controller")), None)


def is_controlled_by(obj: Object, owner: Object) -> bool:
    found = controller_of(obj)
    return found is not None and found["uid"] == uid_of(owner)


def owned_by(owner: Object) -> list[Object]:
    """Return the owner references of what a controller makes for an object."""
    return [
        {
            "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name_of(owner), "uid": uid_of(owner),
            "controller": True, "blockOwnerDeletion": True,
        }
    ]  # fmt: skip
