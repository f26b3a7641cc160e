"""Backups and what is made of them, on a mock of AWS: which calls, with what undo. Automated ones are a fake's."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError, UsageError
from drkit.targets.aws import Backups, Database

from .conftest import RECOVERY_REGION, REGION
from .fakes import EARLIEST, LATEST, BackupService
from .test_aws_database import make_writer

pytestmark = pytest.mark.lab
SETTINGS = {"DBInstanceClass": "db.m6g.xlarge", "MultiAZ": False, "Port": None, "VpcSecurityGroupIds": []}


@pytest.fixture
def service(aws) -> BackupService:
    make_writer(aws)
    return BackupService(aws)


def test_a_replicated_backup_is_found_with_its_window(aws, target, service) -> None:
    backup = Backups(target, RECOVERY_REGION).automated("orders")
    assert backup is not None
    assert backup.arn == service.arn(RECOVERY_REGION)  # not the older one, of an instance that had the name before
    assert (backup.region, backup.status, backup.retention_days, backup.encrypted) == (REGION, "active", 7, True)
    assert (backup.earliest, backup.latest) == (EARLIEST, LATEST)
    assert Backups(target, RECOVERY_REGION).automated("nope") is None
    assert aws.regions() == {RECOVERY_REGION}
    with pytest.raises(Refused):
        Backups(target).automated("")


def test_snapshots_are_told_newest_first(aws, target, service) -> None:
    rds = aws.client("rds")
    for name in ("first", "second"):
        rds.create_db_snapshot(DBInstanceIdentifier="orders", DBSnapshotIdentifier=name)
    found = Backups(target).snapshots("orders")
    created = [s.created for s in found]
    assert created == sorted(created, reverse=True)
    assert {"first", "second"} <= {s.snapshot_id for s in found}
    assert {(s.region, s.status, s.instance_id) for s in found} == {(REGION, "available", "orders")}
    assert {s.kind for s in found} <= {"manual", "automated"}


def restored(aws):
    return next(c.parameters for c in aws.calls if c.operation == "RestoreDBInstanceToPointInTime")


def test_a_replicated_backup_is_restored_once_and_deleted_again(aws, target, service, permit, journal) -> None:
    backups = Backups(target, RECOVERY_REGION)
    arn = service.arn(RECOVERY_REGION)
    at = LATEST - timedelta(hours=1)
    (effect,) = backups.plan_restore("orders-restored", source=arn, at=at)
    assert effect.call == "rds:RestoreDBInstanceToPointInTime"
    assert "2026-11-27 11:00:00 UTC" in effect.what
    assert backups.restore_to_time(arn, "orders-restored", at, SETTINGS, permit=permit, undo=journal)
    assert not backups.restore_to_time(arn, "orders-restored", at, SETTINGS, permit=permit, undo=journal)
    assert backups.plan_restore("orders-restored", source=arn, at=at) == ()
    assert aws.changes() == ["RestoreDBInstanceToPointInTime"]
    asked = restored(aws)
    assert asked["SourceDBInstanceAutomatedBackupsArn"] == arn
    assert asked["RestoreTime"] == "2026-11-27T11:00:00Z"
    assert (asked["DBInstanceClass"], asked["MultiAZ"]) == ("db.m6g.xlarge", "false")
    assert not {"Port", "UseLatestRestorableTime", "SourceDBInstanceIdentifier"} & set(asked)
    made = Database(target, RECOVERY_REGION).instance("orders-restored")
    assert made.tags == {"drkit:consent": "yes", "drkit:run": "run-1"}

    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert aws.changes() == ["RestoreDBInstanceToPointInTime", "DeleteDBInstance"]
    assert not Database(target, RECOVERY_REGION).exists("orders-restored")
    assert [u.ok for u in undo_journal.replay(journal, target, again=True)] == [True]
    assert len(aws.changes()) == 2
    assert aws.regions() == {RECOVERY_REGION}


def test_in_its_own_region_a_backup_is_named_by_its_instance(aws, target, service, permit, journal) -> None:
    backups, arn = Backups(target), service.arn(REGION)
    assert backups.restore_to_time(arn, "a", None, {}, permit=permit, undo=journal)
    asked = restored(aws)
    assert (asked["SourceDBInstanceIdentifier"], asked["UseLatestRestorableTime"]) == ("orders", "true")
    aws.calls.clear()
    service.retained = True
    assert backups.restore_to_time(arn, "b", None, {}, permit=permit, undo=journal)
    asked = restored(aws)
    assert asked["SourceDbiResourceId"] == "db-1"
    assert "SourceDBInstanceIdentifier" not in asked


def test_an_answer_that_is_lost_makes_one_database(aws, target, service, permit, journal) -> None:
    aws.lose("RestoreDBInstanceToPointInTime")
    arn = service.arn(RECOVERY_REGION)
    backups = Backups(target, RECOVERY_REGION)
    assert backups.restore_to_time(arn, "restored", None, {}, permit=permit, undo=journal)
    assert len(aws.client("rds", RECOVERY_REGION).describe_db_instances()["DBInstances"]) == 1


def test_a_real_recovery_makes_nothing_that_an_experiment_may_break(aws, target, service, real, journal) -> None:
    arn = service.arn(RECOVERY_REGION)
    Backups(target, RECOVERY_REGION).restore_to_time(arn, "restored", None, {}, permit=real, undo=journal)
    assert Database(target, RECOVERY_REGION).instance("restored").tags == {"drkit:run": "run-1"}
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert not Database(target, RECOVERY_REGION).exists("restored")


def test_a_moment_outside_of_the_window_is_refused_with_the_window(aws, target, service, permit, journal) -> None:
    backups, arn = Backups(target, RECOVERY_REGION), service.arn(RECOVERY_REGION)
    for at in (EARLIEST - timedelta(seconds=1), LATEST + timedelta(seconds=1)):
        with pytest.raises(TargetError, match="outside of the window") as e:
            backups.restore_to_time(arn, "restored", at, {}, permit=permit, undo=journal)
        assert e.value.code == "InvalidRestoreFault"
        assert "2026-11-20 00:00:00 UTC to 2026-11-27 12:00:00 UTC" in e.value.hint
    assert not journal.records()
    aws.inject("RestoreDBInstanceToPointInTime", "InvalidRestoreFault", message="the window has moved")
    with pytest.raises(TargetError, match="the window has moved") as e:
        backups.restore_to_time(arn, "restored", LATEST, {}, permit=permit, undo=journal)
    assert "2026-11-27 12:00:00 UTC" in e.value.hint
    with pytest.raises(UsageError, match="has no time zone"):
        backups.restore_to_time(arn, "restored", datetime(2026, 11, 27), {}, permit=permit, undo=journal)  # noqa: DTZ001
    with pytest.raises(TargetError, match="there is no automated backup"):
        backups.restore_to_time(service.arn(REGION), "restored", None, {}, permit=permit, undo=journal)


def test_nothing_is_restored_over_what_the_run_did_not_make(aws, target, service, permit, journal) -> None:
    with pytest.raises(Refused, match="this run did not make it"):
        Backups(target).restore_to_time(service.arn(REGION), "orders", None, {}, permit=permit, undo=journal)
    assert not journal.records()
    journal.will("delete_restored", aws_region=REGION, instance_id="orders", run_id="run-1", real=True)
    (undone,) = undo_journal.replay(journal, target)
    assert not undone.ok
    assert "does not carry drkit:run=run-1" in undone.sentence
    rds, arn = aws.client("rds"), Database(target).instance("orders").arn
    rds.add_tags_to_resource(ResourceName=arn, Tags=[{"Key": "drkit:run", "Value": "run-1"}])
    rds.modify_db_instance(DBInstanceIdentifier="orders", DeletionProtection=True, ApplyImmediately=True)
    (undone,) = undo_journal.replay(journal, target)
    assert "protected from deletion" in undone.sentence
    assert aws.changes() == []


def test_a_snapshot_is_restored_once_and_deleted_again(aws, target, service, permit, journal) -> None:
    aws.client("rds").create_db_snapshot(DBInstanceIdentifier="orders", DBSnapshotIdentifier="s1")
    backups = Backups(target)
    (effect,) = backups.plan_restore("restored", source="s1")
    assert effect.call == "rds:RestoreDBInstanceFromDBSnapshot"
    aws.lose("RestoreDBInstanceFromDBSnapshot")
    assert backups.restore_snapshot("s1", "restored", SETTINGS, permit=permit, undo=journal)
    assert not backups.restore_snapshot("s1", "restored", SETTINGS, permit=permit, undo=journal)
    assert aws.changes() == ["RestoreDBInstanceFromDBSnapshot"] * 2  # one and its retry
    made = Database(target).instance("restored")
    assert (made.instance_class, made.tags["drkit:run"], made.consented) == ("db.m6g.xlarge", "run-1", True)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert not Database(target).exists("restored")
    with pytest.raises(TargetError, match="there is no snapshot nope"):
        backups.restore_snapshot("nope", "restored", {}, permit=permit, undo=journal)


def test_an_encrypted_snapshot_is_not_copied_without_a_key_of_this_region(
    aws, target, service, permit, journal
) -> None:
    there = aws.client("rds", RECOVERY_REGION)
    there.create_db_instance(
        DBInstanceIdentifier="vault", Engine="postgres", DBInstanceClass="db.m6g.large", AllocatedStorage=20,
        MasterUsername="drkit", MasterUserPassword="not-a-secret", StorageEncrypted=True, KmsKeyId="arn:aws:kms:k",
    )  # fmt: skip
    there.create_db_snapshot(DBInstanceIdentifier="vault", DBSnapshotIdentifier="v1")
    assert Backups(target, RECOVERY_REGION).kms_key_of("vault") == "arn:aws:kms:k"
    assert Backups(target).kms_key_of("orders") == ""
    snapshot = next(s for s in Backups(target, RECOVERY_REGION).snapshots("vault") if s.snapshot_id == "v1")
    assert snapshot.encrypted
    backups = Backups(target)
    with pytest.raises(TargetError, match="it is encrypted, and no key of eu-central-1 was named") as refused:
        backups.copy_snapshot(snapshot.arn, "v1-copy", RECOVERY_REGION, permit=permit, undo=journal)
    assert refused.value.hint
    assert not journal.records()
    assert aws.changes() == []
    aws.inject("DescribeDBSnapshots", "AccessDenied", times=2, status=403)  # RDS itself says so then
    aws.inject("CopyDBSnapshot", "InvalidParameterValue", message="KmsKeyId is required for an encrypted snapshot")
    service_says = Backups(target)
    service_says._described_snapshot = lambda _: None
    with pytest.raises(TargetError, match="no key of eu-central-1 was named"):
        service_says.copy_snapshot(snapshot.arn, "v1-copy", RECOVERY_REGION, permit=permit, undo=journal)
    with pytest.raises(TargetError, match="KmsKeyId is required"):
        service_says.copy_snapshot(
            snapshot.arn, "v1-copy", RECOVERY_REGION, kms_key_id="k", permit=permit, undo=journal
        )


def test_a_snapshot_is_copied_once_and_the_copy_deleted_again(aws, target, service, permit, journal) -> None:
    """moto copies within a region only."""
    aws.client("rds").create_db_snapshot(DBInstanceIdentifier="orders", DBSnapshotIdentifier="s1")
    backups = Backups(target)
    arn = backups.snapshots("orders")[0].arn
    (effect,) = backups.plan_copy_snapshot(arn, "s1-copy")
    assert effect.call == "rds:CopyDBSnapshot"
    aws.lose("CopyDBSnapshot")
    assert backups.copy_snapshot(arn, "s1-copy", RECOVERY_REGION, permit=permit, undo=journal)
    assert not backups.copy_snapshot(arn, "s1-copy", RECOVERY_REGION, permit=permit, undo=journal)
    assert aws.changes() == ["CopyDBSnapshot"] * 2  # one and its retry
    asked = next(c.parameters for c in aws.calls if c.operation == "CopyDBSnapshot")
    assert asked["SourceDBSnapshotIdentifier"] == arn
    assert f"{RECOVERY_REGION}" in asked["PreSignedUrl"]
    copy = backups.snapshot("s1-copy")
    assert copy is not None
    assert copy.status == "available"
    assert backups.plan_copy_snapshot(arn, "s1-copy") == ()
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert backups.snapshot("s1-copy") is None
    assert backups.snapshot("s1") is not None
    with pytest.raises(Refused, match="this run did not make it"):
        backups.copy_snapshot(arn, "s1", RECOVERY_REGION, permit=permit, undo=journal)
    journal.will("delete_copied_snapshot", aws_region=REGION, snapshot_id="s1", run_id="run-1")
    assert [u.ok for u in undo_journal.replay(journal, target)] == [False]
    assert backups.snapshot("s1") is not None
