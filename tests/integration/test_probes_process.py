"""Probes as processes: open loop, exact about what they did not do, and hard to lose."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from drkit import clock, probes
from drkit.errors import RunDirError
from drkit.model import ErrorClass, Outcome, ProbeKind, Role, Series


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a socket whose kernel accepts connections, so that TCP attempts succeed."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as sock:
        stop = threading.Event()
        sock.settimeout(0.1)

        def accept() -> None:
            while not stop.is_set():
                try:
                    sock.accept()[0].close()
                except OSError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield sock
        stop.set()
        thread.join()


def tcp(listener: socket.socket, *, every_s: float = 0.02, timeout_s: float = 5) -> probes.ProbeSpec:
    return probes.ProbeSpec(
        name="tcp", kind=ProbeKind.TCP, role=Role.SERVICE, every_s=every_s, timeout_s=timeout_s,
        host="127.0.0.1", port=listener.getsockname()[1],
    )  # fmt: skip


@pytest.fixture
def probe(listener: socket.socket, tmp_path: Path) -> Iterator[probes.ProbeProcess]:
    running = probes.start(tcp(listener), tmp_path / "tcp.jsonl")
    seen(running, 5)
    yield running
    running.stop(timeout_s=2)


def seen(probe: probes.ProbeProcess, attempts: int, timeout_s: float = 30) -> None:
    tail = probes.Tail(probe.path)
    count = 0

    def enough() -> bool:
        nonlocal count
        count += len(tail.poll())
        return count >= attempts

    clock.wait_until(enough, f"{attempts} attempts", timeout_s=timeout_s, every_s=0.01)


def exactly_accounted(probe: probes.ProbeProcess) -> tuple[Series, set[int]]:
    """Assert that every tick was either attempted or skipped, and none twice; return the series, and what was skipped.

    A busy machine may cost ticks: that none is lost is not the claim, but that each one is told.
    """
    series = probes.read(probe.path)
    assert series.complete
    lines = [json.loads(line) for line in probe.path.read_text().splitlines()]
    skipped = [k for line in lines if "n" in line for k in range(line["k"], line["k"] + line["n"])]
    sent = [a.seq for a in series.attempts]
    assert all(a < b for a, b in pairwise(sent))
    assert sorted(sent + skipped) == list(range(series.ticks_due))
    late = sum(a.sent_ns - a.due_ns > series.every_s * clock.NS_PER_S for a in series.attempts)
    assert series.ticks_lost == len(skipped) + late
    return series, set(skipped)


def test_told_to_stop_it_ends_in_order(probe: probes.ProbeProcess) -> None:
    probe.stop()
    assert (probe.alive, probe.exit_code, probe.complaint) == (False, 0, "")
    series, _ = exactly_accounted(probe)
    assert len(series.attempts) >= 5
    assert {a.outcome for a in series.attempts} == {Outcome.OK}
    probe.stop()  # again: harmless


def test_ctrl_c_in_its_terminal_does_not_end_it(probe: probes.ProbeProcess) -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(probe.pid, number)
    seen(probe, len(probes.read(probe.path).attempts) + 5)
    assert probe.alive


def test_killed_it_leaves_a_readable_file_that_says_so(probe: probes.ProbeProcess) -> None:
    os.kill(probe.pid, signal.SIGKILL)
    clock.wait_until(lambda: not probe.alive, "the probe is dead", timeout_s=20)
    series = probes.read(probe.path)
    assert len(series.attempts) >= 5
    assert not series.complete
    assert probe.exit_code == -signal.SIGKILL


def test_stopped_for_a_while_it_counts_the_ticks_it_lost(probe: probes.ProbeProcess) -> None:
    os.kill(probe.pid, signal.SIGSTOP)
    stopped = psutil.STATUS_STOPPED
    clock.wait_until(lambda: psutil.Process(probe.pid).status() == stopped, "the probe stands still", timeout_s=20)
    stood_from_ns = clock.now_ns()
    clock.sleep_s(1.0)
    stood_to_ns = clock.now_ns()
    os.kill(probe.pid, signal.SIGCONT)
    seen(probe, len(probes.read(probe.path).attempts) + 10)
    probe.stop()
    series, skipped = exactly_accounted(probe)
    every_ns = round(series.every_s * clock.NS_PER_S)
    origin_ns = series.attempts[0].due_ns - series.attempts[0].seq * every_ns
    due_ns = {k: origin_ns + k * every_ns for k in range(series.ticks_due)}
    # All that came due meanwhile is lost but the last, which is not yet a period old: no burst makes up for it.
    stood = {k for k, at_ns in due_ns.items() if stood_from_ns < at_ns < stood_to_ns - every_ns}
    assert len(stood) >= (stood_to_ns - stood_from_ns) // every_ns - 2 >= 40
    assert stood <= skipped
    before = next(a for a in reversed(series.attempts) if a.sent_ns < stood_to_ns)
    after = next(a for a in series.attempts if a.sent_ns > stood_to_ns)
    assert before.sent_ns < stood_from_ns
    assert (after.seq - before.seq) * every_ns <= after.sent_ns - before.due_ns  # and no more than the time that passed


def test_without_a_parent_it_ends(listener: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "orphan.jsonl"
    parent = (
        "import sys, json, pathlib, drkit.probes as p\n"
        "probe = p.start(p.ProbeSpec.from_json(json.loads(sys.argv[1])), pathlib.Path(sys.argv[2]))\n"
        "print(probe.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent, json.dumps(tcp(listener).to_json()), str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        clock.wait_until(lambda: len(path.read_text().splitlines()) > 5, "attempts", timeout_s=20)
        process.kill()
    clock.wait_until(lambda: not psutil.pid_exists(pid), "the orphan has ended", timeout_s=20)
    series = probes.read(path)
    assert len(series.attempts) >= 4
    assert not series.complete


def test_when_its_disk_is_full_it_says_so(listener: socket.socket, tmp_path: Path) -> None:
    limited = (  # writing beyond the limit raises, as on a full disk
        "import sys; sys.dont_write_bytecode = True\n"  # one cut off in the midst would be there for everybody
        "import resource, runpy, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module('drkit.probes', run_name='__main__')\n"
    )
    path = tmp_path / "full.jsonl"
    probes.journal.create(tcp(listener), path)
    done = subprocess.run(
        [sys.executable, "-c", limited, "drkit.probes", str(path), str(os.getpid())],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 74
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
    series = probes.read(path)
    assert not series.complete
    assert len(series.attempts) > 3


def test_a_file_that_cannot_be_made_is_refused_at_once(listener: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="cannot write"):
        probes.start(tcp(listener), tmp_path / "file" / "tcp.jsonl")


@pytest.mark.timeout(240)
def test_its_memory_does_not_grow(listener: socket.socket, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as nobody:
        port = nobody.getsockname()[1]
    refused = probes.ProbeSpec(
        name="r", kind=ProbeKind.TCP, role=Role.SERVICE, every_s=0.0005, timeout_s=0.5, host="127.0.0.1", port=port
    )
    probe = probes.start(refused, tmp_path / "r.jsonl")
    try:
        seen(probe, 1500, timeout_s=90)
        early = psutil.Process(probe.pid).memory_info().rss
        seen(probe, len(probes.read(probe.path).attempts) + 8000, timeout_s=90)
        late = psutil.Process(probe.pid).memory_info().rss
    finally:
        probe.stop()
    assert late - early < 2_000_000  # bytes; 8000 attempts kept would be more
    assert {a.error for a in probes.read(probe.path).attempts} == {ErrorClass.REFUSED}


def test_starts_do_not_wait_for_answers(tmp_path: Path) -> None:
    """A server that accepts and says nothing: 50 starts a second go on, each ends when its own time is over."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as silent:
        spec = probes.ProbeSpec(
            name="h", kind=ProbeKind.HTTP, role=Role.SERVICE, every_s=0.02, timeout_s=0.6,
            url=f"http://127.0.0.1:{silent.getsockname()[1]}/",
        )  # fmt: skip
        probe = probes.start(spec, tmp_path / "h.jsonl")
        seen(probe, 100)
        probe.stop()
    series = probes.read(probe.path)
    assert series.complete
    assert {(a.outcome, a.error) for a in series.attempts} == {(Outcome.FAILED, ErrorClass.TIMEOUT)}
    waits_s = sorted((b.sent_ns - a.sent_ns) / 1e9 for a, b in pairwise(series.attempts))
    assert waits_s[len(waits_s) // 2] == pytest.approx(0.02, rel=0.1)
    last_ns = series.attempts[-1].sent_ns
    lasted_s = sorted((a.done_ns - a.sent_ns) / 1e9 for a in series.attempts if a.done_ns < last_ns)
    assert lasted_s[0] >= 0.6
    assert lasted_s[len(lasted_s) // 10] < 0.66
    assert lasted_s[-1] < 0.6 + waits_s[-1] + 0.2  # the machine may hold the probe up: then it starts nothing either
