"""A zone evacuated before it takes anything down with it, and used again afterwards."""

from __future__ import annotations

from drkit import undo
from drkit.chaos import zone_of
from drkit.errors import StillBroken, UsageError
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.database import ask_to_leave
from drkit.steps.fence import ASK_S
from drkit.steps.names import compute_of, database_of, group_of
from drkit.targets import Target, postgres
from drkit.targets.aws.database import IAM_FAILOVER
from drkit.targets.aws.groups import IAM_HOLD
from drkit.targets.aws.permissions import asks
from drkit.targets.aws.shift import IAM_SHIFT

_IAM_LOOK = ("rds:DescribeDBInstances",)
_IAM_HEALTH = ("ec2:DescribeInstances", "elasticloadbalancing:DescribeTargetHealth")


def _observe_zone(recovery: Recovery, *, zone: str) -> Facts:
    """Return the zone by its full name: "writer" is where the writer was when it began."""
    return {"zone": zone_of(recovery.target, zone)}


def _zone(recovery: Recovery, named_by: str) -> str:
    zone = recovery.known(named_by).get("zone")
    if not zone:
        raise UsageError(f"step {named_by} has not written down which zone is evacuated", "")
    return str(zone)


@asks(*_IAM_LOOK, *_IAM_HEALTH)
@step(purpose="check")
def others_can_carry(recovery: Recovery, *, zone: str) -> Step:
    """Every other zone has a healthy target: there is somewhere to go."""
    from drkit.targets.aws import target_health

    target = recovery.target

    def done() -> bool:
        healthy = {t.zone for t in target_health(target, group_of(target, "first")[1]) if t.healthy}
        return set(target.zones) - {zone_of(target, zone)} <= healthy

    return Step(done=done)


def _plan_shift(target: Target, *, zone: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import ZonalShifts

    return ZonalShifts(target).plan_start(zone_of(target, zone))


@asks(*_IAM_LOOK, *IAM_SHIFT)
@step(plan=_plan_shift, observe=_observe_zone)
def shift(recovery: Recovery, *, zone: str, facts: Facts) -> Step:
    """Let the load balancer send nothing to the zone any more: a zonal shift, which ends by itself after two hours.

    By hand: aws arc-zonal-shift start-zonal-shift --resource-identifier ARN --away-from ZONE-ID --expires-in 2h
    """
    from drkit.targets.aws import ZonalShifts

    shifts = ZonalShifts(recovery.target)

    def done() -> bool:
        now = shifts.active()
        return now is not None and now.zone == facts["zone"]

    def act() -> None:
        comment = f"drkit {recovery.run.run_id}"
        shifts.start(facts["zone"], comment=comment, permit=recovery.permit, undo=recovery.undo)

    return Step(done=done, act=act, result=lambda: {"zone": facts["zone"]})


def _plan_hold(target: Target, *, zone: str, named_by: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Groups

    return Groups(target).plan_hold_launches(group_of(target, "first")[0], zone_of(target, zone))


@asks(*_IAM_LOOK, *IAM_HOLD)
@step(plan=_plan_hold)
def hold_refill(recovery: Recovery, *, zone: str, named_by: str) -> Step:
    """Take the zone out of the Auto Scaling group: what it has there is drained, and nothing is launched there."""
    from drkit.targets.aws import Groups, Subnets

    target = recovery.target
    groups, name = Groups(target), group_of(target, "first")[0]
    away = _zone(recovery, named_by)

    def done() -> bool:
        inside = {s.subnet_id for s in Subnets(target).in_zone(away)}
        return not inside & set(groups.group(name).subnet_ids)

    def act() -> None:
        groups.hold_launches(name, away, permit=recovery.permit, undo=recovery.undo)

    return Step(done=done, act=act)


@asks(*_IAM_HEALTH)
@step(purpose="recovery")
def is_drained(recovery: Recovery, *, named_by: str) -> Step:
    """The load balancer has no target in the zone any more."""
    from drkit.targets.aws import target_health

    target, away = recovery.target, _zone(recovery, named_by)

    def left() -> int:
        members = target_health(target, group_of(target, "first")[1])
        return sum(t.zone == away and t.state != "draining" for t in members)

    return Step(done=lambda: left() == 0)


def _plan_leave(target: Target, *, zone: str, named_by: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database

    database, instance_id = Database(target), database_of(target).instance_id
    if database.instance(instance_id).zone != zone_of(target, zone):
        return ()
    return database.plan_failover(instance_id)


@asks(*IAM_FAILOVER)
@step(plan=_plan_leave)
def writer_leaves(recovery: Recovery, *, zone: str, named_by: str) -> Step:
    """See to it that the database's writer is not in the zone: fail it over if it is there, and only then."""
    from drkit.targets.aws import Database

    target, away = recovery.target, _zone(recovery, named_by)
    database, instance_id = Database(target), database_of(target).instance_id

    def done() -> bool:
        now = database.instance(instance_id)
        return now.zone != away and now.status == "available" and postgres.accepts_writes(target, timeout_s=ASK_S)

    def act() -> None:
        ask_to_leave(recovery, instance_id, away)

    return Step(done=done, act=act, result=lambda: {"writer_zone": database.instance(instance_id).zone})


def _plan_use(target: Target, *, zone: str, named_by: str) -> tuple[Effect, ...]:
    arn = compute_of(target).load_balancer_arn or ""
    return (
        Effect(
            call="arc-zonal-shift:CancelZonalShift",
            resource=arn,
            region=target.region,
            what=f"end the zonal shift, and give the Auto Scaling group its subnets in {zone} back",
            undo="none needed: that is how it was before",
            iam=(*IAM_SHIFT, *IAM_HOLD),
            consented=True,
        ),
    )


@asks(*IAM_SHIFT, *IAM_HOLD)
@step(plan=_plan_use)
def use_again(recovery: Recovery, *, zone: str, named_by: str) -> Step:
    """Use the zone again: give the group its subnets back, end the shift. An undo of this run would do the same."""
    from drkit.targets.aws import Groups, Subnets, ZonalShifts

    target, away = recovery.target, _zone(recovery, named_by)
    name = group_of(target, "first")[0]

    def done() -> bool:
        inside = {s.subnet_id for s in Subnets(target).in_zone(away)}
        ours = inside & set(Groups(target).group(name).subnet_ids)
        now = ZonalShifts(target).active()
        return bool(ours) and (now is None or now.zone != away)

    def act() -> None:
        verbs = ("cancel_zonal_shift", "restore_asg_subnets", "resume_launches")
        recovery.permit.check()
        failed = [u for u in undo.replay(recovery.undo, target, only=lambda r: r.verb in verbs) if not u.ok]
        if failed:
            raise StillBroken("; ".join(u.sentence for u in failed), "drkit resume tries again")

    return Step(done=done, act=act)
