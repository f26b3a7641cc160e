"""What RDS says about an instance, as values of ours, and what several verbs do with one: wait for it, delete it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from drkit import clock
from drkit.errors import Refused, TargetError
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import RUN_TAG, Account, named, tags_of

if TYPE_CHECKING:
    from mypy_boto3_rds.type_defs import DBInstanceTypeDef

NOT_FOUND = {"DBInstanceNotFound", "DBInstanceNotFoundFault"}
NOT_NOW = {"InvalidDBInstanceState", "InvalidDBInstanceStateFault"}
# RDS's words while a promotion is under way; it names the source of the replica until the end.
PROMOTING = {"modifying", "rebooting"}
MAYBE_PROMOTING = {*PROMOTING, "backing-up"}  # or a mere backup: for those who must be on the safe side
GP3_BASELINE_IOPS = 3000  # of a volume under 400 GiB; a larger one has 12 000 at least
PROMOTED_TAG = "drkit:promoted"  # on a replica, since before its promotion was asked for: when, in UTC
PROMOTION_SHOWS_S = 1800.0  # until a promotion that was accepted is surely visible; RDS begins it within minutes
OWN_TAGS = (RUN_TAG, PROMOTED_TAG)
DELETED_TIMEOUT_S = 3600.0  # RDS takes 3–15 minutes to delete an instance
ACCEPTED_TIMEOUT_S = 1800.0  # until an instance is in a state in which RDS takes orders about it again


@dataclass(frozen=True, slots=True)
class DbInstance:
    """One RDS instance as RDS describes it."""

    instance_id: str
    arn: str
    status: str  # RDS's word: available, rebooting, stopped, …
    zone: str  # of the writer
    secondary_zone: str  # of the Multi-AZ standby; "" while there is none
    multi_az: bool
    host: str
    port: int
    source: str  # what it is a replica of (identifier, or ARN across regions); ""
    replica_ids: tuple[str, ...]
    replication: str  # "replicating", "error", …; "" for no replica
    deletion_protection: bool
    consented: bool
    tags: Mapping[str, str] = field(default_factory=dict)
    instance_class: str = ""  # db.m6g.large
    engine_version: str = ""
    parameter_group: str = ""
    storage_encrypted: bool = False
    backup_retention_days: int = 0  # 0: there are no automated backups
    latest_restorable: datetime | None = None  # the latest moment to which its own backups can restore it
    created: datetime | None = None
    resource_id: str = ""  # of this very server: another one of the same name has another

    @property
    def is_replica(self) -> bool:
        return bool(self.source)

    @property
    def redundant(self) -> bool:
        """Return whether RDS says that the loss of the writer's zone would be survived."""
        return self.status == "available" and self.multi_az and self.secondary_zone not in {"", self.zone}

    def effects(self, call: str, *, what: str, undo: str, iam: tuple[str, ...]) -> tuple[Effect]:
        """Return a plan that is one call of RDS about this instance."""
        region = self.arn.split(":")[3]
        return (Effect(call, self.instance_id, region, self.zone, what, undo, iam, self.consented),)


@dataclass(frozen=True, slots=True)
class DbEvent:
    """Something that RDS reported about an instance; its time is the wall clock of AWS, to the second or so."""

    at: datetime
    message: str
    categories: tuple[str, ...]


def described(account: Account, region: str, instance_id: str) -> DBInstanceTypeDef:
    """Return RDS's own description of an instance; TargetError (code DBInstanceNotFound) if there is none."""
    rds = account.client("rds", region)
    (found,) = rds.describe_db_instances(DBInstanceIdentifier=named(instance_id, "database"))["DBInstances"]
    return found


def instance_or_none(account: Account, region: str, instance_id: str) -> DbInstance | None:
    """Return an instance as it is now, None if there is none of that name; TargetError if that cannot be told."""
    try:
        return instance_of(account, described(account, region, instance_id))
    except TargetError as e:
        if e.code in NOT_FOUND:
            return None
        raise


