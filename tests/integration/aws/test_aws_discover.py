"""A target made from tags, and the commands around targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drkit import cli, targets
from drkit.errors import UnknownName, UsageError
from drkit.targets import AwsAccess
from drkit.targets.aws.discover import IAM_DISCOVER, discover

from .conftest import ACCOUNT, RECOVERY_REGION, REGION, ZONES
from .test_aws_database import make_writer

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("fresh_sessions")]
CONSENT_OFF = {"Key": "drkit:consent", "Value": "no"}


def test_a_target_is_discovered_by_its_tags(aws, network) -> None:
    tag = {"Key": "drkit:target", "Value": "shop"}
    access = AwsAccess(endpoint_url=aws.url)
    with pytest.raises(UnknownName, match="carries the tag drkit:target=shop"):
        discover("shop", region=REGION, access=access)
    aws.client("ec2").create_tags(Resources=[network.vpc_id], Tags=[tag])
    rds = aws.client("rds")
    for name, tags in (("orders", [tag]), ("unrelated", [])):
        rds.create_db_instance(
            DBInstanceIdentifier=name, Engine="postgres", DBInstanceClass="db.t3.micro", DBName="shop",
            AllocatedStorage=20, MasterUsername="admin1", MasterUserPassword="not-a-secret", Tags=tags,
        )  # fmt: skip
    elb = aws.client("elbv2")
    for n in range(25):  # more than ELB tells the tags of at once
        elb.create_target_group(
            Name=f"tg-{n}", Protocol="HTTP", Port=80, VpcId=network.vpc_id, Tags=[tag] if n == 22 else [CONSENT_OFF]
        )
    target = discover("shop", region=REGION, access=access)
    assert (target.account_id, target.zones) == (ACCOUNT, ZONES)
    assert target.network
    assert target.network.vpc_id == network.vpc_id
    assert target.database
    assert (target.database.instance_id, target.database.dbname, target.database.user) == ("orders", "shop", "admin1")
    assert target.compute
    assert "/tg-22/" in target.compute.target_group_arn
    assert target.service is None
    assert aws.changes() == []
    rds.add_tags_to_resource(ResourceName=f"arn:aws:rds:{REGION}:{ACCOUNT}:db:unrelated", Tags=[tag])
    with pytest.raises(UsageError, match="2 of the kind RDS instance"):
        discover("shop", region=REGION, access=access)


@pytest.fixture
def shop(aws, network, tmp_path, monkeypatch) -> Path:
    """A project's directory, and an account in which a network, a database and a load balancer carry stack=shop."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DRKIT_HOME", raising=False)
    tag = {"Key": "stack", "Value": "shop"}
    aws.client("ec2").create_tags(Resources=[network.vpc_id], Tags=[tag])
    make_writer(aws, DBName="shop", Tags=[tag])
    aws.client("elbv2").create_load_balancer(Name="shop", Subnets=[s[0] for s in network.subnets.values()], Tags=[tag])
    (tmp_path / "targets").mkdir()
    return tmp_path


def _discover(aws, name: str, *more: str) -> int:
    return cli.main(["target", "discover", name, "--region", REGION, "--endpoint-url", aws.url, *more])


def test_what_discover_prints_is_a_target_file(aws, network, shop, capsys) -> None:
    assert _discover(aws, "shop", "--tag", "stack=shop", "--recovery-region", RECOVERY_REGION) == 0
    out, err = capsys.readouterr()
    assert aws.changes() == []
    assert {c.iam_action for c in aws.calls} <= set(IAM_DISCOVER)
    (shop / "targets" / "shop.json").write_text(out)
    target = targets.load("shop", shop / ".drkit")
    assert (target.kind, target.account_id, target.zones) == ("aws", ACCOUNT, ZONES)
    assert target.recovery_region == RECOVERY_REGION
    assert target.network
    assert target.network.vpc_id == network.vpc_id
    assert target.database
    assert (target.database.instance_id, target.database.dbname) == ("orders", "shop")
    assert target.service
    assert target.compute is None
    for hint in (
        f"it is in account {ACCOUNT}", "nothing for `compute` carries the tag", "DRKIT_DB_PASSWORD",
        f"no replica in {RECOVERY_REGION}", "drkit:consent=yes", "drkit doctor az-failure --target shop",
    ):  # fmt: skip
        assert hint in err
    assert _discover(aws, "shop", "--tag", "stack=shop", "--recovery-region", RECOVERY_REGION, "--json") == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shop"], "nothing in eu-central-1 carries the tag drkit:target=shop"),
        (["shop", "--tag", "stack=other"], "nothing in eu-central-1 carries the tag stack=other"),
        (["shop", "--tag", "stack"], "--tag stack: not KEY=VALUE"),
        (["../shop"], "'../shop' is no name for a target"),
    ],
)
def test_what_cannot_be_discovered(words, message, aws, shop, capsys) -> None:
    assert _discover(aws, *words, "--json") == 2
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == message
    assert told["hint"]


def test_targets_are_listed_and_shown(aws, shop, capsys) -> None:
    assert _discover(aws, "shop", "--tag", "stack=shop") == 0
    text = capsys.readouterr().out
    (shop / "targets" / "shop.json").write_text(text)
    (shop / "targets" / "broken.json").write_text("{}")
    assert cli.main(["target", "list", "--json"]) == 0
    broken, good = json.loads(capsys.readouterr().out)["targets"]
    assert (broken["name"], broken["kind"]) == ("broken", None)
    assert "is missing" in broken["problem"]
    assert (good["name"], good["kind"], good["account_id"], good["problem"]) == ("shop", "aws", ACCOUNT, None)
    assert cli.main(["target", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["target", "broken", "shop"]
    assert cli.main(["target", "show", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(text)
    assert cli.main(["target", "show", "shop"]) == 0
    assert any(line.split() == ["database.instance_id", "orders"] for line in capsys.readouterr().out.splitlines())
    assert cli.main(["target", "show", "shp"]) == 2
    assert "did you mean shop?" in capsys.readouterr().err
