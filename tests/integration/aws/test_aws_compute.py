"""Instances, Auto Scaling groups and target groups on a mock of AWS."""

from __future__ import annotations

import pytest

from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.targets.aws import Groups, Instances, compute, target_health

from .conftest import CONSENT, ZONES

pytestmark = pytest.mark.lab
IMAGE = "ami-12c6146b"


def run(aws, subnet, count, *, consent=True, **more):
    tags = [{"ResourceType": "instance", "Tags": [CONSENT] if consent else [{"Key": "Name", "Value": "x"}]}]
    made = aws.client("ec2").run_instances(
        ImageId=IMAGE, MinCount=count, MaxCount=count, SubnetId=subnet, TagSpecifications=tags, **more
    )
    return sorted(i["InstanceId"] for i in made["Instances"])


def states(aws, ids):
    found = {}
    for page in (
        aws.client("ec2").get_paginator("describe_instances").paginate(Filters=[{"Name": "instance-id", "Values": ids}])
    ):
        found |= {i["InstanceId"]: i["State"]["Name"] for r in page["Reservations"] for i in r["Instances"]}
    return found


def test_a_zone_stops_and_starts_and_the_rest_stays(aws, network, target, permit, journal) -> None:
    inside = run(aws, network.subnets[ZONES[0]][0], 3)
    resting = inside[:1]
    aws.client("ec2").stop_instances(InstanceIds=resting)
    others = run(aws, network.subnets[ZONES[1]][0], 2)
    unwilling = run(aws, network.subnets[ZONES[0]][1], 1, consent=False)

    instances = Instances(target)
    ids = [i.instance_id for i in instances.in_zone(ZONES[0])]
    assert ids == inside[1:]
    assert [e.resource for e in instances.plan_stop(ZONES[0])] == ids
    assert instances.stop(inside, permit=permit, undo=journal) == tuple(ids)
    assert states(aws, inside + others + unwilling) == {
        **dict.fromkeys(inside, "stopped"), **dict.fromkeys(others + unwilling, "running"),
    }  # fmt: skip

    (result,) = undo_journal.replay(journal, target)
    assert result.ok, result
    assert states(aws, inside) == {inside[0]: "stopped", inside[1]: "running", inside[2]: "running"}


@pytest.mark.slow
def test_hundreds_of_instances_over_several_pages(aws, network, target, permit, journal, monkeypatch) -> None:
    monkeypatch.setattr(compute, "PAGE", 3)  # moto counts reservations, EC2 instances
    subnet = aws.client("ec2").create_subnet(
        VpcId=network.vpc_id, CidrBlock="10.0.128.0/20", AvailabilityZone=ZONES[0]
    )["Subnet"]["SubnetId"]  # the others have room for 251
    ids = sorted(i for _ in range(8) for i in run(aws, subnet, 40))
    instances = Instances(target)
    assert [i.instance_id for i in instances.in_zone(ZONES[0])] == ids
    assert aws.operations().count("DescribeInstances") == 3
    assert instances.stop(ids, permit=permit, undo=journal) == tuple(ids)
    assert aws.changes() == ["StopInstances"] * 4
    records = journal.records()
    assert [len(r.args["instance_ids"]) for r in records] == [100] * 3 + [20]
    assert max(len(str(r.args)) for r in records) < 3500  # a standard SSM parameter has room for 4096 characters
    assert set(states(aws, ids).values()) == {"stopped"}


def test_undo_tolerates_instances_that_were_replaced(aws, network, target, permit, journal) -> None:
    ids = run(aws, network.subnets[ZONES[0]][0], 3)
    Instances(target).stop(ids, permit=permit, undo=journal)
    aws.client("ec2").terminate_instances(InstanceIds=ids[:1])
    (result,) = undo_journal.replay(journal, target)
    assert result.ok
    assert "started 2 of 3" in result.sentence
    assert "1 were terminated" in result.sentence
    assert states(aws, ids)[ids[0]] == "terminated"


def test_one_that_its_group_terminates_meanwhile_keeps_none_from_stopping(
    aws, network, target, permit, journal
) -> None:
    """As EC2 answers it (moto stops terminated ones too): one in a wrong state, and none is stopped."""
    ids = run(aws, network.subnets[ZONES[0]][0], 3)
    instances = Instances(target)
    inner_call = instances._ec2.stop_instances

    def as_ec2(**kwargs):
        if "terminated" not in states(aws, ids).values():
            aws.client("ec2").terminate_instances(InstanceIds=ids[:1])
        aws.injected.clear()
        if ids[0] in kwargs["InstanceIds"]:
            aws.inject("StopInstances", "IncorrectInstanceState")
        return inner_call(**kwargs)

    instances._ec2.stop_instances = as_ec2
    try:
        assert sorted(instances.stop(ids, permit=permit, undo=journal)) == sorted(ids[1:])
    finally:
        del instances._ec2.stop_instances
    assert states(aws, ids) == {ids[0]: "terminated", ids[1]: "stopped", ids[2]: "stopped"}
    assert all(u.ok for u in undo_journal.replay(journal, target))
    assert states(aws, ids) == {ids[0]: "terminated", ids[1]: "running", ids[2]: "running"}


