"""An honest Auto Scaling controller: balanced over the zones, replaces what is dead, obeys suspended processes.

It does not know that a zone is lost (neither does AWS'): as long as the group's subnets include the lost zone's and
launches are not held back, replacements go there and never get healthy.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

from drkit import clock
from drkit.lab import moto_patches
from drkit.lab.cloud import Cloud
from drkit.lab.compute import Compute

log = logging.getLogger("drkit.lab.autoscaling")

TICK_S = 0.25
DEREGISTRATION_DELAY_S = 1.0  # AWS waits 300 s by default; requests of the lab take milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One instance of a group as the controller sees it."""

    instance_id: str
    subnet_id: str
    pending: bool = False  # not up, or its first health check is not over
    unhealthy_s: float = 0.0  # for how long; 0 = healthy
    protected: bool = False
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    desired: int
    subnets: tuple[str, ...]  # those it may launch in, in order
    suspended: frozenset[str] = frozenset()
    replace_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    terminate: tuple[str, ...] = ()  # instance ids
    launch: tuple[str, ...] = ()  # subnet ids, one for each instance


def decide(group: Group, members: tuple[Member, ...]) -> Decision:
    """Return what the controller does next with a group. Pure.

    Unhealthy instances are terminated first and replaced at the next look; an imbalance is cured by launching before
    terminating, and only while all members are healthy.
    """
    may_launch = "Launch" not in group.suspended and bool(group.subnets)
    may_terminate = "Terminate" not in group.suspended
    if may_terminate and "ReplaceUnhealthy" not in group.suspended:
        dead = tuple(m.instance_id for m in members if m.unhealthy_s > 0 and m.unhealthy_s >= group.replace_after_s)
        if dead:
            return Decision(terminate=dead)
    surplus = len(members) - group.desired
    if surplus < 0:
        return Decision(launch=_emptiest(group, members, -surplus)) if may_launch else Decision()
    settled = not any(m.pending or m.unhealthy_s > 0 for m in members)
    if surplus > 0:
        if not may_terminate or (not settled and surplus == 1):  # one more than desired may be a rebalance under way
            return Decision()
        return Decision(terminate=_fullest(group, members, surplus))
    if (
        settled
        and may_launch
        and may_terminate
        and "AZRebalance" not in group.suspended
        and _unbalanced(group, members)
    ):
        return Decision(launch=_emptiest(group, members, 1))
    return Decision()


def _emptiest(group: Group, members: tuple[Member, ...], count: int) -> tuple[str, ...]:
    used = Counter(m.subnet_id for m in members)
    chosen = []
    for _ in range(count):
        subnet = min(group.subnets, key=lambda s: used[s])  # the first of equals
        used[subnet] += 1
        chosen.append(subnet)
    return tuple(chosen)


def _fullest(group: Group, members: tuple[Member, ...], count: int) -> tuple[str, ...]:
    left = [m for m in members if not m.protected]
    chosen = []
    for _ in range(min(count, len(left))):
        used = Counter(m.subnet_id for m in left)
        victim = max(left, key=lambda m: (m.subnet_id not in group.subnets, used[m.subnet_id], m.age_s))
        left.remove(victim)
        chosen.append(victim.instance_id)
    return tuple(chosen)


def _unbalanced(group: Group, members: tuple[Member, ...]) -> bool:
    used = Counter(m.subnet_id for m in members)
    if set(used) - set(group.subnets):
        return True
    counts = [used[s] for s in group.subnets]
    return max(counts) - min(counts) > 1


