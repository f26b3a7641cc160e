"""The kubelets of all the lab's nodes: they renew Leases, and run their pods with whatever runs pods in this lab.

A node that is lost is one whose kubelet says nothing any more: see `Kubelets.lose`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from drkit import clock
from drkit.clock import NS_PER_S
from drkit.lab.kube.controllers import Times, set_condition
from drkit.lab.kube.controllers.nodes import CONDITIONS
from drkit.lab.kube.resources import (
    LEASE,
    NODE,
    POD,
    ApiError,
    Object,
    is_deleted,
    is_over,
    is_ready,
    name_of,
    node_of,
    status_of,
    uid_of,
)
from drkit.lab.kube.store import Store, timestamp

_REASONS = dict(
    zip(
        CONDITIONS,
        ("KubeletReady", "KubeletHasSufficientMemory", "KubeletHasNoDiskPressure", "KubeletHasSufficientPID"),
        strict=True,
    )
)
LOOK_S = 0.1  # how often pods that start, end or may have died are looked at


@dataclass(frozen=True, slots=True)
class PodState:
    """How a pod's process is. ip: "" before it has one."""

    running: bool
    ready: bool
    ip: str = ""
    restarts: int = 0


class Runtime(Protocol):
    """What runs pods. Each method returns at once; `state` tells how far it has come."""

    def start(self, pod: Object) -> None: ...

    def state(self, uid: str) -> PodState | None:
        """Return how a pod is; None for one that does not run (any more)."""

    def stop(self, uid: str, grace_s: float) -> None:
        """Ask a pod to end, and end it after its grace."""

    def kill(self, uid: str) -> None:
        """End a pod as its machine does that loses power."""


class Kubelets:
    """All nodes' kubelets; a controller like the others."""

    def __init__(self, store: Store, runtime: Runtime, times: Times, speed: float) -> None:
        self._store, self._runtime, self._times, self._speed = store, runtime, times, speed
        self._own: set[str] = set()
        self._lost: set[str] = set()
        self._beat_ns: dict[str, int] = {}
        self._started: dict[str, str] = {}  # pod's uid → its node
        self._stopping: dict[str, int] = {}  # pod's uid → the grace it was asked to end with, in s
        self._lock = threading.RLock()

    # --- nodes --------------------------------------------------------------------------------------------------------

    def add_node(self, node: Mapping[str, Any]) -> None:
        """Make a node that these kubelets run."""
        made = self._store.create(NODE, None, dict(node))
        with self._lock:
            self._own.add(name_of(made))

    def lose(self, name: str) -> None:
        """Let a node be gone from one moment to the next: its pods' processes end, and nobody speaks for it."""
        with self._lock:
            self._lost.add(name)
            for uid in [u for u, where in self._started.items() if where == name]:
                self._runtime.kill(uid)

    def find_again(self, name: str) -> None:
        """Let a lost node come back; what ran on it is started anew if it is still its."""
        with self._lock:
            self._lost.discard(name)
            self._beat_ns.pop(name, None)
            for uid in [u for u, where in self._started.items() if where == name]:
                del self._started[uid]
        self._store.wake()

    def forget(self, name: str) -> None:
        """Let a node be gone for good."""
        self.lose(name)
        with self._lock:
            self._own.discard(name)

    # --- the controller -----------------------------------------------------------------------------------------------

    def reconcile(self, now_ns: int) -> float:
        with self._lock:
            there = {name_of(n) for n in self._store.find(NODE)} & self._own - self._lost
            next_s = min([self._beat(name, now_ns) for name in there], default=self._times.heartbeat_s)
            alive, busy = set(), False
            for pod in self._store.find(POD):
                alive.add(uid_of(pod))
                if node_of(pod) in there:
                    busy |= self._run(pod)
            for uid in [u for u, where in self._started.items() if u not in alive and where in there]:
                self._runtime.kill(uid)
                del self._started[uid]
        return min(next_s, LOOK_S if busy else 2 * LOOK_S if self._started else next_s)

    def _beat(self, name: str, now_ns: int) -> float:
        """Renew a node's Lease if it is time; return when it is the next time."""
        due_s = self._times.heartbeat_s - (now_ns - self._beat_ns.get(name, 0)) / NS_PER_S
        if name in self._beat_ns and due_s > 0:
            return due_s
        self._beat_ns[name] = now_ns
        moment = f"{clock.wall_utc():%Y-%m-%dT%H:%M:%S.%fZ}"
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": moment}
        try:
            self._store.update(LEASE, "kube-node-lease", name, lambda lease: {**lease, "spec": spec})
        except ApiError as e:
            if e.code != 404:
                raise
            self._store.create(LEASE, "kube-node-lease", {"metadata": {"name": name}, "spec": spec})
        node = self._store.get(NODE, None, name)
        if not is_ready(node):
            self._store.patch(NODE, node, _well, subresource="status")
        return self._times.heartbeat_s

    def _run(self, pod: Object) -> bool:
        """Bring a pod on; return whether it is on its way from one state to another."""
        uid = uid_of(pod)
        if is_deleted(pod):
            return self._end(pod)
        if is_over(pod):
            return False
        if uid not in self._started:
            self._started[uid] = node_of(pod)
            self._runtime.start(pod)
        state = self._runtime.state(uid)
        if state is None:
            return True
        wanted = "Running" if state.running else "Pending"
        if (status_of(pod).get("phase"), is_ready(pod), _restarts(pod)) != (wanted, state.ready, state.restarts):
            self._store.patch(POD, pod, lambda p: _show(p, state, wanted), subresource="status")
        return not state.ready

    def _end(self, pod: Object) -> bool:
        uid, grace_s = uid_of(pod), int(pod["metadata"].get("deletionGracePeriodSeconds", 0))
        if uid in self._started and self._runtime.state(uid) is not None:
            if self._stopping.get(uid, grace_s + 1) > grace_s:  # asked for the first time, or now with less of it
                self._stopping[uid] = grace_s
                self._runtime.stop(uid, grace_s / self._speed)
            if is_ready(pod):
                self._store.patch(POD, pod, lambda p: set_condition(p, "Ready", "False"), subresource="status")
            return True
        self._stopping.pop(uid, None)
        self._started.pop(uid, None)
        if not pod["metadata"].get("finalizers"):
            self._store.remove(POD, pod)
        return False


def _restarts(pod: Object) -> int:
    return max((int(c.get("restartCount", 0)) for c in status_of(pod).get("containerStatuses") or ()), default=0)


def _well(node: Object) -> None:
    for kind, reason in _REASONS.items():
        set_condition(node, kind, "True" if kind == "Ready" else "False", reason)


def _show(pod: Object, state: PodState, phase: str) -> None:
    """Write a pod's state into its status."""
    status = pod["status"]
    status["phase"] = phase
    status.setdefault("startTime", timestamp())
    if state.ip:
        status.update(podIP=state.ip, podIPs=[{"ip": state.ip}])
    ready = "True" if state.ready else "False"
    set_condition(pod, "Initialized", "True")
    for kind in ("ContainersReady", "Ready"):
        set_condition(pod, kind, ready, "" if state.ready else "ContainersNotReady")
    running = {"running": {"startedAt": status["startTime"]}}
    status["containerStatuses"] = [
        {
            "name": c["name"], "image": c.get("image", ""), "imageID": "", "ready": state.ready,
            "started": state.running, "restartCount": state.restarts,
            "state": running if state.running else {"waiting": {"reason": "ContainerCreating"}},
        }
        for c in pod["spec"]["containers"]
    ]  # fmt: skip
