"""Many runs of one scenario: mean, median, worst, and how much that many runs can prove."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median, stdev

from drkit.model import Interval, Verdict

_FEWEST_FOR_CI = 8


@dataclass(frozen=True, slots=True)
class Mttr:
    """The recovery times of n runs of one scenario. Bounds are infinite where a run that never recovered counts."""

    n: int
    never_recovered: int
    mean: Interval
    median: Interval
    worst: Interval
    ci95: Interval | None  # of the mean; from n >= 8
    met: int  # runs whose recovery time was certainly within the limit
    supports: float | None  # if all n were: with 95 % confidence at least this share of recoveries is

    def judge(self, limit_s: float) -> Verdict:
        """PASS, FAIL or INCONCLUSIVE as the mean's interval says."""
        return self.mean.judge(limit_s)

    @property
    def statement(self) -> str:
        """What so many recoveries within their RTO prove, for people."""
        if self.supports is None:
            return f"{self.met} of {self.n} recoveries met their RTO"
        sure = f"with 95 % confidence at least {self.supports:.0%} of recoveries do"
        return f"{self.n} of {self.n} recoveries met their RTO: {sure}"


def mttr(rtas: Sequence[Interval | None], *, limit_s: float) -> Mttr | None:
    """Return the summary of the recovery times of runs of the same scenario; None of no runs.

    limit_s: their RTO. None stands for a run that never recovered and whose bound is not known: it counts as
    "> limit_s", as an interval without upper bound counts with its own lower one. No run is dropped. Never mix drills
    with real incidents.
    """
    if not rtas:
        return None
    all_of = [Interval(limit_s, math.inf) if rta is None else rta for rta in rtas]
    los, his = [rta.lo_s for rta in all_of], [rta.hi_s for rta in all_of]
    n = len(all_of)
    mean = Interval(sum(los) / n, sum(his) / n)
    return Mttr(
        n=n,
        never_recovered=sum(math.isinf(hi) for hi in his),
        mean=mean,
        median=Interval(median(los), median(his)),
        worst=Interval(max(los), max(his)),
        ci95=_ci95(mean, los, his) if n >= _FEWEST_FOR_CI else None,
        met=(met := sum(rta.judge(limit_s) is Verdict.PASS for rta in all_of)),
        supports=0.05 ** (1 / n) if met == n else None,
    )


def _ci95(mean: Interval, los: Sequence[float], his: Sequence[float]) -> Interval:
    factor = _student_t975(len(los) - 1) / math.sqrt(len(los))
    hi_s = mean.hi_s + factor * stdev(his) if math.isfinite(mean.hi_s) else math.inf
    return Interval(max(0.0, mean.lo_s - factor * stdev(los)), hi_s)


def _student_t975(degrees: int) -> float:
    """Return Student's t at 97.5 %: Cornish and Fisher's expansion, within 0.04 % from 7 degrees on."""
    z = NormalDist().inv_cdf(0.975)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
