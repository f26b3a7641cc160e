"""The four experiments against real labs; and each in its twin, where the system or the experiment really is bad."""

from __future__ import annotations

import contextlib
import math
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from late_ticks import verdict_but_for_late_ticks

from drkit import catalog, engine, measure
from drkit import lab as labs
from drkit.catalog import Experiment
from drkit.engine import Progress
from drkit.errors import DrkitError, Refused
from drkit.lab import LabOptions
from drkit.model import MarkKind, Objective, Outcome, RunRecord, Verdict
from drkit.project import Project, Settings, shipped
from drkit.rundir import RunDir
from drkit.targets import Target

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

# On AWS; the lab's are 5 % of them. The last three are shorter than shipped: a test need not hold a fault for long.
PHASES = {"baseline_s": 60, "hold_s": 20, "recover_s": 200, "redundancy_s": 600}
MODULE = """
from drkit.chaos import current, database, fault
from drkit.chaos.undo import put_back
from drkit.model import Effect
from drkit.targets.aws import Subnets

def hits_nothing():
    return {"hit": []}

def raises():
    raise RuntimeError("no such thing")

def hits():
    return {"hit": ["something"]}

def false():
    return False

def _plan(target):
    return tuple(e for z in target.zones[:2] for e in Subnets(target).plan_isolate(z))

def _place(target, standby):
    zone = target.zones[0] if current().before.writer_zone == target.zones[1] else target.zones[1]
    zone = zone if standby else current().before.writer_zone
    return [s for s in Subnets(target).in_zone(zone) if s.name.endswith("-db")]

@fault(plan=_plan, role="assist")
def cut_standby():
    context = current()
    for subnet in _place(context.target, True):
        Subnets(context.target).isolate(subnet.subnet_id, permit=context.permit, undo=context.undo)
    return {"hit": ["standby"]}

@fault(plan=_plan)
def cut_writer_free_standby():
    context = current()
    from drkit import undo
    standby = [s.subnet_id for s in _place(context.target, True)]
    for subnet in _place(context.target, False):
        Subnets(context.target).isolate(subnet.subnet_id, permit=context.permit, undo=context.undo)
    undo.replay(context.undo, context.target, only=lambda r: r.args.get("subnet_id") in standby)
    return {"hit": ["writer"]}
"""


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a project of its own, garbage where other AWS tools look, and the environment back."""
    before = dict(os.environ)
    monkeypatch.delenv("DRKIT_HOME", raising=False)
    monkeypatch.delenv("DRKIT_REPORTS", raising=False)
    os.environ |= {
        "AWS_PROFILE": "no-such-profile",
        "AWS_ACCESS_KEY_ID": "AKIAGARBAGE",
        "AWS_SECRET_ACCESS_KEY": "garbage",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "KUBECONFIG": str(tmp_path / "no-such-kubeconfig"),
    }
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "twin_activities.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, Settings())


@pytest.fixture(scope="session")
def no_standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Return a lab whose database has no standby. Nothing that is broken in it heals by itself."""
    home = tmp_path_factory.mktemp("no-standby")
    yield labs.up(home=home, options=LabOptions(multi_az=False, archive=False))
    labs.down(home=home)