def test_a_wrong_state_that_is_not_of_an_end_is_an_error(aws, network, target, permit, journal) -> None:
    ids = run(aws, network.subnets[ZONES[0]][0], 1)
    aws.inject("StopInstances", "IncorrectInstanceState")
    with pytest.raises(TargetError, match="injected"):
        Instances(target).stop(ids, permit=permit, undo=journal)


def test_spot_instances_are_left_alone(aws, network, target, permit, journal) -> None:
    (spot,) = run(aws, network.subnets[ZONES[0]][0], 1, InstanceMarketOptions={"MarketType": "spot"})
    (ordinary,) = run(aws, network.subnets[ZONES[0]][0], 1)
    assert {i.instance_id: i.spot for i in Instances(target).in_zone(ZONES[0])} == {spot: True, ordinary: False}
    assert Instances(target).stop([spot, ordinary], permit=permit, undo=journal) == (ordinary,)
    assert states(aws, [spot]) == {spot: "running"}
    assert journal.records()[0].args["instance_ids"] == [ordinary]


def test_one_without_consent_and_none_is_stopped(aws, network, target, permit, journal) -> None:
    ids = run(aws, network.subnets[ZONES[0]][0], 2) + run(aws, network.subnets[ZONES[0]][0], 1, consent=False)
    with pytest.raises(Refused, match="does not carry the tag"):
        Instances(target).stop(ids, permit=permit, undo=journal)
    assert aws.changes() == []


@pytest.mark.parametrize("ids", [[], [""], ["i-1", " "]])
def test_no_ids_are_refused(aws, target, permit, journal, ids) -> None:
    with pytest.raises(Refused, match="no instance was named"):
        Instances(target).stop(ids, permit=permit, undo=journal)
    assert aws.calls == []


def test_denied_in_the_middle_keeps_the_undo_of_what_was_done(aws, network, target, permit, journal) -> None:
    ids = run(aws, network.subnets[ZONES[0]][0], 150)
    instances = Instances(target)
    inner_call = instances._ec2.stop_instances
    calls = []

    def second_is_denied(**kwargs):
        calls.append(1)
        if len(calls) == 2:
            aws.inject("StopInstances", "UnauthorizedOperation", status=403)
        return inner_call(**kwargs)

    instances._ec2.stop_instances = second_is_denied
    try:
        with pytest.raises(TargetError, match="ec2:StopInstances") as denied:
            instances.stop(ids, permit=permit, undo=journal)
    finally:
        del instances._ec2.stop_instances
    assert denied.value.code == "UnauthorizedOperation"
    assert sorted(states(aws, ids).values()).count("stopped") == 100
    assert all(u.ok for u in undo_journal.replay(journal, target))
    assert set(states(aws, ids).values()) == {"running"}


@pytest.fixture
def group(aws, network):
    asg = aws.client("autoscaling")
    asg.create_launch_configuration(LaunchConfigurationName="web", ImageId=IMAGE, InstanceType="t3.micro")
    subnets = [network.subnets[z][0] for z in ZONES]
    asg.create_auto_scaling_group(
        AutoScalingGroupName="web",
        LaunchConfigurationName="web",
        MinSize=0,
        MaxSize=9,
        DesiredCapacity=3,
        VPCZoneIdentifier=",".join(subnets),
        Tags=[{**CONSENT, "PropagateAtLaunch": True}],
    )
    return subnets


def test_launches_are_held_back_from_one_zone_and_let_in_again(aws, group, target, permit, journal) -> None:
    groups = Groups(target)
    before = groups.group("web")
    (effect,) = groups.plan_hold_launches("web", ZONES[1])
    assert effect.call == "autoscaling:UpdateAutoScalingGroup"
    assert effect.consented
    assert groups.hold_launches("web", ZONES[1], permit=permit, undo=journal) == (group[1],)
    assert groups.group("web").subnet_ids == (group[0], group[2])
    assert groups.hold_launches("web", ZONES[1], permit=permit, undo=journal) == ()  # done already
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    after = groups.group("web")
    assert (after.subnet_ids, after.desired, after.suspended) == (before.subnet_ids, before.desired, before.suspended)


def test_what_somebody_else_changed_meanwhile_stays(aws, network, group, target, permit, journal) -> None:
    Groups(target).hold_launches("web", ZONES[1], permit=permit, undo=journal)
    extra = network.subnets[ZONES[2]][1]
    aws.client("autoscaling").update_auto_scaling_group(
        AutoScalingGroupName="web", VPCZoneIdentifier=f"{extra},{group[2]}"
    )
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert Groups(target).group("web").subnet_ids == (group[1], group[2], extra)


