"""Harm of other kinds than a kill: signals, a stopped process, a dead guardian, a full disk, late calls, residue."""

from __future__ import annotations

import contextlib
import fcntl
import http.server
import os
import pty
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from drkit import clock
from drkit.engine.finish import record_of
from drkit.model import MarkKind, Verdict
from drkit.rundir import MANIFEST, RunDir
from drkit.targets.aws import Account

if TYPE_CHECKING:
    from conftest import Ground, Moment

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]


def also(*values: object) -> object:
    """Return a case that only the sweep runs: another of the same kind is in the gate."""
    return pytest.param(*values, marks=pytest.mark.sweep)


IN_THE_FAULTS = "line 5 of the undo journal"


def _guardian_of(run: RunDir) -> psutil.Process:
    (found,) = (
        p for p in psutil.process_iter(["cmdline"])
        if "drkit.guardian" in (p.info["cmdline"] or ()) and str(run.path) in p.info["cmdline"]
    )  # fmt: skip
    return found


def test_with_the_guardian_killed_too_drkit_undo_puts_back_and_seals_again(
    ground: Ground, moments: dict[str, Moment]
) -> None:
    process, run = ground.start()
    assert ground.until(process, run, moments[IN_THE_FAULTS])
    guardian = _guardian_of(run)
    process.send_signal(signal.SIGSTOP)  # both stand still before either dies: neither is to notice the other's death
    guardian.suspend()
    guardian.kill()
    process.kill()
    process.communicate()
    ground.wait_until_free()
    assert ground.pending(run)
    record = record_of(run)
    assert not record.ended
    assert record.judgement.verdict is not Verdict.PASS
    assert not run.sealed
    code, said = ground.say("undo", run.run_id)
    assert code == 0, said
    assert "network ACL" in said
    record = ground.check_put_back(run, by_guardian=False)
    assert record.ended
    assert run.broken_at() == ""
    _sha256sum_agrees(run)
    assert ground.say("undo", run.run_id)[0] == 0  # nothing left to do


def test_undo_of_a_sealed_run_seals_it_again(ground: Ground, moments: dict[str, Moment]) -> None:
    run, _ = ground.kill_at(moments["phase baseline begins"])
    ground.check_put_back(run)
    sealed = (run.path / MANIFEST).read_text()
    with (run.path / "undo.jsonl").open("a") as f:  # a record that nobody has carried out
        before = run.identity["before"]["acl_by_subnet"]
        subnet, acl = next(iter(before.items()))
        f.write(
            f'{{"seq":99,"verb":"restore_acl","args":{{"aws_region":"{ground.target.region}","subnet_id":"{subnet}",'
            f'"acl_id":"{acl}"}},"region":"","at_ns":1}}\n'
        )
    assert run.broken_at() == "undo.jsonl was added after the run was sealed"  # killed before there was any
    code, said = ground.say("undo", run.run_id)
    assert code == 0, said
    assert run.broken_at() == ""
    assert (run.path / MANIFEST).read_text() != sealed
    _sha256sum_agrees(run)


def test_without_its_guardian_drkit_stops_and_undoes_by_itself(ground: Ground, moments: dict[str, Moment]) -> None:
    process, run = ground.start()
    assert ground.until(process, run, moments["phase recovery begins"])
    _guardian_of(run).kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    record = ground.check_put_back(run, by_guardian=False)
    assert record.judgement.verdict is Verdict.ABORTED
    assert "guardian has died" in record.judgement.reasons[0].sentence
    assert run.broken_at() == ""


@pytest.mark.parametrize("where", [IN_THE_FAULTS, also("phase recovery begins")])
def test_a_drkit_that_stands_still_is_undone_and_breaks_nothing_when_it_goes_on(
    ground: Ground, moments: dict[str, Moment], where: str
) -> None:
    process, run = ground.start()
    assert ground.until(process, run, moments[where])
    process.send_signal(signal.SIGSTOP)
    clock.wait_until(lambda: run.sealed, "the guardian has finished the run", timeout_s=90)
    assert ground.left_behind(run) == ()
    assert "in use by " + run.run_id in ground.say("run", "az-failure")[1]  # it holds the target all the same
    process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 3, said
    record = ground.check_put_back(run)
    assert record.judgement.verdict is Verdict.ABORTED
    ground.passes()


