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
    target: Target,
    rules: Rules,
    *,
    alarms: Sequence[str] = (),
    unresolved: Sequence[str] = (),
    recovery: bool = False,
) -> Facts:
    """Ask the target and this machine. Raises TargetError when the target does not answer.

    recovery: ask only what a recovery depends on, in the region that recovers; the first one may be gone.
    """
    from drkit.targets.aws.alarms import firing
    from drkit.targets.aws.claims import Claims, home_region
    from drkit.targets.aws.parameters import Parameters

    if recovery:
        return Facts(
            target=target.name,
            account_id=target.account_id,
            caller_account_id=Account(target, home_region(target)).caller().account_id,
            regions=tuple(r for r in (target.region, target.recovery_region) if r),
            loopback=is_loopback(target),
            now=clock.wall_utc(),
            consent_tag=target.consent_tag,
        )
    recovering = Claims(target).holder()
    watched = tuple(dict.fromkeys((*rules.stop_alarms, *alarms)))
    incident = Path(rules.incident_file) if rules.incident_file else None
    return Facts(
        target=target.name,
        account_id=target.account_id,
        caller_account_id=Account(target).caller().account_id,
        regions=tuple(r for r in (target.region, target.recovery_region) if r),
        loopback=is_loopback(target),
        now=clock.wall_utc(),
        alarms_firing=firing(target, watched) if watched else (),
        open_incident=f"{incident} exists" if incident and incident.exists() else "",
        unfinished=Parameters(target).unfinished(),
        recovering=recovering.run_id if recovering else "",
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
