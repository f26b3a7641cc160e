"""The lab's databases across its two regions: every instance has its own endpoint, the second region takes over, and
the first one comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import BotoCoreError
from regions import CONSENT, RECOVERY, Regions, eventually, refusal

from drkit import clock
from drkit import lab as labs
from drkit.errors import LabError
from drkit.targets import Target, postgres

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]

REPLICA = "orders-db-replica"
type_lacks = Callable[[Target, Path], list[str]]


@pytest.fixture(scope="module")
def lab_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the home of a lab that these tests have for themselves."""
    home = tmp_path_factory.mktemp("regions")
    yield home
    labs.down(home=home)


@pytest.fixture(scope="module")
def _running_lab(lab_home: Path) -> Target:
    return labs.up(home=lab_home)


@pytest.fixture
def regions(lab: Target, lab_home: Path) -> Regions:
    return Regions(lab, lab_home)


def make_replica(rds: Any, name: str, source: dict[str, Any] | None) -> None:
    assert source is not None
    answer = rds.create_db_instance_read_replica(
        DBInstanceIdentifier=name,
        SourceDBInstanceIdentifier=source["DBInstanceArn"],
        DBSubnetGroupName="orders",
        Tags=CONSENT,
    )
    assert answer["DBInstance"]["DBInstanceStatus"] == "creating"


def replicating(regions: Regions, name: str, region: str = "") -> bool:
    infos = (regions.instance(name, region) or {}).get("StatusInfos", [])
    return [i["Status"] for i in infos] == ["replicating"]


def fail_back(regions: Regions) -> None:
    """Make the first region's pair again from the promoted replica, and the replica again from it."""
    regions.rds.delete_db_instance(DBInstanceIdentifier="orders-db", FinalDBSnapshotIdentifier="before-failback")
    regions.await_status("gone", "orders-db")
    snapshots = regions.rds.describe_db_snapshots(DBSnapshotIdentifier="before-failback")["DBSnapshots"]
    assert [s["Status"] for s in snapshots] == ["available"]
    make_replica(regions.rds, "orders-db", regions.instance(REPLICA, RECOVERY))
    regions.await_status("available", "orders-db")
    assert replicating(regions, "orders-db")
    assert regions.ask("select pg_is_in_recovery()", "orders-db") == (True,)
    rows = regions.count(REPLICA, RECOVERY)
    eventually(lambda: regions.count("orders-db") == rows, "everything has arrived")
    regions.rds.promote_read_replica(DBInstanceIdentifier="orders-db")
    regions.await_status("available", "orders-db")
    assert "SecondaryAvailabilityZone" not in (regions.instance("orders-db") or {})
    regions.rds.modify_db_instance(DBInstanceIdentifier="orders-db", MultiAZ=True, ApplyImmediately=True)
    eventually(lambda: "SecondaryAvailabilityZone" in (regions.instance("orders-db") or {}), "it has its standby")
    regions.delete(REPLICA, RECOVERY)
    make_replica(regions.recovery, REPLICA, regions.instance("orders-db"))
    regions.await_status("available", REPLICA, RECOVERY)


class TestEndpoints:
    def test_each_instance_has_its_own_which_follows_a_failover(self, regions: Regions) -> None:
        port, replica_port = regions.port("orders-db"), regions.port(REPLICA, RECOVERY)
        d = regions.target.database
        assert d is not None
        assert len({port, replica_port, d.port}) == 3
        assert replica_port == d.replica_port
        found = regions.instance("orders-db")
        assert found is not None
        at = (found["Endpoint"]["Address"], port)
        before = postgres.identity(regions.target, at=at)
        assert before == postgres.identity(regions.target)
        assert postgres.accepts_writes(regions.target, at=at)
        assert not postgres.accepts_writes(regions.target, at=("127.0.0.1", replica_port))
        regions.rds.reboot_db_instance(DBInstanceIdentifier="orders-db", ForceFailover=True)
        regions.await_status("available", "orders-db")
        after = postgres.identity(regions.target, at=at)
        assert after.port != before.port
        assert after == postgres.identity(regions.target)

    def test_a_cut_place_is_cut_there_too(self, regions: Regions) -> None:
        found = regions.instance("orders-db")
        assert found is not None
        heal = regions.cut(str(found["AvailabilityZone"])[-1])
        try:  # until the failover
            eventually(
                lambda: (
                    not postgres.accepts_writes(
                        regions.target, at=("127.0.0.1", found["Endpoint"]["Port"]), timeout_s=0.2
                    )
                ),
                "it is silent",
                timeout_s=10,
            )
        finally:
            heal()


