"""What a probe is told: one frozen value, which is also the first line of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from drkit import errors
from drkit.model import Connection, ProbeKind, Role

IN_FLIGHT_LIMIT = 1000  # attempts open at once; a tick that finds them all taken is lost


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """One probe: an attempt every `every_s`, each given `timeout_s` (τ) of wall time.

    Its file holds no secrets: a password is named by the environment variable or the secret that holds it. One that
    came from a secret is kept in memory (`password`) and reaches the probe's process through a pipe.
    """

    name: str
    kind: ProbeKind
    role: Role
    every_s: float
    timeout_s: float
    connection: Connection = Connection.FRESH
    first_seq: int = 0  # where numbers begin: a probe that goes on for one that died starts far above it

    url: str = ""  # http
    method: str = "GET"
    too_slow_s: float | None = None  # an answer that took longer is a failure (class too-slow)

    host: str = ""  # tcp, sql
    port: int = 0

    dbname: str = ""  # sql
    user: str = ""
    password_env: str | None = None
    password_secret_arn: str | None = None  # Secrets Manager
    password: str = field(default="", repr=False, compare=False)  # what that secret said; never written anywhere
    sslmode: str = "prefer"
    ledger_id: str = ""  # run_id (a UUID) of this probe's marker rows: its own for each probe and run

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise errors.UsageError(f"probe {self.name!r}: {problem}")

    def _problem(self) -> str:
        if self.every_s <= 0 or self.timeout_s <= 0:
            return f"every_s ({self.every_s:g}) and timeout_s ({self.timeout_s:g}) must be more than 0"
        if self.timeout_s / self.every_s > IN_FLIGHT_LIMIT:
            return f"timeout_s may be at most {IN_FLIGHT_LIMIT} times every_s, or attempts pile up during an outage"
        if self.too_slow_s is not None and self.kind is not ProbeKind.HTTP:
            return "too_slow_s is for http only: a slow commit is a commit all the same"
        if self.kind is ProbeKind.HTTP:
            url = urlsplit(self.url)
            if url.scheme not in ("http", "https") or not url.hostname:
                return f"not an http or https URL: {self.url!r}"
            if url.username or url.password:
                return "no user or password in its URL, please: it is written to the run directory"
            return ""
        if not (self.host and 0 < self.port < 65536):
            return f"no host and port: {self.host!r}, {self.port}"
        if self.kind is ProbeKind.SQL:
            try:
                UUID(self.ledger_id)
            except ValueError:
                return f"ledger_id must be a UUID, not {self.ledger_id!r}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """Return all but the password."""
        return {key: value for key, value in asdict(self).items() if key != "password"}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ProbeSpec:
        """Return the spec that `to_json` was asked for; it has no password."""
        fields = dict(document)
        return cls(
            kind=ProbeKind(fields.pop("kind")),
            role=Role(fields.pop("role")),
            connection=Connection(fields.pop("connection")),
            **fields,
        )
