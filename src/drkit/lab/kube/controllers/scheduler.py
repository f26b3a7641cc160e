"""Which node a pod gets: filters first, then the best of what is left.

Source: Kubernetes, "Scheduling Framework", "Pod Topology Spread Constraints", "Assigning Pods to Nodes".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from drkit.lab.kube.controllers import NEVER_S, record, set_condition
from drkit.lab.kube.controllers.nodes import tolerated, tolerations_of
from drkit.lab.kube.defaults import UNSCHEDULABLE
from drkit.lab.kube.resources import (
    LABELS,
    NODE,
    POD,
    Object,
    condition,
    controller_of,
    is_active,
    is_over,
    labels_of,
    name_of,
    namespace_of,
    node_of,
    uid_of,
)
from drkit.lab.kube.selectors import selects
from drkit.lab.kube.store import Store

_UNITS = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "k": 1e3, "M": 1e6, "G": 1e9, "m": 1e-3}
# What a cluster does for pods that say nothing of it, softly: maxSkew by topology key.
_DEFAULT_SPREAD = {LABELS.zone: 5, LABELS.hostname: 3}
Constraint = Mapping[str, Any]


def quantity(text: str | int | float) -> float:
    """Return what a quantity means: "500m" is 0.5, "1Gi" 2 ** 30."""
    value = str(text)
    for unit, factor in _UNITS.items():
        if value.endswith(unit):
            return float(value[: -len(unit)]) * factor
    return float(value)


class Scheduler:
    """Binds pods that have no node."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reconcile(self, now_ns: int) -> float:  # noqa: ARG002
        waiting = self._store.find(POD, None, lambda p: not node_of(p) and is_active(p))
        for pod in waiting:
            if not pod["spec"].get("schedulingGates"):
                self._schedule(pod, self._store.find(NODE), self._store.find(POD))
        return NEVER_S

    def _schedule(self, pod: Object, nodes: Sequence[Object], pods: Sequence[Object]) -> None:
        why: Counter[str] = Counter()
        fitting = []
        for node in nodes:
            if reason := _unfit(pod, node, pods):
                why[reason] += 1
            else:
                fitting.append(node)
        scores: Counter[str] = Counter()
        for constraint in pod["spec"].get("topologySpreadConstraints") or _soft(pod):
            fitting = _spread(pod, constraint, nodes, fitting, pods, scores, why)
        fitting = _apart(pod, nodes, fitting, pods, why)
        if not fitting:
            self._fail(pod, len(nodes), why)
            return
        load = Counter(node_of(p) for p in pods if is_active(p))
        best = name_of(min(fitting, key=lambda n: (scores[name_of(n)], load[name_of(n)], name_of(n))))
        self._store.patch(POD, pod, lambda p: p["spec"].update(nodeName=best))
        self._store.patch(POD, pod, lambda p: set_condition(p, "PodScheduled", "True"), subresource="status")
        said = f"Successfully assigned {namespace_of(pod)}/{name_of(pod)} to {best}"
        record(self._store, pod, "Scheduled", said, source="default-scheduler")

    def _fail(self, pod: Object, nodes: int, why: Mapping[str, int]) -> None:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(why.items()))
        said = f"0/{nodes} nodes are available: {reasons}."
        if (condition(pod, "PodScheduled") or {}).get("message") == said:
            return
        self._store.patch(
            POD, pod, lambda p: set_condition(p, "PodScheduled", "False", "Unschedulable", said), subresource="status"
        )
        record(self._store, pod, "FailedScheduling", said, kind="Warning", source="default-scheduler")


# --- filters ----------------------------------------------------------------------------------------------------------


def _unfit(pod: Object, node: Object, pods: Sequence[Object]) -> str:
    """Return why a node is none for a pod, "" if it is one; the constraints on where its like are come later."""
    off = {"key": UNSCHEDULABLE, "effect": "NoSchedule"}
    if node["spec"].get("unschedulable") and tolerated(tolerations_of(pod), off) is None:
        return "node(s) were unschedulable"
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] in ("NoSchedule", "NoExecute") and tolerated(tolerations_of(pod), taint) is None:
            return f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value', '')}}}"
    if not is_chosen(pod, node):
        return "node(s) didn't match Pod's node affinity/selector"
    here = [p for p in pods if node_of(p) == name_of(node) and not is_over(p)]
    room = (node.get("status") or {}).get("allocatable") or {}
    if len(here) + 1 > int(room.get("pods", 110)):
        return "Too many pods"
    for resource in ("cpu", "memory"):
        taken, wanted = sum(requested(p, resource) for p in here), requested(pod, resource)
        if wanted and taken + wanted > quantity(room.get(resource, 0)):
            return f"Insufficient {resource}"
    return ""


