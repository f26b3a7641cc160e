"""The fence around a database: an old writer must reach nobody while another one has its place.

It is the cut of network.py for another purpose, so it is lifted only when there cannot be two writers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import RUN_TAG, Account, named, tags_of
from drkit.targets.aws.network import FENCE_TAG, IAM_ISOLATE, Subnets, delete_acl
from drkit.targets.aws.rds import MAYBE_PROMOTING, PROMOTED_TAG, instance_or_none, promotion_visible_by
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import NetworkAclTypeDef, SubnetTypeDef

IAM_FENCE = (*IAM_ISOLATE, "rds:DescribeDBInstances")


class Fences(Subnets):
    """The subnets of one region's databases, fenced off and let in again."""

    def is_fenced(self, subnet_ids: Sequence[str]) -> bool:
        """Return whether none of these subnets lets anything through, and each is meant to stay so.

        What an experiment has cut lets everything through again when it ends.
        """
        return all(self.association(s).fenced and self.is_isolated(s) for s in _named_all(subnet_ids))

    def is_lifted(self, subnet_ids: Sequence[str]) -> bool:
        """Return whether no fence is left around these subnets, in use or not: one that is not waits to be deleted."""
        return not any(self.association(s).fenced or self._acls("tag-key", FENCE_TAG + s) for s in subnet_ids)

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
            if not self.is_fenced([s["SubnetId"]])
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

        instance_id: the writer behind the fence. rival: {"region": …, "instance_id": …} of the one that takes its
        place; while that one is a writer, undo refuses to lift the fence. Which ACL each subnet had is also in the tags
        of the fencing ACL, for `lift` in a later run.
        A subnet that has a fence, of whatever run, keeps it: that run may be lost, and its fence is as good.
        Raises Refused if any subnet does not consent, or was left cut by a run that did not note its ACL: then none is
        cut.
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
            # What an experiment has cut is fenced as well, and gets back what it had before the experiment.
            if now.acl_run and not now.had:
                raise Refused(
                    f"not fencing {subnet_id}: run {now.acl_run} cut it and never put it back",
                    f"drkit undo {now.acl_run}",
                )
        to_cut = [s for s in subnets if not before[s["SubnetId"]].fenced]
        for s in to_cut:
            deny_acl_id = self._deny_acl(s["VpcId"], permit, undo)
            now = before[s["SubnetId"]]
            subnet_id, acl_id = s["SubnetId"], now.had or now.acl_id
            undo.will(
                "lift_fence",
                region=self._region,
                aws_region=self._region,
                subnet_id=subnet_id,
                acl_id=acl_id,
                instance_id=instance_id,
                rival=opponent,
            )
            self._ec2.create_tags(Resources=[deny_acl_id], Tags=[{"Key": FENCE_TAG + subnet_id, "Value": acl_id}])
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
        if ours:
            _must_not_make_two_writers(self._account.target, self._region, instance_id, rival)
        for subnet_id, acl in ours.items():
            had = tags_of(acl.get("Tags")).get(FENCE_TAG + subnet_id, "")
            if not had:
                raise Refused(
                    f"not lifting the fence around {subnet_id}: its ACL {acl['NetworkAclId']} does not say which one "
                    "the subnet had",
                    "give the subnet its own ACL by hand: aws ec2 replace-network-acl-association",
                )
            undo.will("leave_lifted", region=self._region, aws_region=self._region, subnet_id=subnet_id)
            permit.check()
            self._associate(subnet_id, had)
        for subnet_id in fenced:  # those that a lift which was killed has left too
            for acl in self._acls("tag-key", FENCE_TAG + subnet_id):
                if not acl.get("Associations"):
                    delete_acl(self._ec2, acl["NetworkAclId"])
        return bool(ours)

    def _fence_of(self, subnet_id: str) -> NetworkAclTypeDef | None:
        """Return the ACL of a subnet if drkit made it."""
        (acl,) = self._acls("association.subnet-id", subnet_id)
        return acl if RUN_TAG in tags_of(acl.get("Tags")) else None

    def _subnets(self, subnet_ids: Sequence[str]) -> list[SubnetTypeDef]:
        described = self._ec2.describe_subnets(SubnetIds=_named_all(subnet_ids))["Subnets"]
        return sorted(described, key=lambda s: s["SubnetId"])


def _must_not_make_two_writers(target: Target, region: str, instance_id: str, rival: Mapping[str, str]) -> None:
    """Raise Refused if the rival is or becomes a writer while there may be one behind the fence.

    RDS may call it an available replica for a while after its promotion was accepted, so a promotion that was asked for
    lately counts as one, whoever asked. Raises Refused too if the rival cannot be asked about.
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
    if other is None:
        return
    visible_by = promotion_visible_by(target, other.tags.get(PROMOTED_TAG, ""))
    if other.is_replica and other.status not in MAYBE_PROMOTING and visible_by is None:
        return
    behind = instance_or_none(Account(target, region), region, instance_id)
    if behind is None or behind.is_replica:
        return
    if other.is_replica and visible_by is not None:
        raise Refused(
            f"not lifting the fence around {instance_id}: the promotion of {name} in {there} was asked for at "
            f"{other.tags[PROMOTED_TAG]}, so two writers would be possible",
            f"RDS may show it later; if it never began, try again after {visible_by:%H:%M:%S} UTC",
        )
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