@pytest.fixture(scope="session")
def async_standby(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Return a lab whose standby follows asynchronously."""
    home = tmp_path_factory.mktemp("async-standby")
    yield labs.up(home=home, options=LabOptions(sync_standby=False, archive=False))
    labs.down(home=home)


Change = Callable[[dict[str, Any]], None]


def extension(document: dict[str, Any]) -> dict[str, Any]:
    found = document["extensions"][0]
    assert isinstance(found, dict)
    return found


def variant(name: str, tmp_path: Path, change: Change = lambda _: None, **phases: float) -> Experiment:
    """Return a shipped experiment with short phases and slower probes (this machine runs other things), changed."""
    document = yaml.safe_load((shipped("experiments") / f"{name}.yaml").read_text())
    drkit = extension(document)
    drkit["phases"] |= PHASES | phases
    for probe in drkit["probes"]:
        probe["every_s"] = 0.05
    change(document)
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    return catalog.load(str(path), Project(tmp_path, Settings()))


def bare(tmp_path: Path, method: list[dict[str, Any]], witness: dict[str, Any], **more: Any) -> Experiment:
    """Return an experiment with a method of its own, watched as rds-failover is."""

    def change(document: dict[str, Any]) -> None:
        document["method"] = method
        document["rollbacks"] = []
        extension(document)["witnesses"] = [{"type": "probe", "tolerance": True, **witness}]
        extension(document)["redundancy"] = []
        document.update(more)

    return variant("rds-failover", tmp_path, change)


def python(func: str, module: str = "twin_activities", **arguments: Any) -> dict[str, Any]:
    return {"type": "python", "module": module, "func": func, "arguments": arguments}


def said(record: RunRecord, verdict: Verdict, what: str = "") -> str:
    """Return the sentences of one verdict (and kind of reason)."""
    return "\n".join(
        r.sentence for r in record.judgement.reasons if r.verdict is verdict and (not what or r.what == what)
    )


def whole(record: RunRecord, project: Project) -> RunDir:
    """Return the run, after looking that it ended well: everything put back, nothing left, sealed."""
    run = RunDir(project.reports / record.run_id)
    kinds = {m.kind for m in record.history.marks}
    assert record.ended
    assert all(u.done for u in record.undo)
    assert MarkKind.CLEANED_UP in kinds, [m for m in record.history.marks if m.kind is MarkKind.RESIDUE]
    assert run.sealed
    assert run.broken_at() == ""
    return run


class Hear:
    """A watcher that keeps what it is told, and calls `at` when a phase begins."""

    def __init__(self, at: Callable[[str], None] = lambda _: None) -> None:
        self.at = at
        self.events: list[str] = []
        self.seen: list[Progress] = []
        self.raised: list[Exception] = []

    def progress(self, now: Progress) -> None:
        self.seen.append(now)

    def event(self, at_s: float, text: str) -> None:
        self.events.append(text)
        try:
            self.at(text)
        except Exception as e:  # noqa: BLE001  (the engine goes on without a watcher that fails, so it is kept for the test)
            self.raised.append(e)


# --- the experiments --------------------------------------------------------------------------------------------------


def test_the_service_outlives_the_loss_of_a_zone(lab: Target, project: Project, tmp_path: Path) -> None:
    hear = Hear()
    record = engine.run(variant("az-failure", tmp_path), lab, project, watcher=hear)
    assert verdict_but_for_late_ticks(record) is Verdict.PASS, record.judgement.reasons
    assert record.measurement.rta is not None
    assert 0 < record.measurement.rta.hi_s < 30
    assert [len(loss.lost) for loss in record.measurement.losses] == [0, 0]
    # Of the 60 that are due in the 3 s of the baseline alone; what a busy machine is late with is not made up for.
    assert [loss.series for loss in record.measurement.losses if loss.acknowledged <= 20] == []
    assert record.measurement.redundancy is not None
    assert {"zones": {e.zone for e in record.effects}, "calls": len({e.call for e in record.effects})} == {
        "zones": {record.effects[0].zone},
        "calls": 4,
    }
    whole(record, project)
    live = [p.outage_s for p in hear.seen if p.outage_s is not None]
    assert live, "the outage clock never ran"
    assert all(0 <= lo <= hi for lo, hi in live)
    assert any(p.outage_over for p in hear.seen)
    busiest = max(view.rate_per_s for p in hear.seen for view in p.probes if view.name == "api")
    assert 10 < busiest < 40  # a probe of 20 a second, as of its last second; a black hole's time-outs end in a bunch


def test_a_forced_failover_loses_nothing_and_nobody_claims_to_have_detected_it(
    lab: Target, project: Project, tmp_path: Path
) -> None:
    record = engine.run(variant("rds-failover", tmp_path), lab, project)
    assert verdict_but_for_late_ticks(record) is Verdict.PASS, record.judgement.reasons
    assert [len(loss.lost) for loss in record.measurement.losses] == [0, 0]
    assert set(record.measurement.rta_by_series) >= {"writes-fresh", "writes-pooled"}
    assert not [m for m in record.history.marks if m.kind is MarkKind.DETECTED]
    assert {m.detail["by"] for m in record.history.marks if m.kind is MarkKind.DECLARED} == {
        "this run, which forced the failover"
    }
    whole(record, project)


def test_clients_get_away_from_a_silent_database(lab: Target, project: Project, tmp_path: Path) -> None:
    record = engine.run(variant("db-blackhole", tmp_path), lab, project)
    assert verdict_but_for_late_ticks(record) is Verdict.PASS, record.judgement.reasons
    assert [len(loss.lost) for loss in record.measurement.losses] == [0, 0]
    assert any(o.failures.get("timeout") for o in record.measurement.outages), "a black hole is noticed by time-outs"
    assert [m for m in record.history.marks if m.kind is MarkKind.DETECTED], "RDS noticed by itself"
    whole(record, project)


def test_the_loss_of_a_lagging_replica_is_counted_exactly(lab: Target, project: Project, tmp_path: Path) -> None:
    home = Path(lab.lab.directory).parent.parent if lab.lab else tmp_path
    rows: dict[str, dict[str, set[int]]] = {}

    def read_both_servers(text: str) -> None:
        if text.startswith("undo …"):  # not "undone: …"
            ports = {p.name: p.port for p in labs.status(home=home).parts if p.name.startswith("database ")}
            for name, port in ports.items():
                if name == "database r":
                    rows[name] = _markers(lab, int(port or 0))
                else:
                    with contextlib.suppress(psycopg.OperationalError):  # of the lost pair, one may be down by now
                        rows[name] = _markers(lab, int(port or 0))

    hear = Hear(read_both_servers)
    experiment = variant("replica-lag-failover", tmp_path)
    record = engine.run(experiment, lab, project, variables={"lag_s": "3"}, watcher=hear)
    assert not hear.raised
    assert verdict_but_for_late_ticks(record) is Verdict.PASS, record.judgement.reasons  # 300 s may be lost
    for loss in record.measurement.losses:
        ledger = _ledger(record, loss.series)
        attempts = next(s.attempts for s in record.history.series if s.name == loss.series)
        acknowledged = {a.seq for a in attempts if a.outcome is Outcome.OK}
        promoted = rows["database r"].get(ledger, set())
        old = max((rows[n].get(ledger, set()) for n in rows if n != "database r"), key=len)
        assert set(loss.lost) == (old - promoted) & acknowledged
        assert set(loss.lost) == acknowledged - promoted
        assert len(loss.lost) > 1 / 0.05  # of what was acknowledged in the lag, at least a third
        assert loss.rpa.lo_s > 1
    tight = measure.judge(record.measurement, record.history, Objective(rto_s=900, rpo_s=0.5))
    assert [r.verdict for r in tight.reasons if r.what == "rpo"] == [Verdict.FAIL]
    whole(record, project)


def _ledger(record: RunRecord, series: str) -> str:
    """Return under which id a writer's rows are: as drkit.engine.address makes it."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"drkit:{record.run_id}:{series}"))


def _markers(lab: Target, port: int) -> dict[str, set[int]]:
    assert lab.database
    found: dict[str, set[int]] = {}
    with psycopg.connect(
        host="127.0.0.1", port=port, dbname=lab.database.dbname, user=lab.database.user, connect_timeout=3
    ) as connection:
        for run_id, seq in connection.execute("select run_id::text, seq from drkit_marker"):
            found.setdefault(run_id, set()).add(seq)
    return found


# --- twins: the system is bad -----------------------------------------------------------------------------------------


def no_way_out(document: dict[str, Any]) -> None:
    extension(document)["redundancy"] = []


@pytest.mark.slow
def test_without_a_standby_the_loss_of_a_zone_fails(no_standby: Target, project: Project, tmp_path: Path) -> None:
    experiment = variant("az-failure", tmp_path, recover_s=100, redundancy_s=60)
    record = engine.run(experiment, no_standby, project)
    assert verdict_but_for_late_ticks(record) is Verdict.FAIL, record.judgement.reasons
    assert "was not restored while the fault was there" in said(record, Verdict.FAIL, "recovery")
    assert "redundancy was not restored" in said(record, Verdict.FAIL, "redundancy")
    assert record.measurement.rta is not None
    assert record.measurement.rta.hi_s == math.inf, "it was drkit that ended the outage"
    whole(record, project)


@pytest.mark.parametrize(
    ("guards", "tripped"),
    [({"error_rate_max": 0.5}, "error-rate"), ({"p95_max_s": 0.4}, "latency"), ({"error_rate_max": 1.0}, None)],
)
def test_a_guard_of_the_service_stops_a_run_that_hurts_too_much(
    no_standby: Target, project: Project, tmp_path: Path, guards: dict[str, float], tripped: str | None
) -> None:
    """Of a database that stays silent: every attempt fails, after its time-out of half a second."""

    def guarded(document: dict[str, Any]) -> None:
        no_way_out(document)
        extension(document)["guards"] = guards

    record = engine.run(variant("db-blackhole", tmp_path, guarded, recover_s=100), no_standby, project)
    assert [m.name for m in record.history.marks if m.kind is MarkKind.GUARD] == ([tripped] if tripped else [])
    assert (record.judgement.verdict is Verdict.ABORTED) == (tripped is not None)
    whole(record, project)


def test_a_stop_is_not_kept_waiting_by_a_database_that_is_down(
    no_standby: Target, project: Project, tmp_path: Path
) -> None:
    def stop(text: str) -> None:
        if text == "verification …":
            (run,) = RunDir.all(project.reports)
            (run.path / "abort").touch()

    experiment = variant("db-blackhole", tmp_path, no_way_out, recover_s=60)
    record = engine.run(experiment, no_standby, project, watcher=Hear(stop))
    assert record.judgement.verdict is Verdict.ABORTED
    given_up = [m for m in record.history.marks if m.kind is MarkKind.INSTRUMENT and "not read back" in m.detail["why"]]
    assert not given_up, "it waited for rows that nobody could read"
    whole(record, project)


def test_without_a_standby_clients_of_a_silent_database_have_no_way_out(
    no_standby: Target, project: Project, tmp_path: Path
) -> None:
    record = engine.run(variant("db-blackhole", tmp_path, no_way_out, recover_s=100), no_standby, project)
    assert verdict_but_for_late_ticks(record) is Verdict.FAIL, record.judgement.reasons
    assert "writes-fresh was not restored while the fault was there" in said(record, Verdict.FAIL, "recovery")
    assert "did not hold after the fault" in said(record, Verdict.FAIL, "hypothesis")
    whole(record, project)


def test_without_a_standby_a_failover_is_not_one(no_standby: Target, project: Project, tmp_path: Path) -> None:
    record = engine.run(variant("rds-failover", tmp_path, no_way_out), no_standby, project)
    assert verdict_but_for_late_ticks(record) is Verdict.INVALID, record.judgement.reasons
    assert "it has no standby" in said(record, Verdict.INVALID, "fault")
    assert not record.undo
    whole(record, project)


@pytest.mark.slow
def test_an_asynchronous_standby_that_is_too_far_back_never_passes(
    async_standby: Target, project: Project, tmp_path: Path
) -> None:
    """The standby's link is gone for a while; then the writer is lost: rows are lost, or nobody takes over."""
    method = [
        {"name": "cut-standby", "type": "action", "pauses": {"after": 1.5}, "provider": python("cut_standby")},
        {"name": "lose-writer", "type": "action", "provider": python("cut_writer_free_standby")},
    ]
    witness = {
        "name": "the writer is silent",
        "fault": "lose-writer",
        "provider": python("writer_silent", "drkit.chaos.database"),
    }

    def wider(document: dict[str, Any]) -> None:
        extension(document)["blast_radius"]["zones_max"] = 2
        extension(document)["objective"] = {"rto_s": 900, "rpo_s": 0.2}

    experiment = bare(tmp_path, method, witness)
    document = dict(experiment.document)
    wider(document)
    experiment = catalog.checked(document, experiment.path, experiment.sha256)
    record = engine.run(experiment, async_standby, project)
    assert verdict_but_for_late_ticks(record) is Verdict.FAIL, record.judgement.reasons
    lost = any(len(loss.lost) > 10 for loss in record.measurement.losses)
    assert lost == ("RPO achieved" in said(record, Verdict.FAIL, "rpo"))
    assert lost or "was not restored while the fault was there" in said(record, Verdict.FAIL, "recovery")


@pytest.mark.slow
def test_a_refill_into_the_dead_zone_is_seen(lab: Target, project: Project, tmp_path: Path) -> None:
    def naive(document: dict[str, Any]) -> None:
        document["method"][0]["provider"]["arguments"]["hold_launches"] = False

    experiment = variant("az-failure", tmp_path, naive, hold_s=150)
    record = engine.run(experiment, lab, project)
    assert verdict_but_for_late_ticks(record) is Verdict.FAIL, record.judgement.reasons
    assert "nothing-launched-into-the-lost-zone: it answered 'i-" in said(record, Verdict.FAIL, "hypothesis")
    whole(record, project)


# --- twins: the experiment proves nothing -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("func", "why"),
    [("hits_nothing", "it hit nothing"), ("raises", "RuntimeError: no such thing"), ("hits", "was over before")],
)
def test_a_fault_that_does_not_bite_proves_nothing(
    lab: Target, project: Project, tmp_path: Path, func: str, why: str
) -> None:
    """It hit nothing; it raised; it says that it hit, but nobody ever saw it."""
    method = [
        {"name": "bite", "type": "action", "provider": python(func)},
        {"name": "after", "type": "action", "role": "assist", "provider": python("hits")},
        {"name": "take over", "type": "action", "role": "recovery", "provider": python("hits")},
    ]
    witness = {"name": "teeth", "fault": "bite", "provider": python("false")}
    experiment = bare(tmp_path, method, witness)
    document = dict(experiment.document)
    extension(document)["phases"]["bite_s"] = 100  # nobody is ever to see it
    experiment = catalog.checked(document, experiment.path, experiment.sha256)
    record = engine.run(experiment, lab, project)
    assert verdict_but_for_late_ticks(record) is Verdict.INVALID, record.judgement.reasons
    assert why in said(record, Verdict.INVALID, "fault")
    went_on = [m.name for m in record.history.marks if m.kind is MarkKind.ACTIVITY]
    assert went_on == (["bite", "after"] if func == "hits" else ["bite"]), "a method stops at a fault without teeth"
    assert not [m for m in record.history.marks if m.kind in (MarkKind.DECLARED, MarkKind.RECOVERY_START)]
    whole(record, project)


