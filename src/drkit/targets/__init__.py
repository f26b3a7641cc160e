"""Targets: what a run is aimed at. A target is a JSON file; `drkit lab up` writes one, `terraform output` is one.

Experiments and playbooks never ask which kind of target they have: only endpoints and names differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drkit.errors import BadDocument, UnknownName

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsAccess:
    """How the AWS APIs are reached. Credentials by reference: a profile and a role, never a key.

    With `endpoint_url` set and no profile, the fixed key pair "lab"/"lab" is used and the environment's credentials are
    never read.
    """

    endpoint_url: str | None = None
    profile: str | None = None
    assume_role_arn: str | None = None
    external_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTarget:
    url: str  # base URL through the load balancer
    read_path: str = "/orders"
    write_path: str = "/orders/new"
    health_path: str = "/health"
    zone_urls: Mapping[str, str] = field(default_factory=dict)  # zone → base URL of the service inside that zone only
    dns_record: str | None = None  # Route 53 record that clients resolve to find the service
    hosted_zone_id: str | None = None
    host: str | None = None  # what that record points to while the first region serves
    recovery_host: str | None = None  # and while the recovery region does


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseTarget:
    instance_id: str  # RDS DBInstanceIdentifier
    host: str  # writer endpoint: the name or address that clients use
    port: int
    dbname: str
    user: str
    password_env: str | None = None  # name of an environment variable
    password_secret_arn: str | None = None  # Secrets Manager
    replica_id: str | None = None  # cross-region read replica
    replica_host: str | None = None
    replica_port: int | None = None
    dns_record: str | None = None  # Route 53 record that clients resolve to find the writer
    hosted_zone_id: str | None = None
    sslmode: str = "prefer"
    secret_id: str | None = None  # Secrets Manager name, the same in both regions: where the service finds its database


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeTarget:
    asg_name: str | None = None
    target_group_arn: str | None = None
    load_balancer_arn: str | None = None  # what a zonal shift is of
    recovery_asg_name: str | None = None  # in the recovery region
    recovery_target_group_arn: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTarget:
    vpc_id: str
    recovery_vpc_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabInfo:
    """What is true of a lab only; only reports and `drkit lab` read it."""

    directory: str
    speed: float = 1.0
    fsync: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)  # PostgreSQL version, detector period, …


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    name: str
    kind: Literal["lab", "aws"]
    account_id: str
    region: str
    zones: tuple[str, ...]  # full names: eu-central-1a
    recovery_region: str | None = None
    consent_tag: tuple[str, str] = ("drkit:consent", "yes")  # key, value that each resource to be broken must carry
    aws: AwsAccess = field(default_factory=AwsAccess)
    service: ServiceTarget | None = None
    database: DatabaseTarget | None = None
    compute: ComputeTarget | None = None
    network: NetworkTarget | None = None
    kubeconfig: str | None = None
    hosts: Mapping[str, str] = field(default_factory=dict)  # names that this machine can't resolve ("*.x.y") → address
    copy_of: str | None = None  # the target of which this is a copy: playbooks may be practised here
    lab: LabInfo | None = None

    def address(self, host: str) -> str:
        """Return where a host is reached: what `hosts` says of it or of its domain ("*.rds.amazonaws.com"), else it."""
        labels = host.split(".")
        domains = ("*." + ".".join(labels[n:]) for n in range(1, len(labels)))
        return next((self.hosts[name] for name in (host, *domains) if name in self.hosts), host)

    @property
    def pace(self) -> float:
        """What the phases of an experiment are multiplied by: a lab's processes start faster than a cloud's."""
        return 0.05 if self.kind == "lab" else 1.0

    @property
    def probe_period_s(self) -> float:
        """p: how often probes ask unless an experiment says otherwise."""
        return 0.02 if self.kind == "lab" else 0.1

    @property
    def probe_timeout_s(self) -> float:
        """τ: how long an attempt may take unless an experiment says otherwise; black holes widen bounds by it."""
        return 0.5 if self.kind == "lab" else 1.0

    @property
    def stable_window_s(self) -> float:
        """W: how long service must be good before it counts as restored."""
        return 3.0 if self.kind == "lab" else 30.0


# --- target files -----------------------------------------------------------------------------------------------------


def load(name_or_path: str, home: Path) -> Target:
    """Return a target by its name or from a file.

    A name is looked up as $home/targets/NAME.json, then as ./targets/NAME.json; something with a slash or ending in
    .json is a path. What `terraform output -json` prints is understood too. Nothing is reached by this.
    Raises UnknownName if there is no such target, BadDocument if the file has an unknown key or a wrong type.
    """
    path = _find(name_or_path, home)
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise BadDocument(f"cannot read {path}: {e}") from e
    except ValueError as e:
        raise BadDocument(f"{path} is not JSON: {e}", "make it with `terraform output -json drkit_target`") from e
    if isinstance(document, dict) and isinstance(document.get("drkit_target"), dict):
        document = document["drkit_target"]  # all outputs of a stack: {"drkit_target": {"value": …}, …}
    if isinstance(document, dict) and "value" in document:
        document = document["value"]
    return _parsed(document, path)


def dump(target: Target) -> str:
    """Return the text of a target's file; `load` gives the same target back."""
    return json.dumps(_without_none(asdict(target)), indent=2) + "\n"


