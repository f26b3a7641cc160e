"""What every kind of attempt is made of.

An attempt is a generator: it yields what it waits for and returns a Result, so that one thread keeps thousands open and
no call of it can block. The loop resumes it, and throws Expired into it when its time (τ) is over.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
import ssl
from collections.abc import Generator
from typing import NamedTuple

from drkit.model import ErrorClass, Outcome

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
DETAIL_CHARS = 160


class Ready(NamedTuple):
    """Resume me when this descriptor can be read or written."""

    fd: int
    events: int


class Lookup(NamedTuple):
    """Resume me with the addresses of this name, or throw me its socket.gaierror."""

    host: str
    port: int


class Address(NamedTuple):
    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int]


class Result(NamedTuple):
    outcome: Outcome
    error: ErrorClass | None = None
    detail: str = ""


Addresses = tuple[Address, ...]
Wait = Ready | Lookup
Steps = Generator[Wait, Addresses | None, Result]

OK = Result(Outcome.OK)


class Expired(Exception):
    """Thrown into an attempt whose time is over."""


class InstrumentFailed(Exception):
    """The attempt was not really made, for a reason on our side: its tick is lost, and says nothing of the service."""


_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})


def failure(error: Exception) -> tuple[ErrorClass, str]:
    """Return the class of an error met on the way, and a short detail. Raises InstrumentFailed if it is our own."""
    match error:
        case Expired():
            return ErrorClass.TIMEOUT, ""
        case socket.gaierror():
            return ErrorClass.DNS, brief(error.strerror or "")
        case ssl.SSLError():
            return ErrorClass.TLS, brief(error.reason or str(error))
        case ConnectionRefusedError():
            return ErrorClass.REFUSED, ""
        case ConnectionResetError() | BrokenPipeError() | ConnectionAbortedError():
            return ErrorClass.RESET, ""
        case TimeoutError():
            return ErrorClass.TIMEOUT, brief(error.strerror or "")
        case OSError() if error.errno in _OURS:
            raise InstrumentFailed(os.strerror(error.errno)) from error
        case OSError():
            return ErrorClass.OTHER, brief(error.strerror or str(error))
        case _:
            raise error


def brief(text: str) -> str:
    return " ".join(text.split())[:DETAIL_CHARS]


def resolve(host: str, port: int) -> Generator[Wait, Addresses | None, Addresses]:
    """Return where a host is now: asked for each attempt, since a failover may move the name."""
    literal = _literal(host, port)
    if literal is not None:
        return (literal,)
    addresses = yield Lookup(host, port)
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return addresses


def _literal(host: str, port: int) -> Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.version == 4:
        return Address(socket.AF_INET, (host, port))
    return Address(socket.AF_INET6, (host, port, 0, 0))


def connect(host: str, port: int) -> Generator[Wait, Addresses | None, socket.socket]:
    """Return a connected, non-blocking socket; addresses are tried in the resolver's order, as clients do.

    Raises OSError of the last address tried.
    """
    addresses = yield from resolve(host, port)
    problem: OSError | None = None
    for address in addresses:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            code = sock.connect_ex(address.sockaddr)
            if code == errno.EINPROGRESS:
                yield Ready(sock.fileno(), WRITE)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0 and sock.getsockname() == sock.getpeername():
                code = errno.ECONNREFUSED  # nobody listens, and the kernel joined our port to itself: a known TCP trap
            if code:
                raise OSError(code, os.strerror(code))
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    if problem is None:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    raise problem
