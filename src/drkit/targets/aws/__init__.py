"""AWS: one account, one verb a method. Importing this registers every undo verb of AWS and loads no boto3."""

from drkit.targets.aws import alarms, permissions
from drkit.targets.aws.account import Account, Caller
from drkit.targets.aws.compute import Instance, Instances, TargetHealth, target_health
from drkit.targets.aws.database import Database
from drkit.targets.aws.dns import Records
from drkit.targets.aws.groups import Group, Groups, Member
from drkit.targets.aws.network import Association, Subnet, Subnets
from drkit.targets.aws.parameters import Parameters
from drkit.targets.aws.rds import DbEvent, DbInstance
from drkit.targets.aws.replication import Replication

__all__ = [
    "Account",
    "Association",
    "Caller",
    "Database",
    "DbEvent",
    "DbInstance",
    "Group",
    "Groups",
    "Instance",
    "Instances",
    "Member",
    "Parameters",
    "Records",
    "Replication",
    "Subnet",
    "Subnets",
    "TargetHealth",
    "alarms",
    "permissions",
    "target_health",
]
