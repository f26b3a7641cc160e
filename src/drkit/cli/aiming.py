"""`drkit target`: which targets there are, what one says, and a new one made from the tags of an AWS account."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from drkit import targets
from drkit.cli import aim, console
from drkit.errors import DrkitError, UsageError
from drkit.targets import AwsAccess, Target


def list_(*, as_json: bool) -> int:
    found = aim.here()
    default = found.settings.default_target
    rows: list[dict[str, Any]] = []
    for name in targets.known(found.home):
        row = {"name": name, "default": name == default, "kind": None, "account_id": None, "region": None}
        try:
            target = targets.load(name, found.home)
        except DrkitError as e:
            rows.append({**row, "problem": e.message, "hint": console.hint_of(e)})
            continue
        told = {"kind": target.kind, "account_id": target.account_id, "region": target.region}
        rows.append({**row, **told, "problem": None, "hint": ""})
    if as_json:
        console.out_json({"targets": rows})
        return 0
    lines = [
        (
            r["name"] + (" (default)" if r["default"] else ""),
            r["kind"] or "–",
            r["account_id"] or "–",
            r["region"] or f"cannot be used: {r['problem']}",
        )
        for r in rows
    ]
    console.out(console.table(("target", "kind", "account", "region"), lines))
    console.say("\nmore of one: drkit target show NAME; a new one: drkit target discover, drkit lab up")
    return 0


def show(name: str, *, as_json: bool) -> int:
    target = targets.load(name, aim.here().home)
    document = json.loads(targets.dump(target))
    if as_json:
        console.out_json(document)
        return 0
    console.out("\n".join(f"{key:28} {value}" for key, value in _flat(document)))
    return 0


def discover(name: str, *, region: str, recovery_region: str | None, access: AwsAccess, tag: str | None) -> int:
    """Print the file of the target that the tags describe; what is not in it yet is said on standard error."""
    from drkit.targets.aws import discover as finder

    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):  # as target files have it
        raise UsageError(f"{name!r} is no name for a target", "use letters, digits, dots and dashes")
    console.say(f"looking for {tag or f'{finder.TARGET_TAG}={name}'} in {region} …")
    found = finder.discover(
        name, region=region, recovery_region=recovery_region, access=access, tag=_pair(tag) if tag else None
    )
    console.out(targets.dump(found))
    for hint in _hints(found):
        console.say(f"hint: {hint}")
    return 0


def _pair(tag: str) -> tuple[str, str]:
    key, _, value = tag.partition("=")
    if not (key and value):
        raise UsageError(f"--tag {tag}: not KEY=VALUE", "for example: --tag stack=orders")
    return key, value


def _hints(target: Target) -> Iterator[str]:
    """Yield what a person has to look at or to add before the file is of use."""
    database = target.database
    yield f"keep it as targets/{target.name}.json; it is in account {target.account_id}: is that the one you mean?"
    for part in ("network", "compute", "service", "database"):
        if getattr(target, part) is None:
            yield f"nothing for `{part}` carries the tag: experiments that need it will say so"
    if target.service:
        yield f"is {target.service.url} how clients reach the service, its certificate included?"
    if database and database.password_env:
        yield f"set the environment variable {database.password_env} to the password of {database.user}"
    if target.recovery_region and database and not database.replica_id:
        yield f"no replica in {target.recovery_region} carries the tag"
    key, value = target.consent_tag
    yield f"nothing is broken before the account is in allowed_accounts and each resource carries {key}={value}"
    yield f"next: drkit doctor az-failure --target {target.name}"


def _flat(document: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", ", ".join(map(str, value)) if isinstance(value, list) else value
