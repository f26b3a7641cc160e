"""Playbooks whose runner is killed with -9 at every step, before its effect and after it, resumed: all is as if not.

Nobody undoes what a playbook did, so nothing but the run's directory says where it stands. What must not happen:
an effect twice, an effect left out, a write that was acknowledged and is gone, two writers at once.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import scripts
from kill_matrix import END, History, Pass, Point
from performance import left_behind, matrix_of, perform

from drkit import clock
from drkit.targets.aws.claims import Claims

if TYPE_CHECKING:
    from conftest import Ground

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

PASSES = 3
SOME: dict[str, tuple[Point, ...]] = {
    "rds-failover": (("fail-over", "after"), ("ledger", "before")),
    "az-evacuate": (("writer-leaves", "after"), ("use-again", "after")),
    "region-failover": (("fence-api", "after"), ("promote", "after"), (END, "after")),
    "failback": (
        ("lift-old-fence", "after"), ("stop-writes", "after"), ("promote", "after"), ("lift-fence", "after"),
    ),
}  # fmt: skip


# --- killed at some steps, and at every one ---------------------------------------------------------------------------


def test_a_failover_killed_at_some_steps(stage: Ground) -> None:
    assert perform(stage, scripts.RDS_FAILOVER, SOME["rds-failover"]) == []


def test_an_evacuation_killed_at_some_steps(stage: Ground) -> None:
    assert perform(stage, scripts.AZ_EVACUATE, SOME["az-evacuate"]) == []


def test_there_and_back_killed_at_some_steps(stage: Ground) -> None:
    assert perform(stage, scripts.REGION_FAILOVER, SOME["region-failover"]) == []
    assert perform(stage, scripts.FAILBACK, SOME["failback"]) == []


@pytest.mark.sweep
@pytest.mark.timeout(3600)
def test_undisturbed(stage: Ground) -> None:
    """What is compared with: each playbook does what scripts.py says."""
    wrong = {f"{n} {s.name}": perform(stage, s, ()) for n, s in enumerate(scripts.ALL)}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.sweep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", range(PASSES))
def test_every_playbook_killed_at_every_step(stage: Ground, number: int) -> None:
    wrong = {f"{n} {s.name}": perform(stage, s, None) for n, s in enumerate(scripts.ALL)}
    assert {name: found for name, found in wrong.items() if found} == {}


# --- one at a time ----------------------------------------------------------------------------------------------------


def test_one_runner_at_a_time(stage: Ground) -> None:
    """A second resume, and a second start from the same home or another one, are refused: nothing is done twice."""
    stage.wait_until_whole()
    matrix, from_ns = matrix_of(stage, scripts.AZ_EVACUATE), clock.now_ns()
    first, run = matrix.start(answers=False)
    history = History(run)
    clock.wait_until(lambda: "waiting" in history.events("come-back"), "it asks", timeout_s=120, every_s=0.05)
    for words in (("resume", run.run_id), ("run", "az-evacuate"), ("run", "rds-failover")):
        _is_refused(stage, *words, naming=run.run_id)
    first.send_signal(signal.SIGKILL)
    first.communicate()

    other = stage.root / "other"  # another machine, as far as drkit can tell: nothing but the cloud is shared
    shutil.copytree(stage.home / "targets", other / "targets", dirs_exist_ok=True)
    _is_refused(stage, "run", "az-evacuate", naming=run.run_id, elsewhere=True)
    holder = Claims(stage.target).holder()
    assert holder is not None
    assert holder.run_id == run.run_id

    both = [stage.play("resume", run.run_id) for _ in range(2)]
    said = [p.communicate(timeout=300)[0] for p in both]
    assert sorted(p.returncode for p in both) == [0, 4], said
    assert any(text.splitlines()[-1].startswith("TargetBusy: ") for text in said), said
    assert matrix.calls.effects(from_ns) == Counter(scripts.AZ_EVACUATE.effects)
    assert left_behind(stage, Pass(run, tuple(matrix.steps))) == []


def _is_refused(stage: Ground, *words: str, naming: str, elsewhere: bool = False) -> None:
    process = stage.play(*words, home=stage.root / "other" if elsewhere else None)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 4, said
    assert said.splitlines()[-1].startswith("TargetBusy: "), said
    assert naming in said.splitlines()[-1], said
