"""One lab for all tests of this directory that ask for it; each test finds it whole and puts back what it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from drkit import clock
from drkit import lab as labs
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
    """Return the target of a lab that is up and whole."""
    last = labs.status(home=lab_home)

    def whole() -> bool:
        nonlocal last
        last = labs.status(home=lab_home)
        return last.ok

    try:
        clock.wait_until(whole, "the lab is whole again", timeout_s=30, every_s=0.1)
    except Exception as e:
        raise AssertionError(f"{e}: {[p for p in last.parts if not p.ok] or last.state}") from e
    return _running_lab
