"""Whole runs by the command line: run, stop, kill, undo, judge again, list; on the session's lab."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from drkit import clock
from drkit import lab as labs
from drkit.lease import TargetLock
from drkit.rundir import RunDir
from drkit.targets import Target

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]


NOT_FAILED = ("pass", "inconclusive", "invalid")  # a busy machine may cost ticks; these tests are of the command line


class Desk:
    """A directory in which drkit is used on the session's lab."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root, self.home, self.reports = root, home, root / "reports"
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DRKIT_", "AWS_", "KUBECONFIG"))}
        self.environment = {**kept, "DRKIT_HOME": str(home)}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "drkit", *words],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def drkit(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=110)
        assert "Traceback" not in out + err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def json(self, *words: str, code: int = 0) -> Any:
        done = self.drkit(*words, "--json")
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout)

    def started(self, process: subprocess.Popen[str]) -> RunDir:
        """Wait until a run has broken something; return it."""

        def broken() -> bool:
            return any((p / "undo.jsonl").exists() for p in self.reports.glob("*")) or process.poll() is not None

        clock.wait_until(broken, "something is broken", timeout_s=90)
        assert process.poll() is None, process.communicate()
        return RunDir.find(self.reports, "last")

    def whole(self) -> None:
        clock.wait_until(lambda: labs.status(home=self.home).ok, "the lab is whole again", timeout_s=60, every_s=0.1)


@pytest.fixture
def desk(tmp_path: Path, lab: Target, lab_home: Path) -> Desk:
    return Desk(tmp_path, lab_home)


def test_a_run_is_judged_listed_reported_and_judged_again(desk: Desk) -> None:
    plan = desk.json("plan", "rds-failover")
    assert plan["target_kind"] == "lab"
    assert [e["call"] for e in plan["effects"]] == ["rds:RebootDBInstance"]
    drift = desk.drkit("run", "rds-failover", "--plan", "0123456789ab")
    assert drift.returncode == 4
    assert "the plan is now" in drift.stderr

    done = desk.drkit("run", "rds-failover", "--plan", plan["digest"][:12], "--json")
    told = json.loads(done.stdout)
    (run,) = told["runs"]
    assert run["verdict"] in NOT_FAILED, run["reasons"]
    code = 0 if run["verdict"] == "pass" else 3
    assert (done.returncode, told["exit_code"], run["lost_writes"], run["still_broken"]) == (code, code, 0, [])
    assert 0 <= run["rta"]["lo_s"] <= run["rta"]["hi_s"] < 60
    assert run["acknowledged_writes"] > 100
    assert Path(run["report"]).is_file()

    again = desk.json("measure", "last", code=code)
    assert (again["differs"], again["altered"], again["verdict"]) == ([], None, run["verdict"])
    assert {k: v for k, v in again.items() if k in run} == {k: v for k, v in run.items() if k in again}
    assert set(desk.json("report", "last")) == {"run_id", "md", "json", "html", "junit"}
    assert (
        desk.drkit("report", "last", "--format", "md").stdout
        == (desk.reports / run["run_id"] / "report.md").read_text()
    )
    assert json.loads(desk.drkit("report", "last", "--format", "json").stdout)["verdict"] == run["verdict"]
    assert desk.drkit("undo", "last").stdout.startswith("nothing to put back")

    (row,) = (r for r in desk.json("history")["runs"] if r["run_id"] == run["run_id"])
    assert (row["verdict"], row["state"], row["rta"]) == (run["verdict"], "sealed", run["rta"])

    directory = desk.reports / run["run_id"]
    history = directory / "history.jsonl"
    good = history.read_text()
    history.write_text(good.replace("fail-over", "fall-over", 1))
    forged = desk.drkit("measure", "last")
    assert forged.returncode in (1, 3)
    assert "ALTERED: history.jsonl is not what was written" in forged.stdout
    history.write_text(good)

    (directory / "run.json").write_text('{"run_id": ')
    damaged = desk.json("history")["runs"]
    assert [r["state"] for r in damaged] == ["damaged"]
    for command in ("measure", "report", "undo"):
        done = desk.drkit(command, "last")
        assert done.returncode == (0 if command == "report" else 3), done.stderr  # its report is there to be named
    shutil.rmtree(directory)
    gap = desk.json("history")
    assert gap["runs"] == []
    assert run["run_id"] in [m["run_id"] for m in gap["missing"]]


