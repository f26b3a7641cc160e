"""What steps look at before they let anything happen, on a mock of AWS."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from drkit.errors import Refused, StepFailed
from drkit.playbook import Recovery
from drkit.steps import database, traffic
from drkit.targets.aws import Database, Fences, Records, Replication

from .conftest import RECOVERY_REGION, ZONES
from .test_aws_database import make_replica, make_writer
from .test_aws_undo_refused import RECORD, led

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("honest_promotion")]
__all__ = ["led"]  # a fixture


@pytest.fixture
def recovery(aws, led, permit, journal) -> Recovery:
    make_replica(aws, make_writer(aws))
    return _recovery(led, permit, journal)


def _recovery(target: Any, permit: Any, journal: Any, **known: Any) -> Recovery:
    return Recovery(
        target=target, permit=permit, undo=journal, run=None, stop=threading.Event(), say=lambda _: None,  # type: ignore[arg-type]
        stable=lambda _: True, read_ledger=dict, known=lambda name: known.get(name, {}),
    )  # fmt: skip


def test_a_second_recovery_finds_that_another_one_was_there(recovery, permit, journal) -> None:
    look = database.no_other_writer(recovery, region="recovery")
    assert look.done()
    Replication(recovery.target, RECOVERY_REGION).promote("orders-replica", permit=permit, undo=journal)
    with pytest.raises(Refused, match="orders-replica in eu-west-1 is a writer of its own"):
        look.done()


def test_who_serves_is_whom_the_record_names(recovery, permit, journal) -> None:
    target = recovery.target
    assert target.database is not None
    look = traffic.leads_to(recovery, instance="writer", region="first")
    with pytest.raises(Refused, match=r"points to elsewhere\.example"):
        look.done()
    records = Records(target, str(target.database.hosted_zone_id))
    records.point(RECORD, Database(target).instance("orders").host, permit=permit, undo=journal)
    assert look.done()


def test_clients_are_not_led_on_behind_a_fence_that_is_gone(aws, network, recovery, permit, journal) -> None:
    """A restore takes hours; the fence is asked again the moment before."""
    ids = [network.subnets[ZONES[0]][0]]
    fenced = _recovery(recovery.target, permit, journal, fence={"subnet_ids": ids})
    lead = traffic.point_writer(fenced, instance="writer", region="first", behind="fence", behind_region="first")
    done = aws.changes()
    with pytest.raises(StepFailed, match="the fence is not there any more") as failed:
        lead.act()
    assert failed.value.step == "fence"
    assert aws.changes() == done
    rival = {"region": RECOVERY_REGION, "instance_id": "orders-replica"}
    Fences(recovery.target).fence(ids, instance_id="orders", rival=rival, permit=permit, undo=journal)
    lead.act()
    assert lead.done()
