"""RDS backups of one region: automated ones, its own or replicated into it, and snapshots; databases made of them.

What is restored or copied carries the run's tag, and the consent tag unless it was a real recovery: what that restores
serves customers, so no experiment may take it for its own. Undo goes by the run's tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError, UsageError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws import rds as instances
from drkit.targets.aws.account import RUN_TAG, Account, named
from drkit.targets.aws.snapshots import Snapshots, made_tags
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_rds.type_defs import DBInstanceAutomatedBackupTypeDef

IAM_BACKUPS = ("rds:DescribeDBInstanceAutomatedBackups", "rds:DescribeDBSnapshots")
IAM_BACKUP_REPLICATION = (*IAM_BACKUPS, "rds:StartDBInstanceAutomatedBackupsReplication")
IAM_RESTORE = (
    *IAM_BACKUPS, "rds:AddTagsToResource", "rds:DeleteDBInstance", "rds:DescribeDBInstances",
    "rds:RestoreDBInstanceFromDBSnapshot", "rds:RestoreDBInstanceToPointInTime",
)  # fmt: skip
_NO_BACKUP = {"DBInstanceAutomatedBackupNotFound", "DBInstanceAutomatedBackupNotFoundFault"}


@dataclass(frozen=True, slots=True)
class AutomatedBackup:
    """The continuous backup of one instance, from which any moment of its window can be restored."""

    arn: str
    instance_id: str
    region: str  # of the instance, which may be another than the backup's
    status: str  # RDS's word: active, retained (its instance is gone), creating, …
    earliest: datetime | None
    latest: datetime | None
    retention_days: int
    encrypted: bool
    resource_id: str = ""  # the instance's DbiResourceId

    @property
    def window(self) -> str:
        """Return the window in words."""
        if self.earliest is None or self.latest is None:
            return "nothing yet"
        return f"{_words(self.earliest)} to {_words(self.latest)}"


class Backups(Snapshots):
    """The backups that one region holds, its snapshots (snapshots.py) among them."""

    # --- what there is ---

    def automated(self, instance_id: str) -> AutomatedBackup | None:
        """Return the automated backup of an instance that this region holds, None if there is none.

        Of several (an instance that was deleted and made again) the one that reaches furthest.
        """
        found = self._automated(DBInstanceIdentifier=named(instance_id, "database"))
        found = [b for b in found if b.instance_id == instance_id]
        return max(found, key=lambda b: b.latest or datetime.min.replace(tzinfo=UTC), default=None)

    # --- replicated into this region ---

    def replicates(self, arn: str, resource_id: str) -> bool:
        """Return whether the backups of this very instance (its DbiResourceId) are replicated into this region."""
        found = self._automated(DBInstanceIdentifier=arn.rsplit(":", 1)[-1])
        return any(b.resource_id == resource_id and b.status in ("replicating", "active") for b in found)

    def replicate(self, arn: str, *, days: int, permit: Permit) -> None:
        """Have the backups of an instance of another region replicated into this one; one that is so already is fine.

        It needs no undo: it takes nothing away. Raises TargetError, of an encrypted instance too: that needs a key of
        this region, which drkit does not choose.
        """
        self._account.may_break(permit)
        try:
            self._rds.start_db_instance_automated_backups_replication(
                SourceDBInstanceArn=named(arn, "database"),
                BackupRetentionPeriod=days,
                SourceRegion=arn.split(":")[3],
            )
        except TargetError as e:
            if "lready" not in e.code and "lready" not in e.message:
                raise

    # --- restore ---

    def settings_like(self, instance_id: str) -> dict[str, Any]:
        """Return the settings of a restore that is to be like an instance of this region. They survive JSON."""
        return instances.restore_settings(instances.described(self._account, self._region, instance_id))

    def kms_key_of(self, instance_id: str) -> str:
        """Return the ARN of the key that encrypts an instance of this region; "" if it is not encrypted.

        A restore takes its backup's key; a snapshot's copy needs one of the region that it comes to.
        """
        return instances.described(self._account, self._region, instance_id).get("KmsKeyId", "")

    def plan_restore(self, new_id: str, *, source: str, at: datetime | None = None) -> tuple[Effect, ...]:
        """Return what a restore would do; nothing if there is an instance of that name.

        source: the ARN of an automated backup, or a snapshot's identifier or ARN. at: the moment; None: the latest.
        """
        if instances.instance_or_none(self._account, self._region, new_id) is not None:
            return ()
        continuous = _is_continuous(source)
        moment = f" as of {_words(at) if at else 'the latest moment'}" if continuous else ""
        return (
            Effect(
                call=f"rds:{'RestoreDBInstanceToPointInTime' if continuous else 'RestoreDBInstanceFromDBSnapshot'}",
                resource=new_id,
                region=self._region,
                what=f"make {new_id} from {source}{moment}",
                undo=f"delete {new_id} without a snapshot",
                iam=IAM_RESTORE,
                consented=True,  # it is new, nothing is hurt
            ),
        )

    def restore_to_time(
        self,
        backup_arn: str,
        new_id: str,
        at: datetime | None,
        settings: Mapping[str, Any],
        *,
        permit: Permit,
        undo: UndoJournal,
    ) -> bool:
        """Make an instance as an automated backup had it at a moment; return whether it was asked for.

        at: with a time zone; None for the latest moment there is. settings: arguments of RestoreDBInstanceToPointInTime
        (DBInstanceClass, DBSubnetGroupName, VpcSecurityGroupIds, …); those that are None are left out. False: this run
        has made it. Raises TargetError naming the window for a moment outside of it, Refused if another instance has
        the name.
        """
        if at is not None and at.tzinfo is None:
            raise UsageError(
                f"{at.isoformat()} is no moment: it has no time zone", "write it like 2026-11-27T21:00:00Z"
            )
        self._account.may_break(permit)
        if not self._is_to_be_made(new_id, permit):
            return False
        backup = self._backup(backup_arn)
        if at is not None and not (backup.earliest and backup.latest and backup.earliest <= at <= backup.latest):
            raise _outside(backup, at, "InvalidRestoreFault")
        wanted = self._wanted(settings, permit)
        if backup.region != self._region:
            wanted["SourceDBInstanceAutomatedBackupsArn"] = backup.arn
        elif backup.status == "active":
            wanted["SourceDBInstanceIdentifier"] = backup.instance_id
        else:  # its instance is gone; another one may have the name by now
            wanted["SourceDbiResourceId"] = backup.resource_id
        wanted |= {"UseLatestRestorableTime": True} if at is None else {"RestoreTime": at.astimezone(UTC)}
        self._will_delete(new_id, permit, undo)
        try:
            self._rds.restore_db_instance_to_point_in_time(TargetDBInstanceIdentifier=new_id, **wanted)
        except TargetError as e:
            if e.code == "InvalidRestoreFault" or (e.code == "InvalidParameterValue" and "restored to" in e.message):
                raise _outside(self._backup(backup_arn), at, e.code, e.message) from e
            self._must_be_ours(e, new_id, permit)
        return True

    def restore_snapshot(
        self, snapshot_id: str, new_id: str, settings: Mapping[str, Any], *, permit: Permit, undo: UndoJournal
    ) -> bool:
        """Make an instance from a snapshot of this region; return whether it was asked for (False: this run made it).

        settings: as for `restore_to_time`. Raises TargetError if the snapshot is not there or not available, Refused
        if another instance has the name.
        """
        self._account.may_break(permit)
        if not self._is_to_be_made(new_id, permit):
            return False
        snapshot = self.snapshot(snapshot_id)
        if snapshot is None:
            raise TargetError(
                f"there is no snapshot {snapshot_id} in {self._region}",
                "see drkit doctor, or copy one there",
                "DBSnapshotNotFound",
            )
        if snapshot.status != "available":
            raise TargetError(
                f"cannot restore {snapshot_id} yet: it is {snapshot.status}",
                "wait until it is available, or take an older one",
                "InvalidDBSnapshotState",
            )
        wanted = self._wanted(settings, permit)
        self._will_delete(new_id, permit, undo)
        try:
            self._rds.restore_db_instance_from_db_snapshot(
                DBInstanceIdentifier=new_id, DBSnapshotIdentifier=snapshot_id, **wanted
            )
        except TargetError as e:
            self._must_be_ours(e, new_id, permit)
        return True

    def _is_to_be_made(self, new_id: str, permit: Permit) -> bool:
        now = instances.instance_or_none(self._account, self._region, named(new_id, "new database"))
        if now is None:
            return True
        if now.tags.get(RUN_TAG) != permit.run_id:
            raise Refused(
                f"not restoring to {new_id}: there is an instance of that name in {self._region}, and this run did not "
                "make it",
                "name another one, or retire it first",
            )
        if now.status == "deleting":
            raise TargetError(
                f"cannot make {new_id} yet: it is still being deleted",
                "wait until it is gone",
                "InvalidDBInstanceState",
            )
        return False

    def _must_be_ours(self, e: TargetError, new_id: str, permit: Permit) -> None:
        """Raise the error unless it says that a call whose answer was lost had made the instance."""
        made = instances.instance_or_none(self._account, self._region, new_id)
        if not e.code.startswith("DBInstanceAlreadyExists") or made is None or made.tags.get(RUN_TAG) != permit.run_id:
            raise e

    def _wanted(self, settings: Mapping[str, Any], permit: Permit) -> dict[str, Any]:
        return {k: v for k, v in settings.items() if v not in (None, "", [])} | {
            "Tags": made_tags(self._account, permit, settings.get("Tags"))
        }

    def _will_delete(self, new_id: str, permit: Permit, undo: UndoJournal) -> None:
        undo.will(
            "delete_restored",
            region=self._region,
            aws_region=self._region,
            instance_id=new_id,
            run_id=permit.run_id,
            real=permit.real,
        )
        permit.check()

    # --- as RDS describes them ---

    def _backup(self, arn: str) -> AutomatedBackup:
        for backup in self._automated(DBInstanceAutomatedBackupsArn=named(arn, "automated backup")):
            if backup.arn == arn:
                return backup
        raise TargetError(
            f"there is no automated backup {arn} in {self._region}",
            "is it replicated there? aws rds start-db-instance-automated-backups-replication makes it so",
            "DBInstanceAutomatedBackupNotFound",
        )

    def _automated(self, **which: Any) -> list[AutomatedBackup]:
        pages = self._rds.get_paginator("describe_db_instance_automated_backups").paginate(**which)
        try:
            return [_automated_backup(b) for page in pages for b in page["DBInstanceAutomatedBackups"]]
        except TargetError as e:
            if e.code in _NO_BACKUP:
                return []
            raise


def _automated_backup(b: DBInstanceAutomatedBackupTypeDef) -> AutomatedBackup:
    window = b.get("RestoreWindow", {})
    return AutomatedBackup(
        arn=b.get("DBInstanceAutomatedBackupsArn", ""),
        instance_id=b.get("DBInstanceIdentifier", ""),
        region=b.get("Region", ""),
        status=b.get("Status", ""),
        earliest=window.get("EarliestTime"),
        latest=window.get("LatestTime"),
        retention_days=b.get("BackupRetentionPeriod", 0),
        encrypted=b.get("Encrypted", False),
        resource_id=b.get("DbiResourceId", ""),
    )


def _is_continuous(source: str) -> bool:
    return ":auto-backup:" in named(source, "backup")


def _outside(backup: AutomatedBackup, at: datetime | None, code: str, said: str = "") -> TargetError:
    moment = _words(at) if at else "the latest moment"
    return TargetError(
        f"cannot restore {backup.instance_id} to {moment}" + (f": {said}" if said else ": it is outside of the window"),
        f"its backup in hand has {backup.window}",
        code,
    )


def _words(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@undo_journal.verb("delete_restored")
def delete_restored(target: Target, *, aws_region: str, instance_id: str, run_id: str, real: bool = False) -> str:
    """Delete an instance that a run restored, without a snapshot, and wait until it is gone.

    Refuses if it does not carry the run's tag or, except after a real recovery, no longer consents.
    """
    account = Account(target, aws_region)
    account.assert_account()
    now = instances.instance_or_none(account, aws_region, named(instance_id, "database"))
    if now is None:
        return f"there is no {instance_id}"
    if now.status != "deleting":
        instances.must_be_made_by(run_id, account, now, real=real)
        if now.deletion_protection:
            raise Refused(
                f"not deleting {instance_id}: it is protected from deletion",
                f"if it really may go: aws rds modify-db-instance --db-instance-identifier {instance_id} "
                f"--no-deletion-protection --apply-immediately --region {aws_region}, then undo again",
            )
    instances.delete_and_wait(account, aws_region, instance_id)
    return f"deleted {instance_id}"
