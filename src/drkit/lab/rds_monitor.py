"""The RDS host monitor: it watches the pair through the network, fails over by itself, and makes it a pair again."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

from drkit import clock
from drkit.errors import DrkitError
from drkit.lab import rds_events
from drkit.lab.database import AVAILABLE, Databases, Key
from drkit.lab.nodes import place_of

log = logging.getLogger("drkit.lab.rds_monitor")

REPLICA_MISSES = 6  # looks in a row without a stream, though nothing is cut: it has to be copied anew


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    every_s: float = 0.5
    failures: int = 2  # so many in a row before the primary (or the standby) counts as lost
    rebuild_after_s: float = 2.0  # how long the lost node's place must have been there before a standby is made again


class Monitor:
    """Two watches: the primary's, which fails over, and the standby's, which drops and rebuilds it."""

    def __init__(self, databases: Databases, settings: MonitorSettings) -> None:
        self._db, self._settings = databases, settings
        self._primary_misses = 0
        self._impossible_told = False
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._every, args=(look,), name=name, daemon=True)
            for name, look in (("rds-primary", self._look_at_primary), ("rds-standby", self._look_at_standby))
        ]
        self._standby_misses = 0
        self._replica_misses: dict[Key, int] = {}
        self._reachable_since_ns: int | None = None

    def start(self) -> None:
        self._look_at_replicas()  # whoever asks first is told whether it replicates
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def _every(self, look: object) -> None:
        assert callable(look)
        period_ns = int(self._settings.every_s * clock.NS_PER_S)
        due_ns = clock.now_ns() + period_ns
        while not self._stop.wait(max(0.0, (due_ns - clock.now_ns()) / clock.NS_PER_S)):
            try:
                look()
            except DrkitError as e:
                log.warning("%s", e)
            except Exception:
                log.exception("monitor")
            due_ns = max(due_ns + period_ns, clock.now_ns())

    def _idle(self) -> bool:  # no property: it changes between two looks
        pair = self._db.pair
        return pair is not None and pair.status == AVAILABLE and not pair.is_replica

    def _look_at_primary(self) -> None:
        if not self._idle():
            self._primary_misses = 0
            return
        if self._db.plant.primary_alive(self._settings.every_s):
            self._primary_misses = 0
            self._impossible_told = False
            return
        self._primary_misses += 1
        log.info("the primary does not answer (%d of %d)", self._primary_misses, self._settings.failures)
        if self._primary_misses < self._settings.failures:
            return
        with self._db.acting:
            if not self._idle():  # somebody acted while we waited
                return
            if not self._db.standby_usable:
                if not self._impossible_told:
                    self._db.note(self._db.pair, rds_events.FAILOVER_IMPOSSIBLE)
                self._impossible_told = True
                return
            self._db.fail_over("The primary host of the RDS Multi-AZ instance is unhealthy.")
            self._primary_misses = 0
        self._db.on_writer_moved()

    def _look_at_standby(self) -> None:
        for chore in self._db.chores:
            chore()
        self._look_at_replicas()
        standby = self._db.standby
        pair = self._db.pair
        if not self._idle() or standby is None or not pair.multi_az or self._primary_misses:
            self._standby_misses = 0
            return
        if self._db.standby_lost:
            self._perhaps_rebuild(standby)
            return
        if self._db.plant.streaming(standby):
            self._standby_misses = 0
            self._db.show_redundancy(self._db.plant.in_sync())
            return
        self._db.show_redundancy(False)
        self._standby_misses += 1
        if self._standby_misses >= self._settings.failures:
            with self._db.acting:
                if (
                    self._idle()
                    and standby == self._db.standby
                    and self._db.plant.primary_alive(self._settings.every_s)
                ):
                    self._db.plant.drop_standby()  # commits wait no longer
                    self._db.standby_lost = True
                    self._reachable_since_ns = None
                    self._db.note(pair, rds_events.STANDBY_LOST)

    def _perhaps_rebuild(self, standby: str) -> None:
        if self._db.plant.is_cut(f"{standby}/db"):
            self._reachable_since_ns = None
            return
        if self._reachable_since_ns is None:
            self._reachable_since_ns = clock.now_ns()
        if (clock.now_ns() - self._reachable_since_ns) / clock.NS_PER_S < self._settings.rebuild_after_s:
            return
        self._reachable_since_ns = None
        self._db.plant.rebuild_standby(standby)
        if standby == self._db.standby:  # no failover came between
            self._db.standby_lost = False
            self._standby_misses = 0
            self._db.note(self._db.pair, rds_events.STANDBY_RESTORED)
            self._db.show_redundancy(self._db.plant.in_sync())

    def _look_at_replicas(self) -> None:
        for key in list(self._db.nodes):
            record = self._db.record(*key)
            if record is not None and record.is_replica and record.status == AVAILABLE and self._db.served(record):
                self._look_at_replica(key, record)

    def _look_at_replica(self, key: Key, replica: Any) -> None:
        """Tell whether a replica follows; after a failover that left it on another history, copy it anew.

        RDS replicates below the database between the pair, so there a replica survives every failover. Here it may have
        received more than the standby had.
        """
        db, source, node = self._db, self._db.source_of(replica), self._db.primary_of(replica)
        from_node = db.primary_of(source) if db.served(source) else None
        if node is None or from_node is None:
            self._tell(replica, "terminated")  # its source was deleted
            return
        streams = db.plant.streaming(node)
        cut = any(db.plant.is_cut(place_of(there)) for there in (node, from_node))
        self._replica_misses[key] = 0 if streams or cut else self._replica_misses.get(key, 0) + 1
        if self._replica_misses[key] >= REPLICA_MISSES:
            db.astray.add(key)
        # One on another history streams for an instant too: after a failover only a closer look counts.
        pair_comes_first = source is db.pair and db.standby is not None and db.standby_lost and source.multi_az
        if key in db.astray and not pair_comes_first and not cut and source.status == AVAILABLE:
            db.plant.refollow(node)  # asks first whether it can follow, and refuses if it was promoted meanwhile
            db.astray.discard(key)
            self._replica_misses[key] = 0
            streams = db.plant.streaming(node)
        self._tell(replica, "replicating" if streams and key not in db.astray else "error")

    def _tell(self, replica: Any, status: str) -> None:
        with self._db.cloud.lock:
            if replica.is_replica:  # it may have been promoted while we looked
                replica.status_infos = rds_events.replication(status)