def is_chosen(pod: Object, node: Object) -> bool:
    """Return whether a pod's node selector and required affinity allow a node."""
    labels, spec = labels_of(node), pod["spec"]
    if any(labels.get(k) != v for k, v in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms")
    return terms is None or any(selects({"matchExpressions": t.get("matchExpressions")}, labels) for t in terms)


def requested(pod: Object, resource: str) -> float:
    """Return how much of a resource a pod's containers ask for: cores, bytes."""
    asked = ((c.get("resources") or {}).get("requests") or {} for c in pod["spec"]["containers"])
    return sum(quantity(r.get(resource, 0)) for r in asked)


# --- spread -----------------------------------------------------------------------------------------------------------


def _soft(pod: Object) -> list[Constraint]:
    owner = controller_of(pod)
    if owner is None:
        return []
    return [
        {"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "ScheduleAnyway", "owner": owner["uid"]}
        for key, skew in _DEFAULT_SPREAD.items()
    ]


def _spread(
    pod: Object,
    constraint: Constraint,
    nodes: Sequence[Object],
    fitting: Sequence[Object],
    pods: Sequence[Object],
    scores: Counter[str],
    why: Counter[str],
) -> list[Object]:
    """Return the nodes that a constraint leaves, and score them by how many of the pod's like are in their domain.

    A domain counts for the minimum if a node of it could be chosen by the pod; nodes with taints that it does not
    tolerate count too, unless nodeTaintsPolicy is Honor: so a lost zone, with 0 pods, holds up all the others.
    """
    key, hard = constraint["topologyKey"], constraint.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"
    counts = _counts(pod, constraint, nodes, pods)
    counted = [n for n in nodes if key in labels_of(n)]
    if constraint.get("nodeAffinityPolicy", "Honor") == "Honor":
        counted = [n for n in counted if is_chosen(pod, n)]
    if constraint.get("nodeTaintsPolicy", "Ignore") == "Honor":
        counted = [n for n in counted if _is_tolerated(pod, n)]
    least = min((counts[labels_of(n)[key]] for n in counted), default=0)
    left = []
    for node in fitting:
        domain = labels_of(node).get(key)
        if hard and (domain is None or counts[domain] + 1 - least > int(constraint.get("maxSkew", 1))):
            why["node(s) didn't match pod topology spread constraints"] += 1
            continue
        scores[name_of(node)] += counts[domain] if domain is not None else 1000
        left.append(node)
    return left


def _is_tolerated(pod: Object, node: Object) -> bool:
    return all(
        t["effect"] == "PreferNoSchedule" or tolerated(tolerations_of(pod), t) is not None
        for t in node["spec"].get("taints") or ()
    )


def _counts(pod: Object, constraint: Constraint, nodes: Sequence[Object], pods: Sequence[Object]) -> Counter[str]:
    """Return how many pods like this one are in each domain of a topology."""
    domains = {name_of(n): labels_of(n).get(constraint["topologyKey"]) for n in nodes}
    found: Counter[str] = Counter()
    for other in pods:
        domain = domains.get(node_of(other))
        if domain is None or not is_active(other) or uid_of(other) == uid_of(pod):
            continue
        if "owner" in constraint:
            owner = controller_of(other)
            alike = owner is not None and owner["uid"] == constraint["owner"]
        else:
            alike = namespace_of(other) == namespace_of(pod) and selects(
                constraint.get("labelSelector"), labels_of(other)
            )
        found[domain] += alike
    return found


def _apart(
    pod: Object, nodes: Sequence[Object], fitting: Sequence[Object], pods: Sequence[Object], why: Counter[str]
) -> list[Object]:
    """Return the nodes in whose domains nobody is whom the pod must be apart from."""
    affinity = (pod["spec"].get("affinity") or {}).get("podAntiAffinity") or {}
    left = list(fitting)
    for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
        counts, key = _counts(pod, term, nodes, pods), term["topologyKey"]
        taken = [n for n in left if counts[labels_of(n).get(key, "")]]
        why.update({"node(s) didn't match pod anti-affinity rules": len(taken)} if taken else {})
        left = [n for n in left if n not in taken]
    return left
