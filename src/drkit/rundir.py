"""One run on disk. Facts are appended and fsynced as they happen; everything else can be computed from them again.

    run.json            identity, versions, hashes, plan: written once, before anything is touched
    history.jsonl       marks; each line carries the hash of the one before
    undo.jsonl          drkit.undo
    probes/NAME.jsonl   drkit.probes
    survivors.jsonl     marker rows as read back
    lease.json          who is running it, drkit.lease
    …                   measurement.json, journal.json, report.*, junit.xml, and MANIFEST.sha256 last

A crash at any byte leaves a readable run: a torn last line was never acknowledged to anybody and is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from drkit import clock
from drkit.errors import RunDirError, TargetBusy, TimedOut, UnknownName
from drkit.model import Mark, MarkKind, SurvivingRow, Survivors

GENESIS = "0" * 64
MANIFEST = "MANIFEST.sha256"
_RESERVE_BYTES = 256 * 1024  # given back when the disk is full, so that the end of the run can still be written down
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-.+-[0-9a-f]{4}")
_SHORTEST_DATE = 8  # digits; fewer are a run's number
_UNSEALED = {"lease.json", "guardian.log", "abort", "runner.lock", ".reserve", MANIFEST}


class RunDir:
    """A run's directory, for the process that writes it and for those that read it later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id = path.name
        self._lock = threading.Lock()
        self._patience_s = 5.0  # with another process that holds the history

    # --- making and finding -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, reports: Path, home: Path, *, name: str, target: str, identity: Mapping[str, Any]) -> RunDir:
        """Register the run's number, then make its directory and run.json.

        The number is on disk in `home`/register.jsonl before the run's outcome can be known, so a run that was hidden
        afterwards leaves a gap. identity must survive JSON. Raises RunDirError when the disk refuses.
        """
        stamp = clock.wall_utc()
        run_id = f"{stamp:%Y%m%dT%H%M%SZ}-{name}-{target}-{secrets.token_hex(2)}"
        try:
            reports.mkdir(parents=True, exist_ok=True)
            home.mkdir(parents=True, exist_ok=True)
            number = _register(home / "register.jsonl", run_id, stamp.isoformat())
            path = reports / run_id
            (path / "probes").mkdir(parents=True)
            run = cls(path)
            (path / ".reserve").write_bytes(b"\0" * _RESERVE_BYTES)
            origin_ns = clock.now_ns()
            run.write_json(
                "run.json",
                {
                    "run_id": run_id,
                    "number": number,
                    "name": name,
                    "target": target,
                    "started_at": stamp.isoformat(),
                    "origin_ns": origin_ns,
                    **identity,
                },
            )
            _sync_directory(path)
            _sync_directory(reports)
        except OSError as e:
            raise _unwritable(reports, e) from e
        digest = _sha256(path / "run.json")
        run.mark(MarkKind.RUN_STARTED, name, number=number, run_json_sha256=digest, **cls.this_boot())
        return run

    @classmethod
    def find(cls, reports: Path, run: str) -> RunDir:
        """Return the run called `run`: a path, a run id, a unique part of one, its number, or "last".

        Raises UnknownName, listing the newest runs, when there is none or more than one.
        """
        for path in (Path(run), reports / run):
            if (path / "run.json").is_file():
                return cls(path.resolve())
        runs = cls.all(reports)
        known = [r.run_id for r in runs]
        if run == "last":
            hits = known[-1:]
        elif run.isdecimal() and len(run) < _SHORTEST_DATE:
            hits = [r.run_id for r in runs if r.number == int(run)]
        else:
            hits = [k for k in known if run in k]
        if len(hits) == 1:
            return cls(reports / hits[0])
        problem = f"no run {run!r} in {reports}" if not hits else f"{len(hits)} runs match {run!r}"
        newest = ", ".join((hits or known)[-3:]) or "none yet: drkit run az-failure makes one"
        raise UnknownName(problem, f"newest: {newest}")

    @classmethod
    def all(cls, reports: Path) -> tuple[RunDir, ...]:
        """Return all runs that were made in a directory, oldest first; not what somebody put there (a sample)."""
        return tuple(cls(p.parent) for p in sorted(reports.glob("*/run.json")) if _RUN_ID.fullmatch(p.parent.name))

    @staticmethod
    def this_boot() -> dict[str, Any]:
        """Return what tells whether the machine was restarted or asleep between two processes of one run.

        boot_id: "" where there is none. wall_minus_monotonic_ns: grows while the machine sleeps.
        """
        boot_id = ""
        with contextlib.suppress(OSError, UnicodeError):
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return {"boot_id": boot_id, "wall_minus_monotonic_ns": clock.wall_minus_monotonic_ns()}

    # --- writing ------------------------------------------------------------------------------------------------------

    def mark(
        self, kind: MarkKind, name: str, *, t_lo_ns: int | None = None, t_hi_ns: int | None = None, **detail: Any
    ) -> Mark:
        """Append one event, chained to the last and fsynced.

        Without times it happened now; with t_lo_ns alone it is over by now. What of detail is not JSON is written as
        its text. Safe from several threads and processes. Raises RunDirError when the disk refuses.
        """
        hi_ns = clock.now_ns() if t_hi_ns is None else t_hi_ns
        mark = Mark(hi_ns if t_lo_ns is None else t_lo_ns, hi_ns, kind, name, detail)
        with self._lock:
            try:
                self._append_chained(mark)
            except OSError as e:
                if e.errno != errno.ENOSPC or not self.release_reserve():
                    raise _unwritable(self.path, e) from e
                try:
                    self._append_chained(mark)
                except OSError as again:
                    raise _unwritable(self.path, again) from again
        return mark

    def try_mark(self, kind: MarkKind, name: str, **more: Any) -> bool:
        """Mark if the disk takes it; return whether it did. For what must go on without: putting things back."""
        try:
            self.mark(kind, name, **more)
        except RunDirError:
            return False
        return True

    def release_reserve(self) -> bool:
        """Give the reserved bytes back to a full disk; False if that was done before."""
        try:
            (self.path / ".reserve").unlink()
        except OSError:
            return False
        return True

    def write_text(self, name: str, text: str) -> Path:
        """Write a file whole or not at all."""
        path = self.path / name
        new = path.with_name(f".{path.name}.new")
        try:
            with new.open("w", encoding="utf-8") as f:
                f.write(text)
                f.flush()
                os.fsync(f.fileno())
            new.replace(path)
        except OSError as e:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)  # half of it only takes room
            if e.errno == errno.ENOSPC and self.release_reserve():
                return self.write_text(name, text)
            raise _unwritable(self.path, e) from e
        return path

    def write_json(self, name: str, value: Any) -> Path:
        return self.write_text(name, json.dumps(value, indent=1, sort_keys=True, default=str) + "\n")

    def add_survivors(self, survivors: Survivors) -> None:
        """Append one reading of marker rows."""
        value = asdict(survivors) | {"rows": [[r.seq, int(r.intact)] for r in survivors.rows]}
        try:
            with (self.path / "survivors.jsonl").open("ab", buffering=0) as f:
                _write_whole(f, json.dumps(value, separators=(",", ":")).encode() + b"\n")
        except OSError as e:
            raise _unwritable(self.path, e) from e

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other process that finishes this run (guardian, `drkit undo`) waiting until the block ends."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            lock(fd, 60.0)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def runner(self) -> Iterator[None]:
        """Be the one process that plays this run, until the block ends. Raises TargetBusy if another one does."""
        with (self.path / "runner.lock").open("w") as file:
            if not lock(file.fileno(), 0.5):
                raise TargetBusy(f"another drkit is at work on run {self.run_id}", f"drkit status {self.run_id}")
            yield

    def seal(self) -> None:
        """Write MANIFEST.sha256 over every file, last of all; `sha256sum -c` checks it."""
        self.release_reserve()
        with (self.path / "history.jsonl").open("a+b") as f:
            lock(f.fileno(), self._patience_s)  # no mark gets in between
            lines = [f"{_sha256(p)}  {p.relative_to(self.path)}" for p in self._files()]
            self.write_text(MANIFEST, "\n".join(lines) + "\n")

    def unseal(self) -> None:
        """Take the seal away from a run that goes on; it is sealed again at its end."""
        (self.path / MANIFEST).unlink(missing_ok=True)

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> dict[str, Any]:
        """Return run.json. Raises RunDirError when it is unreadable."""
        try:
            value = json.loads((self.path / "run.json").read_text("utf-8"))
        except (OSError, ValueError) as e:
            raise RunDirError(f"cannot read {self.path / 'run.json'}: {e}", "the run's directory is damaged") from e
        if not isinstance(value, dict):
            raise RunDirError(f"{self.path / 'run.json'} is not what drkit wrote", "the run's directory is damaged")
        return value

    @property
    def number(self) -> int | None:
        """Return the run's number in the register; None if run.json is unreadable."""
        try:
            value = self.identity.get("number")
        except RunDirError:
            return None
        return value if isinstance(value, int) else None

    def marks(self) -> tuple[Mark, ...]:
        """Return all marks in the order written, as far as the chain holds."""
        return tuple(self._chain())

    def survivors(self) -> tuple[Survivors, ...]:
        """Return every reading of marker rows. Raises RunDirError for one that was altered."""
        lines, _ = _lines(self.path / "survivors.jsonl")
        try:
            values = [json.loads(line) for line in lines]
            return tuple(
                Survivors(**{**value, "rows": tuple(SurvivingRow(seq, bool(intact)) for seq, intact in value["rows"])})
                for value in values
            )
        except (ValueError, TypeError, KeyError) as e:
            raise RunDirError(f"{self.path / 'survivors.jsonl'} is not what drkit wrote: {e}", _DAMAGED) from e

    def broken_at(self) -> str:
        """Return "" if the history's chain and the manifest hold, else one sentence about what does not.

        A torn last line is not a broken chain.
        """
        marks = self.marks()
        whole, rest = _lines(self.path / "history.jsonl")
        if len(marks) != len(whole) or _more_than_torn(rest):
            return f"history.jsonl is not what was written: its chain breaks at line {len(marks) + 1}"
        if marks and marks[0].detail.get("run_json_sha256") != _sha256(self.path / "run.json"):
            return "run.json is not what was written"
        manifest = self.path / MANIFEST
        if not manifest.exists():
            return ""
        listed: set[str] = set()
        for line in manifest.read_text("utf-8", errors="replace").removesuffix("\n").split("\n"):
            digest, _, name = line.partition("  ")
            listed.add(name)
            path = self.path / name
            if not path.is_file() or _sha256(path) != digest:
                return f"{name} is not what was sealed"
        extra = {str(p.relative_to(self.path)) for p in self._files()} - listed
        return f"{min(extra)} was added after the run was sealed" if extra else ""

    @property
    def sealed(self) -> bool:
        return (self.path / MANIFEST).exists()

    def probe_files(self) -> tuple[Path, ...]:
        return tuple(sorted((self.path / "probes").glob("*.jsonl")))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _files(self) -> Iterator[Path]:
        for p in sorted(self.path.rglob("*")):
            half_written = p.name.startswith(".") and p.name.endswith(".new")  # by somebody who was killed
            if p.is_file() and p.name not in _UNSEALED and not half_written:
                yield p

    def _append_chained(self, mark: Mark) -> None:
        with (self.path / "history.jsonl").open("a+b", buffering=0) as f:
            if not lock(f.fileno(), self._patience_s):
                self._patience_s = 0.2  # it stands still: the next mark need not wait as long
                raise RunDirError(f"{self.path / 'history.jsonl'} is held by a process that stands still", "")
            try:
                prev, good_bytes = _tail(f)
            except (ValueError, KeyError, TypeError) as e:
                raise RunDirError(f"{self.path / 'history.jsonl'} is not what drkit wrote: {e}", _DAMAGED) from e
            if good_bytes != f.seek(0, os.SEEK_END):
                f.truncate(good_bytes)  # a torn line: a crash while writing it
            entry = {
                "prev": prev,
                "t_lo_ns": mark.t_lo_ns,
                "t_hi_ns": mark.t_hi_ns,
                "kind": str(mark.kind),
                "name": mark.name,
                "detail": _plain(dict(mark.detail)),
            }
            _write_whole(f, _line({**entry, "hash": _entry_hash(entry)}))

    def _chain(self) -> Iterator[Mark]:
        """Yield the marks of all lines that are, to the byte, what was written after the line before."""
        prev = GENESIS
        for line in _lines(self.path / "history.jsonl")[0]:
            try:
                entry = json.loads(line.decode())
                digest = entry.pop("hash")
                mark = Mark(entry["t_lo_ns"], entry["t_hi_ns"], MarkKind(entry["kind"]), entry["name"], entry["detail"])
                as_written = _line({**entry, "hash": digest}) == line + b"\n"
                holds = as_written and entry["prev"] == prev and _entry_hash(entry) == digest
            except (ValueError, KeyError, TypeError, AttributeError):
                return
            if not holds:
                return
            prev = digest
            yield mark


