"""One run on disk: registered before it starts, chained, sealed, found again."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import RunDirError, UnknownName
from drkit.model import Mark, MarkKind, SurvivingRow, Survivors
from drkit.rundir import MANIFEST, RunDir, safe_name


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make(tmp_path)


def make(root: Path, name: str = "az-failure") -> RunDir:
    return RunDir.create(root / "reports", root / "home", name=name, target="lab", identity={"title": "τ"})


def test_the_number_is_registered_before_the_run_begins_and_counts_up(tmp_path: Path) -> None:
    runs = [make(tmp_path, n) for n in ("a", "b", "c")]
    assert [r.identity["number"] for r in runs] == [1, 2, 3]
    register = [json.loads(line) for line in (tmp_path / "home" / "register.jsonl").read_text().splitlines()]
    assert [e["run_id"] for e in register] == [r.run_id for r in runs]
    assert [e["prev"] for e in register] == ["0" * 64, *(e["hash"] for e in register[:-1])]


def test_the_first_mark_is_the_start_with_its_number(run: RunDir) -> None:
    (first,) = run.marks()
    assert (first.kind, first.detail["number"]) == (MarkKind.RUN_STARTED, 1)


def test_marks_come_back_as_they_were_written(run: RunDir) -> None:
    run.mark(MarkKind.PHASE, "method")
    run.mark(MarkKind.EVENT, "rds", t_lo_ns=5, t_hi_ns=9, message="Multi-AZ failover — started\n\u2028", n=1.5)
    assert run.marks()[-1] == Mark(
        5, 9, MarkKind.EVENT, "rds", {"message": "Multi-AZ failover — started\n\u2028", "n": 1.5}
    )
    assert run.broken_at() == ""


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({2: "a", 10: "b"}, {"2": "a", "10": "b"}),  # sorted as numbers before, as text after: the hash must not care
        ((1, 2), [1, 2]),
        (Path("/x"), "/x"),
        ({("a", 1): 2, "b": 3}, {"b": 3}),
        (float("inf"), float("inf")),
        ("\ud800", "\ud800"),
    ],
)
def test_what_is_not_json_is_written_all_the_same_and_the_chain_holds(run: RunDir, given: Any, read: Any) -> None:
    run.mark(MarkKind.ACTIVITY, "somebody else's", entry=given)
    run.mark(MarkKind.RUN_ENDED, "end")
    assert run.marks()[1].detail["entry"] == read
    assert run.broken_at() == ""


def test_a_value_that_contains_itself_is_written_as_text(run: RunDir) -> None:
    loop: list[Any] = []
    loop.append(loop)
    run.mark(MarkKind.ACTIVITY, "loop", output=loop)
    assert "[[...]]" in run.marks()[-1].detail["why"]
    assert run.broken_at() == ""


def test_an_unknown_kind_of_mark_ends_the_reading_and_is_named(run: RunDir) -> None:
    history = run.path / "history.jsonl"
    run.mark(MarkKind.NOTE, "x")
    history.write_text(history.read_text().replace('"note"', '"noteworthy"'))
    assert len(run.marks()) == 1
    assert "line 2" in run.broken_at()


def test_run_json_is_held_by_the_first_mark(run: RunDir) -> None:
    assert run.broken_at() == ""
    path = run.path / "run.json"
    path.write_text(path.read_text().replace('"lab"', '"lag"'))
    assert run.broken_at() == "run.json is not what was written"


def test_sha256sum_agrees_with_a_sealed_run(run: RunDir) -> None:
    run.write_text("report.md", "# verdict")
    (run.path / "probes" / "api.jsonl").write_text("{}\n")
    run.seal()
    assert (
        subprocess.run(["sha256sum", "-c", "--strict", "--quiet", MANIFEST], cwd=run.path, check=False).returncode == 0
    )
    listed = {line.split("  ")[1] for line in (run.path / MANIFEST).read_text().splitlines()}
    assert listed == {"run.json", "history.jsonl", "report.md", "probes/api.jsonl"}
    assert run.broken_at() == ""


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (lambda p: (p / "report.md").write_text("# better"), "report.md is not what was sealed"),
        (lambda p: (p / "report.md").unlink(), "report.md is not what was sealed"),
        (lambda p: (p / "more.txt").write_text("?"), "more.txt was added after the run was sealed"),
        (lambda p: RunDir(p).mark(MarkKind.NOTE, "later"), "history.jsonl is not what was sealed"),
    ],
)
def test_a_sealed_run_that_was_altered_says_where(run: RunDir, tamper: Any, named: str) -> None:
    run.write_text("report.md", "# verdict")
    run.seal()
    tamper(run.path)
    assert run.broken_at() == named
    if "report" not in named:
        run.seal()
        assert run.broken_at() == ""


def test_half_written_files_of_a_killed_process_are_not_sealed(run: RunDir) -> None:
    (run.path / ".report.html.new").write_text("half")
    run.seal()
    assert ".new" not in (run.path / MANIFEST).read_text()
    assert run.broken_at() == ""


def test_survivors_come_back(run: RunDir) -> None:
    values = [Survivors("w", 1, 2, (SurvivingRow(1), SurvivingRow(3, False)), settled=n == 1) for n in (0, 1)]
    for value in values:
        run.add_survivors(value)
    assert run.survivors() == tuple(values)


def test_altered_survivors_are_an_error_and_not_fewer_rows(run: RunDir) -> None:
    for n in (1, 2):
        run.add_survivors(Survivors("w", n, n, (SurvivingRow(1),)))
    path = run.path / "survivors.jsonl"
    path.write_text(path.read_text().replace('"rows"', '"rowz"', 1))
    with pytest.raises(RunDirError, match="not what drkit wrote"):
        run.survivors()


def test_a_run_is_found_by_path_id_part_and_last(tmp_path: Path) -> None:
    first, last = make(tmp_path, "one"), make(tmp_path, "two")
    reports = tmp_path / "reports"
    assert RunDir.find(reports, str(first.path)).path == first.path
    assert RunDir.find(reports, first.run_id).path == first.path
    assert RunDir.find(reports, "-two-").path == last.path
    assert RunDir.find(reports, "last").path == RunDir.all(reports)[-1].path
    assert RunDir.find(reports, "2").path == last.path  # its number, not a part of an id
    with pytest.raises(UnknownName, match="no run '71'"):
        RunDir.find(reports, "71")
    shutil.copytree(first.path, reports / "sample")  # what somebody put there is not the last run, but has a name
    assert RunDir.find(reports, "last").path == RunDir.all(reports)[-1].path != reports / "sample"
    assert RunDir.find(reports, "sample").path == reports / "sample"
    with pytest.raises(UnknownName, match="2 runs match") as ambiguous:
        RunDir.find(reports, "lab")
    assert first.run_id in ambiguous.value.hint
    with pytest.raises(UnknownName, match="no run 'nine'"):
        RunDir.find(reports, "nine")
    with pytest.raises(UnknownName, match="no run 'last'") as none:
        RunDir.find(tmp_path / "empty", "last")
    assert "drkit run" in none.value.hint


def test_a_run_whose_identity_is_no_object_is_an_error(run: RunDir) -> None:
    (run.path / "run.json").write_text("[]")
    with pytest.raises(RunDirError):
        _ = run.identity


def test_the_disk_that_refuses_is_named_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file where the directory should be")
    with pytest.raises(RunDirError, match="cannot write the run in") as e:
        make(tmp_path)
    assert "--reports" in e.value.hint


class Full:
    """A disk that has room for some bytes more, then for none until the reserve is given back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: RunDir, room: int) -> None:
        import drkit.rundir as module

        self.run, self.room = run, room
        self._write = module._write_whole
        monkeypatch.setattr(module, "_write_whole", self.write)

    def write(self, f: Any, data: bytes) -> None:
        if (self.run.path / ".reserve").exists() and len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(f, data)


