"""Run one experiment or playbook: plan, permit, probes, method or steps, undo, measurement, report.

    record = run(experiment, target, project)
    record = recover(playbook, target, project, Wishes())

Only this package knows the order of things (`drkit.engine.play`, `drkit.engine.recovery`). What was seen goes into the
run's directory as it happens; the verdict is made from that directory afterwards, by whoever finishes the run
(`drkit.engine.finish`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from drkit.catalog import Experiment
from drkit.engine.address import spec_of
from drkit.engine.finish import finish, record_of
from drkit.engine.identity import identity_of
from drkit.engine.plan import refuse_drift, resolve
from drkit.engine.play import Play
from drkit.engine.progress import Nobody, ProbeView, Progress, Shielded, Watcher
from drkit.engine.recovery import Ask, Wishes, plan_recovery, recover, resume
from drkit.engine.session import hold
from drkit.engine.stopping import signals
from drkit.model import Plan, RunRecord
from drkit.project import Project
from drkit.targets import Target

__all__ = [
    "Ask", "Nobody", "ProbeView", "Progress", "Watcher", "Wishes", "finish", "plan", "plan_recovery", "record_of",
    "recover", "resume", "run",
]  # fmt: skip


def plan(experiment: Experiment, target: Target, project: Project, variables: Mapping[str, str] | None = None) -> Plan:
    """Return what `run` would do now, without doing it."""
    return resolve(experiment, target, project, variables or {}).plan


def run(
    experiment: Experiment,
    target: Target,
    project: Project,
    *,
    variables: Mapping[str, str] | None = None,
    approved_digest: str | None = None,
    watcher: Watcher | None = None,
) -> RunRecord:
    """Run an experiment against a target and return its record; the run's directory is complete and sealed then.

    Everything that was broken has been put back, or the record says what has not. A signal (Ctrl-C, SIGTERM) aborts and
    puts back. Raises Refused before anything is touched, StillBroken never (it is the command line's reading of a
    record), RunDirError when the disk refuses at the start.
    """
    resolved = resolve(experiment, target, project, variables or {})
    if approved_digest is not None:
        refuse_drift(resolved.plan, approved_digest)
    for probe in experiment.drkit.probes:
        spec_of(probe, target, "", resolved.configuration)  # a target without its address is refused here, not later
    stop = threading.Event()
    why_stopped: list[str] = []

    def abort(why: str) -> None:
        why_stopped.append(why)
        stop.set()

    drkit_part = experiment.drkit
    with (
        hold(
            project,
            target,
            name=experiment.name,
            effects=resolved.plan.effects,
            unresolved=resolved.unresolved,
            blast_radius=drkit_part.blast_radius,
            alarms=drkit_part.guards.alarms,
            identity=identity_of(experiment, target, project, resolved),
            lost=abort,
            stop=stop,
        ) as session,
        signals(abort),
    ):
        Play(experiment, resolved, session, Shielded(watcher or Nobody()), why_stopped, abort).play()
        return finish(session.run)
