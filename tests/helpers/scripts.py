"""The playbooks as they are performed on a lab: in which order, and what each one does there, once and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

FIRST, RECOVERY = "eu-central-1", "eu-west-1"
_POINTED = ("route53 ChangeResourceRecordSets global db.orders.example.",
            "route53 ChangeResourceRecordSets global api.orders.example.")  # fmt: skip
_FENCED = ("ec2 CreateNetworkAcl eu-central-1", *["ec2 ReplaceNetworkAclAssociation eu-central-1"] * 3)
_LED_TO_RECOVERY = (
    *_FENCED, *_POINTED,
    "secretsmanager StopReplicationToReplica eu-west-1 orders/db", "secretsmanager PutSecretValue eu-west-1 orders/db",
    "autoscaling SetDesiredCapacity eu-west-1 orders",
)  # fmt: skip


def _failback(retired: str) -> tuple[str, ...]:
    return (
        "rds DeleteDBInstance eu-central-1 orders-db",
        *["ec2 ReplaceNetworkAclAssociation eu-central-1"] * 3,
        "ec2 DeleteNetworkAcl eu-central-1",
        "rds CreateDBInstanceReadReplica eu-central-1 orders-db",
        "ec2 CreateNetworkAcl eu-west-1",
        *["ec2 ReplaceNetworkAclAssociation eu-west-1"] * 2,
        "rds PromoteReadReplica eu-central-1 orders-db",
        *_POINTED,
        "rds ModifyDBInstance eu-central-1 orders-db",
        f"rds DeleteDBInstance eu-west-1 {retired}",
        "ec2 DeleteNetworkAcl eu-west-1",
        "rds CreateDBInstanceReadReplica eu-west-1 orders-db-replica",
        "secretsmanager ReplicateSecretToRegions eu-central-1 orders/db",
        "autoscaling SetDesiredCapacity eu-west-1 orders",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One playbook as it is performed, and what it does when nothing disturbs it."""

    name: str
    variables: Mapping[str, str] = field(default_factory=dict)
    effects: tuple[str, ...]
    old: tuple[str, str] | None = None  # the writer that is overtaken, and the one that overtakes it
    new: tuple[str, str] | None = None
    read_only_first: str = ""  # the step after which a client that insists is all that still writes to the old writer
    promotions: int = 1  # by so many the writer's timeline advances
    whole: bool = True  # the lab afterwards
    by_hand: str = ""  # "fence", "lift": what people do to the first region meanwhile, its effects among those above
    killed: bool = True  # False: its steps are another one's, it only makes the lab whole again


WRITER, REPLICA, RESTORED = (FIRST, "orders-db"), (RECOVERY, "orders-db-replica"), (RECOVERY, "orders-db-restored")
RDS_FAILOVER = Script(name="rds-failover", effects=("rds RebootDBInstance eu-central-1 orders-db",))
AZ_EVACUATE = Script(
    name="az-evacuate",
    effects=(
        "arc-zonal-shift StartZonalShift eu-central-1",
        *["autoscaling UpdateAutoScalingGroup eu-central-1 orders"] * 2,
        "rds RebootDBInstance eu-central-1 orders-db",
        "arc-zonal-shift CancelZonalShift eu-central-1",
    ),
)
RESTORE_DRILL = Script(
    name="restore-drill",
    effects=(
        "rds RestoreDBInstanceToPointInTime eu-west-1 orders-db-drill",
        "rds DeleteDBInstance eu-west-1 orders-db-drill",
    ),
    promotions=0,
)
REGION_FAILOVER = Script(
    name="region-failover",
    effects=(*_LED_TO_RECOVERY, "rds PromoteReadReplica eu-west-1 orders-db-replica"),
    old=WRITER,
    new=REPLICA,
    whole=False,
)
FAILBACK = Script(
    name="failback",
    effects=_failback("orders-db-replica"),
    old=REPLICA,
    new=WRITER,
    read_only_first="has-everything",
)
RESTORE = Script(
    name="restore-from-cross-region-backup",
    effects=(*_LED_TO_RECOVERY, "rds RestoreDBInstanceToPointInTime eu-west-1 orders-db-restored"),
    old=WRITER,
    new=RESTORED,
    whole=False,
)
FAILBACK_RESTORED = Script(
    name="failback",
    variables={"writer": "restored"},
    effects=("rds DeleteDBInstance eu-west-1 orders-db-replica", *_failback("orders-db-restored")),
    old=RESTORED,
    new=WRITER,
    read_only_first="has-everything",
)
BY_HAND = replace(REGION_FAILOVER, variables={"fence": "by-hand"}, by_hand="fence")
FAILBACK_BY_HAND = replace(FAILBACK, by_hand="lift", killed=False)
ALL = (
    RDS_FAILOVER, AZ_EVACUATE, RESTORE_DRILL, REGION_FAILOVER, FAILBACK, RESTORE, FAILBACK_RESTORED, BY_HAND,
    FAILBACK_BY_HAND,
)  # fmt: skip
