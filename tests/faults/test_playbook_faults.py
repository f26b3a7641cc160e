"""Playbooks that come to harm: they go on, or stop and say so; and never are there two writers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import recoveries
from recoveries import RECOVERY, REPLICA, WRITER, Ground, People, Rivals, passed, stood, stopped

from drkit import clock, engine, playbook
from drkit import lab as labs
from drkit.errors import PlanDrift, TargetBusy
from drkit.model import MarkKind
from drkit.rundir import RunDir
from drkit.targets import postgres
from drkit.targets.aws import Database, account
from drkit.targets.aws.claims import Claims

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(480)]

_ground, ground = recoveries._ground, recoveries.ground  # fixtures


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let drkit wait for an answer of AWS for a moment only."""
    monkeypatch.setattr(account, "READ_TIMEOUT_S", 1.0)
    account._session.cache_clear()
    yield
    account._session.cache_clear()


def limit(step: str, timeout_s: float) -> Callable[[dict[str, Any]], None]:
    """Return a change that gives a step of a playbook less time."""

    def change(document: dict[str, Any]) -> None:
        calls = [c for call in document["steps"] for c in call.get("parallel", [call])]
        next(c for c in calls if c["name"] == step)["timeout_s"] = timeout_s

    return change


def rivals_of(ground: Ground) -> Rivals:
    """Return clients of the writer in the first region, and of the replica that is to be promoted."""
    return Rivals(ground, ground.endpoint(WRITER), ground.endpoint(REPLICA, RECOVERY))


def promoted(ground: Ground) -> bool:
    return not Database(ground.target, RECOVERY).instance(REPLICA).is_replica


# --- what it needs is not to be had for a while -----------------------------------------------------------------------


def test_s3_that_is_busy_during_a_restore(ground: Ground) -> None:
    people = People(
        when={
            "remember-production: holds": ground.await_archived,
            "restore …": lambda: labs.disturb(home=ground.home, what="s3-503", for_s=3),
        }
    )
    record = ground.recover("restore-drill", people)
    passed(record, people)
    assert any("S3 refuses, tried again" in line for line in ground.log())


