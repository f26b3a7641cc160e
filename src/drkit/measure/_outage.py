"""The outage bracket: from when to when a service gave no answer, as far as one open-loop probe can know.

The model behind it: the service is down in [S, X); the fate of an attempt is decided at some moment between its send s
and its completion c, and it succeeds just when that moment lies outside [S, X). Attempts overlap and complete in any
order. From this alone follows, with f for attempts that did not succeed and k for those that did:

    S <= c_f  and  X > s_f                 for every f
    s_k < S   or   X <= c_k                for every k

`tests/properties/test_measure_outage.py` searches every small schedule for a truth that the bracket misses.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from drkit.errors import Unmeasurable
from drkit.measure._settings import NS_PER_S, Settings
from drkit.model import Attempt, Interval, Outage, Outcome, Series


def outage(attempts: Sequence[Attempt]) -> Interval:
    """Return how long the service gave no answer, in seconds, from the first impact to the last restoration.

    attempts: one probe's attempts, times from one monotonic clock. A client only samples, so the outage began after the
    sending of the last success before the first failure, and was over when the first success after the last failure
    completed. With no failure, one may still hide between two successes.
    Raises Unmeasurable unless there is a success on both sides. Source: docs/measurement.md, "Outage".
    """
    ordered = in_send_order(attempts)
    failures = [a for a in ordered if a.outcome is not Outcome.OK]
    successes = [a for a in ordered if a.outcome is Outcome.OK]
    if not failures:
        gap_ns = longest_gap_ns(successes)
        if gap_ns is None:
            raise Unmeasurable(
                "fewer than two attempts succeeded", "let the probe run before, during and after the fault"
            )
        return Interval(0.0, gap_ns / NS_PER_S)
    bracket = _bracket(failures, _Successes(successes))
    if bracket.start_lo_ns is None:
        raise Unmeasurable("no attempt succeeded before the first failure", "start the probe well before the fault")
    if bracket.end_hi_ns is None:
        raise Unmeasurable(
            "no attempt succeeded after the last failure", "let the probe run until the service is stable"
        )
    return bracket.lasted


def outages(series: Series, settings: Settings) -> tuple[Outage, ...]:
    """Return the outages of one series in order of time; between two of them successes lasted at least window_s.

    The last one is not `recovered` if no run of successes that long followed it. One that began before the first
    success has the first send as its start_lo_ns and an infinite upper bound.
    """
    return unstable_spans(
        series.name, series.attempts, window_ns=settings.window_ns, good=lambda a: a.outcome is Outcome.OK
    )


def unstable_spans(
    name: str, attempts: Sequence[Attempt], *, window_ns: int, good: Callable[[Attempt], bool]
) -> tuple[Outage, ...]:
    """Return the spans in which attempts were not `good`, each ended by good ones that last window_ns.

    A run of good attempts lasts from its earliest completion to its last send: between two moments at which the service
    is known to have been up.
    """
    ordered = in_send_order(attempts)
    successes = _Successes([a for a in ordered if good(a)])
    clusters: list[list[Attempt]] = []
    up_since_ns: int | None = None
    up_until_ns = 0
    stable = True  # nothing is open
    for attempt in ordered:
        if good(attempt):
            up_since_ns = attempt.done_ns if up_since_ns is None else min(up_since_ns, attempt.done_ns)
            up_until_ns = attempt.sent_ns
            stable = stable or up_until_ns - up_since_ns >= window_ns
        else:
            if stable:
                clusters.append([])
            clusters[-1].append(attempt)
            up_since_ns, stable = None, False
    spans = []
    for n, failures in enumerate(clusters):
        bracket = _bracket(failures, successes)
        spans.append(bracket.outage(name, ordered[0].sent_ns, restored=stable or n + 1 < len(clusters)))
    return tuple(spans)


def in_send_order(attempts: Sequence[Attempt]) -> list[Attempt]:
    return sorted(attempts, key=lambda a: (a.sent_ns, a.seq))


def longest_gap_ns(
    successes: Sequence[Attempt],
    *,
    sent_from_ns: float = -math.inf,
    sent_before_ns: float = math.inf,
    done_after_ns: float = -math.inf,
) -> int | None:
    """Return the longest time from the send of a success to the first completion of those sent later, in ns.

    An outage that no attempt saw can hide in such a gap and nowhere else. Only gaps that begin in
    sent_from_ns..sent_before_ns count, and only completions after done_after_ns end one. None if there is no gap.
    successes: in send order.
    """
    longest: int | None = None
    next_done_ns: int | None = None
    for sent_ns, together in groupby(reversed(successes), key=lambda a: a.sent_ns):
        if next_done_ns is not None and sent_from_ns <= sent_ns < sent_before_ns:
            longest = max(longest or 0, next_done_ns - sent_ns)
        ended_ns = min((a.done_ns for a in together if a.done_ns > done_after_ns), default=None)
        if ended_ns is not None:
            next_done_ns = ended_ns if next_done_ns is None else min(next_done_ns, ended_ns)
    return longest


class _Successes:
    """The successes of a series, indexed once so that each of its outages is looked up in little time."""

    def __init__(self, in_order: Sequence[Attempt]) -> None:
        """in_order: in send order."""
        self._in_order = in_order
        self._sends = [k.sent_ns for k in in_order]
        self._first_done = list(accumulate((k.done_ns for k in reversed(in_order)), min))[::-1]
        by_done = sorted(in_order, key=lambda k: k.done_ns)
        self._dones = [k.done_ns for k in by_done]
        self._last_sent = list(accumulate((k.sent_ns for k in by_done), max))

    def first_done_of_sent_from(self, moment_ns: int) -> int | None:
        at = bisect_left(self._sends, moment_ns)
        return self._first_done[at] if at < len(self._sends) else None

    def last_sent_of_done_by(self, moment_ns: int) -> int | None:
        at = bisect_right(self._dones, moment_ns)
        return self._last_sent[at - 1] if at else None

    def sent_in(self, lo_ns: int, hi_ns: int) -> Sequence[Attempt]:
        return self._in_order[bisect_left(self._sends, lo_ns) : bisect_right(self._sends, hi_ns)]


@dataclass(frozen=True, slots=True)
class _Bracket:
    failures: Sequence[Attempt]
    start_lo_ns: int | None
    start_hi_ns: int
    end_lo_ns: int
    end_hi_ns: int | None
    lasted: Interval

    def outage(self, name: str, first_sent_ns: int, *, restored: bool) -> Outage:
        ended = restored and self.end_hi_ns is not None
        return Outage(
            series=name,
            start_lo_ns=first_sent_ns if self.start_lo_ns is None else self.start_lo_ns,
            start_hi_ns=self.start_hi_ns,
            end_lo_ns=self.end_lo_ns if ended else None,
            end_hi_ns=self.end_hi_ns if ended else None,
            lasted=self.lasted if ended else Interval(self.lasted.lo_s, math.inf),
            failures=dict(Counter(str(a.error or a.outcome) for a in self.failures)),
        )


def _bracket(failures: Sequence[Attempt], successes: _Successes) -> _Bracket:
    """Return the bracket of the span in which these failures lie; failures in send order, not empty.

    start_lo_ns: the last success that was over before the first failure was sent; true for flapping services too.
    end_hi_ns: the first completion among successes sent after some failure of the last outage was over. One outage is
    taken to explain as many of the last failures as one can, so a time-out sent just before the end need not be waited
    for.
    """
    start_hi_ns = min(f.done_ns for f in failures)
    end_lo_ns = max(f.sent_ns for f in failures)
    start_lo_ns = successes.last_sent_of_done_by(failures[0].sent_ns)
    ends = [successes.first_done_of_sent_from(f.done_ns) for f in failures]
    one_outage = all(end is None or end > end_lo_ns for end in ends)  # one outage can explain every attempt
    end_hi_ns = min((end for end in ends if end is not None and end > end_lo_ns), default=None)

    lo_ns = max(0, end_lo_ns - start_hi_ns)
    hi_ns: float = math.inf
    if start_lo_ns is not None and end_hi_ns is not None:
        hi_ns = end_hi_ns - start_lo_ns
        if one_outage:
            # A slow failure leaves both ends wide open, but not their distance: each success between them takes away
            # either the time before its send or the time after its completion.
            near = successes.sent_in(start_lo_ns, end_hi_ns)
            gap_ns = longest_gap_ns(near, sent_before_ns=start_hi_ns, done_after_ns=end_lo_ns)
            hi_ns = max(lo_ns, min(hi_ns, gap_ns if gap_ns is not None else hi_ns))
    return _Bracket(
        failures, start_lo_ns, start_hi_ns, end_lo_ns, end_hi_ns, Interval(lo_ns / NS_PER_S, hi_ns / NS_PER_S)
    )
