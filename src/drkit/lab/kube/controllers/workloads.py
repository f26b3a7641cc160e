"""Deployments, ReplicaSets and DaemonSets: as many pods as they say, of the template that they say.

Source: Kubernetes, pkg/controller/{deployment,replicaset,daemon}; "Deployments", "DaemonSet".
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from drkit.lab.kube.controllers import NEVER_S, set_condition
from drkit.lab.kube.controllers.nodes import tolerated
from drkit.lab.kube.defaults import NOT_READY, UNREACHABLE, UNSCHEDULABLE
from drkit.lab.kube.resources import (
    DAEMON_SET,
    DEPLOYMENT,
    NODE,
    POD,
    REPLICA_SET,
    Object,
    Resource,
    is_active,
    is_controlled_by,
    is_deleted,
    is_ready,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    owned_by,
    status_of,
    uid_of,
)
from drkit.lab.kube.store import Store

HASH, REVISION = "pod-template-hash", "deployment.kubernetes.io/revision"
_OF_DAEMONS = (NOT_READY, UNREACHABLE, UNSCHEDULABLE)


class Deployments:
    """Gives each Deployment one ReplicaSet for its template, and moves the replicas from the older ones to it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reconcile(self, now_ns: int) -> float:  # noqa: ARG002  (it looks at objects only)
        for deployment in self._store.find(DEPLOYMENT):
            if not is_deleted(deployment):
                self._reconcile(deployment)
        return NEVER_S

    def _reconcile(self, deployment: Object) -> None:
        sets = _controlled(self._store, REPLICA_SET, deployment)
        wanted, (surge, unavailable) = int(deployment["spec"]["replicas"]), _limits(deployment)
        hashed = _hash(deployment["spec"]["template"])
        current = next((s for s in sets if labels_of(s).get(HASH) == hashed), None)
        if current is None:
            current = self._make_set(deployment, hashed, sets, wanted)
            sets = [*sets, current]
        old = [s for s in sets if s is not current]
        if not any(_replicas(s) for s in old):
            self._scale(current, wanted)
        else:
            self._roll(current, old, wanted, surge, unavailable)
        self._tell(deployment, uid_of(current), wanted - unavailable)

    def _make_set(self, deployment: Object, hashed: str, sets: Sequence[Object], wanted: int) -> Object:
        template = copy.deepcopy(deployment["spec"]["template"])
        template.setdefault("metadata", {}).setdefault("labels", {})[HASH] = hashed
        selector = copy.deepcopy(deployment["spec"]["selector"])
        selector.setdefault("matchLabels", {})[HASH] = hashed
        newest = max((int(s["metadata"].get("annotations", {}).get(REVISION, 0)) for s in sets), default=0)
        return self._store.create(
            REPLICA_SET,
            namespace_of(deployment),
            {
                "metadata": {
                    "name": f"{name_of(deployment)}-{hashed}", "labels": dict(template["metadata"]["labels"]),
                    "annotations": {REVISION: str(newest + 1)}, "ownerReferences": owned_by(deployment),
                },
                "spec": {"replicas": 0 if sets else wanted, "selector": selector, "template": template},
            },
        )  # fmt: skip

    def _roll(self, current: Object, old: Sequence[Object], wanted: int, surge: int, unavailable: int) -> None:
        """Take a step from old pods to new ones, within the limits of surplus and of missing ones."""
        total = _replicas(current) + sum(map(_replicas, old))
        self._scale(current, min(wanted, _replicas(current) + max(0, wanted + surge - total)))
        idle = {uid_of(s): max(0, _replicas(s) - _available(s)) for s in old}  # they are missed by nobody
        spare = max(0, _available(current) + sum(map(_available, old)) - (wanted - unavailable))
        for one in old:
            fewer = min(_replicas(one), idle[uid_of(one)] + spare)
            spare -= max(0, fewer - idle[uid_of(one)])
            self._scale(one, _replicas(one) - fewer)

    def _scale(self, replica_set: Object, replicas: int) -> None:
        if _replicas(replica_set) != replicas:
            self._store.patch(REPLICA_SET, replica_set, lambda s: s["spec"].update(replicas=replicas))

    def _tell(self, deployment: Object, current: str, least: int) -> None:
        sets = _controlled(self._store, REPLICA_SET, deployment)
        wanted = int(deployment["spec"]["replicas"])

        def total(key: str) -> int:
            return sum(int(status_of(s).get(key, 0)) for s in sets)

        updated = next((int(status_of(s).get("replicas", 0)) for s in sets if uid_of(s) == current), 0)
        counts = {
            "replicas": total("replicas"), "updatedReplicas": updated, "readyReplicas": total("readyReplicas"),
            "availableReplicas": total("availableReplicas"),
            "unavailableReplicas": max(0, wanted - total("availableReplicas")),
        }  # fmt: skip
        enough = counts["availableReplicas"] >= least
        whole = updated == wanted == counts["availableReplicas"] == counts["replicas"]

        def tell(now: Object) -> None:
            conditions = status_of(now).get("conditions") or []
            now["status"] = {k: v for k, v in counts.items() if v}
            now["status"].update(observedGeneration=now["metadata"]["generation"], conditions=conditions)
            reason = "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"
            set_condition(now, "Available", "True" if enough else "False", reason)
            set_condition(now, "Progressing", "True", "NewReplicaSetAvailable" if whole else "ReplicaSetUpdated")

        self._store.patch(DEPLOYMENT, deployment, tell, subresource="status")


