"""Backups: restored in the recovery region, compared with what they should be, and removed again after a drill."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from typing import Any

from drkit import clock, undo
from drkit.errors import Refused, StillBroken, UsageError
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.names import endpoint_of, instance_of, region_of
from drkit.targets import Target, contents, postgres
from drkit.targets.aws.account import RUN_TAG
from drkit.targets.aws.backups import IAM_RESTORE
from drkit.targets.aws.permissions import asks
from drkit.targets.aws.snapshots import IAM_SNAPSHOT_COPY

_IAM_LOOK = ("rds:DescribeDBInstances",)
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
            snapshots = backups.snapshots(instance_id)
            if not snapshots:
                raise Refused(
                    f"there is no backup of {instance_id} in {region_of(target, region)}", "nothing can be restored"
                )
            if at is not None:
                raise Refused(
                    f"there are only snapshots of {instance_id}, the newest of {snapshots[0].created}",
                    "leave --to-time out to restore that one",
                )
            return True
        if at is not None and not (found.earliest and found.earliest <= at):
            raise Refused(f"{at.isoformat()} is before the oldest backup ({found.earliest})", "choose a later time")
        if at is not None and at > clock.wall_utc():
            raise Refused(f"{at.isoformat()} is in the future", "choose an earlier time")
        return True

    return Step(done=done)


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
    settings = backups.settings_like(instance_of(target, like))
    if found is not None:
        return {
            "from": "automated", "backup": found.arn, "at": at.isoformat() if at else "",
            "settings": settings, "asked_at": clock.wall_utc().isoformat(),
        }  # fmt: skip
    snapshots = backups.snapshots(instance_id)
    if not snapshots:
        raise Refused(f"there is no backup of {instance_id} in {name}", "nothing can be restored")
    return {
        "from": "snapshot", "backup": snapshots[0].snapshot_id, "at": str(snapshots[0].created or ""),
        "settings": settings, "asked_at": clock.wall_utc().isoformat(),
    }  # fmt: skip


def _plan_restore(
    target: Target, *, instance: str, region: str, new: str, like: str, to_time: str
) -> tuple[Effect, ...]:
    from drkit.targets.aws import Backups

    backups, instance_id = Backups(target, region_of(target, region)), instance_of(target, instance)
    found, snapshots = backups.automated(instance_id), backups.snapshots(instance_id)
    if found is None and not snapshots:
        return ()  # the prerequisites say so
    source = found.arn if found else snapshots[0].snapshot_id
    return backups.plan_restore(instance_of(target, new), source=source, at=moment_of(to_time))


@asks(*_IAM_LOOK, *_IAM_WINDOW, *IAM_RESTORE, *IAM_SNAPSHOT_COPY)
@step(plan=_plan_restore, observe=_observe_restore)
def restore(recovery: Recovery, *, instance: str, region: str, new: str, like: str, to_time: str, facts: Facts) -> Step:
    """Restore a new instance from the recovery region's backup; done when it answers and takes writes.

    From replicated automated backups to the wanted time (else to the newest that can be had), or from the newest
    snapshot where there are none. like: the instance of that region whose class, subnets and parameters it gets.
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
        if facts["from"] == "snapshot":
            backups.restore_snapshot(
                facts["backup"], new_id, facts["settings"], permit=recovery.permit, undo=recovery.undo
            )
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
        return {"host": host, "port": port, "bytes": contents.size_bytes(target, (host, port)), "from": facts["from"]}

    return Step(done=done, act=act, result=result)


def _reaches(backups: Any, instance_id: str, at: datetime) -> bool:
    found = backups.automated(instance_id)
    return found is not None and found.latest is not None and found.latest >= at


# --- what was restored ------------------------------------------------------------------------------------------------


