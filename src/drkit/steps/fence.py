"""The fence: an old writer that can't write any more, however alive; proven, and asked again before a promotion."""

from __future__ import annotations

from datetime import datetime

from drkit import clock
from drkit.errors import StepFailed
from drkit.model import Effect, Mark, MarkKind
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.names import endpoint_of, instance_of, region_of
from drkit.targets import Target, postgres
from drkit.targets.aws.fence import IAM_FENCE
from drkit.targets.aws.permissions import asks
from drkit.targets.postgres import Endpoint

_IAM_LOOK = ("rds:DescribeDBInstances",)
BY_HAND_S = 900.0  # so long is a person's word trusted that the region is fenced; on AWS and in the lab alike
APART_S = 10.0  # between two questions, on AWS: a network ACL takes a moment until it holds everywhere
ASK_S = 2.0  # how long a server is given to take a write


def _fenced_subnets(target: Target, region: str, instance_id: str) -> tuple[str, ...]:
    from drkit.targets.aws import Database

    return Database(target, region).subnet_ids(instance_id)


def _observe_fence(recovery: Recovery, *, instance: str, region: str, rival: str, rival_region: str) -> Facts:
    """Return the subnets and the address of what is fenced: the region may not tell them any more later."""
    target, name = recovery.target, region_of(recovery.target, region)
    instance_id = instance_of(target, instance)
    host, port = endpoint_of(target, name, instance_id)
    return {"subnet_ids": list(_fenced_subnets(target, name, instance_id)), "host": host, "port": port}


def _plan_fence(target: Target, *, instance: str, region: str, rival: str, rival_region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Fences

    name = region_of(target, region)
    return Fences(target, name).plan_fence(_fenced_subnets(target, name, instance_of(target, instance)))


@asks(*_IAM_LOOK, *IAM_FENCE)
@step(plan=_plan_fence, observe=_observe_fence, purpose="fence", lasting=True)
def fence(recovery: Recovery, *, instance: str, region: str, rival: str, rival_region: str, facts: Facts) -> Step:
    """Cut a writer off in all its subnets, so that nobody can write to it any more, however alive it is.

    Before this is seen nothing is promoted: two writers would be worse than none. A network ACL does not stop what runs
    in the very subnets of the database: nothing else may be there. rival: the instance that is to be the
    writer instead; while it is one, nobody lifts the fence, `drkit undo` neither.
    By hand: put a network ACL that allows nothing before every subnet of the instance's subnet group.
    """
    from drkit.targets.aws import Fences

    target, name = recovery.target, region_of(recovery.target, region)
    fences, ids = Fences(target, name), tuple(facts["subnet_ids"])

    def act() -> None:
        fences.fence(
            ids,
            instance_id=instance_of(target, instance),
            rival={"region": region_of(target, rival_region), "instance_id": instance_of(target, rival)},
            permit=recovery.permit,
            undo=recovery.undo,
        )

    return Step(done=lambda: fences.is_fenced(ids), act=act, result=lambda: {"subnets": len(ids)})


@asks()
@step(purpose="fence", lasting=True)
def refuses_writes(recovery: Recovery, *, fence: str = "fence") -> Step:
    """The fenced writer's own endpoint takes no write, now and a little later: proven by data, not by status.

    Where the fence was put up by hand, and RDS does not tell the address, the writer's DNS record is asked.
    """

    def done() -> bool:
        at = _address(recovery, fence)
        if not _silent(recovery, at):
            return False
        recovery.stop.wait(APART_S * recovery.target.pace)
        return _silent(recovery, at)

    return Step(done=done)


def _address(recovery: Recovery, fence: str) -> Endpoint | None:
    known = recovery.known(fence)
    return (str(known["host"]), int(known["port"])) if known.get("host") else None


def _silent(recovery: Recovery, at: Endpoint | None) -> bool:
    """Return whether a server takes no write, from a client that insists. Raises TargetError if nobody can be asked."""
    postgres.must_be_askable(recovery.target, at)
    return not postgres.accepts_writes(recovery.target, at=at, timeout_s=ASK_S, insist=True)


def must_be_fenced(recovery: Recovery, *, fence: str, region: str) -> None:
    """Raise StepFailed unless the old writer can't write at this very moment.

    The fence is asked of EC2, not of the history: it may be an hour old. One put up by hand rests on a person's word,
    and on the writer's silence; a word older than BY_HAND_S has to be given again.
    """
    from drkit.targets.aws import Fences

    facts = recovery.known(fence)
    if facts.get("subnet_ids"):
        fences = Fences(recovery.target, region_of(recovery.target, region))
        if not fences.is_fenced(tuple(facts["subnet_ids"])):
            raise StepFailed(fence, "the fence is not there any more", "somebody has lifted it: look who, then resume")
        return
    word = next((m for m in reversed(recovery.run.marks()) if m.kind is MarkKind.ANSWER and m.name == fence), None)
    if word is None or word.detail.get("yes") is not True:
        raise StepFailed(fence, "nobody has fenced the old writer", "two writers must be impossible")
    age_s = _age_s(word)
    if not 0 <= age_s <= BY_HAND_S:
        raise StepFailed(
            fence,
            f"the word that the old writer is fenced is {age_s / 60:.0f} min old: it has to be given again",
            "drkit resume asks for it",
        )
    if not _silent(recovery, None):
        raise StepFailed(fence, "the old writer still takes writes", "it is not fenced: fence it, then resume")


def _age_s(word: Mark) -> float:
    """Return how old a person's word is: by this machine's clock, which stops while it sleeps, or by the wall's."""
    age_s = (clock.now_ns() - word.t_hi_ns) / clock.NS_PER_S
    if age_s < 0 or not (said := word.detail.get("at")):
        return age_s
    return max(age_s, (clock.wall_utc() - datetime.fromisoformat(str(said))).total_seconds())


def _plan_lift(
    target: Target, *, region: str, retired: str, instance: str, rival: str, rival_region: str
) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database, Fences

    name, instance_id = region_of(target, region), instance_of(target, instance)
    if not Database(target, name).exists(instance_id):
        return ()
    return Fences(target, name).plan_lift(_fenced_subnets(target, name, instance_id))


@asks(*IAM_FENCE)
@step(plan=_plan_lift, purpose="preparation")
def lift_fence(recovery: Recovery, *, region: str, retired: str, instance: str, rival: str, rival_region: str) -> Step:
    """Give every fenced subnet its network ACL back, once the old writer behind the fence is gone.

    retired: the step that retired it, and wrote down its subnets. While two writers would be possible it is refused.
    """
    from drkit.targets.aws import Fences

    target = recovery.target
    fences, ids = Fences(target, region_of(target, region)), tuple(recovery.known(retired).get("subnet_ids", ()))

    def act() -> None:
        fences.lift(
            ids,
            instance_id=instance_of(target, instance),
            rival={"region": region_of(target, rival_region), "instance_id": instance_of(target, rival)},
            permit=recovery.permit,
            undo=recovery.undo,
        )

    return Step(done=lambda: fences.is_lifted(ids), act=act)
