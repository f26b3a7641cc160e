"""Words for shell completion. Quick, and silent about everything that is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable


def experiments(incomplete: str) -> list[str]:
    found: list[str] = []
    with contextlib.suppress(Exception):
        from drkit import project

        for folder in project.find().folders("experiments"):
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
