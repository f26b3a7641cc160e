"""What the tests of the lab's second region share: plain boto3 on a lab of their own, and questions to any server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from drkit import clock
from drkit.targets import Target

RECOVERY = "eu-west-1"
CONSENT = [{"Key": "drkit:consent", "Value": "yes"}]


class Regions:
    """The RDS APIs of both regions of a lab, and its servers by the names of their instances."""

    def __init__(self, target: Target, home: Path) -> None:
        self.target, self.home = target, home
        self.rds, self.recovery = self.client("rds", target.region), self.client("rds", RECOVERY)

    def client(self, service: str, region: str) -> Any:
        return boto3.Session("lab", "lab", region_name=region).client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.target.aws.endpoint_url,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
        )

    def instance(self, name: str, region: str = "") -> dict[str, Any] | None:
        rds = self.recovery if region == RECOVERY else self.rds
        try:
            found: dict[str, Any] = rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0]
        except ClientError as e:
            if e.response["Error"]["Code"] != "DBInstanceNotFound":
                raise
            return None
        return found

    def status(self, name: str, region: str = "") -> str:
        found = self.instance(name, region)
        return "gone" if found is None else str(found["DBInstanceStatus"])

    def await_status(self, wanted: str, name: str, region: str = "") -> None:
        """Wait for a status, and no longer once it can't come any more."""

        def there() -> bool:
            now = self.status(name, region)
            if now != wanted and now in ("failed", "incompatible-restore"):
                raise AssertionError(f"{name} is {now}, not {wanted}")
            return now == wanted

        eventually(there, f"{name} is {wanted}")

    def port(self, name: str, region: str = "") -> int:
        found = self.instance(name, region)
        assert found is not None
        assert self.target.address(found["Endpoint"]["Address"]) == "127.0.0.1"
        return int(found["Endpoint"]["Port"])

    def ask(self, sql: str, name: str = "", region: str = "") -> tuple[Any, ...]:
        """Return the first row (or nothing) of a statement to an instance, or through the writer's endpoint."""
        d = self.target.database
        assert d is not None
        port = self.port(name, region) if name else d.port
        with psycopg.connect(
            host=d.host, port=port, user=d.user, dbname=d.dbname, sslmode="disable", connect_timeout=10, autocommit=True
        ) as connection:
            cursor = connection.execute(sql)
            return (cursor.fetchone() or ()) if cursor.description else ()

    def insert(self, rows: int, name: str = "", region: str = "") -> None:
        self.ask(
            f"insert into orders (zone, instance) select 'test', n from generate_series(1, {rows:d}) n",  # noqa: S608
            name,
            region,
        )

    def count(self, name: str = "", region: str = "") -> int:
        return int(self.ask("select count(*) from orders", name, region)[0])

    def backup(self) -> dict[str, Any]:
        (found,) = self.recovery.describe_db_instance_automated_backups(DBInstanceIdentifier="orders-db")[
            "DBInstanceAutomatedBackups"
        ]
        return dict(found)

    def await_archived(self) -> None:
        """Wait until everything that is committed now can be restored in the second region."""
        (now,) = self.ask("select clock_timestamp()")
        eventually(lambda: self.backup().get("RestoreWindow", {}).get("LatestTime", now) > now, "it is archived")

    def restore(self, name: str, **when: Any) -> None:
        answer = self.recovery.restore_db_instance_to_point_in_time(
            SourceDBInstanceAutomatedBackupsArn=self.backup()["DBInstanceAutomatedBackupsArn"],
            TargetDBInstanceIdentifier=name,
            DBSubnetGroupName="orders",
            Tags=CONSENT,
            **when,
        )
        assert answer["DBInstance"]["DBInstanceStatus"] == "creating"
        assert "Endpoint" not in answer["DBInstance"]

    def delete(self, name: str, region: str = "") -> None:
        rds = self.recovery if region == RECOVERY else self.rds
        rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
        self.await_status("gone", name, region)

    def calls(self) -> list[dict[str, Any]]:
        path = self.home / "labs" / "lab" / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def cut(self, zone: str) -> Callable[[], None]:
        """Cut the first region's database subnet of a zone; return what heals it."""
        ec2 = self.client("ec2", self.target.region)
        wanted = {"Name": "tag:Name", "Values": [f"orders-{zone}-db"]}
        (subnet,) = ec2.describe_subnets(Filters=[wanted])["Subnets"]
        deny = ec2.create_network_acl(VpcId=subnet["VpcId"])["NetworkAcl"]["NetworkAclId"]

        def swap(acl: str) -> str:
            filters = [{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}]
            (now,) = ec2.describe_network_acls(Filters=filters)["NetworkAcls"]
            (association,) = [a for a in now["Associations"] if a["SubnetId"] == subnet["SubnetId"]]
            ec2.replace_network_acl_association(AssociationId=association["NetworkAclAssociationId"], NetworkAclId=acl)
            return str(now["NetworkAclId"])

        had = swap(deny)
        return lambda: (swap(had), None)[1]


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Wait for what has to come, or to hold, and need not do so within a certain time: the machine may be busy."""
    clock.wait_until(holds, what, timeout_s=timeout_s, every_s=0.05)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])
