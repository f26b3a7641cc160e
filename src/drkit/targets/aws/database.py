"""The RDS instance of a target: what RDS says about it, failed over, stopped, its replica promoted and made again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import RUN_TAG, Account, named, tags_of
from drkit.targets.aws.rds import (
    ACCEPTED_TIMEOUT_S,
    NOT_NOW,
    DbEvent,
    DbInstance,
    again_settings,
    asking_every_s,
    delete_and_wait,
    described,
    instance_of,
    instance_or_none,
    moment_of,
)
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_rds.type_defs import DBInstanceTypeDef

IAM_FAILOVER = ("rds:DescribeDBInstances", "rds:RebootDBInstance")
IAM_STOP = ("rds:DescribeDBInstances", "rds:StartDBInstance", "rds:StopDBInstance")
IAM_PROMOTE = (
    "rds:AddTagsToResource", "rds:CreateDBInstanceReadReplica", "rds:DeleteDBInstance", "rds:DescribeDBInstances",
    "rds:PromoteReadReplica",
)  # fmt: skip
IAM_MULTI_AZ = ("rds:DescribeDBInstances", "rds:ModifyDBInstance")
MOVING = {"rebooting", "failing-over"}
# Until RDS surely names the new zone of a writer that was failed over: it takes 1–2 minutes, and RDS may name the old
# zone, and call it available, for some more.
FAILOVER_SHOWS_S = 300.0


class Database:
    """The RDS instances of one region."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._rds = self._account.client("rds", self._region)

    def instance(self, instance_id: str) -> DbInstance:
        """Return an instance as it is now; TargetError (code DBInstanceNotFound) if there is none."""
        return instance_of(self._account, self._described(instance_id))

    def instance_ids(self) -> tuple[str, ...]:
        """Return the identifiers of all instances of the region, in order."""
        pages = self._rds.get_paginator("describe_db_instances").paginate()
        return tuple(sorted(d["DBInstanceIdentifier"] for page in pages for d in page["DBInstances"]))

    def exists(self, instance_id: str) -> bool:
        return instance_or_none(self._account, self._region, instance_id) is not None

    def events(self, instance_id: str, since: datetime) -> tuple[DbEvent, ...]:
        """Return what RDS reported since a moment (with time zone; RDS keeps 14 days), oldest first."""
        pages = self._rds.get_paginator("describe_events").paginate(
            SourceIdentifier=named(instance_id, "database"), SourceType="db-instance", StartTime=since
        )
        events = [
            DbEvent(e["Date"], e.get("Message", ""), tuple(e.get("EventCategories", ())))
            for page in pages
            for e in page["Events"]
            if e["Date"] >= since
        ]
        return tuple(sorted(events, key=lambda e: e.at))

    def subnet_ids(self, instance_id: str, zone: str = "") -> tuple[str, ...]:
        """Return the subnets of an instance's subnet group, in one zone or in all."""
        subnets = self._described(instance_id).get("DBSubnetGroup", {}).get("Subnets", [])
        return tuple(
            sorted(
                s["SubnetIdentifier"]
                for s in subnets
                if not zone or s.get("SubnetAvailabilityZone", {}).get("Name") == zone
            )
        )

    # --- failover ---

    def plan_failover(self, instance_id: str) -> tuple[Effect, ...]:
        """Return what a forced failover would do."""
        now = self.instance(instance_id)
        return now.effects(
            "rds:RebootDBInstance",
            what=f"fail {instance_id} over from {now.zone} to {now.secondary_zone or 'its standby'}",
            undo="none needed: the standby is the writer then, and RDS makes a new standby",
            iam=IAM_FAILOVER,
        )

    def force_failover(self, instance_id: str, *, from_zone: str, permit: Permit, undo: UndoJournal) -> bool:
        """Make the standby the writer, unless the writer has left `from_zone` already; return whether it was asked for.

        It is done when `instance(...).zone` is another one and clients can write. RDS may call a writer that was failed
        over available in its old zone for some time; a second reboot then would fail it back. So what this run has
        asked for is not asked for again until it must have shown (FAILOVER_SHOWS_S, less in a lab), or RDS refused it:
        callers wait for the zone. It is after that, as the call of a process that was killed may never have been sent.
        Other runs' failovers count for nothing: they were waited for.
        Raises Refused without consent, TargetError if there is no standby or RDS is busy with the instance.
        """
        named(from_zone, "zone")
        named(instance_id, "database")
        self._account.may_break(permit)
        now = self.instance(instance_id)
        self._account.must_consent(instance_id, now.tags, permit)
        if now.zone != from_zone or now.status in MOVING:
            return False
        if not now.multi_az:
            raise TargetError(
                f"{instance_id} cannot fail over: it has no standby (MultiAZ is off)",
                "turn Multi-AZ on, or accept that the loss of its zone is the loss of the database",
                "InvalidParameterCombination",
            )
        if self._may_show_yet(instance_id, from_zone, undo):
            return False
        record = undo.will(
            "leave_failed_over",
            region=self._region,
            aws_region=self._region,
            instance_id=instance_id,
            zone=from_zone,
            asked_at=clock.wall_utc().isoformat(timespec="seconds"),
        )
        permit.check()
        try:
            self._rds.reboot_db_instance(DBInstanceIdentifier=instance_id, ForceFailover=True)
        except TargetError as e:
            # A retry of a call whose answer was lost finds the instance rebooting: that is what was asked for.
            if e.code in NOT_NOW and self.instance(instance_id).status in MOVING:
                return True
            if e.code in NOT_NOW:  # RDS has not done it, so it may be asked for again at any time
                undo.done(record)
            raise
        return True

    def _may_show_yet(self, instance_id: str, from_zone: str, undo: UndoJournal) -> bool:
        """Return whether this run has asked for this failover so lately that RDS may not show it yet."""
        same = {"aws_region": self._region, "instance_id": instance_id, "zone": from_zone}
        asked = (r.args for r in undo.pending() if r.verb == "leave_failed_over")
        moments = (moment_of(str(a.get("asked_at", ""))) for a in asked if same.items() <= a.items())
        shows = timedelta(seconds=FAILOVER_SHOWS_S * self._account.target.pace)
        return any(m is not None and clock.wall_utc() < m + shows for m in moments)

    # --- stop and start ---

    def plan_stop(self, instance_id: str) -> tuple[Effect, ...]:
        """Return what stopping an instance would do."""
        now = self.instance(instance_id)
        return now.effects("rds:StopDBInstance", what=f"stop {instance_id}", undo=f"start {instance_id}", iam=IAM_STOP)

    def stop(self, instance_id: str, *, permit: Permit, undo: UndoJournal) -> bool:
        """Stop an instance; return whether it was asked for (False: it is stopping or stopped already)."""
        named(instance_id, "database")
        self._account.may_break(permit)
        now = self.instance(instance_id)
        self._account.must_consent(instance_id, now.tags, permit)
        if now.status in {"stopping", "stopped"}:
            return False
        undo.will("start_database", region=self._region, aws_region=self._region, instance_id=instance_id)
        self._rds.stop_db_instance(DBInstanceIdentifier=instance_id)
        return True

    def start(self, instance_id: str) -> bool:
        """Start an instance; return whether it was asked for (False: it is not stopped)."""
        named(instance_id, "database")
        self._account.assert_account()
        if self.instance(instance_id).status != "stopped":
            return False
        self._rds.start_db_instance(DBInstanceIdentifier=instance_id)
        return True

    # --- Multi-AZ ---

    def plan_make_multi_az(self, instance_id: str) -> tuple[Effect, ...]:
        """Return what giving an instance a standby would do; nothing if it has one."""
        found = self._described(instance_id)
        now = instance_of(self._account, found)
        if _is_or_will_be_multi_az(found):
            return ()
        return now.effects(
            "rds:ModifyDBInstance",
            what=f"give {instance_id} a standby in another zone (Multi-AZ)",
            undo=f"take the standby of {instance_id} away again",
            iam=IAM_MULTI_AZ,
        )

    def make_multi_az(self, instance_id: str, *, permit: Permit, undo: UndoJournal) -> bool:
        """Give an instance a standby; return whether it was asked for (False: it has or is getting one).

        It is done when `instance(...).redundant`. Raises Refused without consent.
        """
        named(instance_id, "database")
        self._account.may_break(permit)
        found = self._described(instance_id)
        self._account.must_consent(instance_id, tags_of(found.get("TagList")), permit)
        if _is_or_will_be_multi_az(found):
            return False
        undo.will("make_single_az", region=self._region, aws_region=self._region, instance_id=instance_id)
        permit.check()
        try:
            self._rds.modify_db_instance(DBInstanceIdentifier=instance_id, MultiAZ=True, ApplyImmediately=True)
        except TargetError as e:
            after = self._described(instance_id)
            if e.code not in NOT_NOW or not _is_or_will_be_multi_az(after):
                raise
        return True

    # --- the replica ---

    def plan_promote_replica(self, replica_id: str) -> tuple[Effect, ...]:
        """Return what promoting a replica would do."""
        now = self.instance(replica_id)
        return now.effects(
            "rds:PromoteReadReplica",
            what=f"make {replica_id} a writer of its own; it stops following {now.source}",
            undo=f"delete {replica_id} without a snapshot and make it again as a replica of {now.source}",
            iam=IAM_PROMOTE,
        )

    def promote_replica(self, replica_id: str, *, permit: Permit, undo: UndoJournal) -> bool:
        """Make a replica a writer; return whether it was asked for (False: it is no replica any more).

        Its undo deletes what was promoted, with what clients wrote to it. So it is tagged with the run first, and
        Refused if it does not consent or is protected from deletion.
        """
        named(replica_id, "replica")
        self._account.may_break(permit)
        found = self._described(replica_id)
        now = instance_of(self._account, found)
        self._account.must_consent(replica_id, now.tags, permit)
        if not now.is_replica:
            return False
        if now.deletion_protection:
            raise Refused(
                f"not promoting {replica_id}: it is protected from deletion, so it could not be put back",
                "turn DeletionProtection off on the replica, or rehearse with another one",
            )
        undo.will(
            "recreate_replica",
            region=self._region,
            aws_region=self._region,
            replica_id=replica_id,
            run_id=permit.run_id,
            settings=again_settings(found, self._account.target),
            real=permit.real,
        )
        self._rds.add_tags_to_resource(ResourceName=now.arn, Tags=[{"Key": RUN_TAG, "Value": permit.run_id}])
        permit.check()
        try:
            self._rds.promote_read_replica(DBInstanceIdentifier=replica_id)
        except TargetError as e:
            # As above: a retry finds the promotion under way.
            if e.code not in NOT_NOW or self.instance(replica_id).is_replica:
                raise
        return True

    def _described(self, instance_id: str) -> DBInstanceTypeDef:
        return described(self._account, self._region, instance_id)


