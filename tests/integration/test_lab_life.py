"""A lab's own life: up, down, two at once, killed, asked for twice, and what is left of it: nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg
import pytest
from leftovers import lives, segments

from drkit import clock, targets
from drkit import lab as labs
from drkit.errors import LabError
from drkit.lab import LabOptions, LabStatus, ports
from drkit.targets import Target

pytestmark = [pytest.mark.lab, pytest.mark.slow]

BARE = LabOptions(instances=1, archive=False)


@pytest.fixture
def home(tmp_path: Path) -> object:
    yield tmp_path
    for directory in (tmp_path / "labs").glob("*"):
        labs.down(directory.name, home=tmp_path)


def told_of(home: Path, name: str = "lab") -> dict[str, Any]:
    """Return what a lab's state file says."""
    state = json.loads((home / "labs" / name / "state.json").read_text())
    assert isinstance(state, dict)
    return state


def is_up(home: Path, name: str = "lab") -> LabStatus:
    """Return the status of a lab once all its parts are well; one of them may be slow to answer just now."""
    last = labs.status(name, home=home)

    def well() -> bool:
        nonlocal last
        last = labs.status(name, home=home)
        return last.ok

    clock.wait_until(well, f"lab {name} is up", timeout_s=30)
    return last


def processes(home: Path, name: str = "lab") -> dict[str, psutil.Process]:
    """Return every process of a lab by name, from its state file."""
    state = told_of(home, name)
    found = {p["name"]: psutil.Process(p["pid"]) for p in state["footprint"]["processes"]}
    return {"supervisor": psutil.Process(state["pid"]), **found}


def beginnings(home: Path) -> list[str]:
    """Return what the supervisor wrote down that it began, in order; who follows it may be too slow to see it all."""
    lines = labs.logs(home=home)["supervisor"].read_text().splitlines()
    return [said for line in lines if (said := line.partition(" drkit.lab.supervisor ")[2])]


def listening(processes: dict[str, psutil.Process]) -> set[int]:
    found = set()
    for process in processes.values():
        found |= {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return found


def all_gone(started: dict[str, psutil.Process]) -> None:
    clock.wait_until(lambda: not any(map(lives, started.values())), "every process is gone", timeout_s=30)


def writer(target: Target) -> tuple[int, bool]:
    d = target.database
    assert d is not None
    with psycopg.connect(host=d.host, port=d.port, user=d.user, dbname=d.dbname, connect_timeout=10) as connection:
        row = connection.execute("select inet_server_port(), pg_is_in_recovery()").fetchone()
    assert row is not None
    return row[0], row[1]


def test_down_leaves_nothing(home: Path) -> None:
    told: list[str] = []
    target = labs.up(home=home, options=BARE, progress=told.append)
    assert targets.load("lab", home) == target
    began = beginnings(home)
    assert began[0] == "starting PostgreSQL and the AWS APIs"
    assert set(told) & set(began), told
    then = iter(["starting", *began])  # of its process
    assert all(sentence in then for sentence in told), f"{told} is not in the order of {began}"
    status = is_up(home)
    assert (status.state, status.speed) == ("up", 1.0)
    running = processes(home)
    used = listening(running)
    assert {"supervisor", "ward", "relay", "balancer", "postgres a", "postgres b", "postgres r"} < set(running)
    assert len(used) > 5
    assert "supervisor" in labs.logs(home=home)
    assert labs.down(home=home) == ("supervisor",)  # it ended the rest itself, in order
    all_gone(running)
    assert [p for p in used if ports.taken(p)] == []
    assert list((home / "labs").iterdir()) == []
    assert list((home / "targets").iterdir()) == []
    assert labs.status(home=home).state == "down"
    assert labs.down(home=home) == ()


def test_up_again_is_the_same_lab_and_other_settings_are_refused(home: Path) -> None:
    target = labs.up(home=home, options=BARE)
    pid = labs.status(home=home).pid
    assert labs.up(home=home, options=BARE) == target
    assert labs.status(home=home).pid == pid
    with pytest.raises(LabError, match="another options") as caught:
        labs.up(home=home, options=LabOptions(instances=2, archive=False))
    assert "drkit lab down" in caught.value.hint
    with pytest.raises(LabError, match="another speed"):
        labs.up(home=home, options=BARE, speed=2.0)


def test_two_at_once(home: Path) -> None:
    one = labs.up("one", home=home, options=BARE)
    two = labs.up("two", home=home, options=LabOptions(instances=1, archive=False, multi_az=False), speed=2.0)
    assert one.aws.endpoint_url != two.aws.endpoint_url
    assert writer(one)[0] != writer(two)[0]
    labs.down("one", home=home)
    is_up(home, "two")
    assert writer(two)[1] is False


def test_a_killed_supervisor_leaves_nothing_running(home: Path) -> None:
    labs.up(home=home, options=BARE)
    running, shared = processes(home), set(told_of(home)["footprint"]["shared_memory"])
    assert len(shared) == 3
    assert segments(shared) == shared
    used = listening(running)
    running["supervisor"].kill()
    all_gone(running)
    assert [p for p in used if ports.taken(p)] == []
    assert labs.status(home=home).state == "half dead"
    with pytest.raises(LabError, match="half dead") as caught:
        labs.up(home=home, options=BARE)
    assert "drkit lab down" in caught.value.hint
    labs.down(home=home)
    assert list((home / "labs").iterdir()) == []
    assert segments(shared) == set()
    assert labs.up(home=home, options=BARE).name == "lab"


def test_down_ends_what_a_dead_supervisor_and_its_ward_left(home: Path) -> None:
    labs.up(home=home, options=BARE)
    running = processes(home)
    for name in ("ward", "supervisor"):  # nobody is left to clean up
        running[name].kill()
    left = running["postgres a"]
    clock.sleep_s(0.5)
    assert lives(left)
    assert "postgres a" in labs.down(home=home)
    all_gone(running)


def test_a_foreign_process_with_a_listed_pid_is_let_live(home: Path) -> None:
    labs.up(home=home, options=BARE)
    running, state_file = processes(home), home / "labs" / "lab" / "state.json"
    running["supervisor"].kill()
    all_gone(running)
    state = json.loads(state_file.read_text())
    me = os.getpid()
    state["footprint"]["processes"] = [{"name": "postgres a", "pid": me, "started": 1.0}]
    state["pid"], state["started"] = me, 1.0
    state_file.write_text(json.dumps(state))
    assert labs.down(home=home) == ()


def test_ctrl_c_does_not_reach_it(home: Path) -> None:
    labs.up(home=home, options=BARE)
    supervisor = processes(home)["supervisor"]
    os.kill(supervisor.pid, signal.SIGINT)
    clock.sleep_s(0.5)
    assert is_up(home).pid == supervisor.pid
    assert lives(supervisor)


def test_the_environment_leads_nowhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_PROFILE": "production",
        "AWS_REGION": "us-east-1",
        "MOTO_ACCOUNT_ID": "999999999999",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "PGHOST": "db.example.com",
    }.items():
        monkeypatch.setenv(name, value)
    labs.up(home=home, options=BARE)
    is_up(home)


