"""A database that takes no more writes, on a real server; and one server's rows beside another's."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import psycopg
import pytest

from drkit import guard
from drkit.clock import wall_utc
from drkit.errors import Aborted, Refused
from drkit.guard import Permit
from drkit.lab.postgres import Scratch
from drkit.targets import AwsAccess, DatabaseTarget, Target, contents, postgres, readonly
from drkit.targets.aws import Account, Database
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
        name="scratch", kind="lab", account_id="123456789012", region="eu-central-1", zones=(), database=database,
        aws=AwsAccess(endpoint_url="http://127.0.0.1:9"),
    )  # fmt: skip


@pytest.fixture
def permit() -> Permit:
    facts = guard.Facts(
        target="scratch", account_id="1", caller_account_id="1", regions=(), loopback=True, now=wall_utc()
    )
    return guard.authorise("run", (), facts=facts, rules=guard.Rules(), blast_radius=guard.BlastRadius(), recovery=True)


@pytest.fixture
def journal(tmp_path) -> UndoJournal:
    return UndoJournal(tmp_path / "undo.jsonl", "run")


class Cloud:
    """What AWS says about the instance: whose account it is in, and its tags."""

    def __init__(self) -> None:
        self.tags = {"drkit:consent": "yes"}
        self.asked: list[tuple[str, str]] = []


@pytest.fixture(autouse=True)
def cloud(monkeypatch) -> Cloud:
    cloud = Cloud()

    def instance(database: Database, instance_id: str) -> SimpleNamespace:
        cloud.asked.append((database._region, instance_id))
        return SimpleNamespace(tags=cloud.tags)

    monkeypatch.setattr(Database, "instance", instance)
    monkeypatch.setattr(Account, "assert_account", lambda _: None)
    return cloud


@pytest.fixture
def rehearsal() -> Permit:
    """The permit of a playbook that is only rehearsed."""
    return Permit("run", _token=guard._TOKEN)


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
    readonly.allow_writes(target, "eu-central-1", "orders-db", at, permit)
    assert postgres.accepts_writes(target, at=at)


def test_without_a_permit_nobody_stops_writes(server, target, permit, journal) -> None:
    permit.revoke("enough")
    with pytest.raises(Aborted):
        readonly.stop_writes(target, "eu-central-1", "orders-db", (server.host, server.port), permit, journal)
    assert not journal.records()
    assert postgres.accepts_writes(target)


def test_a_database_that_does_not_consent_keeps_its_writes(server, target, cloud, rehearsal, journal) -> None:
    at = (server.host, server.port)
    cloud.tags = {}
    with pytest.raises(Refused, match="orders-db: it does not carry the tag"):
        readonly.stop_writes(target, "eu-central-1", "orders-db", at, rehearsal, journal)
    with pytest.raises(Refused, match="orders-db: it does not carry the tag"):
        readonly.allow_writes(target, "eu-central-1", "orders-db", at, rehearsal)
    assert cloud.asked == [("eu-central-1", "orders-db")] * 2
    assert not journal.records()
    assert postgres.accepts_writes(target)
    rehearsal.revoke("enough")
    with pytest.raises(Aborted):
        readonly.allow_writes(target, "eu-central-1", "orders-db", at, rehearsal)


@pytest.fixture
def stranger(server) -> Iterator[str]:
    """The DSN of a role that is not ours."""
    with (server.node.data / "pg_hba.conf").open("a") as access:
        access.write("\nlocal all stranger trust\n")
    server.node.query("select pg_reload_conf()")
    server.node.query("create role stranger login")
    server.node.query(f"grant connect on database {server.dbname} to stranger")
    server.node.query(f"grant pg_read_all_stats to {server.user}")
    yield f"host={server.node.sockets} port={server.port} user=stranger dbname={server.dbname}"
    server.node.query("drop owned by stranger; drop role stranger")
    server.node.query(f"revoke pg_read_all_stats, pg_signal_backend from {server.user}")


@pytest.mark.parametrize("may_signal", [False, True])
def test_sessions_that_we_may_not_end_keep_nobody_elses(server, target, permit, journal, may_signal, stranger) -> None:
    """A superuser's, as RDS's own, and another role's: unless pg_signal_backend is granted, as to rds_superuser."""
    at = (server.host, server.port)
    if may_signal:
        server.node.query(f"grant pg_signal_backend to {server.user}")
    with (
        psycopg.connect(server.dsn, autocommit=True) as pooled,
        psycopg.connect(stranger, autocommit=True) as theirs,
        server.node.session(timeout_s=5) as admin,
    ):
        readonly.stop_writes(target, "eu-central-1", "orders-db", at, permit, journal)
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("select 1")
        if may_signal:
            with pytest.raises(psycopg.OperationalError):
                theirs.execute("select 1")
        else:
            theirs.execute("select 1")
        assert readonly.is_read_only(target, at)
        assert admin.query("select 1", timeout_s=5)
    readonly.allow_writes(target, "eu-central-1", "orders-db", at, permit)
    assert postgres.accepts_writes(target, at=at)


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
