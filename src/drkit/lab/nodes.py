"""The plant's database servers: who is primary, who follows, what is archived, and the verbs that change it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from drkit import clock
from drkit.errors import LabError, TimedOut
from drkit.lab import ports
from drkit.lab.archive import Archive, History
from drkit.lab.links import REPLICA, REPLICA_ENDPOINT, Links, place_of
from drkit.lab.pgwire import ServerError, Session
from drkit.lab.postgres import NodeRole

__all__ = ["REPLICA", "REPLICA_ENDPOINT", "Failover", "Nodes", "PlantOptions", "place_of"]

_FOLLOW_TIMEOUT_S = 3.0
_STREAM_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantOptions:
    """How the plant is built; the last three blocks are the load balancer's, the service's and the archive's times."""

    zones: tuple[str, ...] = ("a", "b", "c")  # the first holds the primary, the second the standby
    fsync: bool = False
    multi_az: bool = True  # False: no standby
    sync_standby: bool = True  # False: commits do not wait for the standby

    health_every_s: float = 0.5
    health_timeout_s: float = 0.4
    unhealthy_after: int = 2
    healthy_after: int = 2
    target_timeout_s: float = 2.0  # a target that is silent for so long: 504

    query_timeout_s: float = 1.0  # the service's deadline for a query: 503

    archive_timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Failover:
    """When each part of a failover was over, monotonic."""

    started_ns: int
    fenced_ns: int
    promoted_ns: int
    flipped_ns: int


