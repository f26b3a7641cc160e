"""The marker writer against a real PostgreSQL: three-valued outcomes, bounded waits, and rows read back."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from drkit import clock, measure, probes
from drkit.errors import TargetError
from drkit.lab import ports
from drkit.lab.postgres import Scratch
from drkit.model import Connection, ErrorClass, Outcome, ProbeKind, Role, Series
from drkit.probes import sql

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    with Scratch(cache=tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture
def server(shared: Scratch) -> Iterator[Scratch]:
    """Return a server as it should be; whatever a test did to its settings is taken back."""
    yield shared
    shared.node.resume()
    shared.node.configure(default_transaction_read_only=None, synchronous_standby_names=None)


def writer(
    server: Scratch, connection: Connection = Connection.FRESH, *, every_s: float = 0.02, timeout_s: float = 0.5
) -> probes.ProbeSpec:
    return probes.ProbeSpec(
        name="writes", kind=ProbeKind.SQL, role=Role.WRITES, every_s=every_s, timeout_s=timeout_s,
        connection=connection, host=server.host, port=server.port, dbname=server.dbname, user=server.user,
        sslmode="disable", ledger_id=str(uuid.uuid4()),
    )  # fmt: skip


class Running:
    """A probe that was started, its attempts so far, and what it looked like when it was over."""

    def __init__(self, spec: probes.ProbeSpec, path: Path) -> None:
        self.spec = spec
        self._probe = probes.start(spec, path / f"{spec.ledger_id}.jsonl")
        self.wait(3)

    def wait(self, attempts: int, outcome: Outcome | None = None) -> None:
        """Wait for so many more attempts that were sent and ended from now on."""
        since_ns = clock.now_ns()

        def enough() -> bool:
            assert self._probe.alive
            done = probes.read(self._probe.path).attempts
            return sum(a.sent_ns >= since_ns and outcome in (None, a.outcome) for a in done) >= attempts

        clock.wait_until(enough, f"{attempts} attempts", timeout_s=60)

    def stop(self) -> Series:
        self._probe.stop()
        assert (self._probe.exit_code, self._probe.complaint) == (0, "")
        return probes.read(self._probe.path)


@pytest.fixture
def run(server: Scratch, tmp_path: Path) -> Iterator[object]:
    started: list[Running] = []

    def begin(connection: Connection = Connection.FRESH, **options: float) -> Running:
        spec = writer(server, connection, **options)
        sql.create_ledger(spec)
        started.append(Running(spec, tmp_path))
        return started[-1]

    yield begin
    for each in started:
        each._probe.stop(timeout_s=2)


def failures(series: Series) -> set[tuple[Outcome, ErrorClass | None]]:
    return {(a.outcome, a.error) for a in series.attempts if a.outcome is not Outcome.OK}


# Where τ is no part of the claim it is long: a busy machine may hold an attempt for longer than half a second.
PATIENT_S = 5.0


def sessions(server: Scratch) -> list[int]:
    rows = server.node.query("select pid from pg_stat_activity where application_name = 'drkit'")
    return [int(pid) for (pid,) in rows if pid is not None]


@pytest.mark.parametrize("connection", list(Connection))
def test_every_acknowledged_row_is_there_and_no_other(server: Scratch, run, connection: Connection) -> None:  # type: ignore[no-untyped-def]
    running = run(connection, timeout_s=PATIENT_S)
    running.wait(20)
    series = running.stop()
    survivors = sql.read_survivors(running.spec, gap_s=0.05, timeout_s=10)
    assert survivors.settled
    assert all(row.intact for row in survivors.rows)
    assert {row.seq for row in survivors.rows} == {a.seq for a in series.attempts if a.outcome is Outcome.OK}
    assert failures(series) == set()


def test_a_pooled_writer_keeps_its_sessions_and_a_fresh_one_does_not(server: Scratch, run) -> None:  # type: ignore[no-untyped-def]
    running = run(Connection.POOLED, every_s=0.1, timeout_s=PATIENT_S)  # so seldom that the pool is never exhausted
    running.wait(10)
    before = sorted(sessions(server))
    running.wait(20)
    assert sorted(sessions(server)) == before
    assert len(before) == sql.POOL_CONNECTIONS
    running.stop()
    clock.wait_until(lambda: not sessions(server), "the pool is closed", timeout_s=20)


def test_a_pooled_writer_recovers_after_its_sessions_were_ended(server: Scratch, run) -> None:  # type: ignore[no-untyped-def]
    running = run(Connection.POOLED, every_s=0.1, timeout_s=PATIENT_S)
    running.wait(10)
    ended = server.node.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'drkit'")
    running.wait(20, Outcome.OK)
    series = running.stop()
    assert failures(series) <= {
        (Outcome.UNKNOWN, ErrorClass.SHUTTING_DOWN), (Outcome.UNKNOWN, ErrorClass.RESET),
    }  # fmt: skip
    assert len(ended) >= sql.POOL_CONNECTIONS
    assert 1 <= sum(a.outcome is not Outcome.OK for a in series.attempts) <= len(ended)  # each costs one attempt
    survivors = sql.read_survivors(running.spec, gap_s=0.05, timeout_s=10)
    assert not measure.account(series, [survivors]).lost


@pytest.mark.parametrize("connection", list(Connection))
def test_a_read_only_server_certainly_does_not_write(server: Scratch, run, connection: Connection) -> None:  # type: ignore[no-untyped-def]
    running = run(connection, timeout_s=PATIENT_S)
    server.node.configure(default_transaction_read_only="on")
    running.wait(5, Outcome.FAILED)
    server.node.configure(default_transaction_read_only=None)
    running.wait(5, Outcome.OK)
    series = running.stop()
    assert failures(series) == {(Outcome.FAILED, ErrorClass.READ_ONLY)}
    rows = {row.seq for row in sql.read_survivors(running.spec, gap_s=0.05, timeout_s=10).rows}
    assert rows == {a.seq for a in series.attempts if a.outcome is Outcome.OK}


@pytest.mark.parametrize("connection", list(Connection))
def test_a_server_that_hangs_costs_no_more_than_the_time_out(server: Scratch, run, connection: Connection) -> None:  # type: ignore[no-untyped-def]
    """The kernel still accepts connections for a stopped postmaster: connecting itself hangs, and must end too."""
    running = run(connection, timeout_s=0.4)
    running.wait(10)
    asked_ns = clock.now_ns()
    server.node.suspend()
    silent_from_ns = clock.now_ns()
    clock.sleep_s(1.2)
    silent_to_ns = clock.now_ns()
    server.node.resume()
    running.wait(10, Outcome.OK)
    series = running.stop()
    timeout_ns, every_ns = round(series.timeout_s * clock.NS_PER_S), round(series.every_s * clock.NS_PER_S)
    # Starts went on all the time, and each hung. Ticks that the machine cost the probe are told.
    hung = [a for a in series.attempts if silent_from_ns <= a.sent_ns <= silent_to_ns - timeout_ns]
    assert len(hung) + series.ticks_lost >= (silent_to_ns - timeout_ns - silent_from_ns) // every_ns - 1 >= 30
    assert all(a.outcome is not Outcome.OK for a in hung)
    bad = [a for a in series.attempts if a.outcome is not Outcome.OK]
    assert {a.error for a in bad} <= {ErrorClass.TIMEOUT, ErrorClass.RESET}
    # A probe that the machine holds up starts nothing meanwhile, and ends nothing either.
    held_ns = max(b.sent_ns - a.sent_ns for a, b in pairwise(series.attempts))
    assert max(a.done_ns - a.sent_ns for a in bad) < timeout_ns + held_ns + 300_000_000
    # Unknown are those that had sent their row: over a session from before, or under way. All others certainly failed.
    under_way = sum(a.sent_ns <= silent_from_ns and a.done_ns >= asked_ns for a in series.attempts)
    unknown = sum(a.outcome is Outcome.UNKNOWN and a.done_ns < silent_to_ns for a in bad)
    assert unknown <= under_way + sql.POOL_CONNECTIONS
    survivors = sql.read_survivors(running.spec, gap_s=0.05, timeout_s=10)
    account = measure.account(series, [survivors])
    assert (account.lost, account.phantom, account.resurrected) == ((), (), ())


def test_a_commit_whose_wait_for_the_standby_was_cancelled_is_unknown(server: Scratch, run) -> None:  # type: ignore[no-untyped-def]
    running = run(timeout_s=5)
    server.node.configure(synchronous_standby_names="nobody")

    def cancel() -> bool:
        rows = server.node.query("select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
        return len(rows) > 0

    for _ in range(5):
        clock.wait_until(cancel, "a commit waits", timeout_s=20, every_s=0.01)
    server.node.configure(synchronous_standby_names=None)
    running.wait(3, Outcome.OK)
    series = running.stop()
    assert failures(series) == {(Outcome.UNKNOWN, ErrorClass.NOT_REPLICATED)}
    rows = {row.seq for row in sql.read_survivors(running.spec, gap_s=0.05, timeout_s=10).rows}
    assert rows == {a.seq for a in series.attempts}  # here they did survive


def test_a_server_that_was_killed_refuses_and_comes_back_without_a_loss(tmp_path: Path) -> None:
    with Scratch() as server:
        spec = writer(server, timeout_s=PATIENT_S)
        sql.create_ledger(spec)
        running = Running(spec, tmp_path)
        running.wait(10)
        server.node.kill()
        running.wait(10, Outcome.FAILED)
        server.node.start()
        running.wait(10, Outcome.OK)
        series = running.stop()
        assert {e for _, e in failures(series)} <= {ErrorClass.REFUSED, ErrorClass.RESET, ErrorClass.SHUTTING_DOWN}
        assert (Outcome.FAILED, ErrorClass.REFUSED) in failures(series)
        survivors = sql.read_survivors(spec, gap_s=0.05, timeout_s=10)
        account = measure.account(series, [survivors])
        assert not account.lost
        assert not account.integrity_broken


def test_a_row_that_was_changed_is_not_intact(server: Scratch, run) -> None:  # type: ignore[no-untyped-def]
    running = run(timeout_s=PATIENT_S)
    series = running.stop()
    changed = next(a.seq for a in series.attempts if a.outcome is Outcome.OK)
    with psycopg.connect(server.dsn) as conn:
        conn.execute(
            "update drkit_marker set sent_ns = sent_ns + 1 where run_id = %s and seq = %s",
            (running.spec.ledger_id, changed),
        )
    rows = sql.read_survivors(running.spec, gap_s=0.05, timeout_s=10).rows
    assert [row.seq for row in rows if not row.intact] == [changed]


def test_rows_written_while_reading_are_no_reason_to_doubt_the_earlier_ones(server: Scratch, run) -> None:  # type: ignore[no-untyped-def]
    running = run(timeout_s=PATIENT_S)
    survivors = sql.read_survivors(running.spec, gap_s=0.1, timeout_s=20)
    running.stop()
    assert survivors.settled
    assert len(survivors.rows) >= 3


def test_rows_that_go_on_vanishing_are_not_settled(  # type: ignore[no-untyped-def]
    server: Scratch, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = run(timeout_s=PATIENT_S)
    running.wait(30, Outcome.OK)
    gap_s, timeout_s = 0.2, 3.0  # 15 reads at most, so that some rows stay
    vanished = 0

    def lose(seconds: float) -> None:
        """Lose one row between any two reads."""
        nonlocal vanished
        vanished += conn.execute(
            "delete from drkit_marker where run_id = %s and seq ="
            " (select min(seq) from drkit_marker where run_id = %s)",
            (running.spec.ledger_id, running.spec.ledger_id),
        ).rowcount
        clock.SYSTEM.sleep_s(seconds)

    with psycopg.connect(server.dsn, autocommit=True) as conn, monkeypatch.context() as patched:
        patched.setattr(clock, "sleep_s", lose)
        survivors = sql.read_survivors(running.spec, gap_s=gap_s, timeout_s=timeout_s)
    assert vanished >= 1
    assert not survivors.settled
    assert survivors.rows


NO_HANG_NS = 20 * clock.NS_PER_S  # time enough for a busy machine, and far less than a hang takes


def test_nobody_there_to_read_from(server: Scratch) -> None:
    spec = replace(writer(server), port=ports.free())
    began_ns = clock.now_ns()
    with pytest.raises(TargetError, match="refused"):
        sql.read_survivors(spec, gap_s=0.1, timeout_s=0.5)
    assert clock.now_ns() - began_ns < NO_HANG_NS
    with pytest.raises(TargetError, match="refused"):
        sql.create_ledger(spec)


def test_a_server_that_hangs_is_no_reason_to_hang(server: Scratch) -> None:
    server.node.suspend()
    began_ns = clock.now_ns()
    with pytest.raises(TargetError, match="no answer"):
        sql.create_ledger(writer(server), timeout_s=0.4)
    assert clock.now_ns() - began_ns < NO_HANG_NS


def test_a_missing_table_is_a_failure_that_is_named(server: Scratch, tmp_path: Path) -> None:
    with psycopg.connect(server.dsn) as conn:
        conn.execute("drop table if exists drkit_marker")
    running = Running(writer(server, timeout_s=PATIENT_S), tmp_path)
    series = running.stop()
    assert failures(series) == {(Outcome.FAILED, ErrorClass.OTHER)}
    assert series.attempts[0].detail.startswith("42P01")


def test_an_unknown_user_is_an_auth_failure(server: Scratch, tmp_path: Path) -> None:
    running = Running(replace(writer(server, timeout_s=PATIENT_S), user="stranger"), tmp_path)
    series = running.stop()
    assert failures(series) == {(Outcome.FAILED, ErrorClass.AUTH)}


def test_a_password_is_read_from_the_environment_and_written_nowhere(
    server: Scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRKIT_TEST_PASSWORD", "s3cr3t'\\ word")
    spec = replace(writer(server, timeout_s=PATIENT_S), password_env="DRKIT_TEST_PASSWORD")
    sql.create_ledger(spec)
    running = Running(spec, tmp_path)
    assert failures(running.stop()) == set()
    for path in tmp_path.rglob("*"):
        assert "s3cr3t" not in path.read_text()
    listed = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "s3cr3t" not in listed
