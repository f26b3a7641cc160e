"""What the guard wants to know of a target, asked with read-only calls."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from drkit import clock
from drkit.guard import Facts, Rules
from drkit.targets import Target
from drkit.targets.aws.account import Account


def gather(
    target: Target, rules: Rules, *, alarms: Sequence[str] = (), unresolved: Sequence[str] = (), region: str = ""
) -> Facts:
    """Ask the target and this machine. Raises TargetError when the target does not answer.

    region: whose APIs are asked, the target's first unless named: in a recovery that one may not answer.
    """
    from drkit.targets.aws.alarms import firing
    from drkit.targets.aws.parameters import Parameters

    watched = tuple(dict.fromkeys((*rules.stop_alarms, *alarms)))
    incident = Path(rules.incident_file) if rules.incident_file else None
    return Facts(
        target=target.name,
        account_id=target.account_id,
        caller_account_id=Account(target, region).caller().account_id,
        regions=tuple(r for r in (target.region, target.recovery_region) if r),
        loopback=is_loopback(target),
        now=clock.wall_utc(),
        alarms_firing=firing(target, watched, region) if watched else (),
        open_incident=f"{incident} exists" if incident and incident.exists() else "",
        unfinished=Parameters(target, region).unfinished(),
        consent_tag=target.consent_tag,
        unresolved=tuple(unresolved),
    )


def is_loopback(target: Target) -> bool:
    """Return whether the target's AWS APIs are on this machine, so that nothing real can be hurt through them."""
    host = urlsplit(target.aws.endpoint_url or "").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
