"""The machines of a zone: instances stopped and started again, and instances behind a load balancer.

Auto Scaling groups, which replace them, are in groups.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import Account, named, tags_of
from drkit.targets.aws.network import vpc_of
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeDef

IAM_STOP = ("ec2:DescribeInstances", "ec2:StartInstances", "ec2:StopInstances")
# Instances named in one call: their ids have to fit into one undo record, whose cloud copy may have 4096 characters.
BATCH = 100
PAGE = 500  # instances EC2 describes at once
STOPPING_TIMEOUT_S = 600.0  # how long undo waits for instances that are still stopping; EC2 takes minutes at worst


@dataclass(frozen=True, slots=True)
class Instance:
    instance_id: str
    state: str  # EC2's word: pending, running, stopping, stopped, shutting-down, terminated
    zone: str
    subnet_id: str
    private_ip: str
    name: str
    asg_name: str  # "" outside of any Auto Scaling group
    spot: bool
    consented: bool


class Instances:
    """The EC2 instances of a target's VPC in one region."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._ec2 = self._account.client("ec2", self._region)

    def in_zone(self, zone: str) -> tuple[Instance, ...]:
        """Return the pending and running instances of a zone that carry the consent tag, by id."""
        key, value = self._account.target.consent_tag
        return self._described(
            [
                {"Name": "vpc-id", "Values": [vpc_of(self._account.target, self._region)]},
                {"Name": "availability-zone", "Values": [named(zone, "zone")]},
                {"Name": f"tag:{key}", "Values": [value]},
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
            ]
        )

    def by_id(self, instance_ids: Sequence[str]) -> tuple[Instance, ...]:
        """Return the named instances in any state, by id; those that EC2 has forgotten are left out."""
        found: list[Instance] = []
        for ids in batches(_named_all(instance_ids)):
            # A filter, unlike InstanceIds, does not fail for an instance that was terminated an hour ago.
            found += self._described([{"Name": "instance-id", "Values": ids}])
        return tuple(sorted(found, key=lambda i: i.instance_id))

    def plan_stop(self, zone: str) -> tuple[Effect, ...]:
        """Return what stopping the instances of a zone would do; spot instances are left out, as in `stop`."""
        return tuple(
            Effect(
                call="ec2:StopInstances",
                resource=i.instance_id,
                region=self._region,
                zone=i.zone,
                what=f"stop {i.name or i.instance_id} without shutting its system down",
                undo=f"start {i.instance_id} again"
                + (f", unless {i.asg_name} has replaced it by then" if i.asg_name else ""),
                iam=IAM_STOP,
                consented=i.consented,
            )
            for i in self.in_zone(zone)
            if not i.spot and i.state == "running"
        )

    def stop(self, instance_ids: Sequence[str], *, permit: Permit, undo: UndoJournal) -> tuple[str, ...]:
        """Cut the power of instances; return the ids of those that really were running and are stopping now.

        Only running instances are stopped, so undo starts none that was stopped before. Spot instances are left alone:
        stopping one ends its request, which nothing can undo (cut their subnet instead).
        Raises Refused for no ids, and if any of them does not consent: then none is stopped.
        """
        ids = _named_all(instance_ids)
        self._account.may_break(permit)
        instances = self.by_id(ids)
        unwilling = [i for i in instances if not i.consented]
        if unwilling:
            self._account.must_consent(unwilling[0].instance_id, {}, permit)
        running = [i.instance_id for i in instances if i.state == "running" and not i.spot]
        stopped: list[str] = []
        for batch in batches(running):
            permit.check()
            undo.will("start_instances", region=self._region, aws_region=self._region, instance_ids=batch)
            stopped += self._stop(batch)
        return tuple(stopped)

    def _stop(self, ids: list[str]) -> list[str]:
        """Stop these and return them, without those that their Auto Scaling group has terminated meanwhile."""
        while ids:
            try:
                self._ec2.stop_instances(InstanceIds=ids, Force=True, SkipOsShutdown=True)
                break
            except TargetError as e:
                # For one that is in no state to be stopped EC2 stops none of them.
                left = [i.instance_id for i in self.by_id(ids) if i.state == "running"]
                if e.code not in {"IncorrectInstanceState", "InvalidInstanceID.NotFound"} or len(left) == len(ids):
                    raise
                ids = left
        return ids

    def _described(self, filters: list[FilterTypeDef]) -> tuple[Instance, ...]:
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=filters, PaginationConfig={"PageSize": PAGE}
        )
        found = [self._value(i) for page in pages for r in page["Reservations"] for i in r.get("Instances", [])]
        return tuple(sorted(found, key=lambda i: i.instance_id))

    def _value(self, described: InstanceTypeDef) -> Instance:
        tags = tags_of(described.get("Tags"))
        return Instance(
            instance_id=described["InstanceId"],
            state=described["State"]["Name"],
            zone=described["Placement"]["AvailabilityZone"],
            subnet_id=described.get("SubnetId", ""),
            private_ip=described.get("PrivateIpAddress", ""),
            name=tags.get("Name", ""),
            asg_name=tags.get("aws:autoscaling:groupName", ""),
            spot=described.get("InstanceLifecycle") == "spot",
            consented=self._account.consented(tags),
        )


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """One member of a target group, as the load balancer sees it."""

    target_id: str  # an instance id or an IP address
    port: int
    state: str  # initial, healthy, unhealthy, draining, unused, unavailable
    reason: str
    zone: str  # "" if it cannot be told

    @property
    def healthy(self) -> bool:
        return self.state == "healthy"


