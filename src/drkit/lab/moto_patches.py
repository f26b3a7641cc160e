"""What moto 5.2.5 must stop pretending, so that the reactor and the controllers can do it for real.

Each patch says which pretence it ends. Internals are touched, so the version is pinned in pyproject.toml.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import secrets
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

_done = False

TargetHealthOf = Callable[[str], tuple[str, str | None, str | None]]  # instance id → (state, reason, description)


def apply() -> None:
    """Patch moto once in this process."""
    global _done
    if not _done:
        _instances_of_their_own()
        _no_endpoint_while_creating()
        _restored_instances()
        _large_objects_copied_once()
        _slow_database_verbs()
        _replicas_removed_by_either_name()
        _events_are_filtered()
        _groups_only_record()
        _swaps_are_whole()
        replica_secrets_stand_alone()
        _done = True


def report_target_health(health_of: TargetHealthOf) -> None:
    """Let DescribeTargetHealth answer what the load balancer sees (moto: always healthy)."""
    m = _models("elbv2")

    as_recorded = m.FakeTargetGroup.health_for

    def health_for(self: Any, target: Any, ec2_backend: Any) -> Any:
        recorded = as_recorded(self, target, ec2_backend)
        if recorded.status == "healthy":
            recorded.status, recorded.reason, recorded.description = health_of(target["Id"])
        return recorded

    m.FakeTargetGroup.health_for = health_for


def launch(group: Any, subnet_id: str) -> str:
    """Make one instance of an Auto Scaling group in a subnet; return its id. (moto: everything in the first subnet.)"""
    m = _models("autoscaling")

    every_subnet, zones = group.vpc_zone_identifier, group.availability_zones
    known = {state.instance.id for state in group.instance_states}
    try:
        group.vpc_zone_identifier = subnet_id
        group.availability_zones = [group.ec2_backend.get_subnet(subnet_id).availability_zone]
        m.FakeAutoScalingGroup.replace_autoscaling_group_instances(group, 1, group.get_propagated_tags())
    finally:
        group.vpc_zone_identifier, group.availability_zones = every_subnet, zones
    (new,) = (state for state in group.instance_states if state.instance.id not in known)
    new.lifecycle_state = "Pending"
    return str(new.instance.id)


def _models(service: str) -> Any:
    """Return moto's module; Any, since what is patched is not meant to be."""
    return importlib.import_module(f"moto.{service}.models")


def _new_resource_id() -> str:
    return "db-" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(26))


def _instances_of_their_own() -> None:
    """One constant DbiResourceId for all, and replicas that share their source's lists."""
    m = _models("rds")

    construct, replicate = m.DBInstance.__init__, m.RDSBackend.create_db_instance_read_replica

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        self.dbi_resource_id = _new_resource_id()

    def create_replica(self: Any, wanted: Any) -> Any:
        source = self.find_db_from_id(wanted["source_db_instance_identifier"])
        subnet_group = wanted.pop("db_subnet_group_name", None)  # would be looked for in the source's region
        replica = replicate(self, wanted)
        if subnet_group:
            replica.db_subnet_group_name = subnet_group
        replica.dbi_resource_id = _new_resource_id()
        for shared in ("vpc_security_group_ids", "enabled_cloudwatch_logs_exports", "db_security_groups"):
            setattr(replica, shared, copy.copy(getattr(replica, shared)))
        if wanted.get("tags") is None:
            replica.tags = []
        replica.multi_az = bool(wanted.get("multi_az"))
        replica.secondary_availability_zone = None
        replica.availability_zone = wanted.get("availability_zone") or f"{self.region_name}a"
        replica.source_db_instance_identifier = source.arn if self is not source.backend else source.resource_id
        replica.instance_create_time = datetime.now(UTC)
        replica.status = "creating"
        return replica

    m.DBInstance.__init__ = init
    m.RDSBackend.create_db_instance_read_replica = create_replica


