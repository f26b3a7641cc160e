"""A run's record as text: Markdown, JSON, a self-contained HTML page and JUnit XML.

Pure: the same record gives the same bytes. Nothing here reads a clock, a file or a network.
"""

from __future__ import annotations

from drkit.model import RunRecord
from drkit.report import junit, machine, markdown, page
from drkit.report.objectives import Row, Table, kind_of_target, table
from drkit.report.steps import StepRow, steps

__all__ = ["Row", "StepRow", "Table", "kind_of_target", "render", "steps", "table"]


def render(record: RunRecord) -> dict[str, str]:
    """Return the text of each report file by its name."""
    return {
        "report.md": markdown.render(record),
        "report.json": machine.render(record),
        "report.html": page.render(record),
        "junit.xml": junit.render(record),
    }
