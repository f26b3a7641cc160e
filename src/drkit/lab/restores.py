"""New RDS instances of a lab from its backups and snapshots, and the snapshots: real servers, real base backups.

A snapshot is a base backup with the log that makes it whole, in its region's bucket. A restored instance is one server
in one zone, with a node of its own.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import Any

from drkit.errors import DrkitError, LabError
from drkit.lab import rds_events
from drkit.lab.archive import s3_client
from drkit.lab.backups import Backups, Kept
from drkit.lab.bootstrap import BUCKET, RECOVERY_REGION, SNAPSHOT_BUCKET
from drkit.lab.cloud import AwsError, Call
from drkit.lab.database import AVAILABLE, Databases, Key, must_be_a_name
from drkit.lab.nodes import REPLICA
from drkit.lab.restore import Restore, Source

log = logging.getLogger("drkit.lab.restores")


class Restores:
    """Hooks of the RDS calls that restore instances, and that make, copy and delete snapshots."""

    def __init__(self, databases: Databases, backups: Backups, *, endpoint_url: str) -> None:
        self._db, self._plant, self._cloud = databases, databases.plant, databases.cloud
        self._backups = backups
        self._endpoint_url = endpoint_url
        self._running: dict[Key, Restore] = {}
        self._clients: dict[str, Any] = {}  # of S3, by region
        self._lock = threading.Lock()
        for action, before in {
            "RestoreDBInstanceToPointInTime": self._before_restore,
            "RestoreDBInstanceFromDBSnapshot": self._before_snapshot_restore,
            "CreateDBSnapshot": self._before_snapshot,
            "CopyDBSnapshot": self._before_copy,
            "DeleteDBSnapshot": self._before_snapshot_delete,
        }.items():
            self._cloud.before["rds", action] = before

    def stop(self) -> None:
        with self._lock:
            for restore in self._running.values():
                restore.cancel()

    def cancel(self, key: Key) -> None:
        """Give up the restore of an instance that nobody wants any more."""
        with self._lock:
            if key in self._running:
                self._running[key].cancel()

    # --- restores -----------------------------------------------------------------------------------------------------

    def _before_restore(self, call: Call) -> None:
        kept = self._backups.wanted(call.region, call.params)
        self._may_be_made(call, "TargetDBInstanceIdentifier")
        latest, moment = call.flag("UseLatestRestorableTime"), call.text("RestoreTime")
        if latest == bool(moment):
            raise AwsError(
                "InvalidParameterCombination", "Specify either RestoreTime or UseLatestRestorableTime, and not both."
            )
        window = kept.window(call.region)
        if window is None:
            raise AwsError("InvalidRestoreFault", f"{kept.key[1]} has no backup to be restored yet")
        if moment and not window[0] <= _parsed(moment) <= window[1]:
            raise AwsError(
                "InvalidRestoreFault",
                f"The specified time {moment} is not between {window[0]:%FT%T.%fZ} and"
                f" {window[1]:%FT%T.%fZ}, the earliest and the latest restorable time of {kept.key[1]}.",
            )

    def _may_be_made(self, call: Call, parameter: str) -> None:
        must_be_a_name(call.text(parameter))
        if self._db.named(call, parameter) is not None:
            raise AwsError("DBInstanceAlreadyExists", "DB instance already exists")
        if (call.region, call.text(parameter)) == self._db.pair_key:
            raise AwsError(  # a real limit of the lab: its nodes are not to be had by a restore
                "InvalidParameterCombination",
                f"this lab makes {call.text(parameter)} in {call.region} as a read replica only",
            )
        if call.flag("MultiAZ") and call.region == self._db.recovery_region:
            raise AwsError(
                "DBSubnetGroupDoesNotCoverEnoughAZs",
                "DB Subnet Group doesn't meet availability zone coverage requirement.",
            )

    def follow(self, call: Call) -> None:
        """Start what a call that moto accepted brings about."""
        if call.service != "rds":
            return
        match call.action:
            case "RestoreDBInstanceToPointInTime":
                kept = self._backups.wanted(call.region, call.params)
                until = _parsed(call.text("RestoreTime")) if call.text("RestoreTime") else None
                record = self._db.named(call, "TargetDBInstanceIdentifier")
                told = f"Restored from DB instance {kept.key[1]} to {until or kept.history.latest:%F %T.%f}"
                self._restore(record, lambda: self._point_in_time(kept, until), rds_events.RESTORED_TO_TIME, told)
            case "RestoreDBInstanceFromDBSnapshot":
                snapshot = self._snapshot(call.region, call.text("DBSnapshotIdentifier"))
                record, bucket, key = self._db.named(call), *_place(snapshot)
                told = f"Restored from snapshot {snapshot.db_snapshot_identifier}"
                self._restore(record, lambda: Source(bucket, key), rds_events.RESTORED_FROM_SNAPSHOT, told)
            case "CreateDBSnapshot":
                snapshot = self._snapshot(call.region, call.text("DBSnapshotIdentifier"))
                instance = self._db.named(call)
                self._later(snapshot, lambda: self.take(snapshot, instance))
            case "CopyDBSnapshot":
                source = self._snapshot(call.region, call.text("SourceDBSnapshotIdentifier"))
                target = self._snapshot(call.region, call.text("TargetDBSnapshotIdentifier"))
                self._later(target, lambda: self._copy(source, target))

    def _point_in_time(self, kept: Kept, until: datetime | None) -> Source:
        if until is None:
            until = kept.frozen  # what came after replication was stopped is not there
        base = kept.history.base_for(until)
        if base is None:
            raise LabError(f"{kept.key[1]} has no base backup")
        return Source.of(BUCKET, kept.history, base, until)

    def _restore(self, record: Any, source_of: Any, event: rds_events.Kind, told: str) -> None:
        db, key = self._db, self._db.key(record)
        letter = record.availability_zone[-1]
        zone = letter if letter in self._plant.options.zones else self._plant.options.zones[0]
        name = f"{zone if key[0] == db.region else REPLICA}-{key[1]}"
        db.nodes[key] = (name,)

        def restore() -> None:
            node = self._plant.add_node(name)
            scratch = self._plant.directory / "archive" / f"restore-{name}"
            work = Restore(self._s3(BUCKET), source_of(), node, scratch=scratch)
            with self._lock:
                self._running[key] = work
            if record.status == "deleting":  # asked for before there was anything to give up
                work.cancel()
            try:
                work.run()
            except BaseException as e:
                node.kill()
                db.note(record, rds_events.RESTORE_FAILED, f"The restore failed: {e}")
                raise
            finally:
                with self._lock:
                    self._running.pop(key, None)
            self._plant.lead_to(name)
            db.show_endpoint(record)
            with self._cloud.lock:
                record.availability_zone = db.zone(name)
            db.note(record, event, told)
            db.on_writer_moved()

        db.submit("restore", restore, record, failed="incompatible-restore")

    # --- snapshots ----------------------------------------------------------------------------------------------------

    def _snapshot(self, region: str, name: str) -> Any:
        """Return a snapshot by its identifier or its ARN, which may be of the other region; None if there is none."""
        if name.startswith("arn:"):
            region, name = name.split(":")[3], name.split(":snapshot:")[-1]
        return self._cloud.backend("rds", region).database_snapshots.get(name)

    def _before_snapshot(self, call: Call) -> None:
        self._db.available(call)

    def _before_copy(self, call: Call) -> None:
        source = self._snapshot(call.region, call.text("SourceDBSnapshotIdentifier"))
        if source is not None and source.status != AVAILABLE:
            raise AwsError("InvalidDBSnapshotState", "The source snapshot is not in available state.")

    def _before_snapshot_restore(self, call: Call) -> None:
        self._may_be_made(call, "DBInstanceIdentifier")
        snapshot = self._snapshot(call.region, call.text("DBSnapshotIdentifier"))
        if snapshot is not None and snapshot.status != AVAILABLE:
            raise AwsError("InvalidDBSnapshotState", "The snapshot is not in available state.")

    def _before_snapshot_delete(self, call: Call) -> None:
        snapshot = self._snapshot(call.region, call.text("DBSnapshotIdentifier"))
        if snapshot is None:
            return
        if snapshot.status not in (AVAILABLE, "failed"):
            raise AwsError("InvalidDBSnapshotState", "The snapshot is not in available state.")
        bucket, key = _place(snapshot)
        self._db.note(snapshot, rds_events.SNAPSHOT_DELETED)
        self._db.later(("snapshot", key), lambda: self._s3(bucket).delete_object(Bucket=bucket, Key=key) and None)

    def _later(self, snapshot: Any, job: Any) -> None:
        snapshot.status = "creating"

        def act() -> None:
            try:
                job()
            except Exception as e:  # RDS says "failed" and goes on
                known = isinstance(e, DrkitError)
                log.error("snapshot %s: %s", snapshot.db_snapshot_identifier, e, exc_info=None if known else e)
                with self._cloud.lock:
                    snapshot.status = "failed"

        self._db.later(("snapshot", snapshot.db_snapshot_arn), act)

    def take(self, snapshot: Any, instance: Any) -> None:
        """Make a snapshot of an instance, really: a base backup with its log. Raises LabError, TimedOut."""
        snapshot.status = "creating"
        self._db.note(snapshot, rds_events.SNAPSHOT_STARTED)
        try:
            node = self._db.primary_of(instance)
            if node is None:
                log.info("%s is a record only, and so is its snapshot", instance.db_instance_identifier)
            else:
                bucket, key = _place(snapshot)
                self._plant.archive.copy(self._plant.nodes[node], self._s3(bucket), bucket, key, with_log=True)
        except BaseException:
            snapshot.status = "failed"
            raise
        with self._cloud.lock:
            snapshot.status = AVAILABLE
        self._db.note(snapshot, rds_events.SNAPSHOT_MADE)

    def _copy(self, source: Any, target: Any) -> None:
        (from_bucket, from_key), (bucket, key) = _place(source), _place(target)
        source_region, name = source.backend.region_name, source.db_snapshot_identifier
        self._db.note(target, rds_events.COPY_STARTED, f"Started copy of snapshot {name} from region {source_region}")
        self._s3(bucket).copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": from_bucket, "Key": from_key})
        with self._cloud.lock:
            target.status = AVAILABLE
        self._db.note(target, rds_events.COPIED, f"Finished copy of snapshot {name} from region {source_region}")

    def _s3(self, bucket: str) -> Any:
        region = self._db.region if bucket == SNAPSHOT_BUCKET else self._db.recovery_region
        with self._lock:
            if region not in self._clients:  # one takes 0.1 s to make
                self._clients[region] = s3_client(self._endpoint_url, region, attempts=1)
            return self._clients[region]


def _place(snapshot: Any) -> tuple[str, str]:
    """Return the bucket and the key of a snapshot."""
    bucket = BUCKET if snapshot.backend.region_name == RECOVERY_REGION else SNAPSHOT_BUCKET
    return bucket, f"snapshots/{snapshot.db_snapshot_identifier}.tar"


def _parsed(moment: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise AwsError("InvalidParameterValue", f"{moment} is not a time") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
