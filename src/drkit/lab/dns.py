"""Route 53 of a lab: the writer record decides where the writer endpoint leads. (A TTL is not imitated.)"""

from __future__ import annotations

from drkit.lab.cloud import Call, Cloud
from drkit.lab.database import Databases
from drkit.lab.plant import Plant


class WriterRecord:
    """Makes the plant's writer endpoint follow one CNAME whose value is an RDS instance's endpoint address."""

    def __init__(self, cloud: Cloud, plant: Plant, databases: Databases, *, zone_id: str, name: str) -> None:
        self._cloud, self._plant, self._databases = cloud, plant, databases
        self._zone_id, self._name = zone_id.rpartition("/")[2], name.rstrip(".") + "."

    def follow(self, call: Call) -> None:
        if call.service == "route53":
            self.follow_record()

    def follow_record(self) -> None:
        """Flip the writer endpoint if the record names another instance than the one it leads to."""
        node = self._databases.node_of(self._value())
        if node is not None and node != self._plant.writer:
            self._plant.flip_writer(node)

    def _value(self) -> str:
        with self._cloud.lock:
            zone = self._cloud.backend("route53", "aws").zones.get(self._zone_id)
            for record in zone.rrsets if zone else ():
                if record.name == self._name and record.records:
                    value = record.records[0]
                    return str(value["Value"] if isinstance(value, dict) else value)
        return ""
