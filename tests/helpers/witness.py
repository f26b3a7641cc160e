"""A client of nobody's: it tries to commit at two servers' own addresses, past every record, all the time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from drkit import clock
from drkit.errors import DrkitError
from drkit.targets import Target, postgres
from drkit.targets.aws import Database

EVERY_S = 0.05
LOOK_S = 0.5  # how often RDS is asked where the server is
Acknowledged = tuple[int, int]  # sent, done


class Committer(threading.Thread):
    """Commits at one instance, wherever RDS says that it is; `acknowledged` says when it did."""

    def __init__(self, target: Target, region: str, instance_id: str, insist: Callable[[], bool]) -> None:
        super().__init__(name=f"witness of {instance_id}", daemon=True)
        self._target, self._region, self._instance_id, self._insist = target, region, instance_id, insist
        self._over = threading.Event()
        self.acknowledged: list[Acknowledged] = []
        self.start()

    def run(self) -> None:
        database = Database(self._target, self._region)
        at: postgres.Endpoint | None = None
        looked_ns = 0
        while not self._over.wait(EVERY_S):
            try:
                if at is None or clock.now_ns() - looked_ns > LOOK_S * clock.NS_PER_S:
                    now = database.instance(self._instance_id)
                    at, looked_ns = (now.host, now.port), clock.now_ns()
                sent_ns = clock.now_ns()
                with postgres.connect(self._target, at=at, insist=self._insist(), timeout_s=2.0) as connection:
                    row = connection.execute("show transaction_read_only").fetchone()
                    if row is None or row[0] != "off":  # a message is written even so
                        continue
                    connection.execute("select pg_logical_emit_message(true, 'witness', '')")
                    self.acknowledged.append((sent_ns, clock.now_ns()))
            except DrkitError:
                continue  # not there, fenced, a replica, read-only

    def end(self) -> None:
        self._over.set()
        self.join(30)


class Witness:
    """Commits at the old writer, as long as it takes any, and at the new one from its first moment."""

    def __init__(
        self, target: Target, *, old: tuple[str, str], new: tuple[str, str], insist: Callable[[], bool] = lambda: True
    ) -> None:
        """old, new: region and identifier. insist: whether the old writer is written to although it says read-only."""
        self._of = lambda: (Committer(target, *old, insist), Committer(target, *new, lambda: True))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._old, self._new = self._of()
        for one in (self._old, self._new):
            self._stack.callback(one.end)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wrong(self) -> list[str]:
        """Return what speaks against one writer at a time: the old one took something when the new one had begun to."""
        old, new = self._old.acknowledged, self._new.acknowledged
        if not (old and new):
            return [f"the witness saw nothing: {len(old)} commits at the old writer, {len(new)} at the new one"]
        late = [done_ns for _, done_ns in old if done_ns >= min(sent_ns for sent_ns, _ in new)]
        return (
            [f"two writers at once: {len(late)} commits at the old one after the first at the new one"] if late else []
        )
