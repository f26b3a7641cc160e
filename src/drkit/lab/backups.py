"""Automated RDS backups of a lab, replicated to the second region, and what RDS says of them.

Automated backups are one base backup and all log since, in the second region's bucket (`archive`), so both regions
restore from there. RDS would replicate every five minutes; here `archive_timeout_s` decides.

What differs from RDS: a new instance that takes the place of a replicated one (failback) is replicated at once, without
StartDBInstanceAutomatedBackupsReplication, which is accepted and changes nothing then.
"""

from __future__ import annotations

import copy
import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from drkit import clock
from drkit.errors import DrkitError
from drkit.lab.archive import History
from drkit.lab.cloud import ACCOUNT_ID, AwsError, Call
from drkit.lab.database import AVAILABLE, Databases, Key

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

    def window(self, region: str) -> tuple[datetime, datetime] | None:
        """Return the earliest and the latest moment that can be restored in a region; None while there is none.

        They are as the API tells them, whole milliseconds, and inside the truth.
        """
        own = region == self.key[0]
        began = None if own else self.replicated_from
        earliest = next((b.ended for b in self.history.bases if began is None or b.ended >= began), None)
        latest = self.history.latest if own and not self.retained else self.frozen or self.history.latest
        if earliest is None or latest is None or latest <= earliest:
            return None
        return to_ms(earliest + timedelta(microseconds=999)), to_ms(latest)


class Backups:
    """Keeps the backups, and answers what RDS says of them."""

    def __init__(self, databases: Databases) -> None:
        self._db, self._plant, self._cloud = databases, databases.plant, databases.cloud
        self._kept: list[Kept] = []
        self._numbers: dict[Key, int] = {}  # how many instances of a name were kept so far
        self._lock = threading.Lock()
        cloud = self._cloud
        cloud.answers["rds", "StartDBInstanceAutomatedBackupsReplication"] = self._start_replication
        cloud.answers["rds", "StopDBInstanceAutomatedBackupsReplication"] = self._stop_replication
        cloud.answers["rds", "DescribeDBInstanceAutomatedBackups"] = self._describe

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
        window = kept.window(kept.key[0]) if kept is not None else None
        return window[1] if window else None

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
        record, window, own = kept.record, kept.window(region), kept.key[0] == region
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
            entry["RestoreWindow"] = {"EarliestTime": window[0], "LatestTime": window[1]}
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

    # --- what a restore takes -----------------------------------------------------------------------------------------

    def source_record(self, region: str, params: Any) -> Any:
        """Return the record that an instance restored to a point in time takes after."""
        return self.wanted(region, params).record

    def wanted(self, region: str, params: Any) -> Kept:
        """Return the backups that a call names by their ARN, or of its own region's instance. Raises AwsError."""
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


def to_ms(moment: datetime) -> datetime:
    """Return a moment as the API tells it: whole milliseconds, never later than it is."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