def test_a_full_disk_gives_the_reserve_back_once(monkeypatch: pytest.MonkeyPatch, run: RunDir) -> None:
    Full(monkeypatch, run, room=0)
    run.mark(MarkKind.NOTE, "still written")
    assert run.marks()[-1].name == "still written"
    assert not run.release_reserve()


def test_a_disk_that_stays_full_refuses_a_mark_but_not_a_try(monkeypatch: pytest.MonkeyPatch, run: RunDir) -> None:
    run.release_reserve()
    import drkit.rundir as module

    def full(f: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write_whole", full)
    with pytest.raises(RunDirError, match="No space left") as e:
        run.mark(MarkKind.NOTE, "x")
    assert "free some space" in e.value.hint
    assert run.try_mark(MarkKind.NOTE, "x") is False


def test_a_damaged_history_refuses_more_marks_without_a_traceback(run: RunDir) -> None:
    with (run.path / "history.jsonl").open("ab") as f:
        f.write(b"\0\0\0\n")
    with pytest.raises(RunDirError, match="not what drkit wrote"):
        run.mark(MarkKind.NOTE, "x")
    assert run.try_mark(MarkKind.NOTE, "x") is False


@pytest.mark.parametrize(("name", "safe"), [("az failure/é", "az-failure"), ("..", "run"), ("a.b_c-1", "a.b_c-1")])
def test_names_that_are_part_of_a_path_stay_inside_it(name: str, safe: str) -> None:
    assert safe_name(name) == safe
