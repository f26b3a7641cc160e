"""How soon `drkit --help` answers, beside `chaos --help`: both from one environment, taken in turns.

    python benchmarks/startup.py [ROUNDS]

Prints the median wall time of each and their ratio; the aim is at most 0.5. Taking turns shares out whatever else the
machine is doing.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("drkit", "chaos")
RATIO_WANTED = 0.5


def main(rounds: int) -> int:
    here = Path(sys.executable).parent
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for n in range(rounds + 1):
        for name in COMMANDS:
            started = time.perf_counter()
            subprocess.run([here / name, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            if n:  # the first round writes the byte code
                times[name].append(time.perf_counter() - started)
    for name, taken in times.items():
        median_ms, best_ms = statistics.median(taken) * 1000, min(taken) * 1000
        print(f"{name} --help: median {median_ms:.0f} ms, best {best_ms:.0f} ms, n = {rounds}")
    ratio, best = (f(times["drkit"]) / f(times["chaos"]) for f in (statistics.median, min))
    print(f"ratio: {ratio:.2f} by medians, {best:.2f} by bests; wanted: at most {RATIO_WANTED}")
    return 0 if ratio <= RATIO_WANTED else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
