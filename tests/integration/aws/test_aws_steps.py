"""What steps look at before they let anything happen, on a mock of AWS."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from drkit.errors import Refused, StepFailed
from drkit.lab.moto_patches import replica_secrets_stand_alone
from drkit.playbook import Recovery
from drkit.steps import database, traffic
from drkit.targets.aws import Database, Fences, Records, Replication, Secrets

from .conftest import CONSENT, RECOVERY_REGION, REGION, ZONES
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


@pytest.fixture
def secrets_of(aws, recovery):
    """Make the target's secret in each region one of its own, with what it is to hold."""

    def made(**held: dict[str, Any]) -> Recovery:
        for region, content in ((REGION, held["first"]), (RECOVERY_REGION, held["recovery"])):
            aws.client("secretsmanager", region).create_secret(
                Name="orders-db", SecretString=json.dumps(content), Tags=[CONSENT]
            )
        database = replace(recovery.target.database, secret_id="orders-db")
        return replace(recovery, target=replace(recovery.target, database=database))

    return made


def test_what_a_secret_holds_is_compared_by_name_and_never_told(secrets_of, aws) -> None:
    first = {"host": "a", "port": 1, "username": "u", "password": "s3cret", "dbname": "db"}
    recovery = secrets_of(first=first, recovery={**first, "host": "b", "password": "an0ther", "more": 1})
    look = traffic.secrets_compared(recovery, region="recovery", other="first")
    assert look.done()
    assert look.result() == {"differ": "in more, password"}
    Secrets(recovery.target, RECOVERY_REGION)._put("orders-db", first, {"host": "b", "port": 2})
    assert look.done()
    assert look.result() == {"differ": "no"}
    aws.answers["GetSecretValue"] = lambda call: (
        (400, "application/json", '{"__type":"AccessDeniedException"}') if call.region == REGION else None
    )
    assert look.done()
    assert look.result()["differ"].startswith("not known: ")


@pytest.fixture
def replicated(aws, recovery) -> Recovery:
    """Give the target a secret of the first region with a replica in the other one."""
    aws.client("secretsmanager").create_secret(
        Name="orders-db", SecretString=json.dumps({"host": "a", "port": 1}), Tags=[CONSENT],
        AddReplicaRegions=[{"Region": RECOVERY_REGION}],
    )  # fmt: skip
    replica_secrets_stand_alone()
    database = replace(recovery.target.database, secret_id="orders-db")
    return replace(recovery, target=replace(recovery.target, database=database))


def pointing(recovery: Recovery, observed: Any = None) -> tuple[Any, Any]:
    """Return the step that points the recovery region's secret to the replica, and what it observes."""
    where = {"instance": "replica", "region": "recovery"}
    observed = observed or info(traffic.point_secret).observe(recovery, **where)
    return traffic.point_secret(recovery, **where, facts=observed), observed


def test_a_replica_that_names_the_instance_already_is_left_as_it_is(replicated, aws) -> None:
    """Somebody has put the address into the primary: there is nothing to do, and nothing that could fail."""
    now = Database(replicated.target, RECOVERY_REGION).instance("orders-replica")
    Secrets(replicated.target)._put("orders-db", {}, {"host": now.host, "port": now.port})
    done = len(aws.changes())
    step, observed = pointing(replicated)
    assert observed == {"was_replica_of": REGION}
    assert step.done()
    assert len(aws.changes()) == done


def test_a_tag_that_is_refused_keeps_nobody_from_recovering(replicated, aws) -> None:
    aws.inject("TagResource", "AccessDeniedException", times=9)
    said: list[str] = []
    step, _ = pointing(replace(replicated, say=said.append))
    step.act()
    assert step.done()
    assert "may not secretsmanager:TagResource" in step.result()["not_tagged"]
    assert "could not be tagged" in said[0]


def test_a_killed_attempt_that_had_not_tagged_is_ended(replicated, aws, permit, journal) -> None:
    _, observed = pointing(replicated)
    now = Database(replicated.target, RECOVERY_REGION).instance("orders-replica")
    there = Secrets(replicated.target, RECOVERY_REGION)
    there.point("orders-db", {"host": now.host, "port": now.port}, was_replica_of=REGION, permit=permit, undo=journal)
    step, _ = pointing(replicated, observed)
    assert not step.done()
    step.act()
    assert step.done()
    assert there.was_replica_of("orders-db") == REGION
    assert aws.changes().count("PutSecretValue") == 1


def test_a_replication_that_fails_is_told_with_its_reason(replicated, aws, monkeypatch) -> None:
    recovery = replicated
    there = Secrets(recovery.target, RECOVERY_REGION)
    there.point("orders-db", {"host": "b", "port": 2}, permit=recovery.permit, undo=recovery.undo)
    there.tag_replica("orders-db", REGION, permit=recovery.permit)
    where: dict[str, Any] = {"region": "recovery", "instance": "writer", "instance_region": "first"}
    again = traffic.secret_again(recovery, **where, facts={"replicate": True})
    states = ["InProgress"]
    monkeypatch.setattr(Secrets, "replication", lambda *_: (states[-1], "the key is not there"))
    before = aws.changes()
    again.act()
    assert aws.changes() == before  # it is under way
    assert not again.done()
    states.append("Failed")
    with pytest.raises(Refused, match="is not replicated to eu-west-1: the key is not there"):
        again.done()


def test_a_secret_that_was_always_one_of_its_own_names_the_writer_after_a_failback(secrets_of, aws) -> None:
    held = {"host": "a", "port": 1}
    recovery = secrets_of(first=held, recovery=held)
    where: dict[str, Any] = {"region": "recovery", "instance": "writer", "instance_region": "first"}
    observed = info(traffic.secret_again).observe(recovery, **where)
    assert observed == {"replicate": False}
    (effect,) = info(traffic.secret_again).plan(recovery.target, **where)
    assert (effect.call, effect.region) == ("secretsmanager:PutSecretValue", RECOVERY_REGION)
    again = traffic.secret_again(recovery, **where, facts=observed)
    assert not again.done()
    again.act()
    assert again.done()
    writer = Database(recovery.target).instance("orders")
    assert Secrets(recovery.target, RECOVERY_REGION).value("orders-db") == {"host": writer.host, "port": writer.port}
    assert Secrets(recovery.target).value("orders-db") == held
    assert aws.changes()[-1] == "PutSecretValue"


def test_one_that_a_failover_took_out_of_its_replication_is_replicated_again(secrets_of, permit, journal) -> None:
    held = {"host": "a", "port": 1}
    recovery = secrets_of(first=held, recovery=held)
    there = Secrets(recovery.target, RECOVERY_REGION)
    there.point("orders-db", {"host": "b", "port": 2}, permit=permit, undo=journal)
    there.tag_replica("orders-db", REGION, permit=permit)
    where: dict[str, Any] = {"region": "recovery", "instance": "writer", "instance_region": "first"}
    observed = info(traffic.secret_again).observe(recovery, **where)
    again = traffic.secret_again(recovery, **where, facts=observed)
    assert observed == {"replicate": True}
    assert not again.done()
    again.act()
    assert again.done()
    assert info(traffic.secret_again).observe(recovery, **where) == observed
    assert info(traffic.secret_again).plan(recovery.target, **where) == ()
    assert there.value("orders-db") == held


def info(function: Any) -> Any:
    return function.drkit_step
