"""Stop a run, and put back what one left broken."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from drkit import clock, targets
from drkit.cli import aim, console, stored, verdict
from drkit.errors import DrkitError, TargetError, UnknownName, UsageError
from drkit.lease import TargetLock
from drkit.model import MarkKind, UndoRecord
from drkit.project import Project
from drkit.rundir import RunDir
from drkit.targets import Target
from drkit.undo import CloudCopy, UndoJournal, Undone, replay

if TYPE_CHECKING:
    from drkit.targets.aws.parameters import Parameters

STOPPED_S = 900.0  # a run that is to stop first ends the call that it is in


def abort(name: str, *, wait: bool, reports: Path | None, as_json: bool) -> int:
    run = RunDir.find(aim.here(reports).reports, name)
    if not stored.is_running(run):
        if (run.path / "lease.taken").exists() and not run.sealed:
            raise UsageError(
                f"run {run.run_id} is not going on", "its guardian is putting everything back; wait for it"
            )
        if stored.half_way(run):
            raise UsageError(
                f"run {run.run_id} is not going on: it stands half-way",
                f"go on: drkit resume {run.run_id}; put back what it did: drkit undo {run.run_id}",
            )
        raise UsageError(f"run {run.run_id} is not going on", f"if it left something broken: drkit undo {run.run_id}")
    is_playbook = stored.identity(run).get("kind") == "playbook"
    (run.path / "abort").touch()
    stopped = None
    if wait:
        clock.wait_until(
            lambda: not stored.is_running(run), f"{run.run_id} has stopped", timeout_s=STOPPED_S, every_s=0.2
        )
        stopped = True
    if as_json:
        console.out_json({"run_id": run.run_id, "asked": True, "puts_back": not is_playbook, "stopped": stopped})
        return 0
    told = f"{run.run_id} has stopped" if stopped else f"asked {run.run_id} to stop"
    if is_playbook:
        console.out(f"{told}; nothing is put back, the target stays as the playbook has left it")
        console.out(f"go on: drkit resume {run.run_id}; put back what it did: drkit undo {run.run_id}")
    else:
        console.out(f"{told}; {'everything is put back' if stopped else 'it puts everything back first'}")
    return 0


def undo(name: str, *, reports: Path | None, as_json: bool) -> int:
    """Put back what a run on disk left broken; return 0, or 5 if some of it still is."""
    from drkit.engine import finish
    from drkit.engine.restore import put_back

    found = aim.here(reports)
    run = RunDir.find(found.reports, name)
    if stored.is_running(run):
        raise UsageError(f"run {run.run_id} is going on", f"stop it first: drkit abort {run.run_id}")
    record = stored.record_of(run)
    if record.kind == "playbook":
        return _undo_playbook(run, found, as_json=as_json)
    journal = UndoJournal(run.path / "undo.jsonl", run.run_id)
    if not journal.pending() and not verdict.still_broken(record) and record.ended:
        for other in stored.left_open(found.reports):
            console.say(f"but {other.run_id} has: drkit undo {other.run_id}")
        return _told(run.run_id, (), (), as_json=as_json)
    target = targets.load(str(run.path / "target.json"), found.home)
    lock = _lock(found, target)  # neither its guardian nor another run is at work on the target
    try:
        lock.name(run.run_id)
        seen = sum(m.kind is MarkKind.UNDO for m in run.marks())
        failed = put_back(run)
        if not record.ended:
            run.mark(MarkKind.RUN_ENDED, "drkit undo")
        undone = [m for m in run.marks() if m.kind is MarkKind.UNDO][seen:]
        record = finish(run)
    finally:
        lock.close()
    done = tuple(str(m.detail.get("sentence", "")) for m in undone if m.detail.get("ok") is True)
    return _told(run.run_id, done, tuple(dict.fromkeys((*failed, *verdict.still_broken(record)))), as_json=as_json)


def _undo_playbook(run: RunDir, found: Project, *, as_json: bool) -> int:
    """Put back what a playbook has done so far, newest first; the run is over then. One that came to its end keeps it.

    An undo may refuse, and says why: to make the first writer one again beside a promoted replica, say.
    """
    from drkit.engine import finish
    from drkit.engine.restore import note, refuse_undo, undo_all
    from drkit.engine.session import recovery_journal

    pending = UndoJournal(run.path / "undo.jsonl", run.run_id).pending()
    if stored.has_ended(run) and not pending:
        return _told(run.run_id, (), (), as_json=as_json)
    target = targets.load(str(run.path / "target.json"), found.home)
    directory = target.lab.directory if target.lab else None
    _register_verbs(run)
    undone: list[Undone] = []

    def told(one: Undone) -> None:
        note(run, one)
        undone.append(one)
        console.say(f"{'undone' if one.ok else 'NOT undone'}: {one.sentence}")

    with contextlib.ExitStack() as stack:
        for recovery in (True, False):
            lock = TargetLock(found.home, target.name, lab_directory=directory, recovery=recovery)
            stack.enter_context(contextlib.closing(lock))
            lock.name(run.run_id)
        stack.enter_context(run.runner())
        journal = recovery_journal(run, target)
        refuse_undo(journal, target)
        run.unseal()
        failed = undo_all(journal, target, told) if pending else ()
        if not failed:  # else it can still be resumed, or undone once more
            run.mark(MarkKind.RUN_ENDED, "drkit undo")
            _release_claim(run, target)
        finish(run)
    done = tuple(u.sentence for u in undone if u.ok)
    return _told(run.run_id, done, tuple(u.sentence for u in failed), as_json=as_json)


def _release_claim(run: RunDir, target: Target) -> None:
    """Let others recover the target: this run never will."""
    from drkit.targets.aws.claims import Claims

    try:
        Claims(target).release(run.run_id)
    except DrkitError as e:
        console.say(f"the claim on {target.name} is still there: {e.message}")


def _register_verbs(run: RunDir) -> None:
    """Import what may have undo verbs: drkit's own, and the modules of the playbook's steps."""
    import drkit.chaos.database
    import drkit.chaos.zone
    import drkit.targets.aws  # noqa: F401  (each registers its undo verbs)
    from drkit.catalog import checked_playbook

    with contextlib.suppress(DrkitError, KeyError):  # one that is gone meanwhile: its verb is then told as unknown
        checked_playbook(run.identity["document"], run.path / "run.json", "")


def undo_from_cloud(run_id: str, target_name: str | None, *, as_json: bool) -> int:
    """Put back what a run left broken, from the copy of its journal beside the resources.

    An experiment's copy is in the first region, a playbook's in the one that recovers. The claim that a playbook has on
    the target outlives its machine, so it does not say whether that one still is at work: it is released when
    everything is put back.
    """
    from drkit.targets.aws.claims import Claims, home_region

    found = aim.here()
    target = aim.at(found, target_name, whole=False)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(_lock(found, target)))
        parameters, pending, region = _copy_of(run_id, target)
        claims, claimed = Claims(target), False
        with contextlib.suppress(TargetError):  # of an experiment, in a region that does not answer: there is no claim
            holder = claims.holder()
            claimed = holder is not None and holder.run_id == run_id
        if claimed or region != target.region:  # a playbook's
            directory = target.lab.directory if target.lab else None
            lock = TargetLock(found.home, target.name, lab_directory=directory, recovery=True)
            stack.enter_context(contextlib.closing(lock))
            lock.name(run_id)
        if claimed:
            console.say(
                f"{run_id} has the claim on {target.name} in {home_region(target)}; it is released when everything is "
                "put back"
            )
        path = found.home / "from-cloud" / f"{run_id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        results = _replay(CloudJournal(path, run_id, parameters, pending), target)
        if claimed and all(r.ok for r in results):
            try:
                claims.release(run_id)
            except DrkitError as e:
                console.say(f"the claim on {target.name} is still there: {e.message}")
            else:
                console.say(f"released the claim of {run_id} on {target.name}")
    done = tuple(r.sentence for r in results if r.ok)
    return _told(run_id, done, tuple(r.sentence for r in results if not r.ok), as_json=as_json)


def _copy_of(run_id: str, target: Target) -> tuple[Parameters, tuple[UndoRecord, ...], str]:
    """Return where the cloud's copy of a run's journal is, what is pending in it, and in which region.

    A region that does not answer is passed over if the other one has it. Raises UnknownName, or that region's error.
    """
    from drkit.targets.aws.claims import home_region
    from drkit.targets.aws.parameters import Parameters

    others: list[str] = []
    silent: TargetError | None = None
    for region in dict.fromkeys((home_region(target), target.region)):
        parameters = Parameters(target, region)
        try:
            if pending := parameters.records(run_id):
                return parameters, pending, region
            others += parameters.runs()
        except TargetError as e:
            silent = e
    if silent is not None:
        raise silent
    raise UnknownName(
        f"{target.name} knows nothing that {run_id} has left to undo",
        f"it knows of: {', '.join(others)}" if others else "no run has left anything to undo there",
    )


def _lock(found: Project, target: Target) -> TargetLock:
    return TargetLock(found.home, target.name, lab_directory=target.lab.directory if target.lab else None)


class CloudJournal(UndoJournal):
    """A run's undo journal of which only the cloud's copy is left."""

    def __init__(self, path: Path, run_id: str, cloud: CloudCopy, pending: tuple[UndoRecord, ...]) -> None:
        super().__init__(path, run_id, cloud)
        self._of_cloud = {r.seq: r for r in pending}

    def records(self) -> tuple[UndoRecord, ...]:
        return tuple(self._of_cloud.values())

    def done(self, record: UndoRecord) -> None:
        super().done(record)
        del self._of_cloud[record.seq]


def _replay(journal: UndoJournal, target: Target) -> tuple[Undone, ...]:
    import drkit.chaos.database
    import drkit.chaos.zone
    import drkit.targets.aws
    import drkit.targets.readonly  # noqa: F401  (each registers its undo verbs)

    return replay(journal, target, told=lambda u: console.say(f"{'undone' if u.ok else 'NOT undone'}: {u.sentence}"))


def _told(run_id: str, done: tuple[str, ...], broken: tuple[str, ...], *, as_json: bool) -> int:
    code = verdict.STILL_BROKEN if broken else 0
    if as_json:
        console.out_json({"run_id": run_id, "undone": done, "still_broken": broken, "exit_code": code})
        return code
    for sentence in done:
        console.out(f"undone: {sentence}")
    if not done and not broken:
        console.out(f"nothing to put back: {run_id} has left nothing broken")
    for sentence in broken:
        console.problem(sentence, "", code, as_json=False)
    if broken:
        console.say(f"hint: mend what is in the way, then again: drkit undo {run_id}")
    return code
