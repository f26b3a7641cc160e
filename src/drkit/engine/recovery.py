"""Run one playbook: plan, lock, claim, probes, steps, measurement, report; and go on with one that was left.

Unlike an experiment, a playbook has no guardian and undoes nothing by itself: what is half recovered stays as it is,
and `resume` goes on from the run's directory alone. When it comes to its end its effects are kept.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from drkit import catalog, clock, probes, targets
from drkit.catalog import Playbook, StepCall
from drkit.clock import NS_PER_S
from drkit.engine import rows
from drkit.engine.address import spec_of
from drkit.engine.finish import finish, record_of
from drkit.engine.identity import identity_of_recovery
from drkit.engine.plan import refuse_drift
from drkit.engine.plan_recovery import resolve
from drkit.engine.progress import Nobody, Shielded, Watcher
from drkit.engine.session import Held, hold_recovery
from drkit.engine.stopping import signals
from drkit.engine.watch import Watch
from drkit.errors import Aborted, DrkitError, RunDirError, StepFailed, TimedOut, UsageError
from drkit.model import MarkKind, Plan, ProbeKind, RunRecord
from drkit.playbook import Player, Recovery
from drkit.probes import ProbeProcess, ProbeSpec, sql
from drkit.probes.journal import GENERATION
from drkit.project import Project, operator
from drkit.rundir import RunDir
from drkit.targets import Target
from drkit.targets.aws.claims import Claims

DOWN_S = 1.0  # a service that fails for so long is down: the recovery begins
BEGIN_S = 20.0  # until probes that have been started make their first attempt
LEDGER_EVERY_S = 1.0
Ask = Callable[[RunDir, StepCall, str], None]  # a question to a person: the run, the step, the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a person wants of one recovery, beside the playbook and the target."""

    variables: Mapping[str, str] | None = None
    approved_digest: str | None = None
    real: bool = False  # for real, on a target that is neither a lab nor a copy
    since: datetime | None = None  # since when the service is down, in UTC
    instead_of: str = ""  # a run that holds the target for recovery and will never go on


def plan_recovery(playbook: Playbook, target: Target, project: Project, variables: Mapping[str, str]) -> Plan:
    """Return what `recover` would do now, without doing it. Raises UsageError for a variable it does not have."""
    return resolve(playbook, target, project, variables).plan


def recover(
    playbook: Playbook,
    target: Target,
    project: Project,
    wishes: Wishes,
    *,
    watcher: Watcher | None = None,
    ask: Ask = lambda *_: None,
) -> RunRecord:
    """Run a playbook and return the record of what came of it, complete or stopped at a step.

    Raises Refused (TargetBusy, PlanDrift) before anything is touched. One that was stopped can be resumed.
    """
    mode = mode_of(target, real=wishes.real)
    if mode == "real" and wishes.approved_digest is None:
        raise UsageError(
            f"a real recovery of {target.name} runs the plan that somebody has looked at",
            f"it prints the command: drkit playbook plan {playbook.name} --target {target.name}",
        )
    if wishes.since is not None and wishes.since > clock.wall_utc():
        raise UsageError(f"--since {wishes.since.isoformat()} is in the future", "give the time in UTC, or its offset")
    # Before it is planned: over what another recovery has half done a plan stumbles, and its hint would lead astray.
    Claims(target).refuse_others("", instead_of=wishes.instead_of)
    resolved = resolve(playbook, target, project, wishes.variables or {})
    if wishes.approved_digest is not None:
        refuse_drift(resolved.plan, wishes.approved_digest, "drkit playbook plan")
    identity = identity_of_recovery(playbook, target, project, resolved, mode=mode, started_by=operator())
    return _hold_and_play(
        playbook, target, project, identity, wishes=wishes, run=None, watcher=watcher or Nobody(), ask=ask
    )


def resume(run: RunDir, project: Project, *, watcher: Watcher | None = None, ask: Ask = lambda *_: None) -> RunRecord:
    """Go on with a playbook's run where it stopped; of one that was killed at its very end, do what was left.

    Raises UsageError for a run that is no playbook's, or has ended.
    """
    identity = run.identity
    if identity.get("kind") != "playbook":
        raise UsageError(f"run {run.run_id} is an experiment: it cannot be resumed", f"drkit undo {run.run_id}")
    if any(m.kind is MarkKind.RUN_ENDED for m in run.marks()):
        return _end_whole(run, project)
    if broken := run.broken_at():
        raise RunDirError(f"run {run.run_id} cannot be gone on with: {broken}", "look at its files")
    (run.path / "abort").unlink(missing_ok=True)
    playbook = catalog.checked_playbook(identity["document"], run.path / "run.json", identity["playbook_sha256"])
    target = targets.load(str(run.path / "target.json"), project.home)
    wishes = Wishes(real=identity["mode"] == "real")
    return _hold_and_play(
        playbook, target, project, identity, wishes=wishes, run=run, watcher=watcher or Nobody(), ask=ask
    )


