"""A short calibration, and instruments that must not be certified."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drkit import calibrate, measure
from drkit.calibrate import Kind
from drkit.model import History, Interval, Measurement, Outcome

pytestmark = [pytest.mark.lab, pytest.mark.slow]


def test_the_instrument_covers_the_truth_and_counts_every_row() -> None:
    made = calibrate.calibrate(12, seed=7)
    assert made.losses_exact == made.losses == 4
    assert made.coverage == 1.0, made.misses
    assert {k.kind for k in made.kinds} == {k.value for k in Kind}


def off_the_log(history: History, settings: measure.Settings) -> Measurement:
    """Read the outage off the log as one does by hand: from the first failure to the last, give or take a period."""
    found = measure.measure(history, settings)
    (series,) = history.series
    failed = [a for a in series.attempts if a.outcome is not Outcome.OK]
    if not failed or found.impact is None or found.service_restored is None:
        return found
    first_ns, last_ns, p_ns = failed[0].done_ns, failed[-1].done_ns, round(series.every_s * 1e9)
    length_s = (last_ns - first_ns) / 1e9
    return replace(
        found,
        impact=(first_ns - p_ns, first_ns),
        service_restored=(last_ns, last_ns + p_ns),
        rta=Interval(length_s, length_s + 2 * series.every_s),
    )


def test_an_instrument_that_reads_outages_off_the_log_is_not_certified() -> None:
    made = calibrate.calibrate(8, seed=7, instrument=off_the_log, kinds=(Kind.BLACK_HOLE, Kind.SLOW))
    assert not made.holds
    assert made.coverage < 0.9


def counts_unknown_as_lost(history: History, settings: measure.Settings) -> Measurement:
    found = measure.measure(history, settings)
    unknown = tuple(a.seq for s in history.series for a in s.attempts if a.outcome is Outcome.UNKNOWN)
    return replace(found, losses=tuple(replace(account, lost=account.lost + unknown) for account in found.losses))


def test_an_instrument_that_counts_unanswered_writes_as_lost_is_not_certified() -> None:
    made = calibrate.calibrate(8, seed=7, instrument=counts_unknown_as_lost, kinds=(Kind.LOSE_TAIL, Kind.LOSE_HOLES))
    assert made.losses_exact < made.losses
    assert not made.holds