def _is_or_will_be_multi_az(found: Any) -> bool:
    return bool(found.get("PendingModifiedValues", {}).get("MultiAZ", found.get("MultiAZ", False)))


@undo_journal.verb("leave_failed_over")
def leave_failed_over(target: Target, *, aws_region: str, instance_id: str, zone: str, asked_at: str = "") -> str:
    """Say where the writer is: a failover needs no way back, both zones are as good.

    asked_at: ISO 8601, UTC; missing in records of older versions.
    """
    now = Database(target, aws_region).instance(instance_id)
    if now.zone == zone:
        return f"{instance_id} has its writer in {zone}, as before"
    since = f", since a failover that was asked for at {asked_at}" if asked_at else ""
    return f"{instance_id} has its writer in {now.zone} instead of {zone}{since}; that is fine as it is"


@undo_journal.verb("start_database")
def start_database(target: Target, *, aws_region: str, instance_id: str) -> str:
    """Start an instance that was stopped, when it has come to a halt."""
    database = Database(target, aws_region)
    clock.wait_until(
        lambda: database.instance(instance_id).status != "stopping",
        f"{instance_id} has stopped, so that it can be started",
        timeout_s=ACCEPTED_TIMEOUT_S,
        every_s=asking_every_s(target),
    )
    started = database.start(instance_id)
    return f"started {instance_id}" if started else f"{instance_id} is {database.instance(instance_id).status}"


