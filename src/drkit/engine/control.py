"""A Chaos Toolkit control, so that plain `chaos run` of a shipped experiment is as safe as `drkit run`.

It authorises the run against the target named by DRKIT_TARGET, takes the target's lock and a guardian, and puts
everything back at the end. chaoslib swallows what a control raises; the faults then find no context and refuse, so it
fails closed.
It does not measure: `drkit run` does. What was done is in the run's history all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from drkit import catalog, clock, project, targets
from drkit.engine.finish import finish
from drkit.engine.foreign import ROLLBACK, journal_rollbacks
from drkit.engine.restore import put_back
from drkit.engine.session import Session, hold
from drkit.errors import DrkitError, UsageError
from drkit.model import MarkKind

_open: list[tuple[contextlib.ExitStack, Session]] = []
_began: dict[int, int] = {}  # thread → when the activity in it began


def before_experiment_control(context: dict[str, Any], **_: Any) -> None:
    """Take the target. Called by chaoslib before anything of the experiment."""
    try:
        _begin(context)
    except DrkitError as e:
        logging.getLogger("chaostoolkit").error(f"drkit: {e.message}" + (f" (hint: {e.hint})" if e.hint else ""))


def after_experiment_control(state: Any = None, **_: Any) -> None:
    """Put everything back and let the target go. Rollbacks that chaoslib has run well are not run again."""
    if not _open:
        return
    stack, session = _open.pop()
    try:
        done = {r["activity"]["name"] for r in (state or {}).get("rollbacks", ()) if r.get("status") == "succeeded"}
        for record in session.context.undo.pending():
            if record.verb == ROLLBACK and record.args["activity"]["name"] in done:
                session.context.undo.done(record)
        put_back(session.run)
        session.run.mark(MarkKind.RUN_ENDED, "chaos run")
        finish(session.run)
    finally:
        stack.close()


def before_activity_control(**_: Any) -> None:
    """Note when an activity begins."""
    _began[threading.get_ident()] = clock.now_ns()


def after_activity_control(context: dict[str, Any], state: Any = None, **_: Any) -> None:
    """Write down what an activity of the method did, and that a fault was requested."""
    began_ns = _began.pop(threading.get_ident(), None)
    names = {str(a.get("name")) for a in _open[-1][1].run.identity["document"]["method"]} if _open else ()
    if began_ns is None or context.get("name") not in names:
        return
    run, times = _open[-1][1].run, {"t_lo_ns": began_ns, "t_hi_ns": clock.now_ns()}
    run.mark(MarkKind.ACTIVITY, context["name"], entry=state, **times)
    if catalog.role_in_method(context) == "fault":
        run.mark(MarkKind.FAULT_REQUESTED, context["name"], **times)


def _begin(document: dict[str, Any]) -> None:
    from drkit.engine.identity import identity_of
    from drkit.engine.plan import resolve

    name = os.environ.get("DRKIT_TARGET")
    if not name:
        raise UsageError("DRKIT_TARGET is not set", "name the target to be broken: DRKIT_TARGET=lab chaos run …")
    found = project.find()
    target = targets.load(name, found.home)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()
    experiment = catalog.checked(document, Path("experiment"), digest)
    resolved = resolve(experiment, target, found, {})
    stack = contextlib.ExitStack()
    session = stack.enter_context(
        hold(
            found,
            target,
            name="chaos-run",
            effects=resolved.plan.effects,
            unresolved=resolved.unresolved,
            blast_radius=experiment.drkit.blast_radius,
            alarms=experiment.drkit.guards.alarms,
            identity=identity_of(experiment, target, found, resolved),
            lost=lambda _: None,
            stop=threading.Event(),
        )
    )
    _open.append((stack, session))
    journal_rollbacks(
        experiment.rollbacks,
        session.context.undo,
        configuration=resolved.configuration,
        secrets=document.get("secrets") or {},
    )
