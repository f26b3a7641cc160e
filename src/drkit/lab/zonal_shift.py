"""Zonal shifts of a lab (Amazon Application Recovery Controller, `arc-zonal-shift`): a load balancer leaves a zone.

A managed resource is a load balancer whose attribute zonal_shift.config.enabled is true. Shifts and their expiry are in
real time, whatever the lab's speed; an expired one has no effect from that moment, and says EXPIRED.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from drkit import clock
from drkit.lab.bootstrap import Service
from drkit.lab.cloud import AwsError, Call, Cloud, Own
from drkit.lab.front import FIRST
from drkit.lab.nodes import REPLICA
from drkit.lab.plant import Plant

log = logging.getLogger("drkit.lab.zonal_shift")

LONGEST_MIN = 72 * 60
ACTIVE, EXPIRED, CANCELED = "ACTIVE", "EXPIRED", "CANCELED"

_ACTIONS = {
    ("POST", "/zonalshifts"): "StartZonalShift",
    ("GET", "/zonalshifts"): "ListZonalShifts",
    ("DELETE", "/zonalshifts/{zonalShiftId}"): "CancelZonalShift",
    ("PATCH", "/zonalshifts/{zonalShiftId}"): "UpdateZonalShift",
    ("GET", "/managedresources/{resourceIdentifier}"): "GetManagedResource",
}


@dataclass(slots=True, kw_only=True)
class _Shift:
    shift_id: str
    region: str
    resource: str  # ARN
    away_from: str  # zone id: euc1-az1
    comment: str
    started: datetime
    expires: datetime
    status: str = ACTIVE

    def shown(self) -> dict[str, object]:
        return {
            "zonalShiftId": self.shift_id,
            "resourceIdentifier": self.resource,
            "awayFrom": self.away_from,
            "startTime": self.started.timestamp(),
            "expiryTime": self.expires.timestamp(),
            "status": self.status,
            "comment": self.comment,
        }


class ZonalShifts:
    """The service's API, and its hand on the plant's load balancers."""

    def __init__(
        self, cloud: Cloud, plant: Plant, services: Sequence[Service], *, minute: timedelta = timedelta(minutes=1)
    ) -> None:
        """services: the first region's and the second's; shifts of other load balancers are records only."""
        self._cloud, self._plant, self._minute = cloud, plant, minute
        arns = (service.load_balancer_arn for service in services)
        self._sides = dict(zip(arns, (FIRST, REPLICA), strict=True))
        self._shifts: dict[str, _Shift] = {}
        self._timers: dict[str, threading.Timer] = {}
        self._verbs = {
            "StartZonalShift": self._start,
            "ListZonalShifts": self._list,
            "CancelZonalShift": self._cancel,
            "UpdateZonalShift": self._update,
            "GetManagedResource": self._resource,
        }
        cloud.own["arc-zonal-shift"] = Own(_ACTIONS, lambda call: self._verbs[call.action](call))

    def stop(self) -> None:
        for timer in tuple(self._timers.values()):
            timer.cancel()

    # --- verbs --------------------------------------------------------------------------------------------------------

    def _start(self, call: Call) -> tuple[int, dict[str, object]]:
        resource = call.text("resourceIdentifier")
        zones = self._zones(call.region, resource)
        away_from = call.text("awayFrom")
        if away_from not in zones:
            raise _invalid("InvalidAz", f"{resource} is not in the Availability Zone {away_from!r}")
        if active := self._active(resource):
            raise AwsError(
                "ConflictException",
                f"a zonal shift of {resource} is active already",
                409,
                reason="ZonalShiftAlreadyExists",
                zonalShiftId=active.shift_id,
            )
        now, length = clock.wall_utc(), self._length(call.text("expiresIn"))
        shift = _Shift(
            shift_id=str(uuid.uuid4()),
            region=call.region,
            resource=resource,
            away_from=away_from,
            comment=call.text("comment"),
            started=now,
            expires=now + length,
        )
        self._shifts[shift.shift_id] = shift
        self._bring_about(shift)
        self._watch(shift, length)
        return 201, shift.shown()

    def _list(self, call: Call) -> tuple[int, dict[str, object]]:
        status, resource = call.text("status"), call.text("resourceIdentifier")
        found = [
            shift.shown()
            for shift in reversed(self._shifts.values())
            if shift.region == call.region and status in ("", shift.status) and resource in ("", shift.resource)
        ]
        return 200, {"items": found}

    def _cancel(self, call: Call) -> tuple[int, dict[str, object]]:
        shift = self._named(call)
        self._end(shift, CANCELED)
        return 200, shift.shown()

    def _update(self, call: Call) -> tuple[int, dict[str, object]]:
        shift = self._named(call)
        if expires_in := call.text("expiresIn"):
            shift.expires = clock.wall_utc() + (length := self._length(expires_in))
            self._watch(shift, length)
        shift.comment = call.text("comment", shift.comment)
        return 200, shift.shown()

    def _resource(self, call: Call) -> tuple[int, dict[str, object]]:
        resource = call.text("resourceIdentifier")
        zones = self._zones(call.region, resource)
        active = self._active(resource)
        shown = [{**active.shown(), "appliedStatus": "APPLIED"}] if active else []
        for shift in shown:
            del shift["status"]
        return 200, {
            "arn": resource,
            "name": resource.split("/")[-2],
            "appliedWeights": {zone: 0.0 if active and zone == active.away_from else 1.0 for zone in zones},
            "zonalShifts": shown,
            "autoshifts": [],
            "zonalAutoshiftStatus": "DISABLED",
        }

    # --- what they need -----------------------------------------------------------------------------------------------

    def _named(self, call: Call) -> _Shift:
        """Return the active shift that a call names; raise AwsError if there is none."""
        shift = self._shifts.get(call.text("zonalShiftId"))
        if shift is None or shift.region != call.region:
            raise AwsError("ResourceNotFoundException", f"no zonal shift {call.text('zonalShiftId')}", 404)
        if shift.status != ACTIVE:
            raise AwsError(
                "ConflictException",
                f"zonal shift {shift.shift_id} is {shift.status}",
                409,
                reason="ZonalShiftStatusNotActive",
                zonalShiftId=shift.shift_id,
            )
        return shift

    def _length(self, expires_in: str) -> timedelta:
        if not (found := re.fullmatch(r"([1-9][0-9]{0,5})([mh])", expires_in)):
            raise _invalid("InvalidExpiresIn", f"{expires_in!r} is no time like 60m or 2h")
        minutes = int(found[1]) * (60 if found[2] == "h" else 1)
        if minutes > LONGEST_MIN:
            raise _invalid("InvalidExpiresIn", "a zonal shift lasts three days at most")
        return minutes * self._minute

    def _active(self, resource: str) -> _Shift | None:
        return next((s for s in self._shifts.values() if s.resource == resource and s.status == ACTIVE), None)

    def _zones(self, region: str, resource: str) -> Mapping[str, str]:
        """Return the zones of a managed resource, id → name; raise AwsError if it is none."""
        balancer: Any = self._cloud.backend("elbv2", region).load_balancers.get(resource)
        if balancer is None or str(balancer.attrs.get("zonal_shift.config.enabled")).lower() != "true":
            raise AwsError("ResourceNotFoundException", f"{resource} is no managed resource in {region}", 404)
        ec2 = self._cloud.backend("ec2", region)
        names = {subnet.availability_zone for subnet in balancer.subnets}
        return {zone.zone_id: zone.name for zone in ec2.describe_availability_zones() if zone.name in names}

    def _bring_about(self, shift: _Shift) -> None:
        side = self._sides.get(shift.resource)
        if side is None:
            return
        name = self._zones(shift.region, shift.resource)[shift.away_from] if shift.status == ACTIVE else ""
        zone = REPLICA if side == REPLICA else name.removeprefix(shift.region)
        self._plant.shift_away(side, zone if name else None)
        log.info("%s: shift away from %s is %s", shift.resource, shift.away_from, shift.status)

    def _end(self, shift: _Shift, status: str) -> None:
        shift.status = status
        if timer := self._timers.pop(shift.shift_id, None):
            timer.cancel()
        self._bring_about(shift)

    def _watch(self, shift: _Shift, length: timedelta) -> None:
        """End a shift after this time from now; what was said before about its end does not hold any more."""
        if timer := self._timers.pop(shift.shift_id, None):
            timer.cancel()
        timer = self._timers[shift.shift_id] = threading.Timer(length.total_seconds(), self._expire, [shift])
        timer.daemon = True
        timer.start()

    def _expire(self, shift: _Shift) -> None:
        with self._cloud.lock:
            if self._timers.get(shift.shift_id) is threading.current_thread():  # else it was put off or cancelled
                self._end(shift, EXPIRED)


def _invalid(reason: str, message: str) -> AwsError:
    return AwsError("ValidationException", message, 400, reason=reason)
