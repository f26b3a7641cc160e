"""The database: failed over, cut off, its replica made to lag and promoted; and what of that a client can see."""

from __future__ import annotations

from dataclasses import replace

from drkit import clock
from drkit.chaos import Hit, current, fault, zone_of
from drkit.errors import TargetError, TimedOut, UsageError
from drkit.model import Effect
from drkit.targets import DatabaseTarget, Target
from drkit.targets.aws.database import IAM_FAILOVER, IAM_PROMOTE
from drkit.targets.aws.dns import IAM_POINT
from drkit.targets.aws.network import IAM_ISOLATE
from drkit.targets.aws.permissions import asks

_IAM_LOOK = ("rds:DescribeDBInstances",)
STILL_S = 1.0  # a replica that receives nothing for so long has not merely stumbled
FAILS_OVER_ITSELF_S = 180.0  # RDS promises 60–120 s; longer means that somebody has to ask


def _database(target: Target) -> DatabaseTarget:
    if target.database is None:
        raise UsageError(f"target {target.name} names no database", "add `database` to the target file")
    return target.database


def _replica_id(target: Target) -> str:
    replica_id = _database(target).replica_id
    if not (replica_id and target.recovery_region):
        raise UsageError(
            f"target {target.name} names no cross-region replica", "add database.replica_id and recovery_region"
        )
    return replica_id


# --- failover ---------------------------------------------------------------------------------------------------------


def _plan_fail_over(target: Target) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database

    return Database(target).plan_failover(_database(target).instance_id)


@asks(*IAM_FAILOVER)
@fault(plan=_plan_fail_over)
def fail_over() -> Hit:
    """Make the standby the writer, now."""
    from drkit.targets.aws import Database

    context = current()
    instance_id = _database(context.target).instance_id
    database = Database(context.target)
    zone = database.instance(instance_id).zone
    asked = database.force_failover(instance_id, from_zone=zone, permit=context.permit, undo=context.undo)
    return {"hit": [instance_id] if asked else [], "from_zone": zone}


def _plan_leave(target: Target, *, zone: str, forced_after_s: float = FAILS_OVER_ITSELF_S) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database

    zone = zone_of(target, zone)
    instance_id = _database(target).instance_id
    database = Database(target)
    if database.instance(instance_id).zone != zone:
        return ()
    (effect,) = database.plan_failover(instance_id)
    patience = f"if RDS has not done it by itself after {forced_after_s * target.pace:g} s"
    return (replace(effect, what=f"{patience}: {effect.what}"),)


@asks(*IAM_FAILOVER)
@fault(plan=_plan_leave, role="assist")
def leave_zone(zone: str, forced_after_s: float = FAILS_OVER_ITSELF_S) -> Hit:
    """See to it that the writer leaves a lost zone: wait for RDS to notice by itself, and ask for it if it does not.

    forced_after_s: on AWS; shortened by the target's pace. The output says whether it had to be forced: then the
    recovery time holds that waiting too, as it would on a real night.
    """
    from drkit.targets.aws import Database

    context = current()
    target = context.target
    zone = zone_of(target, zone)
    instance_id = _database(target).instance_id
    database = Database(target)

    def elsewhere() -> bool:
        return database.instance(instance_id).zone != zone

    if elsewhere():
        return {"hit": [instance_id], "forced": False}
    try:
        clock.wait_until(
            elsewhere,
            f"{instance_id} left {zone}",
            timeout_s=forced_after_s * target.pace,
            every_s=0.1 * max(1.0, 50 * target.pace),
            stop=context.stop,
        )
    except TimedOut:
        database.force_failover(instance_id, from_zone=zone, permit=context.permit, undo=context.undo)
        return {"hit": [instance_id], "forced": True}
    return {"hit": [instance_id], "forced": False}


# --- cut off ----------------------------------------------------------------------------------------------------------


def _plan_cut_writer(target: Target, *, everywhere: bool = False) -> tuple[Effect, ...]:
    from drkit.targets.aws import Subnets

    zones = target.zones if everywhere else (_writer_zone(target),)
    ids = set(_writer_subnets(target, everywhere))
    return tuple(e for zone in zones for e in Subnets(target).plan_isolate(zone) if e.resource in ids)


@asks(*_IAM_LOOK, *IAM_ISOLATE)
@fault(plan=_plan_cut_writer)
def cut_writer(everywhere: bool = False) -> Hit:
    """Let the writer stop answering without closing a connection: its packets vanish in both directions.

    everywhere: the database's subnets in all zones of the region, so that no standby can take over either.
    """
    return _cut(current().target.region, _writer_subnets(current().target, everywhere))


def _plan_cut_replica(target: Target) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database, Subnets

    region, replica_id = str(target.recovery_region), _replica_id(target)
    database = Database(target, region)
    ids = set(database.subnet_ids(replica_id))
    zones = sorted({database.instance(replica_id).zone})
    return tuple(e for zone in zones for e in Subnets(target, region).plan_isolate(zone) if e.resource in ids)


@asks(*_IAM_LOOK, *IAM_ISOLATE)
@fault(plan=_plan_cut_replica)
def cut_replica() -> Hit:
    """Let the cross-region replica fall behind: no packet reaches it any more.

    A replay that is only paused loses nothing, since promotion replays all that was received; the link has to go.
    """
    target = current().target
    return _cut(str(target.recovery_region), tuple(e.resource for e in _plan_cut_replica(target)))


