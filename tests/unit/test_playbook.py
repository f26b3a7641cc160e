"""How a playbook is played: in order, from wherever it was left, with no effect twice. The steps are toys."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import toy_steps
from toy_steps import World

from drkit import catalog, clock, guard, playbook
from drkit.catalog import StepCall
from drkit.errors import Aborted, BadDocument, StepFailed
from drkit.guard import Permit
from drkit.model import MarkKind
from drkit.playbook import Player, Recovery, standings
from drkit.rundir import RunDir
from drkit.targets import Target
from drkit.undo import UndoJournal

TARGET = Target(name="lab", kind="lab", account_id="123456789012", region="eu-central-1", zones=("eu-central-1a",))
ON = "toy_steps.turn_on"


@pytest.fixture(autouse=True)
def world() -> World:
    toy_steps.WORLD = World()
    return toy_steps.WORLD


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "reports", tmp_path / "home", name="toy", target="lab", identity={})


def on(name: str, **more: Any) -> StepCall:
    return StepCall(name=name, step=ON, arguments={"name": name}, **more)


class Table:
    """One run's player, its recovery and what it asked of people."""

    def __init__(self, run: RunDir, *calls: StepCall, started_by: str = "ann", **variables: str) -> None:
        self.run, self.stop = run, threading.Event()
        self.asked: list[tuple[str, str]] = []
        self.said: list[str] = []
        facts = guard.Facts(
            target="lab", account_id="1", caller_account_id="1", regions=("eu-central-1",), loopback=True,
            now=clock.wall_utc(),
        )  # fmt: skip
        self.permit: Permit = guard.authorise(
            run.run_id, (), facts=facts, rules=guard.Rules(), blast_radius=guard.BlastRadius(), recovery=True
        )
        self.player: Player
        recovery = Recovery(
            target=TARGET, permit=self.permit, undo=UndoJournal(run.path / "undo.jsonl", run.run_id), run=run,
            stop=self.stop, say=self.said.append, stable=lambda _: True, read_ledger=dict,
            known=lambda name: self.player.known(name),
        )  # fmt: skip
        self.player = Player(
            calls, recovery, variables=variables, started_by=started_by,
            ask=lambda call, text: self.asked.append((call.name, text)),
        )  # fmt: skip

    def play(self) -> None:
        self.player.play()

    def states(self) -> dict[str, str]:
        names = [c.name for c in catalog.single(self.player._calls)]
        return {name: one.state for name, one in standings(self.run.marks(), names).items()}


def answer(run: RunDir, step: str, *, yes: bool = True, by: str = "bob", note: str = "") -> None:
    run.mark(MarkKind.ANSWER, step, by=by, yes=yes, note=note)


# --- order and resumption ---------------------------------------------------------------------------------------------


def test_steps_are_played_in_order_and_written_down(run: RunDir, world: World) -> None:
    table = Table(run, on("one"), on("two"), on("three"))
    table.play()
    assert world.effects == ["one", "two", "three"]
    assert set(table.states().values()) == {"done"}


def test_a_step_that_is_done_already_is_left_alone(run: RunDir, world: World) -> None:
    world.on["one"] = True
    table = Table(run, on("one"), on("two"))
    table.play()
    assert world.effects == ["two"]
    assert standings(run.marks(), ["one"])["one"].already


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["one", "two", "three"])
def test_a_run_that_died_goes_on_where_it_was_and_repeats_nothing(
    run: RunDir, world: World, step: str, when: str
) -> None:
    calls = (on("one"), on("two"), on("three"))
    setattr(world, f"die_{when}", step)
    _dies(Table(run, *calls))
    Table(run, *calls).play()
    assert world.effects == ["one", "two", "three"]


def _dies(table: Table) -> None:
    """Play until the toy world kills the player: its thread is gone then, and with it everything in memory."""
    box: list[BaseException] = []

    def play() -> None:
        try:
            table.play()
        except BaseException as e:  # noqa: BLE001
            box.append(e)

    thread = threading.Thread(target=play)
    thread.start()
    thread.join(20)
    assert box, "it did not die"


