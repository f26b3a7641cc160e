"""The marker rows of a run, read back through the writer endpoint."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from drkit import clock
from drkit.errors import Aborted, DrkitError
from drkit.model import MarkKind, ProbeKind, Survivors
from drkit.probes import ProbeSpec, sql
from drkit.rundir import RunDir
from drkit.targets import Target

_GAP_LAB_S = 0.3  # between two readings that have to agree
_GAP_AWS_S = 5.0


def read_back(run: RunDir, specs: Sequence[ProbeSpec], target: Target, stop: threading.Event) -> None:
    """Read the rows of every writer until two readings agree, and add them to the run.

    All writers side by side: a database that is down costs its time once. What cannot be read is an INSTRUMENT mark;
    DATA_VERIFIED is marked if all could be. Raises Aborted as soon as `stop` is set.
    """
    lo = clock.now_ns()
    readings = [_Reading(spec, target) for spec in specs if spec.kind is ProbeKind.SQL]
    while any(r.is_alive() for r in readings):
        if stop.wait(0.02):
            raise Aborted("stopped while rows were read back")
    verified = bool(readings)
    for reading in readings:
        if reading.survivors is None:
            run.mark(MarkKind.INSTRUMENT, reading.spec.name, why=f"rows not read back: {reading.problem}")
            verified = False
        else:
            run.add_survivors(reading.survivors)
            verified = verified and reading.survivors.settled
    if verified:
        run.mark(MarkKind.DATA_VERIFIED, "marker rows", t_lo_ns=lo)


class _Reading(threading.Thread):
    """One writer's rows being read; begins at once. Afterwards `survivors`, or None and `problem`."""

    def __init__(self, spec: ProbeSpec, target: Target) -> None:
        super().__init__(name=f"rows of {spec.name}", daemon=True)
        self.spec, self._target = spec, target
        self.survivors: Survivors | None = None
        self.problem = ""
        self.start()

    def run(self) -> None:
        gap_s = _GAP_LAB_S if self._target.kind == "lab" else _GAP_AWS_S
        try:
            self.survivors = sql.read_survivors(self.spec, gap_s=gap_s, timeout_s=max(20.0, 300 * self._target.pace))
        except DrkitError as e:
            self.problem = e.message
        except Exception as e:  # noqa: BLE001  (a defect in a thread must not look like rows that are not there)
            self.problem = f"{type(e).__name__}: {e}"
