"""RDS of a lab: what the API asks of instances really happens to servers, and the records follow what happened.

The Multi-AZ instance is the plant's pair (nodes in two zones), its cross-region replica the plant's node r; further
replicas and restored instances have a node of their own. An instance made by CreateDBInstance is a record only.

How a client sees redundancy: `SecondaryAvailabilityZone` is there exactly while the standby streams (and, unless the
lab was made with an asynchronous standby, while commits wait for it); `StatusInfos` of the replica says "replicating"
or "error". `DBInstanceStatus` is AWS' word for what goes on: a failover, forced or not, is "rebooting".
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC
from typing import Any

from drkit import clock
from drkit.errors import DrkitError, LabError
from drkit.lab import rds_events
from drkit.lab.cloud import AwsError, Call, Cloud
from drkit.lab.nodes import REPLICA, REPLICA_ENDPOINT
from drkit.lab.plant import Plant

log = logging.getLogger("drkit.lab.database")

FILL_TIMEOUT_S = 120.0  # how long a new replica may wait for its source
STOP_TIMEOUT_S = 5.0
AVAILABLE, REBOOTING, MODIFYING = "available", "rebooting", "modifying"

Job = Callable[[], None]
Key = tuple[str, str]  # region, DBInstanceIdentifier


def must_be_a_name(identifier: str) -> None:
    """Refuse what RDS would not take as an identifier, before it becomes part of a path."""
    if not re.fullmatch(r"[a-z](?:-?[a-z0-9]){0,62}", identifier):  # RDS takes capitals, and makes them small
        raise AwsError("InvalidParameterValue", f"{identifier} is not a valid DB instance identifier")


class Databases:
    """Which instance is which servers, and the records that tell of them. `verbs.Verbs` changes both."""

    def __init__(
        self, cloud: Cloud, plant: Plant, *, region: str, recovery_region: str, instance_id: str, replica_id: str
    ) -> None:
        self.cloud, self.plant = cloud, plant
        self.region, self.recovery_region = region, recovery_region
        self.pair_key: Key = (region, instance_id)
        self.replica_key: Key = (recovery_region, replica_id)
        self.nodes: dict[Key, tuple[str, ...]] = {self.pair_key: plant.pair, self.replica_key: (REPLICA,)}
        self.acting = threading.RLock()  # held while the pair's primary may change
        self.standby_lost = not plant.options.multi_az  # the primary goes on alone
        self.astray: set[Key] = set()  # replicas that were not seen to stream since a failover
        self.closing = threading.Event()
        self.on_writer_moved: Job = lambda: None
        self.chores: list[Job] = []  # what the monitor does at every look
        self._ports: dict[Key, int] = {}  # an instance that is made again gets the port that it had
        self._workers: dict[Key, ThreadPoolExecutor] = {}  # what an instance has to do is done one after the other
        self._running: set[Future[None]] = set()
        self._lock = threading.Lock()

    def stop(self) -> None:
        self.closing.set()
        with self._lock:
            workers, running = list(self._workers.values()), set(self._running)
        for worker in workers:
            worker.shutdown(wait=False, cancel_futures=True)
        wait(running, timeout=STOP_TIMEOUT_S)

    # --- the records --------------------------------------------------------------------------------------------------

    def record(self, region: str, identifier: str) -> Any:
        """Return moto's instance, or None."""
        return self.cloud.backend("rds", region).databases.get(identifier.rpartition(":")[2])

    @staticmethod
    def key(record: Any) -> Key:
        return record.backend.region_name, record.db_instance_identifier

    def served(self, record: Any) -> bool:
        """Return whether an instance has servers, or is to get some; the others are records only."""
        return record is not None and self.key(record) in self.nodes

    @property
    def pair(self) -> Any:
        """The Multi-AZ instance; None while there is none."""
        record = self.record(*self.pair_key)
        return record if self.served(record) else None

    @property
    def replica(self) -> Any:
        return self.record(*self.replica_key)

    @property
    def standby(self) -> str | None:
        """Name of the node of the pair that is not the primary; None without Multi-AZ."""
        return self.plant.standby

    def zone(self, node: str) -> str:
        letter = node.partition("-")[0]
        return f"{self.recovery_region}a" if letter == REPLICA else f"{self.region}{letter}"

    def note(self, record: Any, event: rds_events.Kind, message: str = "") -> None:
        """Add an event to what DescribeEvents tells."""
        with self.cloud.lock:
            record.backend.events.append(rds_events.Event(event, record, message, clock.wall_utc().astimezone(UTC)))
        log.info("%s: %s %s", record.resource_id, event.id, message or event.message)

    def show_redundancy(self, redundant: bool) -> None:
        """Tell the pair's zones: the second one only while its standby really follows."""
        with self.cloud.lock:
            if self.pair is not None:
                self.pair.availability_zone = self.zone(self.plant.primary)
                standby = self.standby if redundant and self.pair.multi_az else None
                self.pair.secondary_availability_zone = self.zone(standby) if standby else None

    def show_endpoint(self, record: Any) -> None:
        """Open the instance's own endpoint, if it has none, and tell its port."""
        key, node = self.key(record), self.primary_of(record)
        if node is not None:
            port = self.plant.open_endpoint(self.endpoint(key), node, port=self._ports.get(key, 0))
            with self.cloud.lock:
                record.port = self._ports[key] = port

    @property
    def writer(self) -> Any:
        """The instance that the writer endpoint leads to, or None."""
        records = (self.record(*key) for key in list(self.nodes))
        return next((r for r in records if r is not None and self.primary_of(r) == self.plant.writer), None)

    def endpoint(self, key: Key) -> str:
        """Return the name of the link that leads to an instance."""
        return REPLICA_ENDPOINT if key == self.replica_key else f"rds@{key[0]}/{key[1]}"

    def primary_of(self, record: Any) -> str | None:
        """Return the node that an instance's endpoint leads to; None for an instance that is a record only."""
        key = self.key(record)
        nodes = self.nodes.get(key)
        return None if nodes is None else self.plant.primary if key == self.pair_key else nodes[0]

    def node_of(self, name: str) -> str | None:
        """Return the node behind an endpoint's address, or behind an identifier; None if it is none of ours."""
        identifier, _, domain = name.partition(".")
        for key in list(self.nodes):
            if key[1] == identifier and (not domain or f".{key[0]}." in f".{domain}"):
                record = self.record(*key)
                return None if record is None else self.primary_of(record)
        return None

    def source_of(self, record: Any) -> Any:
        """Return the instance that a replica follows; None if it is gone (one of the same name is another one)."""
        if not record.is_replica or not record.source_db_instance_identifier:
            return None
        name = record.source_db_instance_identifier
        region = name.split(":")[3] if name.startswith("arn:") else self.key(record)[0]
        source = self.record(region, name)
        if source is None or not {record.db_instance_arn, record.db_instance_identifier} & set(source.replicas):
            return None
        return source

    def named(self, call: Call, parameter: str = "DBInstanceIdentifier") -> Any:
        return self.record(call.region, call.text(parameter))

    def available(self, call: Call, parameter: str = "DBInstanceIdentifier") -> Any:
        """Return the instance a call names (None: moto says that it isn't there); refuse if it is busy."""
        record = self.named(call, parameter)
        if record is not None and record.status != AVAILABLE:
            raise AwsError(
                "InvalidDBInstanceState", f"Instance {record.db_instance_identifier} is not in available state."
            )
        return record

    # --- work ---------------------------------------------------------------------------------------------------------

    def submit(self, verb: str, job: Job, record: Any, final: str = AVAILABLE, failed: str = AVAILABLE) -> None:
        """Do something for an instance once all that was to be done before is done; then that is its status."""

        def act() -> None:
            status = final
            try:
                job()
            except Exception as e:  # a verb that fails must not end the thread: RDS says "failed" and goes on
                known = isinstance(e, DrkitError)
                log.error("%s of %s: %s", verb, record.db_instance_identifier, e, exc_info=None if known else e)
                status = failed
            with self.cloud.lock:
                if record.status != "deleting":  # that comes next, and is what RDS says until it is gone
                    record.status = status

        self.later(self.key(record), act)

    def later(self, key: Key, job: Job) -> None:
        with self._lock:
            if self.closing.is_set():
                raise LabError("the lab is being stopped")
            worker = self._workers.setdefault(key, ThreadPoolExecutor(1, thread_name_prefix=f"rds-{key[1]}"))
            future = worker.submit(job)
            self._running.add(future)
        future.add_done_callback(self._running.discard)

    # --- failover -----------------------------------------------------------------------------------------------------

    def fail_over(self, reason: str) -> None:
        """Promote the standby, flip the endpoints, tell it. Precondition: `acting` is held and there is a standby."""
        pair, standby = self.pair, self.standby
        assert standby is not None
        with self.cloud.lock:
            pair.status = REBOOTING
            pair.secondary_availability_zone = None
        self.note(pair, rds_events.FAILOVER_STARTED)
        try:
            times = self.plant.failover(standby)
            self.standby_lost = True  # the old primary: fenced until it is rebuilt
            self.astray |= {key for key in self.nodes if self._follows_pair(key)}
            with self.cloud.lock:  # who sees the new zone sees its events too
                self.note(pair, rds_events.RESTARTED)
                self.note(pair, rds_events.FAILOVER_COMPLETED)
                self.note(pair, rds_events.FAILOVER_REASON, reason)
                self.show_redundancy(False)
        finally:
            with self.cloud.lock:
                pair.status = AVAILABLE  # last: "available" in the old zone would be a lie
        log.info(
            "failover to %s: fence %.0f ms, promote %.0f ms, flip %.0f ms",
            standby,
            (times.fenced_ns - times.started_ns) / 1e6,
            (times.promoted_ns - times.fenced_ns) / 1e6,
            (times.flipped_ns - times.promoted_ns) / 1e6,
        )

    def _follows_pair(self, key: Key) -> bool:
        record = self.record(*key)
        return record is not None and record.is_replica and self.source_of(record) is self.pair

    @property
    def standby_usable(self) -> bool:
        """Whether the pair can fail over now."""
        standby = self.standby
        return standby is not None and not self.standby_lost and self.plant.alive(standby, 2.0)
