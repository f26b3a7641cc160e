"""A database that takes no more writes, on a real server; and one server's rows beside another's."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from drkit import guard
from drkit.clock import wall_utc
from drkit.errors import Aborted
from drkit.guard import Permit
from drkit.lab.postgres import Scratch
from drkit.targets import DatabaseTarget, Target, contents, postgres, readonly
from drkit.undo import UndoJournal

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def server() -> Iterator[Scratch]:
    with Scratch() as running:
        yield running


@pytest.fixture(scope="module")
def other() -> Iterator[Scratch]:
    with Scratch() as running:
        yield running


@pytest.fixture
def target(server: Scratch) -> Target:
    database = DatabaseTarget(
        instance_id="orders-db", host=server.host, port=server.port, dbname=server.dbname, user=server.user,
        sslmode="disable",
    )  # fmt: skip
    return Target(
        name="scratch", kind="lab", account_id="123456789012", region="eu-central-1", zones=(), database=database
    )


@pytest.fixture
def permit() -> Permit:
    facts = guard.Facts(
        target="scratch", account_id="1", caller_account_id="1", regions=(), loopback=True, now=wall_utc()
    )
    return guard.authorise("run", (), facts=facts, rules=guard.Rules(), blast_radius=guard.BlastRadius(), recovery=True)


@pytest.fixture
def journal(tmp_path) -> UndoJournal:
    return UndoJournal(tmp_path / "undo.jsonl", "run")


def test_writes_stop_for_those_who_are_connected_already(server, target, permit, journal) -> None:
    at = (server.host, server.port)
    with psycopg.connect(server.dsn, autocommit=True) as pooled:
        pooled.execute("insert into orders (zone, instance) values ('a', 'i')")
        assert not readonly.is_read_only(target, at)
        readonly.stop_writes(target, "eu-central-1", "orders-db", at, permit, journal)
        assert readonly.is_read_only(target, at)
        assert not postgres.accepts_writes(target, at=at)
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("insert into orders (zone, instance) values ('a', 'i')")
    with psycopg.connect(server.dsn) as fresh, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        fresh.execute("insert into orders (zone, instance) values ('a', 'i')")
    readonly.stop_writes(target, "eu-central-1", "orders-db", at, permit, journal)
    assert [r.verb for r in journal.records()] == ["take_writes_again"]  # the second one had nothing to write down
    readonly.allow_writes(target, at)
    assert postgres.accepts_writes(target, at=at)


def test_without_a_permit_nobody_stops_writes(server, target, permit, journal) -> None:
    permit.revoke("enough")
    with pytest.raises(Aborted):
        readonly.stop_writes(target, "eu-central-1", "orders-db", (server.host, server.port), permit, journal)
    assert not journal.records()
    assert postgres.accepts_writes(target)


MARKERS = (
    "create table if not exists drkit_marker (run_id uuid, seq bigint, sent_ns bigint, sha256 text,"
    " primary key (run_id, seq))"
)
WRITER = "00000000-0000-0000-0000-000000000001"


def _fill(server: Scratch, seqs: range, *, but: dict[int, str] | None = None, without: tuple[int, ...] = ()) -> None:
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(MARKERS)
        connection.execute("truncate drkit_marker")
        rows = [(WRITER, s, s, (but or {}).get(s, f"sum {s}")) for s in seqs if s not in without]
        with connection.cursor() as cursor:
            cursor.executemany("insert into drkit_marker values (%s, %s, %s, %s)", rows)


@pytest.mark.parametrize(
    ("restored", "kwargs", "wrong"),
    [
        (range(200), {}, ""),
        (range(0), {}, ""),
        (range(200), {"but": {7: "another"}}, "1 altered or unknown"),
        (range(200), {"without": (3,)}, "1 missing"),
        (range(200), {"without": (198,)}, ""),  # it was in flight
        (range(301), {}, "1 altered or unknown"),  # production never had it
    ],
)
def test_restored_rows_are_what_production_had_at_one_moment(server, other, target, restored, kwargs, wrong) -> None:
    _fill(server, range(300))
    _fill(other, restored, **kwargs)
    found = contents.compare_markers(target, (other.host, other.port))
    assert (wrong in found.wrong) if wrong else not found.wrong
    assert found.rows == len(restored) - len(kwargs.get("without", ()))
    if not wrong:
        assert found.newer == 300 - found.rows


def test_what_differs_is_named(server, other, target) -> None:
    here, there = (contents.configuration(target, (s.host, s.port)) for s in (server, other))
    assert contents.differences(here, there) == ()
    there["extension"]["pg_trgm"] = "1.6"
    del there["role"]["replicator"]
    there["setting"]["max_connections"] = "7"
    assert contents.differences(here, there) == (
        "setting max_connections is 7 instead of 120",
        "extension pg_trgm is 1.6 instead of not there",
        "role replicator is not there instead of true",
    )
