"""The open loop: attempts start when they are due, whatever became of the earlier ones."""

from __future__ import annotations

import contextlib
import gc
import resource
import select
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from drkit import clock
from drkit.model import Attempt, ErrorClass, Outcome
from drkit.probes import journal
from drkit.probes.attempt import Addresses, Expired, InstrumentFailed, Lookup, Ready, Result, Steps, Wait, brief
from drkit.probes.names import Resolver
from drkit.probes.spec import IN_FLIGHT_LIMIT, ProbeSpec

_LOOK_ROUND_NS = 100_000_000  # how often the loop looks whether its parent is alive
_COLLECT_EVERY = 1000  # attempts between two collections of garbage, which is otherwise off


class Client(Protocol):
    """One kind of attempt."""

    def attempt(self, seq: int, sent_ns: int) -> Steps: ...


@dataclass(slots=True, eq=False)
class _Flight:
    seq: int
    due_ns: int
    sent_ns: int
    steps: Steps
    waits_on: int = -1  # registered descriptor


class Loop:
    """Runs one probe until it is told to stop, writing each attempt as it completes."""

    def __init__(self, spec: ProbeSpec, client: Client, writer: journal.Writer) -> None:
        self._client = client
        self._writer = writer
        self._first = spec.first_seq
        self._every_ns = round(spec.every_s * clock.NS_PER_S)
        self._timeout_ns = round(spec.timeout_s * clock.NS_PER_S)
        self._too_slow_ns = None if spec.too_slow_s is None else round(spec.too_slow_s * clock.NS_PER_S)
        self._flights: dict[int, _Flight] = {}  # in the order sent, so the first one's time is over first
        self._room = min(IN_FLIGHT_LIMIT + 64, _descriptors() - 64)
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        for end in (self._bell, self._rope):
            end.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._resolver = Resolver(self.wake)
        self._stopping = False
        self._next = 0  # the next tick's number
        self._lost = 0
        self._uncollected = 0

    def wake(self) -> None:
        """Make a waiting loop look round; may be called from any thread or signal handler."""
        with contextlib.suppress(BlockingIOError):
            self._rope.send(b".")

    def stop(self) -> None:
        """Start no more attempts; `run` returns once those under way have ended."""
        self._stopping = True
        self.wake()

    def run(self, parent_alive: Callable[[], bool]) -> bool:
        """Attempt at every tick; return True when told to stop, False when the parent is gone.

        Raises OSError if the probe's file cannot be written.
        """
        gc.collect()
        gc.freeze()
        gc.disable()
        origin_ns = clock.now_ns()
        looked_ns = origin_ns
        while True:
            now_ns = clock.now_ns()
            if not self._stopping:
                self._start_due(origin_ns, now_ns)
            self._expire()
            if self._stopping and not self._flights:
                self._writer.end(self._next, self._lost)
                return True
            if now_ns - looked_ns >= _LOOK_ROUND_NS:
                if not parent_alive():
                    return False
                looked_ns = now_ns
            self._wait(origin_ns, looked_ns)

    def _start_due(self, origin_ns: int, now_ns: int) -> None:
        """Start the attempts that are due. Ticks more than a period old are not made up for: they are lost."""
        stale = (now_ns - origin_ns) // self._every_ns - self._next
        if stale > 0:
            self._lose(self._first + self._next, stale, origin_ns + self._next * self._every_ns, "late")
            self._next += stale
        due_ns = origin_ns + self._next * self._every_ns
        if due_ns > now_ns:
            return
        seq, self._next = self._first + self._next, self._next + 1
        if len(self._flights) >= self._room:
            self._lose(seq, 1, due_ns, "too many attempts under way")
            return
        sent_ns = clock.now_ns()
        flight = _Flight(seq, due_ns, sent_ns, self._client.attempt(seq, sent_ns))
        self._flights[seq] = flight
        self._advance(flight, None)

    def _lose(self, seq: int, ticks: int, due_ns: int, why: str) -> None:
        self._lost += ticks
        self._writer.lost(seq, ticks, due_ns, why)

    def _expire(self) -> None:
        """End the attempts whose time is over, oldest first; an answer that came while we stood still is an answer."""
        looked = False
        while self._flights:
            flight = next(iter(self._flights.values()))
            if clock.now_ns() - flight.sent_ns < self._timeout_ns:
                return
            if looked:
                self._advance(flight, Expired())
            else:
                self._resume_ready()
                looked = True

    def _wait(self, origin_ns: int, looked_ns: int) -> None:
        """Sleep until a descriptor is ready, a tick is due or an attempt's time is over; resume what is ready."""
        until_ns = looked_ns + _LOOK_ROUND_NS
        if not self._stopping:
            until_ns = min(until_ns, origin_ns + self._next * self._every_ns)
        if self._flights:
            until_ns = min(until_ns, next(iter(self._flights.values())).sent_ns + self._timeout_ns)
        # epoll rounds its time-out up to whole milliseconds; select does not, and can wait for an epoll
        select.select([self._selector], (), (), max(0, until_ns - clock.now_ns()) / clock.NS_PER_S)
        self._resume_ready()

    def _resume_ready(self) -> None:
        for key, _ in self._selector.select(0):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
                self._take_answers()
                continue
            flight: _Flight = key.data
            if self._flights.get(flight.seq) is flight:  # it may have ended since the descriptors were looked at
                self._advance(flight, None)

    def _take_answers(self) -> None:
        while not self._resolver.answers.empty():
            seq, answer = self._resolver.answers.get()
            if seq in self._flights:
                self._advance(self._flights[seq], answer)

    def _advance(self, flight: _Flight, news: Addresses | Exception | None) -> None:
        """Resume an attempt with what it waited for, until it waits for something else or has ended."""
        if flight.waits_on >= 0:
            self._selector.unregister(flight.waits_on)
            flight.waits_on = -1
        try:
            wait = flight.steps.throw(news) if isinstance(news, Exception) else flight.steps.send(news)
            self._park(flight, wait)
        except StopIteration as ended:
            self._land(flight, ended.value)
        except Exception as error:  # noqa: BLE001  (an instrument's own failure is recorded, and it goes on)
            del self._flights[flight.seq]
            flight.steps.close()
            detail = str(error) if isinstance(error, InstrumentFailed) else repr(error)
            self._lose(flight.seq, 1, flight.due_ns, f"instrument: {brief(detail)}")

    def _park(self, flight: _Flight, wait: Wait) -> None:
        match wait:
            case Ready(fd, events):
                self._selector.register(fd, events, flight)
                flight.waits_on = fd
            case Lookup():
                if not self._resolver.ask(flight.seq, wait):
                    raise InstrumentFailed("every look-up of a name is stuck")

    def _land(self, flight: _Flight, result: Result) -> None:
        done_ns = clock.now_ns()
        del self._flights[flight.seq]
        too_slow = self._too_slow_ns is not None and done_ns - flight.sent_ns > self._too_slow_ns
        if result.outcome is Outcome.OK and too_slow:
            result = Result(Outcome.FAILED, ErrorClass.TOO_SLOW)
        attempt = Attempt(flight.seq, flight.due_ns, flight.sent_ns, done_ns, *result)
        self._lost += journal.is_late(attempt, self._every_ns)
        self._writer.attempt(attempt)
        self._uncollected += 1
        if self._uncollected >= _COLLECT_EVERY:
            self._uncollected = 0
            gc.collect()


def _descriptors() -> int:
    """Return how many descriptors this process may have, after asking for enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft if soft != resource.RLIM_INFINITY else wanted
