"""Open-loop clients that see what a user sees; each is a process of its own that writes one file.

`start` one, `ProbeProcess.stop` it, `read` its file back as a Series; `Tail` follows the file meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from drkit.probes import journal
from drkit.probes.journal import Tail, read
from drkit.probes.spec import ProbeSpec

__all__ = ["ProbeProcess", "ProbeSpec", "Tail", "read", "start"]


class ProbeProcess:
    """A running probe. It ignores SIGINT, and ends by itself within 0.2 s when this process is gone."""

    def __init__(self, spec: ProbeSpec, path: Path, process: subprocess.Popen[bytes]) -> None:
        self.spec = spec
        self.path = path
        self._process = process
        self.complaint = ""  # its last words on stderr, once it has ended

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._process.poll()

    def stop(self, timeout_s: float | None = None) -> None:
        """Have it finish the attempts under way (for up to τ), write its last line and end; kill it after timeout_s.

        The default is τ and 5 s. Without effect on a probe that has ended; `complaint` then says why it did.
        """
        process = self._process
        if process.stderr is None or process.stderr.closed:
            return
        if process.poll() is None:
            process.terminate()
        try:
            _, said = process.communicate(timeout=self.spec.timeout_s + 5 if timeout_s is None else timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
        self.complaint = said.decode(errors="replace").strip()


def start(spec: ProbeSpec, path: Path) -> ProbeProcess:
    """Start a probe that writes to `path`, a new file. Its first attempt is made about 0.2 s later.

    Its password goes through its standard input: neither its file, its arguments nor its environment hold it.
    Raises RunDirError if the file is there already or cannot be written.
    """
    journal.create(spec, path)
    with contextlib.suppress(OSError):
        path = path.resolve()
    with _said(spec.password) as stdin:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "drkit.probes", str(path), str(os.getpid())],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    return ProbeProcess(spec, path, process)


def _said(words: str) -> IO[bytes]:
    """Return a file from which these words can be read once: a pipe that holds them already (64 KiB at most)."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(words.encode())
    return os.fdopen(reader, "rb")
