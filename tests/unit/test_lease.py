"""One run a target at a time; a lease that lapses when its holder is gone, silent, or from before a reboot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drkit import clock, lease
from drkit.errors import TargetBusy
from drkit.lease import TargetLock
from drkit.model import MarkKind
from drkit.rundir import RunDir


def _lease(**changes: Any) -> dict[str, Any]:
    return {"pid": os.getpid(), "ttl_s": lease.TTL_S, "renewed_ns": clock.now_ns(), **changes}


def test_a_lease_that_was_just_renewed_by_a_living_process_is_held() -> None:
    assert not lease.lapsed(_lease())


@pytest.mark.parametrize("changes", [{"released": True}, {"abandoned": True}], ids=["released", "abandoned"])
def test_it_lapses(changes: dict[str, Any]) -> None:
    assert lease.lapsed(_lease(**changes))


@pytest.mark.parametrize("ago_s", [lease.TTL_S + 0.1, -3600], ids=["silent", "written before a reboot"])
def test_it_lapses_when_it_is_not_of_now(ago_s: float) -> None:
    assert lease.lapsed(_lease(renewed_ns=clock.now_ns() - int(ago_s * clock.NS_PER_S)))


def test_it_lapses_with_its_holder() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert lease.lapsed(_lease(pid=process.pid))


def test_a_process_that_nobody_has_buried_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    clock.wait_until(lambda: not lease.alive(process.pid), "it is a zombie", timeout_s=10)
    process.wait()


def test_the_target_is_held_once_and_the_holder_is_named(tmp_path: Path) -> None:
    first = TargetLock(tmp_path, "orders")
    first.name("20261122T155410Z-az-failure-orders-3f9c")
    with pytest.raises(TargetBusy, match="in use by 20261122T155410Z-az-failure-orders-3f9c") as e:
        TargetLock(tmp_path, "orders")
    assert "drkit abort" in e.value.hint
    assert e.value.exit_code == 4
    TargetLock(tmp_path, "other").close()
    first.close()
    second = TargetLock(tmp_path, "orders")
    with pytest.raises(TargetBusy, match="in use by another run"):  # not by the one that has ended
        TargetLock(tmp_path, "orders")
    second.close()


def test_two_projects_exclude_each_other_on_one_lab_and_on_nothing_else(tmp_path: Path) -> None:
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    lab = mine / "labs" / "lab"
    first = TargetLock(yours, "lab", lab_directory=str(lab))
    for home in (mine, yours):
        with pytest.raises(TargetBusy, match="target lab is in use"):
            TargetLock(home, "lab", lab_directory=str(lab))
    with pytest.raises(TargetBusy):
        TargetLock(mine, "lab")  # in its own home it is the lock that it always was
    TargetLock(yours, "lab", lab_directory=str(yours / "labs" / "lab")).close()
    TargetLock(mine, "other", lab_directory=str(mine / "labs" / "other")).close()
    assert not lab.exists()  # it outlives `drkit lab down`, which removes that directory
    first.close()
    TargetLock(mine, "lab", lab_directory=str(lab)).close()


def test_the_lock_is_held_while_anybody_who_inherited_it_lives(tmp_path: Path) -> None:
    lock = TargetLock(tmp_path, "orders")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),)) as heir:
        lock.close()
        with pytest.raises(TargetBusy):
            TargetLock(tmp_path, "orders")
        heir.communicate(b"\n")
    TargetLock(tmp_path, "orders").close()


def test_a_run_is_taken_over_once(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "reports", tmp_path, name="n", target="t", identity={})
    assert lease.take(run)
    assert not lease.take(run)


def test_a_process_that_stands_still_with_the_history_open_delays_the_guardian_but_does_not_stop_it(
    tmp_path: Path,
) -> None:
    run = RunDir.create(tmp_path / "reports", tmp_path, name="n", target="t", identity={})
    program = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    arguments = [sys.executable, "-c", program, str(run.path / "history.jsonl")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        run._patience_s = 0.1
        assert not run.try_mark(MarkKind.GUARDIAN, "guardian")
        run.seal()
        other.communicate(b"\n")
    assert run.try_mark(MarkKind.GUARDIAN, "guardian")


def test_a_run_without_a_lease_is_not_going_on(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "reports", tmp_path, name="n", target="t", identity={})
    assert not lease.running(run)
    (run.path / "lease.json").write_text('{"pid": 1, "ttl')
    assert lease.holder(run) is None
    assert not lease.running(run)
