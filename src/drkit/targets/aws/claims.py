"""Who recovers a target, of all machines: one parameter in SSM of the recovery region, which outlives the first."""

from __future__ import annotations

import json
from dataclasses import dataclass

from drkit import clock
from drkit.errors import TargetBusy, TargetError
from drkit.targets import Target
from drkit.targets.aws.account import Account

ROOT = "/drkit/recovery"
SETTLE_S = 2.0
IAM_CLAIM = ("ssm:DeleteParameter", "ssm:GetParameter", "ssm:PutParameter")


@dataclass(frozen=True, slots=True)
class Claim:
    run_id: str
    by: str  # who, on which machine
    at: str  # ISO 8601, UTC


class Claims:
    """At most one playbook a target: AWS refuses to make a parameter that is there."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._ssm = Account(target, home_region(target)).client("ssm")
        self._name = f"{ROOT}/{_key(target)}"

    def holder(self) -> Claim | None:
        """Return who holds the target for recovery, None if nobody does."""
        try:
            value = self._ssm.get_parameter(Name=self._name)["Parameter"]["Value"]
        except TargetError as e:
            if e.code == "ParameterNotFound":
                return None
            raise
        return Claim(**json.loads(value))

    def take(self, claim: Claim, *, instead_of: str = "") -> None:
        """Claim the target for a run; one that has it already keeps it.

        instead_of: a run that holds it and will never go on (its machine is lost). Raises TargetBusy, naming the run
        that holds it.
        """
        for _ in range(2):
            try:
                self._ssm.put_parameter(
                    Name=self._name,
                    Value=json.dumps({"run_id": claim.run_id, "by": claim.by, "at": claim.at}),
                    Type="String",
                )
                if instead_of:  # of two who replace the same run at once, one may have deleted what the other had put
                    clock.sleep_s(SETTLE_S)
                    if why := self.lost(claim.run_id):
                        raise TargetBusy(why, "look again: drkit status")
                return
            except TargetError as e:
                if e.code != "ParameterAlreadyExists":
                    raise
            if self.refuse_others(claim.run_id, instead_of=instead_of):
                return
            self._delete()
        raise TargetBusy(f"{self._target.name} is claimed by somebody else just now", "look again: drkit status")

    def refuse_others(self, run_id: str, *, instead_of: str = "") -> bool:
        """Return whether the run has the target; raise TargetBusy if another one has, but for `instead_of`."""
        now = self.holder()
        if now is None or now.run_id == instead_of:
            return False
        if now.run_id != run_id:
            raise TargetBusy(
                f"{now.by} recovers {self._target.name} since {now.at}: run {now.run_id}",
                f"go on with it: drkit resume {now.run_id}; if its machine is lost: --instead-of {now.run_id}",
            )
        return True

    def lost(self, run_id: str) -> str | None:
        """Return why a run may do no more, None while it has the target: asked before each effect.

        A machine that slept while another took its run over must not go on where it was.
        """
        try:
            now = self.holder()
        except TargetError as e:
            return f"whether this run still has the target cannot be asked: {e.message}"
        if now is None:
            return "this run does not have the target any more"
        return None if now.run_id == run_id else f"run {now.run_id} of {now.by} has the target now"

    def release(self, run_id: str) -> None:
        """Give the target back; one that another run holds is left alone."""
        now = self.holder()
        if now is not None and now.run_id == run_id:
            self._delete()

    def _delete(self) -> None:
        try:
            self._ssm.delete_parameter(Name=self._name)
        except TargetError as e:
            if e.code != "ParameterNotFound":
                raise


def home_region(target: Target) -> str:
    """Return the region whose APIs a recovery depends on: the recovery region, where there is one."""
    return target.recovery_region or target.region


def _key(target: Target) -> str:
    """Return what names the target in AWS, whatever its file is called."""
    database, network = target.database, target.network
    if database:
        return f"database/{database.instance_id}"
    return f"vpc/{network.vpc_id}" if network else f"target/{target.name}"
