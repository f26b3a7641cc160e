"""Zonal shift: a load balancer sends nothing to one zone for a while (Amazon Application Recovery Controller).

A shift is of one load balancer, in its region, and ends by itself. Only one at a time can be on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING

from drkit import clock
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError, UsageError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import Account, named, tags_of
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_arc_zonal_shift.type_defs import ZonalShiftSummaryTypeDef

IAM_SHIFT = (
    "arc-zonal-shift:CancelZonalShift", "arc-zonal-shift:ListZonalShifts", "arc-zonal-shift:StartZonalShift",
    "ec2:DescribeAvailabilityZones", "elasticloadbalancing:DescribeTags",
)  # fmt: skip
COMMENT_CHARS = 128  # AWS's limit
LONGEST_H = 72  # AWS's limit


@dataclass(frozen=True, slots=True)
class Shift:
    """A zonal shift that is on."""

    shift_id: str
    zone: str  # what it leads away from: eu-central-1a
    zone_id: str  # the same to every account: euc1-az2
    started: datetime
    expires: datetime
    comment: str


class ZonalShifts:
    """The zonal shifts of the target's load balancer."""

    def __init__(self, target: Target, region: str = "", load_balancer_arn: str = "") -> None:
        arn = load_balancer_arn or (target.compute and target.compute.load_balancer_arn)
        if not arn:
            raise UsageError(
                f"target {target.name} names no load balancer", "add compute.load_balancer_arn to the target file"
            )
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._shifts = self._account.client("arc-zonal-shift")
        self._arn = arn

    def active(self) -> Shift | None:
        """Return the shift that is on, None if there is none."""
        found = self._active()
        return None if found is None else self._value(found)

    def plan_start(self, zone: str) -> tuple[Effect, ...]:
        """Return what shifting away from a zone would do; nothing if that is on. Raises Refused as `start` does."""
        now = self.active()
        if now is not None and now.zone == zone:
            return ()
        self._must_be_the_only_one(now)
        return (
            Effect(
                call="arc-zonal-shift:StartZonalShift",
                resource=self._arn,
                region=self._region,
                zone=zone,
                what=f"send no requests to {zone} ({self._zone_id(zone)}) through {_short(self._arn)}",
                undo=f"send requests to {zone} again",
                iam=IAM_SHIFT,
                consented=self._account.consented(self._tags()),
            ),
        )

    def start(self, zone: str, *, expires_in: str = "2h", comment: str, permit: Permit, undo: UndoJournal) -> bool:
        """Lead all requests away from a zone; return whether it was asked for (False: that is on already).

        expires_in: when it ends by itself, "90m" or "2h", three days at most. comment: why; the run's id is added.
        Raises Refused if the load balancer does not consent, or if a shift away from another zone is on; TargetError
        if zonal shift is not turned on for the load balancer.
        """
        named(zone, "zone")
        _must_be_a_time(expires_in)
        self._account.may_break(permit)
        self._account.must_consent(self._arn, self._tags(), permit)
        zone_id = self._zone_id(zone)
        now = self.active()
        if now is not None and now.zone_id == zone_id:
            return False
        self._must_be_the_only_one(now)
        undo.will(
            "cancel_zonal_shift",
            region=self._region,
            aws_region=self._region,
            load_balancer_arn=self._arn,
            zone_id=zone_id,
            run_id=permit.run_id,
        )
        permit.check()
        self._start(zone_id, expires_in, _signed(comment, permit.run_id))
        return True

    def plan_cancel(self) -> tuple[Effect, ...]:
        """Return what ending the shift would do; nothing if none is on."""
        now = self.active()
        if now is None:
            return ()
        return (
            Effect(
                call="arc-zonal-shift:CancelZonalShift",
                resource=self._arn,
                region=self._region,
                zone=now.zone,
                what=f"send requests to {now.zone} again through {_short(self._arn)} (shifted: {now.comment})",
                undo=f"send no requests to {now.zone} for the time that was left",
                iam=IAM_SHIFT,
                consented=self._account.consented(self._tags()),
            ),
        )

    def cancel(self, *, permit: Permit, undo: UndoJournal) -> bool:
        """End the shift that is on, whoever began it; return whether it was asked for (False: none is on)."""
        self._account.may_break(permit)
        self._account.must_consent(self._arn, self._tags(), permit)
        now = self.active()
        if now is None:
            return False
        undo.will(
            "resume_zonal_shift",
            region=self._region,
            aws_region=self._region,
            load_balancer_arn=self._arn,
            zone_id=now.zone_id,
            expires=now.expires.astimezone(UTC).isoformat(),
            comment=_signed(now.comment, permit.run_id),
        )
        permit.check()
        self._cancel(now.shift_id)
        return True

    def _start(self, zone_id: str, expires_in: str, comment: str) -> None:
        try:
            self._shifts.start_zonal_shift(
                resourceIdentifier=self._arn, awayFrom=zone_id, expiresIn=expires_in, comment=comment
            )
        except TargetError as e:
            if e.code == "ResourceNotFoundException":
                raise TargetError(
                    f"cannot shift away from a zone: zonal shift is not on for {_short(self._arn)}",
                    "turn it on: the load balancer's attribute zonal_shift.config.enabled",
                    e.code,
                ) from e
            # A retry of a call whose answer was lost finds its own shift on.
            now = self._active() if e.code == "ConflictException" else None
            if now is None or (now["awayFrom"], now["comment"]) != (zone_id, comment):
                raise

    def _cancel(self, shift_id: str) -> None:
        try:
            self._shifts.cancel_zonal_shift(zonalShiftId=named(shift_id, "zonal shift"))
        except TargetError as e:
            if e.code not in {"ConflictException", "ResourceNotFoundException"} or self._active() is not None:
                raise

    def _active(self) -> ZonalShiftSummaryTypeDef | None:
        pages = self._shifts.get_paginator("list_zonal_shifts").paginate(status="ACTIVE", resourceIdentifier=self._arn)
        for page in pages:
            for shift in page.get("items", []):
                if shift["status"] == "ACTIVE" and shift["resourceIdentifier"] == self._arn:
                    return shift
        return None

    def _value(self, found: ZonalShiftSummaryTypeDef) -> Shift:
        zone_id = found["awayFrom"]
        (zone,) = self._account.client("ec2").describe_availability_zones(ZoneIds=[zone_id])["AvailabilityZones"]
        return Shift(
            found["zonalShiftId"], zone["ZoneName"], zone_id, found["startTime"], found["expiryTime"], found["comment"]
        )

    def _zone_id(self, zone: str) -> str:
        described = self._account.client("ec2").describe_availability_zones(ZoneNames=[named(zone, "zone")])
        for z in described["AvailabilityZones"]:
            return z["ZoneId"]
        raise TargetError(f"there is no zone {zone} in {self._region}", "name it in full: eu-central-1a")

    def _must_be_the_only_one(self, now: Shift | None) -> None:
        if now is not None:
            until = f"{now.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            raise Refused(
                f"not shifting: a shift away from {now.zone} is on until {until} ({now.comment}), and there can be "
                "only one",
                f"end that one first: aws arc-zonal-shift cancel-zonal-shift --zonal-shift-id {now.shift_id} "
                f"--region {self._region}",
            )

    def _tags(self) -> dict[str, str]:
        described = self._account.client("elbv2").describe_tags(ResourceArns=[self._arn])["TagDescriptions"]
        return tags_of(described[0].get("Tags") if described else ())


