"""The control-plane state that faults touch, before and after: what differs afterwards was left behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from drkit.targets import Target

if TYPE_CHECKING:
    from drkit.targets.aws import Subnets


@dataclass(frozen=True, slots=True)
class State:
    """What was true of a target at one moment. `writer_*` say who serves: they may change for good, the rest not."""

    acl_by_subnet: Mapping[str, str] = field(default_factory=dict)
    acls_of_runs: tuple[str, ...] = ()  # network ACLs that drkit made
    running_by_zone: Mapping[str, int] = field(default_factory=dict)
    group_subnets: tuple[str, ...] = ()
    group_suspended: tuple[str, ...] = ()
    group_desired: int = 0
    database: Mapping[str, str] = field(default_factory=dict)  # status, multi_az
    replica: Mapping[str, str] = field(default_factory=dict)  # status, source, replication
    record: str = ""  # what the writer's DNS record points to
    writer_zone: str = ""
    writer_server: str = ""  # address and port of the server behind the writer endpoint
    instance_ids: tuple[str, ...] = ()  # that ran; a group may replace them, so others are no residue

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> State:
        """Return the state that `to_json` was asked for, by this version of drkit or (as far as it goes) another."""
        known = {k: v for k, v in document.items() if k in cls.__slots__}
        lists = {k: tuple(v) for k, v in known.items() if isinstance(v, list)}
        return cls(**{**known, **lists})


def snapshot(target: Target) -> State:
    """Ask the target for its state, with read-only calls. Raises TargetError when it does not answer."""
    from drkit.targets import postgres
    from drkit.targets.aws import Database, Groups, Instances, Records, Subnets
    from drkit.targets.aws.network import acls_of_runs

    facts: dict[str, Any] = {}
    acls: dict[str, str] = {}
    made: tuple[str, ...] = ()
    if target.network:
        subnets = Subnets(target)
        acls |= {s.subnet_id: _acl_of(subnets, s.subnet_id) for z in target.zones for s in subnets.in_zone(z)}
        made += acls_of_runs(target, target.region)
        running = {z: [i.instance_id for i in Instances(target).in_zone(z)] for z in target.zones}
        facts["running_by_zone"] = {z: len(ids) for z, ids in running.items()}
        facts["instance_ids"] = tuple(i for ids in running.values() for i in ids)
    if target.compute and target.compute.asg_name:
        group = Groups(target).group(target.compute.asg_name)
        facts |= {
            "group_subnets": tuple(sorted(group.subnet_ids)),
            "group_suspended": group.suspended,
            "group_desired": group.desired,
        }
    if database := target.database:
        now = Database(target).instance(database.instance_id)
        facts["database"] = {"status": now.status, "multi_az": str(now.multi_az)}
        facts["writer_zone"] = now.zone
        facts["writer_server"] = postgres.server(target)
        if database.replica_id and target.recovery_region:
            replicas = Database(target, target.recovery_region)
            replica = replicas.instance(database.replica_id)
            facts["replica"] = {"status": replica.status, "source": replica.source, "replication": replica.replication}
            if target.network and target.network.recovery_vpc_id:
                there = Subnets(target, target.recovery_region)
                for subnet_id in replicas.subnet_ids(database.replica_id):
                    acls[subnet_id] = _acl_of(there, subnet_id)
                made += acls_of_runs(target, target.recovery_region)
        if database.dns_record and database.hosted_zone_id:
            facts["record"] = Records(target, database.hosted_zone_id).value(database.dns_record)
    return State(acl_by_subnet=acls, acls_of_runs=made, **facts)


def _acl_of(subnets: Subnets, subnet_id: str) -> str:
    """Return a subnet's network ACL; of one that a playbook has fenced the one behind its fence, which is its own."""
    now = subnets.association(subnet_id)
    return now.had if now.fenced else now.acl_id


def without_recovery(state: State) -> State:
    """Return a state without all that a recovery changes for good: who is the writer, and what leads to it."""
    return replace(state, database={}, replica={}, record="", group_desired=0)


def differences(before: State, after: State) -> tuple[str, ...]:
    """Return one sentence for each thing that is not as it was. A writer in another zone is no residue."""
    found: list[str] = []
    for subnet, acl in before.acl_by_subnet.items():
        if (now := after.acl_by_subnet.get(subnet, "none")) != acl:
            found.append(f"subnet {subnet} has network ACL {now} instead of {acl}")
    found += [f"network ACL {acl} was left behind" for acl in set(after.acls_of_runs) - set(before.acls_of_runs)]
    for zone, count in before.running_by_zone.items():
        if (now_running := after.running_by_zone.get(zone, 0)) < count:
            found.append(f"{now_running} instances run in {zone} instead of {count}")
    pairs: tuple[tuple[str, object, object], ...] = (
        ("the group's subnets are", before.group_subnets, after.group_subnets),
        ("the group's suspended processes are", before.group_suspended, after.group_suspended),
        ("the group desires", before.group_desired, after.group_desired),
        ("the database is", dict(before.database), dict(after.database)),
        ("the replica is", dict(before.replica), dict(after.replica)),
        ("the writer's DNS record points to", before.record, after.record),
    )
    found += [f"{what} {now} instead of {was}" for what, was, now in pairs if was != now]
    return tuple(sorted(found))
