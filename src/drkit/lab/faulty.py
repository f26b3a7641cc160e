"""A service that fails on command and knows exactly when: the truth that the instrument is held against.

    python -m drkit.lab.faulty [UPSTREAM_PORT]

Prints its port. Each line on stdin is a mode (`Mode`); the answer is {"lo_ns", "hi_ns"}: before lo_ns every decision
was made by the old mode, after hi_ns every one by the new. That holds because one thread does everything. Without an
upstream it answers HTTP itself; with one it passes bytes on to a PostgreSQL on that loopback port.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import resource
import selectors
import signal
import socket
import struct
import sys
from enum import StrEnum

from drkit import clock
from drkit.lab import ports

SLOW_S = 0.3  # how much later an answer comes while the service is slow

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_READ_ONLY = b"default_transaction_read_only\0on\0"


class Mode(StrEnum):
    UP = "up"
    REFUSE = "refuse"  # nobody listens; connections are reset
    BLACK_HOLE = "black-hole"  # what was or is sent is never answered, and nothing is closed
    RESET = "reset"  # connections are accepted and reset
    SLOW = "slow"  # every answer comes SLOW_S later
    READ_ONLY = "read-only"  # new sessions may only read, as behind an endpoint that leads to a standby


class _Connection:
    """One socket: a client's, or ours to the upstream; `other` is its partner."""

    def __init__(self, sock: socket.socket, *, upstream: bool = False) -> None:
        self.sock = sock
        self.upstream = upstream
        self.other: _Connection | None = None
        self.greeted = upstream  # whether the client's start-up message has been passed on
        self.asked = b""
        self.unsent = b""


class Service:
    """The listener, its connections and the mode they live under."""

    def __init__(self, upstream_port: int | None) -> None:
        self._upstream_port = upstream_port
        self._selector = selectors.DefaultSelector()
        self._listener = ports.listener()
        self._reserved: socket.socket | None = None
        self.port: int = self._listener.getsockname()[1]
        self._mode = Mode.UP
        self._live: set[_Connection] = set()
        self._swallowed: list[_Connection] = []  # held so that they stay open
        self._answers: list[tuple[int, int, _Connection]] = []  # due_ns, order, who
        self._listen(self._listener)
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ, "commands")
        self._typed = b""

    def serve(self) -> None:
        """Serve until stdin ends."""
        while True:
            wait_s = None
            if self._answers:
                wait_s = max(0, self._answers[0][0] - clock.now_ns()) / clock.NS_PER_S
            for key, events in self._selector.select(wait_s):
                match key.data:
                    case "commands":
                        if not self._obey():
                            return
                    case "listener" if self._mode is not Mode.REFUSE:  # it may have been closed a line ago
                        self._accept()
                    case _Connection() as connection if connection in self._live:
                        self._move(connection, events)
            while self._answers and self._answers[0][0] <= clock.now_ns():
                _, _, connection = heapq.heappop(self._answers)
                if connection in self._live:
                    self._answer(connection)

    # the mode, and the moments at which it changes

    def _obey(self) -> bool:
        data = os.read(0, 4096)
        if not data:
            return False
        *lines, self._typed = (self._typed + data).split(b"\n")
        for line in lines:
            mode = Mode(line.decode())
            lo_ns = clock.now_ns()
            self._change(mode)
            print(json.dumps({"lo_ns": lo_ns, "hi_ns": clock.now_ns()}), flush=True)  # noqa: T201  (the protocol)
        return True

    def _change(self, mode: Mode) -> None:
        was, self._mode = self._mode, mode
        if was is Mode.REFUSE and self._reserved is not None:
            self._reserved.listen(512)
            self._listener, self._reserved = self._reserved, None
            self._listen(self._listener)
        if mode is Mode.REFUSE:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._reserved = socket.socket()
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._reserved.bind((ports.HOST, self.port))
        if mode in (Mode.REFUSE, Mode.RESET):
            for connection in list(self._live):
                self._reset(connection)
        if mode is Mode.BLACK_HOLE:
            for connection in list(self._live):
                self._swallow(connection)

    def _listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, "listener")

    # connections

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(sock)
                self._live.add(connection)
                self._selector.register(sock, selectors.EVENT_READ, connection)
                if self._mode is Mode.RESET:
                    self._reset(connection)
                elif self._mode is Mode.BLACK_HOLE:
                    self._swallow(connection)
                elif self._upstream_port is not None:
                    self._dial(connection, self._upstream_port)

    def _dial(self, client: _Connection, port: int) -> None:
        sock = socket.create_connection((ports.HOST, port))  # loopback, and a server that is there: does not block
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = _Connection(sock, upstream=True)
        client.other, server.other = server, client
        self._live.add(server)
        self._selector.register(sock, selectors.EVENT_READ, server)

    def _move(self, connection: _Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._send(connection, b"")
            if not events & selectors.EVENT_READ:
                return
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
        elif self._upstream_port is None:
            self._hear(connection, data)
        elif connection.other is not None:
            self._send(connection.other, self._passed_on(connection, data))

    def _hear(self, connection: _Connection, data: bytes) -> None:
        connection.asked += data
        if b"\r\n\r\n" in connection.asked:
            if self._mode is Mode.SLOW:
                due_ns = clock.now_ns() + round(SLOW_S * clock.NS_PER_S)
                heapq.heappush(self._answers, (due_ns, id(connection), connection))
            else:
                self._answer(connection)

    def _answer(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            connection.sock.send(_ANSWER)
        self._close(connection)

    def _passed_on(self, connection: _Connection, data: bytes) -> bytes:
        """Return what goes to the other side: the start-up message asks for a read-only session in that mode."""
        if connection.greeted:
            return data
        connection.asked += data
        if len(connection.asked) < 8:
            return b""
        length, version = struct.unpack("!ii", connection.asked[:8])
        if len(connection.asked) < length:
            return b""
        message, connection.asked = connection.asked, b""
        connection.greeted = version >> 16 == 3  # else it asked for TLS first
        if connection.greeted and self._mode is Mode.READ_ONLY:
            return struct.pack("!i", length + len(_READ_ONLY)) + message[4 : length - 1] + _READ_ONLY + b"\0"
        return message

    def _send(self, connection: _Connection, data: bytes) -> None:
        connection.unsent += data
        try:
            sent = connection.sock.send(connection.unsent) if connection.unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return
        connection.unsent = connection.unsent[sent:]
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        self._selector.modify(connection.sock, wanted, connection)

    def _close(self, connection: _Connection) -> None:
        for end in (connection, connection.other):
            if end in self._live:
                self._forget(end)
                end.sock.close()

    def _reset(self, connection: _Connection) -> None:
        if connection in self._live and not connection.upstream:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._close(connection)

    def _swallow(self, connection: _Connection) -> None:
        self._forget(connection)
        self._swallowed.append(connection)

    def _forget(self, connection: _Connection) -> None:
        self._live.discard(connection)
        self._selector.unregister(connection.sock)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):  # ends with its stdin, that is, with its parent
        signal.signal(number, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192 if hard == resource.RLIM_INFINITY else min(8192, hard), hard))
    service = Service(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(service.port, flush=True)  # noqa: T201  (the protocol)
    service.serve()


if __name__ == "__main__":
    main()
