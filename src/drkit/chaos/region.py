"""A region: lost whole, and seen to be lost. Nothing in it heals this; who recovers it elsewhere is a playbook's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from drkit.chaos import Hit, current, fault
from drkit.chaos.zone import is_dark
from drkit.model import Effect
from drkit.targets import Target, postgres
from drkit.targets.aws.groups import IAM_HOLD
from drkit.targets.aws.network import IAM_ISOLATE
from drkit.targets.aws.permissions import asks

_IAM_HEALTH = ("ec2:DescribeInstances", "elasticloadbalancing:DescribeTargetHealth")


def _plan_lose(target: Target) -> tuple[Effect, ...]:
    from drkit.targets.aws import Groups, Subnets

    group = target.compute.asg_name if target.compute else None
    held = Groups(target).plan_suspend_launches(group) if group else ()
    return (*held, *(e for zone in target.zones for e in Subnets(target).plan_isolate(zone)))


@asks(*IAM_HOLD, *IAM_ISOLATE)
@fault(plan=_plan_lose)
def lose() -> Hit:
    """Cut every subnet of the first region from the network, until it is undone.

    What runs there runs on, reachable by nobody: its database is alive and would take writes, as after a real loss of
    the region's network. So the loss also shows whether whoever recovers it fences the old writer. AWS's own APIs of
    the region go on answering: no test can take those away.
    """
    from drkit.targets.aws import Groups, Subnets

    context = current()
    target, permit, undo = context.target, context.permit, context.undo
    subnets = Subnets(target)
    ids = [s.subnet_id for zone in target.zones for s in subnets.in_zone(zone)]
    if target.compute and target.compute.asg_name:
        Groups(target).suspend_launches(target.compute.asg_name, permit=permit, undo=undo)
    for subnet_id in ids[:1]:  # it makes the ACL that all share, so it goes alone; then the rest at once
        subnets.isolate(subnet_id, permit=permit, undo=undo)
    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(subnets.isolate, s, permit=permit, undo=undo) for s in ids[1:]]:
            call.result()
    return {"hit": ids}


@asks(*_IAM_HEALTH, "rds:DescribeDBInstances")
def is_lost() -> bool:
    """Witness: the service is dark in every zone of the region, and the old writer's own endpoint takes no write."""
    from drkit.targets.aws import Database

    target = current().target
    if not all(is_dark(zone) for zone in target.zones):
        return False
    if target.database is None:
        return True
    writer = Database(target).instance(target.database.instance_id)
    return not postgres.accepts_writes(target, at=(writer.host, writer.port))
