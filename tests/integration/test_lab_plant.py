"""The plant: zones that die, databases that fail over, and what becomes of the writes that were acknowledged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from leftovers import lives, segments
from moto.server import ThreadedMotoServer

from drkit import clock
from drkit.errors import LabError
from drkit.lab import ports
from drkit.lab.binaries import find
from drkit.lab.pgwire import ServerError, Session
from drkit.lab.plant import Health, NodeRole, Plant, PlantOptions, sweep

pytestmark = pytest.mark.lab

type_make = Callable[..., Plant]
ANSWERS_S = 10.0  # a server that is well is given this long to say so: the machine may be busy
INSERT = "insert into orders (zone, instance) values ('{}', '{}')"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make(tmp_path: Path, cache: Path) -> Iterator[type_make]:
    """Return a function that starts a plant; all are stopped, and nothing of them is left."""
    made: list[Plant] = []

    def start(**options: object) -> Plant:
        plant = Plant(tmp_path / f"plant{len(made)}", cache=cache, options=PlantOptions(**options))  # type: ignore[arg-type]
        made.append(plant)
        plant.start()
        return plant

    yield start
    for plant in made:
        left = everything_of(plant)
        plant.stop()
        assert remains(left, plant) == []


def everything_of(plant: Plant) -> dict[str, Any]:
    """Return the processes, ports and shared memory of a running plant."""
    footprint = plant.footprint()
    processes = [psutil.Process(p["pid"]) for p in footprint["processes"]]
    tree = [child for p in processes for child in [p, *p.children(recursive=True)]]
    listening = {c.laddr.port for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return {"processes": tree, "ports": sorted(listening), "shared": footprint["shared_memory"]}


def remains(left: dict[str, Any], plant: Plant) -> list[str]:
    """Return what is still there of it."""
    return [
        *(f"process {process.pid}" for process in left["processes"] if lives(process)),
        *(f"port {port}" for port in left["ports"] if ports.taken(port)),
        *(f"shared memory {s}" for s in segments(left["shared"])),
        *(str(path) for path in plant.directory.rglob("*")),
    ]


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Wait for what has to come, or to hold, and need not do so within a certain time: the machine may be busy."""
    clock.wait_until(holds, what, timeout_s=30, every_s=0.05)


