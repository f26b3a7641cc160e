"""The network of a zone: subnets, cut off by a network ACL that allows nothing, and given their own ACL back.

A fence is the same cut for another purpose: an old writer must reach nobody while another one has its place, so it is
lifted only when there cannot be two of them.

A network ACL is stateless, so connections that are already open are cut too: packets vanish, nothing is closed. It does
not act between two addresses of the same subnet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError, UsageError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import RUN_TAG, Account, named, tags_of
from drkit.targets.aws.rds import PROMOTING, instance_or_none
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import NetworkAclTypeDef, SubnetTypeDef

IAM_ISOLATE = (
    "ec2:CreateNetworkAcl", "ec2:CreateTags", "ec2:DeleteNetworkAcl", "ec2:DescribeNetworkAcls", "ec2:DescribeSubnets",
    "ec2:ReplaceNetworkAclAssociation",
)  # fmt: skip
IAM_FENCE = (*IAM_ISOLATE, "rds:DescribeDBInstances")
ACL_TAG = "drkit:acl:"  # and a subnet's id, on the ACL that fences it: which ACL the subnet had


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
                    run = tags_of(acl.get("Tags")).get(RUN_TAG, "")
                    return Association(a["NetworkAclAssociationId"], acl["NetworkAclId"], run)
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
        permit.check()
        self._associate(subnet_id, deny_acl_id)

    # --- the fence ---

    def is_fenced(self, subnet_ids: Sequence[str]) -> bool:
        """Return whether none of these subnets lets anything through, whoever has cut them."""
        return all(self.is_isolated(s) for s in _named_all(subnet_ids))

    def plan_fence(self, subnet_ids: Sequence[str]) -> tuple[Effect, ...]:
        """Return what fencing subnets would do; those that are cut already are left out."""
        return tuple(
            Effect(
                call="ec2:ReplaceNetworkAclAssociation",
                resource=s["SubnetId"],
                region=self._region,
                zone=s["AvailabilityZone"],
                what=f"fence {s['SubnetId']} ({s.get('CidrBlock', '')}) off by an ACL that allows nothing",
                undo=f"give {s['SubnetId']} its network ACL {self.association(s['SubnetId']).acl_id} back, unless "
                "that would make two writers possible",
                iam=IAM_FENCE,
                consented=self._account.consented(tags_of(s.get("Tags"))),
            )
            for s in self._subnets(subnet_ids)
            if not self.is_isolated(s["SubnetId"])
        )

    def fence(
        self,
        subnet_ids: Sequence[str],
        *,
        instance_id: str,
        rival: Mapping[str, str],
        permit: Permit,
        undo: UndoJournal,
    ) -> bool:
        """Cut all traffic of the subnets of a database, in whatever zones; return whether any had to be cut.

        instance_id: the writer behind the fence. rival: {"region": …, "instance_id": …} of the one that takes its place;
        while that one is a writer, undo refuses to lift the fence. Which ACL each subnet had is also in the tags of
        the fencing ACL, for `lift` in a later run.
        Raises Refused if any subnet does not consent, or was left cut by another run: then none is cut.
        """
        named(instance_id, "database behind the fence")
        opponent = {k: named(str(rival.get(k, "")), f"{k} of the rival") for k in ("region", "instance_id")}
        ids = _named_all(subnet_ids)
        self._account.may_break(permit)
        subnets = self._subnets(ids)
        for s in subnets:
            self._account.must_consent(s["SubnetId"], tags_of(s.get("Tags")), permit)
        before = {s["SubnetId"]: self.association(s["SubnetId"]) for s in subnets}
        for subnet_id, now in before.items():
            if now.acl_run not in ("", permit.run_id):
                raise Refused(
                    f"not fencing {subnet_id}: run {now.acl_run} cut it and never put it back",
                    f"drkit undo {now.acl_run}",
                )
        to_cut = [s for s in subnets if not before[s["SubnetId"]].acl_run]
        for s in to_cut:
            deny_acl_id = self._deny_acl(s["VpcId"], permit, undo)
            subnet_id, acl_id = s["SubnetId"], before[s["SubnetId"]].acl_id
            undo.will(
                "lift_fence",
                region=self._region,
                aws_region=self._region,
                subnet_id=subnet_id,
                acl_id=acl_id,
                instance_id=instance_id,
                rival=opponent,
            )
            self._ec2.create_tags(Resources=[deny_acl_id], Tags=[{"Key": ACL_TAG + subnet_id, "Value": acl_id}])
            permit.check()
            self._associate(subnet_id, deny_acl_id)
        return bool(to_cut)

    def plan_lift(self, subnet_ids: Sequence[str]) -> tuple[Effect, ...]:
        """Return what lifting a fence would do; subnets that have none are left out."""
        return tuple(
            Effect(
                call="ec2:ReplaceNetworkAclAssociation",
                resource=s["SubnetId"],
                region=self._region,
                zone=s["AvailabilityZone"],
                what=f"lift the fence of run {self.association(s['SubnetId']).acl_run} around {s['SubnetId']}",
                undo="none needed: it is lifted only when there cannot be two writers",
                iam=IAM_FENCE,
                consented=self._account.consented(tags_of(s.get("Tags"))),
            )
            for s in self._subnets(subnet_ids)
            if self.association(s["SubnetId"]).acl_run
        )

    def lift(
        self,
        subnet_ids: Sequence[str],
        *,
        instance_id: str,
        rival: Mapping[str, str],
        permit: Permit,
        undo: UndoJournal,
    ) -> bool:
        """Lift the fence that an earlier run left around subnets, as a failback does; return whether there was one.

        Raises Refused while that would make two writers possible, if a subnet does not consent, and if the fencing ACL
        does not say which one the subnet had.
        """
        ids = _named_all(subnet_ids)
        self._account.may_break(permit)
        subnets = self._subnets(ids)
        for s in subnets:
            self._account.must_consent(s["SubnetId"], tags_of(s.get("Tags")), permit)
        fenced = {s["SubnetId"]: self._fence_of(s["SubnetId"]) for s in subnets}
        ours = {subnet_id: acl for subnet_id, acl in fenced.items() if acl is not None}
        if not ours:
            return False
        _must_not_make_two_writers(self._account.target, self._region, instance_id, rival)
        for subnet_id, acl in ours.items():
            had = tags_of(acl.get("Tags")).get(ACL_TAG + subnet_id, "")
            if not had:
                raise Refused(
                    f"not lifting the fence around {subnet_id}: its ACL {acl['NetworkAclId']} does not say which one "
                    "the subnet had",
                    "give the subnet its own ACL by hand: aws ec2 replace-network-acl-association",
                )
            undo.will("leave_lifted", region=self._region, aws_region=self._region, subnet_id=subnet_id)
            permit.check()
            self._associate(subnet_id, had)
        for acl_id in sorted({acl["NetworkAclId"] for acl in ours.values()}):
            (now,) = self._ec2.describe_network_acls(NetworkAclIds=[acl_id])["NetworkAcls"]
            if not now.get("Associations"):
                _delete_acl(self._ec2, acl_id)
        return True

    def _fence_of(self, subnet_id: str) -> NetworkAclTypeDef | None:
        """Return the ACL of a subnet if drkit made it."""
        (acl,) = self._acls("association.subnet-id", subnet_id)
        return acl if RUN_TAG in tags_of(acl.get("Tags")) else None

    def _subnets(self, subnet_ids: Sequence[str]) -> list[SubnetTypeDef]:
        described = self._ec2.describe_subnets(SubnetIds=_named_all(subnet_ids))["Subnets"]
        return sorted(described, key=lambda s: s["SubnetId"])

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

    def _associate(self, subnet_id: str, acl_id: str) -> None:
        """Give a subnet an ACL; asked again when the association changed meanwhile (or our own answer was lost)."""
        for last_try in (False, True):
            now = self.association(subnet_id)
            if now.acl_id == acl_id:
                return
            try:
                self._ec2.replace_network_acl_association(AssociationId=now.association_id, NetworkAclId=acl_id)
                return
            except TargetError as e:
                if last_try or e.code != "InvalidAssociationID.NotFound":
                    raise

    def _acls(self, filter_name: str, value: str, vpc_id: str = "") -> list[NetworkAclTypeDef]:
        filters = [{"Name": filter_name, "Values": [value]}]
        if vpc_id:
            filters.append({"Name": "vpc-id", "Values": [vpc_id]})
        pages = self._ec2.get_paginator("describe_network_acls").paginate(Filters=filters)  # type: ignore[arg-type]
        return [acl for page in pages for acl in page["NetworkAcls"]]


def acls_of_runs(target: Target, region: str) -> tuple[str, ...]:
    """Return the ids of all network ACLs in the target's VPC that drkit made, of whatever run."""
    pages = (
        Account(target, region)
        .client("ec2")
        .get_paginator("describe_network_acls")
        .paginate(
            Filters=[{"Name": "vpc-id", "Values": [vpc_of(target, region)]}, {"Name": "tag-key", "Values": [RUN_TAG]}]
        )
    )
    return tuple(sorted(acl["NetworkAclId"] for page in pages for acl in page["NetworkAcls"]))


