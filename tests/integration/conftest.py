"""One lab for all tests of this directory that ask for it; each test finds it whole and puts back what it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drkit import clock
from drkit import lab as labs
from drkit.errors import LabError, TargetBusy, TargetError, TimedOut
from drkit.lease import TargetLock
from drkit.targets import Target
from drkit.targets.aws import Database, Groups, Instances


@pytest.fixture(scope="session")
def lab_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the home (DRKIT_HOME) of the session's lab."""
    home = tmp_path_factory.mktemp("home")
    yield home
    labs.down(home=home)


@pytest.fixture(scope="session")
def _running_lab(lab_home: Path) -> Target:
    return labs.up(home=lab_home)


@pytest.fixture
def lab(_running_lab: Target, lab_home: Path) -> Target:
    """Return the target of a lab that is as a fresh one, and that nobody holds."""
    broken: list[str] = []

    def whole() -> bool:
        broken[:] = not_whole(_running_lab, lab_home)
        return not broken

    try:
        clock.wait_until(whole, "the lab is whole", timeout_s=60, every_s=0.1)
    except TimedOut as e:
        raise AssertionError("\n".join([f"{e}:", *broken, *supervisor_log(lab_home)])) from e
    return _running_lab


@pytest.fixture
def lacks() -> Callable[[Target, Path], list[str]]:
    """Return `not_whole`, for tests that wait for it themselves."""
    return not_whole


def not_whole(target: Target, home: Path) -> list[str]:
    """Return what this lab lacks that a fresh one has: running parts, standby, replica, one instance a zone, no run."""
    database, compute = target.database, target.compute
    assert database is not None
    assert database.replica_id
    assert compute is not None
    assert compute.asg_name
    try:
        TargetLock(home, "lab").close()
    except TargetBusy as e:
        return [e.message]
    now = labs.status(home=home)
    if not now.ok:
        return [f"the lab is {now.state}", *(f"not ok: {part}" for part in now.parts if not part.ok)]
    one_each = dict.fromkeys(target.zones, 1)
    try:
        pair = Database(target).instance(database.instance_id)
        replica = Database(target, str(target.recovery_region)).instance(database.replica_id)
        instances = {zone: Instances(target).in_zone(zone) for zone in target.zones}
        group = Groups(target).group(compute.asg_name)
    except TargetError as e:  # the replica may be in the making
        return [e.message]
    wanted = {
        f"not redundant: {pair}": pair.redundant,
        f"not replicating: {replica}": replica.is_replica
        and replica.status == "available"
        and replica.replication == "replicating",
        f"not one running instance in each zone: {instances}": all(
            [i.state for i in there] == ["running"] for there in instances.values()
        ),
        f"not balanced: {group}": group.in_service_by_zone == one_each
        and group.desired == len(group.members) == len(one_each),
    }
    return [what for what, holds in wanted.items() if not holds]


def supervisor_log(home: Path) -> list[str]:
    """Return the last lines of what the lab's supervisor did."""
    try:
        return labs.logs(home=home)["supervisor"].read_text(errors="replace").splitlines()[-40:]
    except (LabError, KeyError):
        return ["and it has no log"]
