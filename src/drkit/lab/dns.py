"""Route 53 of a lab: what a record says decides where a link leads. (A TTL is not imitated.)"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping

from drkit.lab.cloud import Call, Cloud
from drkit.lab.database import Databases
from drkit.lab.plant import Plant


class Record(ABC):
    """A CNAME that leads: whatever it says is brought about, again after each change in Route 53."""

    def __init__(self, cloud: Cloud, *, zone_id: str, name: str) -> None:
        self._cloud = cloud
        self._zone_id, self._name = zone_id.rpartition("/")[2], name.rstrip(".") + "."
        self._turn = threading.Lock()  # of two changes at once, what is read last is led to last

    @abstractmethod
    def lead(self, value: str) -> None:
        """Lead to what a value names; one that names nothing of the lab's changes nothing."""

    def follow(self, call: Call) -> None:
        if call.service == "route53":
            self.follow_record()

    def follow_record(self) -> None:
        with self._turn:
            self.lead(self._value())

    def _value(self) -> str:
        with self._cloud.lock:
            zone = self._cloud.backend("route53", "aws").zones.get(self._zone_id)
            for record in zone.rrsets if zone else ():
                if record.name == self._name and record.records:
                    value = record.records[0]
                    return str(value["Value"] if isinstance(value, dict) else value)
        return ""


class WriterRecord(Record):
    """Leads the plant's writer endpoint to the instance whose endpoint address it says."""

    def __init__(self, cloud: Cloud, plant: Plant, databases: Databases, *, zone_id: str, name: str) -> None:
        super().__init__(cloud, zone_id=zone_id, name=name)
        self._plant, self._databases = plant, databases

    def lead(self, value: str) -> None:
        node = self._databases.node_of(value)
        if node is not None and node != self._plant.writer:
            self._plant.flip_writer(node)


class ServiceRecord(Record):
    """Leads the service's public endpoint to the load balancer whose DNS name it says."""

    def __init__(self, cloud: Cloud, plant: Plant, hosts: Mapping[str, str], *, zone_id: str, name: str) -> None:
        """hosts: DNS name of a load balancer → its side of the plant."""
        super().__init__(cloud, zone_id=zone_id, name=name)
        self._plant, self._sides = plant, {host.lower(): side for host, side in hosts.items()}

    def lead(self, value: str) -> None:
        side = self._sides.get(value.rstrip(".").lower())
        if side is not None:
            self._plant.lead_service(side)
