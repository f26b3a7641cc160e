"""Whose credentials are used, against which endpoint, how patiently, and what a person reads when it goes wrong."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from drkit import clock, undo
from drkit.errors import Refused, TargetError, UsageError
from drkit.targets import AwsAccess
from drkit.targets.aws import Account, Caller, Subnets, permissions

from .conftest import ACCOUNT, ZONES, make_target

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("fresh_sessions")]


@pytest.fixture
def poisoned(monkeypatch, tmp_path):
    """An environment full of credentials, endpoints and files that a lab must never look at."""
    config = tmp_path / "config"
    config.write_text(
        "[default]\naws_access_key_id = FROMFILE\naws_secret_access_key = x\nendpoint_url = http://127.0.0.9:9\n"
    )
    for name, value in {
        "AWS_PROFILE": "nobody",
        "AWS_DEFAULT_PROFILE": "nobody",
        "AWS_ACCESS_KEY_ID": "PRODUCTION",
        "AWS_SECRET_ACCESS_KEY": "production",
        "AWS_SESSION_TOKEN": "production",
        "AWS_ENDPOINT_URL": "http://127.0.0.9:9",
        "AWS_ENDPOINT_URL_EC2": "http://127.0.0.9:9",
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(config),
        "AWS_DEFAULT_REGION": "nowhere-1",
        "AWS_CA_BUNDLE": "/nonexistent",
        "AWS_DEFAULTS_MODE": "auto",  # would ask the instance metadata service
        "AWS_MAX_ATTEMPTS": "garbage",
        "AWS_RETRY_MODE": "garbage",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.9:9",
        "HTTP_PROXY": "http://127.0.0.9:9",
        "http_proxy": "http://127.0.0.9:9",
        "HTTPS_PROXY": "http://127.0.0.9:9",
    }.items():
        monkeypatch.setenv(name, value)


def test_a_lab_target_never_reaches_the_environment(aws, network, permit, journal, poisoned) -> None:
    target = make_target(aws, network)
    Subnets(target).isolate(network.subnets[ZONES[0]][0], permit=permit, undo=journal)
    assert aws.changes() == ["CreateNetworkAcl", "CreateTags", "ReplaceNetworkAclAssociation"]
    assert {c.key_id for c in aws.calls} == {"lab"}


def test_a_lab_target_that_could_reach_aws_is_refused(aws) -> None:
    for access in (AwsAccess(), AwsAccess(profile="p"), AwsAccess(endpoint_url=aws.url, assume_role_arn="arn:x")):
        with pytest.raises(UsageError, match="would reach AWS itself"):
            Account(make_target(aws, aws=access))
    assert aws.calls == []


@pytest.fixture
def profile(monkeypatch, tmp_path):
    config = tmp_path / "credentials"
    config.write_text(
        "[mine]\naws_access_key_id = MINE\naws_secret_access_key = x\n"
        "[other]\naws_access_key_id = OTHER\naws_secret_access_key = x\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(config))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.9:9")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.mark.usefixtures("profile")
def test_two_profiles_in_one_process_stay_apart(aws) -> None:
    mine = make_target(aws, kind="aws", aws=AwsAccess(endpoint_url=aws.url, profile="mine"))
    other = replace(mine, aws=AwsAccess(endpoint_url=aws.url, profile="other"))
    Account(mine).caller()
    Account(other).caller()
    Account(mine).client("ec2").describe_vpcs()
    assert [c.key_id for c in aws.calls] == ["MINE", "OTHER", "MINE"]


@pytest.mark.usefixtures("profile")
def test_a_role_is_assumed_with_its_external_id(aws) -> None:
    role = "arn:aws:iam::123456789012:role/drkit"
    access = AwsAccess(endpoint_url=aws.url, profile="mine", assume_role_arn=role, external_id="ext-1")
    account = Account(make_target(aws, kind="aws", aws=access))
    account.caller()
    account.client("ec2").describe_vpcs()
    assert aws.operations() == ["AssumeRole", "GetCallerIdentity", "DescribeVpcs"]
    assumed, *rest = aws.calls
    assert assumed.key_id == "MINE"
    assert (assumed.parameters["RoleArn"], assumed.parameters["ExternalId"]) == (role, "ext-1")
    assert {c.key_id for c in rest}.isdisjoint({"MINE", "lab"})


@pytest.mark.usefixtures("profile")
def test_a_role_that_may_not_be_assumed(aws) -> None:
    access = AwsAccess(endpoint_url=aws.url, profile="mine", assume_role_arn="arn:aws:iam::1:role/x")
    aws.inject("AssumeRole", "AccessDenied", status=403, message="User y is not authorized to perform: sts:AssumeRole")
    with pytest.raises(TargetError, match="may not sts:AssumeRole") as e:
        Account(make_target(aws, kind="aws", aws=access)).caller()
    assert e.value.code == "AccessDenied"


@pytest.mark.usefixtures("profile")
def test_a_profile_that_does_not_exist(aws) -> None:
    with pytest.raises(TargetError, match="there is no AWS profile 'nope'"):
        Account(make_target(aws, kind="aws", aws=AwsAccess(profile="nope"))).caller()


@pytest.mark.parametrize(
    ("operation", "code", "status"),
    [
        ("DescribeVpcs", "RequestLimitExceeded", 503),
        ("DescribeVpcs", "Throttling", 400),
        ("PutParameter", "ThrottlingException", 400),
    ],
)
def test_throttling_is_waited_out(aws, target, operation, code, status) -> None:
    aws.inject(operation, code, status=status, times=2)
    account = Account(target)
    if operation == "DescribeVpcs":
        account.client("ec2").describe_vpcs()
    else:
        account.client("ssm").put_parameter(Name="/x", Value="y", Type="String")
    assert [o for o in aws.operations() if o != "GetCallerIdentity"] == [operation] * 3


def test_throttling_without_end(aws, target) -> None:
    aws.inject("DescribeVpcs", "RequestLimitExceeded", status=503)
    with pytest.raises(TargetError, match="AWS is throttling") as e:
        Account(target).client("ec2").describe_vpcs()
    assert e.value.code == "RequestLimitExceeded"
    assert aws.operations() == ["DescribeVpcs"] * 4


@pytest.mark.parametrize(
    ("code", "sentence", "hint"),
    [
        ("ExpiredToken", "the credentials have expired", "log in again"),
        ("InvalidClientTokenId", "does not know these credentials", "aws.profile"),
        ("UnauthorizedOperation", "may not ec2:DescribeVpcs", "drkit doctor"),
        ("SomethingElse", "ec2:DescribeVpcs failed: injected", ""),
    ],
)
def test_errors_have_a_sentence_and_a_hint(aws, target, code, sentence, hint) -> None:
    aws.inject("DescribeVpcs", code, status=400)
    with pytest.raises(TargetError, match=sentence) as e:
        Account(target).client("ec2").describe_vpcs()
    assert e.value.code == code
    assert hint in e.value.hint


def test_a_paginator_raises_the_same(aws, target) -> None:
    aws.inject("DescribeInstances", "UnauthorizedOperation", status=403)
    with pytest.raises(TargetError, match="may not ec2:DescribeInstances"):
        list(Account(target).client("ec2").get_paginator("describe_instances").paginate())


def test_an_endpoint_that_is_gone_is_noticed_within_seconds(aws) -> None:
    target = make_target(aws, aws=AwsAccess(endpoint_url="http://127.0.0.1:1"))
    started_ns = clock.now_ns()
    with pytest.raises(TargetError, match="cannot be reached") as e:
        Account(target).caller()
    assert e.value.code == "Unreachable"
    assert "drkit lab status" in e.value.hint
    assert clock.now_ns() - started_ns < 20e9


def test_the_account_is_asked_for_each_time(aws, target) -> None:
    account = Account(target)
    for _ in range(3):
        account.assert_account()
    assert aws.operations() == ["GetCallerIdentity"] * 3


def test_the_account_is_asked_for_before_each_call_that_changes_something(
    aws, network, target, permit, journal
) -> None:
    for subnet_id in network.subnets[ZONES[0]]:
        Subnets(target).isolate(subnet_id, permit=permit, undo=journal)
    done = aws.operations()
    assert aws.changes() == ["CreateNetworkAcl", *["CreateTags", "ReplaceNetworkAclAssociation"] * 2]
    for n, call in enumerate(aws.calls):
        if call.changes_something:
            assert done[n - 1] == "GetCallerIdentity"


def test_credentials_that_change_their_account_meanwhile_change_nothing_more(
    aws, network, target, permit, journal, monkeypatch
) -> None:
    first, second = network.subnets[ZONES[0]]
    Subnets(target).isolate(first, permit=permit, undo=journal)
    made = aws.changes()
    elsewhere = Caller("000000000002", "arn:aws:iam::000000000002:user/other")
    monkeypatch.setattr(Account, "assert_account", lambda _: None)  # so that only what guards each call is left
    monkeypatch.setattr(type(Account(target)._session), "caller", lambda *_: elsewhere)
    with pytest.raises(Refused, match="the target is in account 123456789012"):
        Subnets(target).isolate(second, permit=permit, undo=journal)
    # the second subnet was never cut; the first stays as it is, and so does the ACL
    assert [u.ok for u in undo.replay(journal, target)] == [True, False, False]
    assert aws.changes() == made


def test_the_wrong_account_changes_nothing(aws) -> None:
    account = Account(make_target(aws, account_id="000000000001"))
    for _ in range(2):
        with pytest.raises(Refused, match="the target is in account 000000000001"):
            account.client("ssm").put_parameter(Name="/x", Value="y", Type="String")
    assert aws.operations() == ["GetCallerIdentity"] * 2


def test_clients_are_made_once_whichever_thread_asks(aws, target) -> None:
    made = []
    threads = [threading.Thread(target=lambda: made.append(Account(target).client("ec2"))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len({id(c) for c in made}) == 1
    assert Account(target).client("ec2", "eu-west-1") is not made[0]


def test_the_role_behind_a_session() -> None:
    assert Caller(ACCOUNT, "arn:aws:sts::123456789012:assumed-role/drkit/i-1").role_arn == (
        "arn:aws:iam::123456789012:role/drkit"
    )
    assert Caller(ACCOUNT, "arn:aws:iam::123456789012:user/a").role_arn == "arn:aws:iam::123456789012:user/a"


def test_permissions_that_cannot_be_told_are_none(aws, target) -> None:
    wanted = ("ec2:StopInstances", "sts:GetCallerIdentity")
    aws.inject("SimulatePrincipalPolicy", "AccessDenied", status=403)
    assert permissions.check(target, wanted) == dict.fromkeys(wanted)
