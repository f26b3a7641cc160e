"""Backups: restored in the recovery region, and compared with what they should be."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from drkit.errors import DrkitError, Refused, UsageError
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.probes import sql
from drkit.steps.names import endpoint_of, instance_of, region_of, run_suffix
from drkit.targets import Target, contents, postgres
from drkit.targets.aws.account import RUN_TAG
from drkit.targets.aws.backups import IAM_RESTORE
from drkit.targets.aws.permissions import asks
from drkit.targets.aws.snapshots import IAM_SNAPSHOT_COPY

if TYPE_CHECKING:
    from drkit.targets.aws import AutomatedBackup, Backups, Snapshot

_IAM_LOOK = ("rds:DescribeDBInstances",)
RETAINED = "retained"  # RDS's word for backups whose instance or replication is gone
_IAM_WINDOW = ("rds:DescribeDBInstanceAutomatedBackups", "rds:DescribeDBSnapshots")


def moment_of(text: str) -> datetime | None:
    """Return what to_time says: a moment with its time zone, None for "" (the newest that can be restored)."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time", "for example: --to-time 2026-11-27T21:04:05Z") from None
    if moment.tzinfo is None:
        raise UsageError(f"{text} does not say of which time zone it is", "add Z for UTC, or an offset: +01:00")
    return moment.astimezone(UTC)


@asks(*_IAM_WINDOW)
@step(purpose="check")
def can_be_restored(recovery: Recovery, *, instance: str, region: str, to_time: str) -> Step:
    """The recovery region holds a backup of the instance that reaches to the wanted time."""
    from drkit.targets.aws import Backups

    target = recovery.target
    backups, instance_id, at = (
        Backups(target, region_of(target, region)),
        instance_of(target, instance),
        moment_of(to_time),
    )

    def done() -> bool:
        found = backups.automated(instance_id)
        if found is None:
            newest = _newest_snapshot(target, region_of(target, region), instance_id)
            if at is not None:
                raise Refused(
                    f"there are only snapshots of {instance_id}, the newest of {newest.created}",
                    "leave --to-time out to restore that one",
                )
            return True
        if at is not None and not (found.earliest and found.earliest <= at):
            raise Refused(f"{at.isoformat()} is before the oldest backup ({found.earliest})", "choose a later time")
        if at is not None and not (found.latest and at <= found.latest):  # a fenced writer's log may not get there
            raise Refused(
                f"the backup reaches to {found.latest} only, not to {at.isoformat()}",
                "wait until it does (RDS: minutes), or choose an earlier time",
            )
        return True

    return Step(done=done)


def _newest_snapshot(target: Target, region: str, instance_id: str) -> Snapshot:
    """Return the newest snapshot of an instance that the region holds, else the newest of its own: it can be copied.

    Raises Refused if there is none.
    """
    from drkit.targets.aws import Backups

    for name in dict.fromkeys((region, target.region)):
        found = [s for s in Backups(target, name).snapshots(instance_id) if s.status == "available"]
        if found:
            return found[0]
    raise Refused(f"there is no backup of {instance_id} in {region}, and no snapshot elsewhere", "nothing to restore")


def _overtaken(target: Target, region: str, instance_id: str, backup: AutomatedBackup) -> bool:
    """Return whether a backup grows no more, and a snapshot was made since."""
    if backup.status != RETAINED:
        return False
    try:
        newest = _newest_snapshot(target, region, instance_id)
    except DrkitError:
        return False
    return bool(newest.created and backup.latest and newest.created > backup.latest)


def _observe_restore(recovery: Recovery, *, instance: str, region: str, new: str, like: str, to_time: str) -> Facts:
    """Choose the backup: replicated automated backups, else the newest snapshot; and how the new instance shall be."""
    from drkit.targets.aws import Backups, Database

    target, name = recovery.target, region_of(recovery.target, region)
    backups, instance_id, new_id = Backups(target, name), instance_of(target, instance), instance_of(target, new)
    database = Database(target, name)
    if database.exists(new_id):
        raise Refused(
            f"{new_id} is there already, made by {database.instance(new_id).tags.get(RUN_TAG, 'somebody')}",
            "look at it, and delete it if nobody needs it",
        )
    at = moment_of(to_time)
    found = backups.automated(instance_id)
    settings = {} if like == "none" else backups.settings_like(instance_of(target, like))
    if found is not None and not (at is None and _overtaken(target, name, instance_id, found)):
        return {
            "from": "automated", "backup": found.arn, "at": at.isoformat() if at else "",
            "latest": found.latest.isoformat() if found.latest else "", "settings": settings,
        }  # fmt: skip
    newest = _newest_snapshot(target, name, instance_id)
    return {
        "from": "snapshot" if newest.region == name else "copy", "backup": newest.arn, "at": "", "settings": settings,
        "latest": newest.created.isoformat() if newest.created else "", "from_region": newest.region,
        "copy_id": f"{new_id}-{run_suffix(recovery)}",
        "kms_key_id": "" if like == "none" else backups.kms_key_of(instance_of(target, like)),
    }  # fmt: skip


def _plan_restore(
    target: Target, *, instance: str, region: str, new: str, like: str, to_time: str
) -> tuple[Effect, ...]:
    from drkit.targets.aws import Backups

    backups, instance_id = Backups(target, region_of(target, region)), instance_of(target, instance)
    found = backups.automated(instance_id)
    source = found.arn if found else _newest_snapshot(target, region_of(target, region), instance_id).arn
    return backups.plan_restore(instance_of(target, new), source=source, at=moment_of(to_time))


