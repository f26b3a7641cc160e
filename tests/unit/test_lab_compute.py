"""What the lab says of a target between two of its own steps: too short to be met from outside, so a stub plant."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from drkit.lab.compute import Compute
from drkit.lab.plant import Health, TargetHealth


def compute_seeing(targets: dict[str, TargetHealth], *, started: bool) -> Compute:
    cloud: Any = SimpleNamespace(before={})
    plant: Any = SimpleNamespace(target_health=lambda: targets)
    compute = Compute(cloud, plant, ())
    compute.started = lambda _: started  # type: ignore[method-assign]
    return compute


@pytest.mark.parametrize("started", [False, True])
def test_a_target_is_not_healthy_before_the_load_balancer_knows_it(started: bool) -> None:
    state, reason, _ = compute_seeing({}, started=started).health("i-1")
    assert (state, reason) == ("initial", "Elb.RegistrationInProgress")


def test_it_is_what_the_load_balancer_says() -> None:
    seen = {"i-1": TargetHealth("i-1", "a", 1, Health.UNHEALTHY, "Target.Timeout")}
    state, reason, description = compute_seeing(seen, started=True).health("i-1")
    assert (state, reason) == ("unhealthy", "Target.Timeout")
    assert description
