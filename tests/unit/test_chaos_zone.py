"""The witness of a lost zone: what the run itself forced is no evidence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from drkit import chaos
from drkit.chaos import zone
from drkit.targets import aws, postgres


@pytest.mark.parametrize(
    ("accepts", "now_in", "forced", "seen"),
    [
        (True, "a", False, False),  # the writer serves on: nothing was lost
        (False, "a", False, True),  # it fell silent
        (True, "b", False, True),  # RDS has moved it by itself
        (True, "b", True, False),  # the run has moved it
        (False, "a", True, False),  # the run is moving it, which silences it too
    ],
)
def test_a_writer_that_the_run_forced_away_says_nothing_of_the_zone(
    accepts: bool, now_in: str, forced: bool, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = (SimpleNamespace(verb="leave_failed_over"),) if forced else ()
    context = SimpleNamespace(
        target=SimpleNamespace(database=SimpleNamespace(instance_id="orders-db")),
        before=SimpleNamespace(writer_zone="a"),
        undo=SimpleNamespace(records=lambda: records),
    )
    monkeypatch.setattr(chaos, "_current", context)
    monkeypatch.setattr(postgres, "accepts_writes", lambda _: accepts)
    database = SimpleNamespace(instance=lambda _: SimpleNamespace(zone=now_in))
    monkeypatch.setattr(aws, "Database", lambda _: database)
    assert zone._has_no_writer("a") is seen
