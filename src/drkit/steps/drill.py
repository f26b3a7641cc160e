"""A drill of the backup: it goes on growing, what is restored is what production had, and nothing of it stays."""

from __future__ import annotations

import socket
from datetime import datetime

from drkit import clock, undo
from drkit.errors import Refused, StillBroken
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.backup import RETAINED
from drkit.steps.names import endpoint_of, instance_of, region_of
from drkit.targets import Target, contents, postgres
from drkit.targets.aws.account import RUN_TAG
from drkit.targets.aws.backups import IAM_BACKUPS, IAM_RESTORE
from drkit.targets.aws.permissions import asks

_IAM_LOOK = ("rds:DescribeDBInstances",)


def _observe_now(recovery: Recovery, *, instance: str, region: str) -> Facts:
    return {"since": clock.wall_utc().isoformat()}


@asks(*IAM_BACKUPS)
@step(observe=_observe_now, purpose="check")
def is_recent(recovery: Recovery, *, instance: str, region: str, facts: Facts) -> Step:
    """The recovery region's backup goes on growing: it reaches to the start of this run, so it holds rows of ours."""
    from drkit.targets.aws import Backups

    target = recovery.target
    backups, instance_id = Backups(target, region_of(target, region)), instance_of(target, instance)
    since = datetime.fromisoformat(facts["since"])

    def done() -> bool:
        found = backups.automated(instance_id)
        if found is None or found.status == RETAINED:
            raise Refused(
                f"backups of {instance_id} are not replicated to {region_of(target, region)} any more",
                "start it again, or drill with what is there: --var fresh=no",
            )
        return found.latest is not None and found.latest >= since

    # Until now a loss of the region would have lost what was written then: so far behind is the backup.
    return Step(done=done, result=lambda: {"recovery_point": facts["since"]})


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
            raise Refused("the restored database holds none of drkit's rows: there is nothing to compare", "")
        return True

    def result() -> Facts:
        found = compared()
        return {"rows": found.rows, "newer_in_production": found.newer, "tables": found.tables}

    return Step(done=done, result=result)


def _observe_production(recovery: Recovery) -> Facts:
    """Return who serves production, and which instances there are in the recovery region."""
    from drkit.targets.aws import Database

    target = recovery.target
    who = postgres.identity(target)
    return {
        "server": f"{who.address}:{who.port}", "timeline": who.timeline, "system": who.system_identifier,
        "instances": list(Database(target, region_of(target, "recovery")).instance_ids()),
    }  # fmt: skip


@asks(*_IAM_LOOK)
@step(observe=_observe_production, purpose="check")
def remember_production(recovery: Recovery, *, facts: Facts) -> Step:
    """Write down who serves production, and which instances there are, before anything is made."""
    return Step(done=lambda: bool(facts), result=lambda: {"instances": facts["instances"]})


@asks(*_IAM_LOOK)
@step(purpose="check")
def production_is_untouched(recovery: Recovery, *, remembered: str) -> Step:
    """Production is served from the same data as before, every instance is still there, and none is left of the drill.

    A failover of its own meanwhile, or an instance that somebody else has made, is no touch of ours: it is told.
    """
    from drkit.targets.aws import Database

    before, target = recovery.known(remembered), recovery.target
    database = Database(target, region_of(target, "recovery"))

    def done() -> bool:
        now = _observe_production(recovery)
        if now["system"] != before.get("system"):
            raise Refused("production is served from other data than before the drill", "look at once")
        if gone := set(before.get("instances", ())) - set(now["instances"]):
            raise Refused(f"{', '.join(sorted(gone))} is not there any more", "look at once")
        new = set(now["instances"]) - set(before.get("instances", ()))
        return not any(database.instance(name).tags.get(RUN_TAG) == recovery.run.run_id for name in new)

    def result() -> Facts:
        now = _observe_production(recovery)
        return {"same_server": now["server"] == before.get("server"), "timeline": now["timeline"]}

    return Step(done=done, result=result)


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
        verbs = ("delete_restored", "delete_copied_snapshot")
        failed = [u for u in undo.replay(recovery.undo, target, only=lambda r: r.verb in verbs) if not u.ok]
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