@asks(*_IAM_LOOK, *_IAM_WINDOW, *IAM_RESTORE, *IAM_SNAPSHOT_COPY)
@step(plan=_plan_restore, observe=_observe_restore)
def restore(recovery: Recovery, *, instance: str, region: str, new: str, like: str, to_time: str, facts: Facts) -> Step:
    """Restore a new instance from the recovery region's backup; done when it answers and takes writes.

    From replicated automated backups to the wanted time (else to the newest that can be had); where there are none,
    from the newest snapshot, which is copied from the first region if it has to be. like: the instance of that region
    whose class, subnets and parameters it gets.
    By hand: aws rds restore-db-instance-to-point-in-time --source-db-instance-automated-backups-arn ARN …
    """
    from drkit.targets.aws import Backups, Database

    target, name = recovery.target, region_of(recovery.target, region)
    backups, database, new_id = Backups(target, name), Database(target, name), instance_of(target, new)

    def ours() -> bool:
        if not database.exists(new_id):
            return False
        now = database.instance(new_id)
        if now.tags.get(RUN_TAG) != recovery.run.run_id:
            raise Refused(f"{new_id} was not made by this run", "look at it")
        if now.status in ("failed", "incompatible-restore", "incompatible-parameters"):
            raise Refused(f"RDS says that {new_id} is {now.status}", "see its events; delete it, then resume")
        return now.status == "available"

    def done() -> bool:
        if not ours():
            return False
        return postgres.accepts_writes(target, at=endpoint_of(target, name, new_id))

    def act() -> None:
        if facts["from"] in ("snapshot", "copy"):
            snapshot_id = _copied(recovery, backups, facts) if facts["from"] == "copy" else facts["backup"]
            backups.restore_snapshot(snapshot_id, new_id, facts["settings"], permit=recovery.permit, undo=recovery.undo)
            return
        at = moment_of(facts["at"])
        if at is not None:
            recovery.wait(
                lambda: _reaches(backups, instance_of(target, instance), at),
                f"the backup reaches to {at.isoformat()}",
                timeout_s=1800,
            )
        backups.restore_to_time(
            facts["backup"], new_id, at, facts["settings"], permit=recovery.permit, undo=recovery.undo
        )

    def result() -> Facts:
        host, port = endpoint_of(target, name, new_id)
        return {
            "host": host, "port": port, "bytes": contents.size_bytes(target, (host, port)), "from": facts["from"],
            "recovery_point": facts["at"] or facts["latest"],  # at least: what is archived since then comes with it
        }  # fmt: skip

    return Step(done=done, act=act, result=result)


def _copied(recovery: Recovery, backups: Backups, facts: Facts) -> str:
    """Copy the snapshot into this region, wait until it can be used, and return its identifier here."""
    copy_id = str(facts["copy_id"])
    backups.copy_snapshot(
        facts["backup"],
        copy_id,
        facts["from_region"],
        kms_key_id=str(facts.get("kms_key_id", "")),
        permit=recovery.permit,
        undo=recovery.undo,
    )

    def usable() -> bool:
        copy = backups.snapshot(copy_id)
        return copy is not None and copy.status == "available"

    recovery.wait(usable, f"{copy_id} is copied", timeout_s=7200)
    return copy_id


def _reaches(backups: Any, instance_id: str, at: datetime) -> bool:
    found = backups.automated(instance_id)
    return found is not None and found.latest is not None and found.latest >= at


# --- what was restored ------------------------------------------------------------------------------------------------


@asks(*_IAM_LOOK)
@step(purpose="check")
def is_like(recovery: Recovery, *, new: str, region: str, like: str, restored_by: str) -> Step:
    """The restored server has the same settings, extensions, roles and parameter group as the one it replaces.

    The credentials that clients use work on it too: it is asked with them. What differs is named.
    """
    from drkit.targets.aws import Database

    target, name = recovery.target, region_of(recovery.target, region)
    database, new_id, like_id = Database(target, name), instance_of(target, new), instance_of(target, like)

    def differences() -> tuple[str, ...]:
        here, there = database.instance(new_id), database.instance(like_id)
        found = contents.differences(
            contents.configuration(target, (there.host, there.port)),
            contents.configuration(target, (here.host, here.port)),
        )
        if here.parameter_group != there.parameter_group:
            found = (f"parameter group is {here.parameter_group}, not {there.parameter_group}", *found)
        return found

    def done() -> bool:
        if found := differences():
            raise Refused(f"{new_id} is not like {like_id}: {'; '.join(found[:5])}", "mend it, then resume")
        return True

    def result() -> Facts:
        known = recovery.known(restored_by)
        size, took_s = int(known.get("bytes", 0)), float(known.get("took_s", 0.0))
        return {"bytes": size, "took_s": round(took_s, 3), "bytes_per_s": round(size / took_s) if took_s else 0}

    return Step(done=done, result=result)


@asks(*_IAM_LOOK)
@step(purpose="check")
def rows_are_intact(recovery: Recovery, *, new: str, region: str) -> Step:
    """Every marker row that was restored, of whatever run, has the checksum of its own content.

    It needs no production to compare with, which may be gone or damaged.
    """
    target = recovery.target
    at = endpoint_of(target, region_of(target, region), instance_of(target, new))
    seen = {"rows": 0, "damaged": 0}

    def done() -> bool:
        seen.update(rows=0, damaged=0)
        for writer, seq, sent_ns, sha256 in contents.markers(target, at):
            seen["rows"] += 1
            seen["damaged"] += sql.checksum(writer, seq, sent_ns) != sha256
        if seen["damaged"]:
            raise Refused(f"{seen['damaged']} of {seen['rows']} restored rows are damaged", "choose another backup")
        return True

    return Step(done=done, result=lambda: {"rows": seen["rows"]})
