"""A fence around the old writer on a mock of AWS: up in one go, and lifted only when there cannot be two writers."""

from __future__ import annotations

from datetime import timedelta

import pytest

from drkit import clock, guard
from drkit import undo as undo_journal
from drkit.errors import Refused
from drkit.targets.aws import Database, Fences, Replication, Subnets
from drkit.undo import UndoJournal

from .conftest import RECOVERY_REGION, REGION, ZONES
from .test_aws_database import make_replica, make_writer
from .test_aws_network import acls

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("honest_promotion")]
RIVAL = {"region": RECOVERY_REGION, "instance_id": "orders-replica"}


@pytest.fixture
def pair(aws):
    make_replica(aws, make_writer(aws))


@pytest.fixture
def ids(network) -> list[str]:
    """One subnet of each of two zones, in the order in which AWS gives them back."""
    return sorted([network.subnets[ZONES[0]][0], network.subnets[ZONES[1]][0]])


def test_a_fence_goes_up_over_zones_and_once(aws, network, ids, target, pair, permit, journal) -> None:
    fences = Fences(target)
    assert not fences.is_fenced(ids)
    assert [e.resource for e in fences.plan_fence(ids)] == ids
    assert fences.fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert fences.is_fenced(ids)
    assert fences.plan_fence(ids) == ()
    assert aws.changes() == ["CreateNetworkAcl", *["CreateTags", "ReplaceNetworkAclAssociation"] * 2]
    assert not fences.fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert len(aws.changes()) == 5
    assert [r.verb for r in journal.records()] == ["delete_deny_acl", "lift_fence", "lift_fence"]
    assert not fences.is_fenced([*ids, network.subnets[ZONES[2]][0]])


def test_a_fence_half_of_which_is_up_is_finished(aws, ids, target, pair, permit, journal) -> None:
    Fences(target).fence(ids[:1], instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    aws.lose("ReplaceNetworkAclAssociation")
    aws.inject("ReplaceNetworkAclAssociation", "InvalidAssociationID.NotFound", times=1)  # moto's answer is a crash
    assert Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert Fences(target).is_fenced(ids)
    assert aws.changes().count("CreateNetworkAcl") == 1


def test_it_is_lifted_while_the_rival_is_a_replica(aws, network, ids, target, pair, permit, journal) -> None:
    before = acls(aws, network)
    Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True] * 3
    assert acls(aws, network) == before


def test_it_is_lifted_when_there_is_no_rival(aws, network, ids, target, permit, journal) -> None:
    before = acls(aws, network)
    make_writer(aws)
    Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True] * 3
    assert acls(aws, network) == before


@pytest.fixture
def lifts(monkeypatch):
    """Only the fence's own verb is asked; the ACL that subnets still have cannot be deleted, which takes a while."""
    return lambda journal, target: undo_journal.replay(journal, target, only=lambda r: r.verb == "lift_fence")


def test_it_stays_while_the_rival_is_a_writer(aws, ids, target, pair, permit, journal, lifts) -> None:
    Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    Replication(target, RECOVERY_REGION).promote("orders-replica", permit=permit, undo=journal)
    done = len(aws.changes())
    results = lifts(journal, target)
    assert [u.ok for u in results] == [False, False]
    assert "orders-replica in eu-west-1 is a writer, so two writers would be possible" in results[0].sentence
    assert Fences(target).is_fenced(ids)
    assert len(aws.changes()) == done

    aws.client("rds").delete_db_instance(DBInstanceIdentifier="orders", SkipFinalSnapshot=True)
    assert [u.ok for u in lifts(journal, target)] == [True, True]  # there is nobody behind it any more


def test_it_stays_while_the_rival_is_being_promoted(
    aws, ids, target, pair, permit, journal, lifts, monkeypatch
) -> None:
    Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    from drkit.targets.aws import rds as instances

    seen = instances.described
    monkeypatch.setattr(instances, "described", lambda *a: {**seen(*a), "DBInstanceStatus": "modifying"})
    assert [u.ok for u in lifts(journal, target)] == [False, False]


