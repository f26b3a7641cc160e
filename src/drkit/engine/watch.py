"""The eyes of a running experiment: follows the probes' files, asks RDS for its events, and evaluates the guards.

All of it happens on this machine, outside the blast radius. What is decided here is only when to go on and when to
stop; the numbers of the report are made from the files afterwards.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from drkit import clock
from drkit.catalog import Guards
from drkit.clock import NS_PER_S
from drkit.engine.progress import ProbeView, Progress, Watcher
from drkit.errors import DrkitError
from drkit.model import Attempt, Connection, MarkKind, Outcome, Role
from drkit.probes import ProbeProcess, Tail
from drkit.rundir import RunDir
from drkit.targets import Target

EVERY_S = 0.1
RECENT_NS = NS_PER_S
ALARMS_EVERY_S = 10.0

# What RDS calls its automatic failover, and which events of a run each message stands for.
FAILOVER_STARTED = "Multi-AZ instance failover started"
FAILOVER_COMPLETED = "Multi-AZ instance failover completed"
_ASKED = (MarkKind.DECLARED, MarkKind.RECOVERY_START)  # nobody detects a failure where the failover was asked for


@dataclass(slots=True)
class _Follower:
    """One probe's file, followed; only the last seconds are kept."""

    probe: ProbeProcess
    tail: Tail
    window_ns: int  # W
    recent: deque[Attempt] = field(default_factory=deque)  # of the last W, and as long as an attempt may take
    attempts: int = 0
    failures: int = 0
    last_error: str = ""
    newest: Attempt | None = None
    last_failure: Attempt | None = None  # in the order sent
    first_good: Attempt | None = None  # first success sent after it
    good_sent_ns: int = 0  # when the newest success was sent
    impact: tuple[int, int] | None = None  # the bracket in which its newest outage began

    @property
    def counts(self) -> bool:
        """Whether it stands for the service: fresh connections, not a witness."""
        return self.probe.spec.role is not Role.WITNESS and self.probe.spec.connection is Connection.FRESH

    @property
    def judged(self) -> bool:
        """Whether the verdict looks at it: pools too, though the headline does not."""
        return self.probe.spec.role is not Role.WITNESS

    def follow(self, now: int) -> None:
        for a in self.tail.poll():
            self.attempts += 1
            self.newest = a
            if a.outcome is Outcome.OK:
                self.good_sent_ns = max(self.good_sent_ns, a.sent_ns)
                if self.first_good is None and (self.last_failure is None or a.sent_ns > self.last_failure.sent_ns):
                    self.first_good = a
            else:
                self._fail(a)
            self.recent.append(a)
        keep_ns = max(RECENT_NS, self.window_ns) + int(self.probe.spec.timeout_s * NS_PER_S)
        while self.recent and self.recent[0].done_ns < now - keep_ns:
            self.recent.popleft()

    def _fail(self, a: Attempt) -> None:
        good = [g for g in self.recent if g.outcome is Outcome.OK]
        if self.last_failure is None or self.first_good is not None:
            before = max((g.sent_ns for g in good if g.sent_ns < a.sent_ns), default=a.sent_ns)
            self.impact = (before, a.done_ns)
        self.failures += 1
        self.last_error = str(a.error or a.outcome)
        if self.last_failure is None or a.sent_ns > self.last_failure.sent_ns:
            self.last_failure = a
            # Attempts end in another order than they were sent in: a later one may have succeeded already.
            self.first_good = min((g for g in good if g.sent_ns > a.sent_ns), key=lambda g: g.sent_ns, default=None)

    def stable_for_s(self, now: int) -> float:
        """Return for how long it has answered without a failure, as it is measured; 0 if it fails or is silent."""
        newest = self.newest
        silent = newest is None or now - newest.done_ns > max(RECENT_NS, 5 * self.probe.spec.every_s * NS_PER_S)
        if silent or self.first_good is None:
            return 0.0
        return max(0, self.good_sent_ns - self.first_good.done_ns) / NS_PER_S

    def error_rate(self, now: int) -> float:
        """Return which share of the attempts of the last W failed."""
        window = [a.outcome is not Outcome.OK for a in self.recent if a.done_ns >= now - self.window_ns]
        return sum(window) / len(window) if window else 0.0

    def p95_s(self, now: int, window_ns: int) -> float | None:
        """Return how long 95 % waited at most; time-outs count too, they are what users waited."""
        waits = sorted(a.done_ns - a.due_ns for a in self.recent if a.done_ns >= now - window_ns)
        return waits[math.ceil(0.95 * len(waits)) - 1] / NS_PER_S if waits else None

    def view(self, now: int) -> ProbeView:
        second = [a for a in self.recent if a.done_ns >= now - RECENT_NS]
        return ProbeView(
            name=self.probe.spec.name,
            role=self.probe.spec.role,
            ok=None if self.newest is None else self.newest.outcome is Outcome.OK,
            rate_per_s=len(second) / (RECENT_NS / NS_PER_S),
            p95_s=self.p95_s(now, RECENT_NS),
            attempts=self.attempts,
            failures=self.failures,
            last_error=self.last_error,
        )