class ReplicaSets:
    """Makes and deletes pods until there are as many as each ReplicaSet wants."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reconcile(self, now_ns: int) -> float:  # noqa: ARG002
        for one in self._store.find(REPLICA_SET):
            if not is_deleted(one):
                self._reconcile(one)
        return NEVER_S

    def _reconcile(self, replica_set: Object) -> None:
        pods = [p for p in _controlled(self._store, POD, replica_set) if is_active(p)]
        missing = _replicas(replica_set) - len(pods)
        for _ in range(missing):
            _make_pod(self._store, replica_set)
        if missing < 0:
            for pod in _least_missed(pods)[:-missing]:
                self._store.delete(POD, namespace_of(pod), name_of(pod))
        pods = [p for p in _controlled(self._store, POD, replica_set) if is_active(p)]
        ready = sum(map(is_ready, pods))

        def tell(now: Object) -> None:
            counts = {"fullyLabeledReplicas": len(pods), "readyReplicas": ready, "availableReplicas": ready}
            now["status"] = {"replicas": len(pods), "observedGeneration": now["metadata"]["generation"]}
            now["status"].update({k: v for k, v in counts.items() if v})

        self._store.patch(REPLICA_SET, replica_set, tell, subresource="status")


class DaemonSets:
    """Keeps one pod of each DaemonSet on every node that it fits; whether the node is ready does not matter to it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reconcile(self, now_ns: int) -> float:  # noqa: ARG002
        nodes = self._store.find(NODE)
        for one in self._store.find(DAEMON_SET):
            if not is_deleted(one):
                self._reconcile(one, nodes)
        return NEVER_S

    def _reconcile(self, daemon_set: Object, nodes: Sequence[Object]) -> None:
        pods = [p for p in _controlled(self._store, POD, daemon_set) if is_active(p)]
        fitting = {name_of(n) for n in nodes if _fits(daemon_set["spec"]["template"]["spec"], n)}
        for name in sorted(fitting - {node_of(p) for p in pods}):
            _make_pod(self._store, daemon_set, node=name)
        for pod in pods:
            if node_of(pod) not in fitting:
                self._store.delete(POD, namespace_of(pod), name_of(pod))
        ready = sum(is_ready(p) for p in pods if node_of(p) in fitting)

        def tell(now: Object) -> None:
            now["status"] = {
                "desiredNumberScheduled": len(fitting), "currentNumberScheduled": len(fitting), "numberReady": ready,
                "numberAvailable": ready, "updatedNumberScheduled": len(fitting), "numberMisscheduled": 0,
                "observedGeneration": now["metadata"]["generation"],
            }  # fmt: skip

        self._store.patch(DAEMON_SET, daemon_set, tell, subresource="status")


def _fits(spec: Mapping[str, Any], node: Object) -> bool:
    labels, tolerations = labels_of(node), spec.get("tolerations") or ()
    chosen = all(labels.get(k) == v for k, v in (spec.get("nodeSelector") or {}).items())
    return chosen and all(
        t["key"] in _OF_DAEMONS or t["effect"] == "PreferNoSchedule" or tolerated(tolerations, t) is not None
        for t in node["spec"].get("taints") or ()
    )


def _make_pod(store: Store, owner: Object, *, node: str = "") -> None:
    template = copy.deepcopy(owner["spec"]["template"])
    meta, spec = template.get("metadata") or {}, template["spec"]
    if node:
        spec["nodeName"] = node
        spec["tolerations"] = [
            *(spec.get("tolerations") or ()),
            *(
                {"key": key, "operator": "Exists", "effect": e}
                for key in _OF_DAEMONS
                for e in ("NoSchedule", "NoExecute")
            ),
        ]
    made: Object = {"generateName": f"{name_of(owner)}-", "labels": meta.get("labels") or {}}
    if meta.get("annotations"):
        made["annotations"] = meta["annotations"]
    store.create(POD, namespace_of(owner), {"metadata": {**made, "ownerReferences": owned_by(owner)}, "spec": spec})


def _controlled(store: Store, resource: Resource, owner: Object) -> list[Object]:
    return store.find(resource, namespace_of(owner), lambda o: is_controlled_by(o, owner))


def _least_missed(pods: Sequence[Object]) -> list[Object]:
    """Return pods in the order in which a ReplicaSet gives them up."""
    on = Counter(map(node_of, pods))

    def rank(pod: Object) -> tuple[Any, ...]:
        pending = status_of(pod).get("phase") == "Pending"
        cost = int((pod["metadata"].get("annotations") or {}).get("controller.kubernetes.io/pod-deletion-cost", 0))
        return bool(node_of(pod)), not pending, is_ready(pod), cost, -on[node_of(pod)], _newest(pod)

    return sorted(pods, key=rank)


def _newest(pod: Object) -> int:
    return -int(pod["metadata"]["creationTimestamp"].translate(str.maketrans("", "", "-:TZ")))


def _limits(deployment: Object) -> tuple[int, int]:
    """Return how many pods there may be too many, and too few, while a Deployment changes."""
    strategy, wanted = deployment["spec"]["strategy"], int(deployment["spec"]["replicas"])
    if strategy.get("type") == "Recreate":
        return 0, wanted
    rolling = strategy.get("rollingUpdate") or {}
    surge = _part(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = _part(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return surge, min(wanted, max(unavailable, 1)) if not surge else unavailable


def _part(value: int | str, of: int, *, up: bool) -> int:
    if not isinstance(value, str):
        return int(value)
    exact = of * int(value.rstrip("%")) / 100
    return math.ceil(exact) if up else math.floor(exact)


def _replicas(replica_set: Object) -> int:
    return int(replica_set["spec"]["replicas"])


def _available(replica_set: Object) -> int:
    return int(status_of(replica_set).get("availableReplicas", 0))


def _hash(template: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