@pytest.mark.parametrize("code", ["AccessDenied", "InternalFailure"])
def test_it_stays_while_the_rival_cannot_be_asked_about(aws, ids, target, pair, permit, journal, lifts, code) -> None:
    Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    aws.inject("DescribeDBInstances", code, status=403 if code == "AccessDenied" else 500)
    results = lifts(journal, target)
    assert [u.ok for u in results] == [False, False]
    assert "cannot be told" in results[0].sentence
    assert Fences(target).is_fenced(ids)


def test_undo_needs_no_consent_and_a_real_fence_neither(aws, network, ids, target, pair, permit, real, journal) -> None:
    before = acls(aws, network)
    aws.client("ec2").delete_tags(Resources=ids, Tags=[{"Key": "drkit:consent"}])
    with pytest.raises(Refused, match="does not carry the tag"):
        Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert not journal.records()
    assert Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=real, undo=journal)
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True] * 3
    assert acls(aws, network) == before


def test_a_fence_refuses(aws, network, ids, target, permit, journal) -> None:
    fences = Fences(target)
    for subnet_ids, instance_id, rival in (
        ([], "orders", RIVAL), ([ids[0], " "], "orders", RIVAL), (ids, "", RIVAL), (ids, "orders", {"region": "x"}),
    ):  # fmt: skip
        with pytest.raises(Refused, match="was named"):
            fences.fence(subnet_ids, instance_id=instance_id, rival=rival, permit=permit, undo=journal)
    with pytest.raises(Refused, match="no subnet was named"):
        fences.is_fenced([])
    assert aws.calls == []
    left_cut(aws, network, ids[1])
    done = len(aws.changes())
    with pytest.raises(Refused, match="run run-0 cut it") as refused:
        fences.fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert refused.value.hint == "drkit undo run-0"
    assert len(aws.changes()) == done


def left_cut(aws, network, subnet_id: str) -> None:
    """Cut a subnet as run-0 would, but without a note of the ACL that it had."""
    ec2 = aws.client("ec2")
    acl_id = ec2.create_network_acl(VpcId=network.vpc_id)["NetworkAcl"]["NetworkAclId"]
    ec2.create_tags(Resources=[acl_id], Tags=[{"Key": "drkit:run", "Value": "run-0"}])
    (acl,) = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet_id]}])[
        "NetworkAcls"
    ]
    (now,) = [a["NetworkAclAssociationId"] for a in acl["Associations"] if a["SubnetId"] == subnet_id]
    ec2.replace_network_acl_association(AssociationId=now, NetworkAclId=acl_id)


def test_the_half_fence_of_a_run_that_is_lost_is_finished_by_another(
    aws, network, ids, target, pair, permit, journal, tmp_path, lifts
) -> None:
    before = acls(aws, network)
    fences = Fences(target)
    lost, its = guard.Permit("run-0", _token=guard._TOKEN), UndoJournal(tmp_path / "lost.jsonl", "run-0")
    fences.fence(ids[:1], instance_id="orders", rival=RIVAL, permit=lost, undo=its)
    theirs = fences.association(ids[0])
    assert fences.fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert fences.is_fenced(ids)
    assert fences.association(ids[0]) == theirs
    assert [r.args.get("subnet_id") for r in journal.records()] == [None, ids[1]]
    assert [u.ok for u in undo_journal.replay(journal, target)] == [True] * 2
    assert [fences.is_fenced([s]) for s in ids] == [True, False]
    assert [u.ok for u in undo_journal.replay(its, target)] == [True] * 2
    assert acls(aws, network) == before


