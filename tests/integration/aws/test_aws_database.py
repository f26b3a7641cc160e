"""RDS, Route 53, SSM and CloudWatch on a mock of AWS. moto fails nothing over: effects are shown in the lab's tests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from drkit import clock
from drkit import undo as undo_journal
from drkit.engine import session
from drkit.errors import Refused, RunDirError, TargetError
from drkit.guard import BlastRadius, Rules, authorise
from drkit.model import Effect, UndoRecord
from drkit.rundir import RunDir
from drkit.targets.aws import Database, Parameters, Records, alarms
from drkit.targets.facts import gather
from drkit.undo import UndoJournal

from .conftest import CONSENT, RECOVERY_REGION, REGION, ZONES

pytestmark = pytest.mark.lab


def make_writer(aws, **changed):
    settings = {
        "DBInstanceIdentifier": "orders",
        "Engine": "postgres",
        "DBInstanceClass": "db.m6g.large",
        "AllocatedStorage": 20,
        "MasterUsername": "drkit",
        "MasterUserPassword": "not-a-secret",
        "MultiAZ": True,
        "AvailabilityZone": ZONES[0],
        "Tags": [CONSENT],
    }
    return aws.client("rds").create_db_instance(**{**settings, **changed})["DBInstance"]["DBInstanceArn"]


def make_replica(aws, arn, **changed):
    settings = {
        "DBInstanceIdentifier": "orders-replica",
        "SourceDBInstanceIdentifier": arn,
        "DBInstanceClass": "db.m6g.large",
        "Port": 5432,
        "Tags": [CONSENT, {"Key": "team", "Value": "orders"}],
    }
    aws.client("rds", RECOVERY_REGION).create_db_instance_read_replica(**{**settings, **changed})


def test_a_failover_is_asked_for_once_and_only_in_the_named_zone(aws, target, permit, journal) -> None:
    make_writer(aws)
    database = Database(target)
    assert database.instance("orders").zone == ZONES[0]
    assert not database.force_failover("orders", from_zone=ZONES[1], permit=permit, undo=journal)
    assert aws.changes() == []
    assert database.force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)
    assert aws.changes() == ["RebootDBInstance"]
    assert aws.calls[-1].parameters["ForceFailover"] == "true"
    (result,) = undo_journal.replay(journal, target)
    assert result.ok
    assert aws.changes() == ["RebootDBInstance"]  # nothing to put back


def test_a_failover_that_does_not_show_yet_is_not_asked_for_again(aws, target, permit, journal, tmp_path) -> None:
    """moto does not move the writer: RDS says available, and the old zone. A second reboot would fail back."""
    make_writer(aws)
    database = Database(target)
    assert database.force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)
    assert not database.force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)
    assert aws.changes() == ["RebootDBInstance"]
    (record,) = journal.records()
    journal.done(record)
    long_ago = (clock.wall_utc() - timedelta(minutes=10)).isoformat()
    for old in ({}, {"asked_at": long_ago}, {"asked_at": record.args["asked_at"], "zone": ZONES[1]}):
        args = {"aws_region": REGION, "instance_id": "orders", "zone": ZONES[0], **old}
        journal.will("leave_failed_over", **args)  # that of a call that was never sent, or of another failover
    assert database.force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)
    another = UndoJournal(tmp_path / "another.jsonl", "run-2")
    assert database.force_failover("orders", from_zone=ZONES[0], permit=permit, undo=another)
    assert aws.changes() == ["RebootDBInstance"] * 3
    assert all(u.ok for u in undo_journal.replay(journal, target))


def test_a_failover_that_rds_refused_is_asked_for_again(aws, target, permit, journal) -> None:
    make_writer(aws)
    aws.inject("RebootDBInstance", "InvalidDBInstanceState", times=1)
    with pytest.raises(TargetError, match="injected"):
        Database(target).force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)
    assert journal.pending() == ()
    assert Database(target).force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)


def test_a_failover_without_a_standby_is_an_error(aws, target, permit, journal) -> None:
    make_writer(aws, MultiAZ=False)
    with pytest.raises(TargetError, match="has no standby"):
        Database(target).force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)
    assert aws.changes() == []


def test_a_database_without_consent_is_refused(aws, target, permit, journal) -> None:
    make_writer(aws, Tags=[])
    database = Database(target)
    assert [e.consented for e in database.plan_failover("orders") + database.plan_stop("orders")] == [False, False]
    with pytest.raises(Refused, match="does not carry the tag"):
        database.force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)
    with pytest.raises(Refused, match="does not carry the tag"):
        database.stop("orders", permit=permit, undo=journal)
    for empty in ("", " "):
        with pytest.raises(Refused, match="no database was named"):
            database.instance(empty)  # AWS would describe all of them
    assert aws.changes() == []


def test_a_retry_that_finds_the_failover_under_way_is_a_success(aws, target, permit, journal) -> None:
    make_writer(aws)
    database = Database(target)
    seen = database.instance
    from dataclasses import replace

    answers = iter([seen("orders"), replace(seen("orders"), status="rebooting")])
    database.instance = lambda _: next(answers)
    aws.inject("RebootDBInstance", "InvalidDBInstanceState")
    assert database.force_failover("orders", from_zone=ZONES[0], permit=permit, undo=journal)


def test_stop_and_start(aws, target, permit, journal) -> None:
    make_writer(aws)
    database = Database(target)
    assert database.stop("orders", permit=permit, undo=journal)
    assert database.instance("orders").status == "stopped"
    assert not database.stop("orders", permit=permit, undo=journal)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert database.instance("orders").status == "available"


@pytest.mark.usefixtures("honest_promotion")
def test_a_replica_is_promoted_and_made_again(aws, target, permit, journal) -> None:
    arn = make_writer(aws)
    make_replica(aws, arn)
    replicas = Database(target, RECOVERY_REGION)
    before = replicas.instance("orders-replica")
    assert before.is_replica
    (effect,) = replicas.plan_promote_replica("orders-replica")
    assert arn in effect.undo

    assert replicas.promote_replica("orders-replica", permit=permit, undo=journal)
    assert aws.changes() == ["AddTagsToResource", "PromoteReadReplica"]
    assert not replicas.instance("orders-replica").is_replica
    assert not replicas.promote_replica("orders-replica", permit=permit, undo=journal)

    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert aws.changes()[2:] == ["DeleteDBInstance", "CreateDBInstanceReadReplica"]
    after = replicas.instance("orders-replica")
    assert (after.source, after.port, after.tags) == (before.source, before.port, before.tags)
    assert aws.calls[-1].operation == "DescribeDBInstances"

    journal.will("recreate_replica", **journal.records()[0].args)
    assert "is a replica of" in undo_journal.replay(journal, target)[0].sentence  # and again: nothing to do
    assert len(aws.changes()) == 4


@pytest.mark.usefixtures("honest_promotion")
def test_undo_never_deletes_what_this_run_did_not_promote(aws, target, permit, journal) -> None:
    arn = make_writer(aws)
    make_replica(aws, arn)
    replicas = Database(target, RECOVERY_REGION)
    replicas.promote_replica("orders-replica", permit=permit, undo=journal)
    rds = aws.client("rds", RECOVERY_REGION)
    name = replicas.instance("orders-replica").arn
    for key in ("drkit:run", "drkit:consent"):
        rds.remove_tags_from_resource(ResourceName=name, TagKeys=[key])
        (result,) = undo_journal.replay(journal, target)
        assert not result.ok
        assert "not deleting" in result.sentence or "not breaking" in result.sentence
        rds.add_tags_to_resource(
            ResourceName=name, Tags=[CONSENT if key == "drkit:consent" else {"Key": key, "Value": "run-1"}]
        )
    assert "DeleteDBInstance" not in aws.changes()


def test_a_protected_replica_is_not_promoted(aws, target, permit, journal) -> None:
    make_replica(aws, make_writer(aws))
    aws.client("rds", RECOVERY_REGION).modify_db_instance(
        DBInstanceIdentifier="orders-replica", DeletionProtection=True, ApplyImmediately=True
    )
    with pytest.raises(Refused, match="protected from deletion"):
        Database(target, RECOVERY_REGION).promote_replica("orders-replica", permit=permit, undo=journal)
    assert not journal.records()


def test_events_since(aws, target) -> None:
    make_writer(aws)
    database = Database(target)
    events = database.events("orders", datetime.now(UTC) - timedelta(hours=1))
    assert any("created" in e.message for e in events)
    assert database.events("orders", datetime.now(UTC) + timedelta(hours=1)) == ()


def test_a_missing_database(aws, target) -> None:
    assert not Database(target).exists("nope")
    with pytest.raises(TargetError) as e:
        Database(target).instance("nope")
    assert e.value.code == "DBInstanceNotFound"


@pytest.fixture
def zone_id(aws):
    dns = aws.client("route53")
    zone_id = dns.create_hosted_zone(Name="example.test", CallerReference="x")["HostedZone"]["Id"]
    dns.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id.rsplit("/")[-1], AddTags=[CONSENT])
    record = {"Name": "db.example.test", "Type": "CNAME", "TTL": 5, "ResourceRecords": [{"Value": "a.rds.test"}]}
    dns.change_resource_record_sets(
        HostedZoneId=zone_id, ChangeBatch={"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
    )
    return zone_id


def test_a_record_is_pointed_elsewhere_and_back(aws, zone_id, target, permit, journal) -> None:
    records = Records(target, zone_id)
    assert records.value("db.example.test") == "a.rds.test"
    (effect,) = records.plan_point("db.example.test", "b.rds.test")
    assert effect.consented
    assert records.point("db.example.test", "b.rds.test", permit=permit, undo=journal)
    assert records.value("db.example.test.") == "b.rds.test"
    assert not records.point("db.example.test", "b.rds.test", permit=permit, undo=journal)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert records.value("db.example.test") == "a.rds.test"
    assert aws.changes() == ["ChangeResourceRecordSets"] * 2


def test_records_refuse(aws, zone_id, target, permit, journal) -> None:
    records = Records(target, zone_id)
    with pytest.raises(Refused):
        records.point("", "b", permit=permit, undo=journal)
    with pytest.raises(Refused):
        records.point("db.example.test", "", permit=permit, undo=journal)
    with pytest.raises(TargetError, match="there is no CNAME record nope"):
        records.value("nope.example.test")
    aws.client("route53").change_tags_for_resource(
        ResourceType="hostedzone", ResourceId=zone_id.rsplit("/")[-1], RemoveTagKeys=["drkit:consent"]
    )
    with pytest.raises(Refused, match="does not carry the tag"):
        records.point("db.example.test", "b.rds.test", permit=permit, undo=journal)
    assert aws.changes() == []


def test_the_journal_has_a_copy_in_the_cloud_from_which_it_can_be_undone(
    aws, network, target, permit, tmp_path
) -> None:
    from drkit.targets.aws import Subnets

    copy = Parameters(target)
    journal = UndoJournal(tmp_path / "undo.jsonl", "run-1", cloud=copy)
    subnet = network.subnets[ZONES[0]][0]
    Subnets(target).isolate(subnet, permit=permit, undo=journal)
    for n in range(3, 15):  # more than a page of ten
        journal.will("restore_acl", region=REGION, aws_region=REGION, subnet_id=subnet, acl_id=network.acl_id, n=n)
    assert copy.runs() == ("run-1",)
    assert [(r.seq, r.verb, r.args, r.region) for r in copy.records("run-1")] == [
        (r.seq, r.verb, r.args, r.region) for r in journal.records()
    ]
    for record in journal.records()[2:]:
        journal.done(record)
    assert [r.seq for r in copy.records("run-1")] == [1, 2]
    undo_journal.replay(journal, target)
    assert copy.records("run-1") == ()
    assert copy.runs() == ()
    copy.delete("run-1", journal.records()[0])  # gone already: fine


def test_a_run_that_another_machine_left_is_seen_whatever_it_called_the_target(aws, network, target) -> None:
    def left_by(name: str, run_id: str, **parts) -> None:
        parameters = Parameters(replace(target, name=name, **parts))
        parameters.put(run_id, UndoRecord(1, "resume_launches", {}, REGION, 0))

    mine = Parameters(target)
    assert mine.unfinished() == ()
    nothing_of_mine = {"network": None, "database": None, "compute": None}
    left_by("another", "run-of-another", **nothing_of_mine)
    assert mine.unfinished() == ()
    assert mine.runs() == ("run-of-another",)
    left_by(target.name, "run-of-my-name", **nothing_of_mine)
    left_by("its-other-name", "run-of-my-network", **{**nothing_of_mine, "network": target.network})
    assert mine.unfinished() == ("run-of-my-name", "run-of-my-network")
    facts = gather(target, Rules())
    assert facts.unfinished == mine.unfinished()
    effect = Effect("ec2:StopInstances", "i-1", REGION, consented=True)
    with pytest.raises(Refused, match=r"run run-of-my-name \(and 1 more\) is going on") as refused:
        authorise("run-2", [effect], facts=facts, rules=Rules(), blast_radius=BlastRadius())
    assert "drkit undo run-of-my-name --from-cloud --target mock" in refused.value.hint
    for run_id in mine.unfinished():
        mine.delete(run_id, UndoRecord(1, "resume_launches", {}, REGION, 0))
    authorise("run-2", [effect], facts=gather(target, Rules()), rules=Rules(), blast_radius=BlastRadius())


def test_a_run_whose_disk_is_full_when_all_is_put_back_keeps_no_other_away(aws, target, tmp_path, monkeypatch) -> None:
    run = RunDir.create(tmp_path / "reports", tmp_path, name="n", target="t", identity={})
    journal = session.journal(run, target)
    journal.will("leave_failed_over", aws_region=REGION, instance_id="orders", zone=ZONES[0])
    make_writer(aws)
    assert Parameters(target).unfinished() == (run.run_id,)
    with monkeypatch.context() as full:
        full.setattr(UndoJournal, "_append", lambda *_: (_ for _ in ()).throw(RunDirError("no room")))
        assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert Parameters(target).unfinished() == ()
    assert len(journal.pending()) == 1
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True]
    assert journal.pending() == ()


def test_nothing_is_broken_when_the_copy_cannot_be_written(aws, network, target, permit, tmp_path) -> None:
    from drkit.targets.aws import Subnets

    journal = UndoJournal(tmp_path / "undo.jsonl", "run-1", cloud=Parameters(target))
    aws.inject("PutParameter", "AccessDeniedException", message="User x is not authorized to perform: ssm:PutParameter")
    with pytest.raises(TargetError, match="may not ssm:PutParameter"):
        Subnets(target).isolate(network.subnets[ZONES[0]][0], permit=permit, undo=journal)
    assert aws.changes() == ["PutParameter"]


def test_alarms(aws, target) -> None:
    cloudwatch = aws.client("cloudwatch")
    for n in range(120):
        cloudwatch.put_metric_alarm(
            AlarmName=f"a{n}", MetricName="m", Namespace="n", Period=60, EvaluationPeriods=1, Threshold=1,
            ComparisonOperator="GreaterThanThreshold", Statistic="Sum",
        )  # fmt: skip
    cloudwatch.set_alarm_state(AlarmName="a117", StateValue="ALARM", StateReason="test")
    names = [f"a{n}" for n in range(120)]
    assert alarms.firing(target, names) == ("a117",)
    with pytest.raises(TargetError, match="there is no alarm 'ghost'"):
        alarms.firing(target, ["a1", "ghost"])
    with pytest.raises(Refused):
        alarms.firing(target, [])
