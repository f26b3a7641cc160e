"""The probe's own process: `python -m drkit.probes FILE PARENT`, where FILE was made by `drkit.probes.start`.

A password that came from a secret is read from standard input, which ends after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from drkit import errors
from drkit.model import ProbeKind
from drkit.probes import journal
from drkit.probes.loop import Client, Loop
from drkit.probes.spec import ProbeSpec

EX_DATAERR, EX_IOERR = 65, 74  # sysexits.h


def main(arguments: list[str]) -> int:
    """Run the probe; return its exit code: 0 told to stop or orphaned, 65 bad file, 74 the file cannot be written."""
    path = Path(arguments[0])
    parent = int(arguments[1])
    for number in (signal.SIGINT, signal.SIGHUP):  # the engine decides when a run ends, not the terminal
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # only the privileged may; the instrument is worth more than what it watches
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    try:
        spec = journal.spec_of(path)
        if spec.password_secret_arn:
            spec = replace(spec, password=sys.stdin.buffer.read().decode())
        loop = Loop(spec, _client(spec), journal.Writer(path))
        signal.signal(signal.SIGTERM, lambda *_: loop.stop())
        loop.run(parent_alive=lambda: os.getppid() == parent)
    except errors.DrkitError as error:
        return _say(EX_DATAERR, error.message)
    except OSError as error:
        return _say(EX_IOERR, f"cannot write {path}: {error.strerror}")
    return 0


def _client(spec: ProbeSpec) -> Client:
    match spec.kind:
        case ProbeKind.HTTP:
            from drkit.probes.http import Http

            return Http(spec)
        case ProbeKind.TCP:
            from drkit.probes.tcp import Tcp

            return Tcp(spec)
        case ProbeKind.SQL:
            from drkit.probes.sql import Sql

            return Sql(spec)


def _say(code: int, message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return code


if __name__ == "__main__":
    sys.stderr.flush()
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # at once: a thread may be stuck in the resolver, and nothing is left to tidy up
