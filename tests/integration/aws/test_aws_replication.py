"""RDS as a recovery needs it, on a mock of AWS: which calls, with what undo. moto copies no data and takes no time."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Aborted, Refused, TargetError
from drkit.targets.aws import Account, Database, Replication
from drkit.targets.aws import rds as instances

from .conftest import CONSENT, RECOVERY_REGION, REGION
from .test_aws_database import make_replica, make_writer

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("honest_promotion")]


@pytest.fixture
def pair(aws):
    """A writer in the first region that a replica in the other one follows; the writer's ARN."""
    arn = make_writer(aws, BackupRetentionPeriod=7, EngineVersion="16.3", StorageEncrypted=True)
    make_replica(aws, arn)
    return arn


def answering(monkeypatch, *statuses: str) -> None:
    """Let RDS describe instances with these statuses, one after another and then the last one."""
    seen, left = instances.described, list(statuses)

    def described(*args):
        return {**seen(*args), "DBInstanceStatus": left.pop(0) if len(left) > 1 else left[0]}

    monkeypatch.setattr(instances, "described", described)


def test_an_instance_says_what_a_recovery_has_to_know(aws, target, pair) -> None:
    now = Database(target).instance("orders")
    assert (now.instance_class, now.engine_version, now.backup_retention_days) == ("db.m6g.large", "16.3", 7)
    assert now.storage_encrypted
    assert now.parameter_group
    assert now.created is not None


def test_a_promotion_for_good_is_asked_for_once_and_cannot_be_undone(aws, target, pair, permit, journal) -> None:
    replicas = Replication(target, RECOVERY_REGION)
    (effect,) = replicas.plan_promote("orders-replica")
    assert effect.undo.startswith("none")
    assert replicas.promote("orders-replica", backup_retention_days=7, permit=permit, undo=journal)
    assert aws.changes() == ["AddTagsToResource", "PromoteReadReplica"]
    promoted = next(c for c in aws.calls if c.operation == "PromoteReadReplica")
    assert promoted.parameters["BackupRetentionPeriod"] == "7"
    assert not replicas.promote("orders-replica", permit=permit, undo=journal)
    assert replicas.plan_promote("orders-replica") == ()
    (record,) = journal.records()
    asked_at = Database(target, RECOVERY_REGION).instance("orders-replica").tags["drkit:promoted"]
    assert (record.verb, record.args) == (
        "stay_promoted", {"aws_region": RECOVERY_REGION, "replica_id": "orders-replica", "asked_at": asked_at},
    )  # fmt: skip
    assert abs(clock.wall_utc() - datetime.fromisoformat(asked_at)) < timedelta(minutes=5)

    (undone,) = undo_journal.replay(journal, target)
    assert not undone.ok
    assert "is a writer of its own now; going back is: drkit playbook run failback" in undone.sentence
    assert aws.changes() == ["AddTagsToResource", "PromoteReadReplica"]
    journal.keep(record)
    assert undo_journal.replay(journal, target) == ()
    assert aws.regions() == {RECOVERY_REGION}


def test_undo_of_a_promotion_that_never_happened_is_fine(aws, target, pair, journal) -> None:
    journal.will("stay_promoted", aws_region=RECOVERY_REGION, replica_id="orders-replica")
    (undone,) = undo_journal.replay(journal, target)
    assert undone.ok
    assert "is a replica of" in undone.sentence


def ago(**time: float) -> str:
    return (clock.wall_utc() - timedelta(**time)).isoformat(timespec="seconds")


@pytest.mark.parametrize(("minutes", "over"), [(0, False), (31, True), (None, True)])
def test_undo_does_not_believe_that_a_promotion_of_late_never_happened(
    aws, target, pair, journal, minutes, over
) -> None:
    """RDS still calls it an available replica for a while after it has accepted."""
    kwargs = {} if minutes is None else {"asked_at": ago(minutes=minutes)}  # records of before have none
    journal.will("stay_promoted", aws_region=RECOVERY_REGION, replica_id="orders-replica", **kwargs)
    (undone,) = undo_journal.replay(journal, target)
    assert undone.ok is over
    assert ("as before" if over else "its promotion was asked for") in undone.sentence
    aws.client("rds", RECOVERY_REGION).delete_db_instance(DBInstanceIdentifier="orders-replica", SkipFinalSnapshot=True)
    (undone,) = undo_journal.replay(journal, target, again=True)
    assert (undone.ok, undone.sentence) == (True, "there is no orders-replica any more")


