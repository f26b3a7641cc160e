"""Auto Scaling groups: how many instances serve in each zone, and launches held back from a zone that is "lost".

Why the zone's subnets are taken out of the group, and Launch is not suspended: a group that loses a zone refills, and
it prefers the zone with the fewest instances, which is the dead one. So it heals the zone too early (the API still
accepts launches there, no power was really lost) or keeps picking the dead one (its network is cut). Suspending
Launch would end that, but the refill of the other zones too, which a zone loss is to test; suspending AZRebalance
does not keep a replacement out of the emptiest zone. Without the zone's subnets the group does what it does in a real
loss: it refills elsewhere. It also terminates what it has left in the zone; undo gives the subnets back and the group
launches there anew.
A group with no subnet elsewhere cannot refill anyway: there Launch is suspended.
(AWS FIS has aws:ec2:asg-insufficient-instance-capacity-error for this: the same result, but in FIS only.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import Account, named, tags_of
from drkit.undo import UndoJournal

IAM_HOLD = (
    "autoscaling:DescribeAutoScalingGroups", "autoscaling:ResumeProcesses", "autoscaling:SuspendProcesses",
    "autoscaling:UpdateAutoScalingGroup", "ec2:DescribeSubnets",
)  # fmt: skip
IAM_SCALE = ("autoscaling:DescribeAutoScalingGroups", "autoscaling:SetDesiredCapacity")


@dataclass(frozen=True, slots=True)
class Member:
    instance_id: str
    zone: str
    lifecycle: str  # InService, Pending, Terminating, Standby, …
    healthy: bool


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    subnet_ids: tuple[str, ...]  # in the group's own order
    desired: int
    min_size: int
    max_size: int
    members: tuple[Member, ...]
    suspended: tuple[str, ...]  # processes: Launch, Terminate, AZRebalance, …
    consented: bool

    @property
    def in_service_by_zone(self) -> dict[str, int]:
        """Return how many healthy members are in service in each zone that has one."""
        return dict(sorted(Counter(m.zone for m in self.members if m.healthy and m.lifecycle == "InService").items()))


class Groups:
    """The Auto Scaling groups of one region."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._asg = self._account.client("autoscaling", self._region)

    def group(self, name: str) -> Group:
        """Return a group as it is now; TargetError if there is none of that name."""
        pages = self._asg.get_paginator("describe_auto_scaling_groups").paginate(
            AutoScalingGroupNames=[named(name, "Auto Scaling group")]
        )
        for page in pages:
            for g in page["AutoScalingGroups"]:
                return Group(
                    name=g["AutoScalingGroupName"],
                    subnet_ids=_split(g.get("VPCZoneIdentifier", "")),
                    desired=g["DesiredCapacity"],
                    min_size=g["MinSize"],
                    max_size=g["MaxSize"],
                    members=tuple(
                        Member(
                            i["InstanceId"], i["AvailabilityZone"], i["LifecycleState"], i["HealthStatus"] == "Healthy"
                        )
                        for i in g.get("Instances", [])
                    ),
                    suspended=tuple(sorted(p["ProcessName"] for p in g.get("SuspendedProcesses", []))),
                    consented=self._account.consented(tags_of(g.get("Tags"))),
                )
        raise TargetError(
            f"there is no Auto Scaling group {name!r} in {self._region}", "see compute.asg_name in the target"
        )

    def plan_hold_launches(self, name: str, zone: str) -> tuple[Effect, ...]:
        """Return what holding launches back from a zone would do; nothing if the group is not in that zone."""
        group = self.group(name)
        inside = self._of_zone(group.subnet_ids, zone)
        if not inside:
            return ()
        everywhere = len(inside) == len(group.subnet_ids)
        return (
            Effect(
                call="autoscaling:SuspendProcesses" if everywhere else "autoscaling:UpdateAutoScalingGroup",
                resource=name,
                region=self._region,
                zone=zone,
                what=f"keep {name} from launching anything"
                if everywhere
                else f"keep {name} from launching in {zone}: take {', '.join(inside)} out of its subnets",
                undo=f"let {name} launch again" if everywhere else f"give {name} {', '.join(inside)} back",
                iam=IAM_HOLD,
                consented=group.consented,
            ),
        )

    def hold_launches(self, name: str, zone: str, *, permit: Permit, undo: UndoJournal) -> tuple[str, ...]:
        """Keep a group from launching in a zone; return the subnets it lost there, () if it had none.

        Raises Refused if the group does not consent.
        """
        named(zone, "zone")
        self._account.may_break(permit)
        group = self.group(name)
        if not group.consented:
            self._account.must_consent(name, {}, permit)
        inside = self._of_zone(group.subnet_ids, zone)
        outside = [s for s in group.subnet_ids if s not in inside]
        if not inside:
            return ()
        if not outside:
            if "Launch" in group.suspended:  # somebody else's: not ours to resume
                return inside
            undo.will("resume_launches", region=self._region, aws_region=self._region, asg_name=name)
            self._asg.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=["Launch"])
            return inside
        undo.will(
            "restore_asg_subnets",
            region=self._region,
            aws_region=self._region,
            asg_name=name,
            subnet_ids=list(group.subnet_ids),
            removed=list(inside),
        )
        self._asg.update_auto_scaling_group(AutoScalingGroupName=name, VPCZoneIdentifier=",".join(outside))
        return inside

    def plan_scale(self, name: str, desired: int) -> tuple[Effect, ...]:
        """Return what scaling a group would do; nothing if it has that size. Raises Refused as `scale` does."""
        group = self.group(name)
        if group.desired == desired:
            return ()
        _must_fit(group, desired)
        return (
            Effect(
                call="autoscaling:SetDesiredCapacity",
                resource=name,
                region=self._region,
                what=f"scale {name} from {group.desired} to {desired} instances",
                undo=f"scale {name} to {group.desired} again",
                iam=IAM_SCALE,
                consented=group.consented,
            ),
        )

    def scale(self, name: str, desired: int, *, permit: Permit, undo: UndoJournal) -> bool:
        """Give a group another size; return whether it was asked for (False: it has that size).

        Minimum and maximum stay. It is done when `in_service_by_zone` adds up to `desired`. Raises Refused if the group
        does not consent, and for a size that its minimum and maximum do not allow.
        """
        self._account.may_break(permit)
        group = self.group(name)
        if not group.consented:
            self._account.must_consent(name, {}, permit)
        if group.desired == desired:
            return False
        _must_fit(group, desired)
        undo.will(
            "restore_group_size", region=self._region, aws_region=self._region, asg_name=name, desired=group.desired
        )
        permit.check()
        self._asg.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=desired, HonorCooldown=False)
        return True

    def plan_suspend_launches(self, name: str) -> tuple[Effect, ...]:
        """Return what keeping a group from launching anywhere would do; nothing if it launches nothing."""
        group = self.group(name)
        if "Launch" in group.suspended:
            return ()
        return (
            Effect(
                call="autoscaling:SuspendProcesses",
                resource=name,
                region=self._region,
                what=f"keep {name} from launching anything",
                undo=f"let {name} launch again",
                iam=IAM_HOLD,
                consented=group.consented,
            ),
        )

    def suspend_launches(self, name: str, *, permit: Permit, undo: UndoJournal) -> bool:
        """Keep a group from launching anywhere; return whether it was asked for (False: it launches nothing).

        Raises Refused if the group does not consent.
        """
        self._account.may_break(permit)
        group = self.group(name)
        if not group.consented:
            self._account.must_consent(name, {}, permit)
        if "Launch" in group.suspended:  # somebody else's: not ours to resume
            return False
        undo.will("resume_launches", region=self._region, aws_region=self._region, asg_name=name)
        self._asg.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=["Launch"])
        return True

    def _of_zone(self, subnet_ids: tuple[str, ...], zone: str) -> tuple[str, ...]:
        named(zone, "zone")
        if not subnet_ids:
            return ()
        described = self._account.client("ec2", self._region).describe_subnets(SubnetIds=list(subnet_ids))["Subnets"]
        inside = {s["SubnetId"] for s in described if s["AvailabilityZone"] == zone}
        return tuple(s for s in subnet_ids if s in inside)