def test_a_replica_that_dies_while_it_is_promoted(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops at that step, behind its fence; once the replica's server can be started again it goes on."""
    monkeypatch.setattr(playbook, "LEAST_S", 6.0)
    data = ground.home / "labs" / "lab" / "plant" / "data-r"
    away = data.with_name("data-r-away")

    def die() -> None:
        part = next(p for p in labs.status(home=ground.home).parts if p.name == "database r")
        tree = [psutil.Process(part.pid), *psutil.Process(part.pid).children(recursive=True)]
        data.rename(away)  # so that it stays dead
        for process in tree:
            process.kill()

    ground.spent = True
    first, second = People(when={"promote …": die}), People()
    with rivals_of(ground) as rivals:
        with ground.deeds() as deeds:
            record = ground.recover(ground.playbook("region-failover", limit("promote", 1)), first)
        stopped(record, first, "promote", "was not seen within 6 s")
        run = ground.run_of(record)
        assert {"fence-api", "fence-is-proven", "scale-out"} <= {n for n, s in stood(run).items() if s.state == "done"}
        assert set(stood(run)) <= {"declare", "fence-api", "fence-is-proven", "promote", "scale-out"}
        assert {action for action, _ in deeds} & {"ChangeResourceRecordSets", "PutSecretValue"} == set()
        assert not postgres.accepts_writes(ground.target, at=ground.endpoint(WRITER), timeout_s=1)
        fenced = len(rivals.old.acknowledged)
        away.rename(data)
        record = ground.resume(run, second)
        passed(record, second)
        assert second.asked == []
        clock.wait_until(lambda: bool(rivals.new.acknowledged), "the new writer takes writes", timeout_s=60)
    assert promoted(ground)
    assert len(rivals.old.acknowledged) == fenced
    assert rivals.split_brain() == []


def test_a_secret_that_does_not_open_what_was_restored(ground: Ground) -> None:
    """The drill says so while nothing is lost; once the secret is right it goes on, and nobody has read a password."""
    database = ground.target.database
    assert database is not None
    secrets = ground.client("secretsmanager")
    right = secrets.get_secret_value(SecretId=database.secret_id)["SecretString"]
    wrong = json.dumps({**json.loads(right), "password": "wr0ng-one"})
    first, second = People(when={"is-recent: holds": ground.await_archived}), People()
    secrets.put_secret_value(SecretId=database.secret_id, SecretString=wrong)
    try:
        record = ground.recover(ground.playbook("restore-drill", limit("secret-opens", 5)), first)
        stopped(record, first, "secret-opens", "does not open")
    finally:
        secrets.put_secret_value(SecretId=database.secret_id, SecretString=right)
    run = ground.run_of(record)
    record = ground.resume(run, second)
    passed(record, second)
    assert stood(run)["secret-opens"].result == {"opens": "yes"}
    told = [path.read_bytes() for path in run.path.rglob("*") if path.is_file()]
    assert not any(word in text for text in told for word in (b"wr0ng-one", json.loads(right)["password"].encode()))


# --- people -----------------------------------------------------------------------------------------------------------


def test_nobody_approves_and_then_somebody_says_no(ground: Ground) -> None:
    """It stops with nothing touched, asks again when it is resumed, and the target is free for others meanwhile."""
    nobody, no = People(says={"declare": None}), People(says={"declare": False})
    with ground.deeds() as deeds:
        record = ground.recover(ground.playbook("region-failover", limit("declare", 1)), nobody)
        stopped(record, nobody, "declare", "nobody answered within 1 s")
        run = ground.run_of(record)
        record = ground.resume(run, no)
        stopped(record, no, "declare", "bob said no: seen by ann")
        assert no.asked == ["declare"]
    assert deeds == []
    assert set(stood(run)) == {"declare"}
    assert Claims(ground.target).holder() is None


def test_the_target_changes_between_plan_and_run(ground: Ground) -> None:
    evacuate = ground.playbook("az-evacuate")
    digest = engine.plan_recovery(evacuate, ground.target, ground.project, {}).digest
    rds, zone = ground.client("rds"), Database(ground.target).instance(WRITER).zone
    rds.reboot_db_instance(DBInstanceIdentifier=WRITER, ForceFailover=True)
    clock.wait_until(
        lambda: Database(ground.target).instance(WRITER).zone != zone,
        "it is in another zone",
        timeout_s=60,
        every_s=0.1,
    )
    before = len(RunDir.all(ground.project.reports))
    with ground.deeds() as deeds, pytest.raises(PlanDrift):
        ground.recover(evacuate, digest=digest)
    assert deeds == []
    assert len(RunDir.all(ground.project.reports)) == before


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_after_its_machine_was_restarted(ground: Ground) -> None:
    """The clock of a machine that was restarted begins anew: the lease that is on disk is from its future."""
    first, second = People(), People()
    first.when["fail-over: done"] = lambda: (ground.last_run().path / "abort").touch()
    first.when["service-answers …"] = lambda: clock.sleep_s(1)  # until it is noticed
    with ground.deeds() as deeds:
        record = ground.recover("rds-failover", first)
        first.check()
        assert first.events[-1] == "stopped: a person stopped it: drkit abort"
        run = ground.run_of(record)
        hour_ns = 3600 * clock.NS_PER_S
        lease = {"pid": 1, "ttl_s": 10.0, "renewed_ns": clock.now_ns() + hour_ns}
        (run.path / "lease.json").write_text(json.dumps(lease).ljust(256))
        record = ground.resume(run, second)
    passed(record, second)
    assert deeds == [("RebootDBInstance", WRITER)]
    kinds = [m.kind for m in record.history.marks]
    assert kinds.count(MarkKind.RESUMED) == 1
    assert Claims(ground.target).holder() is None


# --- the fence --------------------------------------------------------------------------------------------------------


def test_a_silent_region_that_is_fenced_by_hand(ground: Ground) -> None:
    """The first region's APIs answer nobody, and nothing of the playbook needs them."""
    ground.spent = True
    people = People()
    with rivals_of(ground) as rivals:
        since = clock.wall_utc()
        ground.console.cut()  # as the loss of the region does
        labs.disturb(home=ground.home, what="silent-region-1", for_s=300)
        record = ground.recover("region-failover", people, since=since, fence="by-hand")
        passed(record, people)
        clock.wait_until(lambda: bool(rivals.new.acknowledged), "the new writer takes writes", timeout_s=60)
    assert people.asked == ["declare", "fence-by-hand"]
    assert stood(ground.run_of(record))["fence-by-hand"].note == "seen by ann"
    assert rivals.old.tries > len(rivals.old.acknowledged)
    assert rivals.split_brain() == []


def test_a_silent_region_cannot_be_fenced_by_its_api(ground: Ground, impatient: None) -> None:
    """The old writer may be alive, for all that is known: nothing is promoted."""
    people = People()
    with rivals_of(ground) as rivals, ground.deeds() as deeds:
        labs.disturb(home=ground.home, what="silent-region-1", for_s=300)
        try:
            record = ground.recover("region-failover", people)
        finally:
            labs.disturb(home=ground.home, what="silent-region-1", for_s=0)
        stopped(record, people, "fence-api", "rds:DescribeDBInstances")
    assert deeds == []
    assert not promoted(ground)
    assert rivals.new.acknowledged == []
    ground.give_up(ground.run_of(record))


def test_a_fence_that_somebody_lifts(ground: Ground) -> None:
    """It is asked the moment before the promotion; who resumes has it put up and proven again, before anything."""
    before = ground.console.acls()
    first, second = People(when={"fence-is-proven: ": lambda: ground.console.put(before)}), People()
    with rivals_of(ground) as rivals:
        record = ground.recover("region-failover", first)
        stopped(record, first, "promote", "the fence is not there any more")
        run = ground.run_of(record)
        with pytest.raises(TargetBusy, match=run.run_id):
            ground.recover("rds-failover")
        clock.wait_until(
            lambda: postgres.accepts_writes(ground.target), "the old writer serves", timeout_s=60, every_s=0.1
        )
        assert not promoted(ground)
        assert rivals.new.acknowledged == []
        ground.spent = True
        passed(ground.resume(run, second), second)
    assert promoted(ground)
    assert rivals.split_brain() == []
