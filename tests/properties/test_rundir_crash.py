"""A crash at any byte leaves a readable run, and a flip of any byte is named. Exhaustive over small runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit import probes
from drkit.engine.finish import _series
from drkit.errors import RunDirError
from drkit.model import Attempt, ErrorClass, Mark, MarkKind, Outcome, ProbeKind, Role, SurvivingRow, Survivors
from drkit.probes import ProbeSpec, journal
from drkit.rundir import RunDir
from drkit.undo import UndoJournal, replay, verb


@verb("test-crash")
def _undo(target: object, *, what: str) -> str:
    return f"{what} is back"


@pytest.fixture(autouse=True)
def _without_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def _small_run(root: Path) -> RunDir:
    run = RunDir.create(root / "reports", root / "home", name="small", target="lab", identity={"before": {}})
    run.mark(MarkKind.PHASE, "baseline")
    run.mark(MarkKind.EVENT, "rds", t_lo_ns=1, t_hi_ns=2, message='über {}[]"\\', n=1.25, deep={"a": [1, None, True]})
    run.mark(MarkKind.RUN_ENDED, "small")
    return run


def _cuts(path: Path) -> Iterator[tuple[int, bytes]]:
    data = path.read_bytes()
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        yield length, data
    path.write_bytes(data)


def test_history_cut_anywhere_is_readable_and_can_be_continued(tmp_path: Path) -> None:
    run = _small_run(tmp_path)
    all_marks = run.marks()
    history = run.path / "history.jsonl"
    for length, data in _cuts(history):
        whole = data[:length].count(b"\n")
        assert run.marks() == all_marks[:whole], length
        assert run.broken_at() == "", length
        added = run.mark(MarkKind.GUARDIAN, "guardian", why="drkit is gone")
        assert run.marks() == (*all_marks[:whole], added), length
        if whole:
            assert run.broken_at() == "", length


def test_history_with_any_byte_flipped_names_the_line(tmp_path: Path) -> None:
    run = _small_run(tmp_path)
    all_marks = run.marks()
    history = run.path / "history.jsonl"
    data = history.read_bytes()
    for at in range(len(data)):
        for mask in (0x01, 0x20, 0x80):
            history.write_bytes(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
            line = data[:at].count(b"\n") + 1
            assert run.broken_at().endswith(f"its chain breaks at line {line}"), (at, mask)
            assert run.marks() == all_marks[: line - 1]
            try:
                run.mark(MarkKind.NOTE, "later")
            except RunDirError:
                continue  # the last line itself is damaged
            assert run.marks()[: line - 1] == all_marks[: line - 1]


def test_run_json_with_any_byte_flipped_is_named(tmp_path: Path) -> None:
    run = _small_run(tmp_path)
    path = run.path / "run.json"
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert run.broken_at() == "run.json is not what was written", at


def test_a_sealed_run_with_any_byte_of_any_file_flipped_names_the_file(tmp_path: Path) -> None:
    run = _small_run(tmp_path)
    run.add_survivors(Survivors("w", 1, 2, (SurvivingRow(1),)))
    UndoJournal(run.path / "undo.jsonl", run.run_id).will("test-crash", what="a")
    run.seal()
    assert run.broken_at() == ""
    for path in sorted(p for p in run.path.rglob("*") if p.is_file()):
        data = path.read_bytes()
        for at in range(len(data)):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert run.broken_at() != "", (path.name, at)
        path.write_bytes(data)


def test_the_register_cut_anywhere_goes_on_counting(tmp_path: Path) -> None:
    for n in range(3):
        _small_run(tmp_path / "source") if n == 0 else RunDir.create(
            tmp_path / "source/reports", tmp_path / "source/home", name=f"n{n}", target="lab", identity={}
        )
    register = tmp_path / "source/home/register.jsonl"
    home = tmp_path / "home"
    home.mkdir()
    data = register.read_bytes()
    for length in range(len(data) + 1):
        (home / "register.jsonl").write_bytes(data[:length])
        run = RunDir.create(tmp_path / "reports", home, name="next", target="lab", identity={})
        whole = data[:length].count(b"\n")
        assert run.identity["number"] == whole + 1
        lines = [json.loads(line) for line in (home / "register.jsonl").read_text().splitlines()]
        assert [e["number"] for e in lines] == list(range(1, whole + 2))
        assert [e["prev"] for e in lines] == ["0" * 64, *(e["hash"] for e in lines[:-1])]
        shutil.rmtree(run.path)


def test_survivors_cut_anywhere_lose_only_the_torn_reading(tmp_path: Path) -> None:
    run = _small_run(tmp_path)
    readings = [Survivors("w", n, n + 1, (SurvivingRow(1), SurvivingRow(2, False))) for n in range(2)]
    for reading in readings:
        run.add_survivors(reading)
    for length, data in _cuts(run.path / "survivors.jsonl"):
        assert run.survivors() == tuple(readings[: data[:length].count(b"\n")])


def test_a_probe_file_cut_anywhere_gives_the_whole_attempts_and_is_not_complete(tmp_path: Path) -> None:
    path = tmp_path / "api.jsonl"
    spec = ProbeSpec(name="api", kind=ProbeKind.HTTP, role=Role.SERVICE, every_s=0.02, timeout_s=1.0, url="http://x/")
    journal.create(spec, path)
    writer = journal.Writer(path)
    attempts = [
        Attempt(0, 10, 11, 20, Outcome.OK),
        Attempt(1, 30, 31, 40, Outcome.FAILED, ErrorClass.REFUSED, "nobody\nthere"),
    ]
    for attempt in attempts:
        writer.attempt(attempt)
    writer.end(2, 0)
    for length, data in _cuts(path):
        whole = data[:length].count(b"\n")
        series = _series(path)
        assert series.attempts == tuple(attempts[: max(0, whole - 1)]), length
        assert series.complete == (whole == 4), length
    assert probes.read(path).complete


def test_an_undo_journal_cut_anywhere_knows_all_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "undo.jsonl"
    undo = UndoJournal(path, "run")
    first, second = undo.will("test-crash", what="a"), undo.will("test-crash", what="b")
    undo.done(second)
    undo.will("test-crash", region="eu-west-1", what="c")
    steps: list[set[tuple[int, bool]]] = [
        set(),
        {(1, False)},
        {(1, False), (2, False)},
        {(1, False), (2, True)},
        {(1, False), (2, True), (3, False)},
    ]
    for length, data in _cuts(path):
        # A line that lacks only its end was written whole; it may count.
        whole = data[:length].count(b"\n") + (data[length : length + 1] == b"\n" and length > 0)
        again = UndoJournal(path, "run")
        assert {(r.seq, r.done) for r in again.records()} == steps[whole], length
        added = again.will("test-crash", what="d")
        assert added.seq == max((seq for seq, _ in steps[whole]), default=0) + 1
        assert {(r.seq, r.done) for r in again.records()} == steps[whole] | {(added.seq, False)}, length
        results = replay(again, None)
        assert all(u.ok for u in results)
        assert not again.pending()
        assert [u.record.seq for u in results] == sorted((u.record.seq for u in results), reverse=True)
    assert first.seq == 1


def test_an_undo_journal_with_any_byte_flipped_still_knows_the_others(tmp_path: Path) -> None:
    path = tmp_path / "undo.jsonl"
    undo = UndoJournal(path, "run")
    for what in "abc":
        undo.will("test-crash", what=what)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        line = data[:at].count(b"\n")
        merged = data[at : at + 1] == b"\n"
        known = {r.args.get("what") for r in undo.records()}
        assert known >= set("abc") - {"abc"[line], *("abc"[line + 1 : line + 2] if merged else "")}, at
        before = len(undo.records())
        undo.will("test-crash", what="new")
        assert len(undo.records()) == before + 1, at  # no number is used twice


_MARK_MANY = """
import sys; from pathlib import Path; from drkit.model import MarkKind; from drkit.rundir import RunDir
run = RunDir(Path(sys.argv[1]))
for n in range(20): run.mark(MarkKind.NOTE, sys.argv[2], n=n)
"""


def _check_one_chain(run: RunDir, before: int, workers: int) -> None:
    marks: tuple[Mark, ...] = run.marks()[before:]
    assert len(marks) == 20 * workers
    for w in range(workers):
        assert [m.detail["n"] for m in marks if m.name == f"{w}"] == list(range(20))
    assert run.broken_at() == ""


def test_marks_of_several_threads_make_one_chain(tmp_path: Path) -> None:
    run = _small_run(tmp_path)
    before = len(run.marks())

    def mark_many(who: int) -> None:
        for n in range(20):
            run.mark(MarkKind.NOTE, f"{who}", n=n)

    workers = [threading.Thread(target=mark_many, args=(w,)) for w in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    _check_one_chain(run, before, len(workers))


def test_marks_of_several_processes_make_one_chain(tmp_path: Path) -> None:
    run = _small_run(tmp_path)
    before = len(run.marks())
    workers = [subprocess.Popen([sys.executable, "-c", _MARK_MANY, str(run.path), str(w)]) for w in range(3)]
    assert [w.wait(60) for w in workers] == [0, 0, 0]
    _check_one_chain(run, before, len(workers))