def test_a_drkit_that_stands_still_and_is_killed_then_leaves_a_sealed_run(
    ground: Ground, moments: dict[str, Moment]
) -> None:
    process, run = ground.start()
    assert ground.until(process, run, moments[IN_THE_FAULTS])
    process.send_signal(signal.SIGSTOP)
    clock.wait_until(lambda: run.sealed, "the guardian has finished the run", timeout_s=90)
    process.kill()
    process.communicate()
    ground.check_put_back(run)


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("phase recovery begins", signal.SIGINT),
        ("phase baseline begins", signal.SIGTERM),
        also("phase recovery begins", signal.SIGTERM),
        also("phase recovery begins", signal.SIGHUP),
        also("phase baseline begins", signal.SIGINT),
        also("phase baseline begins", signal.SIGHUP),
    ],
)
def test_a_signal_aborts_and_puts_back(
    ground: Ground, moments: dict[str, Moment], number: signal.Signals, where: str
) -> None:
    process, run = ground.start()
    assert ground.until(process, run, moments[where])
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "Traceback" not in said
    record = ground.check_put_back(run, by_guardian=False)
    assert record.judgement.verdict is Verdict.ABORTED
    assert number.name in record.judgement.reasons[0].sentence
    assert record.ended
    assert run.broken_at() == ""


def test_an_ignored_hang_up_stays_ignored(ground: Ground, moments: dict[str, Moment]) -> None:
    process, run = ground.start(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # as nohup does
    assert ground.until(process, run, moments["phase recovery begins"])
    process.send_signal(signal.SIGHUP)
    ground.passed(process, run)


def test_a_second_ctrl_c_ends_drkit_and_the_guardian_puts_back(ground: Ground, moments: dict[str, Moment]) -> None:
    process, run = ground.start()
    assert ground.until(process, run, moments["phase recovery begins"])
    process.send_signal(signal.SIGINT)
    assert ground.until(process, run, moments["phase undo begins"])
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    assert "Traceback" not in said
    assert "interrupted again" in said
    ground.check_put_back(run)


def test_a_closed_terminal_aborts_and_puts_back(ground: Ground, moments: dict[str, Moment]) -> None:
    ours, theirs = pty.openpty()

    def take_the_terminal() -> None:
        import termios

        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process, run = ground.start(stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_the_terminal)
    os.close(theirs)
    read = threading.Thread(target=_drain, args=(ours,), daemon=True)
    read.start()
    assert ground.until(process, run, moments["phase recovery begins"])
    os.close(ours)
    process.wait(60)
    record = ground.check_put_back(run, by_guardian=False)
    assert record.judgement.verdict is Verdict.ABORTED
    assert "SIGHUP" in record.judgement.reasons[0].sentence


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 4096):
            pass
    except OSError:
        pass


def test_two_at_once_on_one_target_are_one_too_many(ground: Ground, moments: dict[str, Moment]) -> None:
    process, run = ground.start()
    runs = len(RunDir.all(ground.reports))
    code, said = ground.say("run", "az-failure")
    assert code == 4
    assert f"target lab is in use by {run.run_id}" in said
    assert "drkit abort" in said
    assert len(RunDir.all(ground.reports)) == runs
    ground.passed(process, run)


@pytest.mark.parametrize("where", [also("phase baseline begins"), IN_THE_FAULTS, also("phase recovery begins")])
def test_a_full_disk_stops_no_undo(ground: Ground, moments: dict[str, Moment], tmp_path: Path, where: str) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], capture_output=True).returncode:
        pytest.skip("only root may mount a small file system to fill")
    reports, ground.reports = ground.reports, small
    ground.environment["DRKIT_REPORTS"] = str(small)
    try:
        process, run = ground.start()
        assert ground.until(process, run, moments[where])
        _fill(small)
        said, _ = process.communicate(timeout=120)
        assert process.returncode not in (0, None), said
        assert "Traceback" not in said
        ground.wait_until_free()
        assert ground.processes_of(run) == []
        (small / "filler").unlink()
        left = [x for x in ground.left_behind(run) if not x.startswith("pending ")]  # its "done" had no room
        assert left == []
        assert record_of(run).judgement.verdict is not Verdict.PASS
        assert ground.say("undo", run.run_id)[0] == 0
        assert ground.left_behind(run) == ()
        assert run.broken_at() == ""
    finally:
        ground.reports = reports
        ground.environment["DRKIT_REPORTS"] = str(reports)
        subprocess.run(["umount", small], check=True)


