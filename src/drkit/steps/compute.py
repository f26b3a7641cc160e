"""Machines: a region scaled up or down, and whether what it should have is healthy."""

from __future__ import annotations

from drkit.errors import Refused, UsageError
from drkit.model import Effect
from drkit.playbook import Recovery, Step, step
from drkit.steps.names import group_of, region_of
from drkit.targets import Target
from drkit.targets.aws.groups import IAM_SCALE
from drkit.targets.aws.permissions import asks

_IAM_LOOK = (
    "autoscaling:DescribeAutoScalingGroups",
    "ec2:DescribeInstances",
    "elasticloadbalancing:DescribeTargetHealth",
)


def _count(text: str | int) -> int:
    try:
        count = int(text)
    except ValueError:
        raise UsageError(f"{text!r} is no number of instances", "--var capacity=3") from None
    if count < 0:
        raise UsageError(f"{count} instances can't be", "give 0 or more")
    return count


@asks(*_IAM_LOOK)
@step(purpose="check")
def can_scale(recovery: Recovery, *, region: str, capacity: str) -> Step:
    """The region's Auto Scaling group may have as many instances as will be asked for."""
    from drkit.targets.aws import Groups

    target = recovery.target

    def done() -> bool:
        group = Groups(target, region_of(target, region)).group(group_of(target, region)[0])
        if group.max_size < _count(capacity):
            raise Refused(
                f"{group.name} may have {group.max_size} instances at most, {capacity} are wanted", "raise MaxSize"
            )
        return True

    return Step(done=done)


def _plan_scale(target: Target, *, region: str, capacity: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Groups

    return Groups(target, region_of(target, region)).plan_scale(group_of(target, region)[0], _count(capacity))


@asks(*_IAM_LOOK, *IAM_SCALE)
@step(plan=_plan_scale)
def scale(recovery: Recovery, *, region: str, capacity: str) -> Step:
    """Ask the region's Auto Scaling group for so many instances; done when it has been asked.

    By hand: aws autoscaling set-desired-capacity --auto-scaling-group-name GROUP --desired-capacity N --region REGION
    """
    from drkit.targets.aws import Groups

    target = recovery.target
    groups, name = Groups(target, region_of(target, region)), group_of(target, region)[0]
    wanted = _count(capacity)

    def act() -> None:
        groups.scale(name, wanted, permit=recovery.permit, undo=recovery.undo)

    return Step(done=lambda: groups.group(name).desired == wanted, act=act)


def _plan_scale_out(target: Target, *, region: str, capacity: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Groups

    groups, name = Groups(target, region_of(target, region)), group_of(target, region)[0]
    return groups.plan_scale(name, _count(capacity)) if groups.group(name).desired < _count(capacity) else ()


@asks(*_IAM_LOOK, *IAM_SCALE)
@step(plan=_plan_scale_out)
def scale_out(recovery: Recovery, *, region: str, capacity: str) -> Step:
    """Ask the region's Auto Scaling group for so many instances, if it wants fewer: what is warm stays.

    By hand: aws autoscaling set-desired-capacity --auto-scaling-group-name GROUP --desired-capacity N --region REGION
    """
    from drkit.targets.aws import Groups

    target = recovery.target
    groups, name = Groups(target, region_of(target, region)), group_of(target, region)[0]
    wanted = _count(capacity)

    def act() -> None:
        groups.scale(name, wanted, permit=recovery.permit, undo=recovery.undo)

    return Step(done=lambda: groups.group(name).desired >= wanted, act=act)


@asks(*_IAM_LOOK)
@step(purpose="recovery")
def has_capacity(recovery: Recovery, *, region: str, capacity: str) -> Step:
    """The region's load balancer has so many healthy targets, at least."""
    from drkit.targets.aws import target_health

    target = recovery.target
    region_name, arn = region_of(target, region), group_of(target, region)[1]

    def healthy() -> int:
        return sum(t.healthy for t in target_health(target, arn, region_name))

    return Step(done=lambda: healthy() >= _count(capacity), result=lambda: {"healthy": healthy()})


@asks(*_IAM_LOOK)
@step(purpose="redundancy")
def every_zone_serves(recovery: Recovery) -> Step:
    """Every zone of the first region has a healthy target, and its group as many instances as it wants."""
    from drkit.targets.aws import Groups, target_health

    target = recovery.target
    name, arn = group_of(target, "first")

    def done() -> bool:
        zones = {t.zone for t in target_health(target, arn) if t.healthy}
        group = Groups(target).group(name)
        return set(target.zones) <= zones and sum(group.in_service_by_zone.values()) >= group.desired

    return Step(done=done)
