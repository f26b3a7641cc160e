"""What a playbook's step costs beside what it does: the runner alone, and what it has on disk before it goes on.

    python benchmarks/step_overhead.py [--steps 100] [--rounds 15] [--directory DIR]

The steps do nothing. One kind is carried out: asked, begun, acted (in a thread with a time-out), asked again, done,
with marks that are fsynced and chained. The other holds already: asked, done. A mark alone is measured beside them.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType

from drkit import clock, guard
from drkit.catalog import StepCall
from drkit.model import MarkKind
from drkit.playbook import Player, Recovery, Step, step
from drkit.rundir import RunDir
from drkit.targets import Target
from drkit.undo import UndoJournal

LIMIT_MS = 10.0
MODULE = "dk_steps"
TARGET = Target(name="none", kind="lab", account_id="0" * 12, region="eu-central-1", zones=("eu-central-1a",))
ON: set[str] = set()


@step()
def turn_on(recovery: Recovery, *, name: str) -> Step:  # noqa: ARG001
    """Do nothing, and remember that it was done."""
    return Step(done=lambda: name in ON, act=lambda: ON.add(name))


@step()
def is_on(recovery: Recovery, *, name: str) -> Step:  # noqa: ARG001
    """Hold already."""
    return Step(done=lambda: True)


def new_run(directory: Path) -> RunDir:
    return RunDir.create(directory / "reports", directory, name="bench", target="none", identity={})


def steps_ms(n: int, directory: Path, function: str) -> float:
    ON.clear()
    run = new_run(directory)
    facts = guard.Facts(
        target="none", account_id="1", caller_account_id="1", regions=("eu-central-1",), loopback=True,
        now=clock.wall_utc(),
    )  # fmt: skip
    permit = guard.authorise(
        run.run_id, (), facts=facts, rules=guard.Rules(), blast_radius=guard.BlastRadius(), recovery=True
    )
    calls = [StepCall(name=f"step-{i}", step=f"{MODULE}.{function}", arguments={"name": f"{i}"}) for i in range(n)]
    player: Player
    recovery = Recovery(
        target=TARGET, permit=permit, undo=UndoJournal(run.path / "undo.jsonl", run.run_id), run=run,
        stop=threading.Event(), say=lambda _: None, stable=lambda _: True, read_ledger=dict,
        known=lambda name: player.known(name),
    )  # fmt: skip
    player = Player(calls, recovery, variables={}, started_by="bench")
    began_ns = clock.now_ns()
    player.play()
    return (clock.now_ns() - began_ns) / n / 1e6


def mark_ms(n: int, directory: Path) -> float:
    run = new_run(directory)
    began_ns = clock.now_ns()
    for _ in range(n):
        run.mark(MarkKind.NOTE, "x")
    return (clock.now_ns() - began_ns) / n / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--directory", type=Path, default=None, help="where it is written (default: a temp dir)")
    args = parser.parse_args()
    module = ModuleType(MODULE)
    module.turn_on, module.is_on = turn_on, is_on  # type: ignore[attr-defined]
    sys.modules[MODULE] = module
    carried_out, holding, mark = "carried out", "holds already", "a mark on disk alone"
    results: dict[str, list[float]] = {carried_out: [], holding: [], mark: []}
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        steps_ms(5, Path(directory), "turn_on")
        gc.disable()
        for _ in range(args.rounds):
            results[carried_out].append(steps_ms(args.steps, Path(directory), "turn_on"))
            results[holding].append(steps_ms(args.steps, Path(directory), "is_on"))
            results[mark].append(mark_ms(args.steps, Path(directory)))
    print(f"{args.rounds} rounds of {args.steps} steps, ms each:")
    for name, values in results.items():
        print(f"  {name:22} median {statistics.median(values):.3f}  min {min(values):.3f}  max {max(values):.3f}")
    median = statistics.median(results[carried_out])
    verdict = "ok" if median <= LIMIT_MS else "TOO MUCH"
    print(f"  at most {LIMIT_MS:g} ms wanted of a step that is carried out: {verdict}")
    return 0 if median <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
