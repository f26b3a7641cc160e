"""The small controllers: budgets, endpoint slices, autoscalers, and what is left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from drkit.clock import NS_PER_S
from drkit.lab.kube.controllers import NEVER_S, Times, record, set_condition
from drkit.lab.kube.controllers.scheduler import requested
from drkit.lab.kube.disruption import FORGOTTEN_S, budget_status
from drkit.lab.kube.resources import (
    AUTOSCALER,
    BUDGET,
    BY_KIND,
    ENDPOINT_SLICE,
    NODE,
    POD,
    RESOURCES,
    SERVICE,
    ApiError,
    Object,
    is_active,
    is_deleted,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    owned_by,
    status_of,
    uid_of,
    zone_of,
)
from drkit.lab.kube.selectors import selects
from drkit.lab.kube.store import Store, timestamp

CpuOf = Callable[[Object], float | None]  # a pod → the cores that it uses now, None if nobody knows
_TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance


class Budgets:
    """Tells how many pods each PodDisruptionBudget would let go now."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reconcile(self, now_ns: int) -> float:  # noqa: ARG002
        disrupted = False
        for budget in self._store.find(BUDGET):
            wanted = budget_status(self._store, budget)
            disrupted |= "disruptedPods" in wanted
            allowed = wanted["disruptionsAllowed"] > 0

            def tell(now: Object, wanted: Object = wanted, allowed: bool = allowed) -> None:
                now["status"] = {**wanted, "conditions": status_of(now).get("conditions") or []}
                reason = "SufficientPods" if allowed else "InsufficientPods"
                set_condition(now, "DisruptionAllowed", "True" if allowed else "False", reason)

            self._store.patch(BUDGET, budget, tell, subresource="status")
        return FORGOTTEN_S if disrupted else NEVER_S


