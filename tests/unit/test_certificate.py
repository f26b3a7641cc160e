"""The calibration certificate: what it demands, and that nobody can improve it afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from drkit import calibrate
from drkit.calibrate import Kind, Trial, trials
from drkit.certificate import Certificate, load, save
from drkit.errors import BadDocument
from drkit.lab.faulty import SLOW_S
from drkit.model import Attempt, ErrorClass, Outcome, ProbeKind, Role, Series


def trial(number: int, kind: Kind = Kind.REFUSE, **changes: object) -> Trial:
    good = Trial(
        number=number, kind=kind, every_s=0.02, allowance_s=0.0, truth_s=1.0, truth_width_s=1e-5, covered=True,
        width_s=0.041, ticks_due=100, ticks_lost=0, rows_exact=True if kind.loses else None,
    )  # fmt: skip
    return replace(good, **changes)  # type: ignore[arg-type]


def certificate(*trials: Trial) -> Certificate:
    return calibrate.certify(trials, seed=1)


def test_a_good_instrument_is_certified() -> None:
    made = certificate(*(trial(n, k) for n, k in enumerate(Kind)))
    assert made.holds
    assert made.coverage == 1.0
    assert (made.losses, made.losses_exact) == (4, 4)
    assert made.mean_width_periods == pytest.approx(2.05)


def test_one_miss_in_a_hundred_is_allowed_and_two_are_not() -> None:
    many = [trial(n) for n in range(98)]
    assert certificate(*many, trial(98), trial(99, covered=False)).holds
    assert not certificate(*many, trial(98, covered=False), trial(99, covered=False)).holds


def test_one_wrong_loss_account_is_too_many() -> None:
    made = certificate(*(trial(n, Kind.LOSE_TAIL) for n in range(99)), trial(99, Kind.LOSE_HOLES, rows_exact=False))
    assert "lost rows" in "; ".join(made.objections)


def test_covering_everything_by_wide_intervals_is_no_art() -> None:
    assert "width" in "; ".join(certificate(*(trial(n, width_s=0.050) for n in range(10))).objections)


def test_a_black_hole_may_take_its_time_out_longer_and_no_more() -> None:
    assert certificate(trial(0, Kind.BLACK_HOLE, allowance_s=0.5, width_s=0.54)).holds
    assert not certificate(trial(0, Kind.BLACK_HOLE, allowance_s=0.5, width_s=0.56)).holds


@pytest.mark.parametrize(
    ("kind", "errors", "allowance_s"),
    [
        (Kind.REFUSE, ["timeout"], 0.0),  # by the fault and never by what was measured
        (Kind.FLAP, ["timeout"], 0.0),
        (Kind.READ_ONLY, [], 0.0),
        (Kind.BLACK_HOLE, [], 0.5),
        (Kind.SLOW, ["too-slow"], SLOW_S),
        (Kind.LOSE_TAIL, ["timeout"], 0.5),  # its rows were taken behind a black hole
        (Kind.LOSE_TAIL, ["refused"], 0.0),
    ],
)
def test_only_silence_and_slowness_may_take_their_time(kind: Kind, errors: list[str], allowance_s: float) -> None:
    """docs/measurement.md, "Calibration"."""
    tries = tuple(Attempt(n, 0, 0, 1, Outcome.UNKNOWN, ErrorClass(error)) for n, error in enumerate(errors))
    series = Series("s", ProbeKind.HTTP, Role.SERVICE, 0.02, 0.5, tries)
    assert trials._allowance_s(kind, series) == allowance_s


def test_slowness_may_take_its_delay_longer_and_no_more() -> None:
    assert certificate(trial(0, Kind.SLOW, allowance_s=SLOW_S, width_s=0.34)).holds
    assert not certificate(trial(0, Kind.SLOW, allowance_s=SLOW_S, width_s=0.36)).holds


def test_a_trial_that_measured_nothing_is_a_miss() -> None:
    assert not certificate(trial(0, covered=False, width_s=None)).holds


def test_trials_on_a_machine_too_busy_are_told_and_cannot_carry_a_certificate() -> None:
    busy = [trial(n, ticks_lost=2, covered=False) for n in range(20)]
    made = certificate(*(trial(n) for n in range(20, 100)), *busy)
    assert made.disturbed == 20
    assert not made.holds


def test_a_few_disturbed_trials_are_told_apart() -> None:
    made = certificate(*(trial(n) for n in range(1, 100)), trial(0, ticks_lost=2, covered=False))
    assert (made.trials, made.disturbed, made.coverage, made.coverage_of_all) == (100, 1, 1.0, 0.99)
    assert made.holds


def test_it_survives_its_file(tmp_path: Path) -> None:
    made = certificate(trial(0), trial(1, Kind.LOSE_TAIL))
    save(made, tmp_path / "home" / "calibration.json")
    assert load(tmp_path / "home" / "calibration.json") == made


def test_there_may_be_none(tmp_path: Path) -> None:
    assert load(tmp_path / "calibration.json") is None


@pytest.mark.parametrize("key", ["coverage", "trials", "seed", "losses_exact"])
def test_an_altered_one_is_refused(tmp_path: Path, key: str) -> None:
    path = tmp_path / "calibration.json"
    save(certificate(trial(0)), path)
    document = json.loads(path.read_text())
    document[key] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(BadDocument, match="altered"):
        load(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"kinds": 1}'])
def test_what_is_no_certificate_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(BadDocument):
        load(path)
