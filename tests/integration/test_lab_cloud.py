"""What AWS calls bring about in a lab, asked through boto3 as any client would, and through the database itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from drkit import clock
from drkit import lab as labs
from drkit.targets import Target

pytestmark = [pytest.mark.lab, pytest.mark.slow]

RECOVERY = "eu-west-1"


class Aws:
    """Plain boto3 on a lab's endpoint, and the questions that the tests ask."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str = "") -> Any:
        key = (service, region or self.target.region)
        if key not in self._clients:
            session = boto3.Session("lab", "lab", region_name=key[1])
            self._clients[key] = session.client(  # type: ignore[call-overload]
                service, endpoint_url=self.target.aws.endpoint_url, config=Config(retries={"total_max_attempts": 1})
            )
        return self._clients[key]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def database(self, name: str = "orders-db", region: str = "") -> dict[str, Any]:
        found: dict[str, Any] = self.client("rds", region).describe_db_instances(DBInstanceIdentifier=name)[
            "DBInstances"
        ][0]
        return found

    def zones(self) -> tuple[str, str | None]:
        """Return the writer's zone and the standby's, as letters."""
        d = self.database()
        secondary = d.get("SecondaryAvailabilityZone")
        return d["AvailabilityZone"][-1], secondary[-1] if secondary else None

    def events(self) -> list[str]:
        told = self.client("rds").describe_events(SourceIdentifier="orders-db", SourceType="db-instance")["Events"]
        return [e["Message"] for e in told]

    def instances(self, *states: str) -> dict[str, str]:
        """Return instance id → zone letter."""
        wanted = {"Name": "instance-state-name", "Values": list(states) or ["running"]}
        pages = self.client("ec2").describe_instances(Filters=[wanted])["Reservations"]
        return {i["InstanceId"]: i["Placement"]["AvailabilityZone"][-1] for r in pages for i in r["Instances"]}

    def health(self) -> dict[str, str]:
        assert self.target.compute is not None
        told = self.client("elbv2").describe_target_health(TargetGroupArn=self.target.compute.target_group_arn)
        return {t["Target"]["Id"]: t["TargetHealth"]["State"] for t in told["TargetHealthDescriptions"]}

    def subnets(self, zone: str, region: str = "") -> list[str]:
        wanted = [
            {"Name": "availability-zone", "Values": [f"{region or self.target.region}{zone}"]},
            {"Name": "tag:drkit:consent", "Values": ["yes"]},
        ]
        return [s["SubnetId"] for s in self.client("ec2", region).describe_subnets(Filters=wanted)["Subnets"]]

    def swap_acl(self, subnet: str, acl: str, region: str = "") -> str:
        """Give a subnet an ACL; return the one it had."""
        ec2 = self.client("ec2", region)
        (now,) = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])[
            "NetworkAcls"
        ]
        (association,) = [a for a in now["Associations"] if a["SubnetId"] == subnet]
        ec2.replace_network_acl_association(AssociationId=association["NetworkAclAssociationId"], NetworkAclId=acl)
        return str(now["NetworkAclId"])

    def cut(self, subnets: list[str], region: str = "") -> Callable[[], None]:
        """Cut subnets by an ACL that allows nothing; return what heals them."""
        ec2 = self.client("ec2", region)
        vpc = ec2.describe_subnets(SubnetIds=subnets[:1])["Subnets"][0]["VpcId"]
        deny = ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
        had = {subnet: self.swap_acl(subnet, deny, region) for subnet in subnets}

        def heal() -> None:
            for subnet, acl in had.items():
                self.swap_acl(subnet, acl, region)
            ec2.delete_network_acl(NetworkAclId=deny)

        return heal

    @contextlib.contextmanager
    def database_cut(self, zone: str) -> Iterator[None]:
        """Keep a zone's database server unreachable: for so long there is no standby in it, however long one looks."""
        wanted = {"Name": "tag:Name", "Values": [f"orders-{zone}-db"]}
        heal = self.cut([s["SubnetId"] for s in self.client("ec2").describe_subnets(Filters=[wanted])["Subnets"]])
        try:
            yield
        finally:
            heal()

    @contextlib.contextmanager
    def suspended(self, *processes: str) -> Iterator[None]:
        """Keep the Auto Scaling group from doing something: what it would end stays to be seen."""
        asg = self.client("autoscaling")
        asg.suspend_processes(AutoScalingGroupName="orders", ScalingProcesses=list(processes))
        try:
            yield
        finally:
            asg.resume_processes(AutoScalingGroupName="orders", ScalingProcesses=list(processes))


