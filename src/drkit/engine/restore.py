"""Put back what a run broke, and look whether anything was left: for the engine, the guardian and `drkit undo`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from drkit import clock, targets, undo
from drkit.chaos import state
from drkit.clock import NS_PER_S
from drkit.engine.session import journal
from drkit.errors import DrkitError, Refused, TimedOut
from drkit.model import MarkKind
from drkit.rundir import RunDir
from drkit.targets import Target
from drkit.undo import UndoJournal, Undone

TRIES = 3

Told = Callable[[Undone], None]


def put_back(run: RunDir) -> tuple[str, ...]:
    """Undo what a run has pending, from its directory alone; return a sentence for each thing that is still broken.

    Notes every undo and every residue in the history, if the disk takes it: it does not have to. Raises DrkitError if
    the run's target file or identity can't be read.
    """
    target = targets.load(str(run.path / "target.json"), run.path)
    pending = journal(run, target)

    def told(undone: Undone) -> None:
        note(run, undone)

    failed = undo_all(pending, target, told)
    before = state.State.of(run.identity["before"])
    late_s = 0.0 if not pending.records() else late_call_s(target)
    left = sweep(run, pending, target, before, told, late_s=late_s)
    still = {r.seq for r in pending.pending()}  # looking for residue may have put back what had failed
    return (*(u.sentence for u in failed if u.record.seq in still), *left)


def refuse_undo(pending: UndoJournal, target: Target) -> None:
    """Raise Refused if a playbook has come so far that undoing it would harm: the rest of its undo, too.

    Beside a promoted replica, records that lead back would lead clients to a fenced writer; a restored database that
    clients are led to holds what they have written since. Nothing is changed by asking.
    """
    from drkit.targets.aws import Database, Records

    stay = ("stay_promoted", "stay_retired")
    for undone in undo.replay(pending, target, only=lambda r: r.verb in stay):
        if not undone.ok:
            raise Refused(undone.sentence, f"go on instead: drkit resume {pending.run_id}")
    database = target.database
    made = [r for r in pending.pending() if r.verb == "delete_restored"]
    if not made or database is None or not (database.dns_record and database.hosted_zone_id):
        return
    leads_to = Records(target, database.hosted_zone_id, target.recovery_region or "").value(database.dns_record)
    for record in made:
        region, instance_id = str(record.args["aws_region"]), str(record.args["instance_id"])
        there = Database(target, region)
        if there.exists(instance_id) and there.instance(instance_id).host == leads_to:
            raise Refused(
                f"{instance_id} serves: to delete it would lose what clients have written to it",
                f"go on instead: drkit resume {pending.run_id}",
            )


def undo_all(pending: UndoJournal, target: Target, told: Told) -> tuple[Undone, ...]:
    """Replay a journal, again if something could not be put back; return what still isn't."""
    failed: list[Undone] = []
    for attempt in range(TRIES):
        failed = [u for u in undo.replay(pending, target, told=told) if not u.ok]
        if not failed or attempt == TRIES - 1:
            break
        clock.sleep_s(2.0 * (attempt + 1))
    return tuple(failed)


def sweep(
    run: RunDir, pending: UndoJournal, target: Target, before: state.State, told: Told, *, late_s: float
) -> tuple[str, ...]:
    """Compare the target with what it was, until nothing differs any more; note and return what was left behind.

    late_s: for how long nothing may differ before it counts. A call of a drkit that was killed may still be on its way
    and break something after it was put back, so while something differs everything is put back again, also what was
    before; each undo asks first whether there is something to do.
    """
    left: tuple[str, ...] = ()
    recovered = bool(recoveries_of(run))
    before = state.without_recovery(before) if recovered else before
    began_ns = clock.now_ns()
    clean_since_ns: int | None = None
    replay_at_ns, wait_ns = began_ns + 2 * NS_PER_S, 2 * NS_PER_S

    def clean() -> bool:
        nonlocal left, clean_since_ns, replay_at_ns, wait_ns
        asked_ns = clock.now_ns()
        try:
            now = state.snapshot(target)
            left = state.differences(before, state.without_recovery(now) if recovered else now)
        except DrkitError as e:  # a database that is failing over, say
            left = (f"the target could not be asked: {e.message}",)
        if left:
            clean_since_ns = None
            if asked_ns >= replay_at_ns:
                undo.replay(pending, target, told=told, again=True)
                wait_ns *= 2
                replay_at_ns = clock.now_ns() + wait_ns
            return False
        clean_since_ns = clean_since_ns or asked_ns
        return asked_ns - clean_since_ns >= late_s * NS_PER_S

    try:
        clock.wait_until(
            clean, "nothing is left behind", timeout_s=late_s + max(15.0, 600 * target.pace), every_s=every_s(target)
        )
    except TimedOut:
        left = left or ("the target did not stay as it was",)
        for sentence in left:
            run.try_mark(MarkKind.RESIDUE, "control plane", why=sentence)
    else:
        with contextlib.suppress(DrkitError):  # then the next run is refused, with a hint how to get rid of it
            pending.tidy()
        run.try_mark(MarkKind.CLEANED_UP, "residue")
    return left


def recoveries_of(run: RunDir) -> tuple[str, ...]:
    """Return the ids of the playbooks' runs that have joined this one: what they changed is to stay."""
    later = (r for r in RunDir.all(run.path.parent) if r.run_id > run.run_id)
    return tuple(r.run_id for r in later if _joined(r) == run.run_id)


def _joined(run: RunDir) -> str:
    try:
        return str(run.identity.get("joined", ""))
    except DrkitError:
        return ""


def note(run: RunDir, undone: Undone) -> None:
    """Write one undo down, if the disk takes it."""
    run.try_mark(MarkKind.UNDO, undone.record.verb, seq=undone.record.seq, ok=undone.ok, sentence=undone.sentence)


def late_call_s(target: Target) -> float:
    """Return how long after its caller's death a call may take effect: as long as the caller would have waited."""
    from drkit.targets.aws.account import READ_TIMEOUT_S

    return 3.0 if target.kind == "lab" else READ_TIMEOUT_S


def every_s(target: Target) -> float:
    return 0.2 if target.kind == "lab" else 3.0
