"""What the caller may do: the IAM actions that an experiment needs, and IAM's own answer about them.

Each function that an experiment can name says what it calls (`asks`), so the list needs no answer of AWS: whoever may
nothing yet can be told what to allow. What drkit itself asks in every run is in the table below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from drkit.errors import TargetError
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import Account
from drkit.targets.aws.alarms import IAM_ALARMS
from drkit.targets.aws.backups import IAM_BACKUPS, IAM_RESTORE
from drkit.targets.aws.database import IAM_MULTI_AZ
from drkit.targets.aws.fence import IAM_FENCE
from drkit.targets.aws.groups import IAM_SCALE
from drkit.targets.aws.parameters import IAM_CLOUD_COPY
from drkit.targets.aws.replication import IAM_PROMOTE_FOR_GOOD, IAM_REPLICATE, IAM_RETIRE
from drkit.targets.aws.secrets import IAM_SECRET_POINT, IAM_SECRET_REPLICATE
from drkit.targets.aws.shift import IAM_SHIFT
from drkit.targets.aws.snapshots import IAM_SNAPSHOT_COPY

if TYPE_CHECKING:
    from drkit.catalog import Experiment, Playbook

# What the steps of playbooks ask for; each is defined beside its verb.
__all__ = [
    "IAM_ALARMS", "IAM_ALWAYS", "IAM_BACKUPS", "IAM_CLOUD_COPY", "IAM_DATABASE", "IAM_FENCE", "IAM_GROUP",
    "IAM_MULTI_AZ", "IAM_NETWORK", "IAM_PROMOTE_FOR_GOOD", "IAM_RECORD", "IAM_REPLICATE", "IAM_RESTORE", "IAM_RETIRE",
    "IAM_SCALE", "IAM_SECRET", "IAM_SECRET_POINT", "IAM_SECRET_REPLICATE", "IAM_SHIFT", "IAM_SNAPSHOT_COPY", "Needed",
    "asks", "check", "needed",
]  # fmt: skip

Function = TypeVar("Function", bound=Callable[..., Any])

IAM_ALWAYS = ("sts:GetCallerIdentity", *IAM_CLOUD_COPY, "ssm:GetParameter")  # the last: who recovers the target?
# What every run asks about the parts that a target names: its state before and after, its events, its password.
IAM_NETWORK = ("ec2:DescribeInstances", "ec2:DescribeNetworkAcls", "ec2:DescribeSubnets")
IAM_GROUP = ("autoscaling:DescribeAutoScalingGroups",)
IAM_DATABASE = ("rds:DescribeDBInstances", "rds:DescribeEvents")
IAM_RECORD = ("route53:ListResourceRecordSets",)
IAM_SECRET = ("secretsmanager:GetSecretValue",)


@dataclass(frozen=True, slots=True)
class Needed:
    """What an experiment or a playbook needs on one target."""

    actions: tuple[str, ...]  # IAM actions of the target's role, in order; which of them are called depends on the run
    untold: tuple[str, ...]  # activities of other libraries and programs: what they need is for them to say


def asks(*actions: str) -> Callable[[Function], Function]:
    """Mark a function with the IAM actions that it may need, its undo included; none: it calls no AWS API."""

    def mark(function: Function) -> Function:
        function.drkit_iam = actions  # type: ignore[attr-defined]  # mypy knows no attributes of functions
        return function

    return mark


def needed(
    experiment: Experiment, target: Target, *, alarms: Sequence[str] = (), effects: Iterable[Effect] = ()
) -> Needed:
    """Return all that running the experiment and putting everything back may call. Asks nothing.

    alarms: those of [guard] in drkit.toml; the experiment's own are added. effects: of its plan, if there is one, for
    faults that are not drkit's own. To assume aws.assume_role_arn is not the role's permission but its caller's.
    """
    actions = {*IAM_ALWAYS, *_of_every_run(target)}
    if alarms or experiment.drkit.guards.alarms:
        actions.update(IAM_ALARMS)
    untold: list[str] = []
    for activity in _activities(experiment):
        known = _asked_by(activity["provider"])
        if known is None:
            untold.append(activity["name"])
        else:
            actions.update(a for a in known if _has_what_it_is_about(target, a))
    actions.update(a for e in effects for a in e.iam)
    return Needed(tuple(sorted(actions)), tuple(dict.fromkeys(untold)))


def needed_by_playbook(playbook: Playbook, target: Target, effects: Iterable[Effect] = ()) -> Needed:
    """Return all that running the playbook, and undoing what it did, may call. Asks nothing.

    effects: of its plan, for steps that do not say more than their plan does. A step that does neither is `untold`.
    """
    from drkit.catalog import single, step_function
    from drkit.targets.aws.claims import IAM_CLAIM

    actions = {*IAM_ALWAYS, *IAM_CLAIM}
    if target.database and target.database.password_secret_arn and not target.database.password_env:
        actions.update(IAM_SECRET)
    untold: list[str] = []
    for call in single((*playbook.file.prerequisites, *playbook.file.steps)):
        if not call.step:
            continue
        function = step_function(call)
        told: tuple[str, ...] | None = getattr(function, "drkit_iam", None)
        if told is not None:
            actions.update(told)
        elif getattr(function, "drkit_step").plan is None:  # noqa: B009  (mypy knows no attributes of functions)
            untold.append(call.name)
    actions.update(a for e in effects for a in e.iam)
    return Needed(tuple(sorted(actions)), tuple(untold))


def _activities(experiment: Experiment) -> tuple[Mapping[str, Any], ...]:
    part = experiment.drkit
    return (
        *experiment.hypothesis_probes, *experiment.method, *experiment.rollbacks, *part.witnesses, *part.redundancy,
    )  # fmt: skip


def _asked_by(provider: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return what an activity says that it needs; () for a request to a URL; None if it does not say."""
    from drkit.catalog import function_of

    if provider["type"] == "http":
        return ()
    function = function_of(provider)
    told: tuple[str, ...] | None = getattr(function, "drkit_iam", None)
    if told is None and hasattr(function, "drkit_plan"):
        return ()  # somebody's own fault: its plan's effects say it
    return told