def _cut(region: str, subnet_ids: tuple[str, ...]) -> Hit:
    from drkit.targets.aws import Subnets

    context = current()
    subnets = Subnets(context.target, region)
    for subnet_id in subnet_ids:
        subnets.isolate(subnet_id, permit=context.permit, undo=context.undo)
    return {"hit": list(subnet_ids)}


def _writer_zone(target: Target) -> str:
    from drkit.targets.aws import Database

    return Database(target).instance(_database(target).instance_id).zone


def _writer_subnets(target: Target, everywhere: bool) -> tuple[str, ...]:
    from drkit.targets.aws import Database

    zone = "" if everywhere else _writer_zone(target)
    return Database(target).subnet_ids(_database(target).instance_id, zone)


# --- the replica takes over -------------------------------------------------------------------------------------------


def _plan_promote_replica(target: Target) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database, Records

    database = _database(target)
    replica_id = _replica_id(target)
    promote = Database(target, str(target.recovery_region)).plan_promote_replica(replica_id)
    if not (database.dns_record and database.hosted_zone_id):
        return promote
    host = Database(target, str(target.recovery_region)).instance(replica_id).host
    return (*promote, *Records(target, database.hosted_zone_id).plan_point(database.dns_record, host))


@asks(*IAM_PROMOTE, *IAM_POINT, *IAM_ISOLATE)
@fault(plan=_plan_promote_replica, role="recovery")
def promote_replica(timeout_s: float = 1800.0) -> Hit:
    """Make the cross-region replica the writer and point the writer's DNS record at it.

    Its network is given back only when it is promoted, so that it can't catch up first. timeout_s: on AWS; shortened by
    the target's pace, at least 20 s.
    """
    from drkit.chaos.undo import put_back
    from drkit.targets.aws import Database, Records

    context = current()
    target = context.target
    database, replica_id = _database(target), _replica_id(target)
    region = str(target.recovery_region)
    replicas = Database(target, region)
    replicas.promote_replica(replica_id, permit=context.permit, undo=context.undo)

    def promoted() -> bool:
        now = replicas.instance(replica_id)
        return not now.is_replica and now.status == "available"

    clock.wait_until(
        promoted,
        f"{replica_id} is promoted",
        timeout_s=max(20.0, timeout_s * target.pace),
        every_s=0.05 if target.kind == "lab" else 5.0,
        stop=context.stop,
    )
    put_back("restore_acl", region)
    host = replicas.instance(replica_id).host
    if database.dns_record and database.hosted_zone_id:
        Records(target, database.hosted_zone_id).point(
            database.dns_record, host, permit=context.permit, undo=context.undo
        )
    return {"hit": [replica_id], "writer": host}


# --- what can be seen -------------------------------------------------------------------------------------------------


@asks()
def accepts_writes() -> bool:
    """Return whether a transaction commits through the writer endpoint."""
    from drkit.targets import postgres

    return postgres.accepts_writes(current().target)


@asks(*_IAM_LOOK)
def writer_outside(zone: str) -> bool:
    """Witness: RDS says that the writer is in another zone than this one."""
    return _writer_zone(current().target) != zone_of(current().target, zone)


@asks(*_IAM_LOOK)
def writer_moved() -> bool:
    """Witness: the writer endpoint leads to another server than before the run, and RDS names another zone."""
    from drkit.targets import postgres

    context = current()
    try:
        server = postgres.server(context.target)
    except TargetError:
        return False
    return server != context.before.writer_server and _writer_zone(context.target) != context.before.writer_zone


@asks(*_IAM_LOOK)
def writer_silent() -> bool:
    """Witness: the writer, or whoever answered for it, did not answer a fresh connection; or it already moved."""
    return not accepts_writes() or writer_moved()


@asks()
def replica_silent() -> bool:
    """Witness: the writer writes on, and nothing of it reaches the replica.

    A replica whose network is gone stays listed for as long as the writer's wal_sender_timeout, so what counts is that
    its position stands still for STILL_S while the writer's moves.
    """
    first = _positions()
    looks = 10
    for _ in range(looks):
        clock.sleep_s(STILL_S / looks)
        now = _positions()
        if not first or not now:
            return True
        if any(name not in first or lsn != first[name][0] for name, (lsn, _) in now.items()):
            return False
    return all(writer_lsn != first[name][1] for name, (_, writer_lsn) in now.items())


def _positions() -> dict[str, tuple[str, str]]:
    """Return up to where each asynchronous replica has got, and the writer."""
    from drkit.targets import postgres

    return {s.name: (s.flush_lsn, s.writer_lsn) for s in postgres.standbys(current().target) if s.is_replica}


@asks(*_IAM_LOOK)
def is_redundant() -> bool:
    """Return whether the loss of the writer would be survived: RDS names a standby in another zone."""
    from drkit.targets.aws import Database

    target = current().target
    return Database(target).instance(_database(target).instance_id).redundant


@asks(*_IAM_LOOK)
def replica_follows() -> bool:
    """Return whether the cross-region replica is a replica again and RDS says that it replicates."""
    from drkit.targets.aws import Database

    target = current().target
    database = Database(target, str(target.recovery_region))
    replica_id = _replica_id(target)
    if not database.exists(replica_id):
        return False
    now = database.instance(replica_id)
    return now.is_replica and now.status == "available" and now.replication == "replicating"