@pytest.fixture
def aws(lab: Target) -> Iterator[Aws]:
    aws = Aws(lab)
    yield aws
    aws.close()


def ask(target: Target, sql: str, *, replica: bool = False, timeout_s: int = 10) -> Any:
    """Return the first row of a query through the writer's endpoint, or the replica's."""
    d = target.database
    assert d is not None
    host, port = (d.replica_host, d.replica_port) if replica else (d.host, d.port)
    with psycopg.connect(
        host=host, port=port, user=d.user, dbname=d.dbname, sslmode="disable", connect_timeout=timeout_s
    ) as connection:
        return connection.execute(sql).fetchone()


def writable_node(target: Target) -> int:
    """Return the port of the server that the writer's endpoint leads to, having written to it."""
    port, follows = ask(target, "select inet_server_port(), pg_is_in_recovery()")
    assert not follows
    ask(target, "insert into orders (zone, instance) values ('test', 'test') returning id")
    return int(port)


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 45) -> None:
    """Wait for what has to come, or to hold, and need not do so within a certain time: the machine may be busy."""
    clock.wait_until(holds, what, timeout_s=timeout_s, every_s=0.05)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def pid(home: Path, part: str) -> int:
    (found,) = [p for p in labs.status(home=home).parts if p.name == part]
    assert found.pid is not None
    return found.pid


def stop_and_start(aws: Aws) -> None:
    rds = aws.client("rds")
    rds.stop_db_instance(DBInstanceIdentifier="orders-db")
    eventually(lambda: aws.database()["DBInstanceStatus"] == "stopped", "stopped")
    with pytest.raises(psycopg.OperationalError):
        ask(aws.target, "select 1")
    assert refusal(lambda: rds.stop_db_instance(DBInstanceIdentifier="orders-db")) == "InvalidDBInstanceState"
    rds.start_db_instance(DBInstanceIdentifier="orders-db")
    eventually(lambda: aws.database()["DBInstanceStatus"] == "available", "available")
    eventually(lambda: aws.zones()[1] is not None, "with its standby")
    writable_node(aws.target)


