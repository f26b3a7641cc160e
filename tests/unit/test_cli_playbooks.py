"""Commands about playbooks, on hand-made runs: what they say, whom they refuse, and their exit codes."""

from __future__ import annotations

import json
import os
import threading
import types
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import playbook_runs as runs
import pytest

from drkit import cli, clock, engine, lab, targets, undo
from drkit.catalog import StepCall
from drkit.cli import answers, live, recovering, runbooks, stored
from drkit.errors import Refused, UnknownName, UsageError
from drkit.model import MarkKind, RunRecord
from drkit.rundir import RunDir
from drkit.targets.aws.claims import Claims

BOB = "bob@noc"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with nothing in the environment."""
    for name in [n for n in os.environ if n.startswith(("DRKIT_", "AWS_", "KUBECONFIG"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: Capture, *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


def experiment_of(here: Path) -> Path:
    """The directory of an experiment's run."""
    run = here / "reports" / "20261122T155410Z-az-failure-lab-3f9c"
    run.mkdir(parents=True)
    identity = {"run_id": run.name, "number": 1, "name": "az-failure", "target": "lab", "target_kind": "lab"}
    (run / "run.json").write_text(json.dumps(identity | {"started_at": "2026-11-22T15:54:10+00:00"}))
    return run


@pytest.fixture
def run(here: Path) -> RunDir:
    """A run of the toy playbook that goes on, and waits for its first approval."""
    found = runs.run_of(here, running=True)
    runs.step(found, "promote-ok", "waiting")
    return found


