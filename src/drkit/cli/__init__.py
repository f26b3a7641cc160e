"""The command line: parse, call one function, print, exit. The only part of drkit that knows Typer.

    drkit.cli:main -> app (what there is to say) -> runs, look, past, laboratory, setup, doctor (what is done)

Results go to standard output, progress and errors to standard error. Everything heavy is imported by the command that
needs it, so that `drkit --help` and completion are quick.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from drkit.errors import DrkitError


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command line and return its exit code; nothing a person did wrong ends in a traceback.

    0 pass, 1 fail, 2 usage, 3 inconclusive, invalid or aborted, 4 refused, 5 something is still broken,
    130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # τ and ≤ on an ASCII terminal
    return _obey(words)


def _obey(words: list[str]) -> int:
    from drkit.cli import console

    as_json = "--json" in words
    try:
        from drkit.cli import app

        return app.obey(words)
    except DrkitError as e:
        return console.problem(e.message, console.hint_of(e), e.exit_code, as_json=as_json)
    except KeyboardInterrupt:
        return 130
    except Exception as e:  # noqa: BLE001  (the last net: a defect of ours is one line too)
        return console.defect(e, as_json=as_json)