def vpc_of(target: Target, region: str) -> str:
    """Return the id of the target's VPC in a region; UsageError if the target names none."""
    network = target.network
    vpc_id = network and (network.vpc_id if region == target.region else network.recovery_vpc_id)
    if not vpc_id:
        raise UsageError(f"target {target.name} names no VPC in {region}", "add it to the target file under network")
    return vpc_id


@undo_journal.verb("restore_acl")
def restore_acl(target: Target, *, aws_region: str, subnet_id: str, acl_id: str) -> str:
    """Give a subnet the network ACL it had."""
    subnets = Subnets(target, aws_region)
    Account(target, aws_region).assert_account()
    if subnets.association(subnet_id).acl_id == acl_id:
        return f"{subnet_id} has its network ACL {acl_id}"
    subnets._associate(subnet_id, acl_id)
    return f"gave {subnet_id} its network ACL {acl_id} back"


def _must_not_make_two_writers(target: Target, region: str, instance_id: str, rival: Mapping[str, str]) -> None:
    """Raise Refused if the rival is or becomes a writer while there may be one behind the fence.

    Raises Refused too if the rival cannot be asked about.
    """
    there, name = rival["region"], rival["instance_id"]
    try:
        other = instance_or_none(Account(target, there), there, name)
    except TargetError as e:
        raise Refused(
            f"not lifting the fence around {instance_id}: whether {name} in {there} is a writer cannot be told: "
            f"{e.message}",
            "two writers would be possible; try again when it can be asked",
        ) from e
    if other is None or (other.is_replica and other.status not in PROMOTING):
        return
    behind = instance_or_none(Account(target, region), region, instance_id)
    if behind is None or behind.is_replica:
        return
    raise Refused(
        f"not lifting the fence around {instance_id}: {name} in {there} is a writer, so two writers would be possible",
        "going back is: drkit playbook run failback",
    )


