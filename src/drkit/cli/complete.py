"""Words for shell completion. Quick, and silent about everything that is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any


def experiments(incomplete: str) -> list[str]:
    return _files("experiments", incomplete)


def playbooks(incomplete: str) -> list[str]:
    return _files("dr_playbooks", incomplete)


def steps(ctx: Any, incomplete: str) -> list[str]:  # Typer goes by the names of the parameters
    """Complete the steps of the run that was named before, those that ask something."""
    with contextlib.suppress(Exception):
        from drkit import project
        from drkit.rundir import RunDir
        from drkit.standing import names_of, open_question

        marks = RunDir.find(project.find().reports, ctx.params["run"]).marks()
        return _starting((n for n in names_of(marks) if open_question(marks, n)), incomplete)
    return []


def _files(kind: str, incomplete: str) -> list[str]:
    found: list[str] = []
    with contextlib.suppress(Exception):
        from drkit import project

        for folder in project.find().folders(kind):
            found += [p.stem for p in folder.iterdir() if p.suffix in (".yaml", ".yml", ".json")]
    return _starting(found, incomplete)


def runs(incomplete: str) -> list[str]:
    """Complete a run by any part of its id, newest first."""
    found = ["last"]
    with contextlib.suppress(Exception):
        from drkit import project

        found += sorted((p.parent.name for p in project.find().reports.glob("*/run.json")), reverse=True)
    return [name for name in found if incomplete in name]


def targets(incomplete: str) -> list[str]:
    found = ["lab"]
    with contextlib.suppress(Exception):
        from drkit import project, targets

        found += targets.known(project.find().home)
    return _starting(found, incomplete)


def _starting(words: Iterable[str], incomplete: str) -> list[str]:
    return sorted({w for w in words if w.startswith(incomplete)})
