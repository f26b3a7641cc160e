"""RDS snapshots of one region, and copies of another region's, which undo deletes again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws import rds as instances
from drkit.targets.aws.account import RUN_TAG, Account, named, tags_of
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_rds.type_defs import DBSnapshotTypeDef, TagTypeDef

IAM_SNAPSHOT_COPY = (
    "rds:AddTagsToResource", "rds:CopyDBSnapshot", "rds:DeleteDBSnapshot", "rds:DescribeDBSnapshots",
)  # fmt: skip
_NO_SNAPSHOT = {"DBSnapshotNotFound", "DBSnapshotNotFoundFault"}
COPIED_TIMEOUT_S = 3600.0  # until a snapshot that is still being made can be deleted


@dataclass(frozen=True, slots=True)
class Snapshot:
    snapshot_id: str
    arn: str
    instance_id: str
    created: datetime | None  # None while RDS makes it
    status: str  # available, creating, copying, …
    region: str
    encrypted: bool
    kind: str = "manual"  # or automated


class Snapshots:
    """The snapshots that one region holds."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._rds = self._account.client("rds")

    def snapshots(self, instance_id: str) -> tuple[Snapshot, ...]:
        """Return the snapshots of an instance in this region, manual and automated, newest first."""
        pages = self._rds.get_paginator("describe_db_snapshots").paginate(
            DBInstanceIdentifier=named(instance_id, "database")
        )
        found = [self._snapshot(s) for page in pages for s in page["DBSnapshots"]]
        # One that is still being made is the newest of all.
        latest = datetime.max.replace(tzinfo=UTC)
        return tuple(sorted(found, key=lambda s: s.created or latest, reverse=True))

    def snapshot(self, snapshot_id: str) -> Snapshot | None:
        """Return one snapshot, by its identifier or ARN; None if there is none."""
        described = self._described_snapshot(snapshot_id)
        return None if described is None else self._snapshot(described)

    def plan_copy_snapshot(self, arn: str, new_id: str) -> tuple[Effect, ...]:
        """Return what copying a snapshot into this region would do; nothing if there is one of that name."""
        if self._described_snapshot(new_id) is not None:
            return ()
        return (
            Effect(
                call="rds:CopyDBSnapshot",
                resource=new_id,
                region=self._region,
                what=f"copy {arn} to {self._region} as {new_id}",
                undo=f"delete the copy {new_id}",
                iam=IAM_SNAPSHOT_COPY,
                consented=True,  # it is new, nothing is hurt
            ),
        )

    def copy_snapshot(
        self, arn: str, new_id: str, from_region: str, *, kms_key_id: str = "", permit: Permit, undo: UndoJournal
    ) -> bool:
        """Copy a snapshot of another region into this one; return whether it was asked for (False: this run did).

        kms_key_id: a key of this region, which RDS wants for an encrypted snapshot. It is done when
        `snapshot(new_id).status` is "available". Raises Refused if another snapshot has the name, TargetError (code
        KMSKeyNotAccessibleFault) if it is encrypted and no key is given.
        """
        named(arn, "snapshot")
        named(from_region, "region of the snapshot")
        self._account.may_break(permit)
        there = self._described_snapshot(named(new_id, "new snapshot"))
        if there is not None:
            if tags_of(there.get("TagList")).get(RUN_TAG) != permit.run_id:
                raise Refused(
                    f"not copying to {new_id}: there is a snapshot of that name in {self._region}, and this run did "
                    "not make it",
                    "name another one",
                )
            return False
        if not kms_key_id and from_region != self._region and self._is_encrypted(arn, from_region):
            raise _needs_key(arn, self._region)
        undo.will(
            "delete_copied_snapshot",
            region=self._region,
            aws_region=self._region,
            snapshot_id=new_id,
            run_id=permit.run_id,
        )
        permit.check()
        key: dict[str, Any] = {"KmsKeyId": kms_key_id} if kms_key_id else {}
        try:
            self._rds.copy_db_snapshot(
                SourceDBSnapshotIdentifier=arn,
                TargetDBSnapshotIdentifier=new_id,
                SourceRegion=from_region,
                Tags=made_tags(self._account, permit),
                **key,
            )
        except TargetError as e:
            # A retry of a call whose answer was lost finds what it made.
            made = self._described_snapshot(new_id)
            ours = made is not None and tags_of(made.get("TagList")).get(RUN_TAG) == permit.run_id
            if not kms_key_id and made is None and "kms" in f"{e.code} {e.message}".lower():
                raise _needs_key(arn, self._region) from e
            if not e.code.startswith("DBSnapshotAlreadyExists") or not ours:
                raise
        return True

    def _is_encrypted(self, arn: str, region: str) -> bool:
        """Return whether a snapshot of another region is encrypted; False if that cannot be told."""
        snapshot_id = arn.partition(":snapshot:")[2] or arn
        try:
            original = Snapshots(self._account.target, region).snapshot(snapshot_id)
        except TargetError:  # then RDS says so when it copies
            return False
        return original is not None and original.encrypted

    def _described_snapshot(self, snapshot_id: str) -> DBSnapshotTypeDef | None:
        try:
            found = self._rds.describe_db_snapshots(DBSnapshotIdentifier=named(snapshot_id, "snapshot"))["DBSnapshots"]
        except TargetError as e:
            if e.code in _NO_SNAPSHOT:
                return None
            raise
        return found[0] if found else None

    def _snapshot(self, s: DBSnapshotTypeDef) -> Snapshot:
        return Snapshot(
            snapshot_id=s["DBSnapshotIdentifier"],
            arn=s.get("DBSnapshotArn", ""),
            instance_id=s.get("DBInstanceIdentifier", ""),
            created=s.get("SnapshotCreateTime"),
            status=s.get("Status", ""),
            region=self._region,
            encrypted=s.get("Encrypted", False),
            kind=s.get("SnapshotType", "manual"),
        )