class EndpointSlices:
    """Lists the pods behind each Service: one slice each."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reconcile(self, now_ns: int) -> float:  # noqa: ARG002
        zones = {name_of(n): zone_of(n) for n in self._store.find(NODE)}
        for service in self._store.find(SERVICE):
            if selector := service["spec"].get("selector"):
                self._reconcile(service, {"matchLabels": selector}, zones)
        return NEVER_S

    def _reconcile(self, service: Object, selector: Object, zones: dict[str, str]) -> None:
        name, namespace = f"{name_of(service)}-lab", namespace_of(service)
        pods = self._store.find(POD, namespace, lambda p: selects(selector, labels_of(p)))
        endpoints = [_endpoint(p, zones) for p in pods if status_of(p).get("podIP")]
        ports = [
            {"name": p.get("name", ""), "port": p.get("targetPort", p["port"]), "protocol": p.get("protocol", "TCP")}
            for p in service["spec"].get("ports") or ()
        ]
        try:
            self._store.update(
                ENDPOINT_SLICE, namespace, name, lambda now: {**now, "endpoints": endpoints, "ports": ports}
            )
        except ApiError as e:
            if e.code != 404:
                raise
            meta = {
                "name": name, "labels": {"kubernetes.io/service-name": name_of(service)},
                "ownerReferences": owned_by(service),
            }  # fmt: skip
            made = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}
            self._store.create(ENDPOINT_SLICE, namespace, made)


def _endpoint(pod: Object, zones: dict[str, str]) -> Object:
    ready, leaves = is_ready(pod), is_deleted(pod)
    return {
        "addresses": [status_of(pod)["podIP"]],
        "conditions": {"ready": ready and not leaves, "serving": ready, "terminating": leaves},
        "nodeName": node_of(pod), "zone": zones.get(node_of(pod), ""),
        "targetRef": {"kind": "Pod", "name": name_of(pod), "namespace": namespace_of(pod), "uid": uid_of(pod)},
    }  # fmt: skip


class Autoscalers:
    """Scales what a HorizontalPodAutoscaler names by the CPU that its pods use, relative to what they ask for.

    Up at once, down to the highest wish of the last five minutes (shortened by the lab's speed).
    """

    def __init__(self, store: Store, times: Times, cpu_of: CpuOf) -> None:
        self._store, self._times, self._cpu_of = store, times, cpu_of
        self._wishes: dict[str, list[tuple[int, int]]] = {}
        self._asked_ns = 0

    def reconcile(self, now_ns: int) -> float:
        scalers = self._store.find(AUTOSCALER)
        left_s = self._times.autoscale_s - (now_ns - self._asked_ns) / NS_PER_S
        if not scalers or left_s > 0:
            return left_s if scalers else NEVER_S
        self._asked_ns = now_ns
        for scaler in scalers:
            self._reconcile(scaler, now_ns)
        return self._times.autoscale_s

    def _reconcile(self, scaler: Object, now_ns: int) -> None:
        spec, reference = scaler["spec"], scaler["spec"]["scaleTargetRef"]
        resource = BY_KIND[reference["kind"]]
        target = self._store.get(resource, namespace_of(scaler), reference["name"])
        current = int(target["spec"]["replicas"])
        pods = self._store.find(
            POD, namespace_of(scaler), lambda p: is_active(p) and selects(target["spec"]["selector"], labels_of(p))
        )
        used, wanted_percent = self._percent(pods), _percent_of(spec)
        wish = current
        if used is not None and wanted_percent:
            ratio = used / wanted_percent
            wish = current if abs(ratio - 1) <= _TOLERANCE else math.ceil(sum(map(is_ready, pods)) * ratio)
        wish = max(int(spec["minReplicas"]), min(int(spec["maxReplicas"]), wish))
        wish = self._steady(uid_of(scaler), wish, current, now_ns)
        if wish != current:
            self._store.patch(resource, target, lambda now: now["spec"].update(replicas=wish))
            record(self._store, scaler, "SuccessfulRescale", f"New size: {wish}; reason: cpu resource utilization")

        def tell(now: Object) -> None:
            conditions = status_of(now).get("conditions") or []
            now["status"] = {"currentReplicas": current, "desiredReplicas": wish, "conditions": conditions}
            if wish != current:
                now["status"]["lastScaleTime"] = timestamp()
            if used is not None:
                metric = {"name": "cpu", "current": {"averageUtilization": round(used)}}
                now["status"]["currentMetrics"] = [{"type": "Resource", "resource": metric}]
            set_condition(now, "ScalingActive", "True" if used is not None else "False")

        self._store.patch(AUTOSCALER, scaler, tell, subresource="status")

    def _percent(self, pods: Sequence[Object]) -> float | None:
        """Return how much of the CPU that they ask for ready pods use, in percent; None if nobody knows."""
        used = [(self._cpu_of(p), requested(p, "cpu")) for p in pods if is_ready(p)]
        known = [(cores, asked) for cores, asked in used if cores is not None and asked]
        return 100 * sum(c for c, _ in known) / sum(a for _, a in known) if known else None

    def _steady(self, uid: str, wish: int, current: int, now_ns: int) -> int:
        since_ns = now_ns - int(20 * self._times.autoscale_s * NS_PER_S)
        wishes = [(at, w) for at, w in self._wishes.get(uid, ()) if at > since_ns] + [(now_ns, wish)]
        self._wishes[uid] = wishes
        return wish if wish >= current else min(current, max(w for _, w in wishes))


def _percent_of(spec: Object) -> int:
    for metric in spec.get("metrics") or ():
        found = (metric.get("resource") or {}) if metric.get("type") == "Resource" else {}
        if found.get("name") == "cpu":
            return int(found["target"].get("averageUtilization", 0))
    return 0


class Garbage:
    """Removes what nobody owns any more, and pods of nodes that are gone."""

    def __init__(self, store: Store, times: Times) -> None:
        self._store, self._times = store, times
        self._gone_ns: dict[str, int] = {}  # node → since when it is no more

    def reconcile(self, now_ns: int) -> float:
        self._orphans()
        nodes = {name_of(n) for n in self._store.find(NODE)}
        homeless = self._store.find(POD, None, lambda p: bool(node_of(p)) and node_of(p) not in nodes)
        self._gone_ns = {node_of(p): self._gone_ns.get(node_of(p), now_ns) for p in homeless}
        for pod in homeless:
            if (now_ns - self._gone_ns[node_of(pod)]) / NS_PER_S >= self._times.quarantine_s:
                self._store.remove(POD, pod)
        return self._times.collect_s if homeless else NEVER_S

    def _orphans(self) -> None:
        uids = self._store.uids()
        for resource in RESOURCES:
            for obj in self._store.find(resource):
                owners = obj["metadata"].get("ownerReferences")
                if owners and not is_deleted(obj) and not any(o["uid"] in uids for o in owners):
                    self._store.delete(resource, namespace_of(obj), name_of(obj))
