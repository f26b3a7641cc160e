"""Activities of other libraries: whom they reach, as whom, and their rollbacks.

They make clients of their own from the process's environment. So the environment is the target's while they run, and
whoever they would be is asked before each of them that changes something.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from drkit import undo
from drkit.catalog import function_of
from drkit.chaos import planner
from drkit.errors import Refused, TargetError, UsageError
from drkit.targets import Target
from drkit.targets.aws.account import Account
from drkit.undo import UndoJournal

ROLLBACK = "run_rollback"
_AWS_KEPT = ("AWS_CA_BUNDLE",)  # how TLS is checked is this machine's business


def is_foreign(activity: Mapping[str, Any]) -> bool:
    """Return whether an activity knows nothing of permits and undo: it is not drkit's, nor made like drkit's own."""
    provider = activity["provider"]
    if str(provider.get("module", "")).startswith("drkit."):
        return False
    function = function_of(provider)
    return function is None or planner(function) is None


def use_environment_of(target: Target) -> None:
    """Make this process's AWS and Kubernetes environment the target's, whatever the person's shell holds.

    The credentials are those of the target file: its profile, its role, or the lab's fixed pair.
    """
    try:
        credentials = Account(target).environment()  # made before the environment they may come from is cleared
    except TargetError:
        credentials = {}  # our own calls say what is wrong; others must not find anything else instead
    for name in [n for n in os.environ if n.startswith("AWS_") and n not in _AWS_KEPT]:
        del os.environ[name]
    os.environ |= {
        **credentials,
        "AWS_DEFAULT_REGION": target.region,
        "AWS_REGION": target.region,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "KUBECONFIG": target.kubeconfig or os.devnull,
    }
    if target.aws.endpoint_url:
        os.environ["AWS_ENDPOINT_URL"] = target.aws.endpoint_url
        host = urlsplit(target.aws.endpoint_url).hostname or ""
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = f"{os.environ.get('NO_PROXY', '')},{host}".strip(",")


def aim(
    activity: Mapping[str, Any], target: Target, configuration: Mapping[str, Any], secrets: Mapping[str, Any]
) -> None:
    """Let an action of another library reach the target and nothing else: the last thing before each of them.

    Raises Refused unless the account that it would act in is the target's.
    """
    provider = activity["provider"]
    use_environment_of(target)
    if not str(provider.get("module", "")).startswith("chaosaws"):
        if provider["type"] != "http":  # a process may call AWS; it finds the target's credentials
            Account(target).assert_account()
        return
    import chaosaws

    chaosaws.boto3.DEFAULT_SESSION = None  # it keeps the first profile's keys for all others
    own: dict[str, Any] = {}
    for name in provider.get("secrets") or ():
        own |= secrets.get(name, {})
    try:
        caller = chaosaws.aws_client("sts", dict(configuration), own).get_caller_identity()
    except Exception as e:
        raise Refused(f"not running {activity['name']}: its AWS account cannot be told: {e}") from e
    if caller["Account"] != target.account_id:
        raise Refused(
            f"not running {activity['name']}: it would act in account {caller['Account']}, not {target.account_id}",
            "leave aws_profile_name and credentials out of the experiment: they are the target's",
        )


# --- rollbacks --------------------------------------------------------------------------------------------------------


def journal_rollbacks(
    rollbacks: Sequence[Mapping[str, Any]],
    journal: UndoJournal,
    *,
    configuration: Mapping[str, Any],
    secrets: Mapping[str, Any],
) -> None:
    """Write an experiment's own rollbacks down before its first action, so that whoever undoes the run runs them.

    They run after the undo of every fault, in the order of the file (the journal is replayed newest first). secrets:
    as the document has them, references and never values. They may run more than once: being idempotent is theirs.
    """
    for rollback in reversed(rollbacks):
        journal.will(ROLLBACK, activity=dict(rollback), configuration=dict(configuration), secrets=dict(secrets))


@undo.verb(ROLLBACK)
def run_rollback(
    target: Target, *, activity: dict[str, Any], configuration: dict[str, Any], secrets: dict[str, Any]
) -> str:
    """Run one rollback of the experiment's own. Raises TargetError if it fails."""
    from chaoslib.exceptions import ChaosException
    from chaoslib.secret import load_secrets

    from drkit.engine.activity import Activities

    use_environment_of(target)
    try:
        loaded = load_secrets(secrets, configuration)
    except ChaosException as e:
        raise UsageError(f"rollback {activity['name']}: {e}", "set it in the environment, then drkit undo") from e
    settled = Activities({}, configuration, loaded, target).run(activity)
    if not settled.succeeded:
        raise TargetError(f"rollback {activity['name']} failed: {settled.problem}")
    return f"ran the experiment's own rollback {activity['name']}"
