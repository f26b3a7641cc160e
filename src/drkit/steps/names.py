"""What a playbook's words mean on a target: "first" and "recovery", and the parts that it needs of each."""

from __future__ import annotations

from typing import Literal

from drkit.errors import UsageError
from drkit.playbook import Recovery
from drkit.targets import ComputeTarget, DatabaseTarget, ServiceTarget, Target
from drkit.targets.postgres import Endpoint

Which = Literal["first", "recovery"]


def region_of(target: Target, which: str) -> str:
    """Return the region called "first" or "recovery". Raises UsageError for another word, or a target with one only."""
    if which == "first":
        return target.region
    if which != "recovery":
        raise UsageError(f"there is no region {which!r}", 'it is "first" or "recovery"')
    if not target.recovery_region:
        raise UsageError(f"target {target.name} names no recovery region", "add recovery_region to the target file")
    return target.recovery_region


def database_of(target: Target) -> DatabaseTarget:
    if target.database is None:
        raise UsageError(f"target {target.name} names no database", "add `database` to the target file")
    return target.database


def service_of(target: Target) -> ServiceTarget:
    if target.service is None:
        raise UsageError(f"target {target.name} names no service", "add `service` to the target file")
    return target.service


def compute_of(target: Target) -> ComputeTarget:
    if target.compute is None:
        raise UsageError(f"target {target.name} names no compute", "add `compute` to the target file")
    return target.compute


def instance_of(target: Target, name: str) -> str:
    """Return an RDS identifier: the target's own for "writer" and "replica", what is restored from the writer's backups
    for "restored" and "drill", else the name itself."""
    database = database_of(target)
    if name == "writer":
        return database.instance_id
    if name in ("restored", "drill"):
        return f"{database.instance_id}-{name}"
    if name != "replica":
        return name
    if not database.replica_id:
        raise UsageError(f"target {target.name} names no cross-region replica", "add database.replica_id")
    return database.replica_id


def group_of(target: Target, which: str) -> tuple[str, str]:
    """Return the Auto Scaling group and the target group of a region: (name, ARN)."""
    compute = compute_of(target)
    first = which == "first"
    region_of(target, which)
    group = compute.asg_name if first else compute.recovery_asg_name
    targets = compute.target_group_arn if first else compute.recovery_target_group_arn
    if not (group and targets):
        prefix = "" if first else "recovery_"
        raise UsageError(
            f"target {target.name} names no Auto Scaling group in its {which} region",
            f"add compute.{prefix}asg_name and compute.{prefix}target_group_arn",
        )
    return group, targets


def endpoint_of(target: Target, region: str, instance_id: str) -> Endpoint:
    """Ask RDS where an instance answers: (host, port)."""
    from drkit.targets.aws import Database

    now = Database(target, region).instance(instance_id)
    return now.host, now.port


def run_suffix(recovery: Recovery) -> str:
    """Return what makes names of this run's resources its own, and the same after a resume: 20261127-3f9c."""
    stamp, *_, tail = recovery.run.run_id.split("-")
    return f"{stamp[:8]}-{tail}"
