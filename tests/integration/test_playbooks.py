"""Every shipped playbook, run for real on a lab: what it says that it has done is asked of the lab from outside."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import recoveries
from late_ticks import verdict_but_for_late_ticks
from recoveries import RECOVERY, REPLICA, WRITER, Ground, People, passed, stood

from drkit import catalog, clock, engine, probes
from drkit import lab as labs
from drkit.clock import NS_PER_S
from drkit.engine import Wishes
from drkit.engine.address import spec_of
from drkit.errors import PlanDrift, UsageError
from drkit.model import Connection, MarkKind, Outcome, ProbeKind, Role, Series, Verdict
from drkit.probes import ProbeSpec, sql
from drkit.rundir import RunDir
from drkit.targets import Target, postgres
from drkit.targets.aws import Database, Secrets, target_health

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(480)]

_ground, ground = recoveries._ground, recoveries.ground  # fixtures

EVERY_S = 0.02


def runs(ground: Ground) -> list[Path]:
    return [run.path for run in RunDir.all(ground.project.reports)]


def series_of(run: RunDir, name: str) -> Series:
    return probes.read(run.path / "probes" / f"{name}.jsonl")


def acknowledged(series: Series) -> set[int]:
    return {a.seq for a in series.attempts if a.outcome is Outcome.OK}


def zones_that_answer(target: Target, requests: int = 30) -> Counter[str]:
    assert target.service is not None
    found: Counter[str] = Counter()
    for _ in range(requests):
        with urllib.request.urlopen(f"{target.service.url}/orders", timeout=10) as answer:  # noqa: S310  (the lab's http)
            found[json.load(answer)["zone"]] += 1
    return found


# --- in the region ----------------------------------------------------------------------------------------------------


def test_the_database_is_failed_over_to_its_standby(ground: Ground) -> None:
    people = People()
    before = Database(ground.target).instance(WRITER).zone
    record = ground.recover("rds-failover", people)
    passed(record, people)
    assert Database(ground.target).instance(WRITER).zone != before
    assert sum(len(loss.lost) for loss in record.measurement.losses) == 0
    assert min(loss.acknowledged for loss in record.measurement.losses) > 5
    assert MarkKind.REDUNDANCY_RESTORED in {m.kind for m in record.history.marks}
    # It says that nothing of it was real.
    run = ground.run_of(record)
    assert run.identity["mode"] == "practice"
    assert record.environment["mode"] == "practice, on the lab"
    assert "practice, on the lab" in (run.path / "report.html").read_text()
    assert run.broken_at() == ""


def test_nothing_on_a_lab_is_real(ground: Ground) -> None:
    before = runs(ground)
    with ground.deeds() as deeds, pytest.raises(UsageError, match="nothing there is real"):
        engine.recover(ground.playbook("rds-failover"), ground.target, ground.project, Wishes(real=True))
    assert deeds == []
    assert runs(ground) == before


def test_a_zone_is_left_and_used_again(ground: Ground) -> None:
    target = ground.target
    assert target.compute is not None
    assert target.compute.target_group_arn is not None
    left = Database(target).instance(WRITER).zone
    answered: Counter[str] = Counter()
    there: dict[str, set[str]] = {}

    def look() -> None:
        answered.update(zones_that_answer(target))
        there["targets"] = {
            t.zone for t in target_health(target, str(target.compute and target.compute.target_group_arn))
        }
        there["writer"] = {Database(target).instance(WRITER).zone}

    people = People(when={"? come-back": look})
    record = ground.recover("az-evacuate", people)
    passed(record, people)
    others = set(target.zones) - {left}
    assert set(answered) == {zone[-1] for zone in others}
    assert there["targets"] == others
    assert there["writer"] <= others
    assert sum(len(loss.lost) for loss in record.measurement.losses) == 0
    ground.make_whole()
    clock.wait_until(
        lambda: set(zones_that_answer(target)) == {zone[-1] for zone in target.zones},
        "every zone answers again",
        timeout_s=60,
        every_s=0.2,
    )


# --- the backup, proven -----------------------------------------------------------------------------------------------


def test_a_drill_restores_and_leaves_nothing_behind(ground: Ground) -> None:
    target, drill = ground.target, f"{WRITER}-drill"
    seen: dict[str, int] = {}

    def look() -> None:
        seen["port"] = ground.endpoint(drill, RECOVERY)[1]
        seen["pid"] = next(p.pid for p in labs.status(home=ground.home).parts if p.name == f"database r-{drill}") or 0
        assert psutil.pid_exists(seen["pid"])

    people = People(when={"remember-production: holds": ground.await_archived, "rows-match: holds": look})
    before = postgres.identity(target)
    with ground.deeds() as deeds:
        record = ground.recover("restore-drill", people)
    passed(record, people)
    assert postgres.identity(target) == before
    assert deeds == [("RestoreDBInstanceToPointInTime", drill), ("DeleteDBInstance", drill)]
    found = ground.client("rds", RECOVERY).describe_db_instances()["DBInstances"]
    assert {i["DBInstanceIdentifier"] for i in found} == {REPLICA}
    assert not psutil.pid_exists(seen["pid"])
    assert not list((ground.home / "labs" / "lab" / "plant").glob(f"data-*{drill}"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", seen["port"]), timeout=5)
    matched = stood(ground.run_of(record))["rows-match"].result
    assert matched["rows"] > 0


# --- to the other region, and back ------------------------------------------------------------------------------------


def test_to_the_other_region_and_back_without_a_lost_row(ground: Ground) -> None:
    target, people = ground.target, People()
    ground.spent = True
    there = ground.recover("region-failover", people)
    passed(there, people)
    assert people.asked == ["declare"]
    assert not Database(target, RECOVERY).instance(REPLICA).is_replica
    assert set(zones_that_answer(target)) == {"r"}  # as the lab calls the only zone of its second region
    assert not postgres.accepts_writes(target, at=ground.endpoint(WRITER), timeout_s=1)
    assert sum(loss.acknowledged for loss in there.measurement.losses) > 10
    secret_id, secrets = str(target.database and target.database.secret_id), Secrets(target, RECOVERY)
    host, port = ground.endpoint(REPLICA, RECOVERY)
    assert secrets.points_to(secret_id, {"host": host, "port": port})
    assert (secrets.primary_of(secret_id), secrets.was_replica_of(secret_id)) == ("", target.region)

    people = People()
    back = ground.recover("failback", people)
    assert secrets.primary_of(secret_id) == target.region
    passed(back, people)
    assert people.asked == ["begin", "switch"]
    assert [(len(x.lost), len(x.lost_later)) for x in back.measurement.losses] == [(0, 0), (0, 0)]
    assert back.measurement.redundancy is not None
    for record in (there, back):  # what was acknowledged during either is there, but what the first one says it lost
        losses = {x.series: set(x.lost) for x in record.measurement.losses}
        for data in ground.playbook(record.name).file.probes:
            spec = spec_of(data, target, record.run_id, {})
            if spec is None or spec.kind is not ProbeKind.SQL:
                continue
            series = series_of(ground.run_of(record), data.name)
            assert acknowledged(series) - ground.rows(spec.ledger_id) == losses[data.name]
    ground.spent = False
    ground.make_whole()

    record = engine.run(catalog.load("az-failure", ground.project), target, ground.project)
    assert verdict_but_for_late_ticks(record) is Verdict.PASS, record.judgement.reasons


def test_the_newest_backup_takes_the_database_s_place(ground: Ground) -> None:
    """What is lost is exactly what was acknowledged after the restored moment."""
    people = People(when={"? declare": ground.await_archived})
    ground.spent = True
    record = ground.recover("restore-from-cross-region-backup", people)
    passed(record, people)
    restored = f"{WRITER}-restored"
    run = ground.run_of(record)
    data = next(p for p in ground.playbook("restore-from-cross-region-backup").file.probes if p.kind is ProbeKind.SQL)
    spec = spec_of(data, ground.target, record.run_id, {})
    assert spec is not None
    series = series_of(run, data.name)
    rows = ground.rows(spec.ledger_id, ground.endpoint(restored, RECOVERY))
    lost = acknowledged(series) - rows
    (loss,) = record.measurement.losses
    assert set(loss.lost) == lost
    assert stood(run)["ledger"].result["lost"] == len(lost)

    # The restored moment lies between the last row that is there and the first one that is not, of those from before.
    fenced_ns = stood(run)["restore"].began_ns
    assert fenced_ns is not None
    before = [a for a in series.attempts if a.sent_ns < fenced_ns and a.outcome is Outcome.OK]
    kept = [a for a in before if a.seq in rows]
    newest = max(kept, key=lambda a: a.sent_ns)
    assert [a.seq for a in before if a.done_ns < newest.sent_ns and a.seq in lost] == []
    assert [a.seq for a in before if a.sent_ns > newest.done_ns and a.seq in rows] == []
    events = ground.client("rds", RECOVERY).describe_events(SourceIdentifier=restored, SourceType="db-instance")
    told = [re.search(r"to (\S+ \S+)$", e["Message"]) for e in events["Events"]]
    promised = next(datetime.fromisoformat(m[1]) for m in told if m).replace(tzinfo=UTC)
    promised_ns = int(promised.timestamp() * NS_PER_S) - clock.wall_minus_monotonic_ns()
    assert [a.seq for a in before if a.done_ns < promised_ns and a.seq in lost] == []

    people = People()
    back = ground.recover("failback", people, writer="restored")
    passed(back, people)
    assert [(len(x.lost), len(x.lost_later)) for x in back.measurement.losses] == [(0, 0), (0, 0)]
    assert ground.rows(spec.ledger_id) >= rows
    ground.spent = False
    ground.make_whole()


def test_a_moment_before_rows_were_deleted(ground: Ground, tmp_path: Path) -> None:
    """A writer of its own wrote until then: what it had acknowledged before is there again, and nothing from after."""
    target, database = ground.target, ground.database
    spec = ProbeSpec(
        name="witness", kind=ProbeKind.SQL, role=Role.WRITES, every_s=EVERY_S, timeout_s=2.0,
        connection=Connection.POOLED, host=database.host, port=database.port, dbname=database.dbname,
        user=database.user, sslmode=database.sslmode, ledger_id=str(uuid.uuid4()),
    )  # fmt: skip
    sql.create_ledger(spec)
    process = probes.start(spec, tmp_path / "witness.jsonl")
    try:
        clock.wait_until(lambda: len(ground.rows(spec.ledger_id)) > 60, "it has written", timeout_s=60, every_s=0.1)
        deleted = labs.delete_rows(target, "drkit_marker")
    finally:
        process.stop()
    assert deleted.rows > 50
    to_time = deleted.not_before_utc
    ground.await_archived(to_time)
    people = People()
    ground.spent = True
    record = ground.recover("restore-from-cross-region-backup", people, to_time=to_time.isoformat())
    passed(record, people)
    rows = ground.rows(spec.ledger_id)
    attempts = probes.read(tmp_path / "witness.jsonl").attempts
    to_ns = int(to_time.timestamp() * NS_PER_S) - clock.wall_minus_monotonic_ns()
    tolerance_ns = int(EVERY_S * NS_PER_S)
    there = {a.seq for a in attempts if a.outcome is Outcome.OK and a.done_ns < to_ns - tolerance_ns}
    after = {a.seq for a in attempts if a.sent_ns > to_ns}
    assert len(there) > 50
    assert there - rows == set()
    assert rows & after == set()


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_plan_s_digest_is_of_what_it_would_do(ground: Ground) -> None:
    playbook, group = ground.playbook("region-failover"), ground.client("autoscaling", RECOVERY)
    assert ground.target.compute is not None
    name = ground.target.compute.recovery_asg_name

    def digest(**variables: str) -> str:
        return engine.plan_recovery(playbook, ground.target, ground.project, variables).digest

    before = runs(ground)
    with ground.deeds() as deeds:
        first = digest()
        assert digest() == first
        assert digest(capacity="3") == first
        assert digest(capacity="2") != first
        assert digest(fence="by-hand") != first
    assert deeds == []
    group.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=1)
    try:
        assert digest() != first
        with ground.deeds() as deeds, pytest.raises(PlanDrift):
            ground.recover(playbook, digest=first)
        assert deeds == []
        assert runs(ground) == before
    finally:
        group.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=0)
    assert digest() == first
