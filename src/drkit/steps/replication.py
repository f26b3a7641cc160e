"""Replicas made again: an overtaken instance retired, made anew as a follower, and caught up before it takes over."""

from __future__ import annotations

from drkit import clock
from drkit.errors import UsageError
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.fence import ASK_S
from drkit.steps.names import endpoint_of, instance_of, region_of, run_suffix
from drkit.targets import Target, postgres, readonly
from drkit.targets.aws.backups import IAM_BACKUP_REPLICATION
from drkit.targets.aws.permissions import asks
from drkit.targets.aws.replication import IAM_DROP, IAM_REPLICATE, IAM_RETIRE

_IAM_LOOK = ("rds:DescribeDBInstances",)


def _observe_retire(recovery: Recovery, *, instance: str, region: str, source: str, source_region: str) -> Facts:
    """Return how to make the instance again as a replica, and which server it is now: its resource id."""
    from drkit.targets.aws import Database, Replication

    target, name = recovery.target, region_of(recovery.target, region)
    old, instance_id = Database(target, name), instance_of(target, instance)
    if not old.exists(instance_id):
        raise UsageError(f"{instance_id} is not in {name}: how it was made is not known", "make it by hand")
    arn = Database(target, region_of(target, source_region)).instance(instance_of(target, source)).arn
    return {
        "settings": Replication(target, name).replica_settings(instance_id, arn),
        "resource_id": old.instance(instance_id).resource_id,
        "subnet_ids": list(old.subnet_ids(instance_id)),
    }


