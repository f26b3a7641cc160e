"""The process that is a lab: `python -m drkit.lab.supervisor <directory>`, started by `lab.up`.

It keeps `state.json` in its directory: who it is, how far it is, and the footprint (every process with pid and start
time) that `lab down` ends. What it starts ends with it, also when it is killed with -9.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from drkit import clock, targets
from drkit.errors import DrkitError, LabError
from drkit.lab import bootstrap, moto_patches
from drkit.lab.autoscaling import Controller
from drkit.lab.backups import Backups
from drkit.lab.bootstrap import INSTANCE_ID, RECORD, RECOVERY_REGION, REGION, REPLICA_ID, SECRET, SERVICE_RECORD
from drkit.lab.calls import CallLog
from drkit.lab.cloud import ACCOUNT_ID, Cloud
from drkit.lab.compute import Compute
from drkit.lab.database import Databases
from drkit.lab.dns import ServiceRecord, WriterRecord
from drkit.lab.front import FIRST
from drkit.lab.nodes import REPLICA
from drkit.lab.options import LabOptions, LabPart
from drkit.lab.plant import Health, NodeRole, Plant, PlantOptions
from drkit.lab.ports import HOST
from drkit.lab.rds_monitor import Monitor, MonitorSettings
from drkit.lab.restores import Restores
from drkit.lab.verbs import Verbs
from drkit.lab.zonal_shift import ZonalShifts
from drkit.targets import (
    AwsAccess,
    ComputeTarget,
    DatabaseTarget,
    LabInfo,
    NetworkTarget,
    ServiceTarget,
    Target,
)

READY_TIMEOUT_S = 45.0
STOP_TIMEOUT_S = 20.0
WATCH_EVERY_S = 0.25

log = logging.getLogger("drkit.lab.supervisor")


class Supervisor:
    """One lab, from its options to its end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        wanted = json.loads((directory / "options.json").read_text())
        self.name, self.speed, self.fsync = str(wanted["name"]), float(wanted["speed"]), bool(wanted["fsync"])
        self.target_file = Path(wanted["target_file"])
        self.options = LabOptions.from_json(wanted["options"])
        me = psutil.Process()
        self._state: dict[str, Any] = {
            "name": self.name,
            "pid": me.pid,
            "started": me.create_time(),
            "phase": "starting",
            "doing": "starting",
            "speed": self.speed,
            "fsync": self.fsync,
            "options": self.options.as_json(),
            "target_file": str(self.target_file),
            "since_ns": clock.now_ns(),
            "since_utc": clock.wall_utc().isoformat(timespec="seconds"),
            "footprint": {},
        }
        self._state_lock = threading.Lock()
        self._over = threading.Event()
        self.cloud = Cloud(directory / "requests.log")
        self.plant = Plant(
            directory / "plant",
            options=PlantOptions(
                fsync=self.fsync,
                multi_az=self.options.multi_az,
                sync_standby=self.options.sync_standby,
                health_every_s=0.5 / self.speed,
                health_timeout_s=0.4 / min(1.0, self.speed),
            ),
        )
        self._stoppers: list[Callable[[], None]] = [
            self.plant.stop,
            self.cloud.stop,
        ]  # last the cloud: the archive uses it

    def run(self) -> int:
        """Start the lab, serve until SIGTERM, leave nothing; return the exit code."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for drkit, not for the lab it uses
        signal.signal(signal.SIGTERM, lambda *_: self._over.set())
        self._tell()
        threading.Thread(target=self._keep_state, name="state", daemon=True).start()
        code = 0
        try:
            self._start()
            while not self._over.wait(WATCH_EVERY_S):
                pass
        except Exception as e:
            if not isinstance(e, DrkitError):
                log.exception("the lab did not start")
            hint = e.hint if isinstance(e, DrkitError) else f"see {self.directory / 'supervisor.log'}"
            self._tell(phase="failed", error=str(e), hint=hint)
            code = 1
        self._stop(failed=code != 0)
        return code

    # --- start --------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        gc.disable()  # moto and botocore build a million lasting objects; walking through them doubles the time
        (self.directory / "amis.json").write_text("[]")
        os.environ["MOTO_AMIS_PATH"] = str(self.directory / "amis.json")  # moto's own 1,300 images a region take 0.4 s
        with ThreadPoolExecutor(2) as side:
            self._tell(doing="starting PostgreSQL and the AWS APIs")
            account = side.submit(self._make_account)
            self.plant.start()
            client, network, services = account.result()
        self._tell(doing="making the database and the instances")
        databases, record, zone_id = self._make_database(client, network, services)
        hosts = {service.host: side for service, side in zip(services, (FIRST, REPLICA), strict=True)}
        public = ServiceRecord(self.cloud, self.plant, hosts, zone_id=zone_id, name=SERVICE_RECORD)
        compute = Compute(self.cloud, self.plant, (REGION, RECOVERY_REGION))
        for (region, subnet), place in network.places.items():
            compute.adopt(region, subnet, place)
        moto_patches.report_target_health(compute.health)
        replace_after_s = self.options.replace_after_s / self.speed
        controllers = [
            Controller(self.cloud, compute, region, replace_after_s=replace_after_s, speed=self.speed)
            for region in (REGION, RECOVERY_REGION)
        ]
        shifts = ZonalShifts(self.cloud, self.plant, services)
        monitor = Monitor(
            databases,
            MonitorSettings(
                every_s=self.options.monitor_every_s / self.speed,
                failures=self.options.monitor_failures,
                rebuild_after_s=self.options.rebuild_after_s / self.speed,
            ),
        )
        backups = Backups(databases)
        restores = Restores(databases, backups, endpoint_url=self.cloud.url)
        databases.chores.append(backups.the_writer_archives)
        moto_patches.report_backups(backups.latest_restorable_time, backups.source_record)
        verbs = Verbs(databases, backups, restores)
        self.cloud.after += [compute.follow, verbs.follow, restores.follow, record.follow, public.follow]
        self._stoppers = [
            shifts.stop,
            *(c.stop for c in controllers),
            monitor.stop,
            restores.stop,
            databases.stop,
            compute.stop,
            *self._stoppers,
        ]
        controllers[0].tick()
        for controller in controllers:
            controller.start()
        with ThreadPoolExecutor(1) as side:
            backup = side.submit(self._archive, databases, backups)
            self._tell(doing="waiting until everything is healthy")
            clock.wait_until(
                self._whole, "every part of the lab is healthy", timeout_s=READY_TIMEOUT_S, every_s=0.1, stop=self._over
            )
            backup.result()
        self.cloud.pages["status"] = lambda: {"parts": [asdict(part) for part in self.parts()]}
        if self.options.standby_delay_s:
            for node in self.plant.pair:
                self.plant.degrade_link(node, delay_s=self.options.standby_delay_s)
        databases.show_redundancy(self.plant.in_sync())
        monitor.start()
        self.cloud.calls = CallLog(self.directory / "calls.jsonl")
        write(self.target_file, targets.dump(self._target(network, services, zone_id)))
        gc.freeze()
        gc.enable()
        self._tell(
            phase="ready",
            doing="",
            endpoint_url=self.cloud.url,
            ready_ns=clock.now_ns(),
            footprint=self.plant.footprint(),
        )

    def _make_account(self) -> tuple[bootstrap.ClientOf, bootstrap.Network, list[bootstrap.Service]]:
        self.cloud.start()
        moto_patches.apply()
        client = bootstrap.client_factory(self.cloud.url)
        network = bootstrap.make_network(client, self.plant.options.zones)
        wanted = self.options.instances
        services = [
            bootstrap.make_service(
                client,
                network,
                region=region,
                instances=instances,
                at_most=3 * wanted,
                grace_s=max(1, round(self.options.grace_s)),
            )
            for region, instances in ((REGION, wanted), (RECOVERY_REGION, 0))
        ]
        bootstrap.make_bucket(client)
        return client, network, services

    def _make_database(
        self, client: bootstrap.ClientOf, network: bootstrap.Network, services: list[bootstrap.Service]
    ) -> tuple[Databases, WriterRecord, str]:
        first, second, *_ = self.plant.options.zones
        bootstrap.make_database(
            client,
            network,
            port=self.plant.writer_endpoint[1],
            replica_port=self.plant.replica_endpoint[1],
            version=self.plant.pg_version,
            zones=(f"{REGION}{first}", f"{REGION}{second}" if self.options.multi_az else None),
        )
        databases = Databases(
            self.cloud,
            self.plant,
            region=REGION,
            recovery_region=RECOVERY_REGION,
            instance_id=INSTANCE_ID,
            replica_id=REPLICA_ID,
        )
        databases.replica.status = "available"
        databases.show_endpoint(databases.pair)
        databases.show_endpoint(databases.replica)
        host, port = databases.pair.address, databases.pair.port
        bootstrap.make_secret(client, host=host, port=port, dbname=self.plant.dbname)
        zone_id = bootstrap.make_records(client, {RECORD: host, SERVICE_RECORD: services[0].host})
        record = WriterRecord(self.cloud, self.plant, databases, zone_id=zone_id, name=RECORD)
        databases.on_writer_moved = record.follow_record
        return databases, record, zone_id

    def _archive(self, databases: Databases, backups: Backups) -> None:
        if self.options.archive:
            self.plant.start_archive(endpoint_url=self.cloud.url, region=RECOVERY_REGION, bucket=bootstrap.BUCKET)
            backups.adopt(databases.pair, self.plant.history)
            log.info("base backup: %s", self.plant.base_backup())

    def _target(self, network: bootstrap.Network, services: list[bootstrap.Service], zone_id: str) -> Target:
        service, recovery = services
        zones = self.plant.options.zones
        host, port = self.plant.writer_endpoint
        replica_host, replica_port = self.plant.replica_endpoint
        return Target(
            name=self.name,
            kind="lab",
            account_id=ACCOUNT_ID,
            region=REGION,
            zones=tuple(f"{REGION}{zone}" for zone in zones),
            recovery_region=RECOVERY_REGION,
            aws=AwsAccess(endpoint_url=self.cloud.url),
            service=ServiceTarget(
                url=self.plant.service_url,
                zone_urls={f"{REGION}{zone}": url for zone, url in self.plant.zone_urls.items()},
                dns_record=SERVICE_RECORD,
                hosted_zone_id=zone_id,
                host=service.host,
                recovery_host=recovery.host,
            ),
            database=DatabaseTarget(
                instance_id=INSTANCE_ID,
                host=host,
                port=port,
                dbname=self.plant.dbname,
                user=self.plant.user,
                replica_id=REPLICA_ID,
                replica_host=replica_host,
                replica_port=replica_port,
                dns_record=RECORD,
                hosted_zone_id=zone_id,
                sslmode="disable",
                secret_id=SECRET,
            ),
            compute=ComputeTarget(
                asg_name=service.asg_name,
                target_group_arn=service.target_group_arn,
                load_balancer_arn=service.load_balancer_arn,
                recovery_asg_name=recovery.asg_name,
                recovery_target_group_arn=recovery.target_group_arn,
            ),
            network=NetworkTarget(vpc_id=network.vpc_id, recovery_vpc_id=network.recovery_vpc_id),
            hosts={"*.rds.amazonaws.com": HOST},  # instances' endpoints, as their records and the secret name them
            lab=LabInfo(
                directory=str(self.directory),
                speed=self.speed,
                fsync=self.fsync,
                facts={
                    "postgresql": self.plant.pg_version,
                    "rds_monitor": f"{self.options.monitor_every_s / self.speed:g} s x {self.options.monitor_failures}",
                    "standby": self._standby_fact(),
                    "asg_replaces_after": f"{self.options.replace_after_s / self.speed:g} s",
                    "backups": f"s3://{bootstrap.BUCKET}" if self.options.archive else "none",
                },
            ),
        )

    def _standby_fact(self) -> str:
        if not self.options.multi_az:
            return "none"
        return "synchronous" if self.options.sync_standby else "asynchronous"

    # --- how it is ----------------------------------------------------------------------------------------------------

    def parts(self) -> list[LabPart]:
        """Return what the lab consists of, and how each part is."""
        processes = {p["name"]: p for p in self.plant.footprint().get("processes", ())}
        parts = [LabPart(name="aws", ok=True, pid=os.getpid(), port=self.cloud.port)]
        for name, node in self.plant.nodes.items():
            role = node.role()
            follows = role is NodeRole.PRIMARY or (role is NodeRole.STANDBY and self.plant.streaming(name))
            pid = processes.pop(f"postgres {name}", {}).get("pid")
            letter = name.partition("-")[0]
            zone = RECOVERY_REGION if letter == "r" else f"{REGION}{letter}"
            parts.append(
                LabPart(name=f"database {name}", ok=follows, pid=pid, port=node.port, role=role.value, zone=zone)
            )
        health = self.plant.target_health()
        for instance_id, zone in sorted(self.plant.instances().items()):
            seen = health.get(instance_id)
            parts.append(
                LabPart(
                    name=instance_id,
                    ok=seen is not None and seen.state is Health.HEALTHY,
                    pid=processes.pop(instance_id, {}).get("pid"),
                    port=seen.port if seen else None,
                    role=seen.state.value if seen else "not registered",
                    zone=f"{RECOVERY_REGION}a" if zone == REPLICA else f"{REGION}{zone}",
                )
            )
        parts += [LabPart(name=name, ok=psutil.pid_exists(p["pid"]), pid=p["pid"]) for name, p in processes.items()]
        return parts

    def _whole(self) -> bool:
        return (
            sum(zone != REPLICA for zone in self.plant.instances().values()) == self.options.instances
            and all(part.ok for part in self.parts())
            and (not self.options.multi_az or self.plant.in_sync())
        )

    # --- state and end ------------------------------------------------------------------------------------------------

    def _tell(self, **news: Any) -> None:
        with self._state_lock:
            self._state.update(news)
            write(self.directory / "state.json", json.dumps(self._state, indent=1))
        if doing := news.get("doing"):
            log.info("%s", doing)

    def _keep_state(self) -> None:
        while not self._over.wait(WATCH_EVERY_S):
            try:
                footprint = self.plant.footprint()
            except Exception:
                log.exception("the footprint cannot be told")
                continue
            if footprint != self._state["footprint"]:
                self._tell(footprint=footprint)

    def _stop(self, *, failed: bool) -> None:
        self._over.set()
        faulthandler.dump_traceback_later(STOP_TIMEOUT_S, exit=True)  # says where it hangs; `lab down` sweeps the rest
        if not failed:
            self._tell(phase="stopping")
        for stop in self._stoppers:
            began_ns = clock.now_ns()
            try:
                stop()
            except Exception:
                log.exception("while stopping")
            log.info("%s took %.2f s", stop.__qualname__, (clock.now_ns() - began_ns) / clock.NS_PER_S)
        self.target_file.unlink(missing_ok=True)
        self._tell(footprint={}, **({} if failed else {"phase": "stopped"}))


def write(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d %(name)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    os.nice(5)  # the lab is the patient; the probes, which ask it and must not be late, come first
    try:
        return Supervisor(Path(sys.argv[1])).run()
    except LabError as e:
        log.error("%s (%s)", e, e.hint)
        return 1


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # all is ended by now; waiting for moto's and botocore's threads and objects would take seconds
