"""RDS events as AWS writes them: id, category and message.

Source: Amazon RDS User Guide, "Amazon RDS event categories and event messages". The API does not return the id.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    id: str
    category: str
    message: str


SHUTDOWN = Kind("RDS-EVENT-0004", "availability", "DB instance shutdown")
RESTARTED = Kind("RDS-EVENT-0006", "availability", "DB instance restarted")
STOPPED = Kind("RDS-EVENT-0087", "notification", "DB instance stopped")
STARTED = Kind("RDS-EVENT-0088", "notification", "DB instance started")
CREATED = Kind("RDS-EVENT-0005", "creation", "DB instance created")
DELETED = Kind("RDS-EVENT-0003", "deletion", "DB instance deleted")
FAILOVER_STARTED = Kind("RDS-EVENT-0013", "failover", "Multi-AZ instance failover started.")
FAILOVER_COMPLETED = Kind("RDS-EVENT-0049", "failover", "Multi-AZ instance failover completed")
FAILOVER_REASON = Kind("RDS-EVENT-0065", "failover", "")  # the message is the reason
FAILOVER_IMPOSSIBLE = Kind(
    "RDS-EVENT-0031", "failure", "The DB instance is not reachable and has no standby to fail over to."
)
TO_MULTI_AZ_STARTED = Kind(
    "RDS-EVENT-0024", "configuration change", "Applying modification to convert to a Multi-AZ DB Instance"
)
TO_MULTI_AZ = Kind(
    "RDS-EVENT-0025", "configuration change", "Finished applying modification to convert to a Multi-AZ DB Instance"
)
TO_SINGLE_AZ = Kind(
    "RDS-EVENT-0029",
    "configuration change",
    "Finished applying modification to convert to a standard (Single-AZ) DB Instance",
)
STANDBY_LOST = Kind("RDS-EVENT-0050", "availability", "The standby is lost: Multi-AZ activation started.")
STANDBY_RESTORED = Kind("RDS-EVENT-0051", "availability", "Multi-AZ activation completed.")
PROMOTED = Kind("RDS-EVENT-0057", "read replica", "Replication for the Read Replica terminated: it was promoted")


RESTORED_TO_TIME = Kind("RDS-EVENT-0019", "restoration", "DB instance restored to a point in time")
RESTORED_FROM_SNAPSHOT = Kind("RDS-EVENT-0043", "restoration", "DB instance restored from a snapshot")
RESTORE_FAILED = Kind("RDS-EVENT-0031", "failure", "The restore failed.")
SNAPSHOT_STARTED = Kind("RDS-EVENT-0040", "creation", "Creating manual snapshot")
SNAPSHOT_MADE = Kind("RDS-EVENT-0042", "creation", "Manual snapshot created")
SNAPSHOT_DELETED = Kind("RDS-EVENT-0041", "deletion", "Deleted user snapshot")
COPY_STARTED = Kind("RDS-EVENT-0059", "notification", "Started copy of a snapshot")
COPIED = Kind("RDS-EVENT-0060", "notification", "Finished copy of a snapshot")


def replication(status: str) -> list[dict[str, Any]]:
    """Return a replica's StatusInfos: "replicating", "error" or, when its source is gone, "terminated"."""
    follows = status == "replicating"
    message = "" if follows else "the replica does not stream from its source"
    return [{"StatusType": "read replication", "Normal": follows, "Status": status, "Message": message}]


class Event:
    """One entry of DescribeEvents, with the attributes that moto's serialiser looks for."""

    def __init__(self, kind: Kind, record: Any, message: str, date: datetime) -> None:
        self.event_id = kind.id
        self.source_identifier = record.resource_id
        self.source_type = record.event_source_type
        self.source_arn = record.arn
        self.message = message or kind.message
        self.event_categories = [kind.category]
        self.date = date
