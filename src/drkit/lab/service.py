"""The service under test: one process stands for one instance and answers over HTTP, one request a connection.

    python -m drkit.lab.service '{"instance": "i-…", "zone": "a", "database": port, …}'

    GET  /health       200 while the process lives; whether the database answers says nothing of this instance
    GET  /orders       the newest orders, read through the writer endpoint
    POST /orders/new   inserts an order (GET too, for curl); answers once it is committed

Trouble with the database is a 503 that says what. No query takes longer than its deadline, whatever the network does.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from drkit.lab import ports
from drkit.lab.pgwire import ServerError, Session, type_row

_MAX_HEAD = 32 * 1024
_CLIENT_TIMEOUT_S = 5.0
_STATUS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}
_BROKEN_SQLSTATES = ("08", "25006", "57P", "53300")  # this connection is of no more use


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    instance: str
    zone: str
    database: int  # port of the writer endpoint as seen from this zone
    dbname: str
    user: str
    query_timeout_s: float
    pool: int = 6
    threads: int = 24


class Pool:
    """At most `size` connections, made when needed, kept until they fail."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._free = threading.Semaphore(config.pool)
        self._idle: list[Session] = []

    def query(self, sql: str) -> list[type_row]:
        """Run a statement within the deadline; raises TimeoutError, OSError or ServerError."""
        limit_s = self._config.query_timeout_s
        if not self._free.acquire(timeout=limit_s / 4):
            raise TimeoutError("every database connection is busy")
        try:
            session = self._take(limit_s)
            try:
                rows = session.query(sql, timeout_s=limit_s)
            except ServerError as error:
                if error.sqlstate.startswith(_BROKEN_SQLSTATES):
                    session.close()
                else:
                    self._idle.append(session)
                raise
            except OSError:
                # The others are of the same age and most likely lead to the same place.
                while self._idle:
                    with contextlib.suppress(IndexError):
                        self._idle.pop().close()
                raise
            self._idle.append(session)
            return rows
        finally:
            self._free.release()

    def _take(self, limit_s: float) -> Session:
        with contextlib.suppress(IndexError):
            while True:
                session = self._idle.pop()
                if not session.stale:
                    return session
                session.close()
        config = self._config
        return Session((ports.HOST, config.database), user=config.user, dbname=config.dbname, timeout_s=limit_s)


class Service:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._pool = Pool(config)
        self._routes: dict[str, Callable[[], tuple[int, dict[str, Any]]]] = {
            "/health": lambda: (200, {"status": "ok"}),
            "/orders": self._list,
            "/orders/new": self._create,
        }

    def serve(self, listener: socket.socket) -> None:
        """Answer for ever; many threads run this side by side."""
        while True:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                client.settimeout(_CLIENT_TIMEOUT_S)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._one(client)

    def _one(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = client.recv(8192)
            if not chunk:
                return
            head += chunk
            if len(head) > _MAX_HEAD:
                client.sendall(self._answer(400, {"error": "request too large"}))
                return
        head, _, body = head.partition(b"\r\n\r\n")
        # The body says nothing we use, but closing on unread bytes would reset the connection.
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.strip().lower() == b"content-length" and value.strip().isdigit():
                missing = min(int(value), _MAX_HEAD) - len(body)
                while missing > 0 and (chunk := client.recv(8192)):
                    missing -= len(chunk)
        client.sendall(self._answer(*self._handle(head)))

    def _handle(self, head: bytes) -> tuple[int, dict[str, Any]]:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            return 400, {"error": "not an HTTP request"}
        method, path = words[0], words[1].partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            return 404, {"error": f"no {path} here"}
        if method not in {"GET", "HEAD", "POST"} or (method == "POST" and path != "/orders/new"):
            return 405, {"error": f"no {method} on {path}"}
        try:
            return route()
        except ServerError as error:
            return 503, {"error": f"database: {error}"}
        except OSError as error:
            return 503, {"error": f"database: {error or type(error).__name__}"}

    def _list(self) -> tuple[int, dict[str, Any]]:
        rows = self._pool.query("select id, zone, instance from orders order by id desc limit 5")
        return 200, {"orders": [{"id": int(r[0] or 0), "zone": r[1], "instance": r[2]} for r in rows]}

    def _create(self) -> tuple[int, dict[str, Any]]:
        config = self._config
        # A statement of its own is a transaction of its own: when rows come back it is committed.
        rows = self._pool.query(
            f"insert into orders (zone, instance) values ('{config.zone}', '{config.instance}') returning id"  # noqa: S608
        )
        return 201, {"id": int(rows[0][0] or 0)}

    def _answer(self, status: int, content: dict[str, Any]) -> bytes:
        where = {"instance": self._config.instance, "zone": self._config.zone}
        body = json.dumps({**content, **where}).encode()
        head = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    config = Config(**json.loads(sys.argv[1]))
    listener = ports.listener()
    service = Service(config)
    for _ in range(config.threads):
        threading.Thread(target=service.serve, args=(listener,), daemon=True).start()
    sys.stdout.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()  # until the parent is gone


if __name__ == "__main__":
    main()
