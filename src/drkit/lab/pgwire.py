"""A PostgreSQL client of one page: no password, simple queries, one deadline for everything it does.

The lab's own parts use it where libpq cannot keep a deadline below two seconds: a black-holed server must cost the
service and the host monitor exactly their time-out. Experiments and probes use psycopg, as applications do.
"""

from __future__ import annotations

import select
import socket
import struct
from pathlib import Path

from drkit.clock import NS_PER_S, now_ns

type_row = tuple[str | None, ...]
_PROTOCOL = 196_608  # 3.0


class ServerError(Exception):
    """The server answered with an error; `sqlstate` is its five-letter code."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(f"{message} ({sqlstate})")
        self.sqlstate = sqlstate


class Session:
    """One connection. Every method raises TimeoutError at its deadline, ServerError, or another OSError; after any of
    them but ServerError the connection is closed, for its answer might come later."""

    def __init__(self, address: tuple[str, int] | Path, *, user: str, dbname: str, timeout_s: float) -> None:
        deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
        if isinstance(address, Path):
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        else:
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""
        words = f"user\0{user}\0database\0{dbname}\0application_name\0drkit-lab\0\0".encode()
        try:
            self._sock.settimeout(timeout_s)
            self._sock.connect(str(address) if isinstance(address, Path) else address)
            self._sock.sendall(struct.pack("!ii", len(words) + 8, _PROTOCOL) + words)
            self._answer(deadline_ns)
        except BaseException:
            self.close()
            raise

    def query(self, sql: str, *, timeout_s: float) -> list[type_row]:
        """Run one or more statements and return the rows, every value as text."""
        body = sql.encode() + b"\0"
        try:
            self._sock.settimeout(timeout_s)
            self._sock.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
            return self._answer(now_ns() + int(timeout_s * NS_PER_S))
        except OSError:
            self.close()
            raise

    @property
    def stale(self) -> bool:
        """Whether an idle connection has something to say: a database speaks unasked only to end it."""
        return bool(select.select([self._sock], [], [], 0)[0])

    def close(self) -> None:
        self._sock.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, deadline_ns: int) -> list[type_row]:
        """Read up to ReadyForQuery. A fatal error ends the connection without one."""
        rows: list[type_row] = []
        error: ServerError | None = None
        while True:
            kind, body = self._message(deadline_ns, error)
            match kind:
                case b"Z":
                    if error is not None:
                        raise error
                    return rows
                case b"D":
                    rows.append(_row(body))
                case b"E":
                    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
                    error = ServerError(fields.get(b"C", ""), fields.get(b"M", ""))
                case b"R" if body[:4] != b"\0\0\0\0":
                    raise ServerError("28000", "the server asks for a password")

    def _message(self, deadline_ns: int, error: ServerError | None) -> tuple[bytes, bytes]:
        while len(self._pending) < 5 or len(self._pending) < 1 + struct.unpack_from("!i", self._pending, 1)[0]:
            remaining_s = (deadline_ns - now_ns()) / NS_PER_S
            if remaining_s <= 0:
                raise TimeoutError("no answer from the database in time")
            self._sock.settimeout(remaining_s)
            chunk = self._sock.recv(65_536)
            if not chunk:
                raise error or ConnectionResetError("the database closed the connection")
            self._pending += chunk
        size = 1 + struct.unpack_from("!i", self._pending, 1)[0]
        message, self._pending = self._pending[:size], self._pending[size:]
        return message[:1], message[5:]


def _row(body: bytes) -> type_row:
    values: list[str | None] = []
    at = 2
    for _ in range(struct.unpack_from("!h", body)[0]):
        (size,) = struct.unpack_from("!i", body, at)
        at += 4
        values.append(None if size < 0 else body[at : at + size].decode())
        at += max(size, 0)
    return tuple(values)
