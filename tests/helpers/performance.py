"""One performance of a playbook on a lab, killed again and again or not at all, and what is wrong after it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from typing import TYPE_CHECKING

from by_hand import Console, Hand
from kill_matrix import Matrix, Pass, Point
from late_ticks import verdict_but_for_late_ticks
from scripts import FIRST, RECOVERY, WRITER, Script
from witness import Witness

from drkit import clock
from drkit.engine.finish import record_of
from drkit.errors import DrkitError, TargetBusy, TargetError
from drkit.lease import TargetLock
from drkit.model import LossAccount, RunRecord, Verdict
from drkit.playbook import standings
from drkit.targets import Target, postgres
from drkit.targets.aws import Backups, Database
from drkit.targets.aws.claims import Claims
from drkit.targets.aws.network import acls_of_runs
from drkit.targets.aws.parameters import Parameters

if TYPE_CHECKING:
    from conftest import Ground


def matrix_of(stage: Ground, script: Script) -> Matrix:
    return Matrix(stage.target, stage.home, stage.reports, stage.play, script.name, script.variables)


def perform(stage: Ground, script: Script, points: Sequence[Point] | None) -> list[str]:
    """Perform a playbook, killed at these points (None: at every one); return what is not as it should be."""
    if script.old in (None, WRITER):
        stage.wait_until_whole()
    target, matrix = stage.target, matrix_of(stage, script)
    before, from_ns, since = timeline(target), clock.now_ns(), clock.wall_utc()
    with ExitStack() as stack:
        witness = None
        if script.old and script.new:
            insist = Told(matrix, script.read_only_first)
            witness = stack.enter_context(Witness(target, old=script.old, new=script.new, insist=insist))
        reach = stack.enter_context(closing(Reach(target)))
        if script.by_hand:
            stack.enter_context(closing(_hand(stage, script, matrix)))
        if points is None:
            points = matrix.points if script.killed else ()
        came = matrix.killed_at(points)
    print(f"\n{script.name} {came.run.run_id}\n{came.table}", flush=True)  # noqa: T201

    wrong = [] if witness is None else witness.wrong()
    did = matrix.calls.effects(from_ns)
    if did != Counter(script.effects):
        wrong.append(f"too often: {did - Counter(script.effects)}, too seldom: {Counter(script.effects) - did}")
    refused = [c.text for c in matrix.calls.since(from_ns) if c.status >= 400 and c.service != "ssm"]
    if refused:
        print(f"refused: {refused}", flush=True)  # noqa: T201
    by_itself = _failovers(target, since) - sum("RebootDBInstance" in effect for effect in did.elements())
    if not 0 <= (promotions := timeline(target) - before) - script.promotions <= by_itself:
        wrong.append(f"promoted {promotions} times, not {script.promotions} times; RDS by itself {by_itself} times")
    asked_ns = next((c.at_ns for c in matrix.calls.since(from_ns) if c.action.startswith("RestoreDB")), None)
    restored_ns = reach.by(asked_ns) if asked_ns is not None and not script.whole else None
    wrong += _wrong_with(record_of(came.run), restored_ns)
    wrong += left_behind(stage, came)
    if script.whole:
        stage.wait_until_whole()
        acls = [acl for region in (FIRST, RECOVERY) for acl in acls_of_runs(target, region)]
        wrong += [f"network ACLs of runs are left: {acls}"] if acls else []
    print("\n".join(f"WRONG {w}" for w in wrong) or "as undisturbed", flush=True)  # noqa: T201
    return wrong


def _hand(stage: Ground, script: Script, matrix: Matrix) -> Hand:
    """Return the person who fences the first region when asked to, or lifts the fence once the old writer is gone."""
    console = Console(stage.target)
    if script.by_hand == "fence":
        stage.acls = console.acls()
        return Hand(lambda: matrix.run, "fence-by-hand", "waiting", console.cut)
    return Hand(lambda: matrix.run, "retire-old", "done", lambda: console.uncut(stage.acls))


def _failovers(target: Target, since: datetime) -> int:
    """Return how often RDS has failed the writer over since a moment. Half a fence makes it do so by itself."""
    try:
        events = Database(target, FIRST).events(WRITER[1], since)
    except TargetError:  # it is being made again
        return 0
    return sum("failover completed" in event.message for event in events)


def _wrong_with(record: RunRecord, restored_ns: int | None) -> list[str]:
    """Return what is wrong with a run's record; restored_ns: a moment up to which the backup certainly reached."""
    wrong = []
    if verdict_but_for_late_ticks(record) is not Verdict.PASS:
        wrong.append(
            f"{record.judgement.verdict}: {[r for r in record.judgement.reasons if r.verdict != Verdict.PASS]}"
        )
    done_ns = {(s.name, a.seq): a.done_ns for s in record.history.series for a in s.attempts}
    for account in record.measurement.losses:
        lost = sorted({*account.lost, *account.lost_later})
        unexplained = [n for n in lost if restored_ns is None or done_ns[account.series, n] <= restored_ns]
        wrong += [f"{account.series}: {len(unexplained)} acknowledged writes are gone"] if unexplained else []
        wrong += _strange(account)
    return wrong


