"""One run under way, scene by scene: baseline, method, recovery, putting back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from drkit import clock, probes
from drkit.catalog import Experiment, role_in_method
from drkit.chaos import Context
from drkit.clock import NS_PER_S
from drkit.engine import restore, rows
from drkit.engine.activity import Activities, Settled
from drkit.engine.address import spec_of
from drkit.engine.foreign import journal_rollbacks
from drkit.engine.plan import Resolved
from drkit.engine.progress import Watcher
from drkit.engine.session import Session
from drkit.engine.watch import Watch
from drkit.errors import Aborted, DrkitError, TimedOut
from drkit.model import MarkKind, ProbeKind
from drkit.probes import ProbeProcess, sql
from drkit.rundir import RunDir
from drkit.undo import Undone

POLL_S = 0.1  # of witnesses and redundancy in the lab; AWS's control plane is asked every 2 s
BEGIN_S = 60.0  # until probes that have been started make their first attempt; a busy machine takes its time
CLOCK_STEP_NS = (
    NS_PER_S  # a wall clock that moved this far against the monotonic one was stepped (or the machine slept)
)


class Play:
    """One run under way. `play` is its plot; each scene is a method."""

    def __init__(
        self,
        experiment: Experiment,
        resolved: Resolved,
        session: Session,
        watcher: Watcher,
        why_stopped: list[str],
        abort: Callable[[str], None],
    ) -> None:
        self.experiment, self.extension = experiment, experiment.drkit
        self.dir: RunDir = session.run
        self.context: Context = session.context
        self.target = session.context.target
        self.stop = session.context.stop
        self.why_stopped = why_stopped
        self.pace = self.target.pace
        self.poll_s = POLL_S if self.target.kind == "lab" else 2.0
        self.configuration = resolved.configuration
        self.activities = Activities(experiment.document, resolved.configuration, resolved.secrets, self.target)
        specs = (spec_of(p, self.target, self.dir.run_id, self.configuration) for p in self.extension.probes)
        self.specs = tuple(s for s in specs if s is not None)
        self.processes: list[ProbeProcess] = []
        self.wall_offset_ns = clock.wall_minus_monotonic_ns()
        self.watch = Watch(
            self.dir,
            self.target,
            watcher,
            name=experiment.name,
            guards=self.extension.guards,
            failover_asked=lambda: any(r.verb == "leave_failed_over" for r in self.context.undo.records()),
            abort=abort,
        )
        self.bitten_ns: int | None = None  # when the first fault was about to be requested
        self._cut_short = False  # an action failed or was not waited for: its call may still be under way
        self._acted = False  # an action has been begun: from now on there may be something to put back
        self._not_redundant_ns: int | None = None  # when redundancy was last seen to be missing
        self._redundant_since: tuple[int, int] | None = None  # the bracket in which it came back after that
        self._witnesses: list[threading.Thread] = []
        self._enough = threading.Event()  # the witnesses have had their time
        self._held = threading.Event()  # the fault has been there for long enough

    def play(self) -> None:
        run = self.dir
        try:
            try:
                self._start_probes()
            except DrkitError as e:
                run.mark(MarkKind.BASELINE_MISSING, "probes", why=f"the probes could not be started: {e.message}")
                return
            self.watch.start(self.processes)
            try:
                if self._baseline() and self._method():
                    self._recovery()
            except Aborted as e:
                self._note_stop("; ".join(self.why_stopped) or e.message)
            except TimedOut as e:
                run.mark(MarkKind.INSTRUMENT, "engine", why=e.message)
            finally:
                self._put_back()
        except DrkitError as e:
            run.try_mark(MarkKind.INSTRUMENT, "engine", why=e.message)
        except Exception as e:  # a defect of ours; all is put back, and the run says so instead of passing
            run.try_mark(MarkKind.INSTRUMENT, "engine", why=f"drkit itself failed: {type(e).__name__}: {e}")
            if self.context.undo.pending():
                raise  # while putting back: then the guardian does
        finally:
            self._stop_probes()
            self.watch.close()
            moved_ns = clock.wall_minus_monotonic_ns() - self.wall_offset_ns
            if abs(moved_ns) > CLOCK_STEP_NS:
                run.try_mark(MarkKind.CLOCK_STEPPED, "wall clock", why=f"it moved by {moved_ns / NS_PER_S:.1f} s")
            run.try_mark(MarkKind.RUN_ENDED, self.experiment.name)

    # --- scenes -------------------------------------------------------------------------------------------------------

    def _baseline(self) -> bool:
        """See the steady state, or say that it is missing: then nothing is broken."""
        self.watch.phase("baseline")
        length_s = self.extension.phases.baseline_s * self.pace
        # A failure less than W before the fault would be measured as one outage with the fault's.
        apart_s = self.target.stable_window_s + max(s.every_s + s.timeout_s for s in self.specs)
        try:
            clock.wait_until(
                self.watch.all_answered, "every probe has begun", timeout_s=BEGIN_S, every_s=0.05, stop=self.stop
            )
            clock.wait_until(
                lambda: self.watch.stable(length_s, after_failure_s=apart_s),
                f"every probe has been answered for {length_s:g} s",
                timeout_s=3 * max(length_s, apart_s) + 10,
                every_s=0.05,
                stop=self.stop,
            )
        except TimedOut as e:
            self.dir.mark(MarkKind.BASELINE_MISSING, "probes", why=f"{e.message}: {self.watch.unstable()}")
            return False
        held = self._hypothesis("before")
        for witness in self.extension.witnesses:
            already, settled = self._ask(witness)
            self._raise_if_stopped()
            if already or settled.problem:
                why = f"{witness['name']} was true before anything was broken"
                why = f"{witness['name']} cannot be asked: {settled.problem}" if settled.problem else why
                self.dir.mark(MarkKind.BASELINE_MISSING, witness["name"], why=why)
                held = False
        return held

    def _method(self) -> bool:
        """Carry the method out, activity by activity, while the witnesses look; return whether it all happened."""
        self.watch.phase("method")
        background: list[tuple[threading.Thread, list[bool]]] = []
        whole = True
        try:
            for activity in self.experiment.method:
                self._raise_if_stopped()
                if activity.get("background"):
                    background.append(self._begin(activity))
                elif not self._activity(activity):
                    whole = False
                    break
            for thread, ended_well in background:
                thread.join()
                whole = whole and ended_well == [True]
            whole = whole and self._has_bitten()
        finally:
            self._enough.set()
            for thread in (*self._witnesses, *(t for t, _ in background)):
                thread.join(30)
        self._raise_if_stopped()
        return whole

    def _recovery(self) -> None:
        """Wait until the service is stable with the fault still there, hold, ask the hypothesis, read the rows back."""
        phases = self.extension.phases
        if self.bitten_ns is None:
            return
        self.watch.phase("recovery")
        asking = threading.Thread(target=self._follow_redundancy, name="redundancy", daemon=True)
        asking.start()
        try:
            self._wait_stable()
            held_until_ns = self.bitten_ns + int(phases.hold_s * self.pace * NS_PER_S)
            if self.stop.wait(max(0.0, (held_until_ns - clock.now_ns()) / NS_PER_S)):
                self._raise_if_stopped()
        finally:
            self._held.set()
            asking.join()
        self.watch.phase("verification")
        self._hypothesis("after")
        if phases.observe_until == "recovered":
            self._stop_probes()
        rows.read_back(self.dir, self.specs, self.target, self.stop)

    def _put_back(self) -> None:
        """Undo everything, wait until the next failure would be survivable, look for what was left behind."""
        with contextlib.suppress(DrkitError):  # a full disk must not keep anything from being undone
            if self.stop.is_set():
                self._note_stop("; ".join(self.why_stopped))
            self.watch.phase("undo")
        self.context.permit.revoke("the run is putting things back")
        self.activities.settle(5)
        touched = bool(self.context.undo.pending())
        restore.undo_all(self.context.undo, self.target, self._undone)
        if self.extension.redundancy and touched and not self.stop.is_set():
            self._await_redundancy()
        try:
            if self.bitten_ns is not None and not self.stop.is_set() and any(p.alive for p in self.processes):
                self.watch.phase("verification")
                self._wait_stable()
                self._stop_probes()
                rows.read_back(self.dir, self.specs, self.target, self.stop)
        except Aborted as e:  # all is back already; only the reading is left out
            self._note_stop("; ".join(self.why_stopped) or e.message)
        finally:
            self._residue()

    def _await_redundancy(self) -> None:
        self.watch.phase("redundancy")
        try:
            clock.wait_until(
                self._redundant,
                "redundancy is restored",
                timeout_s=self.extension.phases.redundancy_s * self.pace,
                every_s=self.poll_s,
                stop=self.stop,
            )
        except TimedOut:
            self.watch.say("redundancy was not restored in time")
        except Aborted:
            self._note_stop("; ".join(self.why_stopped))
        else:
            assert self._redundant_since is not None
            lo, hi = self._redundant_since
            self.dir.mark(MarkKind.REDUNDANCY_RESTORED, "redundancy", t_lo_ns=lo, t_hi_ns=hi)
            self.watch.say("redundancy restored")

    def _follow_redundancy(self) -> None:
        """Some failures heal while the fault is still there: see when, without much load on the control plane."""
        with contextlib.suppress(Aborted):  # the recovery notices by itself
            while self.extension.redundancy and not self._held.wait(5 * self.poll_s):
                self._redundant()

    def _redundant(self) -> bool:
        """Ask whether the next failure would be survivable, and keep the bracket in which that became true."""
        asked_ns = clock.now_ns()
        if all(self._ask(p)[0] for p in self.extension.redundancy):
            since = self._redundant_since or (self._not_redundant_ns or self.bitten_ns or asked_ns, clock.now_ns())
            self._redundant_since = since
            return True
        self._not_redundant_ns, self._redundant_since = asked_ns, None
        return False

    def _residue(self) -> None:
        """Look for what was left behind, and put back again what a call broke that arrived after its undo."""
        with contextlib.suppress(DrkitError):
            self.watch.phase("residue")
        context = self.context
        late = self._cut_short or context.permit.also_ask() is not None  # lost the lease: it stood still somewhere
        if not self.activities.settle(60.0):
            self.dir.try_mark(MarkKind.RESIDUE, "activity", why="an activity that was cut short still works on")
        left = restore.sweep(
            self.dir,
            context.undo,
            self.target,
            context.before,
            self._undone,
            late_s=restore.late_call_s(self.target) if late else 0.0,
        )
        for sentence in left:
            self.watch.say(f"left behind: {sentence}")

    # --- activities ---------------------------------------------------------------------------------------------------

    def _begin(self, activity: Mapping[str, Any]) -> tuple[threading.Thread, list[bool]]:
        """Start a background activity; its list holds True once it has ended and the method may go on."""
        ended_well: list[bool] = []

        def carry_out() -> None:
            with contextlib.suppress(Aborted):  # the method notices by itself
                ended_well.append(self._activity(activity))

        thread = threading.Thread(target=carry_out, name=activity["name"], daemon=True)
        thread.start()
        return thread, ended_well

    def _activity(self, activity: Mapping[str, Any]) -> bool:
        """Carry one activity out and note it; return whether the method may go on."""
        name, role = activity["name"], role_in_method(activity)
        if role == "recovery" and not self._has_bitten():
            return False  # a replica promoted beside a writer that still writes would be the disaster itself
        if role != "probe":
            self._before_action(activity, role)
            self.watch.say(f"{name} …")
        if role == "recovery":
            for kind in (MarkKind.DECLARED, MarkKind.RECOVERY_START):
                self.dir.mark(kind, name, by="the experiment's method")
        settled = self.activities.run(
            activity,
            stop=self.stop,
            overdue=self.context.permit.revoke if role != "probe" else lambda _: None,
        )
        self._cut_short = self._cut_short or (role != "probe" and not settled.succeeded)
        times = {"t_lo_ns": settled.t_lo_ns, "t_hi_ns": settled.t_hi_ns}
        self.dir.mark(MarkKind.ACTIVITY, name, entry=settled.entry, **times)
        if role == "fault":
            self.dir.mark(MarkKind.FAULT_REQUESTED, name, **times)
        elif role == "recovery":
            self.dir.mark(MarkKind.RECOVERY_END, name, **times)
        if role != "probe":
            self.watch.say(f"{name}: {_sentence(settled)}")
        self._raise_if_stopped()
        if role == "fault":
            if not self._has_teeth(name, settled):
                return False
        elif not settled.succeeded:
            self.dir.mark(MarkKind.INSTRUMENT, name, why=settled.problem)
        self.activities.pause_after(activity, self.stop)
        return True

    def _before_action(self, activity: Mapping[str, Any], role: str) -> None:
        """Write the rollbacks down before the first action, and let the witnesses of a fault look from now on."""
        self.context.permit.check()
        if not self._acted:
            self._acted = True
            journal_rollbacks(
                self.experiment.rollbacks,
                self.context.undo,
                configuration=self.configuration,
                secrets=self.experiment.document.get("secrets") or {},
            )
        if role != "fault":
            return
        if self.bitten_ns is None:
            self.bitten_ns = clock.now_ns()
            self.watch.fault_begins()
        for witness in self.extension.witnesses:
            if witness.get("fault", self._first_fault()) == activity["name"]:
                self._witnesses.append(threading.Thread(target=self._witness, args=(witness,), daemon=True))
                self._witnesses[-1].start()

    def _has_bitten(self) -> bool:
        """Wait for the witnesses of the faults so far; return whether all have seen theirs within bite_s."""
        patience_ns = clock.now_ns() + int(self.extension.phases.bite_s * self.pace * NS_PER_S)
        while any(t.is_alive() for t in self._witnesses):
            if clock.now_ns() >= patience_ns or self.stop.wait(0.02):
                return False
        return True

    def _has_teeth(self, name: str, settled: Settled) -> bool:
        why = settled.problem
        if settled.succeeded and isinstance(settled.output, Mapping) and not settled.output.get("hit", True):
            why = "it hit nothing"
        if why:
            self.dir.mark(MarkKind.TOOTHLESS, name, why=why)
        return not why

    def _witness(self, witness: Mapping[str, Any]) -> None:
        """Look until the witness has seen its fault; nobody having seen it is a fault without teeth."""
        name, since_ns = witness["name"], clock.now_ns()
        every_s = min(self.poll_s, 0.05) if self.target.kind == "lab" else self.poll_s
        problem = ""

        def seen() -> bool:
            nonlocal problem
            held, settled = self._ask(witness)
            problem = settled.problem
            return held

        try:
            lo, hi = clock.wait_until(
                seen,
                name,
                timeout_s=24 * 3600,
                every_s=every_s,
                since_ns=since_ns,
                stop=self._enough,
            )
        except Aborted:
            if not self.stop.is_set():
                why = "its time was over before this was seen" + (f" ({problem})" if problem else "")
                self.dir.mark(MarkKind.TOOTHLESS, name, why=why)
            return
        fault = witness.get("fault", self._first_fault())
        self.dir.mark(MarkKind.FAULT_EFFECTIVE, name, t_lo_ns=lo, t_hi_ns=hi, fault=fault)
        self.watch.say(f"seen: {name}")

    def _hypothesis(self, when: str) -> bool:
        """Ask the steady-state hypothesis; return whether all of it held."""
        held = True
        for probe in self.experiment.hypothesis_probes:
            ok, settled = self._ask(probe)
            self.dir.mark(
                MarkKind.HYPOTHESIS,
                probe["name"],
                t_lo_ns=settled.t_lo_ns,
                t_hi_ns=settled.t_hi_ns,
                when=when,
                held=ok,
                why=settled.problem or f"it answered {settled.output!r}",
                entry={**settled.entry, "tolerance_met": ok},
            )
            held = held and ok
        return held

    def _ask(self, probe: Mapping[str, Any]) -> tuple[bool, Settled]:
        return self.activities.holds({k: v for k, v in probe.items() if k != "fault"}, stop=self.stop)

    def _first_fault(self) -> str:
        return str(next((a["name"] for a in self.experiment.method if role_in_method(a) == "fault"), ""))

    # --- probes and rows ----------------------------------------------------------------------------------------------

    def _start_probes(self) -> None:
        for spec in self.specs:
            if spec.kind is ProbeKind.SQL:
                sql.create_ledger(spec)
                break
        for spec in self.specs:
            self.processes.append(probes.start(spec, self.dir.path / "probes" / f"{spec.name}.jsonl"))

    def _stop_probes(self) -> None:
        self.watch.probes_end()
        threads = [threading.Thread(target=p.stop) for p in self.processes if p.alive]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # --- small things -------------------------------------------------------------------------------------------------

    def _wait_stable(self) -> None:
        """Wait until the service has been stable for W since now; never stable is for the measurement to say.

        Attempts that are under way now show how they end only when their time is over.
        """
        window_s = self.target.stable_window_s
        decided_ns = clock.now_ns() + int((window_s + max(s.timeout_s for s in self.specs)) * NS_PER_S)
        with contextlib.suppress(TimedOut):
            clock.wait_until(
                lambda: clock.now_ns() > decided_ns and self.watch.stable(window_s),
                "the service is stable",
                timeout_s=self.extension.phases.recover_s * self.pace,
                every_s=0.05,
                stop=self.stop,
            )

    def _undone(self, undone: Undone) -> None:
        restore.note(self.dir, undone)
        self.watch.say(f"{'undone' if undone.ok else 'NOT undone'}: {undone.sentence}")

    def _raise_if_stopped(self) -> None:
        if self.stop.is_set():
            raise Aborted("; ".join(self.why_stopped))

    def _note_stop(self, why: str) -> None:
        if not any(m.kind is MarkKind.ABORTED for m in self.dir.marks()):
            self.dir.try_mark(MarkKind.ABORTED, "aborted", why=why)
            self.watch.say(f"aborted: {why}")


def _sentence(settled: Settled) -> str:
    if not settled.succeeded:
        return settled.problem
    output = settled.output
    if isinstance(output, Mapping) and isinstance(output.get("hit"), list):
        return f"{len(output['hit'])} hit" + (f": {', '.join(map(str, output['hit'][:4]))}" if output["hit"] else "")
    return "done"
