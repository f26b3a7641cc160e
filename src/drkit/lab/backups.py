"""RDS backups of a lab: automated ones, replicated to the second region; snapshots; and instances restored from either.

Automated backups are one base backup and all log since, in the second region's bucket (`archive`), so both regions
restore from there. RDS would replicate every five minutes; here `archive_timeout_s` decides. A snapshot is a base
backup with its log, in its region's bucket.

What differs from RDS: a new instance that takes the place of a replicated one (failback) is replicated at once, without
StartDBInstanceAutomatedBackupsReplication, which is accepted and changes nothing then.
"""

from __future__ import annotations

import copy
import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from drkit import clock
from drkit.errors import DrkitError, LabError
from drkit.lab import rds_events
from drkit.lab.archive import History, s3_client
from drkit.lab.bootstrap import BUCKET, SNAPSHOT_BUCKET
from drkit.lab.cloud import ACCOUNT_ID, AwsError, Call
from drkit.lab.database import AVAILABLE, Databases, Key
from drkit.lab.nodes import REPLICA
from drkit.lab.restore import Restore, Source

log = logging.getLogger("drkit.lab.backups")

_BACK_UP_AGAIN_S = 1.0


@dataclass(slots=True)
class Kept:
    """The automated backups of one instance."""

    key: Key
    record: Any  # the instance as it was: restored ones take after it, also when it is gone
    history: History
    number: int
    replicated: bool = False
    replicated_from: datetime | None = None
    frozen: datetime | None = None  # LatestTime when replication was stopped
    retained: bool = False  # the instance is gone

    def arn(self, region: str) -> str:
        return f"arn:aws:rds:{region}:{ACCOUNT_ID}:auto-backup:ab-{self.key[1]}-{self.number:03}"

    @property
    def window(self) -> tuple[datetime, datetime] | None:
        """Return the earliest and the latest moment that can be restored; None while there is none."""
        began = self.replicated_from
        earliest = next((b.ended for b in self.history.bases if began is None or b.ended >= began), None)
        latest = self.frozen or self.history.latest
        return None if earliest is None or latest is None else (earliest, max(earliest, latest))