def _fill(directory: Path) -> None:
    with (directory / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(b"x" * 4096):
            pass


@dataclass
class _Way:
    """A way to an endpoint. The first call of one action is held on it, whether its caller lives or not."""

    endpoint: str = ""
    held: threading.Event = field(default_factory=threading.Event)  # the call is on its way
    let_go: threading.Event = field(default_factory=threading.Event)  # set it, and the call goes on
    arrived: threading.Event = field(default_factory=threading.Event)  # the endpoint has answered it


@contextlib.contextmanager
def _slow(endpoint: str, action: str) -> Iterator[_Way]:
    way = _Way()

    class Way(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if f"Action={action}".encode() in body and not way.held.is_set():
                way.held.set()
                way.let_go.wait(60)
                self.answer(body)
                way.arrived.set()
            else:
                self.answer(body)

        def answer(self, body: bytes) -> None:
            request = urllib.request.Request(endpoint + self.path, data=body or None, method=self.command)  # noqa: S310
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "content-length"):
                    request.add_header(name, value)
            try:
                with urllib.request.urlopen(request) as r:  # noqa: S310
                    status, headers, said = r.status, r.headers, r.read()
            except urllib.error.HTTPError as e:
                status, headers, said = e.code, e.headers, e.read()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "content-length", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
            except OSError:
                self.close_connection = True

        do_GET = do_POST = do_PUT = do_DELETE = do  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Way)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    way.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield way
    finally:
        way.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("action", "verb"),
    [
        also("CreateNetworkAcl", "delete_deny_acl"),
        ("ReplaceNetworkAclAssociation", "restore_acl"),
        also("StopInstances", "start_instances"),
        also("UpdateAutoScalingGroup", "restore_asg_subnets"),
    ],
)
def test_a_call_that_arrives_after_its_undo_is_undone_again(ground: Ground, action: str, verb: str) -> None:
    assert ground.target.aws.endpoint_url
    with _slow(ground.target.aws.endpoint_url, action) as way:
        file = ground.home / "targets" / "lab.json"
        text = file.read_text()
        file.write_text(text.replace(ground.target.aws.endpoint_url, way.endpoint))
        try:
            process, run = ground.start()
        finally:
            file.write_text(text)
        assert ground.until(process, run, lambda _: way.held.is_set())
        assert verb in ground.pending(run)
        process.kill()
        process.communicate()
        clock.wait_until(lambda: (MarkKind.UNDO, verb) in _marks(run), "it is undone", timeout_s=60, every_s=0.01)
        assert not way.arrived.is_set()
        way.let_go.set()
        assert way.arrived.wait(60)
        ground.wait_until_free()
        ground.check_put_back(run)
    ground.passes()


def _marks(run: RunDir) -> list[tuple[MarkKind, str]]:
    return [(m.kind, m.name) for m in run.marks()]


def test_a_network_acl_left_behind_fails_the_run(ground: Ground, moments: dict[str, Moment]) -> None:
    assert ground.target.network
    process, run = ground.start()
    assert ground.until(process, run, moments["phase recovery begins"])
    ec2 = Account(ground.target).client("ec2")
    made = ec2.create_network_acl(VpcId=ground.target.network.vpc_id)["NetworkAcl"]["NetworkAclId"]
    ec2.create_tags(Resources=[made], Tags=[{"Key": "drkit:run", "Value": "nobody's"}])
    try:
        said, _ = process.communicate(timeout=120)
        record = record_of(run)
        assert record.judgement.verdict in (Verdict.FAIL, Verdict.INVALID)  # INVALID: a busy machine lost ticks as well
        left = [r for r in record.judgement.reasons if f"network ACL {made} was left behind" in r.sentence]
        assert [r.verdict for r in left] == [Verdict.FAIL]
        assert process.returncode == 5, said
        assert made in said
        assert ground.say("undo", run.run_id)[0] == 5  # not ours to delete: it is said again
    finally:
        ec2.delete_network_acl(NetworkAclId=made)
    assert ground.say("undo", run.run_id)[0] == 0


def _sha256sum_agrees(run: RunDir) -> None:
    tool = ["sha256sum"] if Path("/usr/bin/sha256sum").exists() else ["shasum", "-a", "256"]
    assert subprocess.run([*tool, "-c", MANIFEST], cwd=run.path, capture_output=True).returncode == 0