@pytest.fixture
def bob(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRKIT_OPERATOR", BOB)


def waits_for_manual(run: RunDir) -> None:
    runs.step(run, "promote-ok", "done")
    runs.step(run, "tell-support", "waiting")


def answer_marks(run: RunDir) -> list[dict[str, Any]]:
    answers = [{"step": m.name, **m.detail} for m in run.marks() if m.kind is MarkKind.ANSWER]
    for answer in answers:  # the time of day, by which the age of a word is told
        assert datetime.fromisoformat(answer.pop("at")).tzinfo is not None
    return answers


# --- looking ----------------------------------------------------------------------------------------------------------


def test_list_names_every_playbook_and_which_cannot_be_used(here: Path, capsys: Capture) -> None:
    runs.playbook(here)
    (here / "dr_playbooks" / "broken.yaml").write_text("title: x\nstepz: []\n")
    code, out, _ = said(capsys, "playbook", "list", "--json")
    rows = {r["name"]: r for r in json.loads(out)["playbooks"]}
    assert code == 0
    assert (rows[runs.NAME]["title"], rows[runs.NAME]["tier"]) == ("The replica takes over", "A")
    assert "stepz" in rows["broken"]["problem"]
    assert set(rows["broken"]) == set(rows[runs.NAME])
    assert "cannot be used" in said(capsys, "playbook", "list")[1]


def test_show_tells_steps_people_and_promises(here: Path, capsys: Capture) -> None:
    runs.playbook(here)
    code, out, _ = said(capsys, "playbook", "show", runs.NAME)
    assert code == 0
    for words in (
        "promote-ok  [another person", "promote  [drkit, at most 900 s", "tell-support  [a person", "side by side",
        "The replica is there and follows.", "replica = orders-replica", "only if how=careful", "≤ 900 s",
        "Somebody has to have decided",
    ):  # fmt: skip
        assert words in out
    told = json.loads(said(capsys, "playbook", "show", runs.NAME, "--json")[1])
    assert [s.get("name", "parallel") for s in told["steps"]] == ["promote-ok", "promote", "parallel", "tell-support"]
    assert told["steps"][0]["by"] == "another person"


def test_the_runbook_page_says_what_to_do_also_without_drkit(here: Path, capsys: Capture) -> None:
    runs.playbook(here)
    page = said(capsys, "playbook", "show", runs.NAME, "--format", "md")[1]
    for words in (
        "# The replica takes over", "## When to use it", "| RTO | ≤ 900 s (15 min)", "### 1. promote-ok",
        "*By another person, at most 900 s (15 min)*", "### 3b. look-again", "only if `how=careful`",
        "Make the replica a writer of its own, so that writes are taken in the other region.",
        "- Done when: it says itself that it is no replica any more.",
        "- By hand: aws rds promote-read-replica --db-instance-identifier INSTANCE --region REGION",
        "drkit approve last promote-ok", f"drkit playbook plan {runs.NAME}",
        "2. **promote** (drkit): aws rds promote-read-replica", "- With: instance_id: ${replica}",
    ):  # fmt: skip
        assert words in page


def test_a_docstring_is_read_by_its_labels() -> None:
    first, labels = runbooks.told("Do it\n    well.\n\n    More.\n    By hand: aws x\n    --y\n\n    Undo: no.")
    assert (first, labels) == ("Do it well.", {"By hand": "aws x --y", "Undo": "no."})


@pytest.fixture
def practice(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of production as the target; nothing is reached through it."""
    runs.playbook(here)
    monkeypatch.syspath_prepend(Path(runs.__file__).parent)
    for name, copy_of in (("copy", "production"), ("production", None)):
        target = runs.replace(runs.target("aws"), name=name, copy_of=copy_of)
        path = here / "targets" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(targets.dump(target))
    return here


def test_plan_tells_each_step_its_calls_and_the_command_that_runs_it(practice: Path, capsys: Capture) -> None:
    words = ("playbook", "plan", runs.NAME, "--target", "copy", "--var", "replica=my replica")
    code, out, _ = said(capsys, *words)
    told = json.loads(said(capsys, *words, "--json")[1])
    assert code == 0
    digest = told["digest"][:12]
    for line in (
        f"{runs.NAME} on copy (aws, practice) would", "1. promote-ok  [another person]", "2. promote  [drkit]",
        "call: rds:PromoteReadReplica my replica in eu-west-1", "side by side:", "rds:DescribeDBInstances",
        "ssm:GetParameter", "and those of look, look-again, which does not tell", "no run of it yet",
        f"run exactly this: drkit playbook run {runs.NAME} --target copy --var 'replica=my replica' --plan {digest}",
    ):  # fmt: skip
        assert line in out
    assert told["iam_untold"] == ["look", "look-again"]
    assert {"rds:PromoteReadReplica", "rds:DescribeDBInstances"} <= set(told["iam_actions"])
    real = json.loads(said(capsys, "playbook", "plan", runs.NAME, "--target", "production", "--json")[1])
    assert real["real"] is True
    assert " --real --plan " in real["run_with"]


TOY = f"playbook run {runs.NAME}"
WRONG = {
    "no such playbook": ("playbook show toy-failovr", 2, "no playbook is called", "did you mean toy-failover?"),
    "an experiment": ("playbook run az-failure", 2, "no playbook is called", "drkit run az-failure"),
    "no such variable": (f"{TOY} --var zone=a", 2, "toy-failover has no variable 'zone'", "replica"),
    "no to_time": (f"{TOY} --to-time 2026-01-01T00:00:00Z", 2, "toy-failover has no variable 'to_t", ""),
    "no time zone": (f"{TOY} --since 2026-11-22T15:54", 2, "--since 2026-11-22T15:54: it does not say", "Z"),
    "no time": (f"{TOY} --since noon", 2, "--since noon: not a time", "2026-"),
    "the future": (f"{TOY} --since 2999-01-01T00:00:00Z", 2, "--since 2999", "offset"),
    "real, not said": (f"{TOY} --target production", 2, "production is neither a lab nor a copy", "--real"),
    "real, without a plan": (f"{TOY} --target production --real", 2, "runs the plan", "drkit playbook plan toy"),
    "real on a copy": (f"{TOY} --target copy --real", 2, "copy is a copy of production", "leave --real"),
    "another plan": (f"{TOY} --target copy --plan 0123456789ab", 4, "the plan is now", "playbook plan"),
    "format and json": ("playbook show toy-failover --format md --json", 2, "--format and --json exclude", ""),
    "no run": ("resume last", 2, "no run 'last'", ""),
    "watch and json": ("status --watch --json", 2, "--watch and --json exclude", ""),
}  # fmt: skip


@pytest.mark.parametrize(("words", "code", "message", "hint"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_error_with_a_hint(
    words: str, code: int, message: str, hint: str, practice: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Claims, "refuse_others", lambda *_, **__: False)  # there is no cloud to be asked
    got, out, err = said(capsys, *words.split())
    told = err or json.loads(out)["error"]
    assert got == code
    assert message in told
    assert hint in (err or out)
    assert not (practice / "reports").exists()


def test_to_time_is_a_variable_in_utc(here: Path) -> None:
    from drkit.cli import playbooks

    book = runs.playbook(here, runs.TOY.replace("how: careful", "how: careful, to_time: ''"))
    assert playbooks.variables_of(book, [], "2026-11-22T16:54:10.5+01:00") == {"to_time": "2026-11-22T15:54:10.500000Z"}
    with pytest.raises(UsageError, match="different things"):
        playbooks.variables_of(book, ["to_time=now"], "2026-11-22T16:54:10+01:00")


# --- running and resuming ---------------------------------------------------------------------------------------------


def test_run_hands_the_engine_what_was_said(practice: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def recover(book: Any, target: Any, found: Any, wishes: engine.Wishes, **_: Any) -> RunRecord:
        given.append((book.name, target.name, wishes))
        return runs.complete()

    monkeypatch.setattr(engine, "recover", recover)
    words = f"playbook run {runs.NAME} --target production --real --since 2026-11-22T15:54:10+01:00 --instead-of lost"
    code, out, _ = said(capsys, *words.replace("2026", "2025").split(), "--var", "how=fast", "--plan", "abcdef123456")
    assert code == 0
    name, target, wishes = given[0]
    assert (name, target) == (runs.NAME, "production")
    assert wishes.since is not None
    assert wishes.since.isoformat() == "2025-11-22T14:54:10+00:00"
    assert (wishes.real, wishes.instead_of, wishes.approved_digest) == (True, "lost", "abcdef123456")
    assert wishes.variables == {"how": "fast"}
    for line in ("PASS", "promote-ok", "bob@noc", "tell-support", "kept: what the playbook has done stays"):
        assert line in out


@pytest.mark.parametrize(("make", "code"), [(runs.complete, 0), (runs.stopped, 1), (runs.refused, 3)])
def test_the_exit_code_is_the_verdicts(
    make: Any, code: int, practice: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "recover", lambda *_, **__: make())
    got, out, _ = said(capsys, "playbook", "run", runs.NAME, "--target", "copy", "--json")
    told = json.loads(out)
    assert (got, told["exit_code"]) == (code, code)
    assert [s["name"] for s in told["steps"]] == [s.name for s in runs.PLANNED]


def test_one_that_stands_half_way_says_how_to_go_on(
    practice: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "recover", lambda *_, **__: runs.stopped())
    out = said(capsys, "playbook", "run", runs.NAME, "--target", "copy")[1]
    assert "nothing is put back" in out
    assert f"go on: drkit resume {runs.stopped().run_id}; or put back what it did: drkit undo" in out
    assert "STILL BROKEN" not in out


def test_a_run_that_goes_on_is_not_resumed(run: RunDir, capsys: Capture) -> None:
    code, _, err = said(capsys, "resume", "last")
    assert code == 2
    assert "is going on" in err
    assert f"drkit status {run.run_id}" in err


def test_resume_of_an_experiment_is_refused(here: Path, capsys: Capture) -> None:
    experiment_of(here)
    code, _, err = said(capsys, "resume", "last")
    assert code == 2
    assert "is an experiment" in err


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_colleague_approves(run: RunDir, bob: None, capsys: Capture) -> None:
    code, out, _ = said(capsys, "approve", "last", "promote-ok", "--note", "AWS says so")
    assert (code, out) == (0, f"{BOB} said yes to promote-ok of {run.run_id}\n")
    assert answer_marks(run) == [{"step": "promote-ok", "by": BOB, "yes": True, "note": "AWS says so"}]


def test_no_is_no(run: RunDir, bob: None, capsys: Capture) -> None:
    assert said(capsys, "approve", "last", "promote-ok", "--no")[0] == 0
    (answer,) = answer_marks(run)
    assert answer["yes"] is False


def test_who_started_the_run_cannot_be_the_second_pair_of_eyes(
    run: RunDir, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRKIT_OPERATOR", runs.STARTER)
    for words in ((), ("--no",)):
        code, _, err = said(capsys, "approve", "last", "promote-ok", *words)
        assert code == 4
        assert "another person" in err
    assert answer_marks(run) == []


def test_the_first_answer_counts(run: RunDir, bob: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(capsys, "approve", "last", "promote-ok", "--no")[0] == 0
    code, _, err = said(capsys, "approve", "last", "promote-ok")
    assert (code, len(answer_marks(run))) == (2, 1)
    assert "asks nothing now" in err


def test_of_two_answers_at_once_the_second_is_an_error(
    run: RunDir, bob: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.mark(MarkKind.ANSWER, "promote-ok", by="eve@noc", yes=False, note="")
    monkeypatch.setattr(answers, "open_question", lambda *_: True)  # both had looked before either wrote
    code, _, err = said(capsys, "approve", "last", "promote-ok")
    assert code == 2
    assert "eve@noc was quicker and said no" in err


def test_an_answer_that_comes_after_the_step_was_given_up_does_not_count(
    run: RunDir, bob: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.step(run, "promote-ok", "failed", why="nobody answered within 900 s")
    monkeypatch.setattr(answers, "open_question", lambda *_: True)
    with pytest.raises(UsageError, match="was given up before the answer came"):
        answers.answer(run, "promote-ok", yes=True, note="")


def test_manual_work_needs_a_note(run: RunDir, bob: None, capsys: Capture) -> None:
    waits_for_manual(run)
    code, _, err = said(capsys, "approve", "last", "tell-support")
    assert code == 2
    assert "say what was done" in err
    assert said(capsys, "approve", "last", "tell-support", "--note", " ")[0] == 2
    assert said(capsys, "approve", "last", "tell-support", "--note", "told at 16:05")[0] == 0
    assert answer_marks(run)[-1]["note"] == "told at 16:05"


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        ("promote-okay", UnknownName, "has no step 'promote-okay'"),
        ("promote", UsageError, "promote asks nobody"),
        ("tell-support", UsageError, "tell-support asks nothing now"),
    ],
)
def test_what_asks_nothing_gets_no_answer(
    step: str, error: type[Exception], words: str, run: RunDir, bob: None
) -> None:
    with pytest.raises(error, match=words) as caught:
        answers.answer(run, step, yes=True, note="x")
    assert "promote-ok" in caught.value.hint  # type: ignore[attr-defined]
    assert answer_marks(run) == []


def test_a_run_that_nobody_is_at_work_on_hears_no_answer(run: RunDir, bob: None, capsys: Capture) -> None:
    runs.stops(run)
    code, _, err = said(capsys, "approve", "last", "promote-ok")
    assert code == 2
    assert f"drkit resume {run.run_id}" in err
    run.mark(MarkKind.RUN_ENDED, runs.NAME)
    assert "has ended" in said(capsys, "approve", "last", "promote-ok")[2]
    assert answer_marks(run) == []


def test_a_note_is_kept_with_its_author(run: RunDir, bob: None, capsys: Capture) -> None:
    assert said(capsys, "note", "last", "AWS confirms: case 1234")[0] == 0
    note = run.marks()[-1]
    assert (note.kind, note.name, note.detail) == (MarkKind.NOTE, BOB, {"message": "AWS confirms: case 1234"})
    assert said(capsys, "note", "last", "  ")[0] == 2


def test_a_note_on_a_run_that_stands_half_way_keeps_its_seal(run: RunDir, bob: None, capsys: Capture) -> None:
    runs.stops(run)
    engine.finish(run)
    assert said(capsys, "note", "last", "case 1234")[0] == 0
    assert run.broken_at() == ""
    run.mark(MarkKind.RUN_ENDED, runs.NAME)
    run.seal()
    code, _, err = said(capsys, "note", "last", "too late")
    assert code == 2
    assert "its evidence is closed" in err
    assert run.broken_at() == ""


# --- a question in the terminal ---------------------------------------------------------------------------------------


class Said(live.Lines):
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.held: list[bool] = []

    def say(self, text: str) -> None:
        self.words.append(text)

    def hold(self) -> None:
        self.held.append(True)

    def go_on(self) -> None:
        self.held.append(False)


@pytest.fixture
def keyboard() -> Iterator[tuple[Any, Any]]:
    """(what questions read, a function that types into it)."""
    reads, writes = os.pipe()
    with os.fdopen(reads, "r") as stream:
        yield stream, lambda text: os.write(writes, text.encode())
        os.close(writes)


def the_call(run: RunDir, name: str) -> StepCall:
    return next(c for c in answers.calls(run, run.identity) if c.name == name)


def until(holds: Any) -> None:
    clock.wait_until(holds, "it", timeout_s=20, every_s=0.01)


def manual_question(run: RunDir, stream: Any, view: Said) -> recovering.Questions:
    waits_for_manual(run)
    questions = recovering.Questions(view, stream, terminal=True)
    questions.ask(run, the_call(run, "tell-support"), "Tell support.")
    until(lambda: view.held)
    clock.sleep_s(0.05)  # what was typed before is forgotten by now
    return questions


def test_only_whole_words_are_answers_and_manual_work_is_asked_for_its_note(
    run: RunDir, bob: None, keyboard: tuple[Any, Any]
) -> None:
    stream, types_ = keyboard
    view = Said()
    with manual_question(run, stream, view):
        types_("y\nYES\nyes please\n")
        until(lambda: sum("whole word" in w for w in view.words) == 3)
        assert answer_marks(run) == []
        types_("yes\n\n told at 16:05 \n")
        until(lambda: answer_marks(run))
    assert answer_marks(run) == [{"step": "tell-support", "by": BOB, "yes": True, "note": "told at 16:05"}]
    assert view.held == [True, False]


def test_no_in_the_terminal_is_no(run: RunDir, bob: None, keyboard: tuple[Any, Any]) -> None:
    stream, types_ = keyboard
    with manual_question(run, stream, Said()):
        types_("no\n")
        until(lambda: answer_marks(run))
    assert answer_marks(run)[0]["yes"] is False


def test_what_was_typed_before_the_question_answers_nothing(run: RunDir, bob: None, keyboard: tuple[Any, Any]) -> None:
    stream, types_ = keyboard
    types_("yes\nyes\n")
    view = Said()
    with manual_question(run, stream, view):
        types_("no\n")
        until(lambda: answer_marks(run))
    assert [a["yes"] for a in answer_marks(run)] == [False]


def test_an_answer_from_elsewhere_ends_the_question(run: RunDir, bob: None, keyboard: tuple[Any, Any]) -> None:
    stream, _ = keyboard
    view = Said()
    with manual_question(run, stream, view):
        answers.answer(run, "tell-support", yes=True, note="elsewhere")
        until(lambda: view.held == [True, False])
    assert len(answer_marks(run)) == 1


def test_asking_does_not_block_and_four_eyes_are_never_asked_here(run: RunDir, keyboard: tuple[Any, Any]) -> None:
    stream, types_ = keyboard
    view = Said()
    before = threading.active_count()
    with recovering.Questions(view, stream, terminal=True) as questions:
        questions.ask(run, the_call(run, "promote-ok"), "Promote  it?")
        assert threading.active_count() == before
        types_("yes\n")
    (text,) = view.words
    assert "promote-ok asks another person: Promote it?" in text
    assert f"drkit approve {run.run_id} promote-ok" in text
    assert answer_marks(run) == []


def test_without_a_terminal_the_command_is_told(run: RunDir) -> None:
    waits_for_manual(run)
    view = Said()
    with recovering.Questions(view, terminal=False) as questions:
        questions.ask(run, the_call(run, "tell-support"), "Tell support.")
    assert f'drkit approve {run.run_id} tell-support --note "what was done" (or with --no)' in view.words[0]


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_of_nothing(here: Path, capsys: Capture) -> None:
    assert said(capsys, "status")[:2] == (0, "nothing goes on, and nothing is left broken\n")
    assert json.loads(said(capsys, "status", "--json")[1])["exit_code"] == 0


def test_status_tells_steps_and_the_command_that_answers(run: RunDir, capsys: Capture) -> None:
    code, out, _ = said(capsys, "status")
    assert code == 0
    for words in (
        f"playbook {runs.NAME} on lab (lab), practice: running for",
        f"by {runs.STARTER}, held by process {os.getpid()}",
        "? promote-ok: waits for", "· promote: to be done by drkit",
        "WAITS for another person than the one who started it: Promote orders-replica?",
        f"answer with: drkit approve {run.run_id} promote-ok",
    ):  # fmt: skip
        assert words in out
    told = json.loads(said(capsys, "status", "last", "--json")[1])["run"]
    assert [s["state"] for s in told["steps"]] == ["waiting", *["pending"] * 4]
    assert told["waiting"][0]["four_eyes"] is True


def test_status_shows_what_the_clients_saw_last(run: RunDir, capsys: Capture) -> None:
    from drkit.model import Attempt, ErrorClass, Outcome, ProbeKind, Role
    from drkit.probes import ProbeSpec, journal

    for name, good in (("api", True), ("api@2", False), ("writes", None)):
        spec = ProbeSpec(
            name=name.partition("@")[0],
            kind=ProbeKind.HTTP,
            role=Role.SERVICE,
            every_s=0.1,
            timeout_s=1.0,
            url="http://127.0.0.1:1/",
        )
        path = run.path / "probes" / f"{name}.jsonl"
        journal.create(spec, path)
        if good is not None:
            t = clock.now_ns()
            wrong = (Outcome.FAILED, ErrorClass.REFUSED)
            journal.Writer(path).attempt(Attempt(1, t, t, t, *((Outcome.OK,) if good else wrong)))
    assert "clients: api FAILING (1 of 1, refused), writes silent" in said(capsys, "status")[1]


def test_a_playbook_that_stands_half_way_is_3_with_the_way_on(run: RunDir, capsys: Capture) -> None:
    runs.step(run, "promote-ok", "failed", why="bob@noc said no")
    runs.stops(run)
    for words in ((), ("last",)):
        code, out, _ = said(capsys, "status", *words)
        assert code == 3
        assert "✗ promote-ok: FAILED: bob@noc said no" in out
        assert f"drkit resume {run.run_id}" in out
    assert stored.left_open(run.path.parent) == ()


def test_a_run_whose_prerequisites_did_not_hold_stands_nowhere(here: Path, capsys: Capture) -> None:
    run = runs.run_of(here)
    run.mark(MarkKind.HYPOTHESIS, "replica-there", when="prerequisite", held=False, why="no replica")
    assert said(capsys, "status")[0] == 0


def test_what_is_left_broken_is_5(here: Path, capsys: Capture) -> None:
    path = experiment_of(here)
    (path / "undo.jsonl").write_text('{"seq": 1, "verb": "restore_acl", "args": {}, "region": "", "at_ns": 1}\n')
    code, out, _ = said(capsys, "status")
    assert code == 5
    assert f"STILL BROKEN: {path.name} has left 1 not put back; drkit undo {path.name}" in out
    (path / "lease.taken").touch()
    code, out, _ = said(capsys, "status")
    assert code == 0
    assert f"the guardian of {path.name} is putting things back" in out


def test_watching_one_run_ends_with_it(run: RunDir, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            runs.step(run, "promote-ok", "failed", why="x")
            runs.stops(run)

    monkeypatch.setattr(clock, "sleep_s", sleep)
    code, out, _ = said(capsys, "status", "last", "--watch")
    assert (code, len(looks)) == (3, 2)
    assert out.count("· promote: to be done by drkit") == 1  # only what is new is printed again


# --- abort and undo ---------------------------------------------------------------------------------------------------


def test_abort_of_a_playbook_says_that_nothing_is_put_back(run: RunDir, capsys: Capture) -> None:
    code, out, _ = said(capsys, "abort", "last")
    assert code == 0
    assert (run.path / "abort").exists()
    assert "nothing is put back" in out
    assert f"drkit resume {run.run_id}" in out
    assert f"drkit undo {run.run_id}" in out
    assert json.loads(said(capsys, "abort", "last", "--json")[1])["puts_back"] is False


def test_abort_can_wait(run: RunDir, capsys: Capture) -> None:
    timer = threading.Timer(0.3, runs.stops, (run,))
    timer.start()
    assert f"{run.run_id} has stopped" in said(capsys, "abort", "last", "--wait")[1]
    timer.join()
    code, _, err = said(capsys, "abort", "last")
    assert code == 2
    assert "stands half-way" in err


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was put back, by verbs of a toy; the second one refuses until it is allowed."""
    done: list[str] = []

    def put_back(target: Any, *, what: str) -> str:
        if what == "refused":
            raise Refused("orders-replica is a writer: two would be worse")
        done.append(what)
        return f"put {what} back"

    monkeypatch.setitem(undo._VERBS, "toy_put_back", put_back)
    monkeypatch.setattr("drkit.engine.session.recovery_journal",
                        lambda run, _: undo.UndoJournal(run.path / "undo.jsonl", run.run_id))  # fmt: skip
    monkeypatch.setattr("drkit.cli.undoing._release_claim", lambda *_: done.append("claim"))
    monkeypatch.setattr("drkit.engine.restore.TRIES", 1)
    return done


def test_undo_puts_back_what_a_playbook_did_and_ends_it(run: RunDir, verbs: list[str], capsys: Capture) -> None:
    journal = undo.UndoJournal(run.path / "undo.jsonl", run.run_id)
    journal.will("toy_put_back", what="first")
    journal.will("toy_put_back", what="second")
    code, _, err = said(capsys, "undo", "last")
    assert code == 2
    assert "is going on" in err
    runs.stops(run)
    code, out, _ = said(capsys, "undo", "last")
    assert (code, verbs) == (0, ["second", "first", "claim"])
    assert "undone: put second back" in out
    assert run.marks()[-1].kind is MarkKind.RUN_ENDED
    assert run.marks()[-1].name == "drkit undo"
    assert not any(m.kind in (MarkKind.RESIDUE, MarkKind.CLEANED_UP) for m in run.marks())
    assert run.sealed
    assert "guardian" not in (run.path / "report.md").read_text()
    assert said(capsys, "undo", "last")[:2] == (0, f"nothing to put back: {run.run_id} has left nothing broken\n")


def test_an_undo_that_refuses_is_5_with_its_reason(run: RunDir, verbs: list[str], capsys: Capture) -> None:
    journal = undo.UndoJournal(run.path / "undo.jsonl", run.run_id)
    journal.will("toy_put_back", what="first")
    journal.will("toy_put_back", what="refused")
    runs.stops(run)
    code, _, err = said(capsys, "undo", "last")
    assert (code, verbs) == (5, ["first"])
    assert "two would be worse" in err
    assert not any(m.kind is MarkKind.RUN_ENDED for m in run.marks())  # it can be resumed, or undone once more
    assert said(capsys, "status")[0] == 3


# --- the lab ----------------------------------------------------------------------------------------------------------


def test_deleting_rows_says_how_to_go_back(
    here: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from datetime import UTC, datetime

    from drkit.cli import aim

    moment = datetime(2026, 11, 22, 15, 54, 10, 250000, tzinfo=UTC)
    deleted = types.SimpleNamespace(rows=1200, not_before_utc=moment, not_after_utc=moment, lsn="0/5A3F2C8")
    monkeypatch.setattr(aim, "at", lambda *_, **__: runs.target())
    monkeypatch.setattr(lab, "delete_rows", lambda *_: deleted, raising=False)
    code, out, _ = said(capsys, "lab", "delete-rows", "orders")
    assert code == 0
    assert "deleted 1200 rows of orders" in out
    assert "drkit playbook run restore-from-cross-region-backup --to-time 2026-11-22T15:54:10.250000Z" in out
    monkeypatch.setattr(aim, "at", lambda *_, **__: runs.target("aws"))
    assert said(capsys, "lab", "delete-rows", "orders")[0] == 4


def test_a_lab_is_disturbed_for_a_while(
    here: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(lab, "disturb", lambda name, **more: given.append((name, more)), raising=False)
    code, out, _ = said(capsys, "lab", "disturb", "s3-503", "--for-s", "60")
    assert (code, out) == (0, "s3-503 in lab 'lab' for 60 s\n")
    assert given == [("lab", {"home": here / ".drkit", "what": "s3-503", "for_s": 60.0})]


# --- completion -------------------------------------------------------------------------------------------------------


def test_the_shell_completes_playbooks_and_the_step_that_asks(run: RunDir) -> None:
    from drkit.cli import complete

    assert runs.NAME in complete.playbooks("toy")
    context = types.SimpleNamespace(params={"run": "last"})
    assert complete.steps(context, "") == ["promote-ok"]
    assert complete.steps(types.SimpleNamespace(params={}), "") == []


# --- history ----------------------------------------------------------------------------------------------------------


def test_history_says_that_one_stands_half_way(run: RunDir, capsys: Capture) -> None:
    undo.UndoJournal(run.path / "undo.jsonl", run.run_id)._append(
        {"seq": 1, "verb": "x", "args": {}, "region": "", "at_ns": 1}
    )
    runs.step(run, "promote-ok", "failed", why="x")
    runs.stops(run)
    engine.finish(run)
    out = said(capsys, "history")[1]
    assert f"{run.run_id}: stands half-way; drkit resume {run.run_id}" in out
    assert "STILL BROKEN" not in out
