"""A probe's file: written by the line, read back whole, torn or growing."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from drkit.errors import RunDirError, UsageError
from drkit.model import Attempt, Connection, ErrorClass, Outcome, ProbeKind, Role
from drkit.probes import ProbeSpec, Tail, journal, read

MS = 1_000_000

SPEC = ProbeSpec(
    name="web", kind=ProbeKind.HTTP, role=Role.SERVICE, every_s=0.02, timeout_s=1.0, url="http://127.0.0.1:1/x"
)
OK = Attempt(0, 0, 1 * MS, 3 * MS, Outcome.OK)
FAILED = Attempt(1, 20 * MS, 21 * MS, 22 * MS, Outcome.FAILED, ErrorClass.REFUSED)
SLOW = Attempt(2, 40 * MS, 41 * MS, 99 * MS, Outcome.UNKNOWN, ErrorClass.TIMEOUT, 'said "no" — ü')


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "probes" / "web.jsonl"
    journal.create(SPEC, path)
    return path


def test_attempts_come_back_in_the_order_sent(path: Path) -> None:
    writer = journal.Writer(path)
    for attempt in (FAILED, SLOW, OK):  # as they completed
        writer.attempt(attempt)
    writer.end(3, 0)
    series = read(path)
    assert series.attempts == (OK, FAILED, SLOW)
    assert (series.ticks_due, series.ticks_lost, series.complete) == (3, 0, True)
    assert (series.name, series.kind, series.role, series.every_s, series.timeout_s, series.connection) == (
        "web", ProbeKind.HTTP, Role.SERVICE, 0.02, 1.0, Connection.FRESH,
    )  # fmt: skip


def test_a_file_torn_at_any_byte_gives_the_whole_lines_before_it(path: Path) -> None:
    writer = journal.Writer(path)
    for attempt in (OK, FAILED, SLOW):
        writer.attempt(attempt)
    writer.end(3, 0)
    data = path.read_bytes()
    header = data.index(b"\n") + 1
    lines = [header]
    while lines[-1] < len(data):
        lines.append(data.index(b"\n", lines[-1]) + 1)
    for size in range(header, len(data)):
        path.write_bytes(data[:size])
        series = read(path)
        whole = sum(end <= size for end in lines) - 1
        assert series.attempts == (OK, FAILED, SLOW)[:whole]
        assert not series.complete
        assert series.ticks_due == whole


def test_without_its_end_the_ticks_are_counted_from_the_lines(path: Path) -> None:
    writer = journal.Writer(path)
    writer.attempt(OK)
    writer.lost(1, 7, 20 * MS, "late")
    writer.attempt(Attempt(8, 160 * MS, 185 * MS, 186 * MS, Outcome.OK))  # 25 ms late: more than one period
    series = read(path)
    assert (series.ticks_due, series.ticks_lost, series.complete) == (9, 8, False)


def test_a_tail_sees_each_attempt_once_and_waits_for_the_end_of_a_line(path: Path) -> None:
    tail = Tail(path)
    assert tail.poll() == []
    assert tail.spec == SPEC
    journal.Writer(path).attempt(OK)
    assert tail.poll() == [OK]
    with path.open("ab") as file:
        file.write(b'{"k":1,"d":20000000,"s":21000000,"c":220')
    assert tail.poll() == []
    with path.open("ab") as file:
        file.write(b'00000,"o":"failed","e":"refused"}\n')
    assert tail.poll() == [FAILED]
    assert tail.poll() == []


def test_a_tail_of_a_file_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    assert Tail(tmp_path / "soon.jsonl").poll() == []


@pytest.mark.parametrize("content", ["", "{}\n", "[1]\n", "not json\n", '{"probe": {"name": "x"}}\n'])
def test_what_is_no_probe_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(content)
    with pytest.raises(RunDirError):
        read(path)


def test_a_damaged_line_in_the_middle_is_refused(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\x00\x00\x00\n")
    journal.Writer(path).attempt(OK)
    with pytest.raises(RunDirError, match="damaged"):
        read(path)


def test_a_file_is_never_overwritten(path: Path) -> None:
    with pytest.raises(RunDirError):
        journal.create(SPEC, path)


def test_a_spec_survives_its_file(tmp_path: Path) -> None:
    spec = ProbeSpec(
        name="w", kind=ProbeKind.SQL, role=Role.WRITES, every_s=0.02, timeout_s=1, connection=Connection.POOLED,
        host="db", port=5432, dbname="d", user="u", password_env="PW", ledger_id=str(uuid.uuid4()),
    )  # fmt: skip
    journal.create(spec, tmp_path / "w.jsonl")
    assert journal.spec_of(tmp_path / "w.jsonl") == spec


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"every_s": 0.0}, "every_s"),
        ({"timeout_s": -1.0}, "timeout_s"),
        ({"every_s": 0.001, "timeout_s": 60.0}, "pile up"),
        ({"url": "ftp://x/"}, "URL"),
        ({"url": "http://me:secret@x/"}, "password"),
        ({"kind": ProbeKind.TCP, "host": "x"}, "port"),
        ({"kind": ProbeKind.SQL, "host": "x", "port": 1, "ledger_id": "'; drop table"}, "UUID"),
        ({"kind": ProbeKind.TCP, "host": "x", "port": 1, "too_slow_s": 0.1}, "too_slow_s"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ProbeSpec.from_json(SPEC.to_json() | change)
