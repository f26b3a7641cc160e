"""AWS API calls of a lab: what one is, what refuses it, and the list of those that changed something, `calls.jsonl`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drkit import clock

CLIENT = "drkit-lab"  # in the user agent of the lab's own S3 clients, whose calls are nobody's deeds
_READ_ONLY = ("Describe", "Get", "List", "Head", "GET", "HEAD")
# What a call is about, the first that it names.
_RESOURCES = (
    "TargetDBInstanceIdentifier", "TargetDBSnapshotIdentifier", "DBInstanceIdentifier", "DBSnapshotIdentifier",
    "SourceDBInstanceArn", "AssociationId", "NetworkAclId", "SubnetId", "AutoScalingGroupName", "InstanceId.1",
    "TargetGroupArn", "ResourceName", "ResourceIdentifier", "SecretId", "Name", "Path",
)  # fmt: skip


class AwsError(Exception):
    """What a hook raises to answer a call itself, as AWS answers it."""

    def __init__(self, code: str, message: str, status: int = 400, **members: object) -> None:
        """members: what else the answer says; of services in JSON only."""
        super().__init__(message)
        self.code, self.message, self.status, self.members = code, message, status, members


@dataclass(frozen=True, slots=True)
class Call:
    """One AWS API call. `params` holds the form's flat names (SubnetId.1, Tags.member.1.Key) or the JSON body."""

    service: str
    action: str
    region: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        return str(self.params.get(name, default))

    def flag(self, name: str) -> bool:
        return self.text(name).lower() == "true"

    @property
    def changes_something(self) -> bool:
        return not self.action.startswith(_READ_ONLY)


class CallLog:
    """Writes a line for each call that changes something once it is answered.

    {"at_ns": when it came, monotonic, "service", "action", "region", "resource": what it names first, "status": HTTP}
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("a", buffering=1)

    def follow(self, call: Call, start_response: Callable[..., Any]) -> Callable[..., Any]:
        """Return a start_response that writes the call down, too."""
        if not call.changes_something:
            return start_response
        at_ns = clock.now_ns()

        def started(status: str, *args: Any) -> Any:
            named = (call.text(name) for name in _RESOURCES)
            line = {
                "at_ns": at_ns,
                "service": call.service,
                "action": call.action,
                "region": call.region,
                "resource": next((name for name in named if name), ""),
                "status": int(status.split()[0]),
            }
            with self._lock:
                self._file.write(json.dumps(line) + "\n")
            return start_response(status, *args)

        return started
