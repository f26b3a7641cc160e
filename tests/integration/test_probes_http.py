"""What the HTTP probe makes of answers, half answers and none, over real sockets."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from drkit import clock, probes
from drkit.model import Attempt, ErrorClass, Outcome, ProbeKind, Role

Answer = Callable[[socket.socket], None]


class Server:
    """Gives every connection to `answer`, one at a time."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[bytes] = []
        self._answer = answer
        self._tls = tls
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._sock.settimeout(0.1)
        self.port: int = self._sock.getsockname()[1]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                conn, _ = self._sock.accept()
                conn.settimeout(20)
                with self._tls.wrap_socket(conn, server_side=True) if self._tls else conn as secure:
                    self.asked.append(secure.recv(4096))
                    self._answer(secure)
            except OSError:
                continue

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._sock.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(answer: Answer, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(answer, tls))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def says(data: bytes) -> Answer:
    return lambda conn: conn.sendall(data)


def hangs_up(conn: socket.socket) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    conn.close()


def first(
    url: str, path: Path, *, method: str = "GET", timeout_s: float = 5.0, too_slow_s: float | None = None
) -> Attempt:
    """Return the first attempt of a probe of this URL."""
    spec = probes.ProbeSpec(
        name="h", kind=ProbeKind.HTTP, role=Role.SERVICE, every_s=0.1, timeout_s=timeout_s, url=url, method=method,
        too_slow_s=too_slow_s,
    )  # fmt: skip
    probe = probes.start(spec, path / "h.jsonl")
    try:
        clock.wait_until(lambda: bool(probes.read(probe.path).attempts), "an attempt", timeout_s=20)
    finally:
        probe.stop()
    assert probe.complaint == ""
    return probes.read(probe.path).attempts[0]


OK = (Outcome.OK, None)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), OK),
        (says(b"HTTP/1.1 204 No Content\r\n\r\n"), OK),
        (says(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"), OK),
        (says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), OK),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000), OK),
        (says(b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"), (Outcome.FAILED, ErrorClass.OTHER)),
        (says(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), (Outcome.FAILED, ErrorClass.AUTH)),
        (says(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), (Outcome.FAILED, ErrorClass.SERVER_ERROR)),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"), (Outcome.FAILED, ErrorClass.RESET)),
        (
            says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"),
            (Outcome.FAILED, ErrorClass.RESET),
        ),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), (Outcome.FAILED, ErrorClass.OTHER)),
        (says(b""), (Outcome.FAILED, ErrorClass.RESET)),
        (hangs_up, (Outcome.FAILED, ErrorClass.RESET)),
    ],
)
def test_answers(
    serve: Callable[..., Server], tmp_path: Path, answer: Answer, found: tuple[Outcome, ErrorClass | None]
) -> None:
    attempt = first(f"http://127.0.0.1:{serve(answer).port}/x?y=1", tmp_path)
    assert (attempt.outcome, attempt.error) == found


def test_it_asks_as_a_client_does(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(says(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    first(f"http://localhost:{server.port}/a/b?c=d", tmp_path)  # localhost may be ::1 first: the next address is tried
    assert server.asked[0].startswith(b"GET /a/b?c=d HTTP/1.1\r\n")
    assert f"Host: localhost:{server.port}\r\n".encode() in server.asked[0]


def test_a_write_without_an_answer_is_unknown(serve: Callable[..., Server], tmp_path: Path) -> None:
    attempt = first(f"http://127.0.0.1:{serve(hangs_up).port}/", tmp_path, method="POST")
    assert (attempt.outcome, attempt.error) == (Outcome.UNKNOWN, ErrorClass.RESET)


def test_a_write_that_was_refused_certainly_failed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    attempt = first(f"http://127.0.0.1:{port}/", tmp_path, method="POST")
    assert (attempt.outcome, attempt.error) == (Outcome.FAILED, ErrorClass.REFUSED)


def test_a_late_answer_is_too_slow_and_keeps_its_latency(serve: Callable[..., Server], tmp_path: Path) -> None:
    def late(conn: socket.socket) -> None:
        clock.sleep_s(0.3)
        conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    attempt = first(f"http://127.0.0.1:{serve(late).port}/", tmp_path, timeout_s=5, too_slow_s=0.1)
    assert (attempt.outcome, attempt.error) == (Outcome.FAILED, ErrorClass.TOO_SLOW)
    assert attempt.done_ns - attempt.sent_ns >= 300_000_000


def test_a_name_that_does_not_exist_is_a_dns_failure(tmp_path: Path) -> None:
    attempt = first("http://no-such-host.invalid/", tmp_path, timeout_s=20)
    assert (attempt.outcome, attempt.error) == (Outcome.FAILED, ErrorClass.DNS)


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """Return a PEM file with the key and certificate of 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "drkit test")])
    now = clock.wall_utc()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "identity.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(("trusted", "found"), [(True, OK), (False, (Outcome.FAILED, ErrorClass.TLS))])
def test_https(
    serve: Callable[..., Server], tmp_path: Path, identity: Path, monkeypatch: pytest.MonkeyPatch,
    trusted: bool, found: tuple[Outcome, ErrorClass | None],
) -> None:  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(identity)
    server = serve(says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), tls)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(identity))
    attempt = first(f"https://127.0.0.1:{server.port}/", tmp_path)
    assert (attempt.outcome, attempt.error) == found