def get(url: str, timeout_s: float = 10.0) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310  (the lab's own http URL)
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


class Writer:
    """A client that writes one number after another through the writer endpoint and keeps those acknowledged."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self.acknowledged: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Writer:
        self._thread.start()
        self.await_more(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def await_more(self, count: int) -> None:
        wanted = len(self.acknowledged) + count
        clock.wait_until(lambda: len(self.acknowledged) >= wanted, f"{count} more writes", timeout_s=30, every_s=0.005)

    def survivors(self) -> set[int]:
        with connect(self._plant) as session:
            rows = session.query("select instance from orders where zone = 'test'", timeout_s=ANSWERS_S)
        return {int(row[0] or 0) for row in rows}

    def lost(self) -> set[int]:
        return set(self.acknowledged) - self.survivors()

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                with connect(self._plant, timeout_s=0.3) as session:
                    while not self._stop.is_set():
                        number += 1
                        session.query(INSERT.format("test", number), timeout_s=0.3)
                        self.acknowledged.append(number)
            except (OSError, ServerError):
                self._stop.wait(0.005)


def connect(plant: Plant, timeout_s: float = ANSWERS_S) -> Session:
    return Session(plant.writer_endpoint, user=plant.user, dbname=plant.dbname, timeout_s=timeout_s)


class TestLife:
    def test_two_side_by_side_and_nothing_left(self, make: type_make) -> None:
        first, second = make(), make()
        eventually(first.in_sync, "in sync")
        eventually(second.in_sync, "in sync")
        with connect(first) as session:
            session.query(INSERT.format("x", "x"), timeout_s=ANSWERS_S)
        with connect(second) as session:
            assert session.query("select count(*) from orders", timeout_s=ANSWERS_S) == [("0",)]

    def test_stop_is_harmless_twice_and_ends_all_verbs(self, make: type_make) -> None:
        plant = make()
        plant.stop()
        plant.stop()
        with pytest.raises(LabError, match="being stopped"):
            plant.rebuild_standby("b")
        with pytest.raises(LabError):
            plant.start_instance("i-1", "a")

    def test_all_ends_when_its_owner_is_killed(self, tmp_path: Path, cache: Path) -> None:
        program = (
            "import json, os, sys; from pathlib import Path; from drkit.lab.plant import Plant\n"
            "p = Plant(Path(sys.argv[1]), cache=Path(sys.argv[2])); p.start(); p.start_instance('i-1', 'a')\n"
            "print(json.dumps(p.footprint()), flush=True); os.kill(os.getpid(), 9)"
        )
        command = [sys.executable, "-c", program, str(tmp_path / "plant"), str(cache)]
        footprint = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)

        def gone() -> bool:
            processes = any(lives(p["pid"], p["started"]) for p in footprint["processes"])
            return not processes and not any(Path(directory).exists() for directory in footprint["remove"])

        assert footprint["processes"]
        assert footprint["remove"]
        eventually(gone, "the ward has swept")
        assert segments(footprint["shared_memory"]) == set()
        assert sweep(footprint) == []

    def test_sweep_ends_what_is_left_and_nobody_else(self, make: type_make) -> None:
        plant = make()
        footprint = plant.footprint()
        wrong = [{**p, "started": p["started"] - 100} for p in footprint["processes"]]
        assert sweep({"processes": [*wrong, {"name": "me", "pid": os.getpid(), "started": 0.0}]}) == []
        assert plant.primary_alive(ANSWERS_S)
        named = sweep({**footprint, "remove": []})
        assert {"postgres a", "postgres b", "postgres r", "relay", "balancer"} <= set(named)

    def test_a_directory_that_cannot_be_is_one_clear_error(self, tmp_path: Path, cache: Path) -> None:
        (tmp_path / "file").write_text("")
        plant = Plant(tmp_path / "file" / "plant", cache=cache)
        with pytest.raises(LabError, match="the lab cannot start"):
            plant.start()
        plant.stop()

    def test_a_start_that_fails_leaves_only_its_logs(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plant = Plant(tmp_path / "plant", cache=cache)

        def fail(_: Plant) -> None:
            raise LabError("made to fail")

        monkeypatch.setattr(Plant, "_lead_to_nodes", fail)
        with pytest.raises(LabError, match="made to fail"):
            plant.start()
        assert [path.name for path in plant.directory.iterdir()] == ["logs"]


class TestFailover:
    def test_keeps_every_acknowledged_write(self, make: type_make) -> None:
        plant = make()
        with Writer(plant) as writer:
            plant.cut("a/db")
            eventually(lambda: not plant.primary_alive(0.2), "the primary is silent")
            times = plant.failover("b")
            writer.await_more(20)
        assert times.started_ns <= times.fenced_ns <= times.promoted_ns <= times.flipped_ns
        assert (plant.primary, plant.writer) == ("b", "b")
        assert writer.lost() == set()

    def test_twin_an_asynchronous_standby_loses_what_the_link_held_back(self, make: type_make) -> None:
        plant = make(sync_standby=False)
        with Writer(plant) as writer:
            plant.degrade_link("b", cut=True)
            writer.await_more(50)
            plant.cut("a/db")
            plant.failover("b")
            writer.await_more(20)
        assert len(writer.lost()) >= 50

    def test_a_healthy_primary_is_fenced_first(self, make: type_make) -> None:
        plant = make()
        with Writer(plant) as writer:
            plant.failover("b")
            writer.await_more(20)
            assert plant.nodes["a"].role(ANSWERS_S) is NodeRole.DOWN
        assert writer.lost() == set()

    def test_there_and_back_again(self, make: type_make) -> None:
        plant = make()
        with Writer(plant) as writer:
            for to, old in (("b", "a"), ("a", "b"), ("b", "a")):
                plant.failover(to)
                assert not plant.in_sync()
                plant.rebuild_standby(old)
                eventually(plant.in_sync, "in sync again")
                assert plant.nodes[old].role(ANSWERS_S) is NodeRole.STANDBY
                plant.rebuild_standby("r")
                eventually(lambda: plant.streaming("r"), "the replica streams")
                writer.await_more(20)
        assert writer.lost() == set()

    def test_the_old_primary_comes_back_only_as_a_standby_with_everything(self, make: type_make) -> None:
        plant = make()
        with Writer(plant) as writer:
            plant.cut("a/db")
            plant.failover("b")
            with pytest.raises(LabError, match="a/db is cut off"):
                plant.rebuild_standby("a")
            plant.heal("a/db")
            plant.start_database()
            assert not plant.alive("a", 0.5)  # still fenced
            plant.rebuild_standby("a")
            writer.await_more(20)
        with pytest.raises(ServerError, match="read-only transaction"):
            plant.nodes["a"].query(INSERT.format("x", "x"))
        assert writer.lost() == set()

    def test_only_a_running_standby_takes_over(self, make: type_make) -> None:
        plant = make()
        plant.nodes["b"].kill()
        for to in ("a", "b", "r"):
            with pytest.raises(LabError, match="cannot fail over"):
                plant.failover(to)
        assert plant.nodes["a"].role(ANSWERS_S) is NodeRole.PRIMARY

    def test_without_multi_az_there_is_nobody(self, make: type_make) -> None:
        plant = make(multi_az=False)
        assert plant.standby is None
        assert not plant.in_sync()
        eventually(lambda: plant.streaming("r"), "the replica streams")
        with pytest.raises(LabError, match="cannot fail over"):
            plant.failover("b")


class TestStandby:
    def test_writes_wait_for_a_lost_standby_until_it_is_dropped(self, make: type_make) -> None:
        plant = make()
        plant.cut("b/db")
        assert not plant.in_sync()
        with connect(plant) as session, pytest.raises(TimeoutError):
            session.query(INSERT.format("x", "x"), timeout_s=0.5)
        plant.drop_standby()
        with Writer(plant) as writer:
            plant.heal("b/db")
            plant.rebuild_standby("b")
            eventually(plant.in_sync, "in sync again")
            writer.await_more(20)

    def test_the_replicas_lag_is_its_loss(self, make: type_make) -> None:
        plant = make()
        with Writer(plant) as writer:
            plant.degrade_link("r", cut=True)
            before = plant.lag_bytes("r")
            writer.await_more(100)
            eventually(lambda: (plant.lag_bytes("r") or 0) > (before or 0), "the lag has grown")
            plant.promote("r")
            plant.flip_writer("r")
            writer.await_more(20)
        assert len(writer.lost()) >= 100
        assert plant.nodes["a"].role(ANSWERS_S) is NodeRole.PRIMARY  # the pair is left alone
        plant.flip_writer("a")
        plant.degrade_link("r")
        plant.remove_node("r")
        assert plant.nodes["r"].role(ANSWERS_S) is NodeRole.DOWN
        plant.rebuild_standby("r")
        eventually(lambda: plant.streaming("r"), "the replica streams")
        with Session(plant.replica_endpoint, user=plant.user, dbname=plant.dbname, timeout_s=ANSWERS_S) as session:
            assert session.query("select pg_is_in_recovery()", timeout_s=ANSWERS_S) == [("t",)]

    def test_a_narrow_link_loses_what_it_had_not_carried_when_the_primary_dies(self, make: type_make) -> None:
        plant = make()
        with Writer(plant) as writer:
            plant.degrade_link("r", rate_bytes_per_s=5_000)
            writer.await_more(300)
            plant.fence("a")
            carried = plant.nodes["r"].query("select pg_last_wal_receive_lsn()")
            clock.sleep_s(1.0)
            assert plant.nodes["r"].query("select pg_last_wal_receive_lsn()") == carried
            plant.promote("r")
            plant.flip_writer("r")
            writer.await_more(20)
        assert writer.lost()

    def test_a_replica_ahead_of_the_new_primary_is_copied_anew(self, make: type_make) -> None:
        plant = make(sync_standby=False)
        with Writer(plant) as writer:
            plant.degrade_link("b", cut=True)
            writer.await_more(50)
            plant.failover("b")
            plant.rebuild_standby("r")
            writer.await_more(20)
        eventually(lambda: plant.streaming("r"), "the replica streams")
        ids = "select id from orders order by id"
        there = plant.nodes["b"].query(ids)  # nobody writes any more
        eventually(lambda: plant.nodes["r"].query(ids) == there, "the replica has the same rows")
        assert len(there) >= 20

    def test_stop_start_restart(self, make: type_make) -> None:
        plant = make()
        plant.stop_database()
        plant.stop_database()
        assert not plant.primary_alive(0.5)
        with pytest.raises(ConnectionRefusedError):
            connect(plant)
        plant.start_database()
        eventually(plant.in_sync, "in sync again")
        plant.restart_primary()
        eventually(plant.in_sync, "in sync again")
        assert plant.primary_alive(ANSWERS_S)


class TestZones:
    @pytest.fixture
    def plant(self, make: type_make) -> Plant:
        plant = make(health_every_s=0.1, health_timeout_s=0.2, target_timeout_s=5.0, query_timeout_s=0.5)
        for zone in plant.options.zones:
            plant.start_instance(f"i-{zone}", zone)
            plant.register_target(f"i-{zone}")
        self.await_health(plant, a=Health.HEALTHY, b=Health.HEALTHY, c=Health.HEALTHY)
        return plant

    def await_health(self, plant: Plant, **zones: Health) -> None:
        def holds() -> bool:
            seen = plant.target_health()
            return all(seen[f"i-{zone}"].state is state for zone, state in zones.items())

        eventually(holds, f"{zones}")

    def test_reads_and_writes_in_every_zone(self, plant: Plant) -> None:
        assert {get(f"{plant.lb_url}/orders/new")[1]["zone"] for _ in range(6)} == {"a", "b", "c"}
        for zone, url in plant.zone_urls.items():
            status, content = get(f"{url}/orders")
            assert (status, content["zone"], content["instance"]) == (200, zone, f"i-{zone}")
            assert len(content["orders"]) == 5  # type: ignore[arg-type]

    def test_a_cut_zone_is_silent_leaves_the_balancer_and_comes_back(self, plant: Plant) -> None:
        plant.cut("b/app")
        with pytest.raises(TimeoutError):
            get(f"{plant.zone_urls['b']}/health", timeout_s=0.5)
        self.await_health(plant, b=Health.UNHEALTHY)
        assert {get(f"{plant.lb_url}/orders")[0] for _ in range(6)} == {200}
        plant.heal("b/app")
        self.await_health(plant, b=Health.HEALTHY)
        assert get(f"{plant.zone_urls['b']}/orders")[0] == 200

    def test_a_switched_off_instance_is_silent_and_a_crashed_one_refuses(self, plant: Plant) -> None:
        plant.stop_instance("i-a")
        plant.kill_service("i-b")
        with pytest.raises(TimeoutError):
            get(f"{plant.zone_urls['a']}/health", timeout_s=0.5)
        with pytest.raises(urllib.error.URLError, match="refused"):
            get(f"{plant.zone_urls['b']}/health")
        assert plant.instances() == {"i-c": "c"}
        port = plant.start_instance("i-a", "a")
        assert plant.start_instance("i-a", "a") == port
        self.await_health(plant, a=Health.HEALTHY, b=Health.UNHEALTHY)
        assert get(f"{plant.zone_urls['a']}/health")[0] == 200

    def test_the_service_survives_a_silent_writer(self, plant: Plant) -> None:
        """A query's deadline of 0.5 s answers, not the load balancer's of 5 s; the quickest answer shows how soon."""
        for suspended in (False, True):
            plant.nodes["a"].suspend() if suspended else plant.cut("a/db")
            took_ns = []
            for _ in range(3):
                before_ns = clock.now_ns()
                status, content = get(f"{plant.lb_url}/orders")
                took_ns.append(clock.now_ns() - before_ns)
                assert status == 503, content
                assert content["instance"] in plant.instances()  # the load balancer's own has none
                assert content["error"] in ("database: timed out", "database: no answer from the database in time")
            assert 0.4 < min(took_ns) / clock.NS_PER_S < 0.8
            assert get(f"{plant.lb_url}/health")[0] == 200
            plant.nodes["a"].resume() if suspended else plant.heal("a/db")
            eventually(lambda: get(f"{plant.lb_url}/orders")[0] == 200, "it reads again")

    def test_a_whole_zone_with_the_writer(self, plant: Plant) -> None:
        plant.stop_instance("i-a")
        plant.cut("a/app")
        plant.cut("a/db")
        plant.failover("b")
        self.await_health(plant, a=Health.UNHEALTHY)
        assert {get(f"{plant.lb_url}/orders/new")[0] for _ in range(6)} == {201}
        plant.heal("a/app")
        plant.heal("a/db")
        plant.rebuild_standby("a")
        plant.start_instance("i-a", "a")
        self.await_health(plant, a=Health.HEALTHY)
        assert get(f"{plant.zone_urls['a']}/orders/new")[0] == 201

    def test_wrong_names_are_clear_errors(self, plant: Plant) -> None:
        for wrong in (
            lambda: plant.cut("d/db"),
            lambda: plant.start_instance("i-d", "d"),
            lambda: plant.register_target("i-x"),
            lambda: plant.promote("x"),
        ):
            with pytest.raises(LabError, match="in this lab"):
                wrong()
        plant.stop_instance("i-x")  # nothing to stop: done


class TestArchive:
    @pytest.fixture
    def endpoint(self) -> Iterator[str]:
        server = ThreadedMotoServer(ip_address=ports.HOST, port=ports.free(), verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()

    def test_backup_and_log_are_in_the_bucket_and_sound(self, make: type_make, endpoint: str, tmp_path: Path) -> None:
        session = boto3.session.Session(aws_access_key_id="lab", aws_secret_access_key="lab", region_name="eu-west-1")
        s3 = session.client("s3", endpoint_url=endpoint)
        s3.create_bucket(Bucket="backups", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

        def keys(kind: str) -> list[str]:
            return [
                o["Key"] for o in s3.list_objects_v2(Bucket="backups", Prefix=f"orders-db/{kind}/").get("Contents", [])
            ]

        plant = make(archive_timeout_s=1.0)
        with pytest.raises(LabError, match="no archive"):
            plant.base_backup()
        plant.start_archive(endpoint_url=endpoint, region="eu-west-1", bucket="backups")
        key = plant.base_backup()
        assert keys("base") == [key]
        archived = keys("wal")
        assert any(name.endswith(".backup") for name in archived)  # so its log is archived too

        restored = tmp_path / "restored"
        with tarfile.open(fileobj=BytesIO(s3.get_object(Bucket="backups", Key=key)["Body"].read())) as tar:
            tar.extractall(restored, filter="data")
        find().give(restored)
        assert "successfully verified" in find().run("pg_verifybackup", "--no-parse-wal", restored)

        with Writer(plant):
            clock.wait_until(lambda: len(keys("wal")) > len(archived), "more log is archived", timeout_s=30)
            plant.failover("b")
            history = "orders-db/wal/00000002.history"
            clock.wait_until(lambda: history in keys("wal"), "the new primary archives", timeout_s=30)
            plant.cut("b/db")
            clock.sleep_s(0.5)
            before = keys("wal")
            plant.nodes["b"].query("select pg_switch_wal()")
            clock.sleep_s(1.0)
            assert keys("wal") == before  # a zone that is cut off uploads nothing
            plant.heal("b/db")
            clock.wait_until(lambda: len(keys("wal")) > len(before), "and then it does", timeout_s=30)
