"""What the caller may do: IAM actions that a plan needs, and IAM's own answer about them, for `drkit doctor`."""

from __future__ import annotations

from collections.abc import Iterable

from drkit.errors import TargetError
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import Account
from drkit.targets.aws.parameters import IAM_CLOUD_COPY

IAM_ALWAYS = ("sts:GetCallerIdentity", *IAM_CLOUD_COPY)


def iam_actions(effects: Iterable[Effect]) -> tuple[str, ...]:
    """Return every IAM action that carrying out and undoing a plan needs, in order."""
    return tuple(sorted({a for e in effects for a in e.iam} | set(IAM_ALWAYS)))


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
