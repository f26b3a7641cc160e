"""One activity: time-outs that chaoslib ignores, pauses that end, and problems said in one sentence."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from drkit.engine import activity as activities
from drkit.engine.activity import Activities, pauses_of
from drkit.errors import Aborted
from drkit.targets import Target

TARGET = Target(name="t", kind="lab", account_id="123456789012", region="eu-central-1", zones=("eu-central-1a",))
MODULE = """
import threading
from drkit.errors import TargetError

release = threading.Event()

def answers(value=1):
    return value

def hangs():
    release.wait(30)
    return "late"

def raises(text="no such thing"):
    raise RuntimeError(text)

def raises_ours():
    raise TargetError("the subnet is gone", "look for it")

def exits():
    raise SystemExit(3)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"dk_activities_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(activities, "GRACE_S", 0.1)
    return name


def probe(module: str, func: str, **more: Any) -> dict[str, Any]:
    arguments = more.pop("arguments", {})
    provider = {"type": "python", "module": module, "func": func, "arguments": arguments}
    return {"name": func, "type": "probe", "provider": provider, **more}


def runner(**configuration: Any) -> Activities:
    return Activities({}, configuration, {}, TARGET)


def test_what_an_activity_answers_is_its_output(module: str) -> None:
    settled = runner(n=7).run(probe(module, "answers", arguments={"value": "${n}"}))
    assert (settled.succeeded, settled.output, settled.problem) == (True, 7, "")
    assert settled.entry["status"] == "succeeded"
    assert settled.t_lo_ns <= settled.t_hi_ns


@pytest.mark.parametrize(
    ("func", "problem"),
    [("raises", "RuntimeError: no such thing"), ("raises_ours", "the subnet is gone"), ("exits", "SystemExit: 3")],
)
def test_a_problem_is_one_sentence(module: str, func: str, problem: str) -> None:
    settled = runner().run(probe(module, func))
    assert not settled.succeeded
    assert settled.problem == problem


def test_an_action_that_hangs_fails_in_time_and_whoever_may_revoke_is_told(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activities, "aim", lambda *_: None)  # there is no account to ask
    told: list[str] = []
    run = runner()
    settled = run.run({**probe(module, "hangs"), "type": "action"}, timeout_s=0.2, overdue=told.append)
    assert not settled.succeeded
    assert settled.problem == "not finished within 0.2 s"
    assert told == ["hangs: not finished within 0.2 s"]
    assert not run.settle(0.0), "it still works on"
    __import__(module).release.set()
    assert run.settle(5)


def test_a_question_that_nobody_waits_for_any_more_holds_nothing_up(module: str) -> None:
    run = runner()
    assert not run.run(probe(module, "hangs"), timeout_s=0.2).succeeded
    assert run.settle(0.0), "it can change nothing"
    __import__(module).release.set()


def test_its_own_timeout_is_honoured(module: str) -> None:
    assert runner().run(probe(module, "hangs", timeout_s=0.1)).problem == "not finished within 0.1 s"
    __import__(module).release.set()


def test_a_stopped_run_does_not_wait_for_an_activity_that_hangs(module: str) -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    settled = runner().run(probe(module, "hangs"), stop=stop)
    assert settled.problem == "the run was stopped while it was under way"
    assert settled.entry["status"] == "aborted"
    __import__(module).release.set()


def test_pauses_end_when_the_run_is_stopped(module: str) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Aborted):
        runner().run(probe(module, "answers", pauses={"before": 60}), stop=stop)
    with pytest.raises(Aborted):
        runner().pause_after(probe(module, "answers", pauses={"after": 60}), stop)


def test_a_pause_may_be_a_variable() -> None:
    pauses = {"name": "a", "pauses": {"before": "${x}", "after": 2}}
    assert pauses_of(pauses, {"x": "0.5"}, {}) == (0.5, 2.0)
    assert pauses_of({"name": "a"}, {}, {}) == (0.0, 0.0)


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_a_pause_that_is_no_time_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="the pause after is"):
        pauses_of({"name": "a", "pauses": {"after": "${x}"}}, {"x": value}, {})


@pytest.mark.parametrize(
    ("tolerance", "output", "held"),
    [
        (True, True, True),
        (True, False, False),
        (3, 3, True),
        ([1, 5], 3, True),
        ([1, 5], "three", False),
        ({"type": "range", "range": [1, 5]}, 9, False),
        ({"type": "jsonpath", "path": "$.a", "expect": [1]}, None, False),
    ],
)
def test_a_probe_holds_within_its_tolerance_only(module: str, tolerance: Any, output: Any, held: bool) -> None:
    asked = probe(module, "answers", arguments={"value": output}, tolerance=tolerance)
    assert runner().holds(asked)[0] is held


def test_a_probe_without_an_answer_does_not_hold(module: str) -> None:
    held, settled = runner().holds(probe(module, "raises", tolerance=True))
    assert not held
    assert settled.problem == "RuntimeError: no such thing"


def test_a_process_that_ends_badly_is_a_failed_action(monkeypatch: pytest.MonkeyPatch) -> None:
    """chaoslib says that it succeeded."""
    monkeypatch.setattr(activities, "aim", lambda *_: None)
    provider = {"type": "process", "path": "sh", "arguments": ["-c", "echo no such host >&2; exit 3"]}
    settled = runner().run({"name": "p", "type": "action", "provider": provider})
    assert settled.problem == "it ended with status 3: no such host"
    assert runner().run({"name": "p", "type": "probe", "provider": provider}).succeeded, "a tolerance judges a probe"
