"""Subnets on a mock of AWS: cut by an ACL that allows nothing, and given their own back."""

from __future__ import annotations

import pytest

from drkit import undo as undo_journal
from drkit.errors import Aborted, Refused, TargetError
from drkit.targets.aws import Subnets

from .conftest import ZONES, make_target

pytestmark = pytest.mark.lab


def acls(aws, network):
    ec2 = aws.client("ec2")
    described = ec2.describe_network_acls(Filters=[{"Name": "vpc-id", "Values": [network.vpc_id]}])["NetworkAcls"]
    return {a["SubnetId"]: acl["NetworkAclId"] for acl in described for a in acl["Associations"]}, {
        acl["NetworkAclId"] for acl in described
    }


def test_a_zone_is_cut_and_everything_is_put_back(aws, network, target, permit, journal) -> None:
    before = acls(aws, network)
    subnets = Subnets(target)
    for s in subnets.in_zone(ZONES[0]):
        subnets.isolate(s.subnet_id, permit=permit, undo=journal)

    by_subnet, _ = acls(aws, network)
    cut = {s for s, acl in by_subnet.items() if acl != network.acl_id}
    assert cut == set(network.subnets[ZONES[0]])
    assert len({by_subnet[s] for s in cut}) == 1  # one ACL for the whole run
    assert all(subnets.is_isolated(s) for s in cut)
    assert not subnets.is_isolated(network.subnets[ZONES[1]][0])

    results = undo_journal.replay(journal, target)
    assert [r.ok for r in results] == [True] * 3, results
    assert acls(aws, network) == before
    assert not journal.pending()


def test_the_undo_is_on_disk_before_each_call(aws, network, target, permit, journal, monkeypatch) -> None:
    seen: list[tuple[str, list[str]]] = []
    inner = aws.inner

    def spy(environ, start_response):
        call = aws.calls[-1]
        if call.changes_something:
            seen.append((call.operation, [r.verb for r in journal.records()]))
        return inner(environ, start_response)

    monkeypatch.setattr(aws, "inner", spy)
    Subnets(target).isolate(network.subnets[ZONES[0]][0], permit=permit, undo=journal)
    assert seen == [
        ("CreateNetworkAcl", ["delete_deny_acl"]),
        ("CreateTags", ["delete_deny_acl", "restore_acl"]),
        ("ReplaceNetworkAclAssociation", ["delete_deny_acl", "restore_acl"]),
    ]


def test_cutting_twice_changes_nothing(aws, network, target, permit, journal) -> None:
    subnet = network.subnets[ZONES[0]][0]
    subnets = Subnets(target)
    subnets.isolate(subnet, permit=permit, undo=journal)
    done = len(aws.changes())
    subnets.isolate(subnet, permit=permit, undo=journal)
    assert len(aws.changes()) == done
    assert len(journal.records()) == 2


def test_undo_twice_is_fine_and_so_is_undo_of_what_never_happened(aws, network, target, permit, journal) -> None:
    subnet = network.subnets[ZONES[0]][0]
    journal.will("delete_deny_acl", aws_region=target.region, vpc_id=network.vpc_id, run_id="run-1")
    journal.will("restore_acl", aws_region=target.region, subnet_id=subnet, acl_id=network.acl_id)
    assert all(r.ok for r in undo_journal.replay(journal, target))
    assert aws.changes() == []

    from drkit.targets.aws import network as verbs

    for _ in range(2):
        assert verbs.restore_acl(target, aws_region=target.region, subnet_id=subnet, acl_id=network.acl_id)


def test_a_subnet_that_an_earlier_run_left_cut_is_refused(aws, network, target, permit, journal) -> None:
    from drkit import guard

    subnet = network.subnets[ZONES[0]][0]
    Subnets(target).isolate(subnet, permit=permit, undo=journal)
    other = guard.Permit("run-2", _token=guard._TOKEN)
    with pytest.raises(Refused, match="run-1 cut it") as refused:
        Subnets(target).isolate(subnet, permit=other, undo=journal)
    assert refused.value.hint == "drkit undo run-1"


def test_no_consent_no_cut(aws, network, target, permit, journal) -> None:
    subnet = network.subnets[ZONES[0]][0]
    aws.client("ec2").delete_tags(Resources=[subnet], Tags=[{"Key": "drkit:consent"}])
    effects = Subnets(target).plan_isolate(ZONES[0])
    assert [e.consented for e in effects] == [s != subnet for s in network.subnets[ZONES[0]]]
    with pytest.raises(Refused, match="does not carry the tag drkit:consent=yes"):
        Subnets(target).isolate(subnet, permit=permit, undo=journal)
    assert aws.changes() == []
    assert not journal.records()


def test_a_revoked_permit_stops_it(aws, network, target, permit, journal) -> None:
    permit.revoke("a person said stop")
    with pytest.raises(Aborted, match="a person said stop"):
        Subnets(target).isolate(network.subnets[ZONES[0]][0], permit=permit, undo=journal)
    assert aws.calls == []


@pytest.mark.parametrize("empty", ["", " "])
def test_empty_names_are_refused_before_any_call(aws, target, permit, journal, empty) -> None:
    subnets = Subnets(target)
    with pytest.raises(Refused, match="no subnet was named"):
        subnets.isolate(empty, permit=permit, undo=journal)
    with pytest.raises(Refused, match="no zone was named"):
        subnets.in_zone(empty)
    assert aws.calls == []


def test_access_denied_leaves_the_undo_and_touches_nothing_else(aws, network, target, permit, journal) -> None:
    before = acls(aws, network)
    aws.inject("ReplaceNetworkAclAssociation", "UnauthorizedOperation", status=403)
    with pytest.raises(TargetError) as denied:
        Subnets(target).isolate(network.subnets[ZONES[0]][0], permit=permit, undo=journal)
    assert denied.value.code == "UnauthorizedOperation"
    assert "ec2:ReplaceNetworkAclAssociation" in denied.value.message
    assert [r.verb for r in journal.pending()] == ["restore_acl", "delete_deny_acl"]
    aws.injected.clear()
    assert all(r.ok for r in undo_journal.replay(journal, target))
    assert acls(aws, network) == before


def test_the_plan_only_reads(aws, network, target) -> None:
    effects = Subnets(target).plan_isolate(ZONES[1])
    assert [e.resource for e in effects] == network.subnets[ZONES[1]]
    assert all(network.acl_id in e.undo and e.consented and e.zone == ZONES[1] for e in effects)
    assert "ec2:ReplaceNetworkAclAssociation" in effects[0].iam
    assert aws.changes() == []


def test_hundreds_of_subnets(aws, network, target, permit, journal) -> None:
    ec2 = aws.client("ec2")
    for n in range(60, 230):
        ec2.create_subnet(VpcId=network.vpc_id, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=ZONES[2])
    assert len(Subnets(target).in_zone(ZONES[2])) == 172


def test_a_subnet_of_nowhere(aws, target, permit, journal) -> None:
    with pytest.raises(TargetError, match="subnet-0000") as e:
        Subnets(target).isolate("subnet-0000", permit=permit, undo=journal)
    assert e.value.code == "InvalidSubnetID.NotFound"
    assert not journal.records()


def test_the_wrong_account_is_refused(aws, network, permit, journal) -> None:
    target = make_target(aws, network, account_id="999999999999")
    with pytest.raises(Refused, match="belong to account 123456789012"):
        Subnets(target).isolate(network.subnets[ZONES[0]][0], permit=permit, undo=journal)
    assert aws.operations() == ["GetCallerIdentity"]
    assert not journal.records()
