"""May it be hurt? Each guard refuses with its sentence and hint, and lets its twin through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drkit.errors import Aborted, BadDocument, Refused
from drkit.guard import GLOBAL, BlastRadius, Facts, Freeze, Permit, Rules, authorise
from drkit.model import Effect
from drkit.project import Settings, parse

NOW = datetime(2026, 12, 24, 12, tzinfo=UTC)
STOP = Effect("ec2:StopInstances", "i-1", "eu-central-1", "eu-central-1a", consented=True)
CUT = Effect("ec2:ReplaceNetworkAclAssociation", "subnet-1", "eu-central-1", "eu-central-1a", consented=True)
REBOOT = Effect("rds:RebootDBInstance", "orders-db", "eu-central-1", consented=True)


@dataclass(frozen=True)
class Case:
    """A request that is allowed unless something is changed in it."""

    effects: Sequence[Effect] = (STOP, CUT, REBOOT)
    facts: Facts = field(
        default_factory=lambda: Facts(
            target="orders", account_id="111111111111", caller_account_id="111111111111",
            regions=("eu-central-1", "eu-west-1"), loopback=False, now=NOW,
        )
    )  # fmt: skip
    rules: Rules = field(default_factory=lambda: Rules(allowed_accounts=("111111111111",)))
    radius: BlastRadius = field(default_factory=BlastRadius)

    def ask(self, *, real: bool = False) -> Permit:
        return authorise("run-1", self.effects, facts=self.facts, rules=self.rules, blast_radius=self.radius, real=real)

    def where(self, **facts: Any) -> Case:
        return replace(self, facts=replace(self.facts, **facts))


OK = Case()
ABROAD = replace(STOP, region="us-east-1")
CHRISTMAS = Freeze(starts=NOW, ends=NOW + timedelta(days=3), why="christmas")

GUARDS: dict[str, tuple[Case, str, str, Case]] = {
    "credentials of another account": (
        OK.where(caller_account_id="222222222222"), "the credentials are of account 222222222222", "profile", OK,
    ),
    "an account that is not allowed": (
        replace(OK, rules=Rules()), "account 111111111111 is not in allowed_accounts", "[guard]",
        replace(OK, rules=Rules()).where(loopback=True),
    ),
    "a region that is not the target's": (
        replace(OK, effects=(ABROAD,)), "region us-east-1 is not allowed", "allowed_regions",
        replace(OK, effects=(replace(STOP, region=GLOBAL),)),
    ),
    "a region that drkit.toml does not allow": (
        replace(OK, rules=Rules(allowed_accounts=("111111111111",), allowed_regions=("eu-west-1",))),
        "region eu-central-1 is not allowed", "eu-west-1",
        replace(OK, rules=Rules(allowed_accounts=("111111111111",), allowed_regions=("eu-central-1",))),
    ),
    "a freeze, from its first moment": (
        replace(OK, rules=replace(OK.rules, freeze=(CHRISTMAS,))), "christmas until 2026-12-27 12:00 UTC", "wait",
        replace(OK, rules=replace(OK.rules, freeze=(CHRISTMAS,))).where(now=CHRISTMAS.ends),
    ),
    "an open incident": (OK.where(open_incident="INC-7"), "an incident is open (INC-7)", "closed", OK),
    "a run of another machine": (
        OK.where(unfinished=("run-7", "run-8")),
        "run run-7 (and 1 more) is going on there, or has left something broken",
        "drkit undo run-7 --from-cloud --target orders", OK,
    ),
    "an alarm": (OK.where(alarms_firing=("5xx", "lag")), "already in alarm: 5xx, lag", "healthy", OK),
    "another library's action": (
        OK.where(unresolved=("terminate",)), "not running terminate", "allow_unresolved",
        replace(OK, rules=replace(OK.rules, allow_unresolved=True)).where(unresolved=("terminate",)),
    ),
    "an empty selection": (
        replace(OK, effects=()), "nothing to break", "drkit plan",
        replace(OK, effects=(), rules=replace(OK.rules, allow_unresolved=True)).where(unresolved=("terminate",)),
    ),
    "a resource without the consent tag": (
        replace(OK, effects=(CUT, replace(STOP, consented=False))), "i-1: it does not carry the tag drkit:consent=yes",
        "one by one", OK,
    ),
    "a second zone": (
        replace(OK, effects=(STOP, replace(STOP, resource="i-2", zone="eu-central-1b"))),
        "2 zones would be touched, at most 1",
        "blast_radius", replace(OK, effects=(STOP, replace(STOP, resource="i-2"))),
    ),
    "a second region": (
        replace(OK, effects=(STOP, replace(REBOOT, region="eu-west-1"))), "2 regions would be touched", "blast_radius",
        replace(OK, effects=(STOP, replace(REBOOT, region=GLOBAL))),
    ),
    "a second database": (
        replace(OK, effects=(REBOOT, replace(REBOOT, resource="users-db"))), "2 databases would be touched",
        "blast_radius", replace(OK, effects=(REBOOT, REBOOT)),
    ),
    "an instance too many": (
        replace(OK, effects=(STOP, replace(STOP, resource="i-2")), radius=BlastRadius(instances_max=1)),
        "2 instances would be touched", "blast_radius", replace(OK, radius=BlastRadius(instances_max=1)),
    ),
    "a call too many": (
        replace(OK, rules=replace(OK.rules, effects_max=2)), "3 calls would be touched", "effects_max",
        replace(OK, rules=replace(OK.rules, effects_max=3)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_refuses_with_a_sentence_and_a_hint(guard: str) -> None:
    bad, sentence, hint, _ = GUARDS[guard]
    with pytest.raises(Refused) as refusal:
        bad.ask()
    assert sentence in refusal.value.message
    assert hint in refusal.value.hint
    assert refusal.value.exit_code == 4


@pytest.mark.parametrize("guard", GUARDS)
def test_each_guard_lets_its_twin_through(guard: str) -> None:
    good = GUARDS[guard][3]
    permit = good.ask()
    permit.check()
    assert permit.run_id == "run-1"


# What refuses a real recovery too; the other guards keep experiments from a system in trouble, or within bounds.
OF_A_RECOVERY = {
    "credentials of another account", "an account that is not allowed", "a region that is not the target's",
    "a region that drkit.toml does not allow", "a run of another machine", "another library's action",
}  # fmt: skip


@pytest.mark.parametrize("guard", GUARDS)
def test_a_real_recovery_is_refused_for_the_wrong_place_only(guard: str) -> None:
    case, sentence, _, good = GUARDS[guard]
    assert not good.ask().real
    assert good.ask(real=True).real
    if guard not in OF_A_RECOVERY:
        case.ask(real=True).check()
        return
    with pytest.raises(Refused) as refusal:
        case.ask(real=True)
    assert sentence in refusal.value.message
    assert "not breaking" not in refusal.value.message


def test_a_permit_comes_from_authorise_only() -> None:
    with pytest.raises(TypeError):
        Permit("run-1")


def test_a_revoked_permit_stays_so_for_its_first_reason() -> None:
    permit = OK.ask()
    permit.revoke("a person stopped it")
    permit.revoke("the run is over")
    with pytest.raises(Aborted, match="not breaking anything more: a person stopped it"):
        permit.check()


def test_a_permit_asks_whether_the_lease_is_still_held() -> None:
    permit = OK.ask()
    taken: list[str] = []
    permit.also_ask = lambda: taken[0] if taken else None
    permit.check()
    taken.append("the guardian has taken the run over")
    with pytest.raises(Aborted, match="the guardian has taken the run over"):
        permit.check()


@pytest.mark.parametrize(
    ("starts", "ends", "problem"),
    [
        (datetime(2026, 12, 24), datetime(2026, 12, 27, tzinfo=UTC), "time zone"),  # noqa: DTZ001
        (datetime(2026, 12, 27, tzinfo=UTC), datetime(2026, 12, 24, tzinfo=UTC), "ends after it starts"),
    ],
)
def test_a_freeze_that_cannot_be_compared_is_refused_in_the_file(
    starts: datetime, ends: datetime, problem: str
) -> None:
    with pytest.raises(BadDocument, match=problem):
        parse(Settings, {"guard": {"freeze": [{"starts": starts, "ends": ends}]}}, "drkit.toml")
    good = {
        "guard": {
            "freeze": [
                {"starts": min(starts, ends, key=lambda t: t.day).replace(tzinfo=UTC), "ends": NOW + timedelta(days=30)}
            ]
        }
    }
    assert len(parse(Settings, good, "drkit.toml").guard.freeze) == 1
