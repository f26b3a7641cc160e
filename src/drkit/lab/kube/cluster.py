"""A whole cluster: nodes in three zones, an API server, and whatever runs its pods."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drkit import clock
from drkit.clock import NS_PER_S
from drkit.lab.kube.controllers import Loop, Times
from drkit.lab.kube.controllers.kubelet import Kubelets, PodState, Runtime
from drkit.lab.kube.controllers.nodes import NodeLifecycle, TaintEviction
from drkit.lab.kube.controllers.others import Autoscalers, Budgets, CpuOf, EndpointSlices, Garbage
from drkit.lab.kube.controllers.scheduler import Scheduler
from drkit.lab.kube.controllers.workloads import DaemonSets, Deployments, ReplicaSets
from drkit.lab.kube.resources import LABELS, Object, uid_of
from drkit.lab.kube.server import ApiServer
from drkit.lab.kube.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One machine, labelled as EKS labels it."""

    name: str
    zone: str  # "eu-central-1a"
    spot: bool = False
    instance_type: str = "m7g.large"
    cpu: str = "1930m"
    memory: str = "7Gi"
    pods: int = 29
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[dict[str, str], ...] = ()

    @property
    def document(self) -> Object:
        room = {"cpu": self.cpu, "memory": self.memory, "pods": str(self.pods)}
        instance = f"i-{hashlib.sha256(self.name.encode()).hexdigest()[:17]}"
        labels = {
            "kubernetes.io/arch": "arm64", "kubernetes.io/os": "linux", LABELS.hostname: self.name,
            LABELS.zone: self.zone, LABELS.region: self.zone[:-1],
            "node.kubernetes.io/instance-type": self.instance_type,
            "eks.amazonaws.com/capacityType": "SPOT" if self.spot else "ON_DEMAND", **self.labels,
        }  # fmt: skip
        return {
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"providerID": f"aws:///{self.zone}/{instance}", "taints": list(self.taints)},
            "status": {
                "capacity": room, "allocatable": room, "addresses": [{"type": "Hostname", "address": self.name}],
                "nodeInfo": {"architecture": "arm64", "operatingSystem": "linux", "kubeletVersion": "v1.33.0"},
            },
        }  # fmt: skip


class Cluster:
    """Runs until `close`; `kubeconfig` is the way in, for kubectl and every client."""

    def __init__(
        self,
        directory: Path,
        nodes: Sequence[NodeSpec],
        *,
        runtime: Runtime,
        cpu_of: CpuOf = lambda _: None,
        speed: float = 1.0,
        times: Times | None = None,
    ) -> None:
        """directory: where kubeconfig and keys are written. speed: so many times as fast as Kubernetes' defaults."""
        times = (times or Times()).at(speed)
        self.store = Store(toleration_s=round(Times().toleration_s))
        self.kubelets = Kubelets(self.store, runtime, times, speed)
        for node in nodes:
            self.kubelets.add_node(node.document)
        self._loop = Loop(
            self.store,
            (
                self.kubelets, NodeLifecycle(self.store, times), TaintEviction(self.store, times, speed),
                Deployments(self.store), ReplicaSets(self.store), DaemonSets(self.store), Scheduler(self.store),
                Budgets(self.store), EndpointSlices(self.store), Autoscalers(self.store, times, cpu_of),
                Garbage(self.store, times),
            ),
        )  # fmt: skip
        self._server = ApiServer(self.store, directory)
        self.url, self.kubeconfig = self._server.url, self._server.kubeconfig

    def close(self) -> None:
        self._server.close()
        self._loop.close()


class Delayed:
    """A runtime without processes: a pod is ready after a while, and gone a while after it was asked to go."""

    def __init__(self, *, start_s: float = 0.3, stop_s: float = 0.1) -> None:
        self._start_ns, self._stop_ns = int(start_s * NS_PER_S), int(stop_s * NS_PER_S)
        self._ready_ns: dict[str, int] = {}
        self._ends_ns: dict[str, int] = {}
        self._addresses: dict[str, str] = {}
        self._lock = threading.Lock()

    def start(self, pod: Object) -> None:
        with self._lock:
            number = len(self._addresses)
            self._addresses[uid_of(pod)] = f"10.244.{number // 250}.{number % 250 + 1}"
            self._ready_ns[uid_of(pod)] = clock.now_ns() + self._start_ns

    def state(self, uid: str) -> PodState | None:
        with self._lock:
            now_ns, ready_ns = clock.now_ns(), self._ready_ns.get(uid)
            if ready_ns is None or now_ns > self._ends_ns.get(uid, now_ns):
                self._ready_ns.pop(uid, None)
                return None
            ready = now_ns >= ready_ns
            return PodState(running=ready, ready=ready and uid not in self._ends_ns, ip=self._addresses[uid])

    def stop(self, uid: str, grace_s: float) -> None:
        with self._lock:
            self._ends_ns[uid] = clock.now_ns() + min(self._stop_ns, int(grace_s * NS_PER_S))

    def kill(self, uid: str) -> None:
        with self._lock:
            self._ready_ns.pop(uid, None)


def three_zones(region: str, *, on_demand: int = 1, spot: int = 1) -> list[NodeSpec]:
    """Return nodes of three zones of a region: so many on-demand and spot ones in each."""
    made: list[NodeSpec] = []
    for number, letter in enumerate("abc"):
        for n in range(on_demand + spot):
            name = f"ip-10-0-{number}-{10 + n}"
            made.append(NodeSpec(name=name, zone=f"{region}{letter}", spot=n >= on_demand))
    return made
