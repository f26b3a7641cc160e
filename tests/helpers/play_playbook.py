"""play_playbook.py run NAME [variable=value …] | resume RUN: play a playbook on the lab of $DRKIT_HOME, as a process.

Every question is answered with yes after $ANSWER_AFTER_S; without it nobody answers. Exit codes: 0 the playbook came to
its end, 3 it was stopped, 4 drkit refused (the last line says why).
"""

# ruff: noqa: T201  (what it prints is shown by a test that fails)

from __future__ import annotations

import os
import sys
import threading

from drkit import catalog, clock, engine, project, targets
from drkit.catalog import StepCall
from drkit.engine.progress import Nobody
from drkit.errors import DrkitError
from drkit.model import MarkKind, RunRecord
from drkit.rundir import RunDir

AFTER_S = float(os.environ.get("ANSWER_AFTER_S", "nan"))


class Teller(Nobody):
    """Prints what happens."""

    def event(self, at_s: float, text: str) -> None:
        print(f"{at_s:7.2f}  {text}", flush=True)


def answer(run: RunDir, call: StepCall, text: str) -> None:
    print(f"   ? {call.name}: {text}", flush=True)

    def say_yes() -> None:
        clock.sleep_s(AFTER_S)
        run.mark(MarkKind.ANSWER, call.name, by="bob", yes=True, note="")

    if AFTER_S >= 0:
        threading.Thread(target=say_yes, daemon=True).start()


def main(verb: str, name: str, *more: str) -> RunRecord:
    here = project.find()
    if verb == "resume":
        return engine.resume(RunDir.find(here.reports, name), here, watcher=Teller(), ask=answer)
    wishes = engine.Wishes(variables=dict(word.split("=", 1) for word in more))
    target = targets.load("lab", here.home)
    return engine.recover(catalog.load_playbook(name, here), target, here, wishes, watcher=Teller(), ask=answer)


if __name__ == "__main__":
    try:
        record = main(*sys.argv[1:])
    except DrkitError as e:
        print(f"{type(e).__name__}: {e.message}")
        sys.exit(4)
    print(record.judgement.verdict)
    for reason in record.judgement.reasons:
        print("  ", reason.verdict, reason.what, reason.sentence)
    sys.exit(0 if record.ended else 3)