def test_an_undo_leaves_the_fence_that_came_up_while_it_was_at_work(
    aws, network, ids, target, pair, permit, journal, tmp_path, monkeypatch
) -> None:
    """Between the look and the swap: EC2 knows the association no more, and what there is now is a fence."""
    other, its = guard.Permit("run-0", _token=guard._TOKEN), UndoJournal(tmp_path / "other.jsonl", "run-0")
    Subnets(target).isolate(ids[0], permit=other, undo=its)
    cut = Subnets(target).association(ids[0])
    Fences(target).fence(ids[:1], instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    seen, stale = Subnets.association, [cut, cut]  # the verb's look, and the one before the first swap
    monkeypatch.setattr(Subnets, "association", lambda *a: stale.pop() if stale else seen(*a))
    aws.inject("ReplaceNetworkAclAssociation", "InvalidAssociationID.NotFound", times=1)  # moto's answer is a crash
    (undone,) = undo_journal.replay(its, target, only=lambda r: r.verb == "restore_acl")
    assert undone.ok
    assert "stays fenced: run run-1" in undone.sentence
    assert not stale
    assert Fences(target).is_fenced(ids[:1])


def test_it_stays_while_a_promotion_of_late_may_show_yet(aws, ids, target, pair, permit, journal, lifts) -> None:
    """Whoever asked for it: RDS still calls the rival an available replica."""
    Fences(target).fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    arn = Database(target, RECOVERY_REGION).instance("orders-replica").arn

    def asked(before: timedelta) -> None:
        moment = (clock.wall_utc() - before).isoformat(timespec="seconds")
        aws.client("rds", RECOVERY_REGION).add_tags_to_resource(
            ResourceName=arn, Tags=[{"Key": "drkit:promoted", "Value": moment}]
        )

    asked(timedelta(seconds=5))
    results = lifts(journal, target)
    assert [u.ok for u in results] == [False, False]
    assert "was asked for at" in results[0].sentence
    assert Fences(target).is_fenced(ids)
    asked(timedelta(minutes=31))
    assert [u.ok for u in lifts(journal, target)] == [True, True]


def test_what_an_experiment_has_cut_is_fenced_and_stays_so(
    aws, network, ids, target, permit, journal, tmp_path
) -> None:
    """The experiment's undo must not let the old writer back in while another one has its place."""
    before = acls(aws, network)
    other, its = guard.Permit("run-0", _token=guard._TOKEN), UndoJournal(tmp_path / "other.jsonl", "run-0")
    for subnet_id in ids:
        Subnets(target).isolate(subnet_id, permit=other, undo=its)
    fences = Fences(target)
    assert not fences.is_fenced(ids)
    fences.fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert fences.is_fenced(ids)
    undone = undo_journal.replay(its, target)
    assert all(u.ok for u in undone)
    assert any("stays fenced" in u.sentence for u in undone)
    assert fences.is_fenced(ids)
    assert [fences.association(s).had for s in ids] == [before[0][s] for s in ids]


def test_a_later_run_lifts_the_fence_that_was_kept(aws, network, ids, target, pair, permit, journal) -> None:
    before = acls(aws, network)
    fences = Fences(target)
    fences.fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    Replication(target, RECOVERY_REGION).promote("orders-replica", permit=permit, undo=journal)
    for record in journal.pending():
        journal.keep(record)
    failback = guard.Permit("run-2", _token=guard._TOKEN)
    assert [e.resource for e in fences.plan_lift(ids)] == ids
    with pytest.raises(Refused, match="two writers would be possible"):
        fences.lift(ids, instance_id="orders", rival=RIVAL, permit=failback, undo=journal)
    assert fences.is_fenced(ids)
    Replication(target).retire("orders", final_snapshot_id="last", permit=failback, undo=journal)
    assert fences.lift(ids, instance_id="orders", rival=RIVAL, permit=failback, undo=journal)
    assert acls(aws, network) == before
    assert not fences.lift(ids, instance_id="orders", rival=RIVAL, permit=failback, undo=journal)
    assert fences.plan_lift(ids) == ()
    assert not Database(target).exists("orders")
    assert [u.ok for u in undo_journal.replay(journal, target, only=lambda r: r.verb == "leave_lifted")] == [True] * 2


def test_a_lift_that_was_killed_leaves_no_acl(aws, network, ids, target, permit, journal) -> None:
    before = acls(aws, network)
    fences = Fences(target)
    fences.fence(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    undo_journal.replay(journal, target, only=lambda r: r.verb == "lift_fence")
    assert acls(aws, network) != before
    assert not fences.lift(ids, instance_id="orders", rival=RIVAL, permit=permit, undo=journal)
    assert acls(aws, network) == before
    assert aws.regions() == {REGION, RECOVERY_REGION}