def _must_fit(group: Group, desired: int) -> None:
    if not group.min_size <= desired <= group.max_size:
        side, limit = ("above", "MaxSize") if desired > group.max_size else ("below", "MinSize")
        raise Refused(
            f"not scaling {group.name} to {desired}: that is {side} its {limit} "
            f"({group.min_size} to {group.max_size} are allowed)",
            f"change {limit} of {group.name} where it is defined, if that many are really meant",
        )


def _split(vpc_zone_identifier: str) -> tuple[str, ...]:
    return tuple(s.strip() for s in vpc_zone_identifier.split(",") if s.strip())


@undo_journal.verb("restore_asg_subnets")
def restore_asg_subnets(
    target: Target, *, aws_region: str, asg_name: str, subnet_ids: list[str], removed: list[str]
) -> str:
    """Give a group the subnets back that it lost; what somebody else changed meanwhile stays changed."""
    groups = Groups(target, aws_region)
    account = Account(target, aws_region)
    account.assert_account()
    now = groups.group(asg_name).subnet_ids
    if set(removed) <= set(now):
        return f"{asg_name} has {', '.join(removed)}"
    ours = [s for s in subnet_ids if s in now or s in removed]
    wanted = ours + [s for s in now if s not in ours]
    account.client("autoscaling", aws_region).update_auto_scaling_group(
        AutoScalingGroupName=asg_name, VPCZoneIdentifier=",".join(wanted)
    )
    return f"gave {asg_name} {', '.join(removed)} back"


@undo_journal.verb("resume_launches")
def resume_launches(target: Target, *, aws_region: str, asg_name: str) -> str:
    """Let a group launch again."""
    account = Account(target, aws_region)
    account.assert_account()
    if "Launch" not in Groups(target, aws_region).group(asg_name).suspended:
        return f"{asg_name} may launch"
    account.client("autoscaling", aws_region).resume_processes(
        AutoScalingGroupName=asg_name, ScalingProcesses=["Launch"]
    )
    return f"let {asg_name} launch again"


@undo_journal.verb("restore_group_size")
def restore_group_size(target: Target, *, aws_region: str, asg_name: str, desired: int) -> str:
    """Give a group the size back that it had, within the minimum and maximum that it has now."""
    groups = Groups(target, aws_region)
    account = Account(target, aws_region)
    account.assert_account()
    now = groups.group(asg_name)
    wanted = max(now.min_size, min(desired, now.max_size))
    if now.desired == wanted:
        return f"{asg_name} has {wanted} instances"
    account.client("autoscaling").set_desired_capacity(
        AutoScalingGroupName=asg_name, DesiredCapacity=wanted, HonorCooldown=False
    )
    return f"scaled {asg_name} from {now.desired} to {wanted} instances again"
