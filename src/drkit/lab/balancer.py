"""The process that stands for an Application Load Balancer; what clients see is what they would see from one.

    python -m drkit.lab.balancer '{"every_s": …}'      commands on stdin, answers on stdout

Each request goes to the next healthy target. A target that refuses or breaks off is a 502, one that stays silent a 504,
no target at all a 503; nothing is tried twice. A target is healthy after its first good check, unhealthy after
`unhealthy_after` bad ones in a row, and back after `healthy_after` good ones. If none is healthy, all are used. In a
zone that is shifted away from, targets get no new request; where nobody would be left, or nobody is healthy anyway, a
shift has no effect. Sources: AWS, "Health checks for Application Load Balancer target groups" and "Troubleshoot your
ALBs"; ARC, "Supported resources" and "Application Load Balancers".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import sys
from dataclasses import dataclass
from typing import Any

from drkit.lab import ports
from drkit.lab.stdio import serve

_MAX_HEAD = 64 * 1024
_MAX_BODY = 4 * 1024 * 1024
_CLIENT_TIMEOUT_S = 10.0
_TITLES = {
    400: "Bad Request",
    408: "Request Timeout",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@dataclass(kw_only=True)
class Checks:
    every_s: float
    timeout_s: float
    unhealthy_after: int
    healthy_after: int
    target_timeout_s: float
    port: int = 0
    path: str = "/health"


class Target:
    """One registered target and what its checks say. `state`: initial | healthy | unhealthy."""

    def __init__(self, port: int, zone: str, checks: Checks) -> None:
        self.port = port
        self.zone = zone
        self.state = "initial"
        self.reason = "Elb.RegistrationInProgress"
        self._checks = checks
        self._streak = 0
        self.task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._count(await self._check())
            due = max(due + self._checks.every_s, loop.time())
            await asyncio.sleep(due - loop.time())

    async def _check(self) -> str:
        """Return "" if the target is well, else ELB's reason code."""
        request = f"GET {self._checks.path} HTTP/1.1\r\nHost: target\r\nConnection: close\r\n\r\n".encode()
        try:
            answer = await asyncio.wait_for(exchange(self.port, request), self._checks.timeout_s)
        except TimeoutError:
            return "Target.Timeout"
        except (OSError, EOFError):
            return "Target.FailedHealthChecks"
        return "" if answer.split(b" ", 2)[1:2] == [b"200"] else "Target.ResponseCodeMismatch"

    def _count(self, reason: str) -> None:
        good = not reason
        if self.state == "initial" and good:
            self.state, self.reason, self._streak = "healthy", "", 0
        elif good == (self.state == "healthy"):
            self._streak = 0
        else:
            self._streak += 1
            if self._streak >= (self._checks.healthy_after if good else self._checks.unhealthy_after):
                self.state, self.reason, self._streak = ("healthy" if good else "unhealthy"), reason, 0


class Balancer:
    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._targets: dict[str, Target] = {}
        self._away: str | None = None  # the zone that a zonal shift leads away from
        self._turn = itertools.count()

    async def open(self) -> int:
        sock = ports.listener(self._checks.port)
        await asyncio.start_server(self._client, sock=sock, limit=_MAX_HEAD, backlog=512)
        return int(sock.getsockname()[1])

    async def obey(self, message: dict[str, Any]) -> dict[str, Any]:
        match message["do"]:
            case "open":
                return {"port": await self.open()}
            case "register":
                if message["id"] not in self._targets:
                    self._targets[message["id"]] = Target(message["port"], message.get("zone", ""), self._checks)
            case "deregister":
                target = self._targets.pop(message["id"], None)
                if target is not None:
                    target.task.cancel()
            case "shift":
                self._away = message["away_from"]
            case "health":
                return {"targets": {name: [t.port, t.state, t.reason] for name, t in self._targets.items()}}
            case what:
                raise ValueError(f"unknown command {what}")
        return {}

    def _next(self) -> Target | None:
        known = list(self._targets.values())
        pool = [t for t in known if t.state == "healthy"]
        if pool and any(t.zone != self._away for t in known):
            left = [t for t in known if t.zone != self._away]
            pool = [t for t in left if t.state == "healthy"] or left
        pool = pool or known
        return pool[next(self._turn) % len(pool)] if pool else None

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await asyncio.wait_for(_request(reader), _CLIENT_TIMEOUT_S)
            if request:
                writer.write(await self._answer(request))
                await writer.drain()
        except (ValueError, asyncio.LimitOverrunError):
            writer.write(_own(400))
        except (OSError, EOFError, TimeoutError):
            pass  # the client went away
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, request: bytes) -> bytes:
        target = self._next()
        if target is None:
            return _own(503)
        try:
            return await asyncio.wait_for(exchange(target.port, request), self._checks.target_timeout_s)
        except TimeoutError:
            return _own(504)
        except (OSError, EOFError):
            return _own(502)


async def exchange(port: int, request: bytes) -> bytes:
    """Send a request that asks for `Connection: close`; return the whole answer.

    Raises OSError if the target refuses or resets, EOFError if it ends in the middle of its answer.
    """
    reader, writer = await asyncio.open_connection(ports.HOST, port)
    try:
        writer.write(request)
        answer = await reader.read(_MAX_BODY)
        while more := await reader.read(_MAX_BODY):
            answer += more
    finally:
        writer.transport.abort()
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap or len(body) < _length(head):
        raise EOFError("half an answer")
    return answer


async def _request(reader: asyncio.StreamReader) -> bytes:
    """Return one request as it will be sent on: for one answer, then close. Empty if the client only connected."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise ValueError("half a request") from error
        return b""
    size = _length(head)
    if size > _MAX_BODY:
        raise ValueError("request too large")
    body = await reader.readexactly(size) if size else b""
    lines = head[:-4].split(b"\r\n")
    kept = [line for line in lines if not line.lower().startswith((b"connection:", b"keep-alive:"))]
    return b"\r\n".join([*kept, b"Connection: close", b"", body])


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def _own(status: int) -> bytes:
    """Return an answer of the load balancer itself."""
    body = json.dumps({"error": f"{status} {_TITLES[status]}", "from": "load balancer"}).encode()
    head = f"HTTP/1.1 {status} {_TITLES[status]}\r\nServer: awselb/2.0\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_run(Checks(**json.loads(sys.argv[1]))))


async def _run(checks: Checks) -> None:
    await serve(Balancer(checks).obey)


if __name__ == "__main__":
    main()
