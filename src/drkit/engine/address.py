"""Where a run's probes go: what the experiment names, where the target has it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from drkit.catalog import ProbeData
from drkit.errors import UsageError
from drkit.model import ProbeKind
from drkit.probes import ProbeSpec
from drkit.targets import DatabaseTarget, Target, postgres


def spec_of(data: ProbeData, target: Target, run_id: str, configuration: Mapping[str, Any]) -> ProbeSpec | None:
    """Return a probe's address and schedule: what the experiment names, where the target has it.

    None for a probe inside a zone for which the target has no address. Raises UsageError for a target without a service
    or database to probe, TargetError if the secret with its password cannot be had.
    """
    common: dict[str, Any] = {
        "name": data.name,
        "kind": data.kind,
        "role": data.role,
        "connection": data.connection,
        "every_s": data.every_s or target.probe_period_s,
        "timeout_s": data.timeout_s or target.probe_timeout_s,
    }
    if data.kind is ProbeKind.HTTP:
        service = target.service
        if service is None:
            raise UsageError(f"target {target.name} names no service", "add `service` to the target file")
        path = {"read": service.read_path, "write": service.write_path, "health": service.health_path}[data.call]
        zone = str(configuration.get("zone", "")) if data.zone == "${zone}" else data.zone
        base = service.zone_urls.get(zone) if data.zone else service.url
        if base is None:
            return None
        return ProbeSpec(url=base.rstrip("/") + path, too_slow_s=data.too_slow_s, **common)
    database = target.database
    if database is None:
        raise UsageError(f"target {target.name} names no database", "add `database` to the target file")
    common |= {"host": database.host, "port": database.port}
    if data.kind is ProbeKind.TCP:
        return ProbeSpec(**common)
    return ProbeSpec(
        dbname=database.dbname,
        user=database.user,
        password_env=database.password_env,
        password_secret_arn=database.password_secret_arn,
        password=_secret(target, database),
        sslmode=database.sslmode,
        ledger_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"drkit:{run_id}:{data.name}")),
        **common,
    )


def _secret(target: Target, database: DatabaseTarget) -> str:
    """Return the password that Secrets Manager holds; "" where the target refers to none, or to the environment."""
    if database.password_env or not database.password_secret_arn:
        return ""
    return postgres.password_of(target, database) or ""