class TestDatabase:
    def test_a_forced_failover_really_moves_the_writer(self, aws: Aws) -> None:
        zone, standby = aws.zones()
        server, told = writable_node(aws.target), len(aws.events())
        answer = aws.client("rds").reboot_db_instance(DBInstanceIdentifier="orders-db", ForceFailover=True)
        assert answer["DBInstance"]["DBInstanceStatus"] == "rebooting"

        def moved() -> bool:
            now = aws.database()
            return now["DBInstanceStatus"] == "available" and now["AvailabilityZone"][-1] == standby

        eventually(moved, "available in the standby's zone")
        assert writable_node(aws.target) != server
        with aws.database_cut(zone):
            eventually(lambda: aws.zones() == (standby, None), "there is no standby")
        eventually(lambda: aws.zones() == (standby, zone), "the old writer's zone has the standby")
        eventually(lambda: "Multi-AZ activation completed." in aws.events()[told:], "which was made again")
        assert aws.events()[told:][:4] == [
            "Multi-AZ instance failover started.",
            "DB instance restarted",
            "Multi-AZ instance failover completed",
            "The user requested a failover of the DB instance.",
        ]

    def test_while_it_is_busy_it_refuses(self, aws: Aws) -> None:
        rds = aws.client("rds")
        rds.reboot_db_instance(DBInstanceIdentifier="orders-db", ForceFailover=True)
        again = refusal(lambda: rds.reboot_db_instance(DBInstanceIdentifier="orders-db", ForceFailover=True))
        assert again == "InvalidDBInstanceState"

    def test_a_replica_has_nothing_to_fail_over_to(self, aws: Aws) -> None:
        rds = aws.client("rds", RECOVERY)
        code = refusal(lambda: rds.reboot_db_instance(DBInstanceIdentifier="orders-db-replica", ForceFailover=True))
        assert code == "InvalidParameterCombination"

    def test_a_killed_primary_is_failed_over_by_itself(self, aws: Aws, lab_home: Path) -> None:
        zone, standby = aws.zones()
        server, told = writable_node(aws.target), len(aws.events())
        os.kill(pid(lab_home, f"database {zone}"), signal.SIGKILL)
        eventually(lambda: aws.zones()[0] == standby, "RDS failed over")
        assert writable_node(aws.target) != server
        why = "The primary host of the RDS Multi-AZ instance is unhealthy."
        eventually(lambda: why in aws.events()[told:], "RDS tells why")
        eventually(lambda: aws.zones()[1] == zone, "Multi-AZ again")

    def test_a_lost_standby_does_not_stop_the_writer_and_comes_back(self, aws: Aws, lab_home: Path) -> None:
        zone, standby = aws.zones()
        assert standby is not None
        told = len(aws.events())
        os.kill(pid(lab_home, f"database {standby}"), signal.SIGKILL)
        lost, back = "The standby is lost: Multi-AZ activation started.", "Multi-AZ activation completed."
        eventually(lambda: lost in aws.events()[told:], "RDS noticed that the standby is lost")
        with aws.database_cut(standby):
            eventually(lambda: aws.zones() == (zone, None), "and tells so")
            writable_node(aws.target)
        eventually(lambda: aws.zones() == (zone, standby), "and that it is back")
        eventually(lambda: back in aws.events()[told:], "having been made again")
        writable_node(aws.target)

    def test_reboot_without_failover_stays_in_its_zone(self, aws: Aws) -> None:
        before = aws.zones()
        started = ask(aws.target, "select pg_postmaster_start_time()")
        aws.client("rds").reboot_db_instance(DBInstanceIdentifier="orders-db")
        eventually(lambda: aws.database()["DBInstanceStatus"] == "available", "available")
        assert ask(aws.target, "select pg_postmaster_start_time()") > started
        eventually(lambda: aws.zones() == before, "as before")

    def test_each_instance_is_one_of_its_own(self, aws: Aws) -> None:
        primary, replica = aws.database(), aws.database("orders-db-replica", RECOVERY)
        assert primary["DbiResourceId"] != replica["DbiResourceId"]
        assert primary["ReadReplicaDBInstanceIdentifiers"] == [replica["DBInstanceArn"]]
        assert replica["ReadReplicaSourceDBInstanceIdentifier"] == primary["DBInstanceArn"]
        assert replica["StatusInfos"][0]["StatusType"] == "read replication"  # from the lab's first moment
        eventually(  # after a failover, of a test before this one, it may have to be copied anew
            lambda: aws.database("orders-db-replica", RECOVERY)["StatusInfos"][0]["Status"] == "replicating",
            "it replicates",
        )
        assert (primary["MultiAZ"], replica["MultiAZ"]) == (True, False)

    def test_a_replica_is_promoted_and_made_again(self, aws: Aws) -> None:
        rds, name = aws.client("rds", RECOVERY), "orders-db-replica"
        arn = aws.database()["DBInstanceArn"]
        stop = aws.client("rds").stop_db_instance
        assert refusal(lambda: stop(DBInstanceIdentifier="orders-db")) == "InvalidDBInstanceState"  # has a replica
        rds.promote_read_replica(DBInstanceIdentifier=name)
        eventually(lambda: aws.database(name, RECOVERY)["DBInstanceStatus"] == "available", "promoted")
        assert ask(aws.target, "select pg_is_in_recovery()", replica=True) == (False,)
        assert "ReadReplicaSourceDBInstanceIdentifier" not in aws.database(name, RECOVERY)
        assert aws.database()["ReadReplicaDBInstanceIdentifiers"] == []
        assert refusal(lambda: rds.promote_read_replica(DBInstanceIdentifier=name)) == "InvalidDBInstanceState"

        def gone() -> bool:
            try:
                return aws.database(name, RECOVERY)["DBInstanceStatus"] != "deleting"
            except ClientError as e:
                return e.response["Error"]["Code"] == "DBInstanceNotFound"

        rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)
        eventually(gone, "deleted")
        with pytest.raises(psycopg.OperationalError):
            ask(aws.target, "select 1", replica=True)
        stop_and_start(aws)
        answer = rds.create_db_instance_read_replica(
            DBInstanceIdentifier=name,
            SourceDBInstanceIdentifier=arn,
            DBSubnetGroupName="orders",
            Tags=[{"Key": "drkit:consent", "Value": "yes"}],
        )
        assert answer["DBInstance"]["DBInstanceStatus"] == "creating"
        eventually(lambda: aws.database(name, RECOVERY)["DBInstanceStatus"] == "available", "made again")
        assert ask(aws.target, "select pg_is_in_recovery()", replica=True) == (True,)
        eventually(lambda: bool(aws.database(name, RECOVERY).get("StatusInfos")), "and tells so")

    def test_the_writers_record_leads_the_writers_endpoint(self, aws: Aws) -> None:
        d = aws.target.database
        assert d is not None
        dns = aws.client("route53")
        records = dns.list_resource_record_sets(HostedZoneId=d.hosted_zone_id)["ResourceRecordSets"]
        (as_it_was,) = [r for r in records if r["Name"] == f"{d.dns_record}."]
        address = aws.database("orders-db-replica", RECOVERY)["Endpoint"]["Address"]

        def point(record: dict[str, Any]) -> None:
            dns.change_resource_record_sets(
                HostedZoneId=d.hosted_zone_id,
                ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]},
            )

        assert ask(aws.target, "select pg_is_in_recovery()") == (False,)
        try:
            point({**as_it_was, "ResourceRecords": [{"Value": address}]})
            assert ask(aws.target, "select pg_is_in_recovery()") == (True,)  # the replica, which nobody promoted
        finally:
            point(as_it_was)
        assert ask(aws.target, "select pg_is_in_recovery()") == (False,)


