"""Playbooks' runs made by hand: a toy playbook, run directories of it, and its record for reports."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import report_records as records
from report_records import S, mark

from drkit import clock, targets
from drkit.catalog import Playbook, load_playbook
from drkit.engine.identity import identity_of_recovery
from drkit.engine.plan_recovery import resolve
from drkit.measure import Settings, judge, measure
from drkit.model import (
    History,
    Mark,
    MarkKind,
    Objective,
    Outcome,
    PlannedStep,
    ProbeKind,
    Role,
    RunRecord,
    SurvivingRow,
    Survivors,
    UndoRecord,
)
from drkit.project import Project
from drkit.project import Settings as ProjectSettings
from drkit.rundir import RunDir
from drkit.targets import Target

TOY = """\
title: The replica takes over
description: >-
  The first region is lost. The replica in the other one becomes the writer,
  and clients are sent there.
tier: A
before: Somebody has to have decided that the first region will not be back in time.
tags: [region]
objective: {rto_s: 900, rpo_s: 300}
variables: {replica: orders-replica, how: careful}
probes:
  - {name: api, kind: http, role: service, call: read}
  - {name: writes, kind: sql, role: writes}
prerequisites:
  - {name: replica-there, step: playbook_steps.replica_there}
steps:
  - {name: promote-ok, approval: "Promote ${replica}? The first region must not write any more.", four_eyes: true}
  - {name: promote, step: playbook_steps.promote, arguments: {instance_id: "${replica}"}, timeout_s: 900}
  - name: side-by-side
    parallel:
      - {name: look, step: playbook_steps.look, timeout_s: 60}
      - {name: look-again, step: playbook_steps.look, timeout_s: 60, when: how=careful}
  - {name: tell-support, manual: Tell support that the service is back., timeout_s: 3600}