def _signed(comment: str, run_id: str) -> str:
    """Return a comment by which the run's shift is found again."""
    mark = f" {_mark(run_id)}"
    plain = re.sub(r" \[drkit [^\]]*\]$", "", comment)
    return plain[: COMMENT_CHARS - len(mark)] + mark


def _mark(run_id: str) -> str:
    return f"[drkit {named(run_id, 'run')}]"


def _must_be_a_time(expires_in: str) -> None:
    found = re.fullmatch(r"([1-9]\d{0,3})([mh])", expires_in)
    if found is None or int(found[1]) > LONGEST_H * (60 if found[2] == "m" else 1):
        raise UsageError(f"{expires_in!r} is no time for a zonal shift", "90m or 2h; three days (72h) at most")


def _short(arn: str) -> str:
    return arn.rsplit(":", 1)[-1]


@undo_journal.verb("cancel_zonal_shift")
def cancel_zonal_shift(target: Target, *, aws_region: str, load_balancer_arn: str, zone_id: str, run_id: str) -> str:
    """End the shift that a run began; one of somebody else's stays."""
    shifts = ZonalShifts(target, aws_region, load_balancer_arn)
    Account(target, aws_region).assert_account()
    now = shifts._active()
    if now is None or now["awayFrom"] != zone_id or not now["comment"].endswith(_mark(run_id)):
        return f"no shift of run {run_id} away from {zone_id} is on"
    shifts._cancel(now["zonalShiftId"])
    return f"ended the shift away from {zone_id}"


@undo_journal.verb("resume_zonal_shift")
def resume_zonal_shift(
    target: Target, *, aws_region: str, load_balancer_arn: str, zone_id: str, expires: str, comment: str
) -> str:
    """Begin a shift again that a run ended, for the time that it had left."""
    shifts = ZonalShifts(target, aws_region, load_balancer_arn)
    Account(target, aws_region).assert_account()
    now = shifts._active()
    if now is not None:
        return f"a shift away from {now['awayFrom']} is on"
    left_min = ceil((datetime.fromisoformat(expires) - clock.wall_utc()).total_seconds() / 60)
    if left_min <= 0:
        return f"the shift away from {zone_id} would have ended by now"
    shifts._start(zone_id, f"{left_min}m", comment)
    return f"began the shift away from {zone_id} again, for {left_min} minutes"
