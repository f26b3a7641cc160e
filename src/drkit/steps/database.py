"""The database: looked at before, failed over in its region, promoted in the other, made redundant."""

from __future__ import annotations

from drkit.errors import Refused
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.fence import ASK_S, must_be_fenced
from drkit.steps.names import database_of, instance_of, region_of
from drkit.targets import Target, postgres
from drkit.targets.aws.database import FAILOVER_SHOWS_S, IAM_FAILOVER, IAM_MULTI_AZ, MOVING
from drkit.targets.aws.fence import IAM_FENCE
from drkit.targets.aws.permissions import asks
from drkit.targets.aws.replication import IAM_PROMOTE_FOR_GOOD

_IAM_LOOK = ("rds:DescribeDBInstances",)
SERVING = ("available", "backing-up")  # a promoted instance is backed up at once, and serves meanwhile
BACKUP_DAYS = 7  # of a promoted writer: without automated backups nothing can replicate from it


# --- prerequisites ----------------------------------------------------------------------------------------------------


@asks(*_IAM_LOOK)
@step(purpose="check")
def is_multi_az(recovery: Recovery, *, instance: str = "writer") -> Step:
    """RDS has a standby in another zone and is not busy, so that there is something to fail over to."""
    from drkit.targets.aws import Database

    target = recovery.target
    return Step(done=lambda: Database(target).instance(instance_of(target, instance)).redundant)


@asks(*_IAM_LOOK)
@step(purpose="check")
def can_be_promoted(recovery: Recovery, *, instance: str = "replica", region: str = "recovery") -> Step:
    """The replica is there, is a replica, is available, and answers questions."""
    from drkit.targets.aws import Database

    target, name = recovery.target, region_of(recovery.target, region)

    def done() -> bool:
        now = Database(target, name).instance(instance_of(target, instance))
        if not now.is_replica:
            raise Refused(f"{now.instance_id} is no replica", "has the playbook been run already? drkit history")
        return now.status == "available" and postgres.identity(target, at=(now.host, now.port)).in_recovery

    return Step(done=done)


@asks(*_IAM_LOOK)
@step(purpose="check")
def no_other_writer(recovery: Recovery, *, region: str) -> Step:
    """Nothing in the region is a writer of its own already: promoted, or restored, by an earlier recovery."""
    from drkit.targets.aws import Database

    target, name = recovery.target, region_of(recovery.target, region)

    def done() -> bool:
        database = Database(target, name)
        for instance_id in (instance_of(target, "replica"), instance_of(target, "restored")):
            if database.exists(instance_id) and not database.instance(instance_id).is_replica:
                raise Refused(
                    f"{instance_id} in {name} is a writer of its own: a recovery has been here",
                    "going back is: drkit playbook run failback",
                )
        return True

    return Step(done=done)


@asks(*_IAM_LOOK)
@step(purpose="check")
def is_writer(recovery: Recovery, *, instance: str, region: str) -> Step:
    """This instance is a writer of its own and takes writes: where one fails back from."""
    from drkit.targets.aws import Database

    target, name = recovery.target, region_of(recovery.target, region)

    def done() -> bool:
        now = Database(target, name).instance(instance_of(target, instance))
        if now.is_replica:
            raise Refused(f"{now.instance_id} is a replica of {now.source}: there is nothing to go back from", "")
        if not now.backup_retention_days:
            raise Refused(
                f"{now.instance_id} has no automated backups, so nothing can replicate from it", "turn them on"
            )
        return now.status == "available" and postgres.accepts_writes(target, at=(now.host, now.port))

    return Step(done=done)


@asks(*_IAM_LOOK)
@step(purpose="check")
def answers_again(recovery: Recovery, *, region: str = "first") -> Step:
    """RDS of the region answers: it is back."""
    from drkit.targets.aws import Database

    target, name = recovery.target, region_of(recovery.target, region)

    def done() -> bool:
        Database(target, name).exists(database_of(target).instance_id)
        return True

    return Step(done=done)


# --- failover in the region -------------------------------------------------------------------------------------------


def _observe_zone(recovery: Recovery, *, instance: str = "writer") -> Facts:
    from drkit.targets.aws import Database

    return {"from_zone": Database(recovery.target).instance(instance_of(recovery.target, instance)).zone}


def _plan_fail_over(target: Target, *, instance: str = "writer") -> tuple[Effect, ...]:
    from drkit.targets.aws import Database

    return Database(target).plan_failover(instance_of(target, instance))


def ask_to_leave(recovery: Recovery, instance_id: str, zone: str) -> None:
    """Ask RDS to fail over from a zone, once; returns when it was asked, or when it is under way or over already.

    One that a killed runner may have asked for shows only after a while, and is not asked for again until then.
    """
    from drkit.targets.aws import Database

    database = Database(recovery.target)

    def asked() -> bool:
        if database.force_failover(instance_id, from_zone=zone, permit=recovery.permit, undo=recovery.undo):
            return True
        now = database.instance(instance_id)
        return now.zone != zone or now.status in MOVING

    recovery.wait(asked, f"{instance_id} may be asked to leave {zone}", timeout_s=2 * FAILOVER_SHOWS_S)


