"""RDS of a lab: what the API asks of the two managed instances really happens, and the records follow what happened.

The Multi-AZ instance is the plant's pair (nodes in two zones), its cross-region replica the plant's node r. Any other
instance that somebody creates is a record only.

How a client sees redundancy: `SecondaryAvailabilityZone` is there exactly while the standby streams (and, unless the
lab was made with an asynchronous standby, while commits wait for it); `StatusInfos` of the replica says "replicating"
or "error". `DBInstanceStatus` is AWS' word for what goes on: a failover, forced or not, is "rebooting".
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from datetime import UTC
from typing import Any

from drkit import clock
from drkit.errors import DrkitError
from drkit.lab import rds_events
from drkit.lab.cloud import AwsError, Call, Cloud
from drkit.lab.plant import Plant

log = logging.getLogger("drkit.lab.database")

FILL_TIMEOUT_S = 120.0  # how long a new replica may wait for its source
AVAILABLE, REBOOTING, MODIFYING = "available", "rebooting", "modifying"

Job = Callable[[], None]
Jobs = queue.Queue[tuple[str, Job, Any, str] | None]  # verb, what to do, record, its status afterwards


class Databases:
    """The RDS control plane's hands: verbs, run one after the other, and the records they leave."""

    def __init__(
        self, cloud: Cloud, plant: Plant, *, region: str, recovery_region: str, instance_id: str, replica_id: str
    ) -> None:
        self.cloud, self.plant = cloud, plant
        self.region, self.recovery_region = region, recovery_region
        self.instance_id, self.replica_id = instance_id, replica_id
        self.acting = threading.RLock()  # held while the pair's primary may change
        self.standby_lost = not plant.options.multi_az  # the primary goes on alone
        self.replica_follows = True  # False from a failover until it was seen to stream from the new primary
        self.on_writer_moved: Job = lambda: None
        self._pair_jobs: Jobs = queue.Queue()
        self._other_jobs: Jobs = queue.Queue()  # a replica that takes long to fill holds nothing else up
        self._workers = [
            threading.Thread(target=self._work, args=(jobs,), name="rds-verbs", daemon=True)
            for jobs in (self._pair_jobs, self._other_jobs)
        ]
        for action, before in {
            "RebootDBInstance": self._before_reboot,
            "StopDBInstance": self._before_stop,
            "PromoteReadReplica": self._before_promote,
            "DeleteDBInstance": self._before_delete,
            "CreateDBInstanceReadReplica": self._before_replica,
            "ModifyDBInstance": self._before_modify,
        }.items():
            cloud.before["rds", action] = before

    def start(self) -> None:
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        self._pair_jobs.put(None)
        self._other_jobs.put(None)
        for worker in self._workers:
            worker.join(5)

    # --- the records --------------------------------------------------------------------------------------------------

    def record(self, region: str, identifier: str) -> Any:
        """Return moto's instance, or None."""
        return self.cloud.backend("rds", region).databases.get(identifier.rpartition(":")[2])

    @property
    def pair(self) -> Any:
        return self.record(self.region, self.instance_id)

    @property
    def replica(self) -> Any:
        return self.record(self.recovery_region, self.replica_id)

    @property
    def standby(self) -> str | None:
        """Name of the node of the pair that is not the primary; None without Multi-AZ."""
        others = [n for n in self.plant.nodes if n not in ("r", self.plant.primary)]
        return others[0] if others else None

    def zone(self, node: str) -> str:
        return f"{self.region}{node}"

    def note(self, record: Any, event: rds_events.Kind, message: str = "") -> None:
        """Add an event to what DescribeEvents tells."""
        with self.cloud.lock:
            record.backend.events.append(rds_events.Event(event, record, message, clock.wall_utc().astimezone(UTC)))
        log.info("%s: %s %s", record.db_instance_identifier, event.id, message or event.message)

    def show_redundancy(self, redundant: bool) -> None:
        """Tell the pair's zones: the second one only while its standby really follows."""
        with self.cloud.lock:
            if self.pair is not None:
                self.pair.availability_zone = self.zone(self.plant.primary)
                standby = self.standby if redundant and self.pair.multi_az else None
                self.pair.secondary_availability_zone = self.zone(standby) if standby else None

    def node_of(self, identifier: str) -> str | None:
        """Return the node that an instance's endpoint leads to; None for an instance that is a record only."""
        return {self.instance_id: self.plant.primary, self.replica_id: "r"}.get(identifier)

    # --- failover -----------------------------------------------------------------------------------------------------

    def fail_over(self, reason: str) -> None:
        """Promote the standby, flip the endpoint, tell it. Precondition: `acting` is held and there is a standby."""
        pair, standby = self.pair, self.standby
        assert standby is not None
        with self.cloud.lock:
            pair.status = REBOOTING
            pair.secondary_availability_zone = None
        self.note(pair, rds_events.FAILOVER_STARTED)
        try:
            times = self.plant.failover(standby)
            self.standby_lost = True  # the old primary: fenced until it is rebuilt
            self.replica_follows = False
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

    @property
    def standby_usable(self) -> bool:
        """Whether the pair can fail over now."""
        standby = self.standby
        return standby is not None and not self.standby_lost and self.plant.alive(standby, 2.0)

    # --- before moto answers: refusals, and the status the answer shall show ------------------------------------------

    def _before_reboot(self, call: Call) -> None:
        record = self._available(call)
        if record is None:
            return
        forced = call.flag("ForceFailover")
        if forced and not record.multi_az:
            raise AwsError(
                "InvalidParameterCombination", "ForceFailover can't be used: the DB instance is not Multi-AZ deployed."
            )
        if forced and (record is not self.pair or not self.standby_usable):
            raise AwsError(
                "InvalidDBInstanceState", f"Instance {record.db_instance_identifier} has no standby to fail over to."
            )
        record.status = REBOOTING
        if record is self.pair:
            self._submit("reboot", self._forced_failover if forced else self._restart, record)
        else:
            self._submit("reboot", lambda: None, record)

    def _before_stop(self, call: Call) -> None:
        record = self._available(call)
        if record is not None and (record.is_replica or record.replicas):
            raise AwsError(
                "InvalidDBInstanceState", "You can't stop a DB instance that has a read replica, or that is one."
            )

    def _before_promote(self, call: Call) -> None:
        record = self._available(call)
        if record is not None and not record.is_replica:
            raise AwsError("InvalidDBInstanceState", "DB Instance is not a read replica.")

    def _before_delete(self, call: Call) -> None:
        record = self._named(call)
        if record is not None and record.status == "deleting":
            raise AwsError(
                "InvalidDBInstanceState", f"Instance {record.db_instance_identifier} is already being deleted."
            )

    def _before_replica(self, call: Call) -> None:
        if self._named(call) is not None:
            raise AwsError("DBInstanceAlreadyExists", "DB instance already exists")
        if self._is_pair(call.text("SourceDBInstanceIdentifier")):
            if self.replica is not None:
                raise AwsError("InstanceQuotaExceeded", f"this lab runs one replica: delete {self.replica_id} first")
            if self.pair is not None and self.pair.status != AVAILABLE:
                raise AwsError("InvalidDBInstanceState", f"Instance {self.instance_id} is not in available state.")

    def _before_modify(self, call: Call) -> None:
        record = self._available(call)
        wanted = call.text("MultiAZ").lower()
        if record is None or record is not self.pair or not wanted or (wanted == "true") == bool(record.multi_az):
            return
        record.status = MODIFYING
        self._submit("modify", self._to_multi_az if wanted == "true" else self._to_single_az, record)

    def _named(self, call: Call) -> Any:
        return self.record(call.region, call.text("DBInstanceIdentifier"))

    def _available(self, call: Call) -> Any:
        """Return the instance a call names (None: moto says that it isn't there); refuse if it is busy."""
        record = self._named(call)
        if record is not None and record.status != AVAILABLE:
            raise AwsError(
                "InvalidDBInstanceState", f"Instance {record.db_instance_identifier} is not in available state."
            )
        return record

    def _is_pair(self, name: str) -> bool:
        return name.rpartition(":")[2] == self.instance_id

    # --- after moto answered: the verbs -------------------------------------------------------------------------------

    def follow(self, call: Call) -> None:
        """Start what a call that moto accepted brings about."""
        if call.service != "rds":
            return
        record = self._named(call)
        if record is None:
            return
        pair, replica = record is self.pair, record is self.replica
        match call.action:
            case "StopDBInstance":
                self._submit("stop", self._stop_pair if pair else _nothing, record, "stopped")
            case "StartDBInstance":
                self._submit("start", self._start_pair if pair else _nothing, record)
            case "PromoteReadReplica":
                self._submit("promote", self._promote if replica else _nothing, record)
            case "DeleteDBInstance":
                self._submit("delete", lambda: self._delete(call.region, record), record, "deleting")
            case "CreateDBInstanceReadReplica":
                ours = self._is_pair(call.text("SourceDBInstanceIdentifier"))
                self._submit("replicate", (lambda: self._replicate(record)) if ours else _nothing, record)

    def _submit(self, verb: str, job: Job, record: Any, final: str = AVAILABLE) -> None:
        jobs = self._pair_jobs if record is self.pair else self._other_jobs
        jobs.put((verb, job, record, final))

    def _work(self, jobs: Jobs) -> None:
        while (job := jobs.get()) is not None:
            verb, act, record, final = job
            try:
                act()
            except Exception as e:  # a verb that fails must not end the thread: RDS says "failed" and goes on
                known = isinstance(e, DrkitError)
                log.error("%s of %s: %s", verb, record.db_instance_identifier, e, exc_info=None if known else e)
                final = "failed" if verb in ("replicate", "start") else AVAILABLE
            with self.cloud.lock:
                record.status = final

    def _forced_failover(self) -> None:
        with self.acting:
            self.fail_over("The user requested a failover of the DB instance.")
        self.on_writer_moved()

    def _restart(self) -> None:
        with self.acting:
            self.note(self.pair, rds_events.SHUTDOWN)
            self.plant.restart_primary()
            self.note(self.pair, rds_events.RESTARTED)

    def _stop_pair(self) -> None:
        with self.acting:
            self.plant.stop_database()
            self.show_redundancy(False)
            self.note(self.pair, rds_events.STOPPED)

    def _start_pair(self) -> None:
        with self.acting:
            self.plant.start_database()
            self.note(self.pair, rds_events.STARTED)

    def _promote(self) -> None:
        self.plant.promote("r")
        self.note(self.replica, rds_events.PROMOTED)
        self.on_writer_moved()

    def _delete(self, region: str, record: Any) -> None:
        if record is self.replica:
            self.plant.remove_node("r")
        elif record is self.pair:
            with self.acting:
                self.plant.stop_database()
        with self.cloud.lock:
            self.cloud.backend("rds", region).databases.pop(record.db_instance_identifier, None)
        self.note(record, rds_events.DELETED)

    def _replicate(self, record: Any) -> None:
        self.replica_id = record.db_instance_identifier

        def filled() -> bool:
            try:
                self.plant.rebuild_standby("r")
            except DrkitError as e:  # its source may be cut off just now; RDS keeps such a replica "creating" too
                log.info("replica not filled yet: %s", e)
                return False
            return True

        clock.wait_until(filled, "the replica is filled from its source", timeout_s=FILL_TIMEOUT_S, every_s=0.5)
        self.note(record, rds_events.CREATED)

    def _to_multi_az(self) -> None:
        with self.acting:
            self.note(self.pair, rds_events.TO_MULTI_AZ_STARTED)
            if (standby := self.standby) is None:
                raise AwsError("InvalidDBInstanceState", "this lab was made without a standby")
            self.plant.rebuild_standby(standby)
            self.standby_lost = False
            self.note(self.pair, rds_events.TO_MULTI_AZ)

    def _to_single_az(self) -> None:
        with self.acting:
            self.plant.drop_standby()
            self.standby_lost = True
            self.show_redundancy(False)
            self.note(self.pair, rds_events.TO_SINGLE_AZ)


def _nothing() -> None:
    pass