def test_without_a_standby_the_database_stays_down(home: Path) -> None:
    """The twin of the automatic failover."""
    options = LabOptions(instances=1, archive=False, multi_az=False)
    target = labs.up(home=home, options=options, speed=5.0)
    assert target.lab is not None
    assert target.lab.facts["standby"] == "none"
    processes(home)["postgres a"].kill()
    clock.sleep_s(2)
    with pytest.raises(psycopg.OperationalError):
        writer(target)


@pytest.mark.parametrize("sync_standby", [True, False])
def test_only_an_asynchronous_standby_loses_writes(home: Path, sync_standby: bool) -> None:
    """The twin of the failover that loses nothing: the zone is cut while the standby's link is slow.

    Of an asynchronous one, the cut has to come within the delay after the last acknowledgement, on a busy machine too;
    for a synchronous one, each write waits twice the delay.
    """
    delay_s = 0.2 if sync_standby else 2.0
    options = LabOptions(instances=1, archive=False, sync_standby=sync_standby, standby_delay_s=delay_s)
    target = labs.up(home=home, options=options)
    d = target.database
    assert d is not None

    def connect() -> psycopg.Connection[tuple[int]]:
        return psycopg.connect(host=d.host, port=d.port, user=d.user, dbname=d.dbname, connect_timeout=5)

    acknowledged: list[int] = []
    cut = threading.Event()

    def write() -> None:
        with connect() as connection:
            connection.autocommit = True
            while not cut.is_set():
                row = connection.execute(
                    "insert into orders (zone, instance) values ('t', 't') returning id"
                ).fetchone()
                assert row is not None
                acknowledged.append(row[0])

    writer_thread = threading.Thread(target=write)
    writer_thread.start()
    clock.wait_until(lambda: len(acknowledged) > 5, "some writes", timeout_s=30)
    session = boto3.Session("lab", "lab", region_name=target.region)
    with contextlib.closing(session.client("ec2", endpoint_url=target.aws.endpoint_url)) as ec2:
        (subnet,) = ec2.describe_subnets(Filters=[{"Name": "tag:Name", "Values": ["orders-a-db"]}])["Subnets"]
        deny = ec2.create_network_acl(VpcId=subnet["VpcId"])["NetworkAcl"]["NetworkAclId"]
        (acl,) = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet["SubnetId"]]}])[
            "NetworkAcls"
        ]
        (old,) = [a for a in acl["Associations"] if a["SubnetId"] == subnet["SubnetId"]]
        cut.set()  # the last acknowledgement comes before the cut
        writer_thread.join()
        ec2.replace_network_acl_association(AssociationId=old["NetworkAclAssociationId"], NetworkAclId=deny)

    def moved() -> bool:
        try:
            with connect() as connection:
                row = connection.execute("select inet_server_port()").fetchone()
        except psycopg.Error:
            return False
        return row is not None

    clock.wait_until(moved, "the standby took over", timeout_s=30)
    with connect() as connection:
        there = {row[0] for row in connection.execute("select id from orders where zone = 't'")}
    lost = set(acknowledged) - there
    assert (lost == set()) is sync_standby, f"lost {len(lost)} of {len(acknowledged)}"


def test_a_start_that_fails_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRKIT_PG_BINDIR", str(tmp_path))
    with pytest.raises(LabError, match=r"did not start: .*does not hold postgres") as caught:
        labs.up(home=home, options=BARE)
    assert caught.value.hint
    assert not (home / "targets" / "lab.json").exists()
    monkeypatch.undo()
    assert isinstance(labs.status(home=home), LabStatus)
    labs.up(home=home, options=BARE)


def test_names_and_numbers_are_checked(home: Path) -> None:
    with pytest.raises(LabError, match="no name for a lab"):
        labs.up("../lab", home=home)
    with pytest.raises(LabError, match="speed"):
        labs.up(home=home, speed=0.0)
    with pytest.raises(LabError, match="instances"):
        LabOptions(instances=0)
    with pytest.raises(LabError, match="there is no lab"):
        labs.logs("other", home=home)
