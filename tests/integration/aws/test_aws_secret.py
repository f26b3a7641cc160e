"""A password in Secrets Manager reaches everybody who speaks to the database, and no file, argument or environment."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from drkit import clock, probes
from drkit.catalog import ProbeData
from drkit.engine.address import spec_of
from drkit.errors import TargetError
from drkit.model import ProbeKind, Role
from drkit.probes import sql
from drkit.targets import DatabaseTarget, Target, postgres

from .conftest import RECOVERY_REGION, REGION, Call, make_target

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("fresh_sessions")]
PASSWORD = "it's a \\ s3cret"
WRITER = ProbeData(name="writes", kind=ProbeKind.SQL, role=Role.WRITES, every_s=0.05, timeout_s=0.5)


class Gate:
    """A PostgreSQL server that asks for the password in the clear, notes it, and hangs up."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as file:
                if self._message(file, 0) is None:  # the start-up packet has no type
                    continue
                file.write(b"R\x00\x00\x00\x08\x00\x00\x00\x03")
                file.flush()
                if (answer := self._message(file, 1)) is not None:
                    self.told.append(answer.rstrip(b"\0").decode())

    @staticmethod
    def _message(file, type_bytes: int) -> bytes | None:
        head = file.read(type_bytes + 4)
        return file.read(int.from_bytes(head[type_bytes:]) - 4) if len(head) == type_bytes + 4 else None

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()


@pytest.fixture
def guarded(aws, gate) -> Iterator[Target]:
    """A target whose database wants the password of a secret."""
    made = aws.client("secretsmanager").create_secret(Name="db", SecretString=json.dumps({"password": PASSWORD}))
    postgres._SECRETS.clear()
    yield make_target(
        aws,
        database=DatabaseTarget(
            instance_id="orders", host="127.0.0.1", port=gate.port, dbname="orders", user="drkit", sslmode="disable",
            password_secret_arn=made["ARN"],
        ),
    )  # fmt: skip
    postgres._SECRETS.clear()


def test_a_marker_writer_has_the_password_and_nobody_can_read_it(aws, gate, guarded, tmp_path: Path) -> None:
    spec = spec_of(WRITER, guarded, "run-1", {})
    assert spec is not None
    assert aws.operations() == ["GetSecretValue"]
    probe = probes.start(spec, tmp_path / "probes" / "writes.jsonl")
    try:
        clock.wait_until(lambda: len(gate.told) > 2, "it asked", timeout_s=20, every_s=0.02)
        process = psutil.Process(probe.pid)
        seen = [*process.cmdline(), *process.environ().values()]
    finally:
        probe.stop()
    assert set(gate.told) == {PASSWORD}
    files = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 1
    for text in (*seen, *files, repr(spec), json.dumps(spec.to_json())):
        assert "s3cret" not in text
    assert spec.password_secret_arn in files[0]
    assert probe.complaint == ""


def test_the_ledger_and_the_rows_are_reached_with_it_too(gate, guarded) -> None:
    spec = spec_of(WRITER, guarded, "run-1", {})
    assert spec is not None
    with pytest.raises(TargetError):  # it hangs up on everybody
        sql.create_ledger(spec, timeout_s=5)
    assert gate.told == [PASSWORD]
    with pytest.raises(TargetError):
        sql.read_survivors(spec, gap_s=0.1, timeout_s=0.3)
    assert len(gate.told) > 1
    assert set(gate.told) == {PASSWORD}


def test_a_secret_that_may_not_be_read_is_refused_before_anything_starts(aws, guarded) -> None:
    aws.inject(
        "GetSecretValue", "AccessDeniedException", message="not authorized to perform: secretsmanager:GetSecretValue"
    )
    with pytest.raises(TargetError, match="may not secretsmanager:GetSecretValue"):
        spec_of(WRITER, guarded, "", {})


@pytest.fixture
def replicated(aws) -> Iterator[Target]:
    """A target whose secret has a replica in the recovery region; there it holds another text, to tell them apart."""
    made = aws.client("secretsmanager").create_secret(Name="db", SecretString=json.dumps({"password": PASSWORD}))
    replica = made["ARN"].replace(REGION, RECOVERY_REGION)

    def answer(call: Call) -> tuple[int, str, str] | None:
        if call.region != RECOVERY_REGION:
            return None
        assert json.loads(call.body)["SecretId"] == replica
        return 200, "application/json", json.dumps({"SecretString": json.dumps({"password": "the replica's"})})

    aws.answers["GetSecretValue"] = answer
    postgres._SECRETS.clear()
    yield make_target(
        aws,
        database=DatabaseTarget(
            instance_id="orders", host="h", port=1, dbname="d", user="u", password_secret_arn=made["ARN"]
        ),
    )
    postgres._SECRETS.clear()


def password(target: Target) -> str | None:
    assert target.database
    postgres._SECRETS.clear()
    return postgres.password_of(target, target.database)


def test_the_secret_of_a_region_that_hangs_is_read_from_the_other_one_within_seconds(
    aws, replicated, monkeypatch
) -> None:
    assert password(replicated) == PASSWORD
    assert aws.regions() == {REGION}  # the replica may be a secret of its own by now, which no rotation reaches
    monkeypatch.setattr(postgres, "SECRET_S", 0.3)
    seen, hangs = postgres._secret_in, threading.Event()

    def dead(target: Target, region: str, arn: str) -> str:
        if region == REGION:
            hangs.wait(30)
        return seen(target, region, arn)

    monkeypatch.setattr(postgres, "_secret_in", dead)
    began_ns = clock.now_ns()
    assert password(replicated) == "the replica's"
    assert clock.now_ns() - began_ns < 20 * clock.NS_PER_S
    hangs.set()
    for thread in threading.enumerate():
        if thread.name == "secret":
            thread.join(30)  # else it would ask the next test's region


def test_a_slow_region_is_waited_for_when_there_is_no_replica(aws, replicated, monkeypatch) -> None:
    aws.answers["GetSecretValue"] = lambda call: (
        (400, "application/json", '{"__type":"ResourceNotFoundException"}') if call.region == RECOVERY_REGION else None
    )
    monkeypatch.setattr(postgres, "SECRET_S", 0.0)
    assert password(replicated) == PASSWORD
    aws.inject("GetSecretValue", "AccessDeniedException", message="not authorized: secretsmanager:GetSecretValue")
    with pytest.raises(TargetError, match="may not secretsmanager:GetSecretValue"):
        password(replicated)


def test_the_environment_comes_before_the_secret(aws, guarded, monkeypatch) -> None:
    monkeypatch.setenv("DK_PASSWORD", "other")
    assert guarded.database
    spec = spec_of(WRITER, replace(guarded, database=replace(guarded.database, password_env="DK_PASSWORD")), "", {})
    assert spec is not None
    assert (spec.password_env, spec.password) == ("DK_PASSWORD", "")
    assert aws.calls == []