def _strange(account: LossAccount) -> list[str]:
    found = {"phantom": account.phantom, "corrupt": account.corrupt, "duplicated": account.duplicated}
    strange = {what: rows for what, rows in found.items() if rows} | ({"holes": account.holes} if account.holes else {})
    return [f"{account.series}: {strange}"] if strange else []


def left_behind(stage: Ground, came: Pass) -> list[str]:
    """Return what of a run that has ended is not done, or still there."""
    run, target = came.run, stage.target
    wrong = [f"{s.name} is {s.state}" for s in standings(run.marks(), came.steps).values() if s.state != "done"]
    wrong += [f"a process is left: {p}" for p in stage.processes_of(run)]
    claim = Claims(target).holder()
    wrong += [f"a claim is left: {claim}"] if claim else []
    wrong += [f"undo parameters in {r} of {x}" for r in (FIRST, RECOVERY) for x in Parameters(target, r).runs()]
    for recovery in (False, True):
        try:
            TargetLock(stage.home, "lab", lab_directory=str(stage.home / "labs" / "lab"), recovery=recovery).close()
        except TargetBusy as e:
            wrong.append(e.message)
    if broken := run.broken_at():
        wrong.append(broken)
    return wrong


def timeline(target: Target) -> int:
    """Return the timeline of the server behind the writer's record."""
    found: list[int] = []

    def told() -> bool:
        try:
            found.append(postgres.identity(target).timeline or 0)
        except DrkitError:
            return False
        return True

    clock.wait_until(told, "the writer answers", timeout_s=60, every_s=0.1)
    return found[0]


class Told:
    """Whether a step of a matrix's run is done; True from the beginning for no step."""

    def __init__(self, matrix: Matrix, step: str) -> None:
        self._matrix, self._step, self._is_done = matrix, step, not step

    def __call__(self) -> bool:
        run = self._matrix.run
        if not self._is_done and run is not None:
            self._is_done = standings(run.marks(), [self._step])[self._step].state == "done"
        return self._is_done


class Reach:
    """Writes down up to which moment the recovery region's backup of the writer reaches, all the time."""

    def __init__(self, target: Target) -> None:
        self._over = threading.Event()
        self._seen: list[tuple[int, int]] = []  # asked at, reached then; monotonic
        self._thread = threading.Thread(target=self._look, args=(target,), name="reach", daemon=True)
        self._thread.start()

    def _look(self, target: Target) -> None:
        backups = Backups(target, RECOVERY)
        while not self._over.wait(0.2):
            try:
                found = backups.automated(WRITER[1])
            except DrkitError:
                continue
            if found is not None and found.latest is not None:
                offset_ns = clock.wall_minus_monotonic_ns()
                self._seen.append((clock.now_ns(), int(found.latest.timestamp() * clock.NS_PER_S) - offset_ns))

    def by(self, at_ns: int) -> int:
        """Return up to which moment it certainly reached at another one."""
        return max((reached for seen, reached in self._seen if seen < at_ns), default=0)

    def close(self) -> None:
        self._over.set()
        self._thread.join(30)
