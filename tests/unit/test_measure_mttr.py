from __future__ import annotations

import math

import pytest

from drkit.measure import mttr
from drkit.model import Interval, Verdict


def test_no_runs_have_no_mean() -> None:
    assert mttr([], limit_s=9) is None


def test_the_mean_is_the_mean_of_each_bound() -> None:
    found = mttr([Interval(1, 2), Interval(3, 6), Interval(2, 4)], limit_s=5)
    assert found is not None
    assert found.mean == Interval(2.0, 4.0)
    assert found.median == Interval(2, 4)
    assert found.worst == Interval(3, 6)
    assert (found.n, found.never_recovered, found.ci95) == (3, 0, None)
    assert found.judge(4.0) is Verdict.PASS
    assert found.judge(3.0) is Verdict.INCONCLUSIVE
    assert found.judge(1.0) is Verdict.FAIL


def test_a_run_that_never_recovered_is_never_dropped() -> None:
    found = mttr([Interval(1, 2), Interval(1, 2), Interval(50, math.inf), None], limit_s=100)
    assert found is not None
    assert (found.n, found.never_recovered) == (4, 2)
    assert found.mean == Interval(38.0, math.inf)
    assert found.worst == Interval(100, math.inf)
    assert found.judge(60) is not Verdict.PASS
    assert found.judge(30) is Verdict.FAIL


def test_a_confidence_interval_from_eight_runs_on() -> None:
    seven = mttr([Interval(x, x) for x in range(7)], limit_s=9)
    eight = mttr([Interval(x, x) for x in range(1, 9)], limit_s=9)
    assert seven is not None
    assert eight is not None
    assert seven.ci95 is None
    assert eight.ci95 is not None
    half = 2.36462 * 2.449489743 / math.sqrt(8)  # Student's t at 97.5 % with 7 degrees, by table
    assert eight.ci95.lo_s == pytest.approx(4.5 - half, rel=1e-3)
    assert eight.ci95.hi_s == pytest.approx(4.5 + half, rel=1e-3)


@pytest.mark.parametrize(("n", "share"), [(4, 0.47), (29, 0.90), (59, 0.95)])
def test_what_n_passes_support(n: int, share: float) -> None:
    found = mttr([Interval(1, 1)] * n, limit_s=1)
    assert found is not None
    assert found.supports == pytest.approx(share, abs=0.005)
    assert f"{n} of {n} recoveries met their RTO: with 95 % confidence" in found.statement


@pytest.mark.parametrize("worse", [Interval(1, 3), Interval(3, 4), Interval(1, math.inf), None])
def test_one_that_did_not_certainly_pass_supports_nothing(worse: Interval | None) -> None:
    found = mttr([Interval(1, 1), worse, Interval(1, 2)], limit_s=2)
    assert found is not None
    assert (found.met, found.supports) == (2, None)
    assert found.statement == "2 of 3 recoveries met their RTO"