def _slow_database_verbs() -> None:
    """Instances that are at once stopped, started, promoted or gone: the reactor says when they are."""
    m = _models("rds")

    def leaving(name: str, status: str) -> None:
        act = getattr(m.RDSBackend, name)

        def acted(self: Any, *args: Any, **kwargs: Any) -> Any:
            database = act(self, *args, **kwargs)
            database.status = status
            return database

        setattr(m.RDSBackend, name, acted)

    leaving("stop_db_instance", "stopping")
    leaving("start_db_instance", "starting")
    delete, promote = m.RDSBackend.delete_db_instance, m.RDSBackend.promote_read_replica

    def delete_db_instance(self: Any, db_instance_identifier: str, *args: Any, **kwargs: Any) -> Any:
        database = self.databases.get(db_instance_identifier)
        if database is not None and database.is_replica and not _has_source(database):
            database.is_replica = False  # moto would look for the source that is gone
        database = delete(self, db_instance_identifier, *args, **kwargs)
        self.databases[db_instance_identifier] = database  # listed as "deleting" until it is gone
        return database

    def promote_read_replica(self: Any, wanted: Any) -> Any:  # moto keeps the source's id, and the replica in its list
        database = self.databases[wanted["db_instance_identifier"]]
        if database.is_replica and _has_source(database):
            self.find_db_from_id(database.source_db_instance_identifier).remove_replica(database)
        promote(self, wanted)
        database.source_db_instance_identifier = None
        database.status_infos = []
        database.status = "modifying"
        return database

    m.RDSBackend.delete_db_instance = delete_db_instance
    m.RDSBackend.promote_read_replica = promote_read_replica


def _has_source(database: Any) -> bool:
    try:
        database.backend.find_db_from_id(database.source_db_instance_identifier)
    except _models("rds").DBInstanceNotFoundError:
        return False
    return True


def _no_endpoint_while_creating() -> None:
    """Endpoints, and backups, of instances that are not there yet."""
    m = _models("rds")

    recorded = m.DBInstance.endpoint

    def endpoint(self: Any) -> dict[str, Any] | None:
        return None if self.status == "creating" else recorded.fget(self)

    m.DBInstance.endpoint = property(endpoint)
    m.DBInstance.save_automated_backup = lambda _: None


def report_backups(latest_of: Callable[[Any], datetime | None], source_of: Callable[[str, Any], Any]) -> None:
    """Let LatestRestorableTime be the truth (moto: now), and find what is restored to a point in time.

    source_of: region, call's parameters → record of the instance that the restored one takes after.
    """
    m = _models("rds")

    m.DBInstance.latest_restorable_time = property(latest_of)
    m.RDSBackend.source_of_restore = lambda self, wanted: source_of(self.region_name, wanted.original_dict())


def _large_objects_copied_once() -> None:
    """Multipart uploads put together in four copies; a base backup has gigabytes."""
    m = _models("s3")

    complete = m.FakeMultipart.complete

    def complete_once(self: Any, body: Any) -> Any:
        if self.metadata.get("x-amz-checksum-algorithm"):
            return complete(self, body)
        wanted = list(body)
        parts = [self.parts.get(number) for number, _ in wanted]
        pairs = zip(parts, wanted, strict=True)
        if not parts or any(p is None or p.etag.strip('"') != e.strip('"') for p, (_, e) in pairs):
            return complete(self, iter(wanted))  # which says what is wrong
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts if part is not None)
        etag = hashlib.md5(digests, usedforsecurity=False).hexdigest()
        return b"".join(part.value for part in parts if part is not None), f"{etag}-{len(parts)}", None

    m.FakeMultipart.complete = complete_once