def instance_of(account: Account, d: DBInstanceTypeDef) -> DbInstance:
    """Return what RDS described as a value of ours."""
    tags = tags_of(d.get("TagList"))
    endpoint = d.get("Endpoint", {})
    infos = [i for i in d.get("StatusInfos", []) if i.get("StatusType") == "read replication"]
    return DbInstance(
        instance_id=d["DBInstanceIdentifier"],
        arn=d["DBInstanceArn"],
        status=d["DBInstanceStatus"],
        zone=d.get("AvailabilityZone", ""),
        secondary_zone=d.get("SecondaryAvailabilityZone", ""),
        multi_az=d.get("MultiAZ", False),
        host=endpoint.get("Address", ""),
        port=endpoint.get("Port", 0),
        source=d.get("ReadReplicaSourceDBInstanceIdentifier", ""),
        replica_ids=tuple(d.get("ReadReplicaDBInstanceIdentifiers", ())),
        replication=infos[0].get("Status", "") if infos else "",
        deletion_protection=d.get("DeletionProtection", False),
        consented=account.consented(tags),
        tags=tags,
        instance_class=d.get("DBInstanceClass", ""),
        engine_version=d.get("EngineVersion", ""),
        parameter_group=next((g.get("DBParameterGroupName", "") for g in d.get("DBParameterGroups", [])), ""),
        storage_encrypted=d.get("StorageEncrypted", False),
        backup_retention_days=d.get("BackupRetentionPeriod", 0),
        latest_restorable=d.get("LatestRestorableTime"),
        created=d.get("InstanceCreateTime"),
        resource_id=d.get("DbiResourceId", ""),
    )


def promotion_visible_by(target: Target, *asked_at: str) -> datetime | None:
    """Return by when a promotion is visible that was asked for at the latest of these moments; None if it is over.

    asked_at: ISO 8601, UTC; "" for none, as is what is no moment. Wall time, as it may have been another machine that
    asked: some seconds do not matter here. In a lab a promotion is visible sooner.
    """
    moments = [m for m in map(moment_of, asked_at) if m is not None]
    by = max(moments, default=datetime.min.replace(tzinfo=UTC)) + timedelta(seconds=PROMOTION_SHOWS_S * target.pace)
    return by if by > clock.wall_utc() else None


