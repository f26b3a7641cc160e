"""A secret's host and port on a mock of AWS: pointed elsewhere and back, and its password in nobody's hands."""

from __future__ import annotations

import json
import logging
import traceback

import pytest

from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError, UsageError
from drkit.lab.moto_patches import replica_secrets_stand_alone
from drkit.targets.aws import Secrets

from .conftest import CONSENT, RECOVERY_REGION, REGION

pytestmark = pytest.mark.lab
PASSWORD = "it's a \\ s3cret"
OLD = {"host": "a.rds.test", "port": 5432, "username": "drkit", "password": PASSWORD, "note": None}
NEW = {"host": "b.rds.test", "port": 5433}


@pytest.fixture
def secret(aws):
    """A secret of the first region that is replicated into the other one."""
    made = aws.client("secretsmanager").create_secret(
        Name="orders-db", SecretString=json.dumps(OLD), Tags=[CONSENT], AddReplicaRegions=[{"Region": RECOVERY_REGION}]
    )
    replica_secrets_stand_alone()
    return made["ARN"]


def test_a_secret_is_pointed_once_and_back_with_whatever_else_is_in_it_by_then(
    aws, secret, target, permit, journal
) -> None:
    secrets = Secrets(target)
    (effect,) = secrets.plan_point("orders-db", NEW)
    assert (effect.what, effect.consented) == ("point orders-db from a.rds.test:5432 to b.rds.test:5433", True)
    assert secrets.point("orders-db", NEW, permit=permit, undo=journal)
    assert secrets.value("orders-db") == {**OLD, **NEW}
    assert not secrets.point("orders-db", NEW, permit=permit, undo=journal)
    assert secrets.plan_point("orders-db", NEW) == ()
    assert aws.changes() == ["PutSecretValue"]
    (record,) = journal.records()
    assert record.args == {
        "aws_region": REGION,
        "secret_id": "orders-db",
        "host": "a.rds.test",
        "port": 5432,
        "replica_of": "",
    }

    rotated = {**OLD, **NEW, "password": "another"}
    aws.client("secretsmanager").put_secret_value(SecretId="orders-db", SecretString=json.dumps(rotated))
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert secrets.value("orders-db") == {**OLD, "password": "another"}
    assert [u.ok for u in undo_journal.replay(journal, target, again=True)] == [True]
    assert len(aws.changes()) == 2


def test_a_replica_is_made_a_secret_of_its_own_first(aws, secret, target, permit, journal) -> None:
    secrets = Secrets(target, RECOVERY_REGION)
    alone, put = secrets.plan_point("orders-db", NEW)
    assert (alone.call, put.call) == ("secretsmanager:StopReplicationToReplica", "secretsmanager:PutSecretValue")
    assert REGION in alone.undo
    assert secrets.primary_of("orders-db") == REGION
    assert secrets.point("orders-db", NEW, permit=permit, undo=journal)
    assert aws.changes() == ["StopReplicationToReplica", "PutSecretValue"]
    assert secrets.primary_of("orders-db") == ""
    assert not secrets.point("orders-db", NEW, permit=permit, undo=journal)
    assert secrets.value("orders-db") == {**OLD, **NEW}
    assert aws.regions() == {RECOVERY_REGION}
    assert Secrets(target).value("orders-db") == OLD


@pytest.mark.parametrize("come_to", ["StopReplicationToReplica", "PutSecretValue"])
def test_its_undo_says_how_to_make_it_a_replica_again(aws, secret, target, permit, journal, come_to) -> None:
    """It may not ask the first region, which may be the one that is lost."""
    secrets = Secrets(target, RECOVERY_REGION)
    if come_to == "StopReplicationToReplica":
        aws.inject("PutSecretValue", "InvalidParameterException", times=9)
        with pytest.raises(TargetError):
            secrets.point("orders-db", NEW, permit=permit, undo=journal)
        aws.injected.clear()
    else:
        secrets.point("orders-db", NEW, permit=permit, undo=journal)
    for again in (False, True):
        (undone,) = undo_journal.replay(journal, target, again=again)
        assert undone.ok
        assert f"replicate-secret-to-regions --region {REGION} --secret-id orders-db" in undone.sentence
        assert secrets.value("orders-db") == OLD
        assert secrets.was_replica_of("orders-db") == REGION
    assert aws.regions() == {RECOVERY_REGION}


def test_one_that_was_made_its_own_is_a_replica_again(aws, secret, target, permit, journal) -> None:
    first, other = Secrets(target), Secrets(target, RECOVERY_REGION)
    other.point("orders-db", NEW, permit=permit, undo=journal)
    other.tag_replica("orders-db", REGION, permit=permit)
    assert other.was_replica_of("orders-db") == REGION
    assert first.replication("orders-db", RECOVERY_REGION) == ("", "")
    (effect,) = first.plan_replicate("orders-db", RECOVERY_REGION)
    assert (effect.call, effect.consented) == ("secretsmanager:ReplicateSecretToRegions", True)
    aws.lose("ReplicateSecretToRegions")
    first.replicate("orders-db", RECOVERY_REGION, permit=permit)
    assert aws.changes()[-1] == "ReplicateSecretToRegions"
    assert first.replication("orders-db", RECOVERY_REGION)[0] == "InSync"
    assert (other.primary_of("orders-db"), other.was_replica_of("orders-db")) == (REGION, "")
    assert other.value("orders-db") == OLD


