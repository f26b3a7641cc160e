"""What people do to a lab's first region with a console: its databases' subnets cut, and given their ACLs back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import boto3

from drkit import clock
from drkit.playbook import standings
from drkit.rundir import RunDir
from drkit.targets import Target


class Console:
    """A person's hands on the network of a lab's first region."""

    def __init__(self, target: Target) -> None:
        self._zones = target.zones
        self._ec2: Any = boto3.Session("lab", "lab", region_name=target.region).client(
            "ec2", endpoint_url=target.aws.endpoint_url
        )

    def acls(self) -> dict[str, str]:
        """Return the subnets of the databases, and the network ACL that each has."""
        names = [f"orders-{zone[-1]}-db" for zone in self._zones]
        subnets = self._ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": names}])["Subnets"]
        ids = [s["SubnetId"] for s in subnets]
        acls = self._ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": ids}])
        found = {
            a["SubnetId"]: a["NetworkAclId"]
            for acl in acls["NetworkAcls"]
            for a in acl["Associations"]
            if a["SubnetId"] in ids
        }
        assert len(found) == len(self._zones)
        return found

    def put(self, wanted: Mapping[str, str]) -> None:
        """Give subnets these network ACLs."""
        for subnet_id, acl_id in wanted.items():
            filters = [{"Name": "association.subnet-id", "Values": [subnet_id]}]
            (acl,) = self._ec2.describe_network_acls(Filters=filters)["NetworkAcls"]
            (now,) = [a for a in acl["Associations"] if a["SubnetId"] == subnet_id]
            self._ec2.replace_network_acl_association(AssociationId=now["NetworkAclAssociationId"], NetworkAclId=acl_id)

    def cut(self) -> None:
        """Cut every database off, as the region's loss does."""
        subnets = list(self.acls())
        (vpc,) = {s["VpcId"] for s in self._ec2.describe_subnets(SubnetIds=subnets)["Subnets"]}
        deny = self._ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
        self.put(dict.fromkeys(subnets, deny))

    def uncut(self, before: Mapping[str, str]) -> None:
        """Take a cut back: the ACLs of before, and no other."""
        (deny,) = set(self.acls().values())
        self.put(before)
        self._ec2.delete_network_acl(NetworkAclId=deny)


class Hand:
    """Does something once, as soon as a step of a run has come to a state; in a thread, until it is closed."""

    def __init__(self, run: Callable[[], RunDir | None], step: str, state: str, act: Callable[[], None]) -> None:
        self.raised: Exception | None = None
        self.acted = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(run, step, state, act), name="by hand", daemon=True)
        self._thread.start()

    def _watch(self, run: Callable[[], RunDir | None], step: str, state: str, act: Callable[[], None]) -> None:
        while not self._over.is_set():
            clock.sleep_s(0.05)
            now = run()
            if now is None or standings(now.marks(), [step])[step].state not in (state, "done"):
                continue
            self.acted = True
            try:
                act()
            except Exception as e:  # noqa: BLE001  (looked at by `close`)
                self.raised = e
            return

    def close(self) -> None:
        """Raises what went wrong, AssertionError if it never came to it."""
        self._over.set()
        self._thread.join(60)
        if self.raised is not None:
            raise self.raised
        assert self.acted, "nothing was done by hand: the step was never reached"
