"""RDS as a recovery needs it: a replica promoted for good, the old writer retired, a replica made in its place.

What an experiment does to a replica, with a way back, is in database.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws import rds as instances
from drkit.targets.aws.account import RUN_TAG, Account, named, tags_of
from drkit.targets.aws.rds import (
    MAYBE_PROMOTING,
    NOT_FOUND,
    NOT_NOW,
    PROMOTED_TAG,
    PROMOTING,
    DbInstance,
    promotion_visible_by,
)
from drkit.undo import UndoJournal

IAM_PROMOTE_FOR_GOOD = ("rds:AddTagsToResource", "rds:DescribeDBInstances", "rds:PromoteReadReplica")
IAM_RETIRE = ("rds:AddTagsToResource", "rds:CreateDBSnapshot", "rds:DeleteDBInstance", "rds:DescribeDBInstances")
IAM_DROP = ("rds:DeleteDBInstance", "rds:DescribeDBInstances")
IAM_REPLICATE = (
    "rds:AddTagsToResource", "rds:CreateDBInstanceReadReplica", "rds:DeleteDBInstance", "rds:DescribeDBInstances",
)  # fmt: skip


class Replication:
    """Who follows whom, among the RDS instances of one region."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._rds = self._account.client("rds")

    # --- promotion ---

    def plan_promote(self, replica_id: str) -> tuple[Effect, ...]:
        """Return what promoting a replica for good would do; nothing if it is a writer already."""
        now = self._instance(replica_id)
        if not now.is_replica:
            return ()
        return now.effects(
            "rds:PromoteReadReplica",
            what=f"make {replica_id} a writer of its own for good; it stops following {now.source}, and what "
            "has not reached it by then is lost to it",
            undo="none: the way back is a failback (drkit playbook run failback)",
            iam=IAM_PROMOTE_FOR_GOOD,
        )

    def promote(self, replica_id: str, *, backup_retention_days: int = 0, permit: Permit, undo: UndoJournal) -> bool:
        """Make a replica a writer for good; return whether it was asked for (False: it is one, or is becoming one).

        It is done when `instance(...).is_replica` is False and clients can write. backup_retention_days: of the new
        writer's automated backups at least, without which RDS lets nothing replicate from it; if the replica keeps them
        for longer, that stays. The replica is tagged with the moment first: RDS may show an accepted promotion much
        later, and until then nobody may lift the fence around the old writer.
        Raises Refused without consent, TargetError if RDS is busy with the replica.
        """
        named(replica_id, "replica")
        self._account.may_break(permit)
        now = self._instance(replica_id)
        self._account.must_consent(replica_id, now.tags, permit)
        asked = any(
            (r.verb, r.args.get("aws_region"), r.args.get("replica_id")) == ("stay_promoted", self._region, replica_id)
            for r in undo.pending()
        )
        if not now.is_replica or (asked and now.status in PROMOTING):
            return False
        asked_at = clock.wall_utc().isoformat(timespec="seconds")
        if not asked:
            undo.will(
                "stay_promoted",
                region=self._region,
                aws_region=self._region,
                replica_id=replica_id,
                asked_at=asked_at,
            )
        permit.check()
        self._rds.add_tags_to_resource(ResourceName=now.arn, Tags=[{"Key": PROMOTED_TAG, "Value": asked_at}])
        permit.check()
        days = max(now.backup_retention_days, backup_retention_days)  # RDS's own default would be 1
        retention: dict[str, Any] = {"BackupRetentionPeriod": days} if days else {}
        try:
            self._rds.promote_read_replica(DBInstanceIdentifier=replica_id, **retention)
        except TargetError as e:
            # A retry of a call whose answer was lost finds the promotion under way: that is what was asked for. What
            # kept RDS busy before the call was not that.
            after = self._instance(replica_id)
            ours = now.status == "available" and after.status in PROMOTING
            if e.code not in NOT_NOW or (after.is_replica and not ours):
                raise
        return True

    # --- retirement ---

    def plan_retire(self, instance_id: str, *, final_snapshot_id: str) -> tuple[Effect, ...]:
        """Return what retiring an instance would do; nothing if it is gone or going."""
        now = self._kept(instance_id)
        if now is None:
            return ()
        return now.effects(
            "rds:DeleteDBInstance",
            what=f"delete {instance_id}, keeping its data in the snapshot {final_snapshot_id} and its automated "
            "backups",
            undo=f"none: its data is in the snapshot {final_snapshot_id}",
            iam=IAM_RETIRE,
        )

    def retire(self, instance_id: str, *, final_snapshot_id: str, permit: Permit, undo: UndoJournal) -> bool:
        """Delete an instance with a final snapshot; return whether it was asked for (False: it is gone or going).

        It is done when `exists` says no. Automated backups are kept. Raises Refused if the instance does not consent,
        is protected from deletion, is a replica (of which RDS makes no final snapshot), or still has replicas: then
        it may well be the writer.
        """
        named(instance_id, "database")
        named(final_snapshot_id, "final snapshot")
        self._account.may_break(permit)
        now = self._kept(instance_id)
        if now is None:
            return False
        self._account.must_consent(instance_id, now.tags, permit)
        self._must_be_retirable(now)
        undo.will(
            "stay_retired",
            region=self._region,
            aws_region=self._region,
            instance_id=instance_id,
            final_snapshot_id=final_snapshot_id,
        )
        permit.check()
        try:
            self._delete(
                instance_id,
                SkipFinalSnapshot=False,
                FinalDBSnapshotIdentifier=final_snapshot_id,
                DeleteAutomatedBackups=False,
            )
        except TargetError as e:
            if e.code.startswith("DBSnapshotAlreadyExists"):
                raise TargetError(
                    f"not deleting {instance_id}: there is a snapshot {final_snapshot_id} already",
                    "name another final snapshot",
                    e.code,
                ) from e
            raise
        return True

    def _must_be_retirable(self, now: DbInstance) -> None:
        name = now.instance_id
        if now.deletion_protection:
            raise Refused(
                f"not deleting {name}: it is protected from deletion",
                f"if it really may go: aws rds modify-db-instance --db-instance-identifier {name} "
                f"--no-deletion-protection --apply-immediately --region {self._region}",
            )
        if now.is_replica:
            raise Refused(
                f"not retiring {name}: it is a replica of {now.source}, so RDS would make no final snapshot of it",
                "is it the right instance? the old writer is the one that follows nobody",
            )
        if now.replica_ids:
            raise Refused(
                f"not retiring {name}: {', '.join(now.replica_ids)} still follows it, so it may be the writer",
                "promote or delete its replicas first, if it really is the old writer",
            )

    def plan_drop(self, replica_id: str) -> tuple[Effect, ...]:
        """Return what dropping a replica would do; nothing if it is gone or going."""
        now = self._kept(replica_id)
        if now is None:
            return ()
        return now.effects(
            "rds:DeleteDBInstance",
            what=f"delete {replica_id}, which follows {now.source}, without a snapshot",
            undo="none: what it holds is its source's",
            iam=IAM_DROP,
        )

    def drop(self, replica_id: str, *, permit: Permit) -> bool:
        """Delete a replica without a snapshot; return whether it was asked for (False: it is gone or going).

        Raises Refused if it does not consent, is protected from deletion, or is a writer.
        """
        self._account.may_break(permit)
        now = self._kept(named(replica_id, "replica"))
        if now is None:
            return False
        self._account.must_consent(replica_id, now.tags, permit)
        if not now.is_replica or now.deletion_protection:
            why = "it is protected from deletion" if now.is_replica else "it is a writer, not a replica"
            raise Refused(f"not deleting {replica_id}: {why}", "look at it first")
        permit.check()
        self._delete(replica_id, SkipFinalSnapshot=True, DeleteAutomatedBackups=True)
        return True

    def _kept(self, instance_id: str) -> DbInstance | None:
        """Return an instance as it is now, None if it is gone or going."""
        now = instances.instance_or_none(self._account, self._region, instance_id)
        return None if now is None or now.status == "deleting" else now

    def _delete(self, instance_id: str, **how: Any) -> None:
        try:
            self._rds.delete_db_instance(DBInstanceIdentifier=instance_id, **how)
        except TargetError as e:
            # A retry of a call whose answer was lost finds the instance going, or gone.
            if e.code not in NOT_NOW | NOT_FOUND or self._kept(instance_id) is not None:
                raise

    # --- a replica in its place ---

    def replica_settings(self, instance_id: str, source_arn: str) -> dict[str, Any]:
        """Return the arguments of CreateDBInstanceReadReplica that make an instance anew, following another one.

        Ask while the instance exists: class, subnet group, security groups, parameter group, key, port and tags are
        those it has now. They survive JSON, so keep them on disk before it is retired. source_arn: the new writer's ARN
        if it is in another region.
        """
        found = instances.described(self._account, self._region, instance_id)
        settings = instances.replica_settings(found, named(source_arn, "source"))
        if not source_arn.startswith("arn:") or source_arn.split(":")[3] == self._region:
            settings.pop("SourceRegion", None)
            settings.pop("DBSubnetGroupName", None)  # inside one region RDS takes the source's
        return settings

    def plan_create_replica(self, settings: Mapping[str, Any]) -> tuple[Effect, ...]:
        """Return what making the replica would do; nothing if it is there."""
        name, source = _names(settings)
        now = instances.instance_or_none(self._account, self._region, name)
        if now is not None and _follows(now, source):
            return ()
        return (
            Effect(
                call="rds:CreateDBInstanceReadReplica",
                resource=name,
                region=self._region,
                what=f"make {name}, a replica of {source}",
                undo=f"delete {name}, as long as it is a replica",
                iam=IAM_REPLICATE,
                consented=self._account.consented(tags_of(settings.get("Tags"))),
            ),
        )

    def create_replica(self, settings: Mapping[str, Any], *, permit: Permit, undo: UndoJournal) -> bool:
        """Make a replica; return whether it was asked for (False: it is there, or being made).

        settings: what `replica_settings` returned. The replica carries its tags and the run's. It is done when
        `instance(...)` is available and its `replication` is "replicating".
        Raises Refused if another instance has the name, or if the tags do not consent; TargetError (code
        InvalidDBInstanceState) while the instance that had the name is being deleted, or its source is not available.
        """
        name, source = _names(settings)
        self._account.may_break(permit)
        now = instances.instance_or_none(self._account, self._region, name)
        if now is not None:
            return self._not_made(now, source)
        tags = {k: v for k, v in tags_of(settings.get("Tags")).items() if k != RUN_TAG}
        self._account.must_consent(name, tags, permit)
        tags[RUN_TAG] = permit.run_id
        undo.will(
            "delete_replica",
            region=self._region,
            aws_region=self._region,
            instance_id=name,
            run_id=permit.run_id,
            real=permit.real,
        )
        permit.check()
        wanted: dict[str, Any] = {**settings, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}
        try:
            self._rds.create_db_instance_read_replica(**wanted)
        except TargetError as e:
            # A retry of a call whose answer was lost finds what it made.
            made = instances.instance_or_none(self._account, self._region, name)
            if not e.code.startswith("DBInstanceAlreadyExists") or made is None or not _follows(made, source):
                raise
        return True

    def _not_made(self, now: DbInstance, source: str) -> bool:
        """Return False if the replica is there; raise if something else has its name."""
        if now.status == "deleting":
            raise TargetError(
                f"cannot make {now.instance_id} yet: the instance of that name is still being deleted",
                "wait until it is gone",
                "InvalidDBInstanceState",
            )
        if not _follows(now, source):
            raise Refused(
                f"not making {now.instance_id}: there is an instance of that name, "
                + (f"a replica of {now.source}" if now.is_replica else "a writer of its own"),
                "retire it first",
            )
        return False

    def _instance(self, instance_id: str) -> DbInstance:
        return instances.instance_of(self._account, instances.described(self._account, self._region, instance_id))


