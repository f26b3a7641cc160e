"""The process that carries the lab's network: every TCP path between two places is a listener here.

    python -m drkit.lab.relay '{}'          commands on stdin, answers on stdout; `proxy.Network` is the parent's side

A link passes bytes, refuses, or is a black hole. In a black hole nothing is answered and nothing is closed: bytes are
held as TCP would go on sending them again, and delivered if the path heals. What stays different from a lost packet:
our own kernel acknowledges, so connecting succeeds and silence begins with the first answer that should have come.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
import socket
import struct
import sys
from collections import deque
from typing import Any, cast

from drkit.lab import ports
from drkit.lab.stdio import serve

_CONNECT_TIMEOUT_S = 0.25  # then the target is read again: it may have been flipped while we hung
_HELD_LIMIT = 256 * 1024  # bytes of one connection kept while it has nowhere to go
_SLICE_S = 0.02  # a throttled link sends in slices of this much time
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Link:
    """One listener and where it leads. `mode`: pass | refuse | blackhole; `target`: a loopback port, None refuses."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.target: int | None = None
        self.mode = "pass"
        self.delay_s = 0.0
        self.rate_bytes_per_s = 0.0
        self.flows: set[Flow] = set()
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None

    @property
    def open(self) -> bool:
        return self.mode == "pass"

    async def listen(self, port: int) -> None:
        if self._server is None:
            if self._reserved is not None:
                sock, self._reserved = self._reserved, None
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.listen(512)
            else:
                sock = ports.listener(port)
            self.port = sock.getsockname()[1]
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(lambda: Flow(self).near, sock=sock, backlog=512)

    def unlisten(self, *, reserve: bool) -> None:
        """Stop listening: the kernel then refuses. With `reserve` the port stays ours."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        if reserve:
            self._reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind((ports.HOST, self.port))
            # From now on nobody else may bind it, although they allow reuse as well.
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    async def set(self, change: dict[str, Any]) -> None:
        """Apply a change. Without `refuse` in it, everything happens before anything else in this process runs."""
        self.target = change.get("target", self.target)
        self.delay_s = change.get("delay_s", self.delay_s)
        self.rate_bytes_per_s = change.get("rate_bytes_per_s", self.rate_bytes_per_s)
        before, self.mode = self.mode, change.get("mode", self.mode)
        if change.get("drop"):
            self.drop()
        if self.mode == "refuse":
            self.unlisten(reserve=True)
        elif before == "refuse":
            await self.listen(self.port)
        for flow in list(self.flows):
            flow.mode_changed()

    def drop(self) -> None:
        for flow in list(self.flows):
            flow.reset()


class Flow:
    """One connection: the near end (our client) and the far end (the target), and what is on its way between them."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.near = End(self)
        self.far = End(self)
        self.near.other, self.far.other = self.far, self.near
        self.dialling: asyncio.Task[None] | None = None
        link.flows.add(self)

    def mode_changed(self) -> None:
        if self.link.open and self.far.transport is None:
            self.dial()
        self.near.adjust()
        self.far.adjust()

    def dial(self) -> None:
        if self.dialling is None and self.link.open:
            self.dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self.link.open:
                if self.link.target is None:
                    self.reset()
                    return
                sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    await asyncio.wait_for(loop.sock_connect(sock, (ports.HOST, self.link.target)), _CONNECT_TIMEOUT_S)
                except TimeoutError:
                    sock.close()
                    continue
                except OSError:
                    sock.close()
                    self.reset()
                    return
                except BaseException:
                    sock.close()
                    raise
                await loop.create_connection(lambda: self.far, sock=sock)
                return
        finally:
            self.dialling = None

    def reset(self) -> None:
        """End both sides at once; the client sees a reset connection."""
        self.link.flows.discard(self)
        if self.dialling is not None and self.dialling is not asyncio.current_task():
            self.dialling.cancel()
        self.near.reset()
        self.far.reset()


