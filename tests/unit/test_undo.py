"""The undo journal: written before the fault, replayed newest first, any number of times."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from drkit.errors import RunDirError, TargetError, UnknownName
from drkit.model import UndoRecord
from drkit.undo import UndoJournal, Undone, replay, verb


@verb("test-put-back")
def _put_back(target: dict[str, str], *, name: str, was: str) -> str:
    if was == "impossible":
        raise TargetError(f"{name} does not answer")
    if was == "defect":
        raise KeyError(name)
    target[name] = was
    return f"{name} is {was} again"


@pytest.fixture
def journal(tmp_path: Path) -> UndoJournal:
    return UndoJournal(tmp_path / "undo.jsonl", "run-1")


def test_a_record_is_on_disk_when_will_returns(journal: UndoJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    record = journal.will("test-put-back", region="eu-central-1", name="a", was="x")
    assert synced[0] == journal.path.stat().st_size > 0
    assert UndoJournal(journal.path, "run-1").pending() == (record,)
    assert (record.seq, record.region, record.args) == (1, "eu-central-1", {"name": "a", "was": "x"})


def test_it_is_replayed_newest_first_and_once(journal: UndoJournal) -> None:
    for was in ("first", "second", "third"):
        journal.will("test-put-back", name="a", was=was)
    target: dict[str, str] = {}
    told: list[Undone] = []
    results = replay(journal, target, told=told.append)
    assert [u.sentence for u in results] == ["a is third again", "a is second again", "a is first again"]
    assert tuple(told) == results
    assert target == {"a": "first"}
    assert replay(journal, target) == ()
    assert all(r.done for r in journal.records())


def test_what_is_kept_is_pending_no_more_and_never_put_back(journal: UndoJournal) -> None:
    kept, other = (journal.will("test-put-back", name=name, was="x") for name in "ab")
    journal.keep(kept)
    assert journal.path.read_text().splitlines()[-1] == '{"done":1,"kept":true}'
    read = UndoJournal(journal.path, "run-1")
    assert [(r.seq, r.done, r.kept) for r in read.records()] == [(1, True, True), (2, False, False)]
    assert read.pending() == (other,)
    target: dict[str, str] = {}
    replay(read, target, again=True)
    assert target == {"b": "x"}
    assert [(r.done, r.kept) for r in read.records()] == [(True, True), (True, False)]


def test_again_replays_what_was_put_back_too(journal: UndoJournal) -> None:
    journal.will("test-put-back", name="a", was="x")
    target: dict[str, str] = {}
    replay(journal, target)
    target["a"] = "broken late"
    assert replay(journal, target) == ()
    replay(journal, target, again=True)
    assert target == {"a": "x"}


@pytest.mark.parametrize(("was", "sentence"), [("impossible", "b does not answer"), ("defect", "KeyError: 'b'")])
def test_one_that_fails_stops_no_other_and_stays_pending(journal: UndoJournal, was: str, sentence: str) -> None:
    journal.will("test-put-back", name="a", was="x")
    failing = journal.will("test-put-back", name="b", was=was)
    journal.will("test-put-back", name="c", was="z")
    target: dict[str, str] = {}
    assert [(u.ok, u.sentence) for u in replay(journal, target)] == [
        (True, "c is z again"), (False, sentence), (True, "a is x again"),
    ]  # fmt: skip
    assert journal.pending() == (failing,)


def test_only_some_can_be_put_back(journal: UndoJournal) -> None:
    journal.will("test-put-back", region="here", name="a", was="x")
    there = journal.will("test-put-back", region="there", name="b", was="y")
    replay(journal, {}, only=lambda r: r.region == "here")
    assert journal.pending() == (there,)


def test_a_verb_nobody_registered_is_refused_before_the_fault(journal: UndoJournal) -> None:
    with pytest.raises(UnknownName, match="no undo verb is called 'nothing'"):
        journal.will("nothing")
    assert not journal.path.exists()


def test_a_verb_of_another_version_is_told_and_stays_pending(journal: UndoJournal) -> None:
    journal.path.write_text('{"seq":1,"verb":"from-the-future","args":{},"region":"","at_ns":1}\n')
    (result,) = replay(journal, {})
    assert not result.ok
    assert "no undo verb 'from-the-future'" in result.sentence
    assert len(journal.pending()) == 1


def test_two_verbs_of_one_name_are_a_defect() -> None:
    with pytest.raises(ValueError, match="two undo verbs"):
        verb("test-put-back")(lambda target: "")  # noqa: ARG005


def test_a_disk_that_takes_half_a_line_refuses_and_the_half_line_is_no_record(
    journal: UndoJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = journal.will("test-put-back", name="a", was="x")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(RunDirError, match="No space left") as e:
        journal.will("test-put-back", name="b", was="y")
    assert "without an undo nothing is broken" in e.value.hint
    monkeypatch.setattr(os, "write", write)
    assert journal.pending() == (first,)
    second = journal.will("test-put-back", name="c", was="z")
    assert journal.pending() == (second, first)


def test_a_full_disk_does_not_stop_a_replay(journal: UndoJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        journal.will("test-put-back", name=name, was="x")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    target: dict[str, str] = {}
    assert all(u.ok for u in replay(journal, target))
    assert target == {"a": "x", "b": "x"}


class Cloud:
    def __init__(self, *, broken: bool = False) -> None:
        self.broken, self.kept = broken, dict[int, UndoRecord]()

    def put(self, run_id: str, record: UndoRecord) -> None:
        if self.broken:
            raise TargetError("access denied")
        self.kept[record.seq] = record

    def delete(self, run_id: str, record: UndoRecord) -> None:
        if self.broken:
            raise TargetError("access denied")
        self.kept.pop(record.seq, None)

    def records(self, run_id: str) -> tuple[UndoRecord, ...]:
        return tuple(self.kept.values())


def test_a_copy_that_arrives_after_its_undo_is_tidied_away(tmp_path: Path) -> None:
    cloud = Cloud()
    journal = UndoJournal(tmp_path / "undo.jsonl", "r", cloud)
    late = journal.will("test-put-back", name="a", was="x")
    replay(journal, {})
    pending = journal.will("test-put-back", name="b", was="x")
    cloud.put("r", late)  # its writer stood still between the disk and the cloud
    journal.tidy()
    assert cloud.kept == {pending.seq: pending}


def test_the_cloud_has_a_copy_of_what_is_pending(tmp_path: Path) -> None:
    cloud = Cloud()
    journal = UndoJournal(tmp_path / "undo.jsonl", "r", cloud)
    record = journal.will("test-put-back", name="a", was="x")
    assert cloud.kept == {1: record}
    replay(journal, {})
    assert cloud.kept == {}


def test_without_its_copy_in_the_cloud_nothing_may_be_broken(tmp_path: Path) -> None:
    journal = UndoJournal(tmp_path / "undo.jsonl", "r", Cloud(broken=True))
    with pytest.raises(TargetError):
        journal.will("test-put-back", name="a", was="x")
    assert len(journal.pending()) == 1  # harmless: its undo finds nothing to do
    assert all(u.ok for u in replay(journal, {}))  # the copy's trouble is not the target's
    assert not journal.pending()


class Crashes(RuleBasedStateMachine):
    """Any order of writing, putting back, failing and crashing (a cut last line) keeps every acknowledged record."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "undo.jsonl"
        self.model: dict[int, bool] = {}  # seq → done, of every line whose writing returned
        self.last: tuple[int, bool] | None = None  # what the last line said, if nothing followed it
        self.target: dict[str, str] = {}

    @property
    def journal(self) -> UndoJournal:
        return UndoJournal(self.path, "r")

    @rule(bad=st.booleans())
    def will(self, bad: bool) -> None:
        record = self.journal.will("test-put-back", name=f"n{len(self.model)}", was="impossible" if bad else "x")
        assert record.seq not in self.model
        self.model[record.seq] = False
        self.last = (record.seq, False)

    @precondition(lambda self: any(not done for done in self.model.values()))
    @rule(data=st.data())
    def done(self, data: Any) -> None:
        record = data.draw(st.sampled_from(self.journal.pending()))
        self.journal.done(record)
        self.model[record.seq] = True
        self.last = (record.seq, True)

    @rule()
    def put_back(self) -> None:
        for undone in replay(self.journal, self.target):
            assert undone.ok == (undone.record.args["was"] != "impossible")
            self.model[undone.record.seq] = undone.ok
            self.last = None

    @precondition(lambda self: self.last is not None)
    @rule(keep=st.floats(0, 0.99))
    def crash_while_writing_the_last_line(self, keep: float) -> None:
        """The writer never returned: what the line says did not happen."""
        assert self.last is not None
        data = self.path.read_bytes()
        start = data.rfind(b"\n", 0, len(data) - 1) + 1
        length = len(data) - start
        self.path.write_bytes(data[: start + min(length - 2, int(length * keep))])
        seq, done = self.last
        if done:
            self.model[seq] = False
        else:
            del self.model[seq]
        self.last = None

    @invariant()
    def nothing_acknowledged_is_forgotten(self) -> None:
        assert {r.seq: r.done for r in self.journal.records()} == self.model

    def teardown(self) -> None:
        self.directory.cleanup()


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
