"""The HTTP probe: a fresh connection for each attempt, one request, the whole answer; redirects are not followed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Generator
from urllib.parse import urlsplit

from drkit import __version__
from drkit.model import ErrorClass, Outcome
from drkit.probes.attempt import OK, READ, WRITE, Expired, Ready, Result, Steps, Wait, brief, connect, failure
from drkit.probes.spec import ProbeSpec

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110, 9.2.1: doing them twice changes nothing
_HEAD_LIMIT_BYTES = 64 * 1024

_Steps = Generator[Wait, None, None]


class Http:
    """Attempts of one HTTP probe.

    2xx is OK, 5xx server-error, 401 and 403 auth, anything else other. A request that may change something (POST, …)
    and whose answer did not come, or was 5xx, is UNKNOWN: it may have been carried out.
    """

    def __init__(self, spec: ProbeSpec) -> None:
        url = urlsplit(spec.url)
        self._host = url.hostname or ""
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._port = url.port or (443 if self._tls else 80)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._head_only = spec.method == "HEAD"
        self._doubt = Outcome.FAILED if spec.method in _SAFE_METHODS else Outcome.UNKNOWN
        self._request = (
            f"{spec.method} {path} HTTP/1.1\r\nHost: {url.netloc}\r\nUser-Agent: drkit/{__version__}\r\n"
            f"Accept: */*\r\nConnection: close\r\n"
            + ("" if spec.method in _SAFE_METHODS else "Content-Length: 0\r\n")
            + "\r\n"
        ).encode()

    def attempt(self, seq: int, sent_ns: int) -> Steps:  # noqa: ARG002  (the loop calls every kind alike)
        asked = False
        sock: socket.socket | None = None
        try:
            sock = yield from connect(self._host, self._port)
            if self._tls is not None:
                sock = yield from _secure(sock, self._tls, self._host)
            asked = True
            yield from _send(sock, self._request)
            return (yield from self._answer(sock))
        except (OSError, Expired) as error:
            return Result(self._doubt if asked else Outcome.FAILED, *failure(error))
        finally:
            if sock is not None:
                sock.close()

    def _answer(self, sock: socket.socket) -> Steps:
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = yield from _receive(sock)
            received += chunk
            if not chunk:
                return Result(self._doubt, ErrorClass.RESET, "closed without an answer")
            if len(received) > _HEAD_LIMIT_BYTES:
                return Result(self._doubt, ErrorClass.OTHER, "no end of the answer's head")
        head, _, body = received.partition(b"\r\n\r\n")
        status = _status(head)
        if status is None:
            return Result(self._doubt, ErrorClass.OTHER, f"not an HTTP answer: {brief(head[:40].decode('latin-1'))}")
        if not self._head_only and not (yield from _whole_body(sock, head.lower(), body)):
            return Result(self._doubt, ErrorClass.RESET, "answer cut short")
        if 200 <= status < 300:
            return OK
        if status >= 500:
            return Result(self._doubt, ErrorClass.SERVER_ERROR, str(status))
        return Result(Outcome.FAILED, ErrorClass.AUTH if status in (401, 403) else ErrorClass.OTHER, str(status))


def _status(head: bytes) -> int | None:
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return None
    return int(words[1])


def _whole_body(sock: socket.socket, head: bytes, body: bytes) -> Generator[Wait, None, bool]:
    """Read the answer's body and forget it; return whether all of it came. Keeps no more than one chunk in memory."""
    length = _header(head, b"content-length")
    chunked = b"chunked" in (_header(head, b"transfer-encoding") or b"")
    if head.split(b" ", 2)[1] in (b"204", b"304"):
        return True
    wanted = int(length) if length is not None and length.isdigit() else None
    received, end = len(body), body[-5:]
    while not (end == b"0\r\n\r\n" if chunked else received == wanted):
        chunk = yield from _receive(sock)
        if not chunk:
            return not chunked and wanted is None  # without a length, the end of the connection is the end of the body
        received += len(chunk)
        end = (end + chunk)[-5:]
    return True


def _header(head: bytes, name: bytes) -> bytes | None:
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip() == name:
            return value.strip()
    return None


def _secure(sock: socket.socket, tls: ssl.SSLContext, host: str) -> Generator[Wait, None, socket.socket]:
    try:
        secure = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        sock.close()
        raise
    try:
        while True:
            try:
                secure.do_handshake()
            except ssl.SSLWantReadError:
                yield Ready(secure.fileno(), READ)
            except ssl.SSLWantWriteError:
                yield Ready(secure.fileno(), WRITE)
            else:
                return secure
    except BaseException:
        secure.close()
        raise


def _send(sock: socket.socket, data: bytes) -> _Steps:
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            yield Ready(sock.fileno(), WRITE)
        except ssl.SSLWantReadError:
            yield Ready(sock.fileno(), READ)


def _receive(sock: socket.socket) -> Generator[Wait, None, bytes]:
    while True:
        try:
            return sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            yield Ready(sock.fileno(), READ)
        except ssl.SSLWantWriteError:
            yield Ready(sock.fileno(), WRITE)
        except ssl.SSLEOFError:
            return b""