class TestZones:
    def test_a_cut_zone_with_the_writer_is_failed_over_and_healed(self, aws: Aws) -> None:
        zone, standby = aws.zones()
        heal = aws.cut(aws.subnets(zone))
        try:
            eventually(lambda: aws.zones()[0] == standby, "RDS failed over")
            writable_node(aws.target)
            victims = {i for i, z in aws.instances().items() if z == zone}
            eventually(lambda: all(aws.health().get(i) != "healthy" for i in victims), "its targets are unhealthy")
        finally:
            heal()
        eventually(lambda: aws.zones() == (standby, zone), "Multi-AZ again")

    def test_entries_changed_in_place_cut_too(self, aws: Aws) -> None:
        ec2 = aws.client("ec2")
        (subnet,) = [
            s["SubnetId"]
            for s in ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["orders-c-app"]}])["Subnets"]
        ]
        vpc = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
        acl = ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
        both = [{"NetworkAclId": acl, "RuleNumber": 100, "Egress": egress} for egress in (True, False)]
        allow = {"Protocol": "-1", "RuleAction": "allow", "CidrBlock": "0.0.0.0/0"}
        for entry in both:
            ec2.create_network_acl_entry(**entry, **allow)
        (here,) = [i for i, z in aws.instances().items() if z == "c"]

        def is_(state: str) -> bool:
            return aws.health().get(here) == state

        with aws.suspended("ReplaceUnhealthy"):  # else it is unhealthy for two seconds only, and then gone
            had = aws.swap_acl(subnet, acl)
            try:
                eventually(lambda: is_("healthy"), "not cut by an ACL that lets everything through")
                ec2.delete_network_acl_entry(**both[0])
                eventually(lambda: is_("unhealthy"), "cut by one entry less")
                ec2.create_network_acl_entry(**both[0], **allow)
                eventually(lambda: is_("healthy"), "healed")
            finally:
                aws.swap_acl(subnet, had)
                ec2.delete_network_acl(NetworkAclId=acl)

    def test_an_old_association_id_is_not_found(self, aws: Aws) -> None:
        ec2 = aws.client("ec2")
        acl = ec2.describe_network_acls()["NetworkAcls"][0]["NetworkAclId"]
        code = refusal(lambda: ec2.replace_network_acl_association(AssociationId="aclassoc-0", NetworkAclId=acl))
        assert code == "InvalidAssociationID.NotFound"