class Watch:
    """Follows a run in a thread of its own, from `start` to `close`."""

    def __init__(
        self,
        run: RunDir,
        target: Target,
        watcher: Watcher,
        *,
        name: str,
        guards: Guards,
        failover_asked: Callable[[], bool],
        abort: Callable[[str], None],
        events: bool = True,
        steps: Callable[[], tuple[tuple[str, str], ...]] = tuple,
    ) -> None:
        """abort: called once, with the reason, when a guard trips. failover_asked: whether this run has forced one.

        events: ask RDS of the first region what it reports; a recovery does not depend on that region's answers.
        steps: asked for the steps of a playbook and their states, for the person who watches.
        """
        self._run, self._target, self._watcher, self._name = run, target, watcher, name
        self._failover_asked = failover_asked
        self._steps = steps
        self._followers: list[_Follower] = []
        self._guards, self._abort = guards, abort
        self._outage_max_s = None if guards.outage_max_s is None else guards.outage_max_s * target.pace
        self._origin_ns = clock.now_ns()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._phase = "starting"
        self._fault_ns = 0
        self._impact: tuple[int, int] | None = None  # in which the outage of now began
        self._past: tuple[float, float] | None = None  # the last outage that is over for good, in seconds
        self._settled_ns = 0  # when that was decided
        self._tripped = self._probes_end = False
        self._noted: set[tuple[str, str]] = set()  # instrument errors that are in the history already
        self._seen_events: set[tuple[datetime, str]] = set()
        self._events_since = clock.wall_utc()
        self._threads = [threading.Thread(target=self._follow, name="watch", daemon=True)]
        if target.database and events:
            self._threads.append(threading.Thread(target=self._events, name="rds-events", daemon=True))
        if guards.alarms:
            self._threads.append(threading.Thread(target=self._watch_alarms, name="alarms", daemon=True))

    def start(self, probes: Sequence[ProbeProcess]) -> None:
        window_ns = int(self._target.stable_window_s * NS_PER_S)
        self._followers = [_Follower(p, Tail(p.path), window_ns) for p in probes]
        for thread in self._threads:
            thread.start()

    def probes_end(self) -> None:
        """From now on a probe that has ended is no reason to stop."""
        self._probes_end = True

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5)

    # --- told by the engine -------------------------------------------------------------------------------------------

    def phase(self, name: str) -> None:
        """Note in the history, and tell the person, that another phase begins."""
        self._phase = name
        self._run.mark(MarkKind.PHASE, name)
        self.say(f"{name} …")

    def fault_begins(self) -> None:
        """From now on a failure counts as an outage."""
        if not self._fault_ns:
            self._fault_ns = clock.now_ns()

    def say(self, text: str) -> None:
        self._watcher.event((clock.now_ns() - self._origin_ns) / NS_PER_S, text)

    # --- asked by the engine ------------------------------------------------------------------------------------------

    def stable(self, for_s: float, *, after_failure_s: float = 0.0) -> bool:
        """Return whether every probe that is judged has answered without a failure for that long.

        after_failure_s: for how long at least, of a probe that has failed before.
        """
        with self._lock:
            now = clock.now_ns()
            judged = [f for f in self._followers if f.judged]
            return bool(judged) and all(
                f.stable_for_s(now) >= (max(for_s, after_failure_s) if f.failures else for_s) for f in judged
            )

    def failing(self, for_s: float) -> bool:
        """Return whether a probe that is judged has seen nothing but failures for that long."""
        with self._lock:
            return any(
                f.last_failure.done_ns - f.impact[1] >= for_s * NS_PER_S
                for f in self._followers
                if f.judged and f.first_good is None and f.last_failure and f.impact
            )

    def all_answered(self) -> bool:
        """Return whether every probe has made an attempt."""
        with self._lock:
            return all(f.newest is not None for f in self._followers)

    def unstable(self) -> str:
        """Return which probes fail and how, for a message."""
        with self._lock:
            now = clock.now_ns()
            bad = [f for f in self._followers if f.judged and f.stable_for_s(now) == 0]
            return ", ".join(f"{f.probe.spec.name} ({f.last_error or 'no answer'})" for f in bad) or "probes flap"

    # --- inside -------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._once()
            except (OSError, DrkitError) as e:
                self._mark_instrument("watch", str(e))

    def _once(self) -> None:
        with self._lock:
            now = clock.now_ns()
            for f in self._followers:
                f.follow(now)
            views = tuple(f.view(now) for f in self._followers)
            outage, over = self._outage(now)
            dead = [] if self._probes_end else [f.probe for f in self._followers if not f.probe.alive]
            guards = self._service_guards(now)
        if self._outage_max_s is not None:
            guards.append(f"outage {outage[1] if outage else 0:.1f} of at most {self._outage_max_s:g} s")
            if outage and not over and not self._probes_end and outage[0] > self._outage_max_s:
                self._trip("outage", f"the service has been down for more than {self._outage_max_s:g} s")
        if self._guards.alarms:
            guards.append(f"{len(self._guards.alarms)} alarms")
        if (self._run.path / "abort").exists():
            self._trip("person", "a person stopped it: drkit abort")
        for probe in dead:
            if not self._probes_end:
                self._trip("probe", f"probe {probe.spec.name} has died (exit code {probe.exit_code})")
        self._watcher.progress(
            Progress(
                run_id=self._run.run_id,
                name=self._name,
                target=self._target.name,
                target_kind=self._target.kind,
                phase=self._phase,
                elapsed_s=(now - self._origin_ns) / NS_PER_S,
                probes=views,
                outage_s=outage,
                outage_over=over,
                guards=tuple(guards),
                steps=self._steps(),
            )
        )

    def _outage(self, now: int) -> tuple[tuple[float, float] | None, bool]:
        """Return the newest outage since the fault as (at least, at most) in seconds, and whether it seems to be over.

        Failures belong to one outage until the service has been stable for W.
        """
        counting = [f for f in self._followers if f.counts]
        since_ns = max(self._fault_ns, self._settled_ns)
        begun = [f.impact for f in counting if f.impact and f.impact[1] >= since_ns] if self._fault_ns else []
        if self._impact is None and begun:
            self._impact = min(lo for lo, _ in begun), min(hi for _, hi in begun)
        if self._impact is None:
            return self._past, self._past is not None
        lo, hi = self._impact
        failed = [f for f in counting if f.last_failure is not None]
        ends = [(f.last_failure.sent_ns, f.first_good.done_ns) for f in failed if f.last_failure and f.first_good]
        if len(ends) < len(failed):
            return (max(0, now - hi) / NS_PER_S, (now - lo) / NS_PER_S), False
        end_lo, end_hi = max(e for e, _ in ends), max(e for _, e in ends)
        outage = max(0, end_lo - hi) / NS_PER_S, max(0, end_hi - lo) / NS_PER_S
        if all(f.stable_for_s(now) >= self._target.stable_window_s for f in counting):
            self._past, self._impact, self._settled_ns = outage, None, now
        return outage, True

    def _service_guards(self, now: int) -> list[str]:
        """Evaluate error rate and latency of the worst client over the last W, from W after the fault on."""
        counting = [f for f in self._followers if f.counts]
        window_s = self._target.stable_window_s
        decided = bool(self._fault_ns) and now - self._fault_ns >= window_s * NS_PER_S and not self._probes_end
        told: list[str] = []
        if (most := self._guards.error_rate_max) is not None:
            rate = max((f.error_rate(now) for f in counting), default=0.0)
            told.append(f"errors {rate:.1%} of at most {most:.1%}")
            if decided and rate > most:
                self._trip(
                    "error-rate", f"{rate:.1%} of requests failed in the last {window_s:g} s, at most {most:.1%}"
                )
        if (limit_s := self._guards.p95_max_s) is not None:
            p95_s = max((f.p95_s(now, f.window_ns) or 0.0 for f in counting), default=0.0)
            told.append(f"p95 {p95_s:.3f} of at most {limit_s:g} s")
            if decided and p95_s > limit_s:
                self._trip("latency", f"p95 was {p95_s:.3f} s in the last {window_s:g} s, at most {limit_s:g} s")
        return told

    def _trip(self, guard: str, why: str) -> None:
        if self._tripped:
            return
        self._tripped = True
        self._run.mark(MarkKind.GUARD, guard, why=why)
        self.say(f"guard: {why}")
        self._abort(why)

    def _mark_instrument(self, name: str, problem: str) -> None:
        if (name, problem) in self._noted:
            return
        self._noted.add((name, problem))
        try:
            self._run.mark(MarkKind.INSTRUMENT, name, why=problem)
        except DrkitError:
            self._abort(f"the run cannot be written any more ({problem})")

    def _events(self) -> None:
        """Ask RDS for its events; each is bracketed by the last question that did not show it and the one that did."""
        from drkit.targets.aws.database import Database

        assert self._target.database is not None
        database, instance_id = Database(self._target), self._target.database.instance_id
        asked_before_ns = clock.now_ns()
        every_s = 0.1 if self._target.kind == "lab" else 5.0
        while not self._stop.wait(every_s):
            asked_ns = clock.now_ns()
            try:
                events = database.events(instance_id, self._events_since.replace(microsecond=0))
            except DrkitError as e:
                self._mark_instrument("rds-events", e.message)
                continue
            answered_ns = clock.now_ns()
            for event in events:
                if (event.at, event.message) in self._seen_events:
                    continue
                self._seen_events.add((event.at, event.message))
                self._report(event.message, asked_before_ns, answered_ns)
            asked_before_ns = asked_ns

    def _report(self, message: str, lo_ns: int, hi_ns: int) -> None:
        if not self._fault_ns or hi_ns < self._fault_ns:
            return
        lo_ns = max(lo_ns, self._fault_ns)
        self._run.mark(MarkKind.EVENT, message, t_lo_ns=lo_ns, t_hi_ns=hi_ns, source="rds")
        self.say(f"RDS: {message}")
        if FAILOVER_STARTED in message:
            asked = self._failover_asked()
            by = "this run, which forced the failover" if asked else "RDS, by itself"
            for kind in _ASKED if asked else (MarkKind.DETECTED, *_ASKED):
                self._run.mark(kind, "rds-failover", t_lo_ns=lo_ns, t_hi_ns=hi_ns, by=by)
        elif FAILOVER_COMPLETED in message:
            self._run.mark(MarkKind.RECOVERY_END, "rds-failover", t_lo_ns=lo_ns, t_hi_ns=hi_ns)

    def _watch_alarms(self) -> None:
        from drkit.targets.aws.alarms import firing

        while not self._stop.wait(ALARMS_EVERY_S):
            try:
                ringing = firing(self._target, self._guards.alarms)
            except DrkitError as e:
                self._trip("alarm", f"the stop alarms can't be read: {e.message}")
                return
            if ringing:
                self._trip("alarm", f"in alarm: {', '.join(ringing)}")
                return
