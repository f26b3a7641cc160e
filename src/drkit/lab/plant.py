"""The real things a lab is made of, by zone: databases, service instances, the load balancer, and the network between.

`Plant` has the verbs that a cloud's control plane would carry out; who calls them, and when, is not its business.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from drkit.errors import LabError
from drkit.lab import ports, template
from drkit.lab.binaries import find
from drkit.lab.front import Front
from drkit.lab.helper import Helper
from drkit.lab.nodes import REPLICA, REPLICA_ENDPOINT, Failover, Nodes, PlantOptions
from drkit.lab.postgres import Node, NodeRole, make_directory
from drkit.lab.proxy import OUTSIDE, Network
from drkit.lab.ward import sweep

__all__ = ["Failover", "Health", "Node", "NodeRole", "Plant", "PlantOptions", "TargetHealth", "sweep"]


class Health(StrEnum):
    INITIAL = "initial"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """What the load balancer's own checks say of one target. `reason` is ELB's code, "" if healthy."""

    instance_id: str
    zone: str
    port: int
    state: Health
    reason: str = ""


@dataclass(slots=True)
class _Instance:
    zone: str
    port: int  # of the link to it
    service: Helper
    crashed: bool = False  # the service died, the machine did not


class Plant(Nodes):
    """One lab's databases, instances, load balancer and network; nothing of it outlives `stop` or this process.

    Thread-safe, and every verb is idempotent. Verbs raise LabError (impossible as things are) or TimedOut.
    Places are "<zone>/app", "<zone>/db", and of the second region "r/app" and "r/db"; of a load balancer see `front`.
    """

    def __init__(self, directory: Path, *, cache: Path | None = None, options: PlantOptions | None = None) -> None:
        super().__init__(directory, options or PlantOptions())
        zones = self.options.zones
        self.places = frozenset(f"{z}/{role}" for z in (*zones, REPLICA) for role in ("app", "db"))
        self._cache = cache
        self._instances: dict[str, _Instance] = {}
        self._lock = threading.RLock()  # changes of instances and of the footprint
        self._starting: dict[str, threading.Lock] = {}  # one start of an instance at a time

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start databases, network and load balancer, with streaming standbys and without instances.

        Raises LabError; then nothing runs, and the logs are left in `directory`.
        """
        try:
            self._start()
        except OSError as error:
            raise LabError(
                f"the lab cannot start: {error}", hint=f"see whether {self.directory} is writable"
            ) from error

    def _start(self) -> None:
        binaries = find()
        self.pg_version = binaries.version
        self._logs = self.directory / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._sockets = make_directory(binaries)
        names = [*self.pair, REPLICA]
        self.nodes = {name: self._make_node(name) for name in names}
        try:
            with ThreadPoolExecutor(max_workers=8) as pool:
                copies = [pool.submit(self._copy, name) for name in names]
                jobs = [pool.submit(start) for start in (self._start_network, self._start_balancer, self._start_ward)]
                for job in (*jobs, *copies):
                    job.result()
                self.service_url = self._front.open(self._network)
                for name in names[1:]:
                    self.nodes[name].follow(self._network.link(f"stream@{name}").port)
                self._demand_sync(self.primary)
                _all(pool, [node.start for node in self.nodes.values()])
                self._lead_to_nodes()
                self._report()
                for name in names[1:]:
                    self._await_streaming(name)
        except BaseException:
            self.stop(keep_logs=True)
            raise

    def stop(self, *, keep_logs: bool = False) -> None:
        """End everything that was started and delete its files; harmless if nothing runs."""
        self._closing.set()
        if self._archive is not None:
            self._archive.stop()
        with self._lock:
            instances, self._instances = list(self._instances.values()), {}
        fronts = [self._front] if hasattr(self, "_front") else []
        with self._roles, ThreadPoolExecutor(max_workers=8) as pool:
            _all(
                pool,
                [
                    *(i.service.stop for i in instances),
                    *(front.stop for front in fronts),
                    *(node.wipe for node in self.nodes.values()),
                ],
            )
        if hasattr(self, "_network"):
            self._network.stop()
        if hasattr(self, "_ward"):
            with contextlib.suppress(LabError):
                self._ward.ask()  # nothing is left to be swept
            self._ward.stop()
        if hasattr(self, "_sockets"):
            shutil.rmtree(self._sockets, ignore_errors=True)
        for name in ("archive", *(() if keep_logs else ("logs",))):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.directory.rmdir()  # unless somebody else keeps something there

    def footprint(self) -> dict[str, Any]:
        """Return, as JSON, what `sweep` needs to end all this if we cannot."""
        with self._lock:
            helpers = [self._ward] if hasattr(self, "_ward") else []
            helpers += self._front.helpers() if hasattr(self, "_front") else []
            helpers += [i.service for i in self._instances.values()]
            helpers += [self._network.helper] if hasattr(self, "_network") else []
            processes = [{"name": h.name, "pid": h.pid, "started": h.started} for h in helpers if h.alive]
        nodes = list(self.nodes.values())
        sockets = [str(self._sockets)] if hasattr(self, "_sockets") else []  # asked before it has begun to start
        return {
            "processes": [*processes, *(f for n in nodes if (f := n.footprint()) is not None)],
            "shared_memory": [s for n in nodes if (s := n.shared_memory()) is not None],
            "remove": [*sockets, *(str(n.data) for n in nodes), str(self.directory / "archive")],
        }

    def _report(self) -> None:
        """Tell the ward what to end if we die."""
        with self._lock:
            footprint = self.footprint()
            footprint["processes"] = [p for p in footprint["processes"] if p["pid"] != self._ward.pid]
            self._ward.ask(**footprint)

    def _make_node(self, name: str) -> Node:
        log = self._logs / f"postgres-{name}.log"
        return Node(name, self._data(name), sockets=self._sockets, log=log, binaries=find())

    def _data(self, name: str) -> Path:
        return self.directory / f"data-{name}"

    def _copy(self, name: str) -> None:
        template.copy(find(), self._data(name), fsync=self.options.fsync, cache=self._cache)

    def _start_ward(self) -> None:
        self._ward = Helper("drkit.lab.ward", {}, log=self._logs / "ward.log")

    def _start_balancer(self) -> None:
        self._front = Front(self.options, self._logs, started=self._report)
        self.lb_url = self._front.start()

    def _start_network(self) -> None:
        network = self._network = Network(self._logs / "relay.log")
        writer = f"{self.writer}/db"
        open_ = network.listen
        self.writer_endpoint = ports.HOST, open_("writer", source=OUTSIDE, place=writer, target=None)
        self.replica_endpoint = ports.HOST, open_(REPLICA_ENDPOINT, source=OUTSIDE, place=f"{REPLICA}/db", target=None)
        self.zone_urls = {}
        open_(f"writer@{REPLICA}", source=f"{REPLICA}/app", place=writer, target=None)
        for zone in self.options.zones:
            open_(f"writer@{zone}", source=f"{zone}/app", place=writer, target=None)
            port = open_(f"zone@{zone}", source=OUTSIDE, place=f"{zone}/app", target=None)
            network.shape(f"zone@{zone}", silent=True)
            self.zone_urls[zone] = f"http://{ports.HOST}:{port}"
        for name in self.nodes:
            self._open_links(name)

    # --- instances ----------------------------------------------------------------------------------------------------

    def start_instance(self, instance_id: str, zone: str) -> int:
        """Start the service of one instance, new or stopped; return the port by which the network leads to it."""
        if f"{zone}/app" not in self.places:
            raise LabError(
                f"no zone {zone} in this lab", hint=f"its zones are {', '.join(self.options.zones)}, {REPLICA}"
            )
        with self._lock:
            turn = self._starting.setdefault(instance_id, threading.Lock())
        with turn:
            if self._closing.is_set():
                raise LabError("the lab is being stopped")
            known = self._instances.get(instance_id)
            if known is not None and known.service.alive:
                return known.port
            config = {
                "instance": instance_id,
                "zone": zone,
                "database": self._network.link(f"writer@{zone}").port,
                "dbname": self.dbname,
                "user": self.user,
                "query_timeout_s": self.options.query_timeout_s,
            }
            service = Helper("drkit.lab.service", config, log=self._logs / f"{instance_id}.log")
            service.name = instance_id
            with self._lock:
                if self._closing.is_set():
                    service.kill()
                    raise LabError("the lab is being stopped")
                name, place, target = f"to@{instance_id}", f"{zone}/app", service.hello["port"]
                if known is None:
                    port = self._network.listen(name, source=OUTSIDE, place=place, target=target)
                else:
                    port = known.port
                    self._network.lead([name], place=place, target=target, reset=False)
                self._instances[instance_id] = _Instance(zone, port, service)
                self._point_zone(zone)
                self._report()
        return port

    def stop_instance(self, instance_id: str) -> None:
        """End an instance as a machine that is switched off: its address is silent from now on."""
        self._end(instance_id, crashed=False)

    def kill_service(self, instance_id: str) -> None:
        """Kill the service's process; the machine lives on and refuses connections."""
        self._end(instance_id, crashed=True)

    def _end(self, instance_id: str, *, crashed: bool) -> None:
        with self._lock:
            instance = self._instances.get(instance_id)
            if instance is None:
                return
            instance.crashed = crashed
            if not crashed:
                self._network.shape(f"to@{instance_id}", silent=True)
            instance.service.kill()
            if crashed:
                self._network.lead([f"to@{instance_id}"], place=f"{instance.zone}/app", target=None, reset=True)
            self._point_zone(instance.zone)

    def instances(self) -> dict[str, str]:
        """Return the living instances: id → zone."""
        with self._lock:
            return {name: i.zone for name, i in self._instances.items() if i.service.alive}

    def _point_zone(self, zone: str) -> None:
        """Lead the zone's own URL, if it has one, to a living instance in it."""
        if zone not in self.zone_urls:
            return
        link, place = f"zone@{zone}", f"{zone}/app"
        here = [i for i in self._instances.values() if i.zone == zone]
        living = [i.service.hello["port"] for i in here if i.service.alive]
        now = self._network.link(link)
        if living and (now.silent or now.target not in living):
            self._network.lead([link], place=place, target=living[0], reset=False)
        elif not living and any(i.crashed for i in here):
            self._network.lead([link], place=place, target=None, reset=True)
        elif not living:
            self._network.shape(link, silent=True)

    # --- load balancer ------------------------------------------------------------------------------------------------

    def register_target(self, instance_id: str) -> None:
        """Let its side's load balancer check an instance and, once it is well, send it requests."""
        with self._lock:
            instance = self._instances.get(instance_id)
        if instance is None:
            raise LabError(f"no instance {instance_id} in this lab")
        self._front.register(instance_id, instance.port, instance.zone)

    def deregister_target(self, instance_id: str) -> None:
        self._front.deregister(instance_id)

    def lead_service(self, side: str) -> None:
        """Lead the public endpoint to the load balancer of a side ("1", "r"); its old connections are reset."""
        self._front.lead(side)

    def shift_away(self, side: str, zone: str | None) -> None:
        """Let a side's load balancer send no new request to a zone; None: to every zone again."""
        self._front.shift(side, zone)

    def target_health(self) -> dict[str, TargetHealth]:
        """Return each registered target's health by instance id."""
        told = self._front.health()
        with self._lock:
            zones = {name: instance.zone for name, instance in self._instances.items()}
        return {
            name: TargetHealth(name, zones.get(name, ""), port, Health(state), reason)
            for name, (port, state, reason) in told.items()
        }

    # --- network ------------------------------------------------------------------------------------------------------

    def cut(self, place: str) -> None:
        """Make a place unreachable: everything to it and from it vanishes, nothing is closed."""
        self._network.cut(self._place(place))
        self._front.follow_cuts()

    def heal(self, place: str) -> None:
        self._network.heal(self._place(place))
        self._front.follow_cuts()

    def is_cut(self, place: str) -> bool:
        return self._network.is_cut(self._place(place))

    def _place(self, place: str) -> str:
        if place not in self.places:
            raise LabError(f"no place {place} in this lab", hint=f"its places are {', '.join(sorted(self.places))}")
        return place


def _all(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], object]]) -> None:
    for future in [pool.submit(job) for job in jobs]:
        future.result()
