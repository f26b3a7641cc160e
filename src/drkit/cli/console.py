"""Words on a terminal: results, tables, progress, and the two lines that every error is."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drkit.errors import BadDocument, DrkitError, LabError, StillBroken, UsageError

_PROBLEMS_OF_THE_MACHINE = {
    "ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EMFILE", "ENFILE", "ENOMEM", "ENOTDIR", "EISDIR", "EEXIST", "EIO",
    "ENAMETOOLONG",
}  # fmt: skip
# The way out where an error names none of its own; the nearest class counts.
_HINTS: dict[type[DrkitError], str] = {
    BadDocument: "what it may say: docs/adding-an-experiment.md, adding-a-playbook.md, configuration.md",
    LabError: "drkit doctor checks this machine; drkit lab logs",
    UsageError: "drkit --help",
    StillBroken: "drkit undo last",
    DrkitError: "drkit doctor checks the set-up",
}
_COLOURS = {"PASS": "32", "FAIL": "31", "INCONCLUSIVE": "33", "INVALID": "33", "ABORTED": "33"}


def out(text: str) -> None:
    """Print a result; a reader that has gone (`drkit list | head -1`) changes neither the work nor the exit code."""
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def out_json(value: Any) -> None:
    """Print a result for programs; a number without bound is null."""
    out(json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False))


def say(text: str) -> None:
    """Print progress; a terminal that has gone is no reason to stop."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def table(head: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> str:
    """Return an aligned table."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip()
        for line in lines
    )


def colour(word: str) -> str:
    """Return a verdict in its colour, where standard output is a terminal that wants one."""
    code = _COLOURS.get(word.strip())
    plain = code is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return word if plain else f"\033[1;{code}m{word}\033[0m"


def problem(message: str, hint: str, exit_code: int, *, as_json: bool) -> int:
    """Say what is wrong and the way out; return the exit code."""
    if as_json:
        out_json({"error": message, "hint": hint, "exit_code": exit_code})
    else:
        say(f"error: {_one_line(message)}" + (f"\nhint: {_one_line(hint)}" if hint else ""))
    return exit_code


def hint_of(error: DrkitError) -> str:
    """Return the way out of an error; there is always one."""
    return error.hint or next(_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS)


def defect(error: Exception, *, as_json: bool) -> int:
    """Say that the machine, or drkit itself, let the person down; the traceback goes to a file."""
    import errno

    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _PROBLEMS_OF_THE_MACHINE:
        where = f" {error.filename}" if error.filename else ""
        return problem(f"cannot use{where}: {error.strerror}", _way_out(error), 3, as_json=as_json)
    if os.environ.get("DRKIT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return problem(f"{message} (a defect in drkit)", _evidence(error), 3, as_json=as_json)


def hush_libraries() -> None:
    """Keep chaoslib's own log lines off the terminal: what an activity raised is in the run's history, and told there.

    Who sets up logging, or DRKIT_DEBUG, gets them as before.
    """
    if os.environ.get("DRKIT_DEBUG"):
        return
    import logging

    for name in ("chaostoolkit", "chaostoolkit-lib"):
        logger = logging.getLogger(name)
        if not logger.handlers:  # without any, Python prints warnings to standard error as a last resort
            logger.addHandler(logging.NullHandler())


def finite(value: Any) -> Any:
    """Return a value as JSON can carry it: infinite numbers are None, tuples lists, enums words."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(k): finite(v) for k, v in value.items()}
        case list() | tuple():
            return [finite(v) for v in value]
        case None | bool() | int():
            return value
        case _:
            return str(value)


def _way_out(error: OSError) -> str:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, or choose another place: --reports for runs, DRKIT_HOME for everything else"
    return "choose a place that this user may use: --reports for runs, DRKIT_HOME for everything else"


def _evidence(error: Exception) -> str:
    import tempfile
    import traceback

    try:
        fd, path = tempfile.mkstemp(prefix="drkit-defect-", suffix=".txt")
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return "run it again with DRKIT_DEBUG=1 to see the traceback"
    return f"the traceback is in {path}; DRKIT_DEBUG=1 prints it"


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
