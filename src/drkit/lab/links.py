"""The plant's database servers by name, and what leads to whom: links of clients, of standbys, of the monitor."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from drkit.errors import LabError
from drkit.lab import template
from drkit.lab.postgres import Node
from drkit.lab.proxy import OUTSIDE, Network

if TYPE_CHECKING:
    from drkit.lab.nodes import PlantOptions

REPLICA = "r"  # the second region's node
REPLICA_ENDPOINT = "replica"  # its clients' link, also while there is no such node


def place_of(node: str) -> str:
    """Return the place that a node is in: its zone's, "a/db" or "r/db"."""
    return f"{node.partition('-')[0]}/db"


class Links:
    """Nodes, and where each link leads; whoever changes that holds `_changing`."""

    _network: Network
    _make_node: Callable[[str], Node]

    def __init__(self, directory: Path, options: PlantOptions) -> None:
        self.directory = directory.absolute()
        self.options = options
        self.pair = options.zones[:2] if options.multi_az else options.zones[:1]
        self.primary = options.zones[0]  # of the Multi-AZ pair
        self.writer = options.zones[0]  # the node that the writer endpoint leads to
        self.dbname = template.DBNAME
        self.user = template.USER
        self.nodes: dict[str, Node] = {}  # replaced, never changed: others walk through it meanwhile
        self.upstream: dict[str, str] = dict.fromkeys([*self.pair[1:], REPLICA], self.primary)  # standby → its source
        self._endpoints: dict[str, str] = {REPLICA_ENDPOINT: REPLICA}  # a client's link → the node that it leads to
        self._fenced: set[str] = set()
        self._roles = threading.RLock()  # changes of which node is what; use `_changing`
        self._closing = threading.Event()

    def _report(self) -> None:
        """Called when processes have changed."""

    def _node(self, name: str) -> Node:
        try:
            return self.nodes[name]
        except KeyError:
            raise LabError(f"no node {name} in this lab", hint=f"its nodes are {', '.join(self.nodes)}") from None

    def _source(self, node: str) -> str:
        return self.upstream.get(self._node(node).name, self.primary)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._roles:
            if self._closing.is_set():
                raise LabError("the lab is being stopped")
            yield

    def _lead_to_nodes(self) -> None:
        """Lead every link to where its node listens now."""
        for name in self.nodes:
            self._lead([f"monitor@{name}", *self._endpoints_of(name)], name, reset=False)
            if name in self.upstream:
                self._lead([f"stream@{name}"], self.upstream[name], reset=False)
        self._lead(self._writer_links(), self.writer, reset=False)

    def _endpoints_of(self, node: str) -> list[str]:
        return [name for name, there in self._endpoints.items() if there == node]

    def _lead(self, links: Iterable[str], node: str, *, reset: bool) -> None:
        """Lead links to a node; where it does not run they refuse: somebody else may have its port by now."""
        there = self.nodes.get(node)
        target = there.port if there is not None and there.running else None
        self._network.lead(links, place=place_of(node), target=target, reset=reset)

    def _writer_links(self) -> list[str]:
        return ["writer", *(f"writer@{zone}" for zone in (*self.options.zones, REPLICA))]

    # --- nodes and endpoints beyond the first -------------------------------------------------------------------------

    def add_node(self, name: str) -> Node:
        """Return a node with links and without data. What fills it is its maker's business; then `lead_to` it."""
        with self._changing():
            if name in self.nodes:
                raise LabError(f"node {name} is there already")
            node = self._make_node(name)
            self._open_links(name)
            self.nodes = {**self.nodes, name: node}
            self._report()
            return node

    def drop_node(self, name: str) -> None:
        """Delete a node that was added, with its data and its links; harmless if it is gone."""
        with self._roles:
            node = self.nodes.get(name)
            if node is None:
                return
            node.wipe()
            self._lead_to_nodes()
            self.upstream.pop(name, None)
            self._fenced.discard(name)
            self.nodes = {other: there for other, there in self.nodes.items() if other != name}
            for link in (f"monitor@{name}", f"stream@{name}"):
                self._network.close(link)
            self._lead_to_nodes()
            self._report()

    def open_endpoint(self, name: str, node: str, *, port: int = 0) -> int:
        """Open a link for clients that leads to a node, wherever it listens; return its port."""
        with self._changing():
            if name not in self._endpoints:
                self._listen_for_clients(name, place_of(node), port)
            self._endpoints[name] = node
            self._lead([name], node, reset=True)
            return self._network.link(name).port

    def close_endpoint(self, name: str) -> None:
        with self._roles:
            if self._endpoints.pop(name, None) is not None:
                self._network.close(name)

    def lead_to(self, node: str) -> None:
        """Lead all links of a node to where it listens now, and tell who cleans up that it is there."""
        with self._changing():
            self._fenced.discard(node)
            self._lead_to_nodes()
            self._report()

    def _listen_for_clients(self, name: str, place: str, port: int) -> None:
        try:
            self._network.listen(name, source=OUTSIDE, place=place, target=None, port=port)
        except LabError:
            if not port:
                raise
            self._network.listen(name, source=OUTSIDE, place=place, target=None)  # somebody has it by now

    def _open_links(self, name: str) -> None:
        place = place_of(name)
        source = place_of(self.upstream.get(name, self.primary))
        self._network.listen(f"monitor@{name}", source=OUTSIDE, place=place, target=None)
        self._network.listen(f"stream@{name}", source=place, place=source, target=None)
