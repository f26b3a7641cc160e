"""When a zonal shift of a lab ends by itself. The records are moto's own; only a minute is not as long as a minute."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from drkit import clock
from drkit.lab.bootstrap import RECOVERY_REGION, REGION, Service
from drkit.lab.cloud import AwsError, Call, Cloud
from drkit.lab.plant import Plant
from drkit.lab.zonal_shift import ZonalShifts

pytestmark = pytest.mark.lab

MINUTE = timedelta(seconds=0.3)


class Shifted:
    """In the plant's place: which zone each side is shifted away from, one after the other."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []

    def shift_away(self, side: str, zone: str | None) -> None:
        self.told.append((side, zone))


class Api:
    def __init__(self, log: Path) -> None:
        self.cloud, self.plant = Cloud(log), Shifted()
        self.arn = ""
        services = []
        for region in (REGION, RECOVERY_REGION):
            ec2, elb = self.cloud.backend("ec2", region), self.cloud.backend("elbv2", region)
            vpc = ec2.create_vpc("10.9.0.0/16")
            subnets = [
                ec2.create_subnet(vpc.id, f"10.9.{n}.0/24", availability_zone=f"{region}{zone}")
                for n, zone in enumerate("abc")
            ]
            balancer = elb.create_load_balancer(
                name=f"expiring-{log.parent.name[-8:]}", security_groups=[], subnet_ids=[s.id for s in subnets]
            )
            balancer.attrs["zonal_shift.config.enabled"] = "true"
            services.append(Service(asg_name="", target_group_arn="", load_balancer_arn=balancer.arn, host=""))
        self.arn = services[0].load_balancer_arn
        self.shifts = ZonalShifts(self.cloud, cast(Plant, self.plant), services, minute=MINUTE)

    def __call__(self, action: str, **params: str) -> dict[str, Any]:
        with self.cloud.lock:
            return dict(self.cloud.own["arc-zonal-shift"].answer(Call("arc-zonal-shift", action, REGION, params))[1])

    def start(self, expires_in: str) -> str:
        started = self(
            "StartZonalShift", resourceIdentifier=self.arn, awayFrom="euc1-az3", expiresIn=expires_in, comment="c"
        )
        return str(started["zonalShiftId"])

    def status(self, shift_id: str) -> str:
        (found,) = [s for s in self("ListZonalShifts")["items"] if s["zonalShiftId"] == shift_id]
        return str(found["status"])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path / "requests.log")
    yield api
    api.shifts.stop()


def test_it_has_no_effect_any_more_once_expired_and_the_next_may_begin(api: Api) -> None:
    first = api.start("1m")
    assert (api.status(first), api.plant.told) == ("ACTIVE", [("1", "c")])
    clock.wait_until(lambda: api.status(first) == "EXPIRED", "it expired", timeout_s=10, every_s=0.01)
    assert api.plant.told == [("1", "c"), ("1", None)]
    with pytest.raises(AwsError, match="is EXPIRED"):
        api("CancelZonalShift", zonalShiftId=first)
    assert api.status(api.start("1h")) == "ACTIVE"


def test_an_expiry_that_was_put_off_or_cancelled_does_not_happen(api: Api) -> None:
    shift = api.start("1m")
    later = api("UpdateZonalShift", zonalShiftId=shift, expiresIn="2h")
    assert later["expiryTime"] - later["startTime"] > 120 * MINUTE.total_seconds() - 1
    clock.sleep_s(2 * MINUTE.total_seconds())
    assert api.status(shift) == "ACTIVE"
    api("CancelZonalShift", zonalShiftId=shift)
    cancelled = api.start("1m")
    api("CancelZonalShift", zonalShiftId=cancelled)
    clock.sleep_s(2 * MINUTE.total_seconds())
    assert api.status(cancelled) == "CANCELED"
    assert api.plant.told == [("1", "c"), ("1", None)] * 2