class End(asyncio.Protocol):
    """One end of a flow: what is read here is written to the other end, as the link allows."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.other: End = self
        self.transport: asyncio.Transport | None = None
        self.ended = False  # it will send no more
        self._queue: deque[tuple[float, bytes]] = (
            deque()
        )  # read here, not yet written there: (not before, bytes); b"" is the end
        self._queued_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._other_full = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        flow = self.flow
        if flow not in flow.link.flows:  # reset while we were connecting
            self.reset()
        elif self is flow.near:
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            flow.dial()
        else:
            self.adjust()
            flow.near.adjust()

    def data_received(self, data: bytes) -> None:
        link = self.flow.link
        there = self.other.transport
        if self._queue or there is None or not link.open or link.delay_s or link.rate_bytes_per_s:
            self._push(data)
        else:
            there.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        flow = self.flow
        if self is flow.near and flow.far.transport is None:
            flow.reset()  # our client gave up before it was let through: nobody ever hears of it
            return False
        self._push(b"")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        flow = self.flow
        if flow in flow.link.flows:
            if exc is not None or not flow.link.open or not self.ended:
                flow.reset()
            elif self.other.transport is None:
                flow.link.flows.discard(flow)

    def pause_writing(self) -> None:
        self.other._other_full = True
        self.other.adjust()

    def resume_writing(self) -> None:
        self.other._other_full = False
        self.other.adjust()

    # our side

    def adjust(self) -> None:
        """Read or do not read, and move on what waits, as the link and the other end are now."""
        link = self.flow.link
        through = link.open and self.other.transport is not None
        if through and self._queue and self._timer is None:
            self._move()
        limit = _HELD_LIMIT if not link.rate_bytes_per_s else max(4096, int(link.rate_bytes_per_s * 2 * _SLICE_S))
        if link.delay_s:
            limit = max(limit, 8 * 1024 * 1024)
        held = not link.open and self.flow.far.transport is not None
        pause = self._other_full or self._queued_bytes >= limit or held
        if self.transport is not None and pause != self._paused and not self.transport.is_closing():
            self._paused = pause
            if pause:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def reset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        if self.transport is not None:
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            self.transport.abort()

    def _push(self, data: bytes) -> None:
        self._queue.append((asyncio.get_running_loop().time() + self.flow.link.delay_s, data))
        self._queued_bytes += len(data)
        self.adjust()

    def _move(self) -> None:
        """Write what is due; come back for the rest."""
        self._timer = None
        loop = asyncio.get_running_loop()
        link, there = self.flow.link, self.other.transport
        while self._queue and link.open and there is not None:
            due, data = self._queue[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self._move)
                return
            self._queue.popleft()
            if not data:
                self._finish()
                return
            if link.rate_bytes_per_s:
                size = min(len(data), max(256, int(link.rate_bytes_per_s * _SLICE_S)))
                if size < len(data):
                    self._queue.appendleft((due, data[size:]))
                self._queued_bytes -= size
                there.write(data[:size])
                self._timer = loop.call_later(size / link.rate_bytes_per_s, self._again)
                return
            self._queued_bytes -= len(data)
            there.write(data)

    def _again(self) -> None:
        self._timer = None
        self.adjust()

    def _finish(self) -> None:
        """This end has said all; when both have, the connection is over."""
        there = self.other.transport
        if self.other.ended:
            self.flow.link.flows.discard(self.flow)
            for transport in (self.transport, there):
                if transport is not None:
                    transport.close()
        elif there is not None and not there.is_closing():
            with contextlib.suppress(OSError):
                there.write_eof()


class Relay:
    """All links of one lab, by name."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}

    async def obey(self, message: dict[str, Any]) -> dict[str, Any]:
        match message.pop("do"):
            case "listen":
                link = Link(message["name"])
                await link.listen(message.get("port", 0))
                await link.set(message)
                self._links[link.name] = link
                return {"port": link.port}
            case "set":
                for change in message["links"]:
                    await self._links[change["name"]].set(change)
                return {}
            case "close":
                link = self._links.pop(message["name"])
                link.unlisten(reserve=False)
                link.drop()
                return {}
            case "count":
                return {"connections": {name: len(link.flows) for name, link in self._links.items()}}
            case what:
                raise ValueError(f"unknown command {what}")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else max(soft, 65_536), hard)
        )
    json.loads(sys.argv[1])
    asyncio.run(serve(Relay().obey))


if __name__ == "__main__":
    main()
