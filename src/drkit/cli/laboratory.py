"""`drkit lab`: up, down, status, logs, and what may go wrong in it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drkit import lab
from drkit.cli import aim, console
from drkit.errors import LabError, Refused, TargetBusy, UnknownName
from drkit.lab import LabOptions, LabStatus
from drkit.lease import TargetLock


def up(name: str, *, speed: float, fsync: bool, options: dict[str, Any], as_json: bool) -> int:
    home = aim.here().home
    chosen = _chosen(speed, options)
    before = lab.status(name, home=home)
    lab.up(name, home=home, speed=speed, fsync=fsync, options=chosen, progress=console.say)
    now = lab.status(name, home=home)
    if as_json:
        console.out_json({**_as_json(now), "started": before.state == "down"})
        return 0
    console.out(
        f"lab {name!r} "
        + ("was up already" if before.state != "down" else f"is up, ready {now.up_s:.1f} s after its start")
    )
    option = "" if name == aim.LAB else f" --target {name}"
    console.say(f"next: drkit run az-failure{option}; it stays up until drkit lab down")
    return 0


def _chosen(speed: float, options: dict[str, Any]) -> LabOptions:
    """Return a new lab's options. Raises LabError, with the words to use instead, for what no lab can have."""
    if not 0.01 <= speed <= 100:  # nan is no number between them either
        raise LabError(f"a lab's speed is 0.01 to 100, not {speed:g}", "--speed 4 is four times as fast as --speed 1")
    try:
        return LabOptions(**options)
    except LabError as e:
        raise LabError(e.message, e.hint or "--instances 3 puts one into each zone") from None


def down(name: str, *, force: bool, as_json: bool) -> int:
    home = aim.here().home
    before = lab.status(name, home=home)
    if before.pid is not None and not force:
        try:
            TargetLock(home, name).close()
        except TargetBusy as e:
            raise Refused(
                f"not ending lab {name!r}: {e.message}",
                "stop the run with: drkit abort last; or drkit lab down --force",
            ) from None
    there = Path(before.directory).is_dir()
    ended = lab.down(name, home=home)
    if as_json:
        console.out_json({"name": name, "was": before.state, "cleared": there, "ended": ended})
        return 0
    console.out(f"lab {name!r} {_ended(before, ended) if there or ended else 'was not up'}")
    return 0


def _ended(before: LabStatus, ended: Sequence[str]) -> str:
    """Return what ending a lab came to, in words: also one of which only some processes, or only files, were left."""
    processes = f"{len(ended)} process{'' if len(ended) == 1 else 'es'} ended"
    if before.state not in ("half dead", "down"):
        return f"is down: {processes}"
    was = "was half dead" if before.state == "half dead" else "had not come up"
    return f"{was} and is cleared: {processes if ended else 'no process of it was left'}, its files removed"


def status(name: str, *, as_json: bool) -> int:
    now = lab.status(name, home=aim.here().home)
    if as_json:
        console.out_json(_as_json(now))
    else:
        console.out(
            f"lab {name!r} is {now.state}" + (f", for {now.up_s:.0f} s, at speed {now.speed:g}" if now.pid else "")
        )
        if now.parts:
            rows = [
                (p.name, "ok" if p.ok else "NOT OK", p.role, p.zone, str(p.port or ""), str(p.pid or ""))
                for p in now.parts
            ]
            console.out(console.table(("part", "state", "role", "zone", "port", "pid"), rows, "  "))
    if not now.ok:
        console.say("hint: " + ("drkit lab up" if now.state == "down" else "drkit lab logs; drkit lab down, then up"))
    return 0 if now.ok else 3


def logs(name: str, log: str | None, *, lines: int, as_json: bool) -> int:
    found = lab.logs(name, home=aim.here().home)
    if log is None:
        if as_json:
            console.out_json({"name": name, "logs": {k: str(v) for k, v in found.items()}})
        else:
            console.out(console.table(("log", "file"), [(k, str(v)) for k, v in found.items()]))
        return 0
    if log not in found:
        raise UnknownName(f"lab {name!r} has no log {log!r}", f"it has: {', '.join(found)}")
    with found[log].open(encoding="utf-8", errors="replace") as file:
        end = [line.rstrip("\n") for line in deque(file, maxlen=lines)]
    if as_json:
        console.out_json({"name": name, "log": log, "file": str(found[log]), "lines": end})
    else:
        console.out("\n".join(end))
    return 0


def delete_rows(table: str, name: str, *, as_json: bool) -> int:
    found = aim.here()
    target = aim.at(found, name)
    if target.kind != "lab":
        raise Refused(f"not deleting rows of {target.name}: it is no lab", "there is no such command for real data")
    deleted = lab.delete_rows(target, table)
    not_before, not_after = _moment(deleted.not_before_utc), _moment(deleted.not_after_utc)
    option = "" if name == aim.LAB else f" --target {name}"
    back = f"drkit playbook run restore-from-cross-region-backup{option} --to-time {not_before}"
    if as_json:
        told = {"table": table, "rows": deleted.rows, "not_before_utc": not_before, "not_after_utc": not_after}
        console.out_json({**told, "lsn": str(deleted.lsn), "restore_with": back})
        return 0
    console.out(
        f"deleted {deleted.rows} rows of {table}, between {not_before} and {not_after} (log position {deleted.lsn})"
    )
    console.out(f"back to just before: {back}")
    return 0


def disturb(what: str, name: str, *, for_s: float, as_json: bool) -> int:
    lab.disturb(name, home=aim.here().home, what=what, for_s=for_s)
    if as_json:
        console.out_json({"name": name, "what": what, "for_s": for_s})
    else:
        console.out(f"{what} in lab {name!r} " + (f"for {for_s:g} s" if for_s else "is over"))
    return 0


def _moment(at: datetime | str) -> str:
    """Return a moment as ISO 8601 in UTC, "2026-11-22T15:54:10.123456Z"."""
    moment = datetime.fromisoformat(at) if isinstance(at, str) else at
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return f"{moment.isoformat()}Z"


def _as_json(now: LabStatus) -> dict[str, Any]:
    return {
        "name": now.name,
        "state": now.state,
        "ok": now.ok,
        "up_s": round(now.up_s, 3),
        "speed": now.speed,
        "fsync": now.fsync,
        "pid": now.pid,
        "endpoint_url": now.endpoint_url,
        "directory": now.directory,
        "options": now.options.as_json(),
        "parts": [asdict(p) for p in now.parts],
    }