def _names(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the identifiers of a replica to be made and of its source."""
    name, source = str(settings.get("DBInstanceIdentifier", "")), str(settings.get("SourceDBInstanceIdentifier", ""))
    return named(name, "replica"), named(source, "source")


def _follows(now: DbInstance, source: str) -> bool:
    """Return whether an instance is a replica of this one, named by ARN or, inside a region, by identifier."""
    return now.is_replica and now.source.rsplit(":", 1)[-1] == source.rsplit(":", 1)[-1]


@undo_journal.verb("stay_promoted")
def stay_promoted(target: Target, *, aws_region: str, replica_id: str, asked_at: str = "") -> str:
    """Refuse to make a replica of a writer again: that would delete what clients wrote to it.

    asked_at: when the promotion was asked for (ISO 8601, UTC), or else the replica's tag: while RDS may still show it,
    nothing is said about how it ended.
    """
    account = Account(target, aws_region)
    now = instances.instance_or_none(account, aws_region, replica_id)
    if now is None:
        return f"there is no {replica_id} any more"
    if now.is_replica and now.status not in MAYBE_PROMOTING:
        visible_by = promotion_visible_by(target, asked_at, now.tags.get(PROMOTED_TAG, ""))
        if visible_by is None:
            return f"{replica_id} is a replica of {now.source}, as before"
        raise Refused(
            f"{replica_id} is a replica of {now.source} as yet, but its promotion was asked for: it may be becoming a "
            "writer of its own",
            f"RDS may show it later; if it never began, undo again after {visible_by:%H:%M:%S} UTC",
        )
    raise Refused(
        f"{replica_id} {'is becoming' if now.is_replica else 'is'} a writer of its own now; going back is: "
        "drkit playbook run failback",
        "undo would have to delete what clients wrote to it",
    )


@undo_journal.verb("stay_retired")
def stay_retired(target: Target, *, aws_region: str, instance_id: str, final_snapshot_id: str) -> str:
    """Say that an instance is still there; refuse if it is not, for its way back is a restore."""
    account = Account(target, aws_region)
    now = instances.instance_or_none(account, aws_region, instance_id)
    if now is not None and now.status != "deleting":
        return f"{instance_id} is there"
    raise Refused(
        f"{instance_id} was retired; its data is in the snapshot {final_snapshot_id}",
        f"if it is needed: aws rds restore-db-instance-from-db-snapshot --db-snapshot-identifier {final_snapshot_id} "
        f"--db-instance-identifier {instance_id} --region {aws_region}",
    )


@undo_journal.verb("delete_replica")
def delete_replica(target: Target, *, aws_region: str, instance_id: str, run_id: str, real: bool = False) -> str:
    """Delete a replica that a run made, and wait until it is gone. What it holds is its source's.

    Refuses if it is no replica any more, does not carry the run's tag or, except after a real recovery, no longer
    consents.
    """
    account = Account(target, aws_region)
    account.assert_account()
    now = instances.instance_or_none(account, aws_region, named(instance_id, "replica"))
    if now is None:
        return f"there is no {instance_id}"
    if now.status != "deleting":
        instances.must_be_made_by(run_id, account, now, real=real)
        if not now.is_replica:
            raise Refused(
                f"not deleting {instance_id}: it is a writer of its own now",
                "going back is: drkit playbook run failback",
            )
    instances.delete_and_wait(account, aws_region, instance_id)
    return f"deleted {instance_id}"
