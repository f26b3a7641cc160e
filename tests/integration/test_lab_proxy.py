"""The lab's network and load balancer: what a client of a cut, flipped, slow or dead path sees."""

from __future__ import annotations

import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from drkit import clock
from drkit.errors import LabError
from drkit.lab import ports
from drkit.lab.helper import Helper
from drkit.lab.proxy import OUTSIDE, Network

pytestmark = pytest.mark.lab

SILENCE_S = 0.3  # nothing came for so long: silence
PATIENT_S = 20.0  # what is to come may take so long on a busy machine


class Echo:
    """A server that sends back what it gets, with its letter in front of each connection's first bytes."""

    def __init__(self, letter: bytes) -> None:
        self.letter = letter
        self.heard = b""
        self._listener = ports.listener()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                client.sendall(self.letter)
                while data := client.recv(65_536):
                    self.heard += data
                    client.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    network = Network(tmp_path / "log")
    yield network
    network.stop()
    assert (tmp_path / "log").read_text() == ""


@pytest.fixture
def echo() -> Iterator[Echo]:
    with closing(Echo(b"A")) as server:
        yield server


@pytest.fixture
def other() -> Iterator[Echo]:
    with closing(Echo(b"B")) as server:
        yield server


def dial(port: int) -> socket.socket:
    return socket.create_connection((ports.HOST, port), timeout=PATIENT_S)


def is_silent(sock: socket.socket) -> bool:
    """Return whether nothing comes for a while, neither bytes nor an end."""
    sock.settimeout(SILENCE_S)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(PATIENT_S)
    return False