def test_what_has_to_be_known_before_is_observed_once(run: RunDir, world: World) -> None:
    """A failover that is repeated after a kill must not fail back."""
    call = StepCall(name="move", step="toy_steps.move_away", arguments={"name": "writer"})
    world.die_after = "writer"
    _dies(Table(run, call))
    Table(run, call).play()
    assert world.effects == ["writer"]
    assert world.on["writer"] == "b"


def test_what_has_to_last_is_asked_again_when_a_run_goes_on(run: RunDir, world: World) -> None:
    calls = (StepCall(name="fence", step="toy_steps.keep_on", arguments={"name": "fence"}), on("promote"))
    world.refuse.add("promote")
    with pytest.raises(StepFailed):
        Table(run, *calls).play()
    world.refuse.clear()
    world.on["fence"] = False  # somebody lifts it in the night
    with pytest.raises(StepFailed, match="not so any more") as told:
        Table(run, *calls).play()
    assert told.value.step == "fence"
    assert "promote" not in world.effects
    Table(run, *calls).play()  # the next one puts it up again
    assert world.effects == ["fence", "fence", "promote"]


def test_what_a_later_step_takes_away_need_not_last_any_longer(run: RunDir, world: World) -> None:
    calls = (
        StepCall(name="fence", step="toy_steps.keep_on", arguments={"name": "fence"}, until="lift"),
        on("promote"), on("lift"), on("rest"),
    )  # fmt: skip
    for refused in ("promote", "rest"):
        world.refuse = {refused}
        with pytest.raises(StepFailed):
            Table(run, *calls).play()
        world.on["fence"] = False
        world.refuse.clear()
        if refused == "promote":  # nobody has begun to lift it
            with pytest.raises(StepFailed, match="not so any more"):
                Table(run, *calls).play()
    Table(run, *calls).play()
    assert world.effects == ["fence", "fence", "promote", "lift", "rest"]


def test_what_rests_on_a_step_that_is_done_anew_is_done_anew_too(run: RunDir, world: World) -> None:
    """A fence that was lifted is put up again by whoever resumes, and is proven again."""
    fence = StepCall(name="fence", step="toy_steps.keep_on", arguments={"name": "fence"})
    proof = StepCall(name="proof", step="toy_steps.keep_on", arguments={"name": "proof"})
    run.mark(MarkKind.STEP, "fence", state="failed", why="it was lifted")
    run.mark(MarkKind.STEP, "proof", state="done")
    Table(run, fence, proof, on("promote")).play()
    assert world.effects == ["fence", "proof", "promote"]


def test_a_step_that_failed_is_tried_again_and_those_before_are_not(run: RunDir, world: World) -> None:
    calls = (on("one"), on("two"))
    world.refuse.add("two")
    with pytest.raises(StepFailed, match="two is refused"):
        Table(run, *calls).play()
    assert Table(run, *calls).states() == {"one": "done", "two": "failed"}
    world.refuse.clear()
    Table(run, *calls).play()
    assert world.effects == ["one", "two"]
    assert standings(run.marks(), ["two"])["two"].tries == 2


def test_an_effect_that_shows_late_is_waited_for_and_not_repeated(run: RunDir, world: World) -> None:
    world.slow["one"] = 3
    Table(run, on("one")).play()
    assert world.effects == ["one"]


def test_a_control_plane_that_is_silent_for_a_while_is_asked_again(run: RunDir, world: World) -> None:
    world.silent.add("one")
    threading.Timer(0.5, world.silent.clear).start()
    Table(run, on("one")).play()
    assert world.on["one"]


def test_a_step_that_hangs_is_given_up_and_may_change_nothing_later(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playbook, "LEAST_S", 0.2)
    table = Table(run, StepCall(name="hangs", step="toy_steps.hangs", arguments={"name": "x"}, timeout_s=0.1))
    with pytest.raises(StepFailed, match=r"not finished within 0\.2 s"):
        table.play()
    with pytest.raises(Aborted):
        table.permit.check()
    table.stop.set()


def test_a_run_that_is_to_stop_does_not_wait_for_a_step_that_hangs(run: RunDir) -> None:
    table = Table(run, StepCall(name="hangs", step="toy_steps.hangs", arguments={"name": "x"}, timeout_s=900))
    threading.Timer(0.2, table.stop.set).start()
    with pytest.raises(Aborted):
        table.play()