def _end_whole(run: RunDir, project: Project) -> RunRecord:
    """Give the target back and write the report of a run that was killed after its last step.

    Raises UsageError if nothing of that is left to be done.
    """
    claims = Claims(targets.load(str(run.path / "target.json"), project.home))
    with run.runner():
        holder = claims.holder()
        if run.sealed and (holder is None or holder.run_id != run.run_id):
            raise UsageError(f"run {run.run_id} has ended", f"its report: drkit report {run.run_id}")
        record = finish(run)
        claims.release(run.run_id)
    return record


def mode_of(target: Target, *, real: bool) -> str:
    """Return "practice" or "real". Raises UsageError where what was asked for does not fit the target."""
    practised = "a lab" if target.kind == "lab" else f"a copy of {target.copy_of}" if target.copy_of else ""
    if real and practised:
        raise UsageError(f"{target.name} is {practised}: nothing there is real", "leave --real out")
    if not real and not practised:
        raise UsageError(
            f"{target.name} is neither a lab nor a copy: this would be a real recovery",
            "say so with --real; to practise, name a target with copy_of, or the lab",
        )
    return "real" if real else "practice"


def _hold_and_play(
    playbook: Playbook,
    target: Target,
    project: Project,
    identity: Mapping[str, Any],
    *,
    wishes: Wishes,
    run: RunDir | None,
    watcher: Watcher,
    ask: Ask,
) -> RunRecord:
    stop = threading.Event()
    why_stopped: list[str] = []

    def abort(why: str) -> None:
        why_stopped.append(why)
        stop.set()

    with (
        hold_recovery(
            project,
            target,
            playbook=playbook.name,
            identity=identity,
            run=run,
            instead_of=wishes.instead_of,
            lost=abort,
            stop=stop,
        ) as held,
        signals(abort),
    ):
        if run is not None:
            held.run.unseal()  # it was sealed where it stopped; it grows again
            held.run.mark(MarkKind.RESUMED, operator(), **held.run.this_boot())
        elif wishes.since is not None:
            _mark_impact(held.run, wishes.since)
        elif joined := held.run.identity.get("joined"):
            _mark_fault_of(held.run, RunDir.find(project.reports, joined))
        _Play(playbook, identity, held, Shielded(watcher), why_stopped, abort, ask).play(resumed=run is not None)
        return finish(held.run)


def _mark_impact(run: RunDir, since: datetime) -> None:
    """Write down since when the service is down, as far as a person's clock can say: to the second."""
    ago_s = (clock.wall_utc() - since).total_seconds()
    at_ns = clock.now_ns() - int(ago_s * NS_PER_S)
    run.mark(MarkKind.IMPACT, operator(), t_lo_ns=at_ns - NS_PER_S, t_hi_ns=at_ns + NS_PER_S, since=since.isoformat())


def _mark_fault_of(run: RunDir, experiment: RunDir) -> None:
    """Write down when the experiment that is recovered from asked for its fault: the service is down since then."""
    fault = next((m for m in experiment.marks() if m.kind is MarkKind.PHASE and m.name == "method"), None)
    if fault is not None:
        run.mark(MarkKind.IMPACT, experiment.run_id, t_lo_ns=fault.t_lo_ns, t_hi_ns=fault.t_hi_ns)