def _of_every_run(target: Target) -> tuple[str, ...]:
    database = target.database
    return (
        *(IAM_NETWORK if target.network else ()),
        *(IAM_GROUP if target.compute and target.compute.asg_name else ()),
        *(IAM_DATABASE if database else ()),
        *(IAM_RECORD if database and database.dns_record and database.hosted_zone_id else ()),
        *(IAM_SECRET if database and database.password_secret_arn and not database.password_env else ()),
    )


def _has_what_it_is_about(target: Target, action: str) -> bool:
    """Return whether the target names anything that a function could use this action on."""
    compute, database = target.compute, target.database
    match action.partition(":")[0]:
        case "arc-zonal-shift":
            return bool(compute and compute.load_balancer_arn)
        case "autoscaling":
            return bool(compute and (compute.asg_name or compute.recovery_asg_name))
        case "elasticloadbalancing" if action.endswith(":DescribeTags"):  # of the load balancer
            return bool(compute and compute.load_balancer_arn)
        case "elasticloadbalancing":
            return bool(compute and compute.target_group_arn)
        case "rds":
            return database is not None
        case "route53":
            return bool(database and database.dns_record and database.hosted_zone_id)
        case _:
            return True


def check(target: Target, actions: Iterable[str]) -> dict[str, bool | None]:
    """Return for each action whether IAM allows it to the caller; None if it cannot be told.

    It cannot be told without iam:SimulatePrincipalPolicy, and for the root user. The simulation is of the caller's own
    policies: it knows neither resource policies nor tags, so an allowed action may still be denied on one resource.
    """
    wanted = sorted(set(actions))
    answers: dict[str, bool | None] = dict.fromkeys(wanted)
    if not wanted:
        return answers
    account = Account(target)
    caller = account.caller()
    if caller.role_arn.endswith(":root"):
        return answers
    try:
        pages = (
            account.client("iam")
            .get_paginator("simulate_principal_policy")
            .paginate(PolicySourceArn=caller.role_arn, ActionNames=wanted)
        )
        for page in pages:
            for result in page.get("EvaluationResults", []):
                answers[result["EvalActionName"]] = result["EvalDecision"] == "allowed"
    except TargetError:
        return dict.fromkeys(wanted)
    return answers