class Nodes(Links):
    """The database half of a plant. Nodes are named by their zone, "r" is the second region's asynchronous replica.

    Others may be added: "<zone>-<anything>". Each node is in a place of its zone: "a/db", "r/db".
    Verbs are idempotent and thread-safe, and raise LabError (impossible as things are) or TimedOut.
    """

    def __init__(self, directory: Path, options: PlantOptions) -> None:
        super().__init__(directory, options)
        self._archive: Archive | None = None
        self.history: History  # of the pair, once there is an archive

    def alive(self, node: str, timeout_s: float) -> bool:
        """Return whether a node answers in time, as a host monitor sees it: over the network, with a new connection."""
        link = self._network.link(f"monitor@{self._node(node).name}")
        deadline_ns = clock.now_ns() + int(timeout_s * clock.NS_PER_S)
        try:
            address = (ports.HOST, link.port)
            with Session(address, user=self.user, dbname=self.dbname, timeout_s=timeout_s) as session:
                session.query("select 1", timeout_s=max(0.001, (deadline_ns - clock.now_ns()) / clock.NS_PER_S))
        except ServerError as error:
            return not error.sqlstate.startswith(
                "57P"
            )  # shutting down or starting up; else it answers, if only with no
        except OSError:
            return False
        return True

    def primary_alive(self, timeout_s: float) -> bool:
        return self.alive(self.primary, timeout_s)

    @property
    def standby(self) -> str | None:
        """The Multi-AZ pair's other node; None without Multi-AZ."""
        return next((name for name in self.pair if name != self.primary), None)

    def streaming(self, node: str) -> bool:
        """Return whether a node streams from its source over a network that carries it."""
        return self._stream(node) is not None

    def in_sync(self) -> bool:
        """Return whether the standby streams and holds what it should: commits wait for it, or it has caught up."""
        standby = self.standby
        if standby is None or (stream := self._stream(standby)) is None:
            return False
        sync_state, lag_bytes = stream
        return sync_state == "sync" if self.options.sync_standby else lag_bytes < 65_536

    def lag_bytes(self, node: str) -> int | None:
        """Return how much log a standby's source has that it has not; None if either does not answer."""
        try:
            ((here,),) = self._node(self._source(node)).query("select pg_current_wal_lsn()", timeout_s=1)
            ((lag,),) = self._node(node).query(
                f"select '{here}'::pg_lsn - greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())", timeout_s=1
            )
        except (OSError, ServerError):
            return None
        return max(0, int(lag or 0))

    def degrade_link(
        self, node: str, *, delay_s: float = 0.0, rate_bytes_per_s: float = 0.0, cut: bool = False
    ) -> None:
        """Make a standby's replication link slow, narrow or dead; with no arguments it is as new."""
        self._network.shape(
            f"stream@{self._node(node).name}", delay_s=delay_s, rate_bytes_per_s=rate_bytes_per_s, silent=cut
        )

    def failover(self, to: str) -> Failover:
        """Fence the primary, promote the standby, lead the writer endpoint to it.

        The old primary stays down until `rebuild_standby`. The second region's replica is led to the new primary and
        may be ahead of it: ask `rebuild_standby(REPLICA)`, which lets it follow if it can.
        """
        with self._changing():
            if to not in self.pair or to == self.primary:
                raise LabError(
                    f"cannot fail over to {to}: the pair is {', '.join(self.pair)} with primary {self.primary}"
                )
            if self._node(to).role() is not NodeRole.STANDBY:
                raise LabError(f"cannot fail over to {to}: it is no running standby")
            old = self.primary
            started_ns = clock.now_ns()
            self.fence(old)
            fenced_ns = clock.now_ns()
            self._node(to).promote()
            promoted_ns = clock.now_ns()
            self.primary = to
            if self.writer == old:
                self.flip_writer(to)
            moved = [name for name, node in self._endpoints.items() if node == old]
            self._endpoints.update(dict.fromkeys(moved, to))
            self._lead(moved, to, reset=True)
            flipped_ns = clock.now_ns()
            del self.upstream[to]
            followers = [old, *(name for name, source in self.upstream.items() if source == old)]
            self.upstream.update(dict.fromkeys(followers, to))
            self._lead([f"stream@{name}" for name in followers], to, reset=True)
            return Failover(started_ns, fenced_ns, promoted_ns, flipped_ns)

    def promote(self, node: str) -> None:
        """Make a standby a primary and change nothing else; where a node of the pair takes over, use `failover`.

        From now on nothing rebuilds it or lets it follow, unless `replicate` asks for that.
        """
        with self._changing():
            there = self._node(node)
            there.promote()
            self.upstream.pop(node, None)
            there.configure(primary_conninfo=None, synchronous_standby_names=None)

    def flip_writer(self, node: str) -> None:
        """Lead the writer endpoint to a node and reset its old connections, all at one instant."""
        with self._changing():
            self._node(node)
            self._lead(self._writer_links(), node, reset=node != self.writer)
            self.writer = node

    def fence(self, node: str) -> None:
        """Kill a node so that it accepts no write any more; only `rebuild_standby`, as a new copy, brings it back."""
        with self._changing():
            self._node(node).kill()
            self._fenced.add(node)
            self._lead([f"monitor@{node}"], node, reset=False)
            # What a narrow or slow link still holds would have been in the dead machine's memory.
            streams = [f"stream@{name}" for name in self.nodes]
            self._network.reset(s for s in streams if self._network.link(s).place == place_of(node))

    def drop_standby(self) -> None:
        """Let the primary go on alone: commits wait for nobody until `rebuild_standby`."""
        with self._changing():
            self._node(self.primary).configure(synchronous_standby_names=None)

    def rebuild_standby(self, node: str) -> None:
        """Bring a node about as a standby of the primary, in sync if it is the pair's; returns when it is.

        One that can still follow does; else it becomes a new copy. Raises LabError if it or the primary is cut off.
        """
        self.replicate(node, self.primary)

    def refollow(self, node: str) -> None:
        """Let a standby follow its source again, as a new copy if need be. Raises LabError if it is none any more."""
        with self._changing():
            if node not in self.upstream:
                raise LabError(f"{node} follows nobody: it was promoted")
            self.replicate(node, self.upstream[node])

    def replicate(self, node: str, source: str) -> None:
        """As `rebuild_standby`, with any running node as the source."""
        with self._changing():
            if node == source:
                raise LabError(f"{node} is the primary")
            for place in (place_of(node), place_of(source)):
                if self._network.is_cut(place):
                    raise LabError(f"cannot rebuild {node}: {place} is cut off", hint=f"heal {place} first")
            self._node(source)
            stays = self.upstream.get(node) == source and node not in self._fenced
            if not stays or self._node(node).role() is not NodeRole.STANDBY or not self._follows(node):
                self._renew(node, source)
            if node in self.pair and source == self.primary:
                self._demand_sync(self.primary)
                clock.wait_until(
                    self.in_sync,
                    f"standby {node} is in sync",
                    timeout_s=_STREAM_TIMEOUT_S,
                    every_s=0.02,
                    stop=self._closing,
                )

    def stop_database(self) -> None:
        """Stop primary and standby cleanly, the standby last so that it has everything."""
        with self._changing():
            for name in sorted(self.pair, key=lambda n: n != self.primary):
                self._node(name).stop()
            self._lead_to_nodes()

    def start_database(self) -> None:
        """Start primary and standby after `stop_database`; a fenced node stays down."""
        with self._changing():
            for name in self.pair:
                if name not in self._fenced:
                    self._node(name).start()
            self._lead_to_nodes()
            self._report()

    def restart_primary(self) -> None:
        self.restart_node(self.primary)

    def restart_node(self, name: str) -> None:
        with self._changing():
            self._node(name).stop()
            self.start_node(name)

    def stop_node(self, name: str) -> None:
        """Stop one node cleanly: its links refuse."""
        with self._changing():
            self._node(name).stop()
            self._lead_to_nodes()

    def start_node(self, name: str) -> None:
        with self._changing():
            self._node(name).start()
            self._lead_to_nodes()
            self._report()

    def remove_node(self, node: str) -> None:
        """Delete a node and its data; `rebuild_standby` makes it again."""
        with self._changing():
            if node == self.primary:
                raise LabError(f"{node} is the primary")
            self._remove(node)

    def remove_pair(self) -> None:
        """Delete the pair's nodes and their data, the primary too; `make_pair` makes the first of them again."""
        with self._changing():
            for node in self.pair:
                self._remove(node)

    def make_pair(self, primary: str, source: str) -> None:
        """Make a node of the removed pair a replica of any other node; once promoted it is the pair's primary."""
        with self._changing():
            if primary not in self.pair:
                raise LabError(f"{primary} is no node of the pair", hint=f"it has {', '.join(self.pair)}")
            self.primary = primary
            self.replicate(primary, source)

    def _remove(self, node: str) -> None:
        self._fenced.add(node)
        self._node(node).wipe()
        self.upstream.pop(node, None)
        self._lead_to_nodes()

    def _stream(self, node: str) -> tuple[str, int] | None:
        """Return (sync_state, lag in bytes) of a standby's stream, as its source has it; None if it has none."""
        if node not in self.upstream:
            return None
        link = self._network.link(f"stream@{node}")
        if link.silent or self._network.is_cut(link.source) or self._network.is_cut(link.place):
            return None  # the primary itself would notice only after wal_sender_timeout
        try:
            rows = self._node(self._source(node)).query(
                "select sync_state, coalesce(pg_current_wal_lsn() - flush_lsn, 0)::bigint from pg_stat_replication "  # noqa: S608
                f"where state = 'streaming' and application_name = '{node}'",
                timeout_s=1.0,
            )
        except (OSError, ServerError):
            return None
        return (rows[0][0] or "", int(rows[0][1] or 0)) if rows else None

    def _demand_sync(self, primary: str) -> None:
        standby = next((name for name in self.pair if name != primary), None)
        wanted = f"FIRST 1 ({standby})" if standby and self.options.sync_standby else None
        node = self.nodes[primary]
        node.configure(synchronous_standby_names=wanted)
        if node.running:
            # Commits wait for the standby only once the checkpointer has seen the reload; it does before a checkpoint.
            try:
                node.query("checkpoint", timeout_s=_STREAM_TIMEOUT_S)
            except (OSError, ServerError) as error:
                raise LabError(f"PostgreSQL {primary} does not take its settings: {error}") from error

    def _await_streaming(self, node: str) -> None:
        clock.wait_until(
            lambda: self.streaming(node),
            f"{node} streams from {self._source(node)}",
            timeout_s=_STREAM_TIMEOUT_S,
            every_s=0.02,
            stop=self._closing,
        )

    def _follows(self, node: str) -> bool:
        """Return whether a standby can follow its source, now or within a moment.

        One that had received more than the promoted standby cannot: its log is of another history. It may stream for an
        instant even so, and is found out by its timeline.
        """
        there, here = self._node(node), self._node(self._source(node))

        def follows() -> bool:
            try:
                wanted = here.query("select ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int")
                return self.streaming(node) and wanted == there.query("select received_tli from pg_stat_wal_receiver")
            except (OSError, ServerError):
                return False

        try:
            clock.wait_until(follows, f"{node} follows", timeout_s=_FOLLOW_TIMEOUT_S, every_s=0.05, stop=self._closing)
        except TimedOut:
            return False
        return True

    def _renew(self, name: str, source: str) -> None:
        node = self._node(name)
        self.upstream[name] = source
        node.clone(self._node(source))
        node.follow(self._network.link(f"stream@{name}").port)
        node.start()
        self._fenced.discard(name)
        self._lead([f"stream@{name}"], source, reset=True)
        self._lead([f"monitor@{name}", *self._endpoints_of(name)], name, reset=True)
        self._report()
        self._await_streaming(name)

    # --- archive ------------------------------------------------------------------------------------------------------

    def start_archive(self, *, endpoint_url: str, region: str, bucket: str, prefix: str = "orders-db") -> None:
        """Archive the pair's log to an existing bucket from now on. The first one counts; call it once."""
        with self._changing():
            if self._archive is None:
                self._archive = Archive(
                    self.directory / "archive", endpoint_url=endpoint_url, region=region, bucket=bucket,
                    reachable=lambda name: not self._network.is_cut(place_of(name)),
                )  # fmt: skip
                self.history = self.begin_history(prefix, self.pair)

    @property
    def archives(self) -> bool:
        """Whether there is an archive."""
        return self._archive is not None

    @property
    def archive(self) -> Archive:
        """Return the archive; raises LabError if the lab has none."""
        if self._archive is None:
            raise LabError("the lab has no archive", hint="start_archive comes first")
        return self._archive

    def begin_history(self, prefix: str, nodes: Iterable[str]) -> History:
        """Let the nodes of one instance archive their log under a prefix of its own, whichever is the primary."""
        there = [self._node(name) for name in nodes]
        return self.archive.begin(prefix, there, timeout_s=self.options.archive_timeout_s)

    def base_backup(self) -> str:
        """Back the primary up into the bucket; return the tar's key when the log it needs is archived too."""
        return self.back_up(self.primary, None)

    def back_up(self, node: str, history: History | None) -> str:
        """As `base_backup`, of any primary (None: the pair's history). It fails if its node does meanwhile."""
        archive = self.archive
        if self._network.is_cut(place_of(node)):
            raise LabError(f"cannot back up {node}: it is cut off")
        return archive.base_backup(self._node(node), history or self.history)
