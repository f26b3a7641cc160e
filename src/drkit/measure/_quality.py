"""Availability, latency, and the service-level objective of one series."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist

from hdrh.histogram import HdrHistogram

from drkit.measure._outage import in_send_order, longest_gap_ns, unstable_spans
from drkit.measure._settings import NS_PER_S, Settings
from drkit.model import (
    Attempt,
    Availability,
    ErrorClass,
    Interval,
    Latency,
    Mark,
    MarkKind,
    Outage,
    Outcome,
    Series,
)

_US_PER_S = 1_000_000
_SIGNIFICANT_DIGITS = 3


def availability(series: Series, outages: Sequence[Outage], settings: Settings) -> Availability:
    """Return the availability of one series over the time from its first send to its last completion."""
    attempts = series.attempts
    good = sum(a.outcome is Outcome.OK for a in attempts)
    first_ns = min((a.sent_ns for a in attempts), default=0)
    last_ns = max((a.done_ns for a in attempts), default=0)
    observed_s = (last_ns - first_ns) / NS_PER_S
    down = _down(series, outages, observed_s)
    return Availability(
        series=series.name,
        observed_s=observed_s,
        time_share_lo=_share(observed_s - down.hi_s, observed_s),
        time_share_hi=_share(observed_s - down.lo_s, observed_s),
        good=good,
        eligible=len(attempts),
        request_share=_share(good, len(attempts)),
        error_rate_upper95=error_rate_upper95(len(attempts) - good, len(attempts)),
        brownout_s=_brownout(series, outages, settings),
    )


def _down(series: Series, outages: Sequence[Outage], observed_s: float) -> Interval:
    if not outages:
        gap_ns = longest_gap_ns([a for a in in_send_order(series.attempts) if a.outcome is Outcome.OK])
        return Interval(0.0, observed_s if gap_ns is None else gap_ns / NS_PER_S)
    last_ns = max(a.done_ns for a in series.attempts)
    hi_s = sum(min(o.lasted.hi_s, (last_ns - o.start_lo_ns) / NS_PER_S) for o in outages)
    return Interval(sum(o.lasted.lo_s for o in outages), hi_s)


def unwatched_s(series: Series, marks: Sequence[Mark]) -> float:
    """Return how long nobody watched between a process that played the run and the one that went on, in seconds.

    From the last completion of a probe to the first send of the one that went on for it; to the end of the history if
    none did. 0 for what is no more than the period between two attempts.
    """
    resumed_ns = [m.t_lo_ns for m in marks if m.kind is MarkKind.RESUMED]
    over_ns = max((m.t_hi_ns for m in marks), default=0)
    lives = [[a.sent_ns < at_ns for a in series.attempts] for at_ns in resumed_ns]
    lives += [[a.seq < first for a in series.attempts] for _, first in series.unrecorded]
    gaps = set()
    for earlier in lives:
        done_ns = [a.done_ns for a, early in zip(series.attempts, earlier, strict=True) if early]
        sent_ns = [a.sent_ns for a, early in zip(series.attempts, earlier, strict=True) if not early]
        if done_ns:
            gaps.add((max(done_ns), min(sent_ns, default=over_ns)))
    longer = [hi - lo for lo, hi in gaps if hi - lo > series.every_s * NS_PER_S]
    return sum(longer) / NS_PER_S


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def error_rate_upper95(failures: int, attempts: int) -> float:
    """Return the upper 95 % bound of the failure rate: 3/N with no failure, else Wilson's one-sided bound."""
    if attempts == 0:
        return 1.0
    if failures == 0:
        return min(1.0, 3 / attempts)
    z = NormalDist().inv_cdf(0.95)
    rate, z2n = failures / attempts, z * z / attempts
    return min(1.0, (rate + z2n / 2 + z * math.sqrt(rate * (1 - rate) / attempts + z2n / attempts / 4)) / (1 + z2n))


def latency_s(series: Series, attempt: Attempt) -> float | None:
    """Return how long a user waited, from the moment the request was due; None if an error came back instead.

    A time-out enters at τ at least and is never dropped; other failures are errors, not latencies.
    """
    waited_s = (attempt.done_ns - attempt.due_ns) / NS_PER_S
    if attempt.error is ErrorClass.TIMEOUT and attempt.outcome is not Outcome.OK:
        return max(waited_s, series.timeout_s)
    return waited_s if attempt.outcome is Outcome.OK else None


