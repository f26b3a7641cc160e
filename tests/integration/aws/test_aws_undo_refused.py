"""A playbook that has come too far for its undo, on a mock of AWS: refused, and nothing at all is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drkit.engine.restore import refuse_undo
from drkit.errors import Refused
from drkit.targets.aws import Records, Replication

from .conftest import CONSENT, RECOVERY_REGION
from .test_aws_database import make_replica, make_writer

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("honest_promotion")]
RECORD = "db.x.example"


@pytest.fixture
def pair(aws):
    make_replica(aws, make_writer(aws))


@pytest.fixture
def led(aws, target):
    """The target with a DNS record of its writer, which points somewhere else at first."""
    dns = aws.client("route53")
    zone_id = dns.create_hosted_zone(Name="x.example", CallerReference="1")["HostedZone"]["Id"].rsplit("/", 1)[-1]
    dns.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id, AddTags=[CONSENT])
    record = {"Name": RECORD, "Type": "CNAME", "TTL": 5, "ResourceRecords": [{"Value": "elsewhere.example"}]}
    change = {"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]}
    dns.change_resource_record_sets(HostedZoneId=zone_id, ChangeBatch=change)
    return replace(target, database=replace(target.database, dns_record=RECORD, hosted_zone_id=zone_id))


def test_records_do_not_lead_back_beside_a_promoted_replica(aws, led, pair, permit, journal) -> None:
    records = Records(led, led.database.hosted_zone_id)
    refuse_undo(journal, led)  # nothing was done yet
    Replication(led, RECOVERY_REGION).promote("orders-replica", permit=permit, undo=journal)
    records.point(RECORD, "new.example", permit=permit, undo=journal)
    done, pending = aws.changes(), journal.pending()
    with pytest.raises(Refused, match="orders-replica is a writer of its own") as refused:
        refuse_undo(journal, led)
    assert "drkit resume" in refused.value.hint
    assert (aws.changes(), journal.pending()) == (done, pending)
    assert records.value(RECORD) == "new.example"


def test_a_restored_database_that_serves_is_not_deleted(aws, led, permit, journal) -> None:
    make_writer(aws)
    rds = aws.client("rds", RECOVERY_REGION)
    made = rds.create_db_instance(
        DBInstanceIdentifier="orders-restored", Engine="postgres", DBInstanceClass="db.m6g.large", AllocatedStorage=20,
        MasterUsername="drkit", MasterUserPassword="not-a-secret", Tags=[CONSENT],
    )["DBInstance"]  # fmt: skip
    journal.will(
        "delete_restored", region=RECOVERY_REGION, aws_region=RECOVERY_REGION, instance_id="orders-restored",
        run_id=permit.run_id,
    )  # fmt: skip
    refuse_undo(journal, led)  # nobody is led to it yet
    records = Records(led, led.database.hosted_zone_id)
    records.point(RECORD, made["Endpoint"]["Address"], permit=permit, undo=journal)
    done = aws.changes()
    with pytest.raises(Refused, match="orders-restored serves"):
        refuse_undo(journal, led)
    assert aws.changes() == done
