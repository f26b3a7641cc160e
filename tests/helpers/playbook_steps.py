"""Steps of a toy playbook: they touch nothing."""

from __future__ import annotations

from drkit.model import Effect
from drkit.playbook import Recovery, Step, step
from drkit.targets import Target
from drkit.targets.aws.permissions import asks


@asks("rds:DescribeDBInstances")
@step(purpose="check")
def replica_there(recovery: Recovery) -> Step:
    """The replica is there and follows."""
    return Step(done=lambda: True)


def _plan(target: Target, *, instance_id: str) -> tuple[Effect, ...]:
    return (
        Effect(
            "rds:PromoteReadReplica",
            instance_id,
            "eu-west-1",
            what=f"make {instance_id} a writer",
            undo="",
            iam=("rds:PromoteReadReplica",),
        ),
    )


@step(plan=_plan, lasting=True)
def promote(recovery: Recovery, *, instance_id: str) -> Step:
    """Make the replica a writer of its own, so that writes
    are taken in the other region.

    Done when: it says itself that it is no replica any more.
    By hand: aws rds promote-read-replica --db-instance-identifier INSTANCE
    --region REGION
    """
    return Step(done=lambda: True)


@step(purpose="verification")
def look(recovery: Recovery) -> Step:
    """See that reads are answered."""
    return Step(done=lambda: True)
