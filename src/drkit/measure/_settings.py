"""What the measuring needs to be told; everything else is in the history."""

from __future__ import annotations

from dataclasses import dataclass

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How a history is read. Written into the run's record, so that the same numbers can be had again.

    window_s: W, how long successes must last to count as restored, and the length of the SLO's sliding window. Choose
    it longer than every probe's time-out; 30 s on AWS, 3 s in the lab.
    p95_s, error_rate: the SLO behind SLO_RESTORED and brown-out; None is not part of the SLO.
    """

    window_s: float = 30.0
    p95_s: float | None = None
    error_rate: float | None = None

    def __post_init__(self) -> None:
        if not self.window_s > 0:
            raise ValueError(f"window_s must be more than 0, not {self.window_s}")

    @property
    def window_ns(self) -> int:
        return round(self.window_s * NS_PER_S)

    @property
    def has_slo(self) -> bool:
        return self.p95_s is not None or self.error_rate is not None