def test_a_group_of_one_zone_has_its_launches_suspended(aws, group, target, permit, journal) -> None:
    aws.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName="web", VPCZoneIdentifier=group[0])
    groups = Groups(target)
    (effect,) = groups.plan_hold_launches("web", ZONES[0])
    assert effect.call == "autoscaling:SuspendProcesses"
    groups.hold_launches("web", ZONES[0], permit=permit, undo=journal)
    assert groups.group("web").suspended == ("Launch",)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert groups.group("web").suspended == ()


def test_a_group_in_other_zones_only_is_left_alone(aws, group, target, permit, journal) -> None:
    assert Groups(target).plan_hold_launches("web", "eu-central-1z") == ()
    assert Groups(target).hold_launches("web", "eu-central-1z", permit=permit, undo=journal) == ()
    assert aws.changes() == []


def test_groups_refuse(aws, group, target, permit, journal) -> None:
    groups = Groups(target)
    for name, zone in (("", ZONES[0]), ("web", "")):
        with pytest.raises(Refused):
            groups.hold_launches(name, zone, permit=permit, undo=journal)
    with pytest.raises(TargetError, match="no Auto Scaling group 'nope'"):
        groups.group("nope")
    aws.client("autoscaling").delete_tags(
        Tags=[{"ResourceId": "web", "ResourceType": "auto-scaling-group", "Key": "drkit:consent"}]
    )
    with pytest.raises(Refused, match="does not carry the tag"):
        groups.hold_launches("web", ZONES[0], permit=permit, undo=journal)
    assert not journal.records()


def test_in_service_by_zone_counts_only_healthy_ones_in_service(aws, group, target) -> None:
    now = Groups(target).group("web")
    assert sum(now.in_service_by_zone.values()) == 3  # moto puts all of them in one zone
    asg = aws.client("autoscaling")
    asg.set_instance_health(InstanceId=now.members[0].instance_id, HealthStatus="Unhealthy")
    assert sum(Groups(target).group("web").in_service_by_zone.values()) == 2


def test_target_health_knows_the_zone(aws, network, target) -> None:
    ids = run(aws, network.subnets[ZONES[0]][0], 1) + run(aws, network.subnets[ZONES[1]][0], 1)
    elb = aws.client("elbv2")
    arn = elb.create_target_group(Name="web", Protocol="HTTP", Port=80, VpcId=network.vpc_id)["TargetGroups"][0][
        "TargetGroupArn"
    ]
    elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": i, "Port": 80} for i in ids])
    health = target_health(target, arn)
    assert {h.target_id: h.zone for h in health} == {ids[0]: ZONES[0], ids[1]: ZONES[1]}
    with pytest.raises(Refused):
        target_health(target, "")


def test_a_group_is_scaled_once_and_back(aws, group, target, permit, journal) -> None:
    groups = Groups(target)
    (effect,) = groups.plan_scale("web", 5)
    assert (effect.what, effect.undo) == ("scale web from 3 to 5 instances", "scale web to 3 again")
    aws.lose("SetDesiredCapacity")
    assert groups.scale("web", 5, permit=permit, undo=journal)
    assert not groups.scale("web", 5, permit=permit, undo=journal)
    assert groups.plan_scale("web", 5) == ()
    assert aws.changes() == ["SetDesiredCapacity"] * 2  # one and its retry
    now = groups.group("web")
    assert (now.desired, now.min_size, now.max_size) == (5, 0, 9)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert groups.group("web").desired == 3
    assert [u.ok for u in undo_journal.replay(journal, target, again=True)] == [True]
    assert len(aws.changes()) == 3


def test_a_group_gets_its_size_back_within_its_limits_of_now(aws, group, target, permit, journal) -> None:
    Groups(target).scale("web", 5, permit=permit, undo=journal)
    aws.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName="web", MinSize=4)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert Groups(target).group("web").desired == 4


def test_sizes_that_a_group_cannot_have(aws, group, target, permit, real, journal) -> None:
    groups = Groups(target)
    for desired, sentence in ((10, "above its MaxSize"), (-1, "below its MinSize")):
        with pytest.raises(Refused, match=sentence):
            groups.plan_scale("web", desired)
        with pytest.raises(Refused, match=sentence) as refused:
            groups.scale("web", desired, permit=permit, undo=journal)
        assert "where it is defined" in refused.value.hint
    aws.client("autoscaling").delete_tags(
        Tags=[{"ResourceId": "web", "ResourceType": "auto-scaling-group", "Key": "drkit:consent"}]
    )
    with pytest.raises(Refused, match="does not carry the tag"):
        groups.scale("web", 4, permit=permit, undo=journal)
    assert not journal.records()
    assert groups.scale("web", 4, permit=real, undo=journal)
