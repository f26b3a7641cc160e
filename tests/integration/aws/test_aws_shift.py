"""Zonal shifts on a mock of AWS: which calls, with what undo. Who answers them is a fake: it moves no request."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from drkit import guard
from drkit import undo as undo_journal
from drkit.errors import Refused, TargetError, UsageError
from drkit.targets import ComputeTarget
from drkit.targets.aws import ZonalShifts

from .conftest import CONSENT, REGION, ZONES
from .fakes import ZonalShiftService

pytestmark = pytest.mark.lab
WHY = "zone b is slow"


@pytest.fixture
def service(aws) -> ZonalShiftService:
    return ZonalShiftService(aws)


@pytest.fixture
def balanced(aws, network, target, service):
    """A target with a consenting load balancer."""
    made = aws.client("elbv2").create_load_balancer(
        Name="web", Subnets=[network.subnets[z][0] for z in ZONES[:2]], Tags=[CONSENT]
    )
    return replace(target, compute=ComputeTarget(load_balancer_arn=made["LoadBalancers"][0]["LoadBalancerArn"]))


def test_a_shift_is_begun_once_and_ended(aws, service, balanced, permit, journal) -> None:
    shifts = ZonalShifts(balanced)
    assert shifts.active() is None
    (effect,) = shifts.plan_start(ZONES[1])
    assert (effect.call, effect.zone, effect.consented) == ("arc-zonal-shift:StartZonalShift", ZONES[1], True)
    assert shifts.start(ZONES[1], comment=WHY, permit=permit, undo=journal)
    now = shifts.active()
    assert now is not None
    assert (now.zone, now.comment) == (ZONES[1], f"{WHY} [drkit run-1]")
    assert now.zone_id == service.shifts[0]["awayFrom"] != ZONES[1]
    assert now.expires - now.started == timedelta(hours=2)
    assert not shifts.start(ZONES[1], comment=WHY, permit=permit, undo=journal)
    assert shifts.plan_start(ZONES[1]) == ()
    assert aws.changes() == ["StartZonalShift"]
    assert {c.region for c in aws.calls} == {REGION}
    assert next(c for c in aws.calls if c.changes_something).iam_action == "arc-zonal-shift:StartZonalShift"

    assert [u.ok for u in undo_journal.replay(journal, balanced)] == [True]
    assert shifts.active() is None
    assert [u.ok for u in undo_journal.replay(journal, balanced, again=True)] == [True]
    assert aws.changes() == ["StartZonalShift", "CancelZonalShift"]


def test_lost_answers_begin_and_end_one_shift(aws, service, balanced, permit, journal) -> None:
    for operation in ("StartZonalShift", "CancelZonalShift"):
        aws.lose(operation)
    assert ZonalShifts(balanced).start(ZONES[0], comment="", permit=permit, undo=journal)
    assert [u.ok for u in undo_journal.replay(journal, balanced)] == [True]
    assert [s["status"] for s in service.shifts] == ["CANCELED"]


def test_undo_leaves_somebody_elses_shift_alone(aws, service, balanced, permit, journal) -> None:
    other = guard.Permit("run-10", _token=guard._TOKEN)
    shifts = ZonalShifts(balanced)
    shifts.start(ZONES[0], comment=WHY, permit=other, undo=journal)
    assert not shifts.start(ZONES[0], comment=WHY, permit=permit, undo=journal)  # it is on
    with pytest.raises(Refused, match="there can be only one") as refused:
        shifts.start(ZONES[1], comment=WHY, permit=permit, undo=journal)
    assert "cancel-zonal-shift --zonal-shift-id shift-0" in refused.value.hint
    assert len(journal.records()) == 1
    zone_id = service.shifts[0]["awayFrom"]
    arn = service.shifts[0]["resourceIdentifier"]
    sentence = undo_journal._VERBS["cancel_zonal_shift"](
        balanced, aws_region=REGION, load_balancer_arn=arn, zone_id=zone_id, run_id="run-1"
    )
    assert sentence == f"no shift of run run-1 away from {zone_id} is on"
    assert shifts.active() is not None


def test_a_shift_is_cancelled_and_begun_again_for_what_was_left(aws, service, balanced, permit, journal) -> None:
    shifts = ZonalShifts(balanced)
    shifts.start(ZONES[0], expires_in="90m", comment=WHY, permit=permit, undo=journal)
    journal.keep(journal.records()[0])
    later = guard.Permit("run-2", _token=guard._TOKEN)
    assert shifts.plan_cancel()[0].zone == ZONES[0]
    assert shifts.cancel(permit=later, undo=journal)
    assert not shifts.cancel(permit=later, undo=journal)
    assert shifts.plan_cancel() == ()
    assert aws.changes() == ["StartZonalShift", "CancelZonalShift"]
    assert [u.ok for u in undo_journal.replay(journal, balanced)] == [True]
    now = shifts.active()
    assert now is not None
    assert (now.zone, now.comment) == (ZONES[0], f"{WHY} [drkit run-2]")
    assert timedelta(minutes=85) < now.expires - now.started <= timedelta(minutes=90)


def test_a_load_balancer_without_zonal_shift_is_an_error_with_the_attribute(service, balanced, permit, journal) -> None:
    service.turned_on = False
    with pytest.raises(TargetError, match="zonal shift is not on for loadbalancer/app/web") as e:
        ZonalShifts(balanced).start(ZONES[0], comment=WHY, permit=permit, undo=journal)
    assert "zonal_shift.config.enabled" in e.value.hint


@pytest.mark.parametrize("expires_in", ["", "2", "0h", "2d", "73h", "4321m", "1.5h"])
def test_times_that_aws_takes_not(aws, balanced, permit, journal, expires_in) -> None:
    with pytest.raises(UsageError, match="is no time for a zonal shift"):
        ZonalShifts(balanced).start(ZONES[0], expires_in=expires_in, comment=WHY, permit=permit, undo=journal)
    assert aws.calls == []


def test_a_long_comment_keeps_the_runs_mark(service, balanced, permit, journal) -> None:
    assert ZonalShifts(balanced).start(ZONES[0], comment="x" * 500, permit=permit, undo=journal)
    comment = service.shifts[0]["comment"]
    assert len(comment) == 128
    assert comment.endswith(" [drkit run-1]")


def test_shifts_refuse(aws, target, balanced, permit, real, journal) -> None:
    with pytest.raises(UsageError, match="names no load balancer"):
        ZonalShifts(target)
    assert balanced.compute
    aws.client("elbv2").remove_tags(ResourceArns=[balanced.compute.load_balancer_arn], TagKeys=["drkit:consent"])
    shifts = ZonalShifts(balanced)
    with pytest.raises(Refused, match="does not carry the tag"):
        shifts.start(ZONES[0], comment=WHY, permit=permit, undo=journal)
    with pytest.raises(Refused, match="no zone was named"):
        shifts.start("", comment=WHY, permit=permit, undo=journal)
    assert not journal.records()
    assert shifts.start(ZONES[0], comment=WHY, permit=real, undo=journal)