class Backups:
    """Keeps the backups, answers what RDS says of them, and restores."""

    def __init__(self, databases: Databases, *, endpoint_url: str) -> None:
        self._db, self._plant, self._cloud = databases, databases.plant, databases.cloud
        self._endpoint_url = endpoint_url
        self._kept: list[Kept] = []
        self._numbers: dict[Key, int] = {}  # how many instances of a name were kept so far
        self._restores: set[Restore] = set()
        self._lock = threading.Lock()
        cloud = self._cloud
        cloud.answers["rds", "StartDBInstanceAutomatedBackupsReplication"] = self._start_replication
        cloud.answers["rds", "StopDBInstanceAutomatedBackupsReplication"] = self._stop_replication
        cloud.answers["rds", "DescribeDBInstanceAutomatedBackups"] = self._describe
        for action, before in {
            "RestoreDBInstanceToPointInTime": self._before_restore,
            "RestoreDBInstanceFromDBSnapshot": self._before_snapshot_restore,
            "CreateDBSnapshot": self._before_snapshot,
            "CopyDBSnapshot": self._before_copy,
            "DeleteDBSnapshot": self._before_snapshot_delete,
        }.items():
            cloud.before["rds", action] = before

    def stop(self) -> None:
        with self._lock:
            for restore in self._restores:
                restore.cancel()

    # --- automated backups --------------------------------------------------------------------------------------------

    def adopt(self, record: Any, history: History) -> None:
        """Keep what the lab archives of an instance from its start."""
        self._keep(record, history)

    def begin(self, record: Any) -> None:
        """Let an instance archive its log from now on, apart from what another one of its name archived."""
        if not self._plant.archives or not record.backup_retention_period:
            return
        key = self._db.key(record)
        number = self._numbers.get(key, 0) + 1
        prefix = key[1] if number == 1 else f"{key[1]}.{number}"
        if number == 1 and key[1] == self._db.pair_key[1] and key != self._db.pair_key:
            prefix = f"{key[0]}.{prefix}"
        history = self._plant.begin_history(prefix, self._db.nodes[key])
        if key == self._db.pair_key:
            self._plant.history = history
        self._keep(record, history)

    def _keep(self, record: Any, history: History) -> None:
        key = self._db.key(record)
        with self._lock:
            number = self._numbers[key] = self._numbers.get(key, 0) + 1
            self._kept.append(Kept(key, copy.copy(record), history, number, replicated=key == self._db.pair_key))

    def kept(self, record: Any) -> Kept | None:
        """Return the backups of an instance that is there."""
        key = self._db.key(record)
        return next((k for k in reversed(self._kept) if k.key == key and not k.retained), None)

    def back_up_soon(self, record: Any) -> None:
        """Make a base backup beside everything else, again and again until it is made."""
        if (kept := self.kept(record)) is not None:
            threading.Thread(target=self._back_up, args=(kept,), name="base-backup", daemon=True).start()

    def _back_up(self, kept: Kept) -> None:
        while kept in self._kept and not kept.retained and not self._db.closing.is_set():
            try:
                record = self._db.record(*kept.key)
                node = None if record is None else self._db.primary_of(record)
                if node is None:
                    return
                log.info("base backup: %s", self._plant.back_up(node, kept.history))
                return
            except (DrkitError, OSError) as e:
                log.info("no base backup yet: %s", e)
            except Exception:
                log.exception("base backup")
            self._db.closing.wait(_BACK_UP_AGAIN_S)

    def the_writer_archives(self) -> None:
        """Give the writer's instance backups if it has none: a restored one, that clients have been sent to."""
        record = self._db.writer
        if record is None or record.is_replica or not record.backup_retention_period or not self._plant.archives:
            return
        if self.kept(record) is None and record.status == AVAILABLE:
            self.begin(record)
            self.back_up_soon(record)

    def deleted(self, record: Any, *, keep: bool) -> None:
        """Forget the automated backups of an instance that is gone, or keep them as they are."""
        if (kept := self.kept(record)) is None:
            return
        kept.retained, kept.frozen = True, kept.history.latest
        if not keep:
            with self._lock:
                self._kept.remove(kept)
                self._forgotten(kept)

    def _forgotten(self, kept: Kept) -> None:
        def forget() -> None:
            try:
                self._plant.archive.forget(kept.history)
            except Exception:
                log.exception("the backups of %s are not deleted", kept.key[1])

        threading.Thread(target=forget, name="forget-backups", daemon=True).start()

    def latest_restorable_time(self, record: Any) -> datetime | None:
        """Return up to when an instance's own backups reach; None if it has none."""
        kept = self.kept(record)
        window = kept.window if kept is not None else None
        return _to_ms(window[1]) if window else None

    # --- answers ------------------------------------------------------------------------------------------------------

    def _describe(self, call: Call) -> object:
        listed = [self._entry(kept, call.region) for kept in self._kept if self._listed(kept, call.region)]
        wanted = {
            "DBInstanceIdentifier": call.text("DBInstanceIdentifier"),
            "DbiResourceId": call.text("DbiResourceId"),
            "DBInstanceAutomatedBackupsArn": call.text("DBInstanceAutomatedBackupsArn"),
        }
        found = [e for e in listed if all(not value or e[name] == value for name, value in wanted.items())]
        if wanted["DBInstanceAutomatedBackupsArn"] and not found:
            raise AwsError("DBInstanceAutomatedBackupNotFoundFault", "DBInstanceAutomatedBackup not found.", 404)
        return {"DBInstanceAutomatedBackups": found}

    def _listed(self, kept: Kept, region: str) -> bool:
        return kept.key[0] == region or (kept.replicated and region == self._db.recovery_region)

    def _entry(self, kept: Kept, region: str) -> dict[str, Any]:
        record, window, own = kept.record, kept.window, kept.key[0] == region
        stopped = kept.retained or (not own and kept.frozen is not None)
        entry: dict[str, Any] = {
            "DBInstanceArn": record.db_instance_arn,
            "DbiResourceId": record.dbi_resource_id,
            "Region": kept.key[0],
            "DBInstanceIdentifier": kept.key[1],
            "Status": "retained" if stopped else "active" if own else "replicating",
            "Port": record.port,
            "AvailabilityZone": record.availability_zone,
            "AllocatedStorage": record.allocated_storage,
            "InstanceCreateTime": record.instance_create_time,
            "MasterUsername": record.master_username,
            "Engine": record.engine,
            "EngineVersion": record.engine_version,
            "Encrypted": bool(record.storage_encrypted),
            "BackupRetentionPeriod": record.backup_retention_period,
            "DBInstanceAutomatedBackupsArn": kept.arn(region),
            "BackupTarget": "region",
        }
        if window is not None:
            entry["RestoreWindow"] = {"EarliestTime": _to_ms(window[0]), "LatestTime": _to_ms(window[1])}
        return entry

    def _of_source(self, call: Call) -> Kept:
        """Return the backups of the instance in the other region that a call names by its ARN."""
        arn = call.text("SourceDBInstanceArn")
        found = [k for k in self._kept if k.record.db_instance_arn == arn and not k.retained]
        if not found or found[-1].key[0] == call.region:
            raise AwsError("DBInstanceNotFound", f"DBInstance {arn} not found.", 404)
        return found[-1]

    def _start_replication(self, call: Call) -> object:
        kept = self._of_source(call)
        if call.text("BackupRetentionPeriod"):
            kept.record.backup_retention_period = int(call.text("BackupRetentionPeriod"))
        if not kept.replicated or kept.frozen is not None:  # RDS copies everything anew
            kept.replicated, kept.frozen, kept.replicated_from = True, None, clock.wall_utc()
            self.back_up_soon(self._db.record(*kept.key))
        return {"DBInstanceAutomatedBackup": self._entry(kept, call.region)}

    def _stop_replication(self, call: Call) -> object:
        kept = self._of_source(call)
        if not kept.replicated or kept.frozen is not None:
            raise AwsError("InvalidDBInstanceState", "The DB instance's automated backups are not replicated.")
        kept.frozen = kept.history.latest or clock.wall_utc()
        return {"DBInstanceAutomatedBackup": self._entry(kept, call.region)}

    # --- restores -----------------------------------------------------------------------------------------------------

    def source_record(self, region: str, params: Any) -> Any:
        """Return the record that an instance restored to a point in time takes after."""
        return self._wanted(region, params).record

    def _wanted(self, region: str, params: Any) -> Kept:
        arn = params.get("SourceDBInstanceAutomatedBackupsArn") or ""
        name, resource = params.get("SourceDBInstanceIdentifier") or "", params.get("SourceDbiResourceId") or ""
        for kept in reversed(self._kept):
            if arn and self._listed(kept, region) and kept.arn(region) == arn:
                return kept
            if not arn and kept.key[0] == region and not kept.retained and name and kept.key[1] == name:
                return kept
            if not arn and kept.key[0] == region and resource and kept.record.dbi_resource_id == resource:
                return kept
        if arn or resource:
            raise AwsError("DBInstanceAutomatedBackupNotFound", f"automated backup {arn or resource} not found", 404)
        if self._db.record(region, name) is not None:
            raise AwsError("PointInTimeRestoreNotEnabled", f"Point in time restore is not enabled for {name}")
        raise AwsError("DBInstanceNotFound", f"DBInstance {name} not found.", 404)

    def _before_restore(self, call: Call) -> None:
        kept = self._wanted(call.region, call.params)
        self._may_be_made(call, "TargetDBInstanceIdentifier")
        latest, moment = call.flag("UseLatestRestorableTime"), call.text("RestoreTime")
        if latest == bool(moment):
            raise AwsError(
                "InvalidParameterCombination", "Specify either RestoreTime or UseLatestRestorableTime, and not both."
            )
        window = kept.window
        if window is None:
            raise AwsError("InvalidRestoreFault", f"{kept.key[1]} has no backup to be restored yet")
        if moment and not window[0] <= _parsed(moment) <= window[1]:
            raise AwsError(
                "InvalidRestoreFault",
                f"The specified time {moment} is not between {_to_ms(window[0]):%FT%T.%fZ} and"
                f" {_to_ms(window[1]):%FT%T.%fZ}, the earliest and the latest restorable time of {kept.key[1]}.",
            )

    def _may_be_made(self, call: Call, parameter: str) -> None:
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
                kept = self._wanted(call.region, call.params)
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
        if until is None and kept.frozen is not None:
            until = kept.frozen
        base = kept.history.base_for(until)
        if base is None:
            raise LabError(f"{kept.key[1]} has no base backup")
        return Source.of(BUCKET, kept.history, base, until)

    def _restore(self, record: Any, source_of: Any, event: rds_events.Kind, told: str) -> None:
        db, key = self._db, self._db.key(record)
        letter = record.availability_zone[-1]
        zone = letter if letter in self._plant.options.zones else self._plant.options.zones[0]
        is_replica_key = key == db.replica_key  # its own node would be in the way of a replica made again
        name = f"{zone if key[0] == db.region else REPLICA}-{key[1]}"
        if is_replica_key:
            name = f"{REPLICA}-restored"
        db.nodes[key] = (name,)

        def restore() -> None:
            node = self._plant.add_node(name)
            scratch = self._plant.directory / "archive" / f"restore-{name}"
            work = Restore(self._s3(BUCKET), source_of(), node, scratch=scratch)
            with self._lock:
                self._restores.add(work)
            try:
                work.run()
            except BaseException as e:
                node.kill()
                db.note(record, rds_events.RESTORE_FAILED, f"The restore failed: {e}")
                raise
            finally:
                with self._lock:
                    self._restores.discard(work)
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
        return s3_client(self._endpoint_url, region, attempts=1)


def _place(snapshot: Any) -> tuple[str, str]:
    """Return the bucket and the key of a snapshot."""
    bucket = BUCKET if snapshot.backend.region_name == _region_of(BUCKET) else SNAPSHOT_BUCKET
    return bucket, f"snapshots/{snapshot.db_snapshot_identifier}.tar"


def _region_of(bucket: str) -> str:
    from drkit.lab.bootstrap import RECOVERY_REGION, REGION

    return RECOVERY_REGION if bucket == BUCKET else REGION


def _parsed(moment: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        raise AwsError("InvalidParameterValue", f"{moment} is not a time") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _to_ms(moment: datetime) -> datetime:
    """Return a moment as the API tells it: whole milliseconds, never later than it is."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
