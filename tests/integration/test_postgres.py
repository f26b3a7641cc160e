"""What drkit asks the database itself, on a real one; and that no question outlasts its time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from drkit import clock
from drkit.errors import TargetError, UsageError
from drkit.lab.postgres import Scratch
from drkit.targets import Target, postgres

pytestmark = pytest.mark.lab

PATIENT_S = 30.0  # where the question is not how long an answer takes: the machine may be busy


def aimed(lab: Target, **changed: object) -> Target:
    assert lab.database is not None
    return replace(lab, database=replace(lab.database, **changed))


def at_replica(lab: Target) -> Target:
    assert lab.database is not None
    return aimed(lab, host=lab.database.replica_host, port=lab.database.replica_port)


def test_the_writer_and_its_replica_say_who_they_are(lab: Target) -> None:
    writer, replica = postgres.identity(lab), postgres.identity(lab, replica=True)
    assert (writer.in_recovery, replica.in_recovery) == (False, True)
    assert writer.system_identifier == replica.system_identifier != ""
    assert writer.timeline is not None
    assert postgres.server(lab) == f"{writer.address}:{writer.port}" != postgres.server(lab, replica=True)
    assert not postgres.is_in_recovery(lab)


def test_one_standby_is_in_sync_and_one_is_a_replica(lab: Target) -> None:
    standbys = postgres.standbys(lab)
    assert [s.in_sync for s in standbys].count(True) == 1
    assert [s.is_replica for s in standbys].count(True) == 1
    assert all(s.lag_bytes is not None and s.lag_bytes < 1_000_000 for s in standbys)
    assert postgres.standbys(at_replica(lab)) == ()


def test_a_writer_accepts_writes_and_a_replica_does_not(lab: Target) -> None:
    assert postgres.accepts_writes(lab, timeout_s=PATIENT_S)
    assert not postgres.accepts_writes(at_replica(lab), timeout_s=PATIENT_S)


def test_a_read_only_writer_does_not(lab: Target) -> None:
    try:
        with postgres.connect(lab, timeout_s=PATIENT_S) as connection:
            connection.execute("alter role current_user set default_transaction_read_only = on")
        assert not postgres.accepts_writes(lab, timeout_s=PATIENT_S)
    finally:  # by a connection of its own, whatever became of the first: else the session's lab stays read-only
        with postgres.connect(lab, timeout_s=PATIENT_S) as connection:
            connection.execute("set default_transaction_read_only = off")
            connection.execute("alter role current_user reset default_transaction_read_only")
    assert postgres.accepts_writes(lab, timeout_s=PATIENT_S)


def test_a_commit_that_did_not_wait_for_its_standby_does_not_count(lab: Target) -> None:
    with Scratch() as server:
        alone = aimed(lab, host=server.host, port=server.port)
        assert postgres.accepts_writes(alone)
        server.node.configure(synchronous_standby_names="nobody", synchronous_commit="on")
        started_ns = clock.now_ns()
        # PostgreSQL cancels the wait at statement_timeout and answers "committed", with a warning.
        assert not postgres.accepts_writes(alone, timeout_s=2)
        assert clock.now_ns() - started_ns < 8e9


def test_nothing_listens(lab: Target) -> None:
    nowhere = aimed(lab, port=1)
    assert not postgres.accepts_writes(nowhere)
    with pytest.raises(TargetError, match=r"127\.0\.0\.1:1"):
        postgres.identity(nowhere)


def test_what_is_wrong_with_the_target_file_is_no_outage(lab: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError) as e:
        postgres.accepts_writes(aimed(lab, dbname="nope"))
    assert (e.value.code, e.value.hint) == ("3D000", "check database.dbname")
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(UsageError, match="NOT_SET is not set"):
        postgres.accepts_writes(aimed(lab, password_env="NOT_SET"))
    with pytest.raises(UsageError, match="names no database"):
        postgres.identity(replace(lab, database=None))
    with pytest.raises(UsageError, match="names no replica endpoint"):
        postgres.identity(aimed(lab, replica_host=None), replica=True)
    with pytest.raises(TargetError, match=r"nowhere\.invalid"):
        postgres.identity(aimed(lab, host="nowhere.invalid"))


def test_the_environment_leads_nowhere_else(lab: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    here = postgres.server(lab)
    for name, value in {
        "PGHOSTADDR": "127.0.0.9", "PGHOST": "127.0.0.9", "PGPORT": "1", "PGUSER": "nobody", "PGDATABASE": "nowhere",
        "PGTARGETSESSIONATTRS": "standby", "PGSSLMODE": "require", "PGOPTIONS": "-c nonsense=1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert postgres.server(lab) == here


@pytest.fixture
def swallower() -> Iterator[int]:
    """A port where connections are taken and never answered: a grey failure."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for s in taken:
            s.close()


def test_no_answer_is_an_answer_within_its_time(lab: Target, swallower: int) -> None:
    started_ns = clock.now_ns()
    assert not postgres.accepts_writes(aimed(lab, port=swallower), timeout_s=2)
    assert 1.5e9 < clock.now_ns() - started_ns < 6e9


def test_a_server_that_stops_answering_in_the_middle_is_left_in_time(lab: Target) -> None:
    started_ns = clock.now_ns()
    with pytest.raises(TargetError), postgres.connect(lab, timeout_s=1) as connection:
        connection.execute("set statement_timeout = 0; select pg_sleep(30)")
    assert clock.now_ns() - started_ns < 5e9
