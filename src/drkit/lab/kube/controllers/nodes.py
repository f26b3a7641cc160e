"""Nodes that are lost: noticed by their Leases, tainted, and left by their pods.

Source: Kubernetes, pkg/controller/nodelifecycle and tainteviction; "Nodes", "Taints and Tolerations".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from drkit.clock import NS_PER_S
from drkit.lab.kube.controllers import NEVER_S, Times, record, set_condition
from drkit.lab.kube.defaults import NOT_READY, UNREACHABLE, UNSCHEDULABLE
from drkit.lab.kube.resources import (
    LEASE,
    NODE,
    POD,
    Object,
    condition,
    is_deleted,
    is_ready,
    name_of,
    namespace_of,
    node_of,
    uid_of,
    zone_of,
)
from drkit.lab.kube.store import Store, timestamp

CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
_LEAST_OF_ZONE = 3  # nodes that are not ready, for a zone to count as partly disrupted
Taint = dict[str, Any]


def tolerated(tolerations: Sequence[Mapping[str, Any]], taint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the toleration that fits a taint, None if none does."""
    for t in tolerations:
        if t.get("effect") and t["effect"] != taint.get("effect"):
            continue
        exists = t.get("operator") == "Exists"
        if (exists and not t.get("key")) or (
            t.get("key") == taint["key"] and (exists or t.get("value", "") == taint.get("value", ""))
        ):
            return t
    return None


def tolerations_of(pod: Object) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = pod["spec"].get("tolerations") or ()
    return found


class NodeLifecycle:
    """Says of nodes that went silent that they are not ready, and taints them, zone by zone."""

    def __init__(self, store: Store, times: Times) -> None:
        self._store, self._times = store, times
        self._beats: dict[str, tuple[object, int]] = {}  # node → what its Lease said, and since when it says so
        self._monitored_ns = 0
        self._evicted_ns: dict[str, int] = {}  # zone → when one of its nodes got NoExecute last

    def reconcile(self, now_ns: int) -> float:
        nodes = self._store.find(NODE)
        self._monitor(nodes, now_ns)
        disrupted = _disrupted(self._store.find(NODE), self._times.unhealthy_zone)
        waiting = False
        for node in self._store.find(NODE):
            waiting |= self._taint(node, disrupted, now_ns)
            if (ready := condition(node, "Ready")) is not None and ready["status"] != "True":
                self._mark_pods(name_of(node))
        due_s = self._times.monitor_s - (now_ns - self._monitored_ns) / NS_PER_S
        return min(due_s, 0.2) if waiting else max(0.01, due_s)

    def _monitor(self, nodes: Sequence[Object], now_ns: int) -> None:
        leases = {
            name_of(lease): lease["spec"].get("renewTime") for lease in self._store.find(LEASE, "kube-node-lease")
        }
        for node in nodes:
            name = name_of(node)
            if name not in self._beats or self._beats[name][0] != leases.get(name):
                self._beats[name] = leases.get(name), now_ns
        if now_ns - self._monitored_ns < self._times.monitor_s * NS_PER_S:
            return
        self._monitored_ns = now_ns
        for node in nodes:
            ready = condition(node, "Ready")
            silent_s = (now_ns - self._beats[name_of(node)][1]) / NS_PER_S
            if silent_s > self._times.grace_s and (ready is None or ready["status"] != "Unknown"):
                self._store.patch(NODE, node, _unknown, subresource="status")
                said = f"Node {name_of(node)} status is now: NodeNotReady"
                record(self._store, node, "NodeNotReady", said, source="node-controller")

    def _taint(self, node: Object, disrupted: Mapping[str, str], now_ns: int) -> bool:
        """Give a node the taints that it should have; return whether it has to wait for its NoExecute."""
        now, ready = list(node["spec"].get("taints") or ()), condition(node, "Ready")
        key = "" if is_ready(node) else UNREACHABLE if ready is not None and ready["status"] == "Unknown" else NOT_READY
        wanted = [t for t in now if t["key"] not in (NOT_READY, UNREACHABLE, UNSCHEDULABLE) or t["key"] == key]

        def add(taint_key: str, effect: str) -> None:
            if not any((t["key"], t["effect"]) == (taint_key, effect) for t in wanted):
                found = next((t for t in now if (t["key"], t["effect"]) == (taint_key, effect)), None)
                wanted.append(found or {"key": taint_key, "effect": effect, "timeAdded": timestamp()})

        if node["spec"].get("unschedulable"):
            add(UNSCHEDULABLE, "NoSchedule")
        waits = False
        if key:
            add(key, "NoSchedule")
            if ready is not None and not any((t["key"], t["effect"]) == (key, "NoExecute") for t in wanted):
                zone = zone_of(node)
                waits = not self._may_evict(zone, disrupted, now_ns)
                if not waits:
                    add(key, "NoExecute")
                    self._evicted_ns[zone] = now_ns
        if wanted != now:
            self._store.patch(NODE, node, lambda n: _set_taints(n, wanted))
        return waits

    def _may_evict(self, zone: str, disrupted: Mapping[str, str], now_ns: int) -> bool:
        """Return whether pods may be sent away from one more node of a zone."""
        if all(state == "full" for state in disrupted.values()) or disrupted[zone] == "partial":
            return False  # with every zone dark it is rather the control plane that sees nothing
        last_ns = self._evicted_ns.get(zone)
        return last_ns is None or now_ns - last_ns >= NS_PER_S / self._times.evictions_per_s

    def _mark_pods(self, node: str) -> None:
        for pod in self._store.find(POD, None, lambda p: node_of(p) == node and is_ready(p)):
            self._store.patch(
                POD, pod, lambda p: set_condition(p, "Ready", "False", "NodeNotReady"), subresource="status"
            )