def test_a_run_that_is_to_stop_begins_no_further_step(run: RunDir, world: World) -> None:
    table = Table(run, on("one"))
    table.stop.set()
    with pytest.raises(Aborted):
        table.play()
    assert not world.effects


# --- side by side -----------------------------------------------------------------------------------------------------


def test_a_block_is_played_side_by_side_and_all_of_it_before_what_follows(run: RunDir, world: World) -> None:
    block = StepCall(name="both", parallel=(on("left"), on("right")))
    Table(run, block, on("after")).play()
    assert sorted(world.effects[:2]) == ["left", "right"]
    assert world.effects[2] == "after"


def test_a_block_in_which_one_fails_stops_the_run_and_keeps_the_other(run: RunDir, world: World) -> None:
    block = StepCall(name="both", parallel=(on("left"), on("right")))
    world.refuse.add("left")
    with pytest.raises(StepFailed, match="left is refused"):
        Table(run, block, on("after")).play()
    assert world.effects == ["right"]
    world.refuse.clear()
    Table(run, block, on("after")).play()
    assert world.effects == ["right", "left", "after"]


# --- people -----------------------------------------------------------------------------------------------------------

APPROVAL = StepCall(name="declare", approval="Really?", timeout_s=5)


def test_an_approval_is_waited_for(run: RunDir, world: World) -> None:
    table = Table(run, APPROVAL, on("one"))
    thread = threading.Thread(target=table.play)
    thread.start()
    while not table.asked:
        thread.join(0.01)
    assert not world.effects
    answer(run, "declare")
    thread.join(10)
    assert world.effects == ["one"]
    assert any(m.kind is MarkKind.DECLARED and "bob" in m.detail["by"] for m in run.marks())


def test_no_is_no(run: RunDir, world: World) -> None:
    table = Table(run, APPROVAL, on("one"))
    threading.Timer(0.3, lambda: answer(run, "declare", yes=False, note="not tonight")).start()
    with pytest.raises(StepFailed, match="bob said no: not tonight"):
        table.play()
    assert not world.effects


def test_an_answer_that_is_older_than_the_question_is_none(run: RunDir, world: World) -> None:
    answer(run, "declare")
    call = StepCall(name="declare", approval="Really?", timeout_s=0.5)
    with pytest.raises(StepFailed, match="nobody answered"):
        Table(run, call, on("one")).play()
    assert not world.effects


def test_an_approver_who_never_answers_can_be_asked_again(run: RunDir, world: World) -> None:
    call = StepCall(name="declare", approval="Really?", timeout_s=0.5)
    with pytest.raises(StepFailed, match="nobody answered"):
        Table(run, call, on("one")).play()
    threading.Timer(0.2, lambda: answer(run, "declare")).start()
    Table(run, APPROVAL, on("one")).play()
    assert world.effects == ["one"]


def test_a_word_that_is_too_old_is_asked_for_again(run: RunDir, world: World) -> None:
    calls = (APPROVAL, StepCall(name="rest", step="toy_steps.rests_on", arguments={"earlier": "declare"}))
    world.refuse.add("declare")
    threading.Timer(0.3, lambda: answer(run, "declare")).start()
    with pytest.raises(StepFailed, match="too old"):
        Table(run, *calls).play()
    world.refuse.clear()
    table = Table(run, *calls)
    assert table.states()["declare"] == "failed"
    threading.Timer(0.3, lambda: answer(run, "declare", by="eve")).start()
    table.play()
    assert table.asked
    assert world.effects == ["rest"]


def test_an_answer_given_while_the_runner_was_dead_counts(run: RunDir, world: World) -> None:
    run.mark(MarkKind.STEP, "declare", state="waiting")
    answer(run, "declare")
    Table(run, APPROVAL, on("one")).play()
    assert world.effects == ["one"]


def test_four_eyes_want_another_person(run: RunDir, world: World) -> None:
    call = StepCall(name="declare", approval="Really?", four_eyes=True, timeout_s=5)
    table = Table(run, call, on("one"), started_by="ann")
    threading.Timer(0.2, lambda: answer(run, "declare", by="ann")).start()
    with pytest.raises(StepFailed, match="another person"):
        table.play()
    assert not world.effects


