"""Whether a lab is as a fresh one."""

from __future__ import annotations

from pathlib import Path

from drkit import lab as labs
from drkit.errors import TargetBusy, TargetError
from drkit.lease import TargetLock
from drkit.targets import Target
from drkit.targets.aws import Database, Groups, Instances


def not_whole(target: Target, home: Path) -> list[str]:
    """Return what this lab lacks that a fresh one has: running parts, standby, replica, one instance a zone, no run."""
    database, compute = target.database, target.compute
    assert database is not None
    assert database.replica_id
    assert compute is not None
    assert compute.asg_name
    try:
        TargetLock(home, "lab").close()
    except TargetBusy as e:
        return [e.message]
    now = labs.status(home=home)
    if not now.ok:
        return [f"the lab is {now.state}", *(f"not ok: {part}" for part in now.parts if not part.ok)]
    one_each = dict.fromkeys(target.zones, 1)
    try:
        pair = Database(target).instance(database.instance_id)
        replica = Database(target, str(target.recovery_region)).instance(database.replica_id)
        instances = {zone: Instances(target).in_zone(zone) for zone in target.zones}
        group = Groups(target).group(compute.asg_name)
    except TargetError as e:  # the replica may be in the making
        return [e.message]
    wanted = {
        f"not redundant: {pair}": pair.redundant,
        f"not replicating: {replica}": replica.is_replica
        and replica.status == "available"
        and replica.replication == "replicating",
        f"not one running instance in each zone: {instances}": all(
            [i.state for i in there] == ["running"] for there in instances.values()
        ),
        f"not balanced: {group}": group.in_service_by_zone == one_each
        and group.desired == len(group.members) == len(one_each),
    }
    return [what for what, holds in wanted.items() if not holds]
