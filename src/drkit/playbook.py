"""Ordered steps that can be killed anywhere: what a step is, where each stands, and how they are played.

    @step(plan=_plan_promote)
    def promote(recovery: Recovery, *, instance_id: str) -> Step:
        '''Make a replica a writer.'''
        return Step(done=lambda: …, act=lambda: …)

A step is `done?` + `act`. `done` is asked first: already true means that nothing is to be done, so every step may be
played again after a kill. What must be known before (from which zone to fail over) is `observe`d once and on disk
before `act`. Where a run stands is a pure function of its history: nothing else is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NoReturn, TypeVar

from drkit import clock
from drkit.catalog import StepCall, arguments_of, filled_text, single, step_function
from drkit.clock import NS_PER_S
from drkit.errors import Aborted, DrkitError, Refused, StepFailed, TargetError, TimedOut, UsageError
from drkit.guard import Permit
from drkit.model import Effect, Mark, MarkKind
from drkit.rundir import RunDir
from drkit.standing import Facts as Facts  # the same names, as `drkit.playbook` had them
from drkit.standing import Standing as Standing
from drkit.standing import State as State
from drkit.standing import after as _after
from drkit.standing import answer_of as answer_of
from drkit.standing import open_question as open_question
from drkit.standing import standings as standings
from drkit.targets import Target
from drkit.undo import UndoJournal

Planner = Callable[..., tuple[Effect, ...]]  # (target, **the step's arguments), with read-only calls
Function = TypeVar("Function", bound=Callable[..., "Step"])
Purpose = Literal["recovery", "check", "fence", "verification", "redundancy", "preparation"]
GRACE_S = 5.0  # for an act to notice that the run is to stop
LEAST_S = 30.0  # a step has at least this long, however fast the target


def nothing() -> None:
    """Do nothing: the act of a step that only waits for something to come true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step aimed at a target. Its functions may be called any number of times and raise DrkitError."""

    done: Callable[[], bool]
    act: Callable[[], Facts | None] = nothing  # asks first whether its effect is under way already
    result: Callable[[], Facts] = dict  # asked once it is done: what the report and later steps are to know


@dataclass(frozen=True, slots=True)
class Recovery:
    """One recovery under way, as its steps see it."""

    target: Target
    permit: Permit
    undo: UndoJournal
    run: RunDir
    stop: threading.Event  # set when the run is to stop; waits give up
    say: Callable[[str], None]
    stable: Callable[[float], bool]  # whether every client has been answered for so many seconds
    read_ledger: Callable[[], Facts]  # reads the clients' rows back; {"acknowledged", "lost", "verified"}
    known: Callable[[str], Facts]  # facts and result of a step by name, and its took_s; {} if it has none yet

    @property
    def every_s(self) -> float:
        """How often the control plane is asked."""
        return 0.1 if self.target.kind == "lab" else 5.0

    def wait(self, holds: Callable[[], bool], what: str, *, timeout_s: float) -> None:
        """Wait inside an act. timeout_s: on AWS; shortened by the target's pace. Raises TimedOut, Aborted."""
        clock.wait_until(
            holds, what, timeout_s=max(LEAST_S, timeout_s * self.target.pace), every_s=self.every_s, stop=self.stop
        )


@dataclass(frozen=True, slots=True)
class StepInfo:
    """What is known of a step's function: `drkit_step`."""

    plan: Planner | None
    observe: Callable[..., Facts] | None  # (recovery, **arguments)
    purpose: Purpose
    lasting: bool  # its effect must still hold whenever the run is resumed
    again: bool  # and if it does not, it is done again; without it the run stops, and a person looks who changed it


def step(
    *,
    plan: Planner | None = None,
    observe: Callable[..., Facts] | None = None,
    purpose: Purpose = "recovery",
    lasting: bool = False,
    again: bool = False,
) -> Callable[[Function], Function]:
    """Mark a function `fn(recovery, **arguments) -> Step` (with `facts` among its parameters if it observes).

    plan: the effects it will have, none for one that changes nothing. purpose: what the measurement makes of it;
    "check" is for prerequisites.
    """

    def mark(function: Function) -> Function:
        # mypy knows no attributes of functions
        function.drkit_step = StepInfo(plan, observe, purpose, lasting or again, again)  # type: ignore[attr-defined]
        return function

    return mark