def lock(fd: int, timeout_s: float) -> bool:
    """Lock an open file or directory until it is closed; False if another holds it for longer than timeout_s.

    Whoever holds one of a run's locks may have been stopped (SIGSTOP) with it, and an undo must not wait for that.
    """

    def locked() -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        clock.wait_until(locked, "the lock", timeout_s=timeout_s, every_s=0.002)
    except TimedOut:
        return False
    return True


_DAMAGED = "the file was altered or the disk is failing; every other file of the run can still be read"


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back: its hash must not depend on what it was before."""
    try:
        return json.loads(json.dumps(value, default=str, skipkeys=True))
    except Exception:  # noqa: BLE001  (whatever an activity of somebody else returned, the event is written down)
        return {"why": repr(value)[:2000]}


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _entry_hash(entry: Mapping[str, Any]) -> str:
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _tail(f: Any) -> tuple[str, int]:
    """Return the hash of the last whole line and the length in bytes up to its end."""
    end = f.seek(0, os.SEEK_END)
    block = 1 << 16
    while True:
        start = max(0, end - block)
        f.seek(start)
        data: bytes = f.read(end - start)
        cut = data.rfind(b"\n")
        if cut < 0:
            if start == 0:
                return GENESIS, 0
        else:
            first = data.rfind(b"\n", 0, cut)
            if first >= 0 or start == 0:
                return json.loads(data[first + 1 : cut])["hash"], start + cut + 1
        block *= 8


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the whole lines of a file without their ends, and the torn last one (b"": none). No file is no lines."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], b""
    return lines, rest


def _more_than_torn(rest: bytes) -> bool:
    """Return whether an unfinished last line can't be the beginning of one: something follows its closing brace."""
    text = rest.decode("utf-8", errors="replace")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return False
    return end != len(text)


