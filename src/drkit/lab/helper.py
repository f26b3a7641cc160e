"""A process of ours that obeys one parent over pipes, one JSON line each way, and ends when its parent does.

The end of its standard input is the death of its parent: this holds on Linux and macOS alike, and unlike
PR_SET_PDEATHSIG it does not fire when merely the *thread* that started it ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from drkit.errors import LabError


class Helper:
    """A running `python -m <module> <config>`. It is ready when it has written its first line, kept in `hello`."""

    def __init__(self, module: str, config: Mapping[str, Any], *, log: Path) -> None:
        self.name = module.rpartition(".")[2]
        self._log = log
        self._lock = threading.Lock()
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for the parent, who then ends us in order
            )
        self.pid = self._process.pid
        self.started = psutil.Process(self.pid).create_time()
        self.hello: dict[str, Any] = self._read()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send one command and return its answer; raises LabError if it was refused or the process is gone."""
        with self._lock:
            self._send(message)
            return self._read()

    def kill(self) -> None:
        """End it now, as a machine dies: nothing is closed in order."""
        self._process.kill()
        self._reap()

    def stop(self) -> None:
        """End it in order; harmless if it is gone."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
                self._process.wait(timeout=2)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
        self._reap()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise self._gone() from error

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._gone()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LabError(f"the lab's {self.name}: {answer['error']}", hint=f"see {self._log}")
        return answer

    def _gone(self) -> LabError:
        self._process.kill()
        self._reap()
        return LabError(f"the lab's {self.name} process is gone", hint=f"see {self._log}")

    def _reap(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