@asks(*_IAM_LOOK)
@step(purpose="verification")
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
@step(purpose="verification")
def is_a_prefix(recovery: Recovery, *, new: str, region: str) -> Step:
    """Every marker row of the restored server is one of production, unaltered, and none is missing in between.

    So it is what production was at one moment: not less, not more, not something else. The rows that came after that
    moment are counted: they would be lost.
    """
    target, name = recovery.target, region_of(recovery.target, region)

    def compared() -> contents.Compared:
        return contents.compare_markers(target, endpoint_of(target, name, instance_of(target, new)))

    def done() -> bool:
        found = compared()
        if found.wrong:
            raise Refused(f"the restored rows are not what production had: {found.wrong}", "the backup is damaged")
        if not found.rows:
            raise Refused(
                f"{instance_of(target, new)} holds no marker row to compare: it is from before drkit's first run here",
                "undo this run; once the backup reaches past this moment, run it again",
            )
        return True

    def result() -> Facts:
        found = compared()
        return {"rows": found.rows, "newer_in_production": found.newer, "tables": found.tables}

    return Step(done=done, result=result)


# --- a drill: nothing else is touched, and nothing stays --------------------------------------------------------------


def _observe_production(recovery: Recovery) -> Facts:
    """Return who serves production, and which instances there are in the recovery region."""
    from drkit.targets.aws import Database

    target = recovery.target
    who = postgres.identity(target)
    return {
        "server": f"{who.address}:{who.port}", "timeline": who.timeline,
        "instances": list(Database(target, region_of(target, "recovery")).instance_ids()),
    }  # fmt: skip


@asks(*_IAM_LOOK)
@step(observe=_observe_production, purpose="check")
def remember_production(recovery: Recovery, *, facts: Facts) -> Step:
    """Write down who serves production, and which instances there are, before anything is made."""
    return Step(done=lambda: bool(facts), result=lambda: {"instances": facts["instances"]})


@asks(*_IAM_LOOK)
@step(purpose="verification")
def production_is_untouched(recovery: Recovery, *, remembered: str) -> Step:
    """The same server serves production as before, and there are the same instances in the recovery region."""
    before = recovery.known(remembered)

    def done() -> bool:
        now = _observe_production(recovery)
        return all(now[key] == before.get(key) for key in ("server", "timeline", "instances"))

    return Step(done=done)


def _plan_remove(target: Target, *, new: str, region: str, restored_by: str) -> tuple[Effect, ...]:
    new_id = instance_of(target, new)
    return (
        Effect(
            call="rds:DeleteDBInstance",
            resource=new_id,
            region=region_of(target, region),
            what=f"delete {new_id}, which this run has made",
            undo="none needed: nothing but the drill used it",
            iam=IAM_RESTORE,
            consented=True,
        ),
    )


@asks(*_IAM_LOOK, *IAM_RESTORE)
@step(plan=_plan_remove, purpose="preparation")
def remove(recovery: Recovery, *, new: str, region: str, restored_by: str) -> Step:
    """Delete what this run has restored, without a snapshot; done when RDS knows it no more and nobody answers."""
    from drkit.targets.aws import Database

    target, name = recovery.target, region_of(recovery.target, region)
    database, new_id = Database(target, name), instance_of(target, new)

    def done() -> bool:
        return not database.exists(new_id) and not _answers(recovery, restored_by)

    def act() -> None:
        recovery.permit.check()
        failed = [u for u in undo.replay(recovery.undo, target, only=lambda r: r.verb == "delete_restored") if not u.ok]
        if failed:
            raise StillBroken("; ".join(u.sentence for u in failed), "drkit resume tries again")

    return Step(done=done, act=act)


def _answers(recovery: Recovery, restored_by: str) -> bool:
    """Return whether anything listens where the restored server was."""
    known = recovery.known(restored_by)
    if not known.get("host"):
        return False
    try:
        with socket.create_connection((recovery.target.address(known["host"]), int(known["port"])), timeout=1.0):
            return True
    except OSError:
        return False