def test_an_empty_zone_is_refused(lab: Target, project: Project, tmp_path: Path) -> None:
    target = replace(lab, zones=(*lab.zones, f"{lab.region}z"))
    with pytest.raises(Refused, match="nothing to break"):
        engine.run(variant("az-failure", tmp_path), target, project, variables={"zone": "z"})
    assert not list(project.reports.glob("*"))


def test_nothing_is_broken_without_a_baseline(lab: Target, project: Project, tmp_path: Path) -> None:
    assert lab.service
    target = replace(lab, service=replace(lab.service, url="http://127.0.0.1:9"))  # nobody listens there
    record = engine.run(variant("az-failure", tmp_path, baseline_s=10), target, project)
    assert verdict_but_for_late_ticks(record) is Verdict.INVALID
    assert "api (refused)" in said(record, Verdict.INVALID, "baseline")
    assert record.undo == ()
    assert not [m for m in record.history.marks if m.kind in (MarkKind.ACTIVITY, MarkKind.FAULT_REQUESTED)]
    whole(record, project)


def test_nothing_is_broken_when_the_hypothesis_does_not_hold_beforehand(
    lab: Target, project: Project, tmp_path: Path
) -> None:
    def wrong(document: dict[str, Any]) -> None:
        document["steady-state-hypothesis"]["probes"][0]["provider"] = python("false")

    record = engine.run(variant("rds-failover", tmp_path, wrong), lab, project)
    assert verdict_but_for_late_ticks(record) is Verdict.INVALID
    assert "did not hold before the fault" in said(record, Verdict.INVALID, "baseline")
    assert "after the fault" not in said(record, Verdict.FAIL)
    assert record.undo == ()


