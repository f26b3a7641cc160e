"""What the lab's Auto Scaling controller decides."""

from __future__ import annotations

from dataclasses import replace

from drkit.lab.autoscaling import Decision, Group, Member, decide

GROUP = Group(desired=3, subnets=("a", "b", "c"), replace_after_s=2.0)


def member(subnet: str, number: int = 0, **state: object) -> Member:
    return replace(Member(instance_id=f"i-{subnet}{number}", subnet_id=subnet), **state)  # type: ignore[arg-type]


WHOLE = (member("a"), member("b"), member("c"))


def test_a_whole_group_is_left_alone() -> None:
    assert decide(GROUP, WHOLE) == Decision()


def test_an_empty_group_is_spread_over_its_zones() -> None:
    assert decide(GROUP, ()) == Decision(launch=("a", "b", "c"))
    assert decide(replace(GROUP, desired=5), ()) == Decision(launch=("a", "b", "c", "a", "b"))


def test_what_is_missing_goes_to_the_emptiest_zone() -> None:
    assert decide(GROUP, (member("a"), member("c"))) == Decision(launch=("b",))


def test_the_lost_zone_is_refilled_if_nobody_holds_launches_back() -> None:
    assert decide(GROUP, (member("b"), member("c"))) == Decision(launch=("a",))
    without_a = replace(GROUP, subnets=("b", "c"))
    assert decide(without_a, (member("b"), member("c"))) == Decision(launch=("b",))


def test_unhealthy_ones_are_terminated_after_a_while_and_first() -> None:
    just_now = (member("a", unhealthy_s=1.9), *WHOLE[1:])
    assert decide(GROUP, just_now) == Decision()
    assert decide(GROUP, (member("a", unhealthy_s=2.0), *WHOLE[1:])) == Decision(terminate=("i-a0",))


def test_suspended_processes_are_not_carried_out() -> None:
    dead = (member("a", unhealthy_s=9), *WHOLE[1:])
    for process in ("ReplaceUnhealthy", "Terminate"):
        assert decide(replace(GROUP, suspended=frozenset({process})), dead) == Decision()
    assert decide(replace(GROUP, suspended=frozenset({"Launch"})), WHOLE[1:]) == Decision()
    assert decide(replace(GROUP, suspended=frozenset({"Launch"})), dead) == Decision(terminate=("i-a0",))


def test_too_many_are_terminated_where_there_are_most() -> None:
    assert decide(GROUP, (*WHOLE, member("b", 1, age_s=5))) == Decision(terminate=("i-b1",))
    assert decide(replace(GROUP, desired=2), (member("b"), *WHOLE[1:])).terminate in {("i-b0",)}


def test_protected_ones_stay() -> None:
    crowd = (member("b", 1, protected=True), member("b", 2, protected=True), member("a"))
    assert decide(replace(GROUP, desired=2), crowd) == Decision(terminate=("i-a0",))


def test_a_zone_that_is_back_is_balanced_by_launching_before_terminating() -> None:
    away = (member("b"), member("b", 1), member("c"))
    assert decide(GROUP, away) == Decision(launch=("a",))
    coming = (*away, member("a", pending=True))
    assert decide(GROUP, coming) == Decision()  # not before the new one serves
    assert decide(GROUP, (*away, member("a"))).terminate in {("i-b0",), ("i-b1",)}
    assert decide(replace(GROUP, suspended=frozenset({"AZRebalance"})), away) == Decision()


def test_instances_in_a_zone_it_may_no_longer_use_are_moved() -> None:
    assert decide(replace(GROUP, subnets=("b", "c")), WHOLE) == Decision(launch=("b",))
    moved = (*WHOLE, member("b", 1))
    assert decide(replace(GROUP, subnets=("b", "c")), moved) == Decision(terminate=("i-a0",))


def test_nothing_is_balanced_while_something_is_unhealthy() -> None:
    assert decide(GROUP, (member("b"), member("b", 1), member("c", unhealthy_s=0.5))) == Decision()
