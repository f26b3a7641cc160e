"""What a PodDisruptionBudget allows, and the eviction that asks it.

Source: Kubernetes, pkg/controller/disruption and registry/core/pod/storage/eviction.go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from drkit import clock
from drkit.lab.kube.resources import (
    BUDGET,
    BY_KIND,
    POD,
    ApiError,
    Object,
    controller_of,
    is_deleted,
    is_over,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    status_of,
)
from drkit.lab.kube.selectors import selects
from drkit.lab.kube.store import Store, timestamp

_REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."
FORGOTTEN_S = 120.0  # an eviction that did not end its pod by then counts no more


def evict(store: Store, namespace: str, name: str, eviction: Mapping[str, Any]) -> Object:
    """Delete a pod if its budget allows it. Raises ApiError: 404, 429 if the budget does not, 500 for two budgets."""
    with store.lock:
        pod = store.get(POD, namespace, name)
        if not (is_deleted(pod) or status_of(pod).get("phase") in ("Succeeded", "Failed", "Pending")):
            budgets = [b for b in store.find(BUDGET, namespace) if _is_for(b, pod)]
            if len(budgets) > 1:
                raise ApiError(
                    500,
                    "InternalError",
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                )
            if budgets:
                _take(store, budgets[0], pod)
        store.delete(POD, namespace, name, eviction.get("deleteOptions"))
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _take(store: Store, budget: Object, pod: Object) -> None:
    """Take one disruption out of a budget, where the pod needs one."""
    spec, status = budget["spec"], status_of(budget)
    healthy, wanted = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    if not is_ready(pod) and (spec.get("unhealthyPodEvictionPolicy") == "AlwaysAllow" or healthy >= wanted > 0):
        return
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 1):
        raise _refusal(f"The disruption budget {name_of(budget)} is still being processed by the server.", 10)
    if status.get("disruptionsAllowed", 0) < 1:
        raise _refusal(
            f"The disruption budget {name_of(budget)} needs {wanted} healthy pods and has {healthy} currently"
        )

    def take(now: Object) -> None:
        now["status"]["disruptionsAllowed"] -= 1
        now["status"].setdefault("disruptedPods", {})[name_of(pod)] = timestamp()

    store.patch(BUDGET, budget, take, subresource="status")


def _refusal(why: str, retry_after_s: int | None = None) -> ApiError:
    causes = [{"reason": "DisruptionBudget", "message": why}]
    return ApiError(429, "TooManyRequests", _REFUSED, {"causes": causes}, retry_after_s=retry_after_s)


def budget_status(store: Store, budget: Object) -> Object:
    """Return a budget's status as it should be now, but for its conditions."""
    namespace, spec = namespace_of(budget), budget["spec"]
    pods = [p for p in store.find(POD, namespace) if _is_for(budget, p) and not is_over(p)]
    expected, wanted = _wanted(store, spec, pods)
    disrupted = {
        name: at
        for name, at in (status_of(budget).get("disruptedPods") or {}).items()
        if _age_s(at) < FORGOTTEN_S and any(name_of(p) == name and not is_deleted(p) for p in pods)
    }
    healthy = sum(is_ready(p) and not is_deleted(p) and name_of(p) not in disrupted for p in pods)
    found: Object = {
        "currentHealthy": healthy,
        "desiredHealthy": wanted,
        "expectedPods": expected,
        "disruptionsAllowed": max(0, healthy - wanted) if expected else 0,
        "observedGeneration": budget["metadata"].get("generation", 1),
    }
    return {**found, "disruptedPods": disrupted} if disrupted else found


def _wanted(store: Store, spec: Mapping[str, Any], pods: Sequence[Object]) -> tuple[int, int]:
    """Return how many pods there should be, and how many of them healthy."""
    least = spec.get("minAvailable")
    if "maxUnavailable" in spec:
        expected = _scale(store, pods)
        return expected, max(0, expected - share(spec["maxUnavailable"], expected))
    if isinstance(least, str):
        expected = _scale(store, pods)
        return expected, share(least, expected)
    return len(pods), 1 if least is None else int(least)


def _scale(store: Store, pods: Sequence[Object]) -> int:
    """Return how many pods their controllers want, together."""
    wanted = {}
    for pod in pods:
        owner = controller_of(pod)
        if owner is None or owner["uid"] in wanted:
            continue
        try:
            found = store.get(BY_KIND[owner["kind"]], namespace_of(pod), owner["name"])
        except (ApiError, KeyError):
            continue
        wanted[owner["uid"]] = int(found["spec"].get("replicas", 1))
    return sum(wanted.values())


def share(value: int | str, of: int) -> int:
    """Return a number as it is, a percentage rounded up."""
    return math.ceil(of * int(value[:-1]) / 100) if isinstance(value, str) and value.endswith("%") else int(value)


def _is_for(budget: Object, pod: Object) -> bool:
    return selects(budget["spec"].get("selector"), labels_of(pod))


def _age_s(at: str) -> float:
    return (clock.wall_utc() - datetime.fromisoformat(at)).total_seconds()