def test_what_a_person_has_done_is_kept_with_the_note(run: RunDir, world: World) -> None:
    call = StepCall(name="call-the-bank", manual="Call them.", timeout_s=5)
    threading.Timer(0.2, lambda: answer(run, "call-the-bank", note="spoke to Eve")).start()
    table = Table(run, call)
    table.play()
    assert table.player.known("call-the-bank")["note"] == "spoke to Eve"


# --- prerequisites ----------------------------------------------------------------------------------------------------


def test_prerequisites_name_what_is_missing_and_change_nothing(run: RunDir, world: World) -> None:
    call = StepCall(name="is-on", step="toy_steps.is_on", arguments={"name": "power"})
    assert Table(run).player.check((call,)) == ("is-on: it does not hold",)
    world.on["power"] = True
    assert Table(run).player.check((call,)) == ()
    assert not world.effects


# --- the file ---------------------------------------------------------------------------------------------------------


def _document(**more: Any) -> dict[str, Any]:
    return {
        "title": "t", "description": "d", "objective": {"rto_s": 1}, "variables": {"who": "one"},
        "probes": [{"name": "api", "kind": "http"}],
        "steps": [{"name": "a", "step": ON, "arguments": {"name": "${who}"}}],
        **more,
    }  # fmt: skip


def test_variables_are_put_in(tmp_path: Path) -> None:
    book = catalog.read_playbook(toy_steps.write(tmp_path / "p.yaml", _document()))
    (call,) = book.calls()
    assert catalog.arguments_of(call, {"who": "two"}) == {"name": "two"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": []}, "no steps"),
        ({"steps": [{"name": "a"}]}, "it says nothing"),
        ({"steps": [{"name": "a", "step": ON, "approval": "x"}]}, "it says step and approval"),
        ({"steps": [{"name": "a", "step": ON, "arguments": {"nam": "x"}}]}, "takes no argument nam"),
        ({"steps": [{"name": "a", "step": ON, "arguments": {}}]}, "needs the argument name"),
        ({"steps": [{"name": "a", "step": "toy_steps.turn_of", "arguments": {"name": "x"}}]}, "there is no"),
        ({"steps": [{"name": "a", "step": "toy_steps.not_a_step"}]}, "is no step"),
        ({"steps": [{"name": "a", "step": ON, "arguments": {"name": "${whom}"}}]}, "no variable whom"),
        ({"steps": [{"name": "A b", "step": ON, "arguments": {"name": "x"}}]}, "no name for a step"),
        ({"steps": [{"name": "a", "step": ON, "arguments": {"name": "x"}}] * 2}, "two steps have this name"),
        ({"steps": [{"name": "a", "approval": "x", "timeout_s": 0}]}, "timeout_s is 0"),
        ({"steps": [{"name": "a", "manual": "x", "four_eyes": True}]}, "four_eyes"),
        ({"steps": [{"name": "a", "parallel": [{"name": "b", "approval": "x"}]}]}, "inside a parallel block"),
        ({"prerequisites": [{"name": "p", "approval": "x"}]}, "among the prerequisites"),
        ({"probes": []}, "no probes"),
        ({"stepz": []}, "unknown key stepz"),
        ({"steps": [{"name": "a", "step": ON, "arguments": {"name": "x"}, "when": "who"}]}, "when is"),
        ({"steps": [{"name": "a", "step": ON, "arguments": {"name": "x"}, "until": "a"}]}, "until is"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(BadDocument, match=told):
        catalog.read_playbook(toy_steps.write(tmp_path / "p.yaml", _document(**change)))


def test_a_step_may_be_left_out(tmp_path: Path) -> None:
    steps = [
        {"name": "a", "step": ON, "arguments": {"name": "a"}, "when": "who=one"},
        {"name": "b", "step": ON, "arguments": {"name": "b"}, "when": "who!=one"},
    ]
    book = catalog.read_playbook(toy_steps.write(tmp_path / "p.yaml", _document(steps=steps)))
    assert [c.name for c in book.calls({"who": "one"})] == ["a"]
    assert [c.name for c in book.calls({"who": "two"})] == ["b"]
