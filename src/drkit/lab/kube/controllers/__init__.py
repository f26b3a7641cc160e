"""What changes objects by itself: one thread asks every controller, until nothing changes any more.

Each controller looks at the whole of what it is about, and makes it as it should be (level-triggered). It may say when
it wants to be asked again although nothing changes: a grace period that ends, a pod that starts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from drkit import clock
from drkit.clock import NS_PER_S
from drkit.lab.kube.resources import EVENT, ApiError, Object, condition, name_of, namespace_of, uid_of
from drkit.lab.kube.store import Store, timestamp

log = logging.getLogger("drkit.lab.kube")

NEVER_S = 3600.0
_SETTLE_S = 0.01  # between two rounds, so that changes that come together are looked at together
_ROUNDS = 50  # without a pause; more would be two controllers that want different things


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long things take, in s: Kubernetes' defaults, shortened by the lab's speed."""

    grace_s: float = 40.0  # kube-controller-manager --node-monitor-grace-period
    monitor_s: float = 5.0  # --node-monitor-period
    heartbeat_s: float = 10.0  # the kubelet's renewal of its Lease
    evictions_per_s: float = 0.1  # --node-eviction-rate: nodes of one zone that get NoExecute
    toleration_s: float = 300.0  # --default-unreachable-toleration-seconds
    unhealthy_zone: float = 0.55  # --unhealthy-zone-threshold
    collect_s: float = 20.0  # pod garbage collection
    quarantine_s: float = 40.0  # of pods whose node is gone
    autoscale_s: float = 15.0  # --horizontal-pod-autoscaler-sync-period

    def at(self, speed: float) -> Times:
        """Return them in a lab whose time passes so many times as fast."""
        return Times(
            grace_s=self.grace_s / speed,
            monitor_s=self.monitor_s / speed,
            heartbeat_s=self.heartbeat_s / speed,
            evictions_per_s=self.evictions_per_s * speed,
            toleration_s=self.toleration_s / speed,
            unhealthy_zone=self.unhealthy_zone,
            collect_s=self.collect_s / speed,
            quarantine_s=self.quarantine_s / speed,
            autoscale_s=self.autoscale_s / speed,
        )


class Controller(Protocol):
    def reconcile(self, now_ns: int) -> float:
        """Make things as they should be; return after how many s it has to be asked again at the latest."""


class Loop:
    """Asks controllers whenever something has changed or one of them is due, from a thread of its own until `close`."""

    def __init__(self, store: Store, controllers: Sequence[Controller]) -> None:
        self._store, self._controllers = store, tuple(controllers)
        self._due_ns = [0] * len(self._controllers)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kube-controllers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        with self._store.lock:
            self._store.lock.notify_all()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        rounds = 0
        while not self._over.is_set():
            seen = self._store.version
            for number, controller in enumerate(self._controllers):
                self._ask(number, controller)
            rounds = rounds + 1 if self._store.version != seen else 0
            if rounds == _ROUNDS:
                log.error("controllers do not come to rest")
            if 0 < rounds < _ROUNDS:
                continue
            wait_ns = min(self._due_ns) - clock.now_ns()
            with self._store.lock:
                if self._store.version == seen and wait_ns > 0 and not self._over.is_set():
                    self._store.lock.wait(wait_ns / NS_PER_S)
            self._over.wait(_SETTLE_S)

    def _ask(self, number: int, controller: Controller) -> None:
        now_ns, again_s = clock.now_ns(), 1.0
        try:
            again_s = controller.reconcile(now_ns)
        except ApiError as e:  # something was gone, or other than it was seen: the next round sees it
            log.debug("%s: %s", type(controller).__name__, e.message)
        except Exception:
            log.exception("%s", type(controller).__name__)
        self._due_ns[number] = now_ns + int(min(again_s, NEVER_S) * NS_PER_S)


# --- what they share --------------------------------------------------------------------------------------------------


def set_condition(obj: Object, kind: str, value: str, reason: str = "", message: str = "") -> None:
    """Set a condition of an object that may be written to. value: "True", "False", "Unknown"."""
    conditions = obj.setdefault("status", {}).setdefault("conditions", [])
    found = condition(obj, kind)
    if found is None:
        found = {"type": kind}
        conditions.append(found)
    if found.get("status") != value:
        found.update(status=value, lastTransitionTime=timestamp())
    found.update(reason=reason, message=message)


def record(
    store: Store, about: Object, reason: str, message: str, *, kind: str = "Normal", source: str = "drkit-lab"
) -> None:
    """Write an Event about an object."""
    namespace, now = namespace_of(about) or "default", timestamp()
    store.create(
        EVENT,
        namespace,
        {
            "metadata": {"generateName": f"{name_of(about)}."},
            "involvedObject": {
                "apiVersion": about["apiVersion"], "kind": about["kind"], "name": name_of(about),
                "namespace": namespace_of(about), "uid": uid_of(about),
            },
            "reason": reason, "message": message, "type": kind, "source": {"component": source}, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
        },
    )  # fmt: skip
