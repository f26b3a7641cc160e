"""The network of a zone: subnets, cut off by a network ACL that allows nothing, and given their own ACL back.

A network ACL is stateless, so connections that are already open are cut too: packets vanish, nothing is closed. It does
not act between two addresses of the same subnet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError, UsageError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import RUN_TAG, Account, named, tags_of
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import FilterTypeDef, NetworkAclTypeDef

IAM_ISOLATE = (
    "ec2:CreateNetworkAcl", "ec2:CreateTags", "ec2:DeleteNetworkAcl", "ec2:DescribeNetworkAcls", "ec2:DescribeSubnets",
    "ec2:ReplaceNetworkAclAssociation",
)  # fmt: skip


# And a subnet's id, on the ACL that cuts it: which ACL the subnet had.
CUT_TAG, FENCE_TAG = "drkit:cut:", "drkit:acl:"


@dataclass(frozen=True, slots=True)
class Subnet:
    subnet_id: str
    vpc_id: str
    zone: str
    cidr: str
    name: str
    consented: bool


@dataclass(frozen=True, slots=True)
class Association:
    """Which network ACL a subnet has now. The id of the association changes at each swap: look it up, never keep it."""

    association_id: str
    acl_id: str
    acl_run: str  # the run that made this ACL to cut the subnet; "" for an ordinary one
    had: str = ""  # the ordinary one that the subnet had before
    fenced: bool = False  # it is a fence: it stays while there is another writer


class Subnets:
    """The subnets of a target's VPC in one region."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._ec2 = self._account.client("ec2", self._region)

    def in_zone(self, zone: str) -> tuple[Subnet, ...]:
        """Return all subnets of the VPC in a zone, consenting or not, by id."""
        pages = self._ec2.get_paginator("describe_subnets").paginate(
            Filters=[
                {"Name": "vpc-id", "Values": [vpc_of(self._account.target, self._region)]},
                {"Name": "availability-zone", "Values": [named(zone, "zone")]},
            ]
        )
        found = [
            Subnet(
                subnet_id=s["SubnetId"],
                vpc_id=s["VpcId"],
                zone=s["AvailabilityZone"],
                cidr=s.get("CidrBlock", ""),
                name=tags_of(s.get("Tags")).get("Name", ""),
                consented=self._account.consented(tags_of(s.get("Tags"))),
            )
            for page in pages
            for s in page["Subnets"]
        ]
        return tuple(sorted(found, key=lambda s: s.subnet_id))

    def association(self, subnet_id: str) -> Association:
        """Return which network ACL a subnet has now."""
        acls = self._acls("association.subnet-id", named(subnet_id, "subnet"))
        for acl in acls:
            for a in acl.get("Associations", []):
                if a["SubnetId"] == subnet_id:
                    tags = tags_of(acl.get("Tags"))
                    fence, cut = tags.get(FENCE_TAG + subnet_id, ""), tags.get(CUT_TAG + subnet_id, "")
                    run = tags.get(RUN_TAG, "")
                    return Association(
                        a["NetworkAclAssociationId"], acl["NetworkAclId"], run, had=fence or cut, fenced=bool(fence)
                    )
        raise TargetError(f"subnet {subnet_id} has no network ACL in {self._region}", "does it exist?")

    def is_isolated(self, subnet_id: str) -> bool:
        """Return whether the subnet's network ACL allows nothing at all."""
        acl_id = self.association(subnet_id).acl_id
        (acl,) = self._ec2.describe_network_acls(NetworkAclIds=[acl_id])["NetworkAcls"]
        return not any(entry.get("RuleAction") == "allow" for entry in acl.get("Entries", []))

    def plan_isolate(self, zone: str) -> tuple[Effect, ...]:
        """Return what isolating every subnet of a zone would do."""
        return tuple(
            Effect(
                call="ec2:ReplaceNetworkAclAssociation",
                resource=s.subnet_id,
                region=self._region,
                zone=s.zone,
                what=f"cut {s.name or s.subnet_id} ({s.cidr}) from the network by an ACL that allows nothing",
                undo=f"give {s.subnet_id} its network ACL {self.association(s.subnet_id).acl_id} back",
                iam=IAM_ISOLATE,
                consented=s.consented,
            )
            for s in self.in_zone(zone)
        )

    def isolate(self, subnet_id: str, *, permit: Permit, undo: UndoJournal) -> None:
        """Cut all traffic of a subnet; a subnet that this run has cut already stays as it is.

        Raises Refused if the subnet does not consent, or if an earlier run left it cut (its own ACL is not known then).
        """
        named(subnet_id, "subnet")
        self._account.may_break(permit)
        (subnet,) = self._ec2.describe_subnets(SubnetIds=[subnet_id])["Subnets"]
        self._account.must_consent(subnet_id, tags_of(subnet.get("Tags")), permit)
        now = self.association(subnet_id)
        if now.acl_run == permit.run_id:
            return
        if now.acl_run:
            raise Refused(
                f"not cutting {subnet_id}: run {now.acl_run} cut it and never put it back",
                f"drkit undo {now.acl_run}",
            )
        deny_acl_id = self._deny_acl(subnet["VpcId"], permit, undo)
        undo.will("restore_acl", region=self._region, aws_region=self._region, subnet_id=subnet_id, acl_id=now.acl_id)
        # A playbook that recovers from this may have to fence the subnet, and to give it its own ACL back one day.
        self._ec2.create_tags(Resources=[deny_acl_id], Tags=[{"Key": CUT_TAG + subnet_id, "Value": now.acl_id}])
        permit.check()
        self._associate(subnet_id, deny_acl_id)

    def _deny_acl(self, vpc_id: str, permit: Permit, undo: UndoJournal) -> str:
        """Return the id of this run's ACL in a VPC, made if need be. A new network ACL allows nothing."""
        made = self._acls(f"tag:{RUN_TAG}", permit.run_id, vpc_id)
        if made:
            return made[0]["NetworkAclId"]
        undo.will("delete_deny_acl", region=self._region, aws_region=self._region, vpc_id=vpc_id, run_id=permit.run_id)
        key, value = self._account.target.consent_tag
        acl = self._ec2.create_network_acl(
            VpcId=vpc_id,
            TagSpecifications=[
                {
                    "ResourceType": "network-acl",
                    "Tags": [
                        {"Key": RUN_TAG, "Value": permit.run_id},
                        {"Key": "Name", "Value": f"drkit deny all ({permit.run_id})"},
                        {"Key": key, "Value": value},
                    ],
                }
            ],
        )["NetworkAcl"]
        return acl["NetworkAclId"]

    def _associate(self, subnet_id: str, acl_id: str, *, unless_fenced: bool = False) -> Association | None:
        """Give a subnet an ACL; asked again when the association changed meanwhile (or our own answer was lost).

        unless_fenced: leave a fence as it is, and return it. EC2 replaces one association only, by its id, so a fence
        that comes up in between is seen in the second try.
        """
        for last_try in (False, True):
            now = self.association(subnet_id)
            if now.acl_id == acl_id:
                return None
            if unless_fenced and now.fenced:
                return now
            try:
                self._ec2.replace_network_acl_association(AssociationId=now.association_id, NetworkAclId=acl_id)
                return None
            except TargetError as e:
                if last_try or e.code != "InvalidAssociationID.NotFound":
                    raise
        return None

    def _acls(self, filter_name: str, value: str, vpc_id: str = "") -> list[NetworkAclTypeDef]:
        filters: list[FilterTypeDef] = [{"Name": filter_name, "Values": [value]}]
        if vpc_id:
            filters.append({"Name": "vpc-id", "Values": [vpc_id]})
        pages = self._ec2.get_paginator("describe_network_acls").paginate(Filters=filters)
        return [acl for page in pages for acl in page["NetworkAcls"]]