def known(home: Path) -> tuple[str, ...]:
    """Return the names of all targets that `load` finds by name, in order."""
    return tuple(sorted({p.stem for d in _directories(home) for p in d.glob("*.json")}))


def _directories(home: Path) -> tuple[Path, Path]:
    return home / "targets", Path("targets")


def _find(name_or_path: str, home: Path) -> Path:
    is_path = "/" in name_or_path or name_or_path.endswith(".json")
    candidates = [Path(name_or_path)] if is_path else [d / f"{name_or_path}.json" for d in _directories(home)]
    for path in candidates:
        if path.is_file():
            return path
    names = known(home)
    close = get_close_matches(name_or_path, names, n=1)
    if close:
        hint = f"did you mean {close[0]}?"
    elif names:
        hint = "known targets: " + ", ".join(names)
    else:
        hint = "drkit lab up makes one, `terraform output -json drkit_target > targets/NAME.json` another"
    if is_path:
        raise UnknownName(f"there is no target file {name_or_path}", hint)
    if name_or_path == "lab" and not close:
        hint = "drkit lab up"
    raise UnknownName(f"there is no target called {name_or_path!r}", hint)


def _parsed(document: Any, path: Path) -> Target:
    from pydantic import ValidationError

    try:
        # Through JSON again: only there do lists become tuples in strict mode.
        target = _adapter().validate_json(json.dumps(document))
    except ValidationError as e:
        raise _complaint(e, path) from e
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", target.name):
        raise BadDocument(f"{path}: {target.name!r} is no name for a target", "use letters, digits, dots and dashes")
    if not re.fullmatch(r"\d{12}", target.account_id):
        raise BadDocument(f"{path}: account_id {target.account_id!r} is not an AWS account", "it has twelve digits")
    if not target.region or not all(target.consent_tag):
        raise BadDocument(f"{path}: region and consent_tag must not be empty")
    return target


@cache
def _adapter() -> TypeAdapter[Target]:
    from pydantic import TypeAdapter

    for part in (Target, AwsAccess, ServiceTarget, DatabaseTarget, ComputeTarget, NetworkTarget, LabInfo):
        setattr(part, "__pydantic_config__", {"extra": "forbid", "strict": True})  # noqa: B010
    return TypeAdapter(Target)


def _complaint(e: ValidationError, path: Path) -> BadDocument:
    """Return the first thing that is wrong, with the key and what may have been meant."""
    first, *others = sorted(e.errors(), key=lambda x: x["type"] != "unexpected_keyword_argument")
    key = ".".join(str(part) for part in first["loc"]) or "the document"
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] == "unexpected_keyword_argument":
        siblings = _keys_at(first["loc"][:-1])
        close = get_close_matches(str(first["loc"][-1]), siblings, n=1)
        hint = f"did you mean {close[0]}?" if close else "known keys: " + ", ".join(siblings)
        return BadDocument(f"{path}: unknown key {key}{more}", hint)
    if first["type"] in {"missing", "missing_argument"}:
        return BadDocument(f"{path}: {key} is missing{more}", 'see docs/architecture.md, "Targets"')
    said = first["msg"][:1].lower() + first["msg"][1:]
    return BadDocument(f"{path}: {key}: {said}, not {first['input']!r}{more}")


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    parts: dict[str, Any] = {
        "aws": AwsAccess, "service": ServiceTarget, "database": DatabaseTarget, "compute": ComputeTarget,
        "network": NetworkTarget, "lab": LabInfo,
    }  # fmt: skip
    return [f.name for f in fields(parts[str(loc[0])] if loc else Target)]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value
