"""One lab for all tests of this directory that ask for it; each test finds it whole and puts back what it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wholeness import not_whole

from drkit import clock
from drkit import lab as labs
from drkit.errors import LabError, TimedOut
from drkit.targets import Target


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


def supervisor_log(home: Path) -> list[str]:
    """Return the last lines of what the lab's supervisor did."""
    try:
        return labs.logs(home=home)["supervisor"].read_text(errors="replace").splitlines()[-40:]
    except (LabError, KeyError):
        return ["and it has no log"]