# --- activities of other libraries ------------------------------------------------------------------------------------


def test_activities_of_other_libraries_reach_the_target_and_nothing_else(
    lab: Target, project: Project, tmp_path: Path
) -> None:
    """Chaos Toolkit's own AWS extension, a process and a request, with garbage in the environment; and its rollback."""
    assert lab.compute
    assert lab.service
    assert lab.compute.asg_name
    told = tmp_path / "told"
    sample = f"printenv AWS_ENDPOINT_URL AWS_ACCESS_KEY_ID > {told}; printenv AWS_PROFILE >> {told}; true"
    method = [
        {
            "name": "count",
            "type": "probe",
            "provider": python(
                "count_instances",
                "chaosaws.ec2.probes",
                filters=[{"Name": "instance-state-name", "Values": ["running"]}],
            ),
        },
        {
            "name": "suspend",
            "type": "action",
            "provider": python(
                "suspend_processes",
                "chaosaws.asg.actions",
                asg_names=[lab.compute.asg_name],
                process_names=["AZRebalance"],
            ),
        },
        {
            "name": "process",
            "type": "action",
            "role": "assist",
            "provider": {"type": "process", "path": "sh", "arguments": ["-c", sample]},
        },
        {"name": "request", "type": "probe", "provider": {"type": "http", "url": f"{lab.service.url}/health"}},
    ]
    # The process leaves a file behind; before the fault there is none.
    witness = {
        "name": "it came as far as the process",
        "fault": "suspend",
        "tolerance": 0,
        "provider": {"type": "process", "path": "test", "arguments": ["-e", str(told)]},
    }
    rollback = {
        "name": "resume",
        "type": "action",
        "provider": python(
            "resume_processes", "chaosaws.asg.actions", asg_names=[lab.compute.asg_name], process_names=["AZRebalance"]
        ),
    }
    experiment = bare(tmp_path, method, witness, rollbacks=[rollback])
    plan = engine.plan(experiment, lab, project)
    assert plan.effects == ()
    assert any("chaosaws.asg.actions" in note for note in plan.notes)
    record = engine.run(experiment, lab, project)
    entries = {m.name: m.detail["entry"] for m in record.history.marks if m.kind is MarkKind.ACTIVITY}
    assert {n: e["status"] for n, e in entries.items()} == dict.fromkeys(
        ("count", "suspend", "process", "request"), "succeeded"
    ), entries
    assert entries["count"]["output"] >= 1
    assert told.read_text().splitlines() == [lab.aws.endpoint_url, "lab"]  # and no profile
    assert [u.verb for u in record.undo] == ["run_rollback"]
    assert "resume" in next(m.detail["sentence"] for m in record.history.marks if m.kind is MarkKind.UNDO)
    whole(record, project)  # the suspended process would be residue


