"""Backups of the lab's database in the second region: what RDS says of them is true, and they can be restored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from regions import CONSENT, RECOVERY, Regions, eventually, refusal

from drkit import clock
from drkit import lab as labs
from drkit.errors import Refused, UnknownName

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Regions]:
    home = tmp_path_factory.mktemp("backups")
    yield Regions(labs.up(home=home), home)
    labs.down(home=home)


def keys(regions: Regions, prefix: str = "") -> set[str]:
    listed = regions.client("s3", RECOVERY).list_objects_v2(Bucket="orders-db-backups", Prefix=prefix)
    return {o["Key"] for o in listed.get("Contents", ())}


class TestAutomatedBackups:
    def test_what_rds_says_of_them(self, regions: Regions) -> None:
        found = regions.backup()
        instance = regions.instance("orders-db")
        assert instance is not None
        assert found["DBInstanceArn"] == instance["DBInstanceArn"]
        assert (found["Status"], found["Region"], found["Engine"]) == ("replicating", "eu-central-1", "postgres")
        assert found["BackupRetentionPeriod"] == 7
        window = found["RestoreWindow"]
        assert window["EarliestTime"] <= window["LatestTime"] <= datetime.now(UTC)
        before = window["LatestTime"]
        eventually(lambda: regions.backup()["RestoreWindow"]["LatestTime"] > before, "it goes on, also without writes")
        told = (regions.instance("orders-db") or {})["LatestRestorableTime"]
        assert before < told <= regions.backup()["RestoreWindow"]["LatestTime"]

    def test_replication_stops_and_starts(self, regions: Regions) -> None:
        arn = regions.backup()["DBInstanceArn"]
        start = regions.recovery.start_db_instance_automated_backups_replication
        answer = start(SourceDBInstanceArn=arn)  # it is on: nothing changes
        assert answer["DBInstanceAutomatedBackup"]["Status"] == "replicating"
        stopped = regions.recovery.stop_db_instance_automated_backups_replication(SourceDBInstanceArn=arn)
        assert stopped["DBInstanceAutomatedBackup"]["Status"] == "retained"
        code = refusal(lambda: regions.recovery.stop_db_instance_automated_backups_replication(SourceDBInstanceArn=arn))
        assert code == "InvalidDBInstanceState"
        latest = regions.backup()["RestoreWindow"]["LatestTime"]
        start(SourceDBInstanceArn=arn)
        eventually(lambda: regions.backup().get("RestoreWindow", {}).get("EarliestTime", latest) > latest, "anew")
        assert regions.backup()["Status"] == "replicating"


class TestRestore:
    def test_to_a_time_exact_to_the_row(self, regions: Regions) -> None:
        """Each row is committed by itself; what is restored are the rows up to the moment asked for, and none after."""
        before = regions.count()
        (moment,) = regions.ask("insert into orders (zone, instance) values ('test', '1') returning now()")
        for _ in (2, 3):
            regions.insert(1)
        (middle,) = regions.ask("select clock_timestamp()")
        regions.ask("insert into orders (zone, instance) values ('test', '4')")
        deleted = labs.delete_rows(regions.target, "orders")
        assert deleted.rows == before + 4
        assert moment < middle < deleted.not_before_utc <= deleted.not_after_utc
        regions.insert(7)
        regions.await_archived()
        regions.restore("at-middle", RestoreTime=middle)
        regions.restore("before-deletion", RestoreTime=deleted.not_before_utc)
        regions.restore("at-the-end", UseLatestRestorableTime=True)
        for name, rows in (("at-middle", before + 3), ("before-deletion", before + 4), ("at-the-end", 7)):
            regions.await_status("available", name, RECOVERY)
            assert regions.count(name, RECOVERY) == rows
            regions.insert(1, name, RECOVERY)
            assert regions.count() == 7  # each is a server of its own
        found = regions.instance("at-middle", RECOVERY)
        assert found is not None
        assert found["TagList"] == CONSENT
        assert (found["MultiAZ"], found["AvailabilityZone"]) == (False, "eu-west-1a")
        port = regions.port("at-middle", RECOVERY)
        parts = {p.name: p.pid for p in labs.status(home=regions.home).parts}
        assert parts["database r-at-middle"]
        told = regions.recovery.describe_events(SourceIdentifier="at-middle", SourceType="db-instance")["Events"]
        assert any(e["Message"].startswith("Restored from DB instance orders-db") for e in told)
        for name in ("at-middle", "before-deletion", "at-the-end"):
            regions.delete(name, RECOVERY)
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(host="127.0.0.1", port=port, user="drkit", dbname="postgres", connect_timeout=5)
        assert not any(p.name.startswith("database r-") for p in labs.status(home=regions.home).parts)
        assert not list((regions.home / "labs" / "lab" / "plant").glob("data-r-*"))

    def test_what_cannot_be_restored_is_refused(self, regions: Regions) -> None:
        window = regions.backup()["RestoreWindow"]
        hour = timedelta(hours=1)
        for when in (
            {"RestoreTime": window["EarliestTime"] - hour},
            {"RestoreTime": window["LatestTime"] + hour},
        ):
            assert refusal(lambda when=when: regions.restore("never", **when)) == "InvalidRestoreFault"  # type: ignore[misc]
        assert refusal(lambda: regions.restore("never")) == "InvalidParameterCombination"
        exists = refusal(lambda: regions.restore("orders-db-replica", UseLatestRestorableTime=True))
        assert exists == "DBInstanceAlreadyExists"
        assert regions.status("never", RECOVERY) == "gone"

    def test_across_a_failover_nothing_is_missing(self, regions: Regions) -> None:
        """The primary dies with log that it has not archived yet: its successor has it, and archives it."""
        regions.insert(50_000)
        regions.rds.reboot_db_instance(DBInstanceIdentifier="orders-db", ForceFailover=True)
        regions.await_status("available", "orders-db")
        regions.insert(10)
        rows = regions.count()
        regions.await_archived()
        assert any(key.endswith(".history") for key in keys(regions, "orders-db/wal/"))
        regions.restore("across", UseLatestRestorableTime=True)
        regions.await_status("available", "across", RECOVERY)
        assert regions.count("across", RECOVERY) == rows
        regions.delete("across", RECOVERY)

    def test_one_that_nobody_wants_any_more_is_given_up(self, regions: Regions) -> None:
        labs.disturb(home=regions.home, what="s3-503", for_s=60)
        try:
            regions.restore("unwanted", UseLatestRestorableTime=True)
            regions.recovery.delete_db_instance(DBInstanceIdentifier="unwanted", SkipFinalSnapshot=True)
            assert regions.status("unwanted", RECOVERY) in ("deleting", "gone")
            eventually(lambda: regions.status("unwanted", RECOVERY) == "gone", "gone", timeout_s=20)
        finally:
            labs.disturb(home=regions.home, what="s3-503", for_s=0)

    def test_it_survives_an_s3_that_is_busy_for_a_while(self, regions: Regions) -> None:
        eventually(lambda: "RestoreWindow" in regions.backup(), "there is a backup")
        labs.disturb(home=regions.home, what="s3-503", for_s=4)
        regions.restore("patient", UseLatestRestorableTime=True)
        began_ns = clock.now_ns()
        regions.await_status("available", "patient", RECOVERY)
        assert clock.now_ns() - began_ns > 3 * clock.NS_PER_S
        assert regions.count("patient", RECOVERY) == regions.count()
        regions.delete("patient", RECOVERY)

    def test_with_a_parameter_group(self, regions: Regions) -> None:
        regions.recovery.create_db_parameter_group(
            DBParameterGroupName="tuned", DBParameterGroupFamily="postgres18", Description="of the second region"
        )
        regions.restore("grouped", UseLatestRestorableTime=True, DBParameterGroupName="tuned")
        regions.await_status("available", "grouped", RECOVERY)
        found = regions.instance("grouped", RECOVERY)
        assert found is not None
        assert [g["DBParameterGroupName"] for g in found["DBParameterGroups"]] == ["tuned"]
        regions.delete("grouped", RECOVERY)


class TestSnapshots:
    def test_made_copied_restored_deleted(self, regions: Regions) -> None:
        regions.insert(10)
        rows = regions.count()
        made = regions.rds.create_db_snapshot(DBInstanceIdentifier="orders-db", DBSnapshotIdentifier="by-hand")
        arn = made["DBSnapshot"]["DBSnapshotArn"]

        def status(rds: object, name: str) -> str:
            return str(rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]["Status"])  # type: ignore[attr-defined]

        eventually(lambda: status(regions.rds, "by-hand") == "available", "made")
        regions.insert(10)
        regions.recovery.copy_db_snapshot(
            SourceDBSnapshotIdentifier=arn, TargetDBSnapshotIdentifier="copied", SourceRegion="eu-central-1"
        )
        eventually(lambda: status(regions.recovery, "copied") == "available", "copied")
        assert "snapshots/copied.tar" in keys(regions)
        regions.recovery.restore_db_instance_from_db_snapshot(
            DBInstanceIdentifier="from-copy", DBSnapshotIdentifier="copied", DBSubnetGroupName="orders", Tags=CONSENT
        )
        regions.await_status("available", "from-copy", RECOVERY)
        assert regions.count("from-copy", RECOVERY) == rows
        regions.insert(1, "from-copy", RECOVERY)
        regions.delete("from-copy", RECOVERY)
        for rds, name in ((regions.rds, "by-hand"), (regions.recovery, "copied")):
            rds.delete_db_snapshot(DBSnapshotIdentifier=name)
        eventually(lambda: "snapshots/copied.tar" not in keys(regions), "its object is gone")


class TestDeletedRows:
    def test_only_in_a_lab_and_only_of_a_table(self, regions: Regions) -> None:
        with pytest.raises(UnknownName, match="no one table"):
            labs.delete_rows(regions.target, "orders; drop table orders")
        with pytest.raises(Refused, match="no lab"):
            labs.delete_rows(replace(regions.target, kind="aws"), "orders")


def test_calls_that_change_something_are_written_down(regions: Regions) -> None:
    before = len(regions.calls())
    regions.rds.describe_db_instances()
    assert refusal(lambda: regions.delete("no-such")) == "DBInstanceNotFound"
    regions.rds.modify_db_instance(DBInstanceIdentifier="orders-db", BackupRetentionPeriod=7)
    (refused, changed) = regions.calls()[before:]
    assert (refused["action"], refused["resource"], refused["status"]) == ("DeleteDBInstance", "no-such", 404)
    assert (changed["service"], changed["action"], changed["region"]) == ("rds", "ModifyDBInstance", "eu-central-1")
    assert changed["resource"] == "orders-db"
    assert refused["at_ns"] < changed["at_ns"] <= clock.now_ns()