class TestInstances:
    def test_one_service_process_a_zone_behind_the_load_balancer(self, aws: Aws) -> None:
        assert sorted(aws.instances().values()) == ["a", "b", "c"]
        eventually(lambda: [aws.health().get(i) for i in aws.instances()] == ["healthy"] * 3, "all healthy")
        assert set(aws.health()) == set(aws.instances())

    def test_a_stopped_instance_is_replaced_in_its_zone(self, aws: Aws) -> None:
        victim = next(i for i, z in aws.instances().items() if z == "c")
        with aws.suspended("ReplaceUnhealthy"):  # else the group may have ended it before we look
            aws.client("ec2").stop_instances(InstanceIds=[victim])
            eventually(lambda: aws.health().get(victim) == "unused", "it is out of use")
            assert victim in aws.instances("stopped")
        eventually(lambda: victim not in aws.instances("stopped", "running"), "the group terminated it")
        eventually(lambda: sorted(aws.instances().values()) == ["a", "b", "c"], "and replaced it")
        eventually(lambda: [aws.health().get(i) for i in aws.instances()] == ["healthy"] * 3, "with a healthy one")
        for raised in (aws.client("ec2").start_instances, aws.client("ec2").stop_instances):  # from the dead
            assert refusal(lambda raised=raised: raised(InstanceIds=[victim])) == "IncorrectInstanceState"

    def test_stop_and_start_with_replacement_suspended(self, aws: Aws) -> None:
        ec2 = aws.client("ec2")
        victim = next(i for i, z in aws.instances().items() if z == "b")
        with aws.suspended("ReplaceUnhealthy", "Launch", "Terminate"):
            ec2.stop_instances(InstanceIds=[victim])
            clock.sleep_s(4)  # longer than the group waits
            assert len(aws.instances()) == 2
            assert victim in aws.instances("stopped")
            ec2.start_instances(InstanceIds=[victim])
            eventually(lambda: aws.health().get(victim) == "healthy", "it serves again")

    def test_launches_held_back_go_to_the_other_zones_and_come_home(self, aws: Aws) -> None:
        asg, ec2 = aws.client("autoscaling"), aws.client("ec2")
        (group,) = asg.describe_auto_scaling_groups(AutoScalingGroupNames=["orders"])["AutoScalingGroups"]
        every = group["VPCZoneIdentifier"].split(",")
        lost = next(s for s in every if s in aws.subnets("a"))
        heal = aws.cut([lost])
        try:
            asg.update_auto_scaling_group(
                AutoScalingGroupName="orders", VPCZoneIdentifier=",".join(s for s in every if s != lost)
            )
            ec2.stop_instances(InstanceIds=[i for i, z in aws.instances().items() if z == "a"])
            eventually(
                lambda: sorted(aws.instances().values()) in (["b", "b", "c"], ["b", "c", "c"]), "refilled elsewhere"
            )
            eventually(lambda: set(aws.health().values()) == {"healthy"} and len(aws.health()) == 3, "healthy")
        finally:
            heal()
            asg.update_auto_scaling_group(AutoScalingGroupName="orders", VPCZoneIdentifier=",".join(every))
        eventually(lambda: sorted(aws.instances().values()) == ["a", "b", "c"], "balanced again")

    def test_nobody_holds_launches_back(self, aws: Aws) -> None:
        """The twin: the refill goes into the dead zone and never gets healthy."""
        lost = next(
            s["SubnetId"]
            for s in aws.client("ec2").describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["orders-a-app"]}])[
                "Subnets"
            ]
        )
        heal = aws.cut([lost])
        try:
            (victim,) = [i for i, z in aws.instances().items() if z == "a"]
            aws.client("ec2").terminate_instances(InstanceIds=[victim])
            refills: list[str] = []  # one after the other: each is given up in its turn

            def refilled() -> bool:
                refills[:] = [i for i, z in aws.instances().items() if z == "a"]
                return bool(refills)

            eventually(refilled, "a refill in the dead zone")
            (refill,) = refills
            assert refill != victim
            clock.sleep_s(3)
            assert aws.health().get(refill) != "healthy"
        finally:
            heal()

    def test_desired_capacity(self, aws: Aws) -> None:
        asg = aws.client("autoscaling")
        asg.set_desired_capacity(AutoScalingGroupName="orders", DesiredCapacity=5)
        try:
            eventually(lambda: len(aws.instances()) == 5, "grown")
            assert {list(aws.instances().values()).count(z) for z in "abc"} == {1, 2}
            eventually(lambda: list(aws.health().values()) == ["healthy"] * 5, "all healthy")
        finally:
            asg.set_desired_capacity(AutoScalingGroupName="orders", DesiredCapacity=3)
        eventually(lambda: sorted(aws.instances().values()) == ["a", "b", "c"], "shrunk in balance")


class TestAccount:
    def test_everything_consents(self, aws: Aws) -> None:
        d = aws.target.database
        assert d is not None
        for region in ("", RECOVERY):
            for database in aws.client("rds", region).describe_db_instances()["DBInstances"]:
                assert {"Key": "drkit:consent", "Value": "yes"} in database["TagList"]
        for reservation in aws.client("ec2").describe_instances()["Reservations"]:
            for instance in reservation["Instances"]:
                assert {"Key": "drkit:consent", "Value": "yes"} in instance["Tags"]
        tags = aws.client("route53").list_tags_for_resource(ResourceType="hostedzone", ResourceId=d.hosted_zone_id)
        assert {"Key": "drkit:consent", "Value": "yes"} in tags["ResourceTagSet"]["Tags"]
        assert aws.client("sts").get_caller_identity()["Account"] == aws.target.account_id

    def test_what_moto_lacks_is_501_and_not_retried(self, aws: Aws) -> None:
        assert refusal(lambda: aws.client("rds").describe_event_categories()) == "NotImplemented"

    def test_backups_arrive_in_the_second_region(self, aws: Aws) -> None:
        s3 = aws.client("s3", RECOVERY)

        def keys() -> list[str]:
            return [o["Key"] for o in s3.list_objects_v2(Bucket="orders-db-backups").get("Contents", [])]

        eventually(lambda: any(k.endswith(".tar") for k in keys()), "a base backup")
        eventually(lambda: any("/wal/" in k for k in keys()), "and log")