def latency(series: Series) -> Latency | None:
    """Return the latency of one series to three significant digits; None if nothing answered or timed out."""
    waits_us = [max(1, round(s * _US_PER_S)) for a in series.attempts if (s := latency_s(series, a)) is not None]
    if not waits_us:
        return None
    histogram = HdrHistogram(1, max(2, *waits_us), _SIGNIFICANT_DIGITS)
    for wait_us, times in Counter(waits_us).items():
        histogram.record_value(wait_us, times)

    def at(percentile: float) -> float:
        return float(histogram.get_value_at_percentile(percentile)) / _US_PER_S

    return Latency(series.name, len(waits_us), at(50), at(95), at(99), max(waits_us) / _US_PER_S)


def slo_restored(series: Series, settings: Settings, *, since_ns: int) -> tuple[int, int | None] | None:
    """Return the bracket, in ns, of the moment from which every window of W kept the SLO; hi None: never seen.

    Windows begin at the due time of an attempt at or after since_ns and count only if W was observed whole. lo is the
    send of the attempt that begins the last broken window (since_ns if none is broken), hi the completion of the next.
    None if not one whole window was observed.
    """
    attempts = [a for a in sorted(series.attempts, key=lambda a: (a.due_ns, a.seq)) if a.due_ns >= since_ns]
    broken = _broken_windows(series, attempts, settings)
    if not broken:
        return None
    if not any(broken):
        return since_ns, attempts[0].done_ns
    last = max(n for n, is_broken in enumerate(broken) if is_broken)
    return attempts[last].sent_ns, attempts[last + 1].done_ns if last + 1 < len(broken) else None


def _broken_windows(series: Series, attempts: Sequence[Attempt], settings: Settings) -> list[bool]:
    """Return for each attempt that begins a whole window whether the SLO was broken in it; attempts in due order.

    p95 is above its limit just when more than 5 % of the samples are, so counting is enough.
    """
    errors = [a.outcome is not Outcome.OK for a in attempts]
    waits = [latency_s(series, a) for a in attempts]
    limit_s, window_ns = settings.p95_s, settings.window_ns
    slow = [limit_s is not None and s is not None and s > limit_s for s in waits]
    broken: list[bool] = []
    end = n_errors = n_slow = n_waits = 0
    for begin, first in enumerate(attempts):
        while end < len(attempts) and attempts[end].due_ns < first.due_ns + window_ns:
            n_errors, n_slow, n_waits = n_errors + errors[end], n_slow + slow[end], n_waits + (waits[end] is not None)
            end += 1
        if end == len(attempts):
            break  # the window was not observed to its end
        too_many = settings.error_rate is not None and n_errors > settings.error_rate * (end - begin)
        broken.append(too_many or n_slow > 0.05 * n_waits)
        n_errors, n_slow, n_waits = n_errors - errors[begin], n_slow - slow[begin], n_waits - (waits[begin] is not None)
    return broken


def _brownout(series: Series, outages: Sequence[Outage], settings: Settings) -> Interval:
    """Return how long the service answered but too slowly for the SLO, outside its outages.

    An error always opens an outage, so what is left is slowness: slow successes of broken windows, bracketed as
    failures are in an outage.
    """
    limit_s = settings.p95_s
    if limit_s is None:
        return Interval(0.0, 0.0)
    only_latency = Settings(window_s=settings.window_s, p95_s=limit_s)
    attempts = [
        a
        for a in sorted(series.attempts, key=lambda a: (a.due_ns, a.seq))
        if a.outcome is Outcome.OK and not any(_touches(a, o) for o in outages)
    ]
    bad: set[int] = set()
    end = 0
    for begin, is_broken in enumerate(_broken_windows(series, attempts, only_latency)):
        if is_broken:
            end = max(begin, end)
            while end < len(attempts) and attempts[end].due_ns < attempts[begin].due_ns + settings.window_ns:
                if attempts[end].done_ns - attempts[end].due_ns > limit_s * NS_PER_S:
                    bad.add(attempts[end].seq)
                end += 1
    spans = unstable_spans(series.name, attempts, window_ns=settings.window_ns, good=lambda a: a.seq not in bad)
    last_ns = max((a.done_ns for a in attempts), default=0)
    return Interval(
        sum(s.lasted.lo_s for s in spans),
        sum(max(s.lasted.lo_s, min(s.lasted.hi_s, (last_ns - s.start_lo_ns) / NS_PER_S)) for s in spans),
    )


def _touches(attempt: Attempt, outage: Outage) -> bool:
    return attempt.done_ns > outage.start_lo_ns and (outage.end_hi_ns is None or attempt.sent_ns < outage.end_hi_ns)
