"""How long a database failover in the lab lasts for a client, against the least it could last.

    python benchmarks/failover_floor.py [--runs 10] [--period-s 0.5] [--failures 2]

Each run: the primary's place is cut at a random moment, a host monitor of `failures` × `period` notices, the standby is
promoted, the endpoint flipped; a client that writes with a new connection every 10 ms says when service was back.
The floor is the sum of three parts, each measured alone in the same run: the detector (from the fault to the moment it
fired), a promotion (of an idle standby, nothing else happening), and a connect with one write.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path

from drkit import clock
from drkit.lab.pgwire import ServerError, Session
from drkit.lab.plant import Plant

WRITE = "insert into orders (zone, instance) values ('x', 'bench')"
LIMIT = 1.5


def since_s(start_ns: int) -> float:
    return (clock.now_ns() - start_ns) / clock.NS_PER_S


class Client(threading.Thread):
    """Writes through the endpoint every 10 ms, each time with a new connection, never waiting for an earlier answer."""

    def __init__(self, plant: Plant) -> None:
        super().__init__(daemon=True)
        self._plant = plant
        self._stop_it = threading.Event()
        self._slots = threading.Semaphore(100)
        self.acknowledged_ns: list[tuple[int, int]] = []  # sent, done

    def run(self) -> None:
        due_ns = clock.now_ns()
        while not self._stop_it.is_set():
            due_ns += 10_000_000
            clock.sleep_s((due_ns - clock.now_ns()) / clock.NS_PER_S)
            if self._slots.acquire(blocking=False):
                threading.Thread(target=self._once, daemon=True).start()

    def _once(self) -> None:
        sent_ns = clock.now_ns()
        try:
            write(self._plant, timeout_s=1.0)
            self.acknowledged_ns.append((sent_ns, clock.now_ns()))
        except (OSError, ServerError):
            pass
        finally:
            self._slots.release()

    def end(self) -> None:
        self._stop_it.set()
        self.join()


def write(plant: Plant, *, timeout_s: float) -> None:
    with Session(plant.writer_endpoint, user=plant.user, dbname=plant.dbname, timeout_s=timeout_s) as session:
        session.query(WRITE, timeout_s=timeout_s)


def detect(plant: Plant, period_s: float, failures: int) -> None:
    """Return once the primary has not answered `failures` questions in a row, one asked each period."""
    missed, due_ns = 0, clock.now_ns()
    while True:
        missed = 0 if plant.primary_alive(period_s) else missed + 1
        if missed >= failures:
            return
        due_ns = max(due_ns + int(period_s * clock.NS_PER_S), clock.now_ns())
        clock.sleep_s((due_ns - clock.now_ns()) / clock.NS_PER_S)


def once(directory: Path, cache: Path, period_s: float, failures: int) -> tuple[float, float, float, float]:
    """Return RTA, detection, promotion alone, connect and write alone, in seconds."""
    plant = Plant(directory, cache=cache)
    plant.start()
    try:
        connects = []
        for _ in range(20):
            started_ns = clock.now_ns()
            write(plant, timeout_s=2)
            connects.append(since_s(started_ns))
        client = Client(plant)
        client.start()
        fault: list[int] = []

        def cut() -> None:
            plant.cut("a/db")
            fault.append(clock.now_ns())

        threading.Timer(1.0 + random.random() * period_s, cut).start()
        detect(plant, period_s, failures)
        detected_ns = clock.now_ns()
        plant.failover("b")
        flipped_ns = clock.now_ns()
        clock.wait_until(
            lambda: any(done > flipped_ns for _, done in client.acknowledged_ns),
            "a write after it",
            timeout_s=10,
            every_s=0.01,
        )
        client.end()
        first_ns = min(done for sent, done in client.acknowledged_ns if done > fault[0] + 1_000_000 and sent > fault[0])
        plant.heal("a/db")
        plant.rebuild_standby("a")  # a standby again, to see what a promotion alone costs
        plant.fence("b")
        started_ns = clock.now_ns()
        plant.nodes["a"].promote()
        promotion_s = since_s(started_ns)
    finally:
        plant.stop()
    rta_s = (first_ns - fault[0]) / clock.NS_PER_S
    return rta_s, (detected_ns - fault[0]) / clock.NS_PER_S, promotion_s, statistics.median(connects)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--period-s", type=float, default=0.5)
    parser.add_argument("--failures", type=int, default=2)
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="drkit-bench-"))
    ratios = []
    print("   RTA ms   detect  promote  connect   floor ms   ratio")
    try:
        for number in range(args.runs):
            rta_s, detect_s, promote_s, connect_s = once(
                root / str(number), root / "cache", args.period_s, args.failures
            )
            floor_s = detect_s + promote_s + connect_s
            ratios.append(rta_s / floor_s)
            parts = (rta_s, detect_s, promote_s, connect_s, floor_s)
            print("{:9.1f} {:8.1f} {:8.1f} {:8.1f} {:10.1f}".format(*(1000 * p for p in parts)), f"{ratios[-1]:7.2f}")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    worst, middle = max(ratios), statistics.median(ratios)
    met = worst <= LIMIT
    print(
        f"monitor {args.period_s:g} s × {args.failures}: ratio median {middle:.2f}, worst {worst:.2f}; "
        f"wanted ≤ {LIMIT}: {'met' if met else 'missed'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