class TestLinks:
    def test_carries_both_ways_and_ends_with_both_ends(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=echo.port)
        with dial(port) as sock:
            assert sock.recv(1) == b"A"
            big = b"x" * 3_000_000
            sender = threading.Thread(target=sock.sendall, args=(big,), daemon=True)
            sender.start()
            got = 0
            while got < len(big):
                got += len(sock.recv(1 << 20))
            sender.join()
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
        clock.wait_until(lambda: network.connections() == {"l": 0}, "the flow is forgotten", timeout_s=PATIENT_S)

    def test_no_target_is_refused_and_the_port_stays_ours(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=None)
        with pytest.raises(ConnectionRefusedError):
            dial(port)
        with pytest.raises(OSError, match="taken"):
            ports.listener(port)
        for _ in range(2):
            network.lead(["l"], place="a/db", target=echo.port, reset=False)
            with dial(port) as sock:
                assert sock.recv(1) == b"A"
                network.lead(["l"], place="a/db", target=None, reset=True)
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)
            with pytest.raises(ConnectionRefusedError):
                dial(port)

    def test_a_dead_target_is_a_reset(self, network: Network) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=ports.free())
        with dial(port) as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)

    def test_a_taken_port_is_a_clear_error(self, network: Network, echo: Echo) -> None:
        with pytest.raises(LabError, match="taken"):
            network.listen("l", source=OUTSIDE, place="a/db", target=None, port=echo.port)

    def test_black_hole_closes_nothing_and_healing_delivers(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=echo.port)
        with dial(port) as old:
            assert old.recv(1) == b"A"
            network.cut("a/db")
            old.sendall(b"one")
            with dial(port) as new:
                new.sendall(b"two")
                assert is_silent(old)
                assert is_silent(new)
                assert echo.heard == b""
                network.heal("a/db")
                assert old.recv(3) == b"one"
                assert new.recv(1) == b"A"
                assert new.recv(3) == b"two"

    def test_who_gave_up_in_a_black_hole_is_never_heard_of(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=echo.port)
        network.cut("a/db")
        with dial(port) as sock:
            sock.sendall(b"lost")
        clock.wait_until(lambda: network.connections() == {"l": 0}, "the flow is forgotten", timeout_s=PATIENT_S)
        network.heal("a/db")
        with dial(port) as sock:
            assert sock.recv(1) == b"A"
        assert echo.heard == b""

    def test_a_server_that_dies_behind_a_cut_is_noticed_only_when_it_heals(self, network: Network) -> None:
        with ports.listener() as server:
            port = network.listen("l", source=OUTSIDE, place="a/db", target=server.getsockname()[1])
            with dial(port) as sock:
                accepted, _ = server.accept()
                network.cut("a/db")
                accepted.close()
                assert is_silent(sock)
                network.heal("a/db")
                assert sock.recv(1) == b""

    def test_either_end_cuts(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source="a/app", place="b/db", target=echo.port)
        for place in ("a/app", "b/db"):
            network.cut(place)
            with dial(port) as sock:
                assert is_silent(sock)
            network.heal(place)
        network.cut("c/app")
        with dial(port) as sock:
            assert sock.recv(1) == b"A"

    def test_a_flip_resets_all_but_those_who_cannot_be_reached(self, network: Network, echo: Echo, other: Echo) -> None:
        near = network.listen("near", source="a/app", place="a/db", target=echo.port)
        far = network.listen("far", source="b/app", place="a/db", target=echo.port)
        with dial(near) as cut_off, dial(far) as reached:
            assert (cut_off.recv(1), reached.recv(1)) == (b"A", b"A")
            network.cut("a/app")
            network.cut("a/db")
            network.lead(["near", "far"], place="b/db", target=other.port, reset=True)
            with pytest.raises(ConnectionResetError):
                reached.recv(1)
            assert is_silent(cut_off)
        with dial(far) as sock:
            assert sock.recv(1) == b"B"

    def test_a_flip_frees_who_hangs_in_connecting(self, network: Network, other: Echo) -> None:
        full = socket.socket()
        full.bind((ports.HOST, 0))
        full.listen(0)
        target = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(3)]  # more than its backlog: the next SYN is dropped
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex((ports.HOST, target))
        port = network.listen("l", source=OUTSIDE, place="a/db", target=target)
        with dial(port) as sock:
            assert is_silent(sock)
            network.lead(["l"], place="b/db", target=other.port, reset=False)
            assert sock.recv(1) == b"B"
        for sock in (*waiting, full):
            sock.close()

    def test_delay(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=echo.port)
        network.shape("l", delay_s=0.05)
        with dial(port) as sock:
            sock.recv(1)
            took_s = []
            for _ in range(8):
                before = time.monotonic()
                sock.sendall(b"ping")
                assert sock.recv(4, socket.MSG_WAITALL) == b"ping"
                took_s.append(time.monotonic() - before)
        assert all(t >= 0.1 for t in took_s)
        assert min(took_s) < 0.3  # the machine may hold up any of them, but not all

    def test_rate(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=echo.port)
        network.shape("l", rate_bytes_per_s=100_000)
        with dial(port) as sock:
            sock.recv(1)
            took_s = []
            for _ in range(4):
                before = time.monotonic()
                sock.sendall(b"x" * 50_000)
                got = 0
                while got < 50_000:
                    got += len(sock.recv(65_536))
                took_s.append(time.monotonic() - before)
        assert all(t >= 0.4 for t in took_s)
        assert min(took_s) < 1.5

    def test_ends_when_its_owner_is_killed(self, tmp_path: Path) -> None:
        program = (
            "import os, sys; from pathlib import Path; from drkit.lab.proxy import Network\n"
            "n = Network(Path(sys.argv[1])); print(n.listen('l', source='', place='a/db', target=1), flush=True)\n"
            "os.kill(os.getpid(), 9)"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "log")]
        port = int(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        clock.wait_until(lambda: not ports.taken(port), "the relay is gone", timeout_s=PATIENT_S)

    def test_a_new_connection_costs_less_than_two_milliseconds_more(self, network: Network, echo: Echo) -> None:
        port = network.listen("l", source=OUTSIDE, place="a/db", target=echo.port)

        def cost_s(at: int) -> float:
            before = time.monotonic()
            with dial(at) as sock:
                sock.recv(1)
            return time.monotonic() - before

        pairs = [(cost_s(echo.port), cost_s(port)) for _ in range(300)]  # in turns: what else runs slows both
        direct, through = (statistics.quantiles(costs, n=10)[0] for costs in zip(*pairs, strict=True))
        assert through - direct < 0.002


class Backend:
    """A target of the load balancer whose behaviour can be set: a status, "silent" or "half"."""

    def __init__(self) -> None:
        self.answer = "200"
        self.listener = ports.listener()
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept()
        self.listener.close()

    def _accept(self) -> None:
        with ExitStack() as held:
            while True:
                try:
                    client, _ = self.listener.accept()
                except OSError:
                    return
                self._serve(client, held)

    def _serve(self, client: socket.socket, held: ExitStack) -> None:
        if self.answer == "silent":
            held.enter_context(client)
            return
        with client, suppress(OSError):  # the balancer may have given up
            request = client.recv(65_536)
            if self.answer == "half":
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            else:
                body = json.dumps({"port": self.port, "request": request.decode()}).encode()
                client.sendall(f"HTTP/1.1 {self.answer} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


class Balancer:
    def __init__(self, log: Path) -> None:
        # Time-outs that a target on a busy machine does not miss: those that do must be silent.
        checks = {"every_s": 0.05, "timeout_s": 1.0, "unhealthy_after": 2, "healthy_after": 3, "target_timeout_s": 1.5}
        self.helper = Helper("drkit.lab.balancer", checks, log=log)
        self.port: int = self.helper.ask(do="open")["port"]

    def get(self, method: str = "GET", path: str = "/", body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(ports.HOST, self.port, timeout=PATIENT_S)
        with closing(connection):
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def health(self, name: str) -> tuple[str, str]:
        _, state, reason = self.helper.ask(do="health")["targets"][name]
        return state, reason

    def await_health(self, name: str, state: str) -> None:
        what = f"{name} is {state}"
        clock.wait_until(lambda: self.health(name)[0] == state, what, timeout_s=PATIENT_S, every_s=0.02)


class TestBalancer:
    @pytest.fixture
    def balancer(self, tmp_path: Path) -> Iterator[Balancer]:
        balancer = Balancer(tmp_path / "log")
        yield balancer
        balancer.helper.stop()
        assert (tmp_path / "log").read_text() == ""

    @pytest.fixture
    def backend(self, balancer: Balancer) -> Iterator[Backend]:
        backend = Backend()
        balancer.helper.ask(do="register", id="i-1", port=backend.port)
        balancer.await_health("i-1", "healthy")
        yield backend
        backend.close()

    def test_without_targets_503(self, balancer: Balancer) -> None:
        assert balancer.get()[0] == 503

    def test_requests_take_turns(self, balancer: Balancer, backend: Backend) -> None:
        second = Backend()
        with closing(second):
            balancer.helper.ask(do="register", id="i-2", port=second.port)
            balancer.await_health("i-2", "healthy")
            seen = [json.loads(balancer.get()[1])["port"] for _ in range(10)]
            assert seen.count(backend.port) == seen.count(second.port) == 5
            balancer.helper.ask(do="deregister", id="i-2")
            assert {json.loads(balancer.get()[1])["port"] for _ in range(4)} == {backend.port}

    def test_a_shift_leads_away_from_a_zone_unless_nobody_is_left(self, balancer: Balancer) -> None:
        with closing(Backend()) as here, closing(Backend()) as there:
            for zone, backend in (("a", here), ("b", there)):
                balancer.helper.ask(do="register", id=f"i-{zone}", port=backend.port, zone=zone)
                balancer.await_health(f"i-{zone}", "healthy")

            def seen() -> set[int]:
                return {json.loads(balancer.get()[1])["port"] for _ in range(6)}

            balancer.helper.ask(do="shift", away_from="a")
            assert seen() == {there.port}
            there.answer = "500"
            balancer.await_health("i-b", "unhealthy")
            assert {balancer.get()[0] for _ in range(4)} == {500}  # its own are used, healthy or not
            here.answer = "500"
            balancer.await_health("i-a", "unhealthy")
            here.answer = "201"  # no health check takes that for an answer
            assert {balancer.get()[0] for _ in range(4)} == {201, 500}  # nobody is healthy: the shift has no effect
            balancer.helper.ask(do="deregister", id="i-b")
            here.answer = "200"
            balancer.await_health("i-a", "healthy")
            assert seen() == {here.port}  # nobody else is left
            balancer.helper.ask(do="shift", away_from=None)
            assert seen() == {here.port}

    def test_a_body_is_carried(self, balancer: Balancer, backend: Backend) -> None:
        status, body = balancer.get("POST", "/orders/new", b"12345")
        assert status == 200
        request = json.loads(body)["request"]
        assert request.startswith("POST /orders/new HTTP/1.1\r\n")
        assert request.endswith("\r\n\r\n12345")
        assert "Connection: close" in request

    def test_silent_504_and_out_then_back(self, balancer: Balancer, backend: Backend) -> None:
        backend.answer = "silent"
        assert balancer.get()[0] == 504
        balancer.await_health("i-1", "unhealthy")
        assert balancer.health("i-1")[1] == "Target.Timeout"
        backend.answer = "200"
        balancer.await_health("i-1", "healthy")
        assert balancer.get()[0] == 200

    def test_half_an_answer_502(self, balancer: Balancer, backend: Backend) -> None:
        backend.answer = "half"
        assert balancer.get()[0] == 502

    def test_refused_502_and_out(self, balancer: Balancer, backend: Backend) -> None:
        backend.listener.shutdown(socket.SHUT_RDWR)
        backend.close()
        assert balancer.get()[0] == 502
        balancer.await_health("i-1", "unhealthy")
        assert balancer.health("i-1")[1] == "Target.FailedHealthChecks"
        assert balancer.get()[0] == 502  # none is healthy: all are used

    def test_a_wrong_status_is_passed_on_and_takes_it_out(self, balancer: Balancer, backend: Backend) -> None:
        backend.answer = "500"
        assert balancer.get()[0] == 500
        balancer.await_health("i-1", "unhealthy")
        assert balancer.health("i-1")[1] == "Target.ResponseCodeMismatch"

    @pytest.mark.parametrize("request_", [b"nonsense", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
    def test_nonsense_400(self, balancer: Balancer, backend: Backend, request_: bytes) -> None:
        with dial(balancer.port) as sock:
            sock.sendall(request_)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(65_536).startswith(b"HTTP/1.1 400")