def test_a_promotion_shows_within_half_an_hour_on_aws(aws, target) -> None:
    real = replace(target, kind="aws")
    assert instances.promotion_visible_by(real, ago(minutes=29)) is not None
    assert instances.promotion_visible_by(real, ago(minutes=31), "", "no moment") is None
    assert instances.promotion_visible_by(real, ago(minutes=31), ago(minutes=1)) is not None  # asked for again


@pytest.mark.parametrize(("has", "at_least", "sent"), [(14, 7, "14"), (0, 7, "7"), (14, 0, "14"), (0, 0, None)])
def test_backups_are_kept_as_long_as_the_replica_did_at_least(
    aws, target, pair, permit, journal, monkeypatch, has, at_least, sent
) -> None:
    """Left out, RDS would keep those of the new writer for a day."""
    seen = instances.described
    monkeypatch.setattr(instances, "described", lambda *a: {**seen(*a), "BackupRetentionPeriod": has})
    replicas = Replication(target, RECOVERY_REGION)
    assert replicas.promote("orders-replica", backup_retention_days=at_least, permit=permit, undo=journal)
    promoted = next(c for c in aws.calls if c.operation == "PromoteReadReplica")
    assert promoted.parameters.get("BackupRetentionPeriod") == sent


@pytest.mark.parametrize(
    ("storage", "wanted"),
    [
        ({"StorageType": "io1", "Iops": 5000, "StorageThroughput": 0}, {"Iops": 5000}),
        ({"StorageType": "io2", "Iops": 5000}, {"Iops": 5000}),
        ({"StorageType": "gp3", "Iops": 12000, "StorageThroughput": 500}, {"Iops": 12000, "StorageThroughput": 500}),
        ({"StorageType": "gp3", "Iops": 3000, "StorageThroughput": 125}, {}),  # RDS refuses to be told its baseline
        ({"StorageType": "gp2", "Iops": 300, "StorageThroughput": 0}, {}),
        ({"StorageType": "gp2"}, {}),
    ],
)
def test_the_storage_is_as_fast_as_it_was(aws, target, pair, monkeypatch, storage, wanted) -> None:
    found = {**instances.described(Account(target), REGION, "orders"), **storage}
    for settings in (instances.replica_settings(found, pair), instances.restore_settings(found)):
        assert {k: v for k, v in settings.items() if k in {"Iops", "StorageThroughput"}} == wanted
        assert settings["StorageType"] == storage["StorageType"]


def test_what_drkit_noted_on_an_instance_is_not_given_to_the_next_one(aws, target, pair) -> None:
    notes = [{"Key": k, "Value": "x"} for k in ("drkit:run", "drkit:promoted")]
    aws.client("rds").add_tags_to_resource(ResourceName=pair, Tags=notes)
    assert Replication(target).replica_settings("orders", pair)["Tags"] == [CONSENT]


def test_a_promotion_under_way_is_not_asked_for_again(aws, target, pair, permit, journal, monkeypatch) -> None:
    """After a kill RDS still calls it a replica, for minutes."""
    replicas = Replication(target, RECOVERY_REGION)
    journal.will("stay_promoted", aws_region=RECOVERY_REGION, replica_id="orders-replica")
    answering(monkeypatch, "modifying")
    assert not replicas.promote("orders-replica", permit=permit, undo=journal)
    assert aws.changes() == []
    (undone,) = undo_journal.replay(journal, target)
    assert "is becoming a writer" in undone.sentence


