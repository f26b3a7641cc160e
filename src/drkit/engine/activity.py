"""One Chaos Toolkit activity, carried out by chaoslib but under our time-out, pauses and signals.

chaoslib ignores time-outs of Python activities and sleeps through pauses; PEERS.md lists what else it does.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from drkit import clock
from drkit.clock import NS_PER_S
from drkit.engine.foreign import aim, is_foreign
from drkit.errors import Aborted, DrkitError
from drkit.targets import Target

DEFAULT_TIMEOUT_S = 900.0
GRACE_S = 5.0  # for an activity that was cut short to notice
_OURS = ("pauses", "background", "timeout_s", "fault", "role")  # what chaoslib need not see


@dataclass(frozen=True, slots=True)
class Settled:
    """How one activity ended. `entry` is its entry in journal.json."""

    entry: Mapping[str, Any]
    t_lo_ns: int
    t_hi_ns: int
    timed_out: bool = False

    @property
    def succeeded(self) -> bool:
        return bool(self.entry["status"] == "succeeded")

    @property
    def output(self) -> Any:
        return self.entry.get("output")

    @property
    def problem(self) -> str:
        """Return why it did not succeed, in one line; "" if it did."""
        if self.succeeded:
            return ""
        lines = [line.strip() for line in self.entry.get("exception") or () if line.strip()]
        last = lines[-1] if lines else str(self.entry["status"])
        # chaoslib wraps: "chaoslib.exceptions.ActivityFailed: drkit.errors.TargetError: the words"
        for prefix in ("chaoslib.exceptions.ActivityFailed: ", "chaoslib.exceptions."):
            last = last.removeprefix(prefix)
        head, _, rest = last.partition(": ")
        return rest if rest and head.startswith("drkit.errors.") else last


class Activities:
    """Runs the activities of one experiment with its configuration and secrets resolved."""

    def __init__(
        self,
        document: Mapping[str, Any],
        configuration: Mapping[str, Any],
        secrets: Mapping[str, Any],
        target: Target,
    ) -> None:
        self._document = dict(document)
        self._configuration = dict(configuration)
        self._secrets = dict(secrets)
        self._target = target
        self._unfinished: list[threading.Thread] = []

    def run(
        self,
        activity: Mapping[str, Any],
        *,
        timeout_s: float | None = None,
        stop: threading.Event | None = None,
        overdue: Callable[[str], None] = lambda _: None,
    ) -> Settled:
        """Carry one activity out and wait for it, at most timeout_s (default: its own `timeout_s`).

        Its pause before is honoured, the one after is `pause_after`. When the time is over or `stop` is set, `overdue`
        is told why (revoke the permit there), the activity gets a little longer to notice, and it counts as failed
        either way. An action of another library is aimed at the target first. Raises Aborted if `stop` is set before it
        begins.
        """
        self._pause(pauses_of(activity, self._configuration, self._secrets)[0], stop)
        bare = {k: v for k, v in activity.items() if k not in _OURS}
        limit_s = timeout_s or float(activity.get("timeout_s") or DEFAULT_TIMEOUT_S)
        box: list[Mapping[str, Any]] = []
        worker = threading.Thread(target=lambda: box.append(self._execute(bare)), name=bare["name"], daemon=True)
        lo = clock.now_ns()
        worker.start()
        why = self._why_not_waiting(worker, lo + int(limit_s * NS_PER_S), stop, limit_s)
        if why:
            overdue(f"{bare['name']}: {why}")
            if bare["type"] != "probe":  # a question that nobody waits for any more changes nothing
                worker.join(GRACE_S)
                if worker.is_alive():
                    self._unfinished.append(worker)
        hi = clock.now_ns()
        entry = box[0] if box and not why.startswith("not finished") else _cut_short(bare, why)
        return Settled(entry, lo, hi, bool(why))

    def pause_after(self, activity: Mapping[str, Any], stop: threading.Event | None) -> None:
        """Wait as the activity says; raise Aborted once `stop` is set."""
        self._pause(pauses_of(activity, self._configuration, self._secrets)[1], stop)

    def settle(self, timeout_s: float) -> bool:
        """Wait for activities that were cut short and work on; return whether all have ended."""
        deadline_ns = clock.now_ns() + int(timeout_s * NS_PER_S)
        for worker in self._unfinished:
            worker.join(max(0.0, (deadline_ns - clock.now_ns()) / NS_PER_S))
        return not any(worker.is_alive() for worker in self._unfinished)

    def holds(
        self, probe: Mapping[str, Any], *, timeout_s: float = 30.0, stop: threading.Event | None = None
    ) -> tuple[bool, Settled]:
        """Ask a probe that has a tolerance; return whether its answer is within it (no answer is not).

        Waits no longer once `stop` is set; raises Aborted if it was set before.
        """
        from chaoslib.hypothesis import within_tolerance

        settled = self.run(probe, timeout_s=timeout_s, stop=stop)
        if not settled.succeeded:
            return False, settled
        tolerance = probe.get("tolerance", True)
        try:
            return bool(within_tolerance(tolerance, settled.output, self._configuration, self._secrets)), settled
        except Exception:  # noqa: BLE001  (a tolerance that does not fit the answer is not met, whatever it raises)
            return False, settled

    @staticmethod
    def _why_not_waiting(
        worker: threading.Thread, deadline_ns: int, stop: threading.Event | None, limit_s: float
    ) -> str:
        """Wait for a worker; return why it is waited for no longer, "" if it has ended."""
        while True:
            worker.join(0.05)
            if not worker.is_alive():
                return ""
            if stop is not None and stop.is_set():
                return "the run was stopped while it was under way"
            if clock.now_ns() >= deadline_ns:
                return f"not finished within {limit_s:g} s"

    def _execute(self, activity: dict[str, Any]) -> Mapping[str, Any]:
        from chaoslib.activity import execute_activity

        try:
            if activity["type"] == "action" and is_foreign(activity):
                aim(activity, self._target, self._configuration, self._secrets)
            entry: Mapping[str, Any] = execute_activity(
                experiment=self._document,
                activity=activity,
                configuration=self._configuration,
                secrets=self._secrets,
                dry=None,
            )
        except DrkitError as e:
            return _failed_entry(activity, e.message)
        except BaseException as e:  # noqa: BLE001  (whatever an activity of somebody else does, the run goes on to its undo)
            return _failed_entry(activity, f"{type(e).__name__}: {e}")
        why = _failed_quietly(activity, entry.get("output")) if entry["status"] == "succeeded" else ""
        return {**entry, "status": "failed", "exception": [why]} if why else entry

    @staticmethod
    def _pause(seconds: float, stop: threading.Event | None) -> None:
        if stop is None:
            clock.sleep_s(seconds)
        elif stop.wait(seconds):
            raise Aborted("the run was stopped")


def pauses_of(
    activity: Mapping[str, Any], configuration: Mapping[str, Any], secrets: Mapping[str, Any]
) -> tuple[float, float]:
    """Return how long to wait before and after an activity, in seconds. Raises ValueError for what is no number."""
    given = activity.get("pauses")
    if not given:
        return 0.0, 0.0
    from chaoslib import substitute

    pauses = substitute(dict(given), dict(configuration), dict(secrets))
    seconds: list[float] = []
    for key in ("before", "after"):
        value = pauses.get(key) or 0
        try:
            seconds.append(float(value))
        except (TypeError, ValueError):
            raise ValueError(f"the pause {key} is {value!r}") from None
        if not 0 <= seconds[-1] < math.inf:
            raise ValueError(f"the pause {key} is {value!r}")
    return seconds[0], seconds[1]


def _failed_quietly(activity: Mapping[str, Any], output: Any) -> str:
    """Return why an action of a process or a request failed although chaoslib says that it succeeded, "" if it did."""
    if activity["type"] != "action" or not isinstance(output, Mapping):
        return ""
    status, kind = output.get("status"), activity["provider"]["type"]
    if kind == "process" and status != 0:
        said = str(output.get("stderr") or "").strip().splitlines()
        return f"it ended with status {status}" + (f": {said[-1]}" if said else "")
    if kind == "http" and isinstance(status, int) and status >= 400:
        return f"it was answered with HTTP status {status}"
    return ""


def _failed_entry(activity: Mapping[str, Any], why: str) -> Mapping[str, Any]:
    now = clock.wall_utc().isoformat()
    return {
        "activity": activity, "start": now, "end": now, "duration": 0.0,
        "status": "failed", "output": None, "exception": [why],
    }  # fmt: skip


def _cut_short(activity: Mapping[str, Any], why: str) -> Mapping[str, Any]:
    return {**_failed_entry(activity, why), "status": "aborted" if "stopped" in why else "failed"}