def _named_all(subnet_ids: Sequence[str]) -> list[str]:
    if not subnet_ids:
        raise Refused("no subnet was named", "an empty list could mean every subnet; name each one")
    return [named(s, "subnet") for s in dict.fromkeys(subnet_ids)]


@undo_journal.verb("lift_fence")
def lift_fence(
    target: Target, *, aws_region: str, subnet_id: str, acl_id: str, instance_id: str, rival: Mapping[str, str]
) -> str:
    """Give a fenced subnet the network ACL it had, unless that would make two writers possible."""
    subnets = Subnets(target, aws_region)
    Account(target, aws_region).assert_account()
    if subnets.association(subnet_id).acl_id == acl_id:
        return f"{subnet_id} has its network ACL {acl_id}"
    _must_not_make_two_writers(target, aws_region, instance_id, rival)
    subnets._associate(subnet_id, acl_id)
    return f"gave {subnet_id} its network ACL {acl_id} back: there is no fence around it any more"


@undo_journal.verb("leave_lifted")
def leave_lifted(target: Target, *, aws_region: str, subnet_id: str) -> str:
    """Say that a fence is lifted: it is only when there cannot be two writers, so nothing has to be put back."""
    run = Subnets(target, aws_region).association(subnet_id).acl_run
    if run:
        return f"{subnet_id} still has the fence of run {run}"
    return f"{subnet_id} has no fence any more; that is fine as it is"


def _delete_acl(ec2: EC2Client, acl_id: str) -> None:
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
        _delete_acl(ec2, acl["NetworkAclId"])
    return f"deleted {len(made)} network ACL(s) of run {run_id} in {vpc_id}"
