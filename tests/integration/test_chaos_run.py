"""Shipped experiments under plain Chaos Toolkit: accepted, aimed at DRKIT_TARGET only, put back whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drkit import clock
from drkit.errors import TargetBusy
from drkit.lease import TargetLock, holder
from drkit.model import MarkKind
from drkit.project import shipped
from drkit.rundir import RunDir
from drkit.targets import Target

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CHAOS = Path(sys.executable).parent / "chaos"
AZ_FAILURE = shipped("experiments") / "az-failure.yaml"


def chaos(*args: str, home: Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "DRKIT_"))}
    return subprocess.Popen(
        [str(CHAOS), "--no-version-check", *args],
        cwd=cwd,
        env={
            **kept,
            "DRKIT_HOME": str(home),
            "DRKIT_REPORTS": str(cwd / "reports"),
            "AWS_PROFILE": "none",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=90)
    return said


@pytest.mark.parametrize("path", sorted(shipped("experiments").glob("*.yaml")), ids=lambda p: p.stem)
def test_chaos_validate_accepts(path: Path, tmp_path: Path) -> None:
    process = chaos("validate", str(path), home=tmp_path, cwd=tmp_path)
    said = ended(process)
    assert process.returncode == 0, said


def test_chaos_run_breaks_and_puts_back(lab: Target, lab_home: Path, tmp_path: Path) -> None:
    said = ended(chaos("run", str(AZ_FAILURE), home=lab_home, cwd=tmp_path, DRKIT_TARGET="lab"))
    assert "Experiment ended with status: completed" in said
    (run,) = RunDir.all(tmp_path / "reports")
    marks = run.marks()
    undo = [json.loads(line) for line in (run.path / "undo.jsonl").read_text().splitlines()]
    assert {e["verb"] for e in undo if "verb" in e} >= {"restore_acl", "start_instances", "restore_asg_subnets"}
    assert {e["seq"] for e in undo if "seq" in e} == {e["done"] for e in undo if "done" in e}
    assert [m for m in marks if m.kind is MarkKind.CLEANED_UP]
    assert run.sealed
    assert [m.name for m in marks if m.kind is MarkKind.ACTIVITY] == ["lose-zone", "writer-leaves-zone"]
    assert [m.name for m in marks if m.kind is MarkKind.FAULT_REQUESTED] == ["lose-zone"]
    assert "lose-zone was never seen to take effect" in (run.path / "report.md").read_text()  # nobody measured

    # The journal of a drkit run has what chaoslib's own has, for its reporters.
    own = json.loads((tmp_path / "journal.json").read_text())
    ours = json.loads((run.path / "journal.json").read_text())
    assert set(own) - set(ours) <= {"experiment_hash", "vars"}, set(own) - set(ours)
    for key in ("status", "deviated", "start", "end", "duration", "node", "platform", "chaoslib-version", "experiment"):
        assert type(ours[key]) is type(own[key]), key
    assert _shape(ours["steady_states"]) == _shape(own["steady_states"])
    assert isinstance(ours["run"], list)
    assert all(set(r) >= {"activity", "status", "output", "start", "end", "duration"} for r in ours["rollbacks"])


def _shape(states: dict[str, Any]) -> set[str]:
    return set(states)


def test_chaos_run_refuses_without_a_target(lab: Target, lab_home: Path, tmp_path: Path) -> None:
    said = ended(chaos("run", str(AZ_FAILURE), home=lab_home, cwd=tmp_path))
    assert "DRKIT_TARGET is not set" in said
    assert "Steady state hypothesis is met" not in said
    assert not (tmp_path / "reports").exists()


def test_a_chaos_that_is_killed_is_undone_by_its_guardian(lab: Target, lab_home: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.yaml"
    slow.write_text(AZ_FAILURE.read_text().replace("timeout_s: 600", "pauses: {after: 60}"))
    process = chaos("run", str(slow), home=lab_home, cwd=tmp_path, DRKIT_TARGET="lab")
    try:

        def broken() -> bool:
            return any(r.path.joinpath("undo.jsonl").exists() for r in RunDir.all(tmp_path / "reports"))

        clock.wait_until(broken, "the zone is being lost", timeout_s=40)
        clock.sleep_s(1.0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=10)
    (run,) = RunDir.all(tmp_path / "reports")
    assert holder(run) is not None
    clock.wait_until(lambda: run.sealed, "the guardian has finished the run", timeout_s=60)
    kinds = {m.kind for m in run.marks()}
    assert {MarkKind.GUARDIAN, MarkKind.UNDO, MarkKind.CLEANED_UP, MarkKind.RUN_ENDED} <= kinds

    def free() -> bool:
        try:
            TargetLock(lab_home, "lab").close()
        except TargetBusy:
            return False
        return True

    clock.wait_until(free, "the guardian has let go of the target", timeout_s=60)
