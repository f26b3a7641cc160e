"""What clients of the service reach: a load balancer on each side, and the public endpoint that leads to one of them.

A *side* is a region: "1" is the first, "r" the second. A side's load balancer stands in its application subnets: when
the last of them is cut, the way to it is a black hole as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from drkit.errors import LabError
from drkit.lab import ports
from drkit.lab.helper import Helper
from drkit.lab.nodes import REPLICA, PlantOptions
from drkit.lab.proxy import OUTSIDE, Network

FIRST = "1"
ENDPOINT = "service"  # the link that is the public endpoint


def side_of(zone: str) -> str:
    """Return the side that a zone of the plant is on."""
    return REPLICA if zone == REPLICA else FIRST


class Front:
    """The load balancers' processes, the second side's from when it is first needed, and the endpoint."""

    def __init__(self, options: PlantOptions, logs: Path, *, started: Callable[[], None]) -> None:
        """started: called when a process was added to a plant that is open."""
        self._options, self._logs, self._started = options, logs, started
        self._app_zones = {FIRST: options.zones, REPLICA: (REPLICA,)}
        self._network: Network | None = None
        self._running: dict[str, tuple[Helper, int]] = {}  # side → process, port
        self._lock = threading.RLock()
        self._over = False

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Start the first side's load balancer; return its own URL, which no network is before."""
        return f"http://{ports.HOST}:{self._start(FIRST)[1]}"

    def open(self, network: Network) -> str:
        """Open the public endpoint, led to the first side; return its URL."""
        self._network = network
        target = self._start(FIRST)[1]
        port = network.listen(ENDPOINT, source=OUTSIDE, place=f"lb/{FIRST}", target=target)
        return f"http://{ports.HOST}:{port}"

    def stop(self) -> None:
        with self._lock:
            self._over = True
            for helper, _ in self._running.values():
                helper.stop()

    def helpers(self) -> list[Helper]:
        return [helper for helper, _ in tuple(self._running.values())]

    def _start(self, side: str) -> tuple[Helper, int]:
        with self._lock:
            if side in self._running:
                return self._running[side]
            if self._over:
                raise LabError("the lab is being stopped")
            o = self._options
            checks = {
                "every_s": o.health_every_s,
                "timeout_s": o.health_timeout_s,
                "unhealthy_after": o.unhealthy_after,
                "healthy_after": o.healthy_after,
                "target_timeout_s": o.target_timeout_s,
            }
            name = "balancer" if side == FIRST else f"balancer {side}"
            helper = Helper("drkit.lab.balancer", checks, log=self._logs / f"{name.replace(' ', '-')}.log")
            helper.name = name
            self._running[side] = helper, helper.ask(do="open")["port"]
        if self._network is not None:
            self._started()
        return self._running[side]

    # --- targets ------------------------------------------------------------------------------------------------------

    def register(self, instance_id: str, port: int, zone: str) -> None:
        self._start(side_of(zone))[0].ask(do="register", id=instance_id, port=port, zone=zone)

    def deregister(self, instance_id: str) -> None:
        for helper in self.helpers():
            helper.ask(do="deregister", id=instance_id)

    def health(self) -> dict[str, tuple[int, str, str]]:
        """Return port, state and ELB's reason of each registered target, by instance id."""
        told = [helper.ask(do="health")["targets"] for helper in self.helpers()]
        return {name: tuple(target) for targets in told for name, target in targets.items()}

    def shift(self, side: str, away_from: str | None) -> None:
        """Let a side's load balancer send no new request to a zone; None: to every zone again."""
        self._start(side)[0].ask(do="shift", away_from=away_from)

    # --- network ------------------------------------------------------------------------------------------------------

    def lead(self, side: str) -> None:
        """Lead the public endpoint to a side and reset its old connections, all at one instant."""
        assert self._network is not None
        with self._lock:
            _, port = self._start(side)
            now = self._network.link(ENDPOINT)
            if now.target != port:
                self._network.lead([ENDPOINT], place=f"lb/{side}", target=port, reset=True)

    def follow_cuts(self) -> None:
        """Cut each load balancer off whose application subnets are all cut, and no other."""
        if (network := self._network) is None:
            return
        with self._lock:
            for side, zones in self._app_zones.items():
                place, lost = f"lb/{side}", all(network.is_cut(f"{zone}/app") for zone in zones)
                if lost and not network.is_cut(place):
                    network.cut(place)
                elif network.is_cut(place) and not lost:
                    network.heal(place)
