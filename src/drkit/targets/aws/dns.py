"""Route 53: the record that clients resolve to find the writer, pointed elsewhere and given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import Account, named, tags_of
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_route53.literals import RRTypeType
    from mypy_boto3_route53.type_defs import ResourceRecordSetOutputTypeDef, ResourceRecordSetTypeDef

IAM_POINT = (
    "route53:ChangeResourceRecordSets", "route53:ListResourceRecordSets", "route53:ListTagsForResource",
)  # fmt: skip


class Records:
    """The records of one hosted zone. Route 53 is global: it answers in us-east-1 whatever the region.

    sts_region: where STS is asked whose account it is, the target's first region unless named.
    """

    def __init__(self, target: Target, hosted_zone_id: str, sts_region: str = "") -> None:
        self._account = Account(target, sts_region)
        self._hosted_zone_id = named(hosted_zone_id, "hosted zone").rsplit("/", 1)[-1]
        self._route53 = self._account.client("route53")

    def value(self, name: str, record_type: RRTypeType = "CNAME") -> str:
        """Return what a simple record points to; TargetError if there is none or it has several values."""
        values = [r["Value"] for r in self._record(name, record_type).get("ResourceRecords", [])]
        if len(values) != 1:
            raise TargetError(f"{name} ({record_type}) has {len(values)} values, not one", "use a simple record")
        return values[0]

    def plan_point(self, name: str, value: str, record_type: RRTypeType = "CNAME") -> tuple[Effect, ...]:
        """Return what pointing a record elsewhere would do."""
        old = self.value(name, record_type)
        return (
            Effect(
                call="route53:ChangeResourceRecordSets",
                resource=f"{self._hosted_zone_id}/{name}",
                region="global",
                what=f"point {name} from {old} to {value}",
                undo=f"point {name} to {old} again",
                iam=IAM_POINT,
                consented=self._account.consented(self._tags()),
            ),
        )

    def point(
        self, name: str, value: str, record_type: RRTypeType = "CNAME", *, permit: Permit, undo: UndoJournal
    ) -> bool:
        """Point a simple record to another value, its TTL stays; return whether it was asked for (False: it is there).

        Raises Refused if the hosted zone does not carry the consent tag.
        """
        named(value, "value")
        self._account.may_break(permit)
        self._account.must_consent(f"hosted zone {self._hosted_zone_id}", self._tags(), permit)
        old = self._record(name, record_type)
        if [r["Value"] for r in old.get("ResourceRecords", [])] == [value]:
            return False
        undo.will(
            "restore_record",
            region="global",
            hosted_zone_id=self._hosted_zone_id,
            record=old,
            sts_region=self._account.home_region,
        )
        self._upsert({**old, "ResourceRecords": [{"Value": value}]})
        return True

    def _record(self, name: str, record_type: RRTypeType) -> ResourceRecordSetOutputTypeDef:
        wanted = named(name, "DNS record").rstrip(".").lower()
        answer = self._route53.list_resource_record_sets(
            HostedZoneId=self._hosted_zone_id,
            StartRecordName=name,
            StartRecordType=record_type,
            MaxItems="2",
        )
        found = [
            r
            for r in answer["ResourceRecordSets"]
            if r["Name"].rstrip(".").lower() == wanted and r["Type"] == record_type
        ]
        if not found:
            raise TargetError(
                f"there is no {record_type} record {name} in {self._hosted_zone_id}", "see database.dns_record"
            )
        if len(found) > 1 or "SetIdentifier" in found[0] or "AliasTarget" in found[0]:
            raise Refused(
                f"not pointing {name} elsewhere: it is no simple record", "use a record of its own for the writer"
            )
        return found[0]

    def _upsert(self, record: ResourceRecordSetTypeDef) -> None:
        self._route53.change_resource_record_sets(
            HostedZoneId=self._hosted_zone_id,
            ChangeBatch={"Comment": "drkit", "Changes": [{"Action": "UPSERT", "ResourceRecordSet": record}]},
        )

    def _tags(self) -> dict[str, str]:
        answer = self._route53.list_tags_for_resource(ResourceType="hostedzone", ResourceId=self._hosted_zone_id)
        return tags_of(answer["ResourceTagSet"].get("Tags"))


@undo_journal.verb("restore_record")
def restore_record(target: Target, *, hosted_zone_id: str, record: dict[str, Any], sts_region: str = "") -> str:
    """Give a record the value and TTL back that it had."""
    records = Records(target, hosted_zone_id, sts_region)
    Account(target, sts_region).assert_account()
    old: Any = record
    value = old["ResourceRecords"][0]["Value"]
    if records._record(old["Name"], old["Type"]) == old:
        return f"{old['Name']} points to {value}"
    records._upsert(old)
    return f"pointed {old['Name']} to {value} again"
