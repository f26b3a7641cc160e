"""Hold a target for one run: lock, directory, lease with its guardian, permit, undo journal. Everything or nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drkit import targets
from drkit.chaos import Context, enter
from drkit.chaos.state import snapshot
from drkit.guard import BlastRadius, authorise
from drkit.lease import Lease, TargetLock
from drkit.model import Effect
from drkit.project import Project
from drkit.rundir import RunDir, safe_name
from drkit.targets import Target
from drkit.targets.facts import gather
from drkit.undo import UndoJournal


@dataclass(frozen=True, slots=True)
class Session:
    run: RunDir
    context: Context


@contextlib.contextmanager
def hold(
    project: Project,
    target: Target,
    *,
    name: str,
    effects: Sequence[Effect],
    unresolved: Sequence[str],
    blast_radius: BlastRadius,
    alarms: Sequence[str],
    identity: Mapping[str, Any],
    lost: Callable[[str], None],
    stop: threading.Event,
) -> Iterator[Session]:
    """Make the target this run's own, and its context the current one, until the block ends.

    Raises Refused (TargetBusy) before anything is made; RunDirError if the run cannot be written. The number of a run
    that was refused is not used up. `lost` is called when the lease is taken away; waits end when `stop` is set.
    A block that ends in an exception (a second Ctrl-C, a defect) has put nothing back: then the guardian does, at once.
    """
    lock = TargetLock(project.home, target.name, lab_directory=target.lab.directory if target.lab else None)
    try:
        facts = gather(target, project.settings.guard, alarms=alarms, unresolved=unresolved)
        permit = authorise("", effects, facts=facts, rules=project.settings.guard, blast_radius=blast_radius)
        before = snapshot(target)
        run = RunDir.create(
            project.reports,
            project.home,
            name=safe_name(name),
            target=safe_name(target.name),
            identity={**identity, "before": before.to_json()},
        )
        permit.run_id = run.run_id
        lock.name(run.run_id)
        run.write_text("target.json", targets.dump(target))
        lease = Lease(run, lock, lost=lost)
        permit.also_ask = lease.taken
        context = Context(target, permit, journal(run, target), before, stop)
        enter(context)
        try:
            yield Session(run, context)
        except BaseException:
            enter(None)
            permit.revoke("the run was left before its end")
            lease.abandon()
            raise
        enter(None)
        permit.revoke("the run is over")
        lease.release()
    finally:
        lock.close()


def journal(run: RunDir, target: Target) -> UndoJournal:
    """Return a run's undo journal, with its second copy in the target's cloud."""
    from drkit.targets.aws.parameters import Parameters

    return UndoJournal(run.path / "undo.jsonl", run.run_id, Parameters(target))