def test_an_action_that_would_act_in_another_account_is_refused(lab: Target, project: Project, tmp_path: Path) -> None:
    method = [
        {
            "name": "elsewhere",
            "type": "action",
            "provider": python("suspend_processes", "chaosaws.asg.actions", asg_names=["orders"]),
        }
    ]
    witness = {"name": "never", "fault": "elsewhere", "provider": python("false")}
    experiment = bare(
        tmp_path, method, witness, configuration={"aws_assume_role_arn": "arn:aws:iam::210987654321:role/other"}
    )
    record = engine.run(experiment, lab, project)
    assert "it would act in account 210987654321" in said(record, Verdict.INVALID, "fault")
    whole(record, project)


def test_an_action_of_another_library_is_refused_on_a_target_that_is_not_this_machine(
    lab: Target, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drkit.targets import facts

    monkeypatch.setattr(facts, "is_loopback", lambda _: False)
    method = [{"name": "bite", "type": "action", "provider": python("hits")}]
    experiment = bare(tmp_path, method, {"name": "teeth", "fault": "bite", "provider": python("false")})
    allowed = replace(project.settings.guard, allowed_accounts=(lab.account_id,))
    with pytest.raises(Refused, match="bite: what it will hit cannot be resolved"):
        engine.run(experiment, lab, replace(project, settings=replace(project.settings, guard=allowed)))
    with pytest.raises(DrkitError, match="allowed_accounts"):
        engine.run(experiment, lab, project)