def _disrupted(nodes: Sequence[Object], threshold: float) -> dict[str, str]:
    """Return how each zone stands: "" | "partial" | "full"."""
    zones: dict[str, list[bool]] = defaultdict(list)
    for node in nodes:
        zones[zone_of(node)].append(is_ready(node))
    found = {}
    for zone, ready in zones.items():
        lost = len(ready) - sum(ready)
        partial = lost >= _LEAST_OF_ZONE and lost / len(ready) >= threshold
        found[zone] = "full" if lost == len(ready) else "partial" if partial else ""
    return found


def _unknown(node: Object) -> None:
    for kind in CONDITIONS:
        set_condition(node, kind, "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")


def _set_taints(node: Object, taints: list[Taint]) -> None:
    if taints:
        node["spec"]["taints"] = taints
    else:
        node["spec"].pop("taints", None)


class TaintEviction:
    """Deletes pods that do not tolerate a NoExecute taint of their node, or not for longer."""

    def __init__(self, store: Store, times: Times, speed: float) -> None:
        self._store, self._times, self._speed = store, times, speed
        self._since_ns: dict[str, int] = {}  # pod's uid → since when it only bears its node

    def reconcile(self, now_ns: int) -> float:
        nodes = {name_of(n): n for n in self._store.find(NODE)}
        since, next_s = {}, NEVER_S
        for pod in self._store.find(POD):
            node = nodes.get(node_of(pod))
            if node is None or is_deleted(pod):
                continue
            stays_s = self._stays_s(pod, node["spec"].get("taints") or ())
            if math.isinf(stays_s):
                continue
            since[uid_of(pod)] = began_ns = self._since_ns.get(uid_of(pod), now_ns)
            left_s = stays_s - (now_ns - began_ns) / NS_PER_S
            if left_s > 0:
                next_s = min(next_s, left_s)
                continue
            said = f"Marking for deletion Pod {namespace_of(pod)}/{name_of(pod)}"
            record(self._store, pod, "TaintManagerEviction", said, source="taint-eviction-controller")
            self._store.delete(POD, namespace_of(pod), name_of(pod), {"preconditions": {"uid": uid_of(pod)}})
        self._since_ns = since
        return next_s

    def _stays_s(self, pod: Object, taints: Sequence[Taint]) -> float:
        """Return for how long a pod bears taints: 0 for one that it does not tolerate, infinity for ever."""
        stays = [math.inf]
        for taint in taints:
            if taint["effect"] != "NoExecute":
                continue
            found = tolerated(tolerations_of(pod), taint)
            if found is None:
                return 0.0
            if "tolerationSeconds" in found:
                stays.append(max(0, found["tolerationSeconds"]) / self._speed)
        return min(stays)
