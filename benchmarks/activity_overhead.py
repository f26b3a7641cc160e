"""What an activity that does nothing costs: drkit's loop, with its fsynced and chained history, beside chaoslib's.

Both run the same Python function through chaoslib's `execute_activity`, alternating in one process. drkit's number
holds a thread with a time-out and one mark in a history on disk; chaoslib's is its
`run_experiment` divided by its activities, with its start-up taken out by a run with none.

    python benchmarks/activity_overhead.py [--activities 200] [--rounds 15] [--directory DIR]
"""

from __future__ import annotations

import argparse
import gc
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from drkit import clock
from drkit.engine.activity import Activities
from drkit.model import MarkKind
from drkit.rundir import RunDir
from drkit.targets import Target

LIMIT_MS = 2.0


def document(n: int) -> dict[str, Any]:
    return {
        "title": "nothing",
        "description": "nothing",
        "method": [
            {
                "name": f"nothing-{i}",
                "type": "probe",
                "provider": {"type": "python", "module": "dk_noop", "func": "noop"},
            }
            for i in range(n)
        ],
        "rollbacks": [],
    }


def chaoslib_ms(n: int) -> float:
    from chaoslib.experiment import run_experiment

    def once(k: int) -> int:
        began = clock.now_ns()
        journal = run_experiment(document(k))
        assert journal["status"] == "completed"
        return clock.now_ns() - began

    return (once(n) - once(0)) / n / 1e6


def drkit_ms(n: int, directory: Path) -> float:
    """As drkit.engine.play does it: run, then one mark that is on disk before the next activity."""
    run = RunDir.create(directory / "reports", directory, name="bench", target="none", identity={})
    whole = document(n)
    target = Target(name="none", kind="lab", account_id="0" * 12, region="eu-central-1", zones=("eu-central-1a",))
    activities = Activities(whole, {}, {}, target)
    began = clock.now_ns()
    for activity in whole["method"]:
        settled = activities.run(activity)
        run.mark(
            MarkKind.ACTIVITY,
            activity["name"],
            t_lo_ns=settled.t_lo_ns,
            t_hi_ns=settled.t_hi_ns,
            entry=settled.entry,
        )
        activities.pause_after(activity, None)
    return (clock.now_ns() - began) / n / 1e6


def mark_ms(n: int, directory: Path) -> float:
    run = RunDir.create(directory / "reports", directory, name="bench", target="none", identity={})
    began = clock.now_ns()
    for _ in range(n):
        run.mark(MarkKind.NOTE, "x")
    return (clock.now_ns() - began) / n / 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activities", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--directory", type=Path, default=None, help="where the history is written (default: a temp dir)"
    )
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    noop = ModuleType("dk_noop")
    noop.noop = lambda: None  # type: ignore[attr-defined]
    sys.modules["dk_noop"] = noop
    results: dict[str, list[float]] = {"chaoslib": [], "drkit": [], "of which the mark on disk": []}
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        chaoslib_ms(5)
        drkit_ms(5, Path(directory))
        gc.disable()
        for _ in range(args.rounds):
            results["chaoslib"].append(chaoslib_ms(args.activities))
            results["drkit"].append(drkit_ms(args.activities, Path(directory)))
            results["of which the mark on disk"].append(mark_ms(args.activities, Path(directory)))
    print(f"{args.rounds} rounds of {args.activities} activities, ms each:")
    for name, values in results.items():
        print(f"  {name:26} median {statistics.median(values):.3f}  min {min(values):.3f}  max {max(values):.3f}")
    more = [d - c for d, c in zip(results["drkit"], results["chaoslib"], strict=True)]
    median = statistics.median(more)
    verdict = "ok" if median <= LIMIT_MS else "TOO MUCH"
    print(f"  drkit − chaoslib           median {median:.3f}  (at most {LIMIT_MS:g} ms wanted: {verdict})")
    return 0 if median <= LIMIT_MS else 1


if __name__ == "__main__":
    sys.exit(main())
