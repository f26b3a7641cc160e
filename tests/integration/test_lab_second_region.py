"""The service in a lab's second region, what leads clients there, and zonal shifts: asked through boto3 and HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from leftovers import lives

from drkit import clock
from drkit import lab as labs
from drkit.chaos import state
from drkit.lab.options import LabPart
from drkit.targets import ComputeTarget, DatabaseTarget, ServiceTarget, Target

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]

RECOVERY = "eu-west-1"
SILENT_S = 3.0  # longer than a load balancer waits for a target: who still has no 504 is cut off from it
CONSENT = {"Key": "drkit:consent", "Value": "yes"}


class Lab:
    """A lab of this module's own, and what the tests ask of it."""

    def __init__(self, home: Path, target: Target) -> None:
        self.home, self.target = home, target
        assert target.service
        assert target.compute
        assert target.database
        self.service: ServiceTarget = target.service
        self.compute: ComputeTarget = target.compute
        self.database: DatabaseTarget = target.database
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

    # --- the service --------------------------------------------------------------------------------------------------

    def ask(self, path: str = "/orders", *, timeout_s: float = 10.0) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(self.service.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def zones(self, requests: int = 12) -> Counter[str]:
        """Return how many of some requests each zone answered."""
        return Counter(self.ask()[1].get("zone", "none") for _ in range(requests))

    def silent(self) -> bool:
        try:
            self.ask("/health", timeout_s=SILENT_S)
        except TimeoutError:
            return True
        return False

    # --- the API ------------------------------------------------------------------------------------------------------

    def point(self, host: str | None) -> None:
        """Lead the service's record to a load balancer."""
        record = {"Name": self.service.dns_record, "Type": "CNAME", "TTL": 5, "ResourceRecords": [{"Value": host}]}
        self.client("route53").change_resource_record_sets(
            HostedZoneId=self.service.hosted_zone_id,
            ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]},
        )

    @contextlib.contextmanager
    def pointed_to_recovery(self) -> Iterator[None]:
        self.point(self.service.recovery_host)
        try:
            yield
        finally:
            self.point(self.service.host)

    def scale(self, desired: int) -> None:
        self.client("autoscaling", RECOVERY).set_desired_capacity(
            AutoScalingGroupName=self.compute.recovery_asg_name, DesiredCapacity=desired
        )

    @contextlib.contextmanager
    def scaled_to(self, desired: int) -> Iterator[list[str]]:
        """Scale the second region up, and give its instances once all are healthy targets."""
        self.scale(desired)
        try:
            eventually(lambda: list(self.health().values()) == ["healthy"] * desired, "as many healthy targets")
            yield list(self.health())
        finally:
            self.scale(0)
            eventually(lambda: not self.recovery_parts(), "none runs any more")

    def health(self) -> dict[str, str]:
        told = self.client("elbv2", RECOVERY).describe_target_health(
            TargetGroupArn=self.compute.recovery_target_group_arn
        )
        return {t["Target"]["Id"]: t["TargetHealth"]["State"] for t in told["TargetHealthDescriptions"]}

    def parts(self) -> tuple[LabPart, ...]:
        return labs.status(home=self.home).parts

    def recovery_parts(self) -> list[LabPart]:
        """Return the second region's instances as `lab status` shows them."""
        return [p for p in self.parts() if p.name.startswith("i-") and p.zone.startswith(RECOVERY)]

    @contextlib.contextmanager
    def cut(self, *places: str, region: str = "") -> Iterator[None]:
        """Keep subnets cut, one after the other, by an ACL that allows nothing."""
        ec2 = self.client("ec2", region)
        wanted = {"Name": "tag:Name", "Values": [f"orders-{place}" for place in places]}
        subnets = ec2.describe_subnets(Filters=[wanted])["Subnets"]
        assert len(subnets) == len(places)
        deny = ec2.create_network_acl(VpcId=subnets[0]["VpcId"])["NetworkAcl"]["NetworkAclId"]

        def swap(subnet: str, acl: str) -> str:
            (now,) = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])[
                "NetworkAcls"
            ]
            (link,) = [a for a in now["Associations"] if a["SubnetId"] == subnet]
            ec2.replace_network_acl_association(AssociationId=link["NetworkAclAssociationId"], NetworkAclId=acl)
            return str(now["NetworkAclId"])

        had = {s["SubnetId"]: swap(s["SubnetId"], deny) for s in subnets}
        try:
            yield
        finally:
            for subnet, acl in had.items():
                swap(subnet, acl)
            ec2.delete_network_acl(NetworkAclId=deny)

    def whole(self) -> bool:
        one_each = self.zones() == Counter(a=4, b=4, c=4)
        return one_each and labs.status(home=self.home).ok and not self.recovery_parts()


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 45) -> None:
    clock.wait_until(holds, what, timeout_s=timeout_s, every_s=0.05)


def refusal(call: Callable[[], object]) -> dict[str, Any]:
    with pytest.raises(ClientError) as caught:
        call()
    return dict(caught.value.response)