class Controller:
    """Applies `decide` to every Auto Scaling group of one region, again and again."""

    def __init__(self, cloud: Cloud, compute: Compute, region: str, *, replace_after_s: float, speed: float) -> None:
        self._cloud, self._compute, self._region = cloud, compute, region
        self._replace_after_s, self._speed = replace_after_s, speed
        self._first_seen: dict[str, int] = {}  # instance id → ns
        self._unhealthy_since: dict[str, int] = {}
        self._draining_since: dict[str, int] = {}
        self._members: dict[str, set[str]] = {}  # group → instance ids, to find those of a deleted group
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"autoscaling {region}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            try:
                self.tick()
            except Exception:  # a controller that dies would be a lab that lies
                log.exception("auto scaling")

    def tick(self) -> None:
        """Look at each group once and act."""
        with self._cloud.lock:
            groups = self._cloud.backend("autoscaling", self._region).autoscaling_groups
            acted = [self._look(group) for group in groups.values()]
            for orphan in [name for name in self._members if name not in groups]:
                self._terminate(sorted(self._members.pop(orphan)), f"group {orphan} was deleted")
                acted.append(True)
        if any(acted):
            self._compute.follow_all()

    def _look(self, group: Any) -> bool:
        now_ns = clock.now_ns()
        suspended = frozenset(p["ProcessName"] for p in group.suspended_processes)
        self._members[group.name] = {s.instance.id for s in group.instance_states}
        members = tuple(
            self._member(group, state, suspended, now_ns)
            for state in group.instance_states
            if state.lifecycle_state in ("Pending", "InService")
        )
        decision = decide(
            Group(
                desired=int(group.desired_capacity or 0),
                subnets=tuple(s for s in (group.vpc_zone_identifier or "").split(",") if s),
                suspended=suspended,
                replace_after_s=self._replace_after_s,
            ),
            members,
        )
        for subnet in decision.launch:
            launched = moto_patches.launch(group, subnet)
            where = self._compute.place(self._region, subnet) or subnet
            log.info("%s: launched %s in %s", group.name, launched, where)
            if "AddToLoadBalancer" not in suspended:
                self._register(group, launched)
        for state in group.instance_states:
            if state.instance.id in decision.terminate:
                state.lifecycle_state = "Terminating"
                self._draining_since[state.instance.id] = now_ns
                self._deregister(group, state.instance.id)
        ended = [
            s.instance.id for s in group.instance_states if s.lifecycle_state == "Terminating" and self._drained(s)
        ]
        if ended:
            self._terminate(ended, "unhealthy or too many")
            group.instance_states = [s for s in group.instance_states if s.instance.id not in ended]
        return bool(decision.launch or decision.terminate or ended)

    def _drained(self, state: Any) -> bool:
        """Return whether an instance has had its time to answer what it had begun; a dead one has nothing to answer."""
        waited_s = (clock.now_ns() - self._draining_since.get(state.instance.id, 0)) / clock.NS_PER_S
        return not state.instance.is_running() or waited_s >= DEREGISTRATION_DELAY_S / self._speed

    def _member(self, group: Any, state: Any, suspended: frozenset[str], now_ns: int) -> Member:
        instance_id = state.instance.id
        age_s = (now_ns - self._first_seen.setdefault(instance_id, now_ns)) / clock.NS_PER_S
        health = self._target_state(group, instance_id)
        if state.lifecycle_state == "Pending" and self._compute.started(instance_id):
            state.lifecycle_state = "InService"
        if "HealthCheck" not in suspended:
            grace_s = float(group.health_check_grace_period or 0) / self._speed
            dead = not state.instance.is_running()
            failing = group.health_check_type == "ELB" and health == "unhealthy" and age_s >= grace_s
            if dead or failing:
                state.health_status = "Unhealthy"
            elif instance_id in self._unhealthy_since:
                state.health_status = "Healthy"  # came back before it was replaced
        if state.health_status == "Healthy":
            self._unhealthy_since.pop(instance_id, None)
            unhealthy_s = 0.0
        else:  # found by the controller, or said by SetInstanceHealth
            unhealthy_s = max(1e-9, (now_ns - self._unhealthy_since.setdefault(instance_id, now_ns)) / clock.NS_PER_S)
        return Member(
            instance_id=instance_id,
            subnet_id=state.instance.subnet_id or "",
            pending=state.lifecycle_state == "Pending" or health not in (None, "healthy"),
            unhealthy_s=unhealthy_s,
            protected=bool(state.protected_from_scale_in),
            age_s=age_s,
        )

    def _target_state(self, group: Any, instance_id: str) -> str | None:
        if not group.target_group_arns:
            return None
        health = self._compute.health(instance_id)
        return health[0] if health else None

    def _register(self, group: Any, instance_id: str) -> None:
        elb = self._cloud.backend("elbv2", self._region)
        for arn in group.target_group_arns:
            if arn in elb.target_groups:
                elb.register_targets(arn, [{"Id": instance_id}])

    def _deregister(self, group: Any, instance_id: str) -> None:
        elb = self._cloud.backend("elbv2", self._region)
        for arn in group.target_group_arns:
            if arn in elb.target_groups:
                elb.deregister_targets(arn, [{"Id": instance_id}])

    def _terminate(self, instance_ids: list[str], why: str) -> None:
        ec2 = self._cloud.backend("ec2", self._region)
        alive = [i for i in instance_ids if (x := ec2.get_instance_by_id(i)) and x._state.name != "terminated"]
        if alive:
            ec2.terminate_instances(alive)
        self._cloud.backend("elbv2", self._region).notify_terminate_instances(instance_ids)
        for instance_id in instance_ids:
            self._unhealthy_since.pop(instance_id, None)
            self._first_seen.pop(instance_id, None)
            self._draining_since.pop(instance_id, None)
        log.info("terminated %s: %s", ", ".join(instance_ids), why)