@undo_journal.verb("recreate_replica")
def recreate_replica(
    target: Target, *, aws_region: str, replica_id: str, run_id: str, settings: dict[str, Any], real: bool = False
) -> str:
    """Delete what a run promoted, without a snapshot, and make the replica again. RDS needs minutes to fill it.

    Refuses to delete an instance that is not the one the run promoted (its tag), or that no longer consents (unless it
    was a real recovery that promoted it).
    """
    named(replica_id, "replica")
    account = Account(target, aws_region)
    account.assert_account()
    rds = account.client("rds")
    now = instance_or_none(account, aws_region, replica_id)
    if now is not None and now.is_replica:
        return f"{replica_id} is a replica of {now.source}"
    if now is not None and now.status != "deleting":
        if not real:
            account.must_consent(replica_id, now.tags)
        if now.tags.get(RUN_TAG) != run_id:
            raise Refused(
                f"not deleting {replica_id}: it does not carry {RUN_TAG}={run_id}, so this run did not promote it",
                "look at it, and make the replica again by hand",
            )

    def created() -> bool:
        try:
            rds.create_db_instance_read_replica(**settings)
        except TargetError as e:
            if e.code in NOT_NOW:  # the source is not available yet
                return False
            if not e.code.startswith("DBInstanceAlreadyExists"):
                raise
        return True

    delete_and_wait(account, aws_region, replica_id)
    clock.wait_until(
        created, f"{replica_id} can be made again", timeout_s=ACCEPTED_TIMEOUT_S, every_s=asking_every_s(target)
    )
    return f"making {replica_id} again as a replica of {settings['SourceDBInstanceIdentifier']}"


@undo_journal.verb("make_single_az")
def make_single_az(target: Target, *, aws_region: str, instance_id: str) -> str:
    """Take the standby of an instance away again, as soon as RDS takes orders about it."""
    account = Account(target, aws_region)
    account.assert_account()
    rds = account.client("rds")

    def accepted() -> bool:
        if not _is_or_will_be_multi_az(described(account, aws_region, instance_id)):
            return True
        try:
            rds.modify_db_instance(DBInstanceIdentifier=instance_id, MultiAZ=False, ApplyImmediately=True)
        except TargetError as e:
            if e.code not in NOT_NOW:
                raise
            return False
        return True

    clock.wait_until(
        accepted,
        f"RDS takes the standby of {instance_id} away",
        timeout_s=ACCEPTED_TIMEOUT_S,
        every_s=asking_every_s(target),
    )
    return f"{instance_id} has one zone again"