def _restored_instances() -> None:
    """Restored instances that share their source's role, place, tags and lists; sources in the same region only."""
    m = _models("rds")

    from_snapshot = m.RDSBackend.restore_db_instance_from_db_snapshot

    def restored(database: Any, wanted: Any) -> Any:
        database.status = "creating"
        database.is_replica, database.source_db_instance_identifier, database.replicas = False, None, []
        database.status_infos = []
        database.tags = wanted.get("tags") or []
        database.multi_az, database.secondary_availability_zone = False, None
        database.availability_zone = wanted.get("availability_zone") or f"{database.region}a"
        return database

    def restore_from_snapshot(self: Any, from_snapshot_id: str, wanted: Any) -> Any:
        return restored(from_snapshot(self, from_snapshot_id, wanted), wanted)

    def restore_to_point_in_time(self: Any, _source: str, target: str, wanted: Any) -> Any:
        source = self.source_of_restore(wanted)
        left_out = {"backend", "db_subnet_group", "max_allocated_storage", "db_parameter_group_name", "tags"}
        left_out |= {"option_group_name", "created"} | (
            {"vpc_security_group_ids"} if source.backend is not self else set()
        )
        taken = {key.removeprefix("_"): copy.copy(value) for key, value in source.__dict__.items()}
        settings = {key: value for key, value in taken.items() if key not in left_out}
        settings |= {key: value for key, value in wanted.items() if value}
        settings["db_instance_identifier"] = target
        return restored(self.create_db_instance(settings), wanted)

    m.RDSBackend.restore_db_instance_from_db_snapshot = restore_from_snapshot
    m.RDSBackend.restore_db_instance_to_point_in_time = restore_to_point_in_time


def _replicas_removed_by_either_name() -> None:
    """Cross-region replicas are listed by ARN and removed by id: a crash."""
    m = _models("rds")

    def remove_replica(self: Any, replica: Any) -> None:
        self.replicas = [r for r in self.replicas if r not in (replica.db_instance_arn, replica.db_instance_identifier)]

    m.DBInstance.remove_replica = remove_replica


def _events_are_filtered() -> None:
    """DescribeEvents ignores every filter but the source's; the default is the last 60 minutes."""
    m = _models("rds")

    everything = m.RDSBackend.describe_events

    def describe_events(
        self: Any,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        duration: int | None = None,
        event_categories: list[str] | None = None,
        **of_source: Any,
    ) -> list[Any]:
        now = datetime.now(UTC)
        oldest = _aware(start_time) if start_time else now - timedelta(minutes=duration or 60)
        newest = _aware(end_time) if end_time else now
        return [
            event
            for event in everything(self, **of_source)
            if oldest <= _aware(event.date) <= newest
            and (not event_categories or set(event_categories) & set(event.event_categories))
        ]

    m.RDSBackend.describe_events = describe_events


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _swaps_are_whole() -> None:
    """Refuse a swap to a network ACL that is gone. (moto: takes the old one away first.)"""
    m = importlib.import_module("moto.ec2.models.network_acls")

    as_recorded = m.NetworkAclBackend.replace_network_acl_association

    def replace(self: Any, association_id: str, network_acl_id: str) -> Any:
        self.get_network_acl(network_acl_id)
        return as_recorded(self, association_id, network_acl_id)

    m.NetworkAclBackend.replace_network_acl_association = replace


def _groups_only_record() -> None:
    """Auto Scaling groups that heal at once, into the first subnet, even with Launch suspended."""
    m = _models("autoscaling")

    def set_desired_capacity(self: Any, capacity: int | None) -> None:
        self.desired_capacity = self.min_size if capacity is None else capacity

    def nothing(*_: Any, **__: Any) -> None:
        pass

    m.FakeAutoScalingGroup.set_desired_capacity = set_desired_capacity
    m.AutoScalingBackend.notify_terminate_instances = nothing
    m.AutoScalingBackend.update_attached_target_groups = nothing


def replica_secrets_stand_alone() -> None:
    """Secrets Manager without StopReplicationToReplica."""
    m, responses = _models("secretsmanager"), importlib.import_module("moto.secretsmanager.responses")

    def stop_replication_to_replica(self: Any) -> str:
        backend = self.backend
        replica = backend.describe_secret(self._get_param("SecretId"))
        if not isinstance(replica, m.ReplicaSecret):
            raise m.InvalidRequestException("Operation not permitted on a secret that is not a replica.")
        source = replica.source
        source.replicas.remove(replica)
        dict.pop(backend.secrets, replica.arn)
        text = source.versions[source.default_version_id]["secret_string"]
        tags = [dict(tag) for tag in source.tags or ()]
        backend.create_secret(replica.name, text, None, source.description, tags, source.kms_key_id, None, [], False)
        own = backend.secrets[replica.name]
        own.arn = replica.arn
        return json.dumps({"ARN": own.arn})

    responses.SecretsManagerResponse.stop_replication_to_replica = stop_replication_to_replica
