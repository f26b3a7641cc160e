"""How exactly an outage is known: drkit's interval beside chaoslib's continuous hypothesis, over the same outages.

    python benchmarks/outage_width.py [--outages 3]

One failing service, and both instruments watch it at the same time. chaoslib notes when each check of its hypothesis
began and ended; drkit's own formula turns these into an interval: the best that can be made of its journal. It is run
with its default frequency (1 s) and, to be fair, with drkit's period as frequency, which nobody documents.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from chaoslib.experiment import run_experiment
from chaoslib.types import Schedule, Strategy

from drkit import clock, measure, probes
from drkit.calibrate.trials import FailingService
from drkit.lab.faulty import Mode
from drkit.lab.ports import HOST
from drkit.model import Attempt, Interval, Outcome, ProbeKind, Role

EVERY_S = 0.02
DEFAULT_FREQUENCY_S = 1.0
TIMEOUT_S = 1.0
TARGET_RATIO = 10

_service: FailingService
_truth_s: float


def outage(lasts_s: float, mode: str) -> bool:
    """The experiment's action: the service is down for so long, with good times before and after."""
    global _truth_s
    clock.sleep_s(2.5)
    down_ns = _service.set(Mode(mode))[1]
    clock.sleep_s(lasts_s)
    _truth_s = (_service.set(Mode.UP)[0] - down_ns) / 1e9
    clock.sleep_s(2.5)
    return True


def watched(mode: str, lasts_s: float, frequency_s: float, directory: Path) -> tuple[float, Interval, Interval]:
    """Return one outage's true length, and what drkit and chaoslib say about it."""
    global _service
    _service = FailingService(None)
    url = f"http://{HOST}:{_service.port}/"
    spec = probes.ProbeSpec(
        name="drkit", kind=ProbeKind.HTTP, role=Role.SERVICE, every_s=EVERY_S, timeout_s=TIMEOUT_S, url=url
    )
    experiment = {
        "title": "An outage of known length",
        "description": "The service answers all the time, or so we say.",
        "steady-state-hypothesis": {
            "title": "It answers",
            "probes": [
                {
                    "type": "probe",
                    "name": "answers",
                    "tolerance": 200,
                    "provider": {"type": "http", "url": url, "timeout": TIMEOUT_S},
                }
            ],
        },
        "method": [
            {
                "type": "action",
                "name": "outage",
                "provider": {
                    "type": "python",
                    "module": "outage_width",
                    "func": "outage",
                    "arguments": {"lasts_s": lasts_s, "mode": mode},
                },
            }
        ],
        "rollbacks": [],
    }
    probe = probes.start(spec, directory / f"{clock.now_ns()}.jsonl")
    try:
        journal = run_experiment(
            experiment,
            strategy=Strategy.DURING_METHOD,
            schedule=Schedule(continuous_hypothesis_frequency=frequency_s),
        )
    finally:
        probe.stop()
        _service.close()
    return _truth_s, measure.outage(probes.read(probe.path).attempts), measure.outage(noted(journal))


def noted(journal: Any) -> list[Attempt]:
    """Return chaoslib's checks as attempts."""
    checks = [state["probes"][0] for state in journal["steady_states"]["during"]]
    return [
        Attempt(
            seq=n,
            due_ns=_ns(check["start"]),
            sent_ns=_ns(check["start"]),
            done_ns=_ns(check["end"]),
            outcome=Outcome.OK if check.get("tolerance_met") else Outcome.FAILED,
        )
        for n, check in enumerate(checks)
    ]


def _ns(moment: str) -> int:
    return round(dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC).timestamp() * 1e9)


def shown(found: Interval, truth_s: float) -> str:
    covers = "yes" if found.covers(truth_s) else "NO"
    return f"[{found.lo_s:6.3f}, {found.hi_s:6.3f}] {found.width_s * 1000:7.1f} {covers:>4}"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outages", type=int, default=3, help="outages for each frequency")
    count = parser.parse_args(arguments).outages
    logging.disable(logging.CRITICAL)
    here = sys.modules["outage_width"]
    default_ratio = 0.0
    print(f"{'chaoslib every':>14} {'outage':>10} {'truth s':>8}   {'drkit s':16}   {'ms':>6} {'true':>4}   chaoslib s")
    with tempfile.TemporaryDirectory() as directory:
        for frequency_s in (DEFAULT_FREQUENCY_S, EVERY_S):
            widths = []
            for n in range(count):
                mode, lasts_s = ("refuse", "reset")[n % 2], (1.7, 0.6, 3.3)[n % 3]
                truth_s, ours, theirs = here.watched(mode, lasts_s, frequency_s, Path(directory))
                widths.append((ours.width_s, theirs.width_s))
                seen = f"{shown(ours, truth_s)}   {shown(theirs, truth_s)}"
                print(f"{frequency_s:12.2f} s {mode:>10} {truth_s:8.3f}   {seen}", flush=True)
            ratio = mean(theirs for _, theirs in widths) / mean(ours for ours, _ in widths)
            print(f"{frequency_s:12.2f} s: chaoslib's interval is {ratio:.1f} times as wide as drkit's")
            default_ratio = default_ratio or ratio
    print(f"at chaoslib's default frequency: {default_ratio:.1f} × narrower (target: ≥ {TARGET_RATIO} ×)")
    return 0 if default_ratio >= TARGET_RATIO else 1


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import outage_width  # chaoslib imports the action by this name: one module, not two

    raise SystemExit(outage_width.main(sys.argv[1:]))
