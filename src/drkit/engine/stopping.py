"""Ctrl-C, SIGTERM and a closed terminal, turned into an abort that is carried out in order."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def signals(abort: Callable[[str], None]) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into an abort; one that is ignored (nohup) stays so.

    A second one is the default again: it ends drkit, and the guardian puts things back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old: dict[int, Any] = {}

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, old[number])
        why = f"a person stopped it ({signal.Signals(number).name})"
        # From another thread: this one may be inside the very lock that the abort takes.
        threading.Thread(target=abort, args=(why,), name="abort", daemon=True).start()

    for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            old[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
