"""A target made from tags, for people without Terraform: whatever carries the tag, as AWS describes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from drkit.errors import UnknownName, UsageError
from drkit.targets import AwsAccess, ComputeTarget, DatabaseTarget, NetworkTarget, ServiceTarget, Target
from drkit.targets.aws.account import Account, named, tags_of

TARGET_TAG = "drkit:target"
IAM_DISCOVER = (
    "autoscaling:DescribeAutoScalingGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
    "elasticloadbalancing:DescribeLoadBalancers", "elasticloadbalancing:DescribeTags",
    "elasticloadbalancing:DescribeTargetGroups", "rds:DescribeDBInstances", "sts:GetCallerIdentity",
)  # fmt: skip
T = TypeVar("T")


def discover(
    name: str,
    *,
    region: str,
    recovery_region: str | None = None,
    access: AwsAccess | None = None,
    tag: tuple[str, str] | None = None,
) -> Target:
    """Return the target whose parts carry a tag (key, value), drkit:target=NAME by default. Changes nothing.

    At most one of each kind may carry the tag: VPC (one in each region), RDS instance (one writer, and its replica),
    Auto Scaling group, target group, load balancer. The account is the caller's: look at it before you keep the file.
    Raises UnknownName if nothing carries the tag, UsageError if too much does.
    """
    key, value = tag or (TARGET_TAG, named(name, "target"))
    bare = Target(
        name=name, kind="aws", account_id="", region=region, zones=(), recovery_region=recovery_region,
        aws=access or AwsAccess(),
    )  # fmt: skip
    account = Account(bare)
    finder = _Finder(account, key, value)
    target = replace(bare, account_id=account.caller().account_id)
    vpc_id = finder.vpc(region)
    if vpc_id:
        recovery_vpc_id = finder.vpc(recovery_region) if recovery_region else None
        target = replace(
            target,
            network=NetworkTarget(vpc_id=vpc_id, recovery_vpc_id=recovery_vpc_id),
            zones=finder.zones(vpc_id, region),
        )
    found = replace(
        target,
        compute=finder.compute(region),
        service=finder.service(region),
        database=finder.database(region, recovery_region),
    )
    if not (found.network or found.compute or found.service or found.database):
        raise UnknownName(
            f"nothing in {region} carries the tag {key}={value}",
            f"tag the VPC, the RDS instance, the Auto Scaling group and the load balancer with {key}={value}",
        )
    return found


@dataclass(frozen=True, slots=True)
class _Finder:
    account: Account
    key: str
    value: str

    def vpc(self, region: str) -> str | None:
        pages = (
            self.account.client("ec2", region)
            .get_paginator("describe_vpcs")
            .paginate(Filters=[{"Name": f"tag:{self.key}", "Values": [self.value]}])
        )
        vpc = self._only("VPC", (v for page in pages for v in page["Vpcs"]), region)
        return vpc["VpcId"] if vpc else None

    def zones(self, vpc_id: str, region: str) -> tuple[str, ...]:
        pages = (
            self.account.client("ec2", region)
            .get_paginator("describe_subnets")
            .paginate(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])
        )
        return tuple(sorted({s["AvailabilityZone"] for page in pages for s in page["Subnets"]}))

    def compute(self, region: str) -> ComputeTarget | None:
        pages = (
            self.account.client("autoscaling", region)
            .get_paginator("describe_auto_scaling_groups")
            .paginate(Filters=[{"Name": f"tag:{self.key}", "Values": [self.value]}])
        )
        group = self._only("Auto Scaling group", (g for page in pages for g in page["AutoScalingGroups"]), region)
        elb = self.account.client("elbv2", region)
        groups = [g for page in elb.get_paginator("describe_target_groups").paginate() for g in page["TargetGroups"]]
        target_group = self._only("target group", self._tagged(groups, lambda g: g["TargetGroupArn"], region), region)
        if not (group or target_group):
            return None
        return ComputeTarget(
            asg_name=group["AutoScalingGroupName"] if group else None,
            target_group_arn=target_group["TargetGroupArn"] if target_group else None,
        )

    def service(self, region: str) -> ServiceTarget | None:
        elb = self.account.client("elbv2", region)
        balancers = [
            b for page in elb.get_paginator("describe_load_balancers").paginate() for b in page["LoadBalancers"]
        ]
        balancer = self._only("load balancer", self._tagged(balancers, lambda b: b["LoadBalancerArn"], region), region)
        return ServiceTarget(url=f"https://{balancer['DNSName']}") if balancer else None

    def database(self, region: str, recovery_region: str | None) -> DatabaseTarget | None:
        writers = [d for d in self._instances(region) if not d.get("ReadReplicaSourceDBInstanceIdentifier")]
        writer = self._only("RDS instance", writers, region)
        if not writer:
            return None
        replica = self._only("replica", self._instances(recovery_region), recovery_region) if recovery_region else None
        endpoint = replica.get("Endpoint", {}) if replica else {}
        return DatabaseTarget(
            instance_id=writer["DBInstanceIdentifier"],
            host=writer.get("Endpoint", {}).get("Address", ""),
            port=writer.get("Endpoint", {}).get("Port", 5432),
            dbname=writer.get("DBName", "postgres"),
            user=writer.get("MasterUsername", "postgres"),
            password_secret_arn=writer.get("MasterUserSecret", {}).get("SecretArn"),
            password_env=None if writer.get("MasterUserSecret") else "DRKIT_DB_PASSWORD",
            replica_id=replica["DBInstanceIdentifier"] if replica else None,
            replica_host=endpoint.get("Address"),
            replica_port=endpoint.get("Port"),
            sslmode="require",
        )

    def _instances(self, region: str) -> list[Any]:
        pages = self.account.client("rds", region).get_paginator("describe_db_instances").paginate()
        return [
            d for page in pages for d in page["DBInstances"] if tags_of(d.get("TagList")).get(self.key) == self.value
        ]

    def _tagged(self, things: list[T], arn_of: Callable[[T], str], region: str) -> list[T]:
        """Return those load-balancer things that carry the tag: ELB tells tags by ARN only, 20 at a time."""
        elb = self.account.client("elbv2", region)
        tagged: set[str] = set()
        for start in range(0, len(things), 20):
            arns = [arn_of(t) for t in things[start : start + 20]]
            for d in elb.describe_tags(ResourceArns=arns)["TagDescriptions"]:
                if tags_of(d.get("Tags")).get(self.key) == self.value:
                    tagged.add(d["ResourceArn"])
        return [t for t in things if arn_of(t) in tagged]

    def _only(self, what: str, found: Iterable[Any], region: str | None) -> Any:
        things = list(found)
        if len(things) > 1:
            raise UsageError(
                f"{len(things)} of the kind {what} carry the tag {self.key}={self.value} in {region}",
                "one at most may; write the target file by hand otherwise",
            )
        return things[0] if things else None
