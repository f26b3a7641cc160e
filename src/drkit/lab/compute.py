"""Instances, subnets and targets of a lab: whatever the EC2 and ELB records say, the plant is made to follow.

Level-triggered: after any call that changes a record the whole of it is compared with what runs. So there is no list of
calls to keep up with: an instance that is recorded as running has a process, one that is not has none; a subnet whose
network ACL lets nothing through is cut; the balancer has the target group's targets.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from drkit.lab.cloud import AwsError, Call, Cloud
from drkit.lab.plant import Plant

log = logging.getLogger("drkit.lab.compute")


class Compute:
    """Makes the plant's instances, places and targets follow moto's records of a region and its recovery region."""

    def __init__(self, cloud: Cloud, plant: Plant, regions: tuple[str, ...]) -> None:
        self._cloud, self._plant, self._regions = cloud, plant, regions
        self._places: dict[tuple[str, str], str] = {}  # (region, subnet) → place
        self._starts: dict[str, Future[int]] = {}  # instances that have a process or get one
        self._targets: set[str] = set()
        self._cut: set[str] = set()
        self._lock = threading.RLock()
        self._starters = ThreadPoolExecutor(4, thread_name_prefix="instance")
        for action in ("StartInstances", "StopInstances"):
            cloud.before["ec2", action] = self._before_start_or_stop
        cloud.before["ec2", "ReplaceNetworkAclAssociation"] = self._before_association

    def adopt(self, region: str, subnet_id: str, place: str) -> None:
        """From now on this subnet is that place of the plant: "a/app", "b/db", "r/app"."""
        self._places[region, subnet_id] = place

    def place(self, region: str, subnet_id: str) -> str | None:
        return self._places.get((region, subnet_id))

    def _before_start_or_stop(self, call: Call) -> None:
        verb = "started" if call.action == "StartInstances" else "stopped"
        for name, value in call.params.items():
            instance = name.startswith("InstanceId.") and self._backend(call).get_instance_by_id(value)
            if instance and instance._state.name == "terminated":  # moto would raise it from the dead
                raise AwsError(
                    "IncorrectInstanceState",
                    f"The instance '{value}' is not in a state from which it can be {verb}.",
                )

    def _before_association(self, call: Call) -> None:
        wanted = call.text("AssociationId")
        acls = self._backend(call).network_acls.values()
        if not any(association.id == wanted for acl in acls for association in acl.associations):
            raise AwsError("InvalidAssociationID.NotFound", f"The association ID '{wanted}' does not exist")

    def _backend(self, call: Call) -> Any:
        return self._cloud.backend("ec2", call.region)

    def follow(self, call: Call) -> None:
        """Bring about what a call has changed; returns once nothing runs or passes that should not."""
        if call.service in ("ec2", "autoscaling", "elbv2"):
            self.follow_all()

    def follow_all(self) -> None:
        with self._lock:
            self._follow_network()
            self._follow_instances()
            self._follow_targets()

    def started(self, instance_id: str) -> bool:
        """Return whether this instance's process is up (however it feels)."""
        start = self._starts.get(instance_id)
        return start is not None and start.done() and start.exception() is None

    def health(self, instance_id: str) -> tuple[str, str | None, str | None]:
        """Return what the load balancer thinks of a registered target: ELB's state, reason, description."""
        seen = self._plant.target_health().get(instance_id)
        if seen is None:  # not started, or started and the load balancer has yet to be told of it
            return "initial", "Elb.RegistrationInProgress", None
        return seen.state.value, seen.reason or None, _REASONS.get(seen.reason)

    # --- one record each ----------------------------------------------------------------------------------------------

    def _follow_network(self) -> None:
        with self._cloud.lock:
            cut = {place for (region, subnet), place in self._places.items() if not self._open(region, subnet)}
        for place in cut - self._cut:
            self._plant.cut(place)
        for place in self._cut - cut:
            self._plant.heal(place)
        if cut != self._cut:
            log.info("cut places: %s", sorted(cut) or "none")
        self._cut = cut

    def _open(self, region: str, subnet_id: str) -> bool:
        acls = self._cloud.backend("ec2", region).network_acls.values()
        acl = next((a for a in acls for s in a.associations if s.subnet_id == subnet_id), None)
        return acl is None or (_lets_in(acl, egress=False) and _lets_in(acl, egress=True))

    def _follow_instances(self) -> None:
        with self._cloud.lock:
            wanted = {
                i.id: place.partition("/")[0]
                for region in self._regions
                for i in self._cloud.backend("ec2", region).all_instances()
                if i.is_running() and (place := self.place(region, i.subnet_id or ""))
            }
        gone = [i for i in self._starts if i not in wanted]
        for instance_id in gone:
            start = self._starts.pop(instance_id)
            if not start.cancel():
                start.exception()  # a start under way is over before it is undone
        list(self._starters.map(self._plant.stop_instance, gone))
        for instance_id, zone in wanted.items():
            if instance_id not in self._starts:
                start = self._starters.submit(self._plant.start_instance, instance_id, zone)
                start.add_done_callback(self._started_or_not)
                self._starts[instance_id] = start

    def _started_or_not(self, start: Future[int]) -> None:
        if start.cancelled():
            return
        if error := start.exception():
            log.error("an instance did not start: %s", error)
        # the target can be registered now; in a thread of its own, since a follow in progress may wait for this one
        threading.Thread(target=self.follow_all, daemon=True).start()

    def _follow_targets(self) -> None:
        with self._cloud.lock:
            backends = [self._cloud.backend("elbv2", region) for region in self._regions]
            wanted = {target for b in backends for group in b.target_groups.values() for target in group.targets}
        wanted = {target for target in wanted if target in self._targets or self.started(target)}
        for target in wanted - self._targets:
            self._plant.register_target(target)
        for target in self._targets - wanted:
            self._plant.deregister_target(target)
        self._targets = wanted

    def stop(self) -> None:
        self._starters.shutdown(wait=True, cancel_futures=True)


_REASONS = {
    "Elb.RegistrationInProgress": "Target registration is in progress",
    "Elb.InitialHealthChecking": "Initial health checks in progress",
    "Target.Timeout": "Request timed out",
    "Target.FailedHealthChecks": "Health checks failed",
    "Target.ResponseCodeMismatch": "Health checks failed with these codes",
    "Target.NotInUse": "Target group is not configured to receive traffic from the load balancer",
}


def _lets_in(acl: Any, *, egress: bool) -> bool:
    """Return whether a network ACL lets anything through one way: an allow entry before one that denies all."""
    entries = [e for e in acl.network_acl_entries if _truth(e.egress) == egress]
    for entry in sorted(entries, key=lambda e: int(e.rule_number)):
        if entry.rule_action == "allow":
            return True
        if entry.cidr_block == "0.0.0.0/0" and str(entry.protocol) == "-1":
            return False
    return False


def _truth(value: object) -> bool:  # moto keeps booleans as it got them
    return str(value).lower() == "true"