"""
STARTER = "ann@desk"
NAME = "toy-failover"


def target(kind: str = "lab") -> Target:
    return Target(
        name="lab" if kind == "lab" else "production",
        kind=kind,  # type: ignore[arg-type]
        account_id="123456789012",
        region="eu-central-1",
        recovery_region="eu-west-1",
        zones=("eu-central-1a", "eu-central-1b"),
    )


def playbook(here: Path, text: str = TOY) -> Playbook:
    (here / "dr_playbooks").mkdir(exist_ok=True)
    (here / "dr_playbooks" / f"{NAME}.yaml").write_text(text)
    return load_playbook(NAME, project(here))


def project(here: Path) -> Project:
    return Project(here, ProjectSettings())


def run_of(here: Path, *, running: bool = False, text: str = TOY) -> RunDir:
    """A run directory as the engine begins one, in `here`/reports."""
    book, aim = playbook(here, text), target()
    found = project(here)
    identity = identity_of_recovery(
        book, aim, found, resolve(book, aim, found, {}), mode="practice", started_by=STARTER
    )
    run = RunDir.create(found.reports, found.home, name=book.name, target=aim.name, identity=identity)
    run.write_text("target.json", targets.dump(aim))
    if running:
        goes_on(run)
    return run


def goes_on(run: RunDir) -> None:
    """Make it look as if this process were at work on the run."""
    lease = {"pid": os.getpid(), "ttl_s": 600, "renewed_ns": clock.now_ns()}
    (run.path / "lease.json").write_text(json.dumps(lease))


def stops(run: RunDir) -> None:
    (run.path / "lease.json").unlink(missing_ok=True)


def step(run: RunDir, name: str, state: str, **detail: Any) -> Mark:
    return run.mark(MarkKind.STEP, name, state=state, **detail)


# --- records for reports ----------------------------------------------------------------------------------------------

PLANNED = (
    PlannedStep("promote-ok", "Promote orders-replica?", "another person"),
    PlannedStep("promote", "Make the replica a writer of its own.", "drkit", expected_s=4.0),
    PlannedStep("send-clients-there", "Point the record at the new writer.", "drkit", parallel=True),
    PlannedStep("grow", "Start as many instances as the first region had.", "drkit", parallel=True),
    PlannedStep("verify", "Read the rows back.", "drkit"),
    PlannedStep("tell-support", "Tell support that the service is back.", "a person"),
)


def _step(at_s: float, name: str, state: str, **detail: Any) -> Mark:
    return mark(at_s, at_s, MarkKind.STEP, name, state=state, **detail)


def _answer(at_s: float, name: str, by: str, note: str = "", *, yes: bool = True) -> Mark:
    return mark(at_s, at_s, MarkKind.ANSWER, name, by=by, yes=yes, note=note)


_BEGUN = (
    mark(0, 0, MarkKind.RUN_STARTED, NAME, number=18),
    mark(0.1, 0.1, MarkKind.PHASE, "baseline"),
    mark(3, 3, MarkKind.HYPOTHESIS, "replica-there", when="prerequisite", held=True, why="it does not hold"),
    mark(3.2, 3.2, MarkKind.PHASE, "recovery"),
    _step(3.3, "promote-ok", "waiting"),
    _answer(9.0, "promote-ok", "bob@noc", "AWS confirms the outage"),
    mark(9.1, 9.1, MarkKind.DECLARED, "playbook", by="bob@noc, promote-ok"),
    _step(9.2, "promote-ok", "done", result={"by": "bob@noc", "note": "AWS confirms the outage"}),
    mark(9.3, 9.3, MarkKind.RECOVERY_START, "promote"),
    _step(9.4, "promote", "begun"),
)
_REST = (
    _step(24.1, "promote", "done", result={"region": "eu-west-1", "took_over_at_lsn": "0/5A3F2C8"}),
    mark(9.4, 24.2, MarkKind.RECOVERY_END, "promote"),
    _step(24.3, "send-clients-there", "begun"),
    _step(24.35, "grow", "begun"),
    _step(26.2, "send-clients-there", "done", result={"record": "db.orders.example"}),
    mark(24.3, 26.3, MarkKind.RECOVERY_END, "send-clients-there"),
    _step(29.6, "grow", "done", result={"instances": 3}),
    _step(29.8, "verify", "begun"),
    mark(29.8, 31.5, MarkKind.DATA_VERIFIED, "marker rows"),
    _step(31.6, "verify", "done", result={"acknowledged": 1200, "lost": 0, "verified": True}),
    _step(31.7, "tell-support", "waiting"),
    mark(33, 33, MarkKind.NOTE, "bob@noc", message="support asks for a time; told them 16:10"),
    _answer(36.4, "tell-support", "ann@desk", "told at 16:05, ticket 4711"),
    _step(36.5, "tell-support", "done", result={"by": "ann@desk", "note": "told at 16:05, ticket 4711"}),
    mark(36.6, 36.6, MarkKind.PHASE, "verification"),
)
_KILLED = (
    mark(18, 18, MarkKind.RESUMED, "ann@desk"),
    _step(18.1, "promote", "begun"),
)
_END = (
    mark(44, 44, MarkKind.RECOVERED, NAME),
    mark(44.1, 44.1, MarkKind.RUN_ENDED, NAME),
)


_PROMISED = Objective(rto_s=900, rpo_s=300)


def _record(
    *marks: Mark,
    down: tuple[float, float] = (5.0, 26.0),
    unseen: tuple[float, float] | None = None,
    objective: Objective = _PROMISED,
    kept: bool = True,
    ended: bool = True,
    real: bool = False,
) -> RunRecord:
    series = [
        records.series("api", ProbeKind.HTTP, Role.SERVICE, down, length_s=44),
        records.series("writes", ProbeKind.SQL, Role.WRITES, down, length_s=44),
    ]
    if unseen:
        lo, hi = (records.at(t) for t in unseen)
        series = [replace(s, attempts=tuple(a for a in s.attempts if not lo <= a.due_ns < hi)) for s in series]
    writes = series[1]
    rows = tuple(SurvivingRow(a.seq) for a in writes.attempts if a.outcome is Outcome.OK)
    read = Survivors("writes", records.at(43.0), records.at(43.5), rows)
    history = History(marks, tuple(series), (read,) if ended else ())
    measurement = measure(history, Settings(window_s=3.0))
    where = "a real recovery" if real else "practice, on the lab"
    good = records.passed()
    return replace(
        good,
        run_id="20261122T155410Z-toy-failover-lab-7c1d",
        number=18,
        name=NAME,
        title="The replica takes over",
        description="The first region is lost. The replica in the other one becomes the writer.",
        kind="playbook",
        hypothesis="",
        target="production" if real else "lab",
        target_kind="aws" if real else "lab",
        objective=objective,
        history=history,
        measurement=measurement,
        judgement=judge(measurement, history, objective),
        steps=PLANNED,
        effects=(replace(good.effects[0], call="rds:PromoteReadReplica", resource="orders-replica", zone="",
                         region="eu-west-1", what="make orders-replica a writer", undo="", consented=False),),
        undo=(
            UndoRecord(1, "restore_record", {"name": "db.orders.example"}, "", S, done=kept, kept=kept),
            UndoRecord(2, "lift_fence", {"instance_id": "orders"}, "eu-central-1", S, done=kept, kept=kept),
        ),
        environment={"mode": where, "started by": STARTER, **good.environment},
        ended=ended,
    )  # fmt: skip


def complete() -> RunRecord:
    """Practised on the lab: approved by a colleague, promoted, verified, told to support."""
    return _record(*_BEGUN, *_REST, *_END)


def resumed() -> RunRecord:
    """drkit was killed within a step; another process went on. Nobody watched for five seconds."""
    return _record(*_BEGUN, *_KILLED, *_REST, *_END, unseen=(13.0, 18.3))


def stopped() -> RunRecord:
    """A real recovery that stands half-way: a step did not succeed."""
    failed = _step(24.0, "promote", "failed", why="not within 900 s: promote is done (orders-replica is modifying)")
    return _record(*_BEGUN, failed, down=(5.0, 99.0), kept=False, ended=False, real=True)


def refused() -> RunRecord:
    """A prerequisite did not hold: nothing was touched."""
    missing = mark(
        3, 3, MarkKind.HYPOTHESIS, "replica-there", when="prerequisite", held=False, why="there is no replica"
    )
    return replace(_record(*_BEGUN[:2], missing, down=(0.0, 99.0), kept=False, ended=False), undo=())


def down_before() -> RunRecord:
    """The service was down two hours before anybody began; a promise of verified data."""
    since = mark(-7200, -7198, MarkKind.IMPACT, "ann@desk", since="2026-11-22T13:54:10+00:00")
    return _record(since, *_BEGUN, *_REST, *_END, down=(0.0, 26.0), objective=Objective(rto_s=14400, verified=True))


EVERY_RECORD = (complete, resumed, stopped, refused, down_before)
