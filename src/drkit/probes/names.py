"""Host names to addresses, off the loop's thread: getaddrinfo cannot be interrupted."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable

from drkit.probes.attempt import Address, Addresses, Lookup

_STARTED = 4
_LIMIT = 256  # threads stuck in a resolver that does not answer; glibc gives up after 10 s by default


def look_up(lookup: Lookup) -> Addresses:
    """Return a name's addresses in the resolver's order, however long that takes. Raises socket.gaierror."""
    try:
        found = socket.getaddrinfo(lookup.host, lookup.port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        raise
    except (OSError, UnicodeError) as error:
        raise socket.gaierror(socket.EAI_FAIL, str(error)) from error
    return tuple(  # IPv4 and IPv6 only: both have one of the two shapes
        Address(family, sockaddr)  # type: ignore[arg-type]
        for family, _, _, _, sockaddr in found
    )


class Resolver:
    """Looks names up in threads; answers come through `answers` after `wake` was called.

    More threads are started while all are stuck: a name server that is back must be seen by the next attempt, not when
    the resolver gives up on earlier ones.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.answers: queue.SimpleQueue[tuple[int, Addresses | socket.gaierror]] = queue.SimpleQueue()
        self._questions: queue.SimpleQueue[tuple[int, Lookup]] = queue.SimpleQueue()
        self._wake = wake
        self._threads = 0
        self._busy = 0
        self._lock = threading.Lock()
        for _ in range(_STARTED):
            self._start()

    def ask(self, number: int, lookup: Lookup) -> bool:
        """Have a name looked up; its answer will carry `number`. False: all threads are stuck, nothing was asked."""
        with self._lock:
            if self._busy >= self._threads:
                if self._threads >= _LIMIT:
                    return False
                self._start()
            self._busy += 1
        self._questions.put((number, lookup))
        return True

    def _start(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            number, lookup = self._questions.get()
            answer: Addresses | socket.gaierror
            try:
                answer = look_up(lookup)
            except socket.gaierror as error:
                answer = error
            with self._lock:
                self._busy -= 1
            self.answers.put((number, answer))
            self._wake()
