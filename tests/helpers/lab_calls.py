"""What was really done to a lab, from its calls.jsonl: the effects of a playbook, and whether a step's is there."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from drkit.catalog import StepCall
from drkit.targets import Target

BOOKKEEPING = ("ssm", "CreateTags", "AddTags", "AddTagsToResource", "TagResource")  # no effect on anything that serves
DONE = range(200, 300)

# The call by which a step has its effect, the first one where there are several.
EFFECTS = {
    "fail_over": ("rds", "RebootDBInstance"),
    "writer_leaves": ("rds", "RebootDBInstance"),
    "shift": ("arc-zonal-shift", "StartZonalShift"),
    "hold_refill": ("autoscaling", "UpdateAutoScalingGroup"),
    "use_again": ("autoscaling", "UpdateAutoScalingGroup"),
    "restore": ("rds", "RestoreDBInstanceToPointInTime"),
    "remove": ("rds", "DeleteDBInstance"),
    "fence": ("ec2", "ReplaceNetworkAclAssociation"),
    "lift_fence": ("ec2", "ReplaceNetworkAclAssociation"),
    "promote": ("rds", "PromoteReadReplica"),
    "scale": ("autoscaling", "SetDesiredCapacity"),
    "scale_out": ("autoscaling", "SetDesiredCapacity"),
    "point_writer": ("route53", "ChangeResourceRecordSets"),
    "point_service": ("route53", "ChangeResourceRecordSets"),
    "point_secret": ("secretsmanager", "StopReplicationToReplica"),
    "secret_again": ("secretsmanager", "ReplicateSecretToRegions"),
    "retire": ("rds", "DeleteDBInstance"),
    "drop_replica": ("rds", "DeleteDBInstance"),
    "replicate": ("rds", "CreateDBInstanceReadReplica"),
    "replicate_for_redundancy": ("rds", "CreateDBInstanceReadReplica"),
    "make_multi_az": ("rds", "ModifyDBInstance"),
}


@dataclass(frozen=True, slots=True)
class Made:
    """One call that changed something, or was to."""

    at_ns: int
    service: str
    action: str
    region: str
    resource: str
    status: int

    @property
    def text(self) -> str:
        """Return it in words; those of EC2 are about ids that are others each time."""
        return " ".join(
            [self.service, self.action, self.region, self.resource if self.service != "ec2" else ""]
        ).strip()


class Calls:
    """The calls of one lab, followed while they are written."""

    def __init__(self, home: Path) -> None:
        self._path, self._offset = home / "labs" / "lab" / "calls.jsonl", 0
        self._made: list[Made] = []

    def since(self, from_ns: int) -> list[Made]:
        """Return the calls that came since a moment, in the order answered, refused ones too."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._made.extend(_named(Made(**json.loads(line))) for line in whole.splitlines())
        return [call for call in self._made if call.at_ns >= from_ns]

    def effects(self, from_ns: int) -> Counter[str]:
        """Return how often each effect was had since a moment."""
        found = (c for c in self.since(from_ns) if c.service not in BOOKKEEPING and c.action not in BOOKKEEPING)
        return Counter(c.text for c in found if c.status in DONE)

    def has(self, effect: tuple[str, str, str], from_ns: int) -> bool:
        service, action, resource = effect
        return any(
            (c.service, c.action) == (service, action)
            and c.resource.rstrip(".") == (resource or c.resource).rstrip(".")
            for c in self.since(from_ns)
            if c.status in DONE
        )


def _named(call: Made) -> Made:
    if call.service == "route53" and call.action.startswith("Change:"):
        return Made(call.at_ns, "route53", "ChangeResourceRecordSets", "global", call.resource, call.status)
    return call


def effect_of(call: StepCall, target: Target) -> tuple[str, str, str] | None:
    """Return the call by which a step has its effect: service, action, resource ("" for any); None if it is no call."""
    function = call.step.rpartition(".")[2]
    if function not in EFFECTS:
        return None
    assert target.database is not None
    assert target.service is not None
    records = {"point_writer": target.database.dns_record, "point_service": target.service.dns_record}
    return (*EFFECTS[function], records.get(function) or "")
