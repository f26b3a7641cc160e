"""Which project, and which target. Only what a person named is ever used; without a name it is the lab."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from drkit import clock, project
from drkit.cli import console, stored
from drkit.errors import LabError, Refused, TimedOut, UsageError
from drkit.project import Project
from drkit.targets import Target

LAB = "lab"
Say = Callable[[str], None]


def here(reports: Path | None = None) -> Project:
    """Return the project of the current directory; reports: where its runs are, if not where drkit.toml says."""
    console.hush_libraries()  # here, where every command passes that does something, and --help does not
    if reports is not None:
        os.environ["DRKIT_REPORTS"] = str(reports.absolute())
    return project.find()


def at(found: Project, name: str | None, *, whole: bool = True) -> Target:
    """Return the target of that name or file, else the project's default. Starts nothing.

    whole: a lab must be up with all its parts; who comes to recover it or to put it back wants it as it is. Raises
    UnknownName, BadDocument; LabError for a lab that is not up; Refused if what is called "lab" is not one.
    """
    from drkit import targets

    wanted = name or found.settings.default_target
    target = targets.load(wanted, found.home)
    if wanted == LAB and target.kind != "lab":
        raise Refused(
            f"the target called {LAB!r} is not a lab but {target.kind} account {target.account_id}",
            "give it another name, and name that: --target",
        )
    if target.kind == "lab" and whole:
        _must_be_up(found, target)
    return target


def at_or_start(found: Project, name: str | None, *, speed: float | None, say: Say, whole: bool = True) -> Target:
    """Return the target as `at` does; the lab is started if it is down, and stays up."""
    from drkit import lab

    wanted = name or found.settings.default_target
    if wanted != LAB:
        if speed is not None:
            raise UsageError(f"--speed is of the lab, not of {wanted}", "leave it out")
        return at(found, name, whole=whole)
    now = lab.status(LAB, home=found.home)
    if now.state == "down":
        say("starting the lab (it stays up; `drkit lab down` ends it)")
        return lab.up(LAB, home=found.home, speed=speed or 1.0, progress=lambda text: say(f"  {text}"))
    if speed is not None and speed != now.speed:
        raise LabError(f"the lab is up at speed {now.speed:g}", "leave --speed out, or drkit lab down first")
    return at(found, LAB, whole=whole)


def _must_be_up(found: Project, target: Target) -> None:
    from drkit import lab
    from drkit.lease import TargetLock

    home = Path(target.lab.directory).parent.parent if target.lab else found.home
    now = lab.status(target.name, home=home)
    if now.ok:
        return
    # TargetBusy: it is a run that has broken it, and will put it back.
    TargetLock(found.home, target.name, lab_directory=target.lab.directory if target.lab else None).close()
    if now.state == "degraded":
        console.say(f"waiting until lab {target.name!r} is whole again")
        with contextlib.suppress(TimedOut):
            clock.wait_until(
                lambda: lab.status(target.name, home=home).ok, "whole", timeout_s=lab.HEAL_TIMEOUT_S, every_s=0.2
            )
        now = lab.status(target.name, home=home)
        if now.ok:
            return
    if open_ := [r for r in stored.left_open(found.reports) if r.identity.get("target") == target.name]:
        raise LabError(
            f"lab {target.name!r} is {now.state}: run {open_[-1].run_id} has left something broken",
            f"drkit undo {open_[-1].run_id}",
        )
    option = "" if target.name == LAB else f" --name {target.name}"
    broken = ", ".join(p.name for p in now.parts if not p.ok)
    raise LabError(
        f"lab {target.name!r} is {now.state}" + (f": {broken}" if broken else ""),
        f"drkit lab down{option}, then drkit lab up{option}; what it says: drkit lab logs{option}",
    )
