"""The RDS calls that change an instance: what refuses them, and what they bring about. Restores are in `restores`."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from drkit import clock
from drkit.errors import DrkitError
from drkit.lab import rds_events
from drkit.lab.backups import Backups
from drkit.lab.cloud import AwsError, Call
from drkit.lab.database import AVAILABLE, FILL_TIMEOUT_S, MODIFYING, REBOOTING, Databases, Key, must_be_a_name
from drkit.lab.nodes import REPLICA
from drkit.lab.pgwire import ServerError
from drkit.lab.restores import Restores

log = logging.getLogger("drkit.lab.verbs")

PROMOTE_TIMEOUT_S = 120.0
_BUSY = "Instance {} is not in available state."


class Verbs:
    """The RDS control plane's hands. Before moto answers: refusals. After: the work, one thing after the other."""

    def __init__(self, databases: Databases, backups: Backups, restores: Restores) -> None:
        self._db, self._plant = databases, databases.plant
        self._backups, self._restores = backups, restores
        for action, before in {
            "RebootDBInstance": self._before_reboot,
            "StopDBInstance": self._before_stop,
            "PromoteReadReplica": self._before_promote,
            "DeleteDBInstance": self._before_delete,
            "CreateDBInstanceReadReplica": self._before_replica,
            "ModifyDBInstance": self._before_modify,
        }.items():
            databases.cloud.before["rds", action] = before

    # --- before moto answers: refusals, and the status the answer shall show ------------------------------------------

    def _before_reboot(self, call: Call) -> None:
        record = self._db.available(call)
        if record is None:
            return
        forced = call.flag("ForceFailover")
        if forced and not record.multi_az:
            raise AwsError(
                "InvalidParameterCombination", "ForceFailover can't be used: the DB instance is not Multi-AZ deployed."
            )
        if forced and (record is not self._db.pair or not self._db.standby_usable):
            raise AwsError(
                "InvalidDBInstanceState", f"Instance {record.db_instance_identifier} has no standby to fail over to."
            )
        record.status = REBOOTING
        self._db.submit("reboot", self._forced_failover if forced else lambda: self._restart(record), record)

    def _before_stop(self, call: Call) -> None:
        record = self._db.available(call)
        if record is not None and (record.is_replica or record.replicas):
            raise AwsError(
                "InvalidDBInstanceState", "You can't stop a DB instance that has a read replica, or that is one."
            )

    def _before_promote(self, call: Call) -> None:
        record = self._db.available(call)
        if record is not None and not record.is_replica:
            raise AwsError("InvalidDBInstanceState", "DB Instance is not a read replica.")

    def _before_delete(self, call: Call) -> None:
        """Refuse what RDS refuses. It deletes one that is busy, too; here a job under way comes to its end first."""
        record = self._db.named(call)
        if record is None:
            return
        name = record.db_instance_identifier
        if record.status == "deleting":
            raise AwsError("InvalidDBInstanceState", f"Instance {name} is already being deleted.")
        skip, final = call.flag("SkipFinalSnapshot"), call.text("FinalDBSnapshotIdentifier")
        if skip and final:
            raise AwsError(
                "InvalidParameterCombination",
                "FinalDBSnapshotIdentifier cannot be specified when SkipFinalSnapshot is true.",
            )
        if not skip and not final and not record.is_replica:
            raise AwsError(
                "InvalidParameterCombination",
                "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified.",
            )
        if final and record.is_replica:
            raise AwsError("InvalidDBInstanceState", "A final snapshot of a read replica cannot be made.")
        if final and record.status != AVAILABLE:
            raise AwsError("InvalidDBInstanceState", _BUSY.format(name))

    def _before_replica(self, call: Call) -> None:
        must_be_a_name(call.text("DBInstanceIdentifier"))
        if self._db.named(call) is not None:
            raise AwsError("DBInstanceAlreadyExists", "DB instance already exists")
        source = self._source(call)
        if not self._db.served(source):
            return  # moto says that there is none, or it is a record only
        if source.status != AVAILABLE:
            raise AwsError("InvalidDBInstanceState", _BUSY.format(source.db_instance_identifier))
        if not source.backup_retention_period:
            raise AwsError(
                "InvalidDBInstanceState", "Automated backups are not enabled for this database instance."
            )  # fmt: skip
        if call.flag("MultiAZ"):  # RDS can; here a replica gets its standby once it was promoted
            raise AwsError("InvalidParameterCombination", "this lab makes no read replica Multi-AZ: promote it first")

    def _source(self, call: Call) -> Any:
        name = call.text("SourceDBInstanceIdentifier")
        return self._db.record(name.split(":")[3] if name.startswith("arn:") else call.region, name)

    def _before_modify(self, call: Call) -> None:
        record = self._db.available(call)
        if self._db.served(record) and call.text("NewDBInstanceIdentifier"):
            raise AwsError("NotImplemented", "not in the lab: instances with servers are not renamed", 501)
        wanted = call.text("MultiAZ").lower()
        if record is None or not self._db.served(record) or not wanted or (wanted == "true") == bool(record.multi_az):
            return
        if record is not self._db.pair:
            raise AwsError(
                "DBSubnetGroupDoesNotCoverEnoughAZs",
                "DB Subnet Group doesn't meet availability zone coverage requirement. Please add subnets to cover at "
                "least 2 availability zones.",
            )
        if record.is_replica:
            raise AwsError("InvalidDBInstanceState", "this lab makes no read replica Multi-AZ: promote it first")
        record.status = MODIFYING
        self._db.submit("modify", self._to_multi_az if wanted == "true" else self._to_single_az, record)

    # --- after moto answered: the verbs -------------------------------------------------------------------------------

    def follow(self, call: Call) -> None:
        """Start what a call that moto accepted brings about."""
        if call.service != "rds" or (record := self._db.named(call)) is None:
            return
        db, key = self._db, self._db.key(record)
        served = db.served(record)
        match call.action:
            case "StopDBInstance":
                db.submit("stop", (lambda: self._stop(record)) if served else _nothing, record, "stopped")
            case "StartDBInstance":
                db.submit("start", (lambda: self._start(record)) if served else _nothing, record, failed="failed")
            case "PromoteReadReplica":
                db.submit("promote", (lambda: self._promote(record)) if served else _nothing, record, failed="failed")
            case "DeleteDBInstance":
                self._restores.cancel(key)
                db.submit("delete", lambda: self._delete(call, record), record, "deleting")
            case "CreateDBInstanceReadReplica" if db.served(source := self._source(call)):
                # Known at once: whoever asks now shall not take it for a record only.
                node = self._new_node(key, record, call)
                db.nodes[key] = self._plant.pair if key == db.pair_key else (node,)
                db.submit("replicate", lambda: self._replicate(record, source, node), record, failed="failed")
            case "CreateDBInstanceReadReplica":
                db.submit("replicate", _nothing, record)

    def _new_node(self, key: Key, record: Any, call: Call) -> str:
        """Return the node that a new replica gets: the pair's in the zone asked for, r, or one of its own."""
        letter = call.text("AvailabilityZone")[-1:] or record.availability_zone[-1]
        if key == self._db.pair_key:
            return letter if letter in self._plant.pair else self._plant.pair[0]
        if key == self._db.replica_key:
            return REPLICA
        zone = letter if letter in self._plant.options.zones else self._plant.options.zones[0]
        return f"{zone if key[0] == self._db.region else REPLICA}-{key[1]}"

    def _forced_failover(self) -> None:
        with self._db.acting:
            self._db.fail_over("The user requested a failover of the DB instance.")
        self._db.on_writer_moved()

    def _restart(self, record: Any) -> None:
        if (node := self._db.primary_of(record)) is None:
            return
        with self._db.acting:
            self._db.note(record, rds_events.SHUTDOWN)
            self._plant.restart_node(node)
            self._db.note(record, rds_events.RESTARTED)

    def _stop(self, record: Any) -> None:
        with self._db.acting:
            if record is self._db.pair:
                self._plant.stop_database()
                self._db.show_redundancy(False)
            else:
                self._plant.stop_node(self._db.nodes[self._db.key(record)][0])
            self._db.note(record, rds_events.STOPPED)

    def _start(self, record: Any) -> None:
        with self._db.acting:
            if record is self._db.pair:
                self._plant.start_database()
            else:
                self._plant.start_node(self._db.nodes[self._db.key(record)][0])
            self._db.note(record, rds_events.STARTED)

    def _promote(self, record: Any) -> None:
        """Make a replica a writer. One that crashes meanwhile is started again, as RDS does, for PROMOTE_TIMEOUT_S."""
        key, node = self._db.key(record), self._db.primary_of(record)
        assert node is not None

        def promoted() -> bool:
            if self._db.closing.is_set():
                raise AwsError("InternalFailure", "the lab is being stopped")
            try:
                with self._db.acting:
                    self._plant.start_node(node)
                    if self._backups.kept(record) is None:
                        self._backups.begin(record)  # first: its new timeline begins with the promotion
                    self._plant.promote(node)
                    self._db.astray.discard(key)
            except (DrkitError, OSError, ServerError) as e:
                log.info("%s is not promoted yet: %s", record.db_instance_identifier, e)
                return False
            return True

        clock.wait_until(promoted, "the replica is promoted", timeout_s=PROMOTE_TIMEOUT_S, every_s=0.5)
        self._db.note(record, rds_events.PROMOTED)
        self._db.on_writer_moved()
        self._backups.back_up_soon(record)

    def _delete(self, call: Call, record: Any) -> None:
        db, key = self._db, self._db.key(record)
        if final := call.text("FinalDBSnapshotIdentifier"):
            self._restores.take(db.cloud.backend("rds", key[0]).database_snapshots.get(final), record)
        self._let_replicas_go(record)
        if db.served(record):
            with db.acting:
                nodes = db.nodes.pop(key)
                if key == db.pair_key:
                    self._plant.remove_pair()
                elif nodes == (REPLICA,):
                    self._plant.remove_node(REPLICA)
                else:
                    self._plant.drop_node(nodes[0])
                if key not in (db.pair_key, db.replica_key):  # theirs stay, and refuse: the target file names them
                    self._plant.close_endpoint(db.endpoint(key))
                db.astray.discard(key)
        self._backups.deleted(record, keep=call.text("DeleteAutomatedBackups").lower() == "false")
        with db.cloud.lock:
            db.cloud.backend("rds", key[0]).databases.pop(key[1], None)
        db.note(record, rds_events.DELETED)

    def _let_replicas_go(self, record: Any) -> None:
        """Promote the replicas of the same region, as RDS does; those of the other one are left replicas of nothing."""
        for name in list(record.replicas):
            replica = self._db.record(self._db.key(record)[0], name)
            if name.startswith("arn:") or not self._db.served(replica):
                continue
            with self._db.cloud.lock:
                replica.is_replica, replica.source_db_instance_identifier, replica.status_infos = False, None, []
                replica.status = MODIFYING
            self._db.submit("promote", partial(self._promote, replica), replica, failed="failed")

    def _replicate(self, record: Any, source: Any, node: str) -> None:
        db, key = self._db, self._db.key(record)

        def filled() -> bool:
            if db.closing.is_set():
                raise AwsError("InternalFailure", "the lab is being stopped")
            if (from_node := db.primary_of(source)) is None:
                raise AwsError("InvalidDBInstanceState", f"{source.db_instance_identifier} is gone")
            try:
                if key == db.pair_key:
                    self._plant.make_pair(node, from_node)
                else:
                    if node not in self._plant.nodes:
                        self._plant.add_node(node)
                    self._plant.replicate(node, from_node)
            except DrkitError as e:  # its source may be cut off just now; RDS keeps such a replica "creating" too
                log.info("replica not filled yet: %s", e)
                return False
            return True

        if key == db.pair_key:
            db.standby_lost = True
        clock.wait_until(filled, "the replica is filled from its source", timeout_s=FILL_TIMEOUT_S, every_s=0.5)
        db.show_endpoint(record)
        with db.cloud.lock:
            record.availability_zone = db.zone(node)
            record.status_infos = rds_events.replication("replicating")
        db.note(record, rds_events.CREATED)
        db.on_writer_moved()

    def _to_multi_az(self) -> None:
        with self._db.acting:
            self._db.note(self._db.pair, rds_events.TO_MULTI_AZ_STARTED)
            if (standby := self._db.standby) is None:
                raise AwsError("InvalidDBInstanceState", "this lab was made without a standby")
            self._plant.rebuild_standby(standby)
            self._db.standby_lost = False
            self._db.show_redundancy(self._plant.in_sync())
            self._db.note(self._db.pair, rds_events.TO_MULTI_AZ)

    def _to_single_az(self) -> None:
        with self._db.acting:
            self._plant.drop_standby()
            self._db.standby_lost = True
            self._db.show_redundancy(False)
            self._db.note(self._db.pair, rds_events.TO_SINGLE_AZ)


def _nothing() -> None:
    pass
