"""The lab's network as the rest of the lab speaks of it: links between places, some of them cut.

A *place* is a subnet's role in a zone ("a/app", "b/db"); "" is outside and is never cut. A link leads from one place to
another. A cut place is unreachable: every link from it or to it is a black hole, old connections included.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drkit.errors import LabError
from drkit.lab.helper import Helper

OUTSIDE = ""


@dataclass(frozen=True, slots=True)
class Link:
    """One path. `silent`: nothing answers at its far end; `target`: a loopback port, None: refused."""

    name: str
    port: int
    source: str
    place: str
    target: int | None
    silent: bool = False
    delay_s: float = 0.0
    rate_bytes_per_s: float = 0.0


class Network:
    """All links of one lab, carried by one process that ends with this one."""

    def __init__(self, log: Path) -> None:
        self._lock = threading.RLock()
        self._links: dict[str, Link] = {}
        self._cut: set[str] = set()
        self.helper = Helper("drkit.lab.relay", {}, log=log)

    def listen(self, name: str, *, source: str, place: str, target: int | None, port: int = 0) -> int:
        """Open a link and return its port; raises LabError if `port` is taken."""
        with self._lock:
            link = Link(name, 0, source, place, target)
            answer = self.helper.ask(do="listen", name=name, port=port, target=target, mode=self._mode(link))
            self._links[name] = replace(link, port=answer["port"])
            return self._links[name].port

    def close(self, name: str) -> None:
        with self._lock:
            if self._links.pop(name, None) is not None:
                self.helper.ask(do="close", name=name)

    def link(self, name: str) -> Link:
        with self._lock:
            try:
                return self._links[name]
            except KeyError:
                raise LabError(f"no link {name} in this lab") from None

    def lead(self, names: Iterable[str], *, place: str, target: int | None, reset: bool) -> None:
        """Lead links elsewhere, all at the same instant. With `reset` their old connections are reset at that instant,
        except where the client's own place is cut: no packet reaches it."""
        with self._lock:
            changed = [replace(self.link(name), place=place, target=target, silent=False) for name in names]
            self._apply(changed, drop={c.name for c in changed if reset and c.source not in self._cut})

    def shape(self, name: str, *, delay_s: float = 0.0, rate_bytes_per_s: float = 0.0, silent: bool = False) -> None:
        """Make a link slow, narrow or dead; with no arguments it is as new."""
        with self._lock:
            changed = replace(self.link(name), delay_s=delay_s, rate_bytes_per_s=rate_bytes_per_s, silent=silent)
            self._apply([changed])

    def reset(self, names: Iterable[str]) -> None:
        """Reset the connections of links."""
        with self._lock:
            changed = [self.link(name) for name in names]
            self._apply(changed, drop={c.name for c in changed})

    def cut(self, place: str) -> None:
        with self._lock:
            self._cut.add(place)
            self._apply(self._at(place))

    def heal(self, place: str) -> None:
        with self._lock:
            self._cut.discard(place)
            self._apply(self._at(place))

    def is_cut(self, place: str) -> bool:
        with self._lock:
            return place in self._cut

    def connections(self) -> Mapping[str, int]:
        """Return how many connections each link carries now."""
        counted: dict[str, int] = self.helper.ask(do="count")["connections"]
        return counted

    def stop(self) -> None:
        self.helper.stop()

    def _at(self, place: str) -> list[Link]:
        return [link for link in self._links.values() if place in (link.source, link.place)]

    def _mode(self, link: Link) -> str:
        if link.silent or link.source in self._cut or link.place in self._cut:
            return "blackhole"
        return "refuse" if link.target is None else "pass"

    def _apply(self, changed: Iterable[Link], drop: Iterable[str] = ()) -> None:
        changes: list[dict[str, Any]] = [
            {
                "name": link.name,
                "target": link.target,
                "mode": self._mode(link),
                "delay_s": link.delay_s,
                "rate_bytes_per_s": link.rate_bytes_per_s,
                "drop": link.name in drop,
            }
            for link in changed
        ]
        self._links.update({link.name: link for link in changed})
        if changes:
            self.helper.ask(do="set", links=changes)
