"""AWS: one account, one verb a method. Importing this registers every undo verb of AWS and loads no boto3."""

from drkit.targets.aws import alarms, permissions
from drkit.targets.aws.account import Account, Caller
from drkit.targets.aws.backups import AutomatedBackup, Backups
from drkit.targets.aws.compute import Instance, Instances, TargetHealth, target_health
from drkit.targets.aws.database import Database
from drkit.targets.aws.dns import Records
from drkit.targets.aws.fence import Fences
from drkit.targets.aws.groups import Group, Groups, Member
from drkit.targets.aws.network import Association, Subnet, Subnets
from drkit.targets.aws.parameters import Parameters
from drkit.targets.aws.rds import DbEvent, DbInstance
from drkit.targets.aws.replication import Replication
from drkit.targets.aws.secrets import Secrets
from drkit.targets.aws.shift import Shift, ZonalShifts
from drkit.targets.aws.snapshots import Snapshot, Snapshots

__all__ = [
    "Account",
    "Association",
    "AutomatedBackup",
    "Backups",
    "Caller",
    "Database",
    "DbEvent",
    "DbInstance",
    "Fences",
    "Group",
    "Groups",
    "Instance",
    "Instances",
    "Member",
    "Parameters",
    "Records",
    "Replication",
    "Secrets",
    "Shift",
    "Snapshot",
    "Snapshots",
    "Subnet",
    "Subnets",
    "TargetHealth",
    "ZonalShifts",
    "alarms",
    "permissions",
    "target_health",
]