def test_a_retry_that_finds_the_promotion_under_way_is_a_success(
    aws, target, pair, permit, journal, monkeypatch
) -> None:
    aws.inject("PromoteReadReplica", "InvalidDBInstanceState")
    answering(monkeypatch, "available", "modifying")
    assert Replication(target, RECOVERY_REGION).promote("orders-replica", permit=permit, undo=journal)


def test_a_replica_that_rds_is_busy_with_for_another_reason_is_an_error(
    aws, target, pair, permit, journal, monkeypatch
) -> None:
    aws.inject("PromoteReadReplica", "InvalidDBInstanceState")
    answering(monkeypatch, "modifying")
    with pytest.raises(TargetError) as e:
        Replication(target, RECOVERY_REGION).promote("orders-replica", permit=permit, undo=journal)
    assert e.value.code == "InvalidDBInstanceState"


def without_consent(aws, region: str, arn: str) -> None:
    aws.client("rds", region).remove_tags_from_resource(ResourceName=arn, TagKeys=["drkit:consent"])


def test_a_real_recovery_needs_no_consent_and_an_experiment_does(aws, target, pair, permit, real, journal) -> None:
    replicas = Replication(target, RECOVERY_REGION)
    arn = Database(target, RECOVERY_REGION).instance("orders-replica").arn
    without_consent(aws, RECOVERY_REGION, arn)
    with pytest.raises(Refused, match="does not carry the tag"):
        replicas.promote("orders-replica", permit=permit, undo=journal)
    with pytest.raises(Refused, match="does not carry the tag"):
        Database(target, RECOVERY_REGION).make_multi_az("orders-replica", permit=permit, undo=journal)
    assert not journal.records()
    assert replicas.promote("orders-replica", permit=real, undo=journal)


def test_the_undo_of_a_real_run_needs_no_consent_either(aws, target, pair, real, journal) -> None:
    replicas = Database(target, RECOVERY_REGION)
    without_consent(aws, RECOVERY_REGION, replicas.instance("orders-replica").arn)
    assert replicas.promote_replica("orders-replica", permit=real, undo=journal)
    assert journal.records()[0].args["real"] is True
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert replicas.instance("orders-replica").is_replica


def test_a_revoked_permit_recovers_nothing(aws, target, pair, real, journal) -> None:
    real.revoke("a person said stop")
    with pytest.raises(Aborted):
        Replication(target, RECOVERY_REGION).promote("orders-replica", permit=real, undo=journal)
    assert aws.calls == []


def test_the_old_writer_is_retired_and_a_replica_takes_its_place(aws, target, pair, permit, journal) -> None:
    """A failback's first half: the settings are read while the old writer is there, and kept on disk."""
    there, here = Replication(target, RECOVERY_REGION), Replication(target)
    there.promote("orders-replica", permit=permit, undo=journal)
    new_writer = Database(target, RECOVERY_REGION).instance("orders-replica")
    settings = json.loads(json.dumps(here.replica_settings("orders", new_writer.arn)))
    assert settings["DBInstanceIdentifier"] == "orders"
    assert settings["SourceDBInstanceIdentifier"] == new_writer.arn
    assert settings["SourceRegion"] == RECOVERY_REGION
    assert (settings["DBInstanceClass"], settings["MultiAZ"]) == ("db.m6g.large", True)
    assert CONSENT in settings["Tags"]
    aws.calls.clear()

    (effect,) = here.plan_retire("orders", final_snapshot_id="orders-last")
    assert "orders-last" in effect.what
    assert here.retire("orders", final_snapshot_id="orders-last", permit=permit, undo=journal)
    assert aws.changes() == ["DeleteDBInstance"]
    deleted = aws.calls[-1].parameters
    assert (deleted["FinalDBSnapshotIdentifier"], deleted["SkipFinalSnapshot"]) == ("orders-last", "false")
    assert deleted["DeleteAutomatedBackups"] == "false"
    assert not here.retire("orders", final_snapshot_id="orders-last", permit=permit, undo=journal)
    assert here.plan_retire("orders", final_snapshot_id="orders-last") == ()
    assert not Database(target).exists("orders")

    (effect,) = here.plan_create_replica(settings)
    assert effect.consented
    assert here.create_replica(settings, permit=permit, undo=journal)
    assert not here.create_replica(settings, permit=permit, undo=journal)
    assert here.plan_create_replica(settings) == ()
    assert aws.changes() == ["DeleteDBInstance", "CreateDBInstanceReadReplica"]
    now = Database(target).instance("orders")
    assert now.source == new_writer.arn
    assert (now.tags["drkit:run"], now.consented) == ("run-1", True)

    undone = {u.record.verb: u for u in undo_journal.replay(journal, target)}
    assert undone["delete_replica"].ok
    assert not Database(target).exists("orders")
    assert not undone["stay_retired"].ok
    assert "its data is in the snapshot orders-last" in undone["stay_retired"].sentence