def test_a_secret_without_consent_is_not_overwritten(aws, secret, target, permit, journal) -> None:
    other = Secrets(target, RECOVERY_REGION)
    other.point("orders-db", NEW, permit=permit, undo=journal)
    assert [e.consented for e in Secrets(target).plan_replicate("orders-db", RECOVERY_REGION)] == [True]
    aws.client("secretsmanager", RECOVERY_REGION).untag_resource(SecretId="orders-db", TagKeys=["drkit:consent"])
    with pytest.raises(Refused, match="secret orders-db: it does not carry the tag"):
        Secrets(target).replicate("orders-db", RECOVERY_REGION, permit=permit)
    assert [e.consented for e in Secrets(target).plan_replicate("orders-db", RECOVERY_REGION)] == [False]
    assert other.value("orders-db") == {**OLD, **NEW}


def test_a_replica_that_is_known_by_its_refusal_only(aws, secret, target, permit, journal, monkeypatch) -> None:
    monkeypatch.setattr(Secrets, "_primary_elsewhere", lambda *_: "")
    assert Secrets(target, RECOVERY_REGION).point("orders-db", NEW, permit=permit, undo=journal)
    assert aws.changes() == ["PutSecretValue", "StopReplicationToReplica", "PutSecretValue"]


def test_lost_answers_change_nothing(aws, secret, target, permit, journal) -> None:
    for operation in ("StopReplicationToReplica", "PutSecretValue"):
        aws.lose(operation)
    assert Secrets(target, RECOVERY_REGION).point("orders-db", NEW, permit=permit, undo=journal)
    assert Secrets(target, RECOVERY_REGION).value("orders-db") == {**OLD, **NEW}


def test_a_port_stays_the_text_that_it_was(aws, target, permit, journal) -> None:
    aws.client("secretsmanager").create_secret(
        Name="texts", SecretString=json.dumps({**OLD, "port": "5432"}), Tags=[CONSENT]
    )
    Secrets(target).point("texts", NEW, permit=permit, undo=journal)
    assert Secrets(target).value("texts")["port"] == "5433"
    undo_journal.replay(journal, target)
    assert Secrets(target).value("texts")["port"] == "5432"


def test_a_secret_without_an_address_has_none_again(aws, target, permit, journal) -> None:
    bare = {"password": PASSWORD}
    aws.client("secretsmanager").create_secret(Name="bare", SecretString=json.dumps(bare), Tags=[CONSENT])
    Secrets(target).point("bare", NEW, permit=permit, undo=journal)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert Secrets(target).value("bare") == bare


def test_the_password_is_nowhere(aws, secret, target, permit, journal, caplog) -> None:
    caplog.set_level(logging.INFO)
    secrets = Secrets(target)
    plan = secrets.plan_point("orders-db", NEW)
    secrets.point("orders-db", NEW, permit=permit, undo=journal)
    results = undo_journal.replay(journal, target)
    aws.inject("PutSecretValue", "InvalidParameterException", times=1)
    with pytest.raises(TargetError) as refused:
        secrets.point("orders-db", NEW, permit=permit, undo=journal)
    aws.client("secretsmanager").create_secret(Name="text", SecretString=PASSWORD, Tags=[CONSENT])
    with pytest.raises(TargetError, match="is no JSON object") as malformed:
        secrets.value("text")
    told = [traceback.format_exception(e.value) for e in (refused, malformed)]
    for text in (journal.path.read_text(), repr(plan), repr(results), caplog.text, *("".join(t) for t in told)):
        assert "s3cret" not in text


def test_secrets_refuse(aws, secret, target, permit, real, journal) -> None:
    secrets = Secrets(target)
    for address in ({}, {"host": "x"}, {**NEW, "password": "x"}):
        with pytest.raises(UsageError, match="a host and a port"):
            secrets.point("orders-db", address, permit=permit, undo=journal)
    for secret_id, host in (("", "x"), ("orders-db", "")):
        with pytest.raises(Refused, match="was named"):
            secrets.point(secret_id, {"host": host, "port": 1}, permit=permit, undo=journal)
    aws.client("secretsmanager").untag_resource(SecretId="orders-db", TagKeys=["drkit:consent"])
    with pytest.raises(Refused, match="secret orders-db: it does not carry the tag"):
        secrets.point("orders-db", NEW, permit=permit, undo=journal)
    assert not journal.records()
    assert secrets.point("orders-db", NEW, permit=real, undo=journal)
