"""Experiments and playbooks as files: found, read, checked. Nothing unknown or misspelt gets past here.

An experiment is a valid Chaos Toolkit document with a `drkit` extension; a playbook is a file of drkit's own. YAML
holds data only: names, numbers, order.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from drkit.catalog._check import checked, read
from drkit.catalog._experiment import (
    Experiment,
    Extension,
    Guards,
    Phases,
    ProbeData,
    function_of,
    role_in_method,
)
from drkit.catalog._playbook import Playbook, StepCall, arguments_of, filled_text, single, step_function
from drkit.catalog._playbook import checked as checked_playbook
from drkit.catalog._playbook import read as read_playbook
from drkit.errors import UnknownName
from drkit.project import Project

__all__ = [
    "Experiment", "Extension", "Guards", "Phases", "Playbook", "ProbeData", "StepCall", "arguments_of", "checked",
    "checked_playbook",
    "filled_text", "function_of", "load", "load_playbook", "names", "playbooks", "role_in_method", "single",
    "step_function",
]  # fmt: skip


def names(project: Project) -> dict[str, Path]:
    """Return all experiments that can be named; a project's own hides a shipped one of the same name."""
    return _files(project, "experiments")


def playbooks(project: Project) -> dict[str, Path]:
    """Return all playbooks that can be named; a project's own hides a shipped one of the same name."""
    return _files(project, "dr_playbooks")


def load(name: str, project: Project) -> Experiment:
    """Return the experiment of a name or a file, checked down to every key and argument.

    Raises UnknownName when there is none, BadDocument (with file, line or key, and a guess) when it is wrong.
    """
    return read(_path(name, names(project), "experiment", playbooks(project), "drkit playbook run"))


def load_playbook(name: str, project: Project) -> Playbook:
    """Return the playbook of a name or a file, as `load` does an experiment."""
    return read_playbook(_path(name, playbooks(project), "playbook", names(project), "drkit run"))


def _files(project: Project, kind: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in project.folders(kind):
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.json"))):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def _path(name: str, known: dict[str, Path], kind: str, others: dict[str, Path], their_command: str) -> Path:
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json"):
        return path
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known) or 'none'}"
        raise UnknownName(f"no {kind} is called {name!r}", f"{their_command} {name}" if name in others else hint)
    return known[name]