def _by_abort(desk: Desk, run: RunDir, process: subprocess.Popen[str]) -> None:
    refused = desk.drkit("lab", "down")  # the lab would be gone, and what the run broke could never be put back
    assert refused.returncode == 4
    assert f"in use by {run.run_id}" in refused.stderr
    so_far = desk.drkit("measure", "last")  # half of it, judged, would only frighten
    assert so_far.returncode == 2
    assert "is going on" in so_far.stderr
    assert desk.drkit("abort", run.run_id).returncode == 0


def _by_interrupt(desk: Desk, run: RunDir, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("stop", [_by_abort, _by_interrupt])
def test_a_run_that_is_stopped_puts_everything_back_and_nothing_follows(
    stop: Callable[[Desk, RunDir, subprocess.Popen[str]], None], desk: Desk
) -> None:
    with desk.start("run", "az-failure", "rds-failover", "--json") as process:
        run = desk.started(process)
        stop(desk, run, process)
        out, err = process.communicate(timeout=110)
    told = json.loads(out)
    assert process.returncode == told["exit_code"] == 3, err
    first, second = told["runs"]
    assert (first["verdict"], first["still_broken"]) == ("aborted", [])
    assert second == {
        "name": "rds-failover", "error": "not run: the run before was stopped", "hint": "", "exit_code": 3,
    }  # fmt: skip
    assert "Traceback" not in err
    desk.whole()


def _kill_with_guardian(process: subprocess.Popen[str]) -> None:
    """End drkit, its probes and its guardian at once, as a machine that loses power would.

    All stand still before the first dies: what is left alive for an instant longer must not undo anything.
    """
    drkit = psutil.Process(process.pid)
    drkit.suspend()
    children = drkit.children(recursive=True)  # no more are born now
    for child in children:
        child.suspend()
    for victim in (*children, drkit):
        victim.kill()
    psutil.wait_procs(children, timeout=10)
    process.communicate(timeout=30)


@pytest.mark.parametrize("local", [True, False], ids=["from the disk", "from the cloud"])
def test_what_a_lost_machine_left_broken_is_put_back(local: bool, desk: Desk) -> None:
    with desk.start("run", "az-failure") as process:
        run = desk.started(process)
        clock.wait_until(lambda: labs.status(home=desk.home).state == "degraded", "a zone is lost", timeout_s=30)
        _kill_with_guardian(process)
    (row,) = (r for r in desk.json("history")["runs"] if r["run_id"] == run.run_id)
    assert row["state"] == "unfinished"
    if local:
        assert desk.json("measure", "last", code=5)["still_broken"]
        done = desk.json("undo", "last")
        assert desk.json("measure", "last", code=3)["ended"]
    else:
        shutil.rmtree(run.path)
        nothing = desk.drkit("undo", "another-run", "--from-cloud")
        assert nothing.returncode == 2
        assert run.run_id in nothing.stderr
        done = desk.json("undo", run.run_id, "--from-cloud")
        assert desk.drkit("undo", run.run_id, "--from-cloud").returncode == 2
    assert done["undone"]
    assert done["still_broken"] == []
    desk.whole()


def test_a_target_in_use_is_refused(desk: Desk) -> None:
    lock = TargetLock(desk.home, "lab")
    try:
        lock.name("20261122T155410Z-az-failure-lab-3f9c")
        busy = desk.drkit("run", "rds-failover")
    finally:
        lock.close()
    assert busy.returncode == 4
    assert "error: target lab is in use by 20261122T155410Z-az-failure-lab-3f9c\nhint: " in busy.stderr
    assert not desk.reports.exists()


def test_init_then_run_in_a_new_repository(desk: Desk) -> None:
    assert desk.drkit("init").returncode == 0
    assert desk.drkit("doctor", "other-zone").returncode == 0
    done = desk.drkit("run", "other-zone")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert done.stdout.startswith("other-zone on lab: ")
    assert done.stdout.splitlines()[1].startswith("LAB run")
    assert "data: 0 lost of " in done.stdout
    assert "report: reports/" in done.stdout
