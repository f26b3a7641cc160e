"""CloudWatch alarms that must be quiet while something is broken on purpose."""

from __future__ import annotations

from collections.abc import Sequence

from drkit.errors import Refused, TargetError
from drkit.targets import Target
from drkit.targets.aws.account import Account, named

IAM_ALARMS = ("cloudwatch:DescribeAlarms",)


def firing(target: Target, names: Sequence[str], region: str = "") -> tuple[str, ...]:
    """Return which of the named alarms, metric or composite, are in ALARM.

    Raises TargetError if one does not exist: an alarm that cannot ring is no guard.
    """
    if not names:
        raise Refused("no alarm was named", "no name would mean all alarms of the account")
    cloudwatch = Account(target, region).client("cloudwatch")
    states: dict[str, str] = {}
    for start in range(0, len(names), 100):  # CloudWatch's limit a call
        batch = [named(n, "alarm") for n in names[start : start + 100]]
        pages = cloudwatch.get_paginator("describe_alarms").paginate(
            AlarmNames=batch, AlarmTypes=["MetricAlarm", "CompositeAlarm"]
        )
        for page in pages:
            states |= {a["AlarmName"]: a["StateValue"] for a in page.get("MetricAlarms", [])}
            states |= {a["AlarmName"]: a["StateValue"] for a in page.get("CompositeAlarms", [])}
    missing = sorted(set(names) - set(states))
    if missing:
        raise TargetError(
            f"there is no alarm {missing[0]!r} in {region or target.region}", "see [guard] alarms in drkit.toml"
        )
    return tuple(n for n in names if states[n] == "ALARM")