def _needs_key(arn: str, region: str) -> TargetError:
    return TargetError(
        f"cannot copy {arn} to {region}: it is encrypted, and no key of {region} was named to encrypt the copy with",
        "keys stay in their region: name one that the role may use there, or let an instance be there already, whose "
        "key is taken",
        "KMSKeyNotAccessibleFault",
    )


def made_tags(account: Account, permit: Permit, tags: Any = ()) -> list[TagTypeDef]:
    """Return the tags of what a run makes: these, the run's, and the consent tag except in a real recovery."""
    key, value = account.target.consent_tag
    consent = {} if permit.real else {key: value}
    return [{"Key": k, "Value": v} for k, v in (tags_of(tags) | consent | {RUN_TAG: permit.run_id}).items()]


@undo_journal.verb("delete_copied_snapshot")
def delete_copied_snapshot(target: Target, *, aws_region: str, snapshot_id: str, run_id: str) -> str:
    """Delete the copy of a snapshot that a run made, as soon as RDS lets go of it; the original stays."""
    account = Account(target, aws_region)
    account.assert_account()
    snapshots = Snapshots(target, aws_region)
    now = snapshots._described_snapshot(named(snapshot_id, "snapshot"))
    if now is None:
        return f"there is no snapshot {snapshot_id}"
    if tags_of(now.get("TagList")).get(RUN_TAG) != named(run_id, "run"):
        raise Refused(
            f"not deleting snapshot {snapshot_id}: it does not carry {RUN_TAG}={run_id}, so this run did not make it",
            "look at it, and delete it by hand if it is of no use",
        )

    def gone() -> bool:
        try:
            account.client("rds").delete_db_snapshot(DBSnapshotIdentifier=snapshot_id)
        except TargetError as e:
            if e.code.startswith("InvalidDBSnapshotState"):
                return False
            if e.code not in _NO_SNAPSHOT:
                raise
        return True

    clock.wait_until(
        gone,
        f"snapshot {snapshot_id} can be deleted",
        timeout_s=COPIED_TIMEOUT_S,
        every_s=instances.asking_every_s(target),
    )
    return f"deleted snapshot {snapshot_id}"