def acls_of_runs(target: Target, region: str) -> tuple[str, ...]:
    """Return the ids of all network ACLs in the target's VPC that drkit made, of whatever run; fences are none."""
    pages = (
        Account(target, region)
        .client("ec2")
        .get_paginator("describe_network_acls")
        .paginate(
            Filters=[{"Name": "vpc-id", "Values": [vpc_of(target, region)]}, {"Name": "tag-key", "Values": [RUN_TAG]}]
        )
    )
    made = (acl for page in pages for acl in page["NetworkAcls"])
    return tuple(
        sorted(a["NetworkAclId"] for a in made if not any(t.startswith(FENCE_TAG) for t in tags_of(a.get("Tags"))))
    )


def vpc_of(target: Target, region: str) -> str:
    """Return the id of the target's VPC in a region; UsageError if the target names none."""
    network = target.network
    vpc_id = network and (network.vpc_id if region == target.region else network.recovery_vpc_id)
    if not vpc_id:
        raise UsageError(f"target {target.name} names no VPC in {region}", "add it to the target file under network")
    return vpc_id


@undo_journal.verb("restore_acl")
def restore_acl(target: Target, *, aws_region: str, subnet_id: str, acl_id: str) -> str:
    """Give a subnet the network ACL it had, unless it is behind a fence by now."""
    subnets = Subnets(target, aws_region)
    Account(target, aws_region).assert_account()
    if subnets.association(subnet_id).acl_id == acl_id:
        return f"{subnet_id} has its network ACL {acl_id}"
    fence = subnets._associate(subnet_id, acl_id, unless_fenced=True)
    if fence is not None:
        return f"{subnet_id} stays fenced: run {fence.acl_run} has another writer in its place"
    return f"gave {subnet_id} its network ACL {acl_id} back"


def delete_acl(ec2: EC2Client, acl_id: str) -> None:
    """Delete a network ACL, one that is gone is fine; EC2 may hold it for in use for a moment after the last swap."""

    def gone() -> bool:
        try:
            ec2.delete_network_acl(NetworkAclId=acl_id)
        except TargetError as e:
            if e.code == "DependencyViolation":
                return False
            if e.code != "InvalidNetworkAclID.NotFound":
                raise
        return True

    clock.wait_until(gone, f"no subnet has network ACL {acl_id} any more", timeout_s=10, every_s=1)


@undo_journal.verb("delete_deny_acl")
def delete_deny_acl(target: Target, *, aws_region: str, vpc_id: str, run_id: str) -> str:
    """Delete the ACL that a run made; one that a subnet still has is an error."""
    named(run_id, "run")
    subnets = Subnets(target, aws_region)
    account = Account(target, aws_region)
    account.assert_account()
    made = subnets._acls(f"tag:{RUN_TAG}", run_id, named(vpc_id, "VPC"))
    ec2 = account.client("ec2", aws_region)
    for acl in made:
        delete_acl(ec2, acl["NetworkAclId"])
    return f"deleted {len(made)} network ACL(s) of run {run_id} in {vpc_id}"
