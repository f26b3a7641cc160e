"""How long a warm lab takes from nothing to ready, beside the least it could take: its PostgreSQL servers alone.

    python benchmarks/lab_start.py [ROUNDS]

The first start fills the cache and does not count. The two take turns, so that they share whatever else the machine is
doing. Prints medians and bests; the aim is a plant of servers, service and network within 3 s.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from drkit import clock
from drkit import lab as labs
from drkit.lab.plant import Plant, PlantOptions

WANTED_S = 3.0


def timed(start: Callable[[], object], stop: Callable[[], object]) -> float:
    began_ns = clock.now_ns()
    start()
    taken_s = (clock.now_ns() - began_ns) / clock.NS_PER_S
    stop()
    return taken_s


def main(rounds: int) -> int:
    home = Path(tempfile.mkdtemp(prefix="drkit-bench-"))
    taken: dict[str, list[float]] = {"plant": [], "lab": []}
    try:
        for n in range(rounds + 1):
            plant = Plant(home / f"plant{n}", cache=home / "cache", options=PlantOptions())
            one = timed(plant.start, plant.stop)
            other = timed(lambda: labs.up(home=home), lambda: labs.down(home=home))
            if n:
                taken["plant"].append(one)
                taken["lab"].append(other)
    finally:
        labs.down(home=home)
        shutil.rmtree(home, ignore_errors=True)
    for name, values in taken.items():
        print(f"{name}: median {statistics.median(values):.2f} s, best {min(values):.2f} s, n = {rounds}")
    ratio = statistics.median(taken["lab"]) / statistics.median(taken["plant"])
    met = min(taken["plant"]) <= WANTED_S
    print(f"lab / plant: {ratio:.2f}; a plant within {WANTED_S:g} s: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
