"""Experiments as files: found, read, checked. Nothing unknown or misspelt gets past here.

An experiment is a valid Chaos Toolkit document with a `drkit` extension. YAML holds data only: names, numbers, order.
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
from drkit.errors import UnknownName
from drkit.project import Project

__all__ = [
    "Experiment", "Extension", "Guards", "Phases", "ProbeData", "checked", "function_of", "load", "names",
    "role_in_method",
]  # fmt: skip


def names(project: Project) -> dict[str, Path]:
    """Return all experiments that can be named; a project's own hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for folder in project.folders("experiments"):
        for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"), *folder.glob("*.json"))):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def load(name: str, project: Project) -> Experiment:
    """Return the experiment of a name or a file, checked down to every key and argument.

    Raises UnknownName when there is none, BadDocument (with file, line or key, and a guess) when it is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        known = names(project)
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise UnknownName(f"no experiment is called {name!r}", hint)
        path = known[name]
    return read(path)