def info_of(call: StepCall) -> StepInfo:
    """Return what is known of the function that a checked call names."""
    info: StepInfo = step_function(call).drkit_step  # type: ignore[attr-defined]  # as above
    return info


# --- playing ----------------------------------------------------------------------------------------------------------


class Player:
    """Plays the steps of one run in order, from wherever its history says that it stands."""

    def __init__(
        self,
        calls: Sequence[StepCall],
        recovery: Recovery,
        *,
        variables: Mapping[str, str],
        started_by: str,
        ask: Callable[[StepCall, str], None] = lambda *_: None,
    ) -> None:
        """ask: told of each question to a person, with its text; answers are looked for in the history."""
        self._calls, self._recovery, self._variables = tuple(calls), recovery, variables
        self._started_by, self._ask = started_by, ask
        self._names = [c.name for c in single(self._calls)]
        self._standing = standings(recovery.run.marks(), self._names)
        self._lock = threading.Lock()
        self._declared = any(m.kind is MarkKind.DECLARED for m in recovery.run.marks())
        self._begun = any(m.kind is MarkKind.RECOVERY_START for m in recovery.run.marks())

    def standing(self, name: str) -> Standing:
        with self._lock:
            return self._standing[name]

    def states(self) -> tuple[tuple[str, str], ...]:
        """Return each step's name and state, in order."""
        with self._lock:
            return tuple((name, self._standing[name].state) for name in self._names)

    def known(self, name: str) -> Facts:
        """Return what a step observed and what came of it, and `took_s` once something was done for it."""
        with self._lock:
            now = self._standing.get(name)
        if now is None:
            return {}
        took = {}
        if now.tries and now.ended_ns is not None and now.began_ns is not None:
            took = {"took_s": (now.ended_ns - now.began_ns) / NS_PER_S}
        return {**took, **(now.facts or {}), **now.result}

    def check(self, calls: Sequence[StepCall]) -> tuple[str, ...]:
        """Ask the prerequisites; return a sentence for each that does not hold. Nothing is changed."""
        missing = []
        for call in calls:
            try:
                made: Step = step_function(call)(self._recovery, **arguments_of(call, self._variables))
                held, why = made.done(), "it does not hold"
            except DrkitError as e:
                held, why = False, e.message
            self._recovery.run.mark(MarkKind.HYPOTHESIS, call.name, when="prerequisite", held=held, why=why)
            if not held:
                missing.append(f"{call.name}: {why}")
        return tuple(missing)

    def play(self) -> None:
        """Play to the end. Raises StepFailed with the step that did not succeed, Aborted when the run is to stop."""
        self._ask_again()
        for call in self._calls:
            if call.parallel:
                self._side_by_side(call)
            else:
                self._one(call)

    def _ask_again(self) -> None:
        """Of a run that is resumed: what was done and has to last must still be true.

        Not so what a later step takes away again (`until`): from its beginning on, half of it may be gone.
        """
        open_before = False  # an earlier step is to be done anew, and with it what rests on it
        for call in single(self._calls):
            if self.standing(call.name).state != "done":
                open_before = True
                continue
            if not call.step or not info_of(call).lasting:
                continue
            if call.until in self._names and self.standing(call.until).state != "pending":
                continue
            try:
                if self._made(call, self.standing(call.name).facts).done():
                    continue
            except TargetError as e:  # a region that went dark since; what depends on it asks again before it acts
                self._recovery.say(f"{call.name}: cannot be asked whether it is still so: {e.message}")
                continue
            if info_of(call).again or open_before:
                self._note(call.name, "failed", why="it is not so any more, or may not be: it is done again")
                continue
            self._note(call.name, "failed", why="it was done, and it is not so any more: somebody changed it")
            raise StepFailed(call.name, "it was done, and it is not so any more: somebody changed it")

    def _side_by_side(self, block: StepCall) -> None:
        problems: list[BaseException] = []

        def play(call: StepCall) -> None:
            try:
                self._one(call)
            except BaseException as e:  # noqa: BLE001  (raised again below, in the thread that plays)
                problems.append(e)

        threads = [threading.Thread(target=play, args=(c,), name=c.name, daemon=True) for c in block.parallel]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        problems.sort(key=lambda e: isinstance(e, StepFailed))
        if problems:
            raise problems[0]

    def _one(self, call: StepCall) -> None:
        self._raise_if_stopped()
        if self.standing(call.name).state == "done":
            return
        if call.by_person:
            self._person(call)
        else:
            self._step(call)

    # --- what drkit does ----------------------------------------------------------------------------------------------

    def _step(self, call: StepCall) -> None:
        name, info = call.name, info_of(call)
        facts = self._observed(call, info)
        made = self._made(call, facts)
        began_ns = clock.now_ns()
        already = self._is_done(made, name)
        if not already:
            self._declare("the start of the playbook")
            if info.purpose in ("recovery", "fence", "preparation") and not self._begun:
                self._begun = True
                self._recovery.run.mark(MarkKind.RECOVERY_START, name)
            self._note(name, "begun")
            self._recovery.say(f"{name} …")
            self._carry_out(call, made, began_ns)
        result = self._result(made, name)
        lo_ns = began_ns if already else None
        looked = made.act is nothing
        self._note(name, "done", t_lo_ns=began_ns, already=already, looked=looked, result=result)
        self._stands_for(info, name, lo_ns or began_ns, result)
        self._recovery.say(f"{name}: {self.standing(name).done_words}{_told(result)}")

    def _observed(self, call: StepCall, info: StepInfo) -> Facts | None:
        """Return what the step has to know from before its effect: asked once, and on disk when this returns."""
        facts = self.standing(call.name).facts
        if facts is None and info.observe is not None:
            try:
                facts = info.observe(self._recovery, **arguments_of(call, self._variables))
            except DrkitError as e:
                self._fail(call.name, e)
            self._note(call.name, "observed", facts=facts)
        return facts

    def _made(self, call: StepCall, facts: Facts | None) -> Step:
        function = step_function(call)
        arguments = arguments_of(call, self._variables)
        if info_of(call).observe is not None:
            arguments["facts"] = facts
        try:
            made: Step = function(self._recovery, **arguments)
        except DrkitError as e:
            self._fail(call.name, e)
        return made

    def _is_done(self, made: Step, name: str) -> bool:
        """Ask whether a step is done; an answer that can't be had for now is no."""
        try:
            return made.done()
        except TargetError:
            return False
        except DrkitError as e:
            self._fail(name, e)

    def _carry_out(self, call: StepCall, made: Step, began_ns: int) -> None:
        """Act, and wait until it is done."""
        limit_s = max(LEAST_S, call.timeout_s * self._recovery.target.pace)
        box: list[BaseException | None] = []

        def act() -> None:
            try:
                self._recovery.permit.check()
                made.act()
                box.append(None)
            except BaseException as e:  # noqa: BLE001  (looked at below, in the thread that plays)
                box.append(e)

        worker = threading.Thread(target=act, name=call.name, daemon=True)
        worker.start()
        deadline_ns = clock.now_ns() + int(limit_s * NS_PER_S)
        while worker.is_alive() and clock.now_ns() < deadline_ns and not self._recovery.stop.is_set():
            worker.join(0.02)
        if self._recovery.stop.is_set():
            worker.join(GRACE_S)  # a call that is under way now may still take effect: resume asks
        if not box:
            self._recovery.permit.revoke(f"{call.name} was not waited for any longer")
            self._raise_if_stopped()
            self._fail(call.name, TimedOut(f"not finished within {limit_s:g} s"))
        if (problem := box[0]) is not None:
            self._raise_if_stopped()
            if isinstance(problem, StepFailed) and problem.step in self._names:  # what it rests on has to be done anew
                self._note(problem.step, "failed", why=problem.message)
            if not isinstance(problem, DrkitError):
                problem = UsageError(f"{type(problem).__name__}: {problem}", "this is a defect of the step")
            self._fail(call.name, problem)
        last: list[str] = [""]

        def done() -> bool:
            try:
                last[0] = ""
                return made.done()
            except TargetError as e:  # the control plane may be silent for a while
                last[0] = e.message
                return False

        left_s = max(1.0, limit_s - (clock.now_ns() - began_ns) / NS_PER_S)
        try:
            clock.wait_until(
                done, f"{call.name} is done", timeout_s=left_s, every_s=self._recovery.every_s, stop=self._recovery.stop
            )
        except TimedOut:
            why = f"what it should have brought about was not seen within {limit_s:g} s"
            self._fail(call.name, TimedOut(why + (f" ({last[0]})" if last[0] else "")))
        except Aborted:
            raise
        except DrkitError as e:
            self._fail(call.name, e)

    def _result(self, made: Step, name: str) -> Facts:
        try:
            return made.result()
        except DrkitError as e:
            self._fail(name, e)

    def _stands_for(self, info: StepInfo, name: str, lo_ns: int, result: Facts) -> None:
        """Write down which of the measurement's events this step is."""
        run = self._recovery.run
        if moment := result.get("recovery_point"):
            ago_s = (clock.wall_utc() - datetime.fromisoformat(str(moment))).total_seconds()
            point_ns = clock.now_ns() - round(ago_s * NS_PER_S)
            run.mark(MarkKind.RECOVERY_POINT, name, t_lo_ns=point_ns, t_hi_ns=point_ns, at=moment)
        if info.purpose in ("recovery", "fence"):
            run.mark(MarkKind.RECOVERY_END, name, t_lo_ns=lo_ns)
        elif info.purpose == "redundancy":
            run.mark(MarkKind.REDUNDANCY_RESTORED, name, t_lo_ns=lo_ns)
        elif info.purpose == "verification":
            run.mark(MarkKind.DATA_VERIFIED, name, t_lo_ns=lo_ns)

    def _declare(self, by: str) -> None:
        with self._lock:
            if self._declared:
                return
            self._declared = True
        self._recovery.run.mark(MarkKind.DECLARED, "playbook", by=by)

    # --- what people decide and do ------------------------------------------------------------------------------------

    def _person(self, call: StepCall) -> None:
        name, run = call.name, self._recovery.run
        text = filled_text(call.approval or call.manual, self._variables)
        if self.standing(name).state != "waiting":  # one that a killed runner has asked is still asked
            self._note(name, "waiting")
        if answer_of(run.marks(), name) is None:
            self._ask(call, text)
        answer: list[Mark] = []

        def answered() -> bool:
            found = answer_of(run.marks(), name)
            answer[:] = [found] if found is not None else []
            return bool(answer)

        try:
            clock.wait_until(
                answered, f"{name} is answered", timeout_s=call.timeout_s, every_s=0.2, stop=self._recovery.stop
            )
        except TimedOut:
            self._fail(name, TimedOut(f"nobody answered within {call.timeout_s:g} s"))
        said = answer[0].detail
        if said["yes"] is not True:
            self._fail(name, Refused(f"{said['by']} said no" + (f": {said['note']}" if said["note"] else "")))
        if call.four_eyes and said["by"] == self._started_by:
            self._fail(name, Refused(f"{said['by']} has started this run: another person has to approve"))
        if call.approval:
            self._declare(f"{said['by']}, {name}")
        self._note(name, "done", result={"by": said["by"], "note": said["note"]})
        self._recovery.say(f"{name}: {'approved' if call.approval else 'confirmed'} by {said['by']}")

    # --- small things -------------------------------------------------------------------------------------------------

    def _note(self, name: str, state: str, **detail: Any) -> None:
        """Write down where a step stands; it is on disk when this returns."""
        mark = self._recovery.run.mark(MarkKind.STEP, name, state=state, **detail)
        with self._lock:
            self._standing[name] = _after(self._standing[name], mark)

    def _fail(self, name: str, e: DrkitError) -> NoReturn:
        self._note(name, "failed", why=e.message, hint=e.hint)
        raise StepFailed(name, e.message, e.hint) from e

    def _raise_if_stopped(self) -> None:
        if self._recovery.stop.is_set():
            raise Aborted("the run was stopped")


def _told(result: Facts) -> str:
    """Return a result as the end of a sentence."""
    words = [
        f"{key.replace('_', ' ')} {value}" for key, value in result.items() if isinstance(value, str | int | float)
    ]
    return f" ({', '.join(words)})" if words else ""