@pytest.mark.parametrize("operation", ["DeleteDBInstance", "CreateDBInstanceReadReplica"])
def test_an_answer_that_is_lost_changes_nothing(aws, target, pair, permit, journal, operation) -> None:
    there, here = Replication(target, RECOVERY_REGION), Replication(target)
    there.promote("orders-replica", permit=permit, undo=journal)
    settings = here.replica_settings("orders", Database(target, RECOVERY_REGION).instance("orders-replica").arn)
    aws.lose(operation)
    assert here.retire("orders", final_snapshot_id="orders-last", permit=permit, undo=journal)
    assert here.create_replica(settings, permit=permit, undo=journal)
    assert aws.changes().count(operation) == 2


def test_what_is_not_retired(aws, target, pair, permit, journal) -> None:
    here, rds = Replication(target), aws.client("rds")
    with pytest.raises(Refused, match="still follows it, so it may be the writer"):
        here.retire("orders", final_snapshot_id="orders-last", permit=permit, undo=journal)
    with pytest.raises(Refused, match="it is a replica of"):
        Replication(target, RECOVERY_REGION).retire(
            "orders-replica", final_snapshot_id="x", permit=permit, undo=journal
        )
    Replication(target, RECOVERY_REGION).promote("orders-replica", permit=permit, undo=journal)
    rds.modify_db_instance(DBInstanceIdentifier="orders", DeletionProtection=True, ApplyImmediately=True)
    with pytest.raises(Refused, match="protected from deletion") as refused:
        here.retire("orders", final_snapshot_id="orders-last", permit=permit, undo=journal)
    assert "--no-deletion-protection" in refused.value.hint
    rds.modify_db_instance(DBInstanceIdentifier="orders", DeletionProtection=False, ApplyImmediately=True)
    for name, snapshot in (("", "x"), ("orders", " ")):
        with pytest.raises(Refused, match="was named"):
            here.retire(name, final_snapshot_id=snapshot, permit=permit, undo=journal)
    without_consent(aws, REGION, pair)
    with pytest.raises(Refused, match="does not carry the tag"):
        here.retire("orders", final_snapshot_id="orders-last", permit=permit, undo=journal)
    aws.inject("DeleteDBInstance", "DBSnapshotAlreadyExists", times=1)
    aws.client("rds").add_tags_to_resource(ResourceName=pair, Tags=[CONSENT])
    with pytest.raises(TargetError, match="there is a snapshot orders-last already"):
        here.retire("orders", final_snapshot_id="orders-last", permit=permit, undo=journal)
    assert Database(target).exists("orders")


def test_a_replica_is_dropped_once_though_the_answer_is_lost(aws, target, pair, permit) -> None:
    there = Replication(target, RECOVERY_REGION)
    (effect,) = there.plan_drop("orders-replica")
    assert (effect.call, effect.region) == ("rds:DeleteDBInstance", RECOVERY_REGION)
    aws.lose("DeleteDBInstance")
    assert there.drop("orders-replica", permit=permit)
    assert aws.changes() == ["DeleteDBInstance"] * 2
    assert not there.drop("orders-replica", permit=permit)
    assert there.plan_drop("orders-replica") == ()


