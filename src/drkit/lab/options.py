"""What can be chosen about a lab, and what it tells about itself: plain values, JSON on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from drkit.errors import LabError


@dataclass(frozen=True, slots=True, kw_only=True)
class LabOptions:
    """All times are at speed 1; a lab with speed 2 waits half as long. Real AWS takes minutes where it says *."""

    multi_az: bool = True  # False: no standby, so the database cannot fail over
    sync_standby: bool = True  # False: the standby follows asynchronously, so a failover may lose writes
    standby_delay_s: float = 0.0  # the link to the standby is that slow; with an asynchronous one, writes are lost
    instances: int = 3  # of the service, spread over three zones
    monitor_every_s: float = 0.5  # the RDS host monitor asks the primary so often
    monitor_failures: int = 2  # so many unanswered in a row are a failure
    rebuild_after_s: float = 2.0  # * a lost standby is made again this long after its place is reachable
    replace_after_s: float = 2.0  # * the Auto Scaling group replaces an instance that has been unhealthy for this long
    grace_s: float = 5.0  # for so long a new instance may fail its health checks
    archive: bool = True  # base backup and WAL to the bucket in the second region

    def __post_init__(self) -> None:
        if not 1 <= self.instances <= 30:
            raise LabError(f"a lab has 1 to 30 instances, not {self.instances}")
        if self.standby_delay_s < 0:
            raise LabError("the standby's link cannot be faster than at once")
        if self.monitor_failures < 1 or self.monitor_every_s <= 0:
            raise LabError("the RDS monitor needs a period above 0 s and at least one failure")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> LabOptions:
        return cls(**{f.name: value[f.name] for f in fields(cls) if f.name in value})


@dataclass(frozen=True, slots=True, kw_only=True)
class LabPart:
    """One thing a lab consists of: a process, or an endpoint."""

    name: str
    ok: bool
    pid: int | None = None
    port: int | None = None
    role: str = ""  # of a database node: primary, standby, down; of an instance: its target health
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabStatus:
    """How a lab is.

    state: "down" (there is none), "starting", "up" (all parts ok), "degraded", "half dead" (its supervisor is gone).
    """

    name: str
    state: str
    parts: tuple[LabPart, ...] = ()
    up_s: float = 0.0
    speed: float = 1.0
    fsync: bool = False
    pid: int | None = None
    endpoint_url: str = ""
    directory: str = ""
    options: LabOptions = field(default_factory=LabOptions)

    @property
    def ok(self) -> bool:
        return self.state == "up"