class _Play:
    """One playbook's run under way."""

    def __init__(
        self,
        playbook: Playbook,
        identity: Mapping[str, Any],
        held: Held,
        watcher: Watcher,
        why_stopped: list[str],
        abort: Callable[[str], None],
        ask: Ask,
    ) -> None:
        self.playbook, self.run, self.target, self.stop = playbook, held.run, held.target, held.stop
        self.why_stopped, self.held = why_stopped, held
        self.variables: Mapping[str, str] = identity["configuration"]
        self.specs = self._specs()
        self.processes: list[ProbeProcess] = []
        self.probes_over = threading.Event()
        self.wall_offset_ns = clock.wall_minus_monotonic_ns()
        self.watch = Watch(
            self.run, self.target, watcher, name=playbook.name, guards=catalog.Guards(),
            failover_asked=lambda: False, abort=abort, events=False, steps=lambda: self.player.states(),
        )  # fmt: skip
        recovery = Recovery(
            target=self.target,
            permit=held.permit,
            undo=held.undo,
            run=self.run,
            stop=self.stop,
            say=self.watch.say,
            stable=self.watch.stable,
            read_ledger=self._read_ledger,
            known=lambda name: self.player.known(name),
        )
        self.player = Player(
            playbook.calls(self.variables),
            recovery,
            variables=self.variables,
            started_by=identity["started_by"],
            ask=lambda call, text: ask(self.run, call, text),
        )

    def play(self, *, resumed: bool) -> None:
        run = self.run
        try:
            self._start_probes()
            self.watch.start(self.processes)
            self.watch.fault_begins()
            if not resumed:
                self._baseline()
            # Once a step was begun the world is another one; until then a resumed run is asked them like a new one.
            if any(m.kind is MarkKind.STEP for m in run.marks()) or self._prerequisites():
                self.watch.phase("recovery")
                self.player.play()
                self._end()
        except StepFailed as e:
            self.watch.say(f"STOPPED at {e.step}: {e.message}")
        except Aborted as e:
            why = "; ".join(self.why_stopped) or e.message
            run.try_mark(MarkKind.ABORTED, "aborted", why=why)
            self.watch.say(f"stopped: {why}")
        except DrkitError as e:
            run.try_mark(MarkKind.INSTRUMENT, "engine", why=e.message)
            self.watch.say(f"STOPPED: {e.message}")
        except Exception as e:
            run.try_mark(MarkKind.INSTRUMENT, "engine", why=f"drkit itself failed: {type(e).__name__}: {e}")
            raise
        finally:
            self._stop_probes()
            self.watch.close()
            moved_ns = clock.wall_minus_monotonic_ns() - self.wall_offset_ns
            if abs(moved_ns) > NS_PER_S:
                run.try_mark(MarkKind.CLOCK_STEPPED, "wall clock", why=f"it moved by {moved_ns / NS_PER_S:.1f} s")

    # --- scenes -------------------------------------------------------------------------------------------------------

    def _baseline(self) -> None:
        """Watch a service that still answers for a moment, so that its outage has a beginning; nobody waits for one
        that does not."""
        self.watch.phase("baseline")
        length_s = self.playbook.file.baseline_s * self.target.pace
        with contextlib.suppress(TimedOut):
            clock.wait_until(self.watch.all_answered, "probes", timeout_s=BEGIN_S, every_s=0.05, stop=self.stop)
            clock.wait_until(
                lambda: self.watch.stable(length_s) or self.watch.failing(DOWN_S),
                "answered, or certainly not",
                timeout_s=2 * length_s + 2,
                every_s=0.05,
                stop=self.stop,
            )

    def _prerequisites(self) -> bool:
        missing = self.player.check(self.playbook.file.prerequisites)
        for sentence in missing:
            self.watch.say(f"STOPPED: prerequisite {sentence}")
        return not missing

    def _end(self) -> None:
        """All steps are done: watch until the service is stable, read the rows, keep what was done."""
        self.watch.phase("verification")
        window_s = self.target.stable_window_s
        with contextlib.suppress(TimedOut):
            clock.wait_until(
                lambda: self.watch.stable(window_s),
                "the service is stable",
                timeout_s=self.playbook.file.recover_s * self.target.pace,
                every_s=0.05,
                stop=self.stop,
            )
        self._stop_probes()
        rows.read_back(self.run, self.specs, self.target, self.stop)
        for record in self.held.undo.pending():
            self.held.undo.keep(record)
        self.run.mark(MarkKind.RECOVERED, self.playbook.name)
        self.run.mark(MarkKind.RUN_ENDED, self.playbook.name)
        self.held.ended()
        self.watch.say("every step is done")

    # --- clients ------------------------------------------------------------------------------------------------------

    def _specs(self) -> tuple[ProbeSpec, ...]:
        """Return this process's probes: those of a resumed run go on where the dead ones stopped."""
        found = []
        for data in self.playbook.file.probes:
            spec = spec_of(data, self.target, self.run.run_id, self.variables)
            if spec is not None:
                lives = len(self._files(spec.name))
                found.append(replace(spec, first_seq=lives * GENERATION))
        return tuple(found)

    def _files(self, name: str) -> list[Path]:
        return [p for p in self.run.probe_files() if p.stem.partition("@")[0] == name]

    def _start_probes(self) -> None:
        if any(s.kind is ProbeKind.SQL for s in self.specs):
            threading.Thread(target=self._make_ledger, name="ledger", daemon=True).start()
        for spec in self.specs:
            lives = len(self._files(spec.name))
            name = f"{spec.name}@{lives + 1}" if lives else spec.name
            self.processes.append(probes.start(spec, self.run.path / "probes" / f"{name}.jsonl"))

    def _make_ledger(self) -> None:
        """Make the markers' table whenever the database has none: it may be down now, and one that is restored to a
        moment before this run comes without it."""
        spec = next(s for s in self.specs if s.kind is ProbeKind.SQL)
        while not (self.stop.is_set() or self.probes_over.is_set()):
            with contextlib.suppress(DrkitError):
                sql.create_ledger(spec)
            self.probes_over.wait(LEDGER_EVERY_S)

    def _stop_probes(self) -> None:
        self.probes_over.set()
        self.watch.probes_end()
        threads = [threading.Thread(target=p.stop) for p in self.processes if p.alive]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _read_ledger(self) -> Mapping[str, Any]:
        before = len(self.run.survivors())
        rows.read_back(self.run, self.specs, self.target, self.stop)
        readings = self.run.survivors()[before:]
        losses = record_of(self.run).measurement.losses
        writers = [s.name for s in self.specs if s.kind is ProbeKind.SQL]
        return {
            "acknowledged": sum(x.acknowledged for x in losses),
            "lost": sum(len(x.lost) for x in losses),
            "corrupt": sum(len(x.corrupt) + len(x.phantom) + len(x.resurrected) + len(x.duplicated) for x in losses),
            "verified": len(readings) == len(writers) and all(r.settled for r in readings),
        }
