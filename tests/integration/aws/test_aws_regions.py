"""On the worst night the first region's APIs do not answer: a recovery in the other one must not call them at all.

Route 53 is global: with an endpoint of our own its calls are signed for the region they are asked from, on AWS for
us-east-1.
"""

from __future__ import annotations

import json

import pytest

from drkit import undo
from drkit.guard import Rules
from drkit.lab.moto_patches import replica_secrets_stand_alone
from drkit.targets import AwsAccess
from drkit.targets.aws import Account, Fences, Groups, Parameters, Records, Replication, Secrets
from drkit.targets.facts import gather
from drkit.undo import UndoJournal

from .conftest import CONSENT, RECOVERY_REGION, REGION, make_target
from .test_aws_database import make_replica, make_writer, zone_id  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("fresh_sessions", "honest_promotion")]


@pytest.fixture
def journal(target, tmp_path) -> UndoJournal:
    """A journal whose copy is in the recovery region too."""
    return UndoJournal(tmp_path / "undo.jsonl", "run-1", cloud=Parameters(target, RECOVERY_REGION))


@pytest.fixture
def group(aws):
    """A group of the recovery region that has no instances yet."""
    ec2, asg = aws.client("ec2", RECOVERY_REGION), aws.client("autoscaling", RECOVERY_REGION)
    vpc_id = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc_id, CidrBlock="10.1.0.0/24", AvailabilityZone=f"{RECOVERY_REGION}a")["Subnet"]
    asg.create_launch_configuration(LaunchConfigurationName="web", ImageId="ami-12c6146b", InstanceType="t3.micro")
    asg.create_auto_scaling_group(
        AutoScalingGroupName="web", LaunchConfigurationName="web", MinSize=0, MaxSize=3, DesiredCapacity=0,
        VPCZoneIdentifier=subnet["SubnetId"], Tags=[{**CONSENT, "PropagateAtLaunch": False}],
    )  # fmt: skip


@pytest.fixture
def dead(aws):
    """From now on, nobody answers in the first region."""

    def kill() -> None:
        for operation in ("GetCallerIdentity", "DescribeDBInstances", "PutParameter", "AssumeRole"):
            answer = aws.answers.get(operation)
            aws.answers[operation] = lambda call, answer=answer: (
                (503, "text/plain", "dead") if call.region == REGION else answer and answer(call)
            )

    return kill


def test_a_recovery_calls_nothing_in_the_first_region(aws, target, zone_id, group, permit, journal, dead) -> None:  # noqa: F811
    make_replica(aws, make_writer(aws))
    aws.client("secretsmanager").create_secret(
        Name="orders-db", SecretString=json.dumps({"host": "a", "port": 1}), Tags=[CONSENT],
        AddReplicaRegions=[{"Region": RECOVERY_REGION}],
    )  # fmt: skip
    replica_secrets_stand_alone()
    dead()
    gather(target, Rules(), recovery=True)
    replicas, groups = Replication(target, RECOVERY_REGION), Groups(target, RECOVERY_REGION)
    secrets, records = Secrets(target, RECOVERY_REGION), Records(target, zone_id, sts_region=RECOVERY_REGION)
    replicas.plan_promote("orders-replica")
    assert replicas.promote("orders-replica", permit=permit, undo=journal)
    assert records.point("db.example.test", "b.rds.test", permit=permit, undo=journal)
    assert groups.scale("web", 2, permit=permit, undo=journal)
    assert secrets.point("orders-db", {"host": "b", "port": 2}, permit=permit, undo=journal)
    assert aws.regions() == {RECOVERY_REGION}

    results = {u.record.verb: u.ok for u in undo.replay(journal, target)}
    assert results == {
        "restore_secret": True, "restore_group_size": True, "restore_record": True, "stay_promoted": False,
    }  # fmt: skip
    assert [r.verb for r in Parameters(target, RECOVERY_REGION).records("run-1")] == ["stay_promoted"]
    journal.keep(journal.pending()[0])
    assert Parameters(target, RECOVERY_REGION).records("run-1") == ()
    assert aws.regions() == {RECOVERY_REGION}


def test_a_fence_lives_in_the_first_region_and_says_so_when_that_is_dead(aws, target, network) -> None:
    """Nobody can be fenced off through APIs that do not answer; that is for the playbook to weigh."""
    Fences(target).is_fenced([network.subnets[f"{REGION}a"][0]])
    assert aws.regions() == {REGION}


def test_a_role_is_assumed_in_the_region_that_was_named(aws, monkeypatch, tmp_path) -> None:
    """Clients are shared by all with the same access: one that came first must not decide where a role is asked for."""
    credentials = tmp_path / "credentials"
    credentials.write_text("[mine]\naws_access_key_id = MINE\naws_secret_access_key = x\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    access = AwsAccess(endpoint_url=aws.url, profile="mine", assume_role_arn="arn:aws:iam::123456789012:role/drkit")
    target = make_target(aws, kind="aws", aws=access)
    Account(target).caller()
    assert aws.regions() == {REGION}
    aws.calls.clear()
    Account(target, RECOVERY_REGION).assert_account()
    Account(target, RECOVERY_REGION).client("rds").describe_db_instances()
    assert aws.operations() == ["AssumeRole", "GetCallerIdentity", "DescribeDBInstances"]
    assert aws.regions() == {RECOVERY_REGION}


def test_without_a_region_it_is_the_targets_first(aws, target) -> None:
    Account(target).assert_account()
    assert aws.regions() == {REGION}