def _plan_retire(target: Target, *, instance: str, region: str, source: str, source_region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Replication

    instance_id = instance_of(target, instance)
    return Replication(target, region_of(target, region)).plan_retire(
        instance_id, final_snapshot_id=f"{instance_id}-(date)-(run)"
    )


@asks(*IAM_RETIRE)
@step(plan=_plan_retire, observe=_observe_retire, purpose="preparation")
def retire(recovery: Recovery, *, instance: str, region: str, source: str, source_region: str, facts: Facts) -> Step:
    """Delete an instance that has been overtaken, with a final snapshot; done when it is gone.

    Only the very server that was there at the start: one of the same name that was made since is left alone.
    By hand: aws rds delete-db-instance --db-instance-identifier INSTANCE --final-db-snapshot-identifier SNAPSHOT
    """
    from drkit.targets.aws import Database, Replication

    target, name = recovery.target, region_of(recovery.target, region)
    database, instance_id = Database(target, name), instance_of(target, instance)

    def gone() -> bool:
        return not database.exists(instance_id) or database.instance(instance_id).resource_id != facts["resource_id"]

    def act() -> None:
        Replication(target, name).retire(
            instance_id,
            final_snapshot_id=f"{instance_id}-{run_suffix(recovery)}",
            permit=recovery.permit,
            undo=recovery.undo,
        )

    return Step(done=gone, act=act)


def _plan_drop(target: Target, *, instance: str, region: str, source: str, source_region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Replication

    return Replication(target, region_of(target, region)).plan_drop(instance_of(target, instance))


@asks(*IAM_DROP)
@step(plan=_plan_drop, observe=_observe_retire, purpose="preparation")
def drop_replica(
    recovery: Recovery, *, instance: str, region: str, source: str, source_region: str, facts: Facts
) -> Step:
    """Delete a replica that follows an overtaken writer; done when it is gone. How it was made is written down."""
    from drkit.targets.aws import Database, Replication

    target, name = recovery.target, region_of(recovery.target, region)
    database, instance_id = Database(target, name), instance_of(target, instance)

    def gone() -> bool:
        return not database.exists(instance_id) or database.instance(instance_id).resource_id != facts["resource_id"]

    def act() -> None:
        Replication(target, name).drop(instance_id, permit=recovery.permit)

    return Step(done=gone, act=act)


def _plan_replicate(target: Target, *, instance: str, region: str, retired: str) -> tuple[Effect, ...]:
    name, instance_id = region_of(target, region), instance_of(target, instance)
    return (
        Effect(
            call="rds:CreateDBInstanceReadReplica",
            resource=instance_id,
            region=name,
            what=f"make {instance_id} again in {name}, as a replica of the writer",
            undo=f"none needed: while it only follows, {instance_id} harms nobody",
            iam=IAM_REPLICATE,
            consented=True,
        ),
    )


@asks(*IAM_REPLICATE)
@step(plan=_plan_replicate, purpose="preparation")
def replicate(recovery: Recovery, *, instance: str, region: str, retired: str) -> Step:
    """Make an instance again as a replica of the writer, as it was before; done when RDS says that it replicates.

    retired: the step that deleted it and wrote down how it was made. Its standby is made later, when it is the writer.
    By hand: aws rds create-db-instance-read-replica --source-db-instance-identifier ARN
    """
    return _replicate(recovery, instance, region, retired, standby=False)


@asks(*IAM_REPLICATE)
@step(plan=_plan_replicate, purpose="redundancy")
def replicate_for_redundancy(recovery: Recovery, *, instance: str, region: str, retired: str) -> Step:
    """Make the replica in the other region again: with it the loss of a region would be survived once more."""
    return _replicate(recovery, instance, region, retired, standby=True)


def _replicate(recovery: Recovery, instance: str, region: str, retired: str, *, standby: bool) -> Step:
    from drkit.targets.aws import Database, Replication

    target, name = recovery.target, region_of(recovery.target, region)
    database, instance_id = Database(target, name), instance_of(target, instance)

    def done() -> bool:
        if not database.exists(instance_id):
            return False
        now = database.instance(instance_id)
        return now.is_replica and now.status == "available" and now.replication == "replicating"

    def act() -> None:
        settings = dict(recovery.known(retired).get("settings") or {})
        if not settings:
            raise UsageError(f"step {retired} has not written down how {instance_id} was made", "")
        if not standby:
            settings.pop("MultiAZ", None)
        Replication(target, name).create_replica(settings, permit=recovery.permit, undo=recovery.undo)

    return Step(done=done, act=act)


def _plan_stop_writes(target: Target, *, instance: str, region: str) -> tuple[Effect, ...]:
    instance_id = instance_of(target, instance)
    return (
        Effect(
            call="sql:ALTER DATABASE … SET default_transaction_read_only",
            resource=instance_id,
            region=region_of(target, region),
            what=f"let {instance_id} take no more writes, and end its sessions",
            undo=f"let {instance_id} take writes again",
            consented=True,
        ),
    )


@asks(*_IAM_LOOK)
@step(plan=_plan_stop_writes, purpose="preparation", again=True)
def stop_writes(recovery: Recovery, *, instance: str, region: str) -> Step:
    """Let the writer take no more writes while its replica still follows, so that nothing is lost by the switch.

    It is no fence: a client that insists can still write. The fence comes after the replica has everything.
    """
    target = recovery.target
    region_name, instance_id = region_of(target, region), instance_of(target, instance)
    at = endpoint_of(target, region_name, instance_id)
    ended: list[bool] = []  # of this process: a setting alone, left by a killed one, ends no session

    def act() -> None:
        readonly.stop_writes(target, region_name, instance_id, at, recovery.permit, recovery.undo)
        ended.append(True)

    return Step(done=lambda: bool(ended) and readonly.is_read_only(target, at), act=act)


@asks(*_IAM_LOOK)
@step(purpose="preparation", again=True)
def has_everything(recovery: Recovery, *, instance: str, region: str, writer: str, writer_region: str) -> Step:
    """The replica has received all that the writer ever wrote, as two looks in a row agree, and no more is written.

    Should the writer take writes again meanwhile (somebody let it, while the playbook stood), they are stopped anew.
    """
    target = recovery.target
    region_name, writer_id = region_of(target, writer_region), instance_of(target, writer)
    here = endpoint_of(target, region_name, writer_id)
    there = endpoint_of(target, region_of(target, region), instance_of(target, instance))
    ended: list[bool] = []

    def act() -> None:
        readonly.stop_writes(target, region_name, writer_id, here, recovery.permit, recovery.undo)
        ended.append(True)

    def done() -> bool:
        if not ended or not readonly.is_read_only(target, here):
            return False
        first = postgres.positions(target, here, there)
        clock.sleep_s(0.2)
        second = postgres.positions(target, here, there)
        return first == second and first[0] <= first[1]

    return Step(
        done=done,
        act=act,
        result=lambda: {"lsn": postgres.lsn_text(postgres.positions(target, here, there)[0])},
    )


@asks(*_IAM_LOOK)
@step(purpose="recovery")
def take_writes(recovery: Recovery, *, instance: str, region: str) -> Step:
    """Let the new writer take writes: it has inherited from the old one that it takes none."""
    target = recovery.target
    region_name, instance_id = region_of(target, region), instance_of(target, instance)
    at = endpoint_of(target, region_name, instance_id)
    return Step(
        done=lambda: postgres.accepts_writes(target, at=at, timeout_s=ASK_S),
        act=lambda: readonly.allow_writes(target, region_name, instance_id, at, recovery.permit),
    )


def _plan_replicate_backups(target: Target, *, instance: str, region: str, to: str) -> tuple[Effect, ...]:
    instance_id = instance_of(target, instance)
    return (
        Effect(
            call="rds:StartDBInstanceAutomatedBackupsReplication",
            resource=instance_id,
            region=region_of(target, to),
            what=f"replicate the automated backups of {instance_id} to {region_of(target, to)}, if they are not",
            undo="none needed: it takes nothing away",
            iam=IAM_BACKUP_REPLICATION,
            consented=True,
        ),
    )


@asks(*_IAM_LOOK, *IAM_BACKUP_REPLICATION)
@step(plan=_plan_replicate_backups, purpose="redundancy")
def replicate_backups(recovery: Recovery, *, instance: str, region: str, to: str) -> Step:
    """Have the writer's automated backups replicated to the other region again: it is a new instance, they are not.

    By hand: aws rds start-db-instance-automated-backups-replication --source-db-instance-arn ARN --region REGION
    """
    from drkit.targets.aws import Backups, Database

    target = recovery.target
    writer = Database(target, region_of(target, region)).instance(instance_of(target, instance))
    backups = Backups(target, region_of(target, to))
    return Step(
        done=lambda: backups.replicates(writer.arn, writer.resource_id),
        act=lambda: backups.replicate(writer.arn, days=max(1, writer.backup_retention_days), permit=recovery.permit),
    )