class TestPromotion:
    def test_there_and_back_again_without_a_lost_row(self, regions: Regions, lacks: type_lacks) -> None:
        before = regions.count()
        regions.insert(500)
        eventually(lambda: regions.count(REPLICA, RECOVERY) == before + 500, "the replica has them")
        heals = [regions.cut(zone) for zone in "abc"]  # the region is gone when it is promoted
        called = len(regions.calls())
        regions.recovery.promote_read_replica(DBInstanceIdentifier=REPLICA)
        regions.await_status("available", REPLICA, RECOVERY)
        assert [(c["action"], c["resource"], c["status"]) for c in regions.calls()[called:]] == [
            ("PromoteReadReplica", REPLICA, 200)
        ]
        regions.insert(500, REPLICA, RECOVERY)
        assert regions.ask("show synchronous_standby_names", REPLICA, RECOVERY) == ("",)
        for heal in heals:
            heal()
        clock.sleep_s(4)  # time enough for the monitor to do harm
        assert regions.count(REPLICA, RECOVERY) == before + 1000
        assert regions.ask("select pg_is_in_recovery()", REPLICA, RECOVERY) == (False,)
        assert refusal(lambda: regions.recovery.promote_read_replica(DBInstanceIdentifier=REPLICA)) == (
            "InvalidDBInstanceState"
        )
        assert refusal(lambda: make_replica(regions.rds, "orders-db", regions.instance(REPLICA, RECOVERY))) == (
            "DBInstanceAlreadyExists"
        )
        regions.await_status("available", "orders-db")
        fail_back(regions)
        assert regions.count() == before + 1000
        assert regions.count("orders-db") == before + 1000
        eventually(lambda: regions.count(REPLICA, RECOVERY) == before + 1000, "the replica has everything again")
        eventually(lambda: not lacks(regions.target, regions.home), "the lab is whole")
        regions.insert(1)
        regions.await_archived()  # by the new instance
        regions.restore("after-failback", UseLatestRestorableTime=True)
        regions.await_status("available", "after-failback", RECOVERY)
        assert regions.count("after-failback", RECOVERY) == before + 1001
        regions.delete("after-failback", RECOVERY)
        regions.rds.delete_db_snapshot(DBSnapshotIdentifier="before-failback")

    def test_a_replica_whose_source_is_deleted_says_so_and_can_be_promoted(self, regions: Regions) -> None:
        rows = regions.count()
        regions.delete("orders-db")
        eventually(
            lambda: (regions.instance(REPLICA, RECOVERY) or {})["StatusInfos"][0]["Status"] == "terminated",
            "it says so",
        )
        with pytest.raises(psycopg.OperationalError):
            regions.ask("select 1")
        regions.recovery.promote_read_replica(DBInstanceIdentifier=REPLICA)
        regions.await_status("available", REPLICA, RECOVERY)
        make_replica(regions.rds, "orders-db", regions.instance(REPLICA, RECOVERY))
        regions.await_status("available", "orders-db")
        regions.rds.promote_read_replica(DBInstanceIdentifier="orders-db")
        regions.await_status("available", "orders-db")
        regions.rds.modify_db_instance(DBInstanceIdentifier="orders-db", MultiAZ=True, ApplyImmediately=True)
        regions.delete(REPLICA, RECOVERY)
        regions.await_status("available", "orders-db")
        make_replica(regions.recovery, REPLICA, regions.instance("orders-db"))
        regions.await_status("available", REPLICA, RECOVERY)
        assert regions.count() == rows


class TestDisturbances:
    def test_a_silent_region_answers_nobody_and_the_other_one_does(self, regions: Regions) -> None:
        labs.disturb(home=regions.home, what="silent-region-1", for_s=30)
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                regions.rds.describe_db_instances()
            except BotoCoreError as e:
                errors.append(e)

        asked = threading.Thread(target=ask)
        asked.start()
        asked.join(1)
        assert asked.is_alive()
        assert regions.status(REPLICA, RECOVERY) == "available"
        labs.disturb(home=regions.home, what="silent-region-1", for_s=0)
        asked.join(10)
        assert errors
        assert regions.status("orders-db") == "available"

    def test_wrong_ones_are_refused(self, regions: Regions, tmp_path: Path) -> None:
        with pytest.raises(LabError, match="no disturbance 'flood'"):
            labs.disturb(home=regions.home, what="flood", for_s=1)
        with pytest.raises(LabError, match="not up"):
            labs.disturb(home=tmp_path, what="s3-503", for_s=1)
