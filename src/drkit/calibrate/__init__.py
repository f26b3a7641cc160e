"""`drkit calibrate`: prove the instrument against outages and losses that are known to the microsecond and to the row.

Nothing is simulated: a failing service in its own process, the probes that runs use, PostgreSQL, and `measure.measure`.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from drkit import __version__, clock, measure
from drkit.calibrate import trials as _trials
from drkit.calibrate.trials import Kind, Measure, Trial
from drkit.certificate import Certificate, KindResult, load, save, sealed
from drkit.lab.postgres import Scratch

_AT_ONCE = 4  # trials; more would take each other's processor, and probes would lose ticks

__all__ = ["Certificate", "Kind", "KindResult", "Trial", "calibrate", "load", "save"]


def calibrate(
    trials: int = 200,
    *,
    progress: Callable[[int, Trial], None] = lambda _done, _trial: None,
    seed: int = 1,
    instrument: Measure = measure.measure,
    kinds: Sequence[Kind] = tuple(Kind),
) -> Certificate:
    """Make so many trials, several at once, and return what they prove; 200 take about four minutes.

    progress: called with the number of finished trials and the latest one. instrument: what reads the outage and the
    losses out of a history (tests pass a biased one). Raises LabError without PostgreSQL, CannotTell if a probe breaks.
    """
    started_ns = clock.now_ns()
    done: list[Trial] = []
    with (
        Scratch() as server,
        tempfile.TemporaryDirectory(prefix="drkit-calibrate-") as directory,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        _trials.prepare_ledger(server)
        futures = [
            pool.submit(
                _trials.run,
                number,
                kinds[number % len(kinds)],
                seed=seed,
                server=server,
                directory=Path(directory),
                measure=instrument,
            )
            for number in range(trials)
        ]
        try:
            for future in as_completed(futures):
                done.append(future.result())
                progress(len(done), done[-1])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    took_s = (clock.now_ns() - started_ns) / clock.NS_PER_S
    return certify(sorted(done, key=lambda t: t.number), seed=seed, took_s=took_s)


def certify(done: Sequence[Trial], *, seed: int, took_s: float = 0.0) -> Certificate:
    """Return what these trials prove; at least one. Disturbed ones are told apart: a run like them would be INVALID."""
    lossy = [t for t in done if t.rows_exact is not None]
    calm = [t for t in done if not t.disturbed]
    certificate = Certificate(
        version=__version__,
        made_at=clock.wall_utc().isoformat(timespec="seconds"),
        machine=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        seed=seed,
        trials=len(done),
        timeout_s=_trials.TIMEOUT_S,
        window_s=_trials.WINDOW_S,
        disturbed=len(done) - len(calm),
        coverage=sum(t.covered for t in calm) / len(calm) if calm else 0.0,
        coverage_of_all=sum(t.covered for t in done) / len(done),
        mean_width_periods=_mean(_periods(calm)),
        losses=len(lossy),
        losses_exact=sum(bool(t.rows_exact) for t in lossy),
        truth_known_to_s=max(t.truth_width_s for t in done),
        took_s=round(took_s, 1),
        kinds=tuple(
            _of_kind([t for t in done if t.kind is kind]) for kind in Kind if any(t.kind is kind for t in done)
        ),
        misses=tuple(f"trial {t.number} ({t.kind}, {t.truth_s:.3f} s): {t.remark}" for t in done if t.remark),
    )
    return sealed(certificate)


def _of_kind(done: Sequence[Trial]) -> KindResult:
    exact = [t.rows_exact for t in done if t.rows_exact is not None]
    calm = [t for t in done if not t.disturbed]
    return KindResult(
        kind=done[0].kind.value,
        trials=len(done),
        covered=sum(t.covered for t in done),
        every_s=done[0].every_s,
        allowance_s=sum(t.allowance_s for t in done) / len(done),
        mean_width_s=_mean([t.width_s for t in calm if t.width_s is not None]),
        mean_width_periods=_mean(_periods(calm)),
        rows_exact=sum(exact) if exact else None,
        disturbed=len(done) - len(calm),
    )


def _periods(trials: Sequence[Trial]) -> list[float]:
    """Return the widths in periods, without the time in which the failure shows."""
    return [max(0.0, t.width_s - t.allowance_s) / t.every_s for t in trials if t.width_s is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
