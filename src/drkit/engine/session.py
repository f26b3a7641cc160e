"""Hold a target for one run: lock, directory, lease with its guardian, permit, undo journal. Everything or nothing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drkit import clock, targets
from drkit.chaos import Context, enter
from drkit.chaos.state import snapshot
from drkit.errors import DrkitError, TargetBusy
from drkit.guard import BlastRadius, Permit, authorise
from drkit.lease import Lease, TargetLock, running
from drkit.model import Effect, MarkKind
from drkit.project import Project, operator
from drkit.rundir import RunDir, safe_name
from drkit.targets import Target
from drkit.targets.aws.claims import Claim, Claims, home_region
from drkit.targets.facts import gather
from drkit.undo import UndoJournal

_ANY = BlastRadius(zones_max=99, instances_max=None, databases_max=99, regions_max=99)  # a recovery goes where it must


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


@dataclass(slots=True)
class Held:
    """A target held for one recovery."""

    run: RunDir
    target: Target
    permit: Permit
    undo: UndoJournal
    stop: threading.Event
    over: bool = False  # every step is done

    def ended(self) -> None:
        """Say that the playbook has come to its end: the target is free for others afterwards."""
        self.over = True


@contextlib.contextmanager
def hold_recovery(
    project: Project,
    target: Target,
    *,
    playbook: str,
    identity: Mapping[str, Any],
    run: RunDir | None,
    instead_of: str,
    lost: Callable[[str], None],
    stop: threading.Event,
) -> Iterator[Held]:
    """Make the target this recovery's own until the block ends; run: the one to go on with, None for a new one.

    Nobody undoes when this process dies. The claim in the cloud stays until the playbook has come to its end: another
    machine is refused meanwhile. Raises Refused (TargetBusy) before anything is made.
    """
    directory = target.lab.directory if target.lab else None
    claims = Claims(target)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(
            contextlib.closing(TargetLock(project.home, target.name, lab_directory=directory, recovery=True))
        )
        if run is not None:
            lock.name(run.run_id)  # who is refused meanwhile hears by whom
        joined = _join(project, target, playbook, stack)
        if run is None:
            claims.refuse_others("", instead_of=instead_of)  # before a run is made for nothing
        rules = project.settings.guard
        facts = gather(target, rules, recovery=True)
        effects = tuple(Effect(**{**e, "iam": tuple(e["iam"])}) for e in identity["plan"]["effects"])
        permit = authorise(
            "", effects, facts=facts, rules=rules, blast_radius=_ANY, real=identity["mode"] == "real", recovery=True
        )
        if run is None:
            run = RunDir.create(
                project.reports, project.home, name=playbook, target=safe_name(target.name),
                identity={**identity, "joined": joined},
            )  # fmt: skip
            run.write_text("target.json", targets.dump(target))
        stack.enter_context(run.runner())
        permit.run_id = run.run_id
        lock.name(run.run_id)
        claims.take(
            Claim(run.run_id, operator(), clock.wall_utc().isoformat(timespec="seconds")), instead_of=instead_of
        )
        permit.also_ask = lambda: claims.lost(permit.run_id)
        lease = Lease(run, lock, lost=lost, guarded=False)
        held = Held(run, target, permit, recovery_journal(run, target), stop)
        try:
            yield held
        finally:
            permit.revoke("the run is over")
            lease.release()
            if held.over or not any(m.kind is MarkKind.RECOVERY_START for m in run.marks()):
                # It has come to its end, or has not touched anything.
                with contextlib.suppress(DrkitError):  # then the next one is refused, with a hint
                    claims.release(run.run_id)


def _join(project: Project, target: Target, playbook: str, stack: contextlib.ExitStack) -> str:
    """Keep experiments away, or join the one that has the target if it is to be recovered by this very playbook.

    Returns the id of the run that was joined, "" for none. Raises TargetBusy.
    """
    directory = target.lab.directory if target.lab else None
    try:
        stack.enter_context(contextlib.closing(TargetLock(project.home, target.name, lab_directory=directory)))
    except TargetBusy as busy:
        for experiment in reversed(RunDir.all(project.reports)[-20:]):
            identity = experiment.identity
            if identity.get("target") == safe_name(target.name) and running(experiment):
                extensions = identity.get("document", {}).get("extensions") or ()
                recovered_by = [p for e in extensions if e.get("name") == "drkit" for p in e.get("recovered_by", ())]
                if playbook in recovered_by:
                    return experiment.run_id
        raise busy
    return ""


def recovery_journal(run: RunDir, target: Target) -> UndoJournal:
    """Return the undo journal of a playbook's run; its second copy is in the region that recovers."""
    from drkit.targets.aws.parameters import Parameters

    return UndoJournal(run.path / "undo.jsonl", run.run_id, Parameters(target, home_region(target)))
