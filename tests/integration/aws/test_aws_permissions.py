"""The list of IAM actions that `drkit doctor` and `drkit plan` tell, against what is really called on a mock of AWS."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from moto.rds.models import rds_backends

from drkit import catalog, chaos, cli, clock, engine, guard, undo
from drkit.chaos.state import snapshot
from drkit.engine.address import spec_of
from drkit.guard import Rules
from drkit.project import Project, Settings
from drkit.targets import ComputeTarget, DatabaseTarget, NetworkTarget, Target, dump, postgres
from drkit.targets.aws import Database, Parameters, alarms, permissions
from drkit.targets.facts import gather
from drkit.undo import UndoJournal

from .conftest import ACCOUNT, CONSENT, RECOVERY_REGION, ZONES, make_target
from .test_aws_compute import run as run_instances
from .test_aws_database import make_replica, make_writer

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("fresh_sessions")]
NAMES = ("az-failure", "db-blackhole", "rds-failover", "replica-lag-failover")
# What moto's world gives no occasion for.
NO_OCCASION = {
    "autoscaling:ResumeProcesses", "autoscaling:SuspendProcesses",  # only for a group with no subnet elsewhere
    "ec2:CreateTags",  # IAM asks for it, CreateNetworkAcl makes them
}  # fmt: skip


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    postgres._SECRETS.clear()


@pytest.fixture
def whole(aws, network, honest_promotion, monkeypatch) -> Target:
    """A target that has everything that one can have."""
    for zone in ZONES:
        run_instances(aws, network.subnets[zone][0], 1)
    aws.client("autoscaling").create_launch_configuration(
        LaunchConfigurationName="web", ImageId="ami-12c6146b", InstanceType="t3.micro"
    )
    aws.client("autoscaling").create_auto_scaling_group(
        AutoScalingGroupName="web", LaunchConfigurationName="web", MinSize=0, MaxSize=3, DesiredCapacity=0,
        VPCZoneIdentifier=",".join(network.subnets[z][0] for z in ZONES),
        Tags=[{**CONSENT, "PropagateAtLaunch": False}],
    )  # fmt: skip
    elb = aws.client("elbv2")
    (group,) = elb.create_target_group(Name="web", Protocol="HTTP", Port=80, VpcId=network.vpc_id)["TargetGroups"]
    (instance,) = run_instances(aws, network.subnets[ZONES[1]][0], 1)
    elb.register_targets(TargetGroupArn=group["TargetGroupArn"], Targets=[{"Id": instance}])
    there = aws.client("ec2", RECOVERY_REGION)
    vpc_id = there.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = there.create_subnet(VpcId=vpc_id, CidrBlock="10.1.0.0/24", AvailabilityZone=f"{RECOVERY_REGION}a")
    for region, ids in (
        ("eu-central-1", [network.subnets[z][1] for z in ZONES]),
        (RECOVERY_REGION, [subnet["Subnet"]["SubnetId"]]),
    ):
        aws.client("rds", region).create_db_subnet_group(
            DBSubnetGroupName="orders", DBSubnetGroupDescription="-", SubnetIds=ids
        )
    make_replica(aws, make_writer(aws, DBSubnetGroupName="orders"))
    _move_replica_to_its_region()
    dns = aws.client("route53")
    zone_id = dns.create_hosted_zone(Name="x.example", CallerReference="1")["HostedZone"]["Id"].rsplit("/", 1)[-1]
    record = {"Name": "db.x.example", "Type": "CNAME", "TTL": 5, "ResourceRecords": [{"Value": "old"}]}
    dns.change_resource_record_sets(
        HostedZoneId=zone_id, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    )
    dns.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id, AddTags=[CONSENT])
    secret = aws.client("secretsmanager").create_secret(Name="db", SecretString=json.dumps({"password": "hush-1234"}))
    aws.client("cloudwatch").put_metric_alarm(
        AlarmName="bell", MetricName="m", Namespace="n", Period=60, EvaluationPeriods=1, Statistic="Sum", Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
    )  # fmt: skip
    # The servers themselves are no AWS API; that their password is asked for is part of what is compared.
    monkeypatch.setattr(postgres, "server", lambda target, **_: postgres.password_of(target, target.database) and "a:1")
    monkeypatch.setattr(postgres, "accepts_writes", lambda *_: True)
    monkeypatch.setattr(postgres, "standbys", lambda *_: ())
    return replace(
        make_target(aws),
        network=NetworkTarget(vpc_id=network.vpc_id, recovery_vpc_id=vpc_id),
        compute=ComputeTarget(asg_name="web", target_group_arn=group["TargetGroupArn"]),
        database=DatabaseTarget(
            instance_id="orders", host="127.0.0.1", port=5432, dbname="orders", user="drkit",
            password_secret_arn=secret["ARN"], replica_id="orders-replica", replica_host="127.0.0.1", replica_port=5432,
            dns_record="db.x.example", hosted_zone_id=zone_id,
        ),
    )  # fmt: skip


def _move_replica_to_its_region() -> None:
    """moto gives a replica the subnets of its source, which are in another region."""
    rds_backends[ACCOUNT][RECOVERY_REGION].databases["orders-replica"].db_subnet_group_name = "orders"


def _experiment(name: str) -> catalog.Experiment:
    return catalog.load(str(Path(__file__).parents[3] / "experiments" / f"{name}.yaml"), Project(Path(), Settings()))


def _call(activity: dict[str, Any], **more: Any) -> None:
    function = catalog.function_of(activity["provider"])
    assert function is not None
    given = activity["provider"].get("arguments") or {}
    function(**{k: ZONES[0] if v == "${zone}" else v for k, v in given.items()}, **more)


def _play(experiment: catalog.Experiment, target: Target, tmp_path: Path) -> None:
    """Do to the target whatever a run of the experiment does, without its waiting and measuring."""
    gather(target, Rules(stop_alarms=("bell",)))
    engine.plan(experiment, target, Project(tmp_path, Settings()))
    before = snapshot(target)
    permit = guard.Permit("run-1", _token=guard._TOKEN)
    journal = UndoJournal(tmp_path / "undo.jsonl", "run-1", Parameters(target))
    chaos.enter(chaos.Context(target, permit, journal, before, threading.Event()))
    try:
        for probe in experiment.drkit.probes:
            if str(probe.kind) == "sql":
                spec_of(probe, target, "run-1", {})
        for activity in experiment.method:
            _call(activity, **({"forced_after_s": 1} if activity["provider"]["func"] == "leave_zone" else {}))
        for probe in (*experiment.hypothesis_probes, *experiment.drkit.witnesses, *experiment.drkit.redundancy):
            _call(probe)
        Database(target).events("orders", clock.wall_utc() - timedelta(minutes=5))
        alarms.firing(target, ("bell",))
        assert [u.sentence for u in undo.replay(journal, target) if not u.ok] == []
        _move_replica_to_its_region()
        snapshot(target)
    finally:
        chaos.enter(None)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_an_experiment_calls_is_in_the_list_and_little_else(name, aws, whole, tmp_path) -> None:
    experiment = _experiment(name)
    told = permissions.needed(experiment, whole, alarms=("bell",))
    assert told.untold == ()
    assert aws.calls == []  # nothing has to be allowed to be told what has to be allowed
    _play(experiment, whole, tmp_path)
    called = {c.iam_action for c in aws.calls}
    assert called - set(told.actions) == set()
    assert set(told.actions) - called - NO_OCCASION == set()


def test_a_target_without_a_part_needs_nothing_for_it(whole) -> None:
    experiment = _experiment("az-failure")
    assert whole.database
    bare = replace(
        whole, compute=None, database=replace(whole.database, password_env="X", dns_record=None, hosted_zone_id=None)
    )
    services = {a.partition(":")[0] for a in permissions.needed(experiment, bare).actions}
    assert services == {"ec2", "rds", "ssm", "sts"}


def test_what_does_not_tell_is_named(whole, tmp_path) -> None:
    experiment = _experiment("rds-failover")
    process = {"name": "script", "type": "action", "provider": {"type": "process", "path": "true"}}
    other = replace(experiment, document={**experiment.document, "method": [*experiment.method, process]})
    assert permissions.needed(other, whole).untold == ("script",)


@pytest.fixture
def shop(aws, whole, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "shop.json").write_text(dump(replace(whole, name="shop", kind="aws")))
    return tmp_path


def _told(capsys, *words: str) -> tuple[int, Any]:
    code = cli.main([*words, "--target", "shop", "--json"])
    return code, json.loads(capsys.readouterr().out)


def _permissions_check(document: dict[str, Any]) -> dict[str, Any]:
    (check,) = (c for c in document["checks"] if c["name"] == "permissions")
    return check


def test_doctor_and_plan_tell_the_same_list(shop, capsys) -> None:
    _, planned = _told(capsys, "plan", "az-failure")
    _, checked = _told(capsys, "doctor", "az-failure")
    check = _permissions_check(checked)
    assert check["ok"] is None
    assert sorted(check["actions"]) == planned["iam_actions"]
    assert {"elasticloadbalancing:DescribeTargetHealth", "rds:DescribeEvents", "secretsmanager:GetSecretValue"} <= set(
        planned["iam_actions"]
    )
    cli.main(["doctor", "az-failure", "--target", "shop"])
    text = capsys.readouterr().out
    for action in planned["iam_actions"]:
        assert f" {action}\n" in text


def test_doctor_tells_the_list_to_those_who_may_nothing_yet(aws, shop, capsys) -> None:
    _, planned = _told(capsys, "plan", "az-failure")
    for operation in ("DescribeDBInstances", "DescribeSubnets"):
        aws.inject(operation, "AccessDenied", status=403)
    code, checked = _told(capsys, "doctor", "az-failure")
    check = _permissions_check(checked)
    assert (code, check["ok"]) == (2, False)
    assert "may not rds:DescribeDBInstances" in check["says"]
    assert sorted(check["actions"]) == planned["iam_actions"]