def target_health(target: Target, target_group_arn: str, region: str = "") -> tuple[TargetHealth, ...]:
    """Return the health of each member of a target group, with its zone, by id."""
    elb = Account(target, region).client("elbv2")
    described = elb.describe_target_health(TargetGroupArn=named(target_group_arn, "target group"))
    members = described["TargetHealthDescriptions"]
    ids = [m["Target"]["Id"] for m in members if m["Target"]["Id"].startswith("i-")]
    zones = {i.instance_id: i.zone for i in Instances(target, region).by_id(ids)} if ids else {}
    health = [
        TargetHealth(
            target_id=m["Target"]["Id"],
            port=m["Target"].get("Port", 0),
            state=m["TargetHealth"]["State"],
            reason=m["TargetHealth"].get("Reason", ""),
            zone=zones.get(m["Target"]["Id"], m["Target"].get("AvailabilityZone", "")),
        )
        for m in members
    ]
    return tuple(sorted(health, key=lambda h: (h.target_id, h.port)))


def batches(ids: Iterable[str], size: int = BATCH) -> Iterator[list[str]]:
    """Yield the ids in lists of at most `size`."""
    rest = iter(ids)
    while batch := list(islice(rest, size)):
        yield batch


def _named_all(instance_ids: Sequence[str]) -> list[str]:
    if not instance_ids:
        raise Refused("no instance was named", "does the zone have running instances with the consent tag?")
    return [named(i, "instance") for i in instance_ids]


@undo_journal.verb("start_instances")
def start_instances(target: Target, *, aws_region: str, instance_ids: list[str]) -> str:
    """Start instances that were stopped; those that were terminated meanwhile (by their ASG) stay so."""
    instances = Instances(target, aws_region)
    account = Account(target, aws_region)
    account.assert_account()
    ec2 = account.client("ec2", aws_region)
    clock.wait_until(
        lambda: not any(i.state == "stopping" for i in instances.by_id(instance_ids)),
        "all instances have stopped, so that they can be started",
        timeout_s=STOPPING_TIMEOUT_S,
        every_s=0.2 if target.kind == "lab" else 5.0,
    )
    started = 0
    for instance in instances.by_id(instance_ids):
        if instance.state != "stopped":
            continue
        # One call each: an instance that its group terminates at this moment must not keep the others down.
        try:
            ec2.start_instances(InstanceIds=[instance.instance_id])
            started += 1
        except TargetError as e:
            if e.code not in {"IncorrectInstanceState", "InvalidInstanceID.NotFound"}:
                raise
    states = [i.state for i in instances.by_id(instance_ids)]
    alive = sum(s in {"pending", "running"} for s in states)
    gone = len(instance_ids) - alive
    return f"started {started} of {len(instance_ids)} instances; {alive} are up" + (
        f", {gone} were terminated or replaced by their Auto Scaling group" if gone else ""
    )