def _write_whole(f: IO[bytes], data: bytes) -> None:
    """Append to an unbuffered file and fsync; raises OSError and leaves the file as it was if not all of it fits."""
    start = f.seek(0, os.SEEK_END)
    try:
        written = 0
        while written < len(data):  # a full disk takes a part first and refuses the rest
            written += f.write(data[written:])
        os.fsync(f.fileno())
    except OSError:
        f.truncate(start)
        raise


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _register(path: Path, run_id: str, at: str) -> int:
    with path.open("a+b", buffering=0) as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        try:
            prev, good_bytes = _tail(f)
        except (ValueError, KeyError, TypeError) as e:
            raise RunDirError(f"{path} is not what drkit wrote: {e}", "move it away to begin a new register") from e
        f.truncate(good_bytes)
        f.seek(0)
        number = f.read().count(b"\n") + 1
        entry = {"number": number, "run_id": run_id, "at": at, "prev": prev}
        _write_whole(f, _line({**entry, "hash": _entry_hash(entry)}))
    return number


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _unwritable(path: Path, e: OSError) -> RunDirError:
    full = e.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free some space, or choose another place with --reports" if full else "choose another place with --reports"
    return RunDirError(f"cannot write the run in {path}: {e.strerror}", hint)


def safe_name(name: str) -> str:
    """Return a name that can be part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


__all__ = ["MANIFEST", "RunDir", "safe_name"]