@pytest.fixture(scope="module")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("home")
    try:
        running = Lab(home, labs.up(home=home))
        # before any test has used it: nothing of the second region runs
        assert {"balancer", "balancer r"} & {p.name for p in running.parts()} == {"balancer"}
        yield running
        running.close()
    finally:
        labs.down(home=home)


@pytest.fixture
def lab(_running: Lab) -> Iterator[Lab]:
    eventually(_running.whole, "whole before the test")
    yield _running
    eventually(_running.whole, "whole after it")


class TestService:
    def test_it_is_there_and_consents_with_nothing_running(self, lab: Lab) -> None:
        (group,) = lab.client("autoscaling", RECOVERY).describe_auto_scaling_groups()["AutoScalingGroups"]
        (first,) = lab.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        assert group["AutoScalingGroupName"] == first["AutoScalingGroupName"] == lab.compute.recovery_asg_name
        assert (group["DesiredCapacity"], group["MaxSize"], group["Instances"]) == (0, first["MaxSize"], [])
        assert group["TargetGroupARNs"] == [lab.compute.recovery_target_group_arn]
        assert CONSENT.items() <= next(t for t in group["Tags"] if t["Key"] == CONSENT["Key"]).items()
        elb = lab.client("elbv2", RECOVERY)
        (balancer,) = elb.describe_load_balancers()["LoadBalancers"]
        assert balancer["DNSName"] == lab.service.recovery_host != lab.service.host
        arns = [balancer["LoadBalancerArn"], lab.compute.recovery_target_group_arn]
        assert all(CONSENT in d["Tags"] for d in elb.describe_tags(ResourceArns=arns)["TagDescriptions"])
        (subnet,) = lab.client("ec2", RECOVERY).describe_subnets(SubnetIds=[group["VPCZoneIdentifier"]])["Subnets"]
        assert CONSENT in subnet["Tags"]
        assert subnet["AvailabilityZone"] == f"{RECOVERY}a"

    def test_scaled_up_it_serves_once_the_record_says_so_and_ends_when_scaled_down(self, lab: Lab) -> None:
        before = state.snapshot(lab.target)
        with lab.scaled_to(2) as instances:
            eventually(lambda: all(p.ok and p.role == "healthy" for p in lab.recovery_parts()), "shown as healthy")
            parts = lab.recovery_parts()
            assert sorted(p.name for p in parts) == sorted(instances)
            pids = [p.pid for p in parts]
            assert all(pid is not None and lives(pid) for pid in pids)
            assert "r" not in lab.zones()
            with lab.pointed_to_recovery():
                answers = [lab.ask("/orders/new") for _ in range(6)]
                assert {status for status, _ in answers} == {201}  # written where the writer's record leads
                assert {content["instance"] for _, content in answers} == set(instances)
            assert set(lab.zones()) == {"a", "b", "c"}
        assert not any(pid is not None and lives(pid) for pid in pids)
        assert lab.health() == {}
        assert state.differences(before, state.snapshot(lab.target)) == ()

    def test_a_record_of_no_load_balancer_changes_nothing(self, lab: Lab) -> None:
        try:
            lab.point("nobody.example")
            assert set(lab.zones()) == {"a", "b", "c"}
        finally:
            lab.point(f"{str(lab.service.host).upper()}.")  # names are the same in any case
        assert set(lab.zones()) == {"a", "b", "c"}

    def test_old_connections_are_reset_by_the_switch(self, lab: Lab) -> None:
        parts = urlsplit(lab.service.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as client:
            client.sendall(b"GET /orders HTTP/1.1\r\n")  # half a request: it waits for the rest
            with lab.pointed_to_recovery(), pytest.raises(ConnectionResetError):
                client.recv(100)


class TestLoss:
    def test_a_region_without_application_subnets_is_silent_until_the_record_leads_to_the_other(self, lab: Lab) -> None:
        with lab.scaled_to(1) as instances:
            with lab.cut("a-app", "b-app"):
                eventually(lambda: lab.zones(6) == Counter(c=6), "the last zone serves")
                with lab.cut("c-app"):
                    assert lab.silent()
                    with lab.pointed_to_recovery():
                        assert lab.ask("/orders/new")[1]["instance"] in instances
                    assert lab.silent()
                eventually(lambda: lab.zones(6) == Counter(c=6), "and again")
            eventually(lambda: lab.zones() == Counter(a=4, b=4, c=4), "all are back")

    def test_the_second_region_alike(self, lab: Lab) -> None:
        with lab.pointed_to_recovery():
            assert lab.ask()[0] == 503  # its load balancer has no target
            with lab.cut("r-app", region=RECOVERY):
                assert lab.silent()
            assert lab.ask()[0] == 503


def test_the_secret_of_either_region_says_how_to_reach_the_database(lab: Lab) -> None:
    address = lab.client("rds").describe_db_instances(DBInstanceIdentifier="orders-db")["DBInstances"][0]["Endpoint"]
    for region in ("", RECOVERY):
        secrets = lab.client("secretsmanager", region)
        assert CONSENT in secrets.describe_secret(SecretId=lab.database.secret_id)["Tags"]
        said = json.loads(secrets.get_secret_value(SecretId=lab.database.secret_id)["SecretString"])
        assert (said["engine"], said["host"], said["port"]) == ("postgres", address["Address"], address["Port"])
        with psycopg.connect(
            host=lab.target.address(said["host"]),
            port=said["port"],
            user=said["username"],
            password=said["password"],
            dbname=said["dbname"],
            sslmode="disable",
        ) as connection:
            assert connection.execute("select pg_is_in_recovery()").fetchone() == (False,)
    with pytest.raises(ClientError, match="replica"):
        secrets.put_secret_value(SecretId=lab.database.secret_id, SecretString=json.dumps({**said, "port": 1}))


class TestZonalShift:
    def test_it_takes_the_zones_share_of_requests_to_zero_and_back(self, lab: Lab) -> None:
        arc, arn = lab.client("arc-zonal-shift"), lab.compute.load_balancer_arn
        zones = lab.client("ec2").describe_availability_zones()["AvailabilityZones"]
        away = next(z["ZoneId"] for z in zones if z["ZoneName"] == f"{lab.target.region}b")
        wanted = {"resourceIdentifier": arn, "awayFrom": away, "expiresIn": "60m", "comment": "b is slow"}
        shift = arc.start_zonal_shift(**wanted)
        try:
            assert (shift["status"], shift["resourceIdentifier"], shift["awayFrom"]) == ("ACTIVE", arn, away)
            assert (shift["expiryTime"] - shift["startTime"]).total_seconds() == 3600
            assert lab.zones() == Counter(a=6, c=6)
            shown = arc.get_managed_resource(resourceIdentifier=arn)
            assert shown["appliedWeights"][away] == 0
            assert sum(shown["appliedWeights"].values()) == 2
            assert [s["zonalShiftId"] for s in shown["zonalShifts"]] == [shift["zonalShiftId"]]
            again = refusal(lambda: arc.start_zonal_shift(**wanted))
            assert (again["Error"]["Code"], again["reason"]) == ("ConflictException", "ZonalShiftAlreadyExists")
            listed = arc.list_zonal_shifts(status="ACTIVE")["items"]
            assert [s["zonalShiftId"] for s in listed] == [shift["zonalShiftId"]]
            assert lab.client("arc-zonal-shift", RECOVERY).list_zonal_shifts()["items"] == []
        finally:
            cancelled = arc.cancel_zonal_shift(zonalShiftId=shift["zonalShiftId"])
        assert cancelled["status"] == "CANCELED"
        assert lab.zones() == Counter(a=4, b=4, c=4)
        assert arc.list_zonal_shifts(status="ACTIVE")["items"] == []
        assert arc.get_managed_resource(resourceIdentifier=arn)["zonalShifts"] == []
        twice = refusal(lambda: arc.cancel_zonal_shift(zonalShiftId=shift["zonalShiftId"]))
        assert (twice["Error"]["Code"], twice["reason"]) == ("ConflictException", "ZonalShiftStatusNotActive")

    def test_what_is_refused(self, lab: Lab) -> None:
        arc, arn = lab.client("arc-zonal-shift"), lab.compute.load_balancer_arn
        good = {"resourceIdentifier": arn, "awayFrom": "euc1-az1", "expiresIn": "60m", "comment": "no"}
        for change, code, reason in (
            ({"resourceIdentifier": f"{arn}0"}, "ResourceNotFoundException", None),
            ({"awayFrom": "euw1-az1"}, "ValidationException", "InvalidAz"),
            ({"expiresIn": "an hour"}, "ValidationException", "InvalidExpiresIn"),
            ({"expiresIn": "73h"}, "ValidationException", "InvalidExpiresIn"),
        ):
            said = refusal(lambda change=change: arc.start_zonal_shift(**{**good, **change}))
            assert (said["Error"]["Code"], said.get("reason")) == (code, reason)
        assert arc.list_zonal_shifts(status="ACTIVE")["items"] == []
        said = refusal(lambda: arc.get_managed_resource(resourceIdentifier="arn:aws:nothing"))
        assert said["Error"]["Code"] == "ResourceNotFoundException"
        said = refusal(lambda: arc.cancel_zonal_shift(zonalShiftId="nowhere"))
        assert said["Error"]["Code"] == "ResourceNotFoundException"
        assert refusal(arc.list_managed_resources)["Error"]["Code"] == "NotImplemented"

    def test_a_load_balancer_that_is_not_enabled_for_it_is_no_managed_resource(self, lab: Lab) -> None:
        arc, elb, arn = lab.client("arc-zonal-shift"), lab.client("elbv2"), lab.compute.load_balancer_arn
        for enabled in ("false", "true"):
            elb.modify_load_balancer_attributes(
                LoadBalancerArn=arn, Attributes=[{"Key": "zonal_shift.config.enabled", "Value": enabled}]
            )
            if enabled == "false":
                said = refusal(lambda: arc.get_managed_resource(resourceIdentifier=arn))
                assert said["Error"]["Code"] == "ResourceNotFoundException"
        assert arc.get_managed_resource(resourceIdentifier=arn)["name"] == "orders"
