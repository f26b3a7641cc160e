"""Availability zones: lost whole, and seen to be lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from drkit.chaos import Hit, current, fault, zone_of
from drkit.errors import UsageError
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.compute import IAM_STOP
from drkit.targets.aws.groups import IAM_HOLD
from drkit.targets.aws.network import IAM_ISOLATE
from drkit.targets.aws.permissions import asks

_IAM_HEALTH = ("ec2:DescribeInstances", "elasticloadbalancing:DescribeTargetHealth")
_IAM_WHERE = ("rds:DescribeDBInstances",)  # which zone "writer" is


def _plan_lose(target: Target, *, zone: str = "writer", hold_launches: bool = True) -> tuple[Effect, ...]:
    from drkit.targets.aws import Groups, Instances, Subnets

    zone = zone_of(target, zone)
    group = _group(target) if hold_launches else None
    held = Groups(target).plan_hold_launches(group, zone) if group else ()
    return (*held, *Subnets(target).plan_isolate(zone), *Instances(target).plan_stop(zone))


@asks(*_IAM_WHERE, *IAM_HOLD, *IAM_ISOLATE, *IAM_STOP)
@fault(plan=_plan_lose)
def lose(zone: str = "writer", hold_launches: bool = True) -> Hit:
    """Lose everything in a zone at once, until it is undone: its subnets are cut and its instances stopped.

    zone: "b", "eu-central-1b", or "writer" for the zone where the database's writer is now. hold_launches: keep the
    Auto Scaling group from launching there, as nothing could in a zone without power. The database is not asked to fail
    over: noticing that its zone is gone is its own business, and part of what is measured.
    """
    from drkit.targets.aws import Groups, Instances, Subnets

    context = current()
    target, permit, undo = context.target, context.permit, context.undo
    zone = zone_of(target, zone)
    subnets, instances = Subnets(target), Instances(target)
    subnet_ids = [s.subnet_id for s in subnets.in_zone(zone)]
    instance_ids = [i.instance_id for i in instances.in_zone(zone)]
    if hold_launches and (group := _group(target)):
        Groups(target).hold_launches(group, zone, permit=permit, undo=undo)
    for subnet_id in subnet_ids[:1]:  # it makes the ACL that all share, so it goes alone; then the rest at once
        subnets.isolate(subnet_id, permit=permit, undo=undo)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(subnets.isolate, s, permit=permit, undo=undo) for s in subnet_ids[1:]]
        stopped = pool.submit(instances.stop, instance_ids, permit=permit, undo=undo) if instance_ids else None
    for call in calls:
        call.result()
    return {"zone": zone, "hit": [*subnet_ids, *(stopped.result() if stopped else ())]}


def _group(target: Target) -> str | None:
    return target.compute.asg_name if target.compute else None


@asks(*_IAM_WHERE, *_IAM_HEALTH)
def is_dark(zone: str) -> bool:
    """Witness: the service does not answer inside the zone any more, and no target there is healthy."""
    target = current().target
    zone = zone_of(target, zone)
    return not _answers(target, zone) and _healthy_by_zone(target).get(zone, 0) == 0


@asks(*_IAM_WHERE, *_IAM_HEALTH)
def is_lost(zone: str) -> bool:
    """Witness: the zone is dark, and the database's writer, if it was there, is silent or has left.

    RDS has moved it by itself, that is: that this run forced it away says nothing of the zone.
    """
    zone = zone_of(current().target, zone)
    return is_dark(zone) and _has_no_writer(zone)


def _has_no_writer(zone: str) -> bool:
    from drkit.targets import postgres
    from drkit.targets.aws import Database

    context = current()
    database = context.target.database
    if database is None or context.before.writer_zone != zone:
        return True
    silent = not postgres.accepts_writes(context.target)
    gone = silent or Database(context.target).instance(database.instance_id).zone != zone
    # Asked last: a failover that this run forces is on record before it begins, and it silences the writer too.
    return gone and not any(r.verb == "leave_failed_over" for r in context.undo.records())


@asks(*_IAM_WHERE, "ec2:DescribeInstances")
def launched_into(zone: str) -> str:
    """Return which instances were launched in a zone since the run began, or "nothing": a refill into a dead zone."""
    from drkit.targets.aws import Instances

    context = current()
    running = Instances(context.target).in_zone(zone_of(context.target, zone))
    return ", ".join(i.instance_id for i in running if i.instance_id not in context.before.instance_ids) or "nothing"


@asks(*_IAM_HEALTH, "autoscaling:DescribeAutoScalingGroups")
def has_capacity(per_zone: int = 1) -> bool:
    """Return whether every zone of the target has at least this many healthy targets, and its group what it desires."""
    from drkit.targets.aws import Groups

    target = current().target
    healthy = _healthy_by_zone(target)
    if any(healthy.get(zone, 0) < per_zone for zone in target.zones):
        return False
    if not (target.compute and target.compute.asg_name):
        return True
    group = Groups(target).group(target.compute.asg_name)
    return sum(group.in_service_by_zone.values()) >= group.desired


def _healthy_by_zone(target: Target) -> dict[str, int]:
    from drkit.targets.aws import target_health

    if not (target.compute and target.compute.target_group_arn):
        raise UsageError(f"target {target.name} names no target group", "add compute.target_group_arn")
    healthy: dict[str, int] = {}
    for member in target_health(target, target.compute.target_group_arn):
        if member.healthy:
            healthy[member.zone] = healthy.get(member.zone, 0) + 1
    return healthy


def _answers(target: Target, zone: str) -> bool:
    """Return whether the service inside a zone answers; False too where the target names no address for it."""
    import http.client

    url = target.service.zone_urls.get(zone) if target.service else None
    if not (url and target.service):
        return False
    parts = urlsplit(url)
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=1.0)
    try:
        connection.request("GET", target.service.health_path)
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
