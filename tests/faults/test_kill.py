"""drkit killed with -9 at any moment of az-failure: the guardian puts everything back and finishes the run's record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from late_ticks import verdict_but_for_late_ticks

from drkit import clock
from drkit.engine.finish import record_of
from drkit.model import MarkKind, Verdict

if TYPE_CHECKING:
    from conftest import Ground, Moment

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]

HANDFUL = (
    "phase baseline begins",
    "line 2 of the undo journal",  # between an undo's record and its call
    "line 5 of the undo journal",  # in the midst of the faults
    "phase recovery begins",
    "line 7 of the undo journal",  # half of it undone
    "journal.json is there",  # finishing
)


@pytest.mark.parametrize("name", HANDFUL)
def test_killed_at(ground: Ground, moments: dict[str, Moment], name: str) -> None:
    run, came = ground.kill_at(moments[name])
    assert came
    record = ground.check_put_back(run)
    assert any(m.kind is MarkKind.CLEANED_UP for m in record.history.marks)


def test_az_failure_passes_on_the_lab_where_it_was_killed(ground: Ground, moments: dict[str, Moment]) -> None:
    run, _ = ground.kill_at(moments["line 4 of the undo journal"])
    ground.check_put_back(run)
    ground.passes()


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("quarter", range(4))
def test_killed_at_every_moment(ground: Ground, moments: dict[str, Moment], quarter: int) -> None:
    """Every durable state there is, one after another on one lab: the next one's baseline shows that it is healthy."""
    wrong: dict[str, str] = {}
    for name, moment in list(moments.items())[quarter::4]:
        began_ns = clock.now_ns()
        run, came = ground.kill_at(moment)
        try:
            if came:
                ground.check_put_back(run)
                said = "put back"
            else:
                assert verdict_but_for_late_ticks(record_of(run)) is Verdict.PASS, "it ended before, and did not pass"
                said = "the run had passed before"
        except AssertionError as e:
            wrong[name] = said = f"WRONG {run.run_id}: {e}"
        print(f"{name}: {said}, {(clock.now_ns() - began_ns) / clock.NS_PER_S:.1f} s", flush=True)  # noqa: T201
    assert wrong == {}
    ground.passes()
