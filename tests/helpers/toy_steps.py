"""Steps of a make-believe world, for tests of how playbooks are played. Not AWS, not PostgreSQL: a dictionary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from drkit.errors import Refused, StepFailed, TargetError
from drkit.playbook import Facts, Recovery, Step, step


class Killed(BaseException):
    """Stands for the death of the process: nothing of ours catches it."""


class World:
    """What steps change, and every effect that was carried out, in order. Faults can be put into it."""

    def __init__(self) -> None:
        self.on: dict[str, Any] = {}
        self.effects: list[str] = []
        self.die_before: str = ""  # of which effect
        self.die_after: str = ""
        self.silent: set[str] = set()  # cannot be asked
        self.refuse: set[str] = set()
        self.slow: dict[str, int] = {}  # how many questions it takes until the effect is seen

    def effect(self, name: str, value: Any = True) -> None:
        if self.die_before == name:
            self.die_before = ""
            raise Killed
        if name in self.refuse:
            raise Refused(f"{name} is refused", "no hint")
        self.effects.append(name)
        self.on[name] = value
        if self.die_after == name:
            self.die_after = ""
            raise Killed

    def seen(self, name: str) -> bool:
        if name in self.silent:
            raise TargetError(f"{name} does not answer")
        if self.on.get(name) and self.slow.get(name, 0) > 0:
            self.slow[name] -= 1
            return False
        return bool(self.on.get(name))


WORLD = World()


@step()
def turn_on(recovery: Recovery, *, name: str) -> Step:
    """Turn something on."""
    return Step(done=lambda: WORLD.seen(name), act=lambda: WORLD.effect(name), result=lambda: {"on": WORLD.on[name]})


@step(lasting=True, purpose="fence")
def keep_on(recovery: Recovery, *, name: str) -> Step:
    """Turn something on that has to stay so."""
    return Step(done=lambda: WORLD.seen(name), act=lambda: WORLD.effect(name))


def _where(recovery: Recovery, *, name: str) -> Facts:
    return {"was": WORLD.on.get(name, "a")}


@step(observe=_where)
def move_away(recovery: Recovery, *, name: str, facts: Facts) -> Step:
    """Move something to the other side, from wherever it was at the start."""
    other = {"a": "b", "b": "a"}[facts["was"]]
    return Step(done=lambda: WORLD.on.get(name, "a") != facts["was"], act=lambda: WORLD.effect(name, other))


@step(purpose="check")
def is_on(recovery: Recovery, *, name: str) -> Step:
    """Something is on."""
    return Step(done=lambda: WORLD.seen(name))


@step()
def hangs(recovery: Recovery, *, name: str) -> Step:
    """Never come back from acting, until the run is to stop."""

    def act() -> None:
        recovery.stop.wait(30)

    return Step(done=lambda: False, act=act)


@step()
def rests_on(recovery: Recovery, *, earlier: str) -> Step:
    """Act only while an earlier step still counts."""

    def act() -> None:
        if earlier in WORLD.refuse:
            raise StepFailed(earlier, "it is too old")
        WORLD.effect("rest")

    return Step(done=lambda: WORLD.seen("rest"), act=act)


def not_a_step(recovery: Recovery) -> None:
    """Do nothing: it is no step."""


def write(path: Path, document: dict[str, Any]) -> Path:
    """Write a playbook as JSON, which is YAML too."""
    path.write_text(json.dumps(document))
    return path