def test_what_is_not_dropped(aws, target, pair, permit) -> None:
    there, rds = Replication(target, RECOVERY_REGION), aws.client("rds", RECOVERY_REGION)
    with pytest.raises(Refused, match="it is a writer, not a replica"):
        Replication(target).drop("orders", permit=permit)
    aws.inject("DeleteDBInstance", "InvalidDBInstanceState", times=1)
    with pytest.raises(TargetError):
        there.drop("orders-replica", permit=permit)  # RDS is busy with it, and not because it is going
    rds.modify_db_instance(DBInstanceIdentifier="orders-replica", DeletionProtection=True, ApplyImmediately=True)
    with pytest.raises(Refused, match="protected from deletion"):
        there.drop("orders-replica", permit=permit)
    assert Database(target, RECOVERY_REGION).exists("orders-replica")


def test_a_replica_is_made_of_nothing_that_is_there(aws, target, pair, permit, real, journal) -> None:
    here = Replication(target)
    settings = here.replica_settings("orders", pair.replace("orders", "other"))
    with pytest.raises(Refused, match="a writer of its own"):
        here.create_replica(settings, permit=permit, undo=journal)
    bare = {**settings, "DBInstanceIdentifier": "orders-3", "Tags": []}
    with pytest.raises(Refused, match="does not carry the tag"):
        here.create_replica(bare, permit=permit, undo=journal)
    with pytest.raises(Refused, match="no replica was named"):
        here.create_replica({**settings, "DBInstanceIdentifier": ""}, permit=permit, undo=journal)
    assert not journal.records()
    assert here.create_replica({**bare, "SourceDBInstanceIdentifier": "orders"}, permit=real, undo=journal)
    assert Database(target).instance("orders-3").tags == {"drkit:run": "run-1"}  # no consent that nobody gave
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]


def test_undo_deletes_no_replica_that_became_a_writer_or_is_not_the_runs(aws, target, pair, journal) -> None:
    rds = aws.client("rds", RECOVERY_REGION)
    name = Database(target, RECOVERY_REGION).instance("orders-replica").arn
    journal.will("delete_replica", aws_region=RECOVERY_REGION, instance_id="orders-replica", run_id="run-1", real=False)
    (undone,) = undo_journal.replay(journal, target)
    assert "does not carry drkit:run=run-1" in undone.sentence
    rds.add_tags_to_resource(ResourceName=name, Tags=[{"Key": "drkit:run", "Value": "run-1"}])
    rds.promote_read_replica(DBInstanceIdentifier="orders-replica")
    (undone,) = undo_journal.replay(journal, target)
    assert "it is a writer of its own now" in undone.sentence
    assert aws.changes() == []


def test_a_standby_is_given_once_and_taken_away(aws, target, permit, journal) -> None:
    make_writer(aws, MultiAZ=False)
    database = Database(target)
    (effect,) = database.plan_make_multi_az("orders")
    assert effect.call == "rds:ModifyDBInstance"
    aws.lose("ModifyDBInstance")
    assert database.make_multi_az("orders", permit=permit, undo=journal)
    assert not database.make_multi_az("orders", permit=permit, undo=journal)
    assert database.plan_make_multi_az("orders") == ()
    assert aws.changes() == ["ModifyDBInstance"] * 2  # one and its retry
    assert database.instance("orders").multi_az
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert not database.instance("orders").multi_az
    done = len(aws.changes())
    assert [u.ok for u in undo_journal.replay(journal, target, again=True)] == [True]
    assert len(aws.changes()) == done


def test_a_standby_that_is_being_made_is_not_asked_for_again(aws, target, permit, journal, monkeypatch) -> None:
    make_writer(aws, MultiAZ=False)
    from drkit.targets.aws import database as verbs

    seen = verbs.described
    monkeypatch.setattr(verbs, "described", lambda *a: {**seen(*a), "PendingModifiedValues": {"MultiAZ": True}})
    assert not Database(target).make_multi_az("orders", permit=permit, undo=journal)
    assert aws.changes() == []