@asks(*IAM_FAILOVER)
@step(plan=_plan_fail_over, observe=_observe_zone)
def fail_over(recovery: Recovery, *, instance: str = "writer", facts: Facts) -> Step:
    """Make the standby the writer; done when RDS names another zone than at the start, and the writer takes writes.

    Where the writer was is written down first: however often this is repeated, it never fails back.
    By hand: aws rds reboot-db-instance --force-failover --db-instance-identifier INSTANCE
    """
    from drkit.targets.aws import Database

    target, database = recovery.target, Database(recovery.target)
    instance_id, zone = instance_of(target, instance), facts["from_zone"]

    def done() -> bool:
        now = database.instance(instance_id)
        return now.zone != zone and now.status == "available" and postgres.accepts_writes(target, timeout_s=ASK_S)

    def act() -> None:
        ask_to_leave(recovery, instance_id, zone)

    return Step(done=done, act=act, result=lambda: {"from_zone": zone, "to_zone": database.instance(instance_id).zone})


@asks(*_IAM_LOOK)
@step(purpose="redundancy")
def is_redundant_again(recovery: Recovery, *, instance: str = "writer") -> Step:
    """RDS has a standby in another zone again: the next failure would be survived."""
    from drkit.targets.aws import Database

    target = recovery.target
    return Step(done=lambda: Database(target).instance(instance_of(target, instance)).redundant)


# --- promotion --------------------------------------------------------------------------------------------------------


def _plan_promote(target: Target, *, instance: str, region: str, behind: str, behind_region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Replication

    return Replication(target, region_of(target, region)).plan_promote(instance_of(target, instance))


def _observe_replayed(recovery: Recovery, *, instance: str, region: str, behind: str, behind_region: str) -> Facts:
    """Return up to which commit the replica has replayed: what was committed later may be lost to it."""
    from drkit.targets.aws import Database

    target = recovery.target
    now = Database(target, region_of(target, region)).instance(instance_of(target, instance))
    return {"replayed": postgres.last_replayed(target, (now.host, now.port)) if now.is_replica else ""}


@asks(*IAM_PROMOTE_FOR_GOOD, *IAM_FENCE)
@step(plan=_plan_promote, observe=_observe_replayed)
def promote(recovery: Recovery, *, instance: str, region: str, behind: str, behind_region: str, facts: Facts) -> Step:
    """Make a replica the writer; done when the server itself says so. There is no way back but to replicate again.

    behind: the step that fenced the old writer; its fence is asked again the moment before.
    By hand: aws rds promote-read-replica --db-instance-identifier INSTANCE --region REGION
    """
    from drkit.targets.aws import Database, Replication

    target, name = recovery.target, region_of(recovery.target, region)
    database, instance_id = Database(target, name), instance_of(target, instance)

    def done() -> bool:
        now = database.instance(instance_id)
        if now.status == "failed":
            raise Refused(
                f"RDS says that {instance_id} has failed: it cannot be promoted any more",
                "what is left is the backup: drkit playbook run restore-from-cross-region-backup",
            )
        if now.is_replica or now.status not in SERVING:
            return False
        return not postgres.identity(target, at=(now.host, now.port), timeout_s=ASK_S).in_recovery

    def act() -> None:
        must_be_fenced(recovery, fence=behind, region=behind_region)
        Replication(target, name).promote(
            instance_id, backup_retention_days=BACKUP_DAYS, permit=recovery.permit, undo=recovery.undo
        )

    def result() -> Facts:
        now = database.instance(instance_id)
        timeline = postgres.identity(target, at=(now.host, now.port)).timeline
        point = {"recovery_point": facts["replayed"]} if facts["replayed"] else {}
        return {"host": now.host, "port": now.port, "timeline": timeline, **point}

    return Step(done=done, act=act, result=result)


def _plan_multi_az(target: Target, *, instance: str, region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database

    return Database(target, region_of(target, region)).plan_make_multi_az(instance_of(target, instance))


@asks(*IAM_MULTI_AZ)
@step(plan=_plan_multi_az, purpose="redundancy")
def make_multi_az(recovery: Recovery, *, instance: str, region: str) -> Step:
    """Give the writer a standby in another zone; done when RDS names it, in sync.

    By hand: aws rds modify-db-instance --multi-az --apply-immediately --db-instance-identifier INSTANCE
    """
    from drkit.targets.aws import Database

    target, name = recovery.target, region_of(recovery.target, region)
    database, instance_id = Database(target, name), instance_of(target, instance)

    def act() -> None:
        database.make_multi_az(instance_id, permit=recovery.permit, undo=recovery.undo)

    return Step(done=lambda: database.instance(instance_id).redundant, act=act)