def moment_of(text: str) -> datetime | None:
    """Return a moment that was written down as ISO 8601 (UTC if it does not say), None for a text that is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def again_settings(d: DBInstanceTypeDef, target: Target) -> dict[str, Any]:
    """Return the arguments of CreateDBInstanceReadReplica that make this replica again."""
    source = d["ReadReplicaSourceDBInstanceIdentifier"]
    settings = replica_settings(d, source)
    if target.database and source == target.database.instance_id:
        settings.pop("DBSubnetGroupName", None)  # RDS takes the source's, and refuses one that is named
    return settings


def replica_settings(d: DBInstanceTypeDef, source: str) -> dict[str, Any]:
    """Return the arguments of CreateDBInstanceReadReplica that make an instance like this one, following `source`.

    They survive JSON. source: an ARN if it is in another region.
    """
    settings: dict[str, Any] = {
        "DBInstanceIdentifier": d["DBInstanceIdentifier"],
        "SourceDBInstanceIdentifier": source,
        "DBInstanceClass": d.get("DBInstanceClass"),
        "Port": d.get("Endpoint", {}).get("Port"),
        "MultiAZ": d.get("MultiAZ"),
        "AvailabilityZone": None if d.get("MultiAZ") else d.get("AvailabilityZone"),
        "DBSubnetGroupName": d.get("DBSubnetGroup", {}).get("DBSubnetGroupName"),
        "VpcSecurityGroupIds": [g["VpcSecurityGroupId"] for g in d.get("VpcSecurityGroups", [])],
        "DBParameterGroupName": next((g["DBParameterGroupName"] for g in d.get("DBParameterGroups", [])), None),
        "StorageType": d.get("StorageType"),
        **_throughput(d),
        "KmsKeyId": d.get("KmsKeyId"),
        "PubliclyAccessible": d.get("PubliclyAccessible"),
        "AutoMinorVersionUpgrade": d.get("AutoMinorVersionUpgrade"),
        "CopyTagsToSnapshot": d.get("CopyTagsToSnapshot"),
        "EnableIAMDatabaseAuthentication": d.get("IAMDatabaseAuthenticationEnabled"),
        "EnablePerformanceInsights": d.get("PerformanceInsightsEnabled"),
        "EnableCloudwatchLogsExports": d.get("EnabledCloudwatchLogsExports"),
        "MaxAllocatedStorage": d.get("MaxAllocatedStorage"),
        "MonitoringInterval": d.get("MonitoringInterval"),
        "MonitoringRoleArn": d.get("MonitoringRoleArn"),
        # AWS's own tags (aws:…) cannot be given, and what drkit noted on the old one is not true of the new one.
        "Tags": [t for t in d.get("TagList", []) if not t.get("Key", "").startswith(("aws:", *OWN_TAGS))],
    }
    if source.startswith("arn:"):
        # Only subnet groups and ARNs work across regions; botocore signs the copy of an encrypted source with this.
        settings["SourceRegion"] = source.split(":")[3]
    return {k: v for k, v in settings.items() if v not in (None, "", [])}


def _throughput(d: DBInstanceTypeDef) -> dict[str, int]:
    """Return what the storage is provisioned for, as RDS wants to hear it; nothing where it wants to hear nothing.

    io1 and io2 need Iops and take no throughput. RDS describes gp3's baseline as well, but refuses to be given it for a
    volume under 400 GiB (engine postgres), which has no more than that baseline.
    """
    kind, iops, throughput = d.get("StorageType", ""), d.get("Iops") or 0, d.get("StorageThroughput") or 0
    wanted = {"Iops": iops} if kind in {"io1", "io2", "gp3"} else {}
    if kind == "gp3":
        if iops <= GP3_BASELINE_IOPS:
            return {}
        wanted["StorageThroughput"] = throughput
    return {k: v for k, v in wanted.items() if v}


def restore_settings(d: DBInstanceTypeDef) -> dict[str, Any]:
    """Return the arguments of a restore that make an instance like this one, in its own region. They survive JSON."""
    kept = (
        "DBInstanceClass", "DBSubnetGroupName", "DBParameterGroupName", "VpcSecurityGroupIds", "StorageType", "Iops",
        "StorageThroughput", "MultiAZ", "PubliclyAccessible", "AutoMinorVersionUpgrade", "CopyTagsToSnapshot",
        "EnableIAMDatabaseAuthentication", "Tags",
    )  # fmt: skip
    return {k: v for k, v in replica_settings(d, d["DBInstanceIdentifier"]).items() if k in kept}


def must_be_made_by(run_id: str, account: Account, now: DbInstance, *, real: bool) -> None:
    """Raise Refused unless the run made the instance and, except after a real recovery, it still consents."""
    if now.tags.get(RUN_TAG) != named(run_id, "run"):
        raise Refused(
            f"not deleting {now.instance_id}: it does not carry {RUN_TAG}={run_id}, so this run did not make it",
            "look at it, and delete it by hand if it is of no use",
        )
    if not real:
        account.must_consent(now.instance_id, now.tags)


def delete_and_wait(account: Account, region: str, instance_id: str) -> None:
    """Delete an instance without a snapshot and wait until it is gone; one that is gone is fine."""
    rds = account.client("rds", region)

    def gone() -> bool:
        try:
            if described(account, region, instance_id)["DBInstanceStatus"] != "deleting":
                rds.delete_db_instance(
                    DBInstanceIdentifier=instance_id, SkipFinalSnapshot=True, DeleteAutomatedBackups=True
                )
        except TargetError as e:
            if e.code in NOT_FOUND:
                return True
            if e.code not in NOT_NOW:
                raise
        return False

    clock.wait_until(
        gone, f"{instance_id} is deleted", timeout_s=DELETED_TIMEOUT_S, every_s=asking_every_s(account.target)
    )


def asking_every_s(target: Target) -> float:
    """Return how often RDS is asked while something is waited for."""
    return 0.2 if target.kind == "lab" else 10.0
