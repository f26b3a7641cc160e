"""Loopback ports. Listeners stay below 32768: above it the kernel hands ports to clients, at any time."""

from __future__ import annotations

import errno
import random
import socket

HOST = "127.0.0.1"
FIRST, LAST = 15_000, 32_000
_TRIES = 200


def listener(port: int = 0, *, backlog: int = 512) -> socket.socket:
    """Return a listening loopback socket on `port`, or on a free one below 32768 if it is 0; raises OSError."""
    for candidate in [port] if port else random.sample(range(FIRST, LAST), _TRIES):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((HOST, candidate))
            sock.listen(backlog)  # inside the loop: two processes may both have bound, only one can listen
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return sock
    raise OSError(errno.EADDRINUSE, f"port {port} on {HOST} is taken" if port else f"no free port on {HOST}")


def free() -> int:
    """Return a port that nothing listens on now; the one who uses it must be ready to find it taken."""
    with listener() as sock:
        return int(sock.getsockname()[1])


def taken(port: int) -> bool:
    """Return whether something listens on this loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((HOST, port)) == 0
