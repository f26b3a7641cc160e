"""`drkit status`: what goes on now, who waits for whom, and what is left broken or half done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drkit import clock
from drkit.cli import aim, answers, console, stored
from drkit.clock import NS_PER_S
from drkit.errors import DrkitError, UsageError
from drkit.model import MarkKind, Outcome
from drkit.probes import Tail
from drkit.project import Project
from drkit.report import numbers
from drkit.rundir import RunDir
from drkit.standing import Standing, names_of, standings
from drkit.undo import UndoJournal

LOOK_S = 1.0
_NEWEST = 200  # runs that are looked at: reading all of a year's would take too long


@dataclass(frozen=True, slots=True)
class Client:
    """What one probe saw in the last second before now. ok None: it has made no attempt in it."""

    name: str
    ok: bool | None
    answered: int
    failed: int
    last_error: str


def status(name: str | None, *, watch: bool, reports: Path | None, as_json: bool) -> int:
    found = aim.here(reports)
    run = None if name is None else RunDir.find(found.reports, name)
    if watch and as_json:
        raise UsageError("--watch and --json exclude each other", "ask again and again instead")
    if watch:
        return _watched(found, run)
    now = _now(found, run)
    if as_json:
        console.out_json(now)
    else:
        console.out("\n".join(_lines(now, run)))
    return int(now["exit_code"])


def _watched(found: Project, run: RunDir | None) -> int:
    """Show it again and again, until Ctrl-C or, of one run, its end; on a terminal in place, else what is new."""
    from drkit.cli import live

    with live.board() as show:
        while True:
            now = _now(found, run)
            show("\n".join(_lines(now, run)))
            if run is not None and not stored.is_running(run):
                return int(now["exit_code"])
            try:
                clock.sleep_s(LOOK_S)
            except KeyboardInterrupt:
                return int(now["exit_code"])


def _now(found: Project, run: RunDir | None) -> dict[str, Any]:
    """Return everything there is to say, with the exit code."""
    if run is not None:
        one = _detail(run)
        code = 5 if one["left_broken"] else 3 if one["half_way"] else 0
        return {"run": one, "exit_code": code}
    runs = RunDir.all(found.reports)[-_NEWEST:]
    told: dict[str, Any] = {
        "running": [_detail(r) for r in runs if stored.is_running(r)],
        "half_way": [_detail(r) for r in runs if stored.half_way(r)],
        "left_broken": [_left(r) for r in stored.left_open(found.reports) if not _guarded(r)],
        "guardians": [{"run_id": r.run_id} for r in runs if _guarded(r)],
    }
    return {**told, "exit_code": 5 if told["left_broken"] else 3 if told["half_way"] else 0}


def _guarded(run: RunDir) -> bool:
    """Return whether the guardian of a dead run is putting things back."""
    return (run.path / "lease.taken").exists() and not stored.has_ended(run) and not run.sealed


def _detail(run: RunDir) -> dict[str, Any]:
    identity = stored.identity(run)
    marks = run.marks()
    running, half_way = stored.is_running(run), stored.half_way(run)
    kind = str(identity.get("kind", "experiment"))
    now_ns = clock.now_ns()
    began_ns = marks[0].t_lo_ns if marks else now_ns
    state = "running" if running else "half-way" if half_way else "ended" if stored.has_ended(run) else "cut short"
    phase = next((m.name for m in reversed(marks) if m.kind is MarkKind.PHASE), "")
    return {
        "run_id": run.run_id,
        "kind": kind,
        "name": identity["name"],
        "target": identity["target"],
        "target_kind": identity["target_kind"],
        "mode": identity.get("mode"),
        "started_at": identity["started_at"],
        "started_by": identity.get("started_by"),
        "held_by_pid": _pid(run) if running else None,
        "state": state,
        "for_s": (now_ns - began_ns) / NS_PER_S if running and now_ns >= began_ns else None,
        "phase": phase,
        "steps": [_step(s, by, now_ns, running=running) for s, by in _steps(run, identity)],
        "waiting": _waiting(run, identity) if running else [],
        "clients": [_client(c) for c in _clients(run, now_ns)] if running else [],
        "half_way": half_way,
        "left_broken": not running and not half_way and bool(_pending(run)),
    }


def _steps(run: RunDir, identity: dict[str, Any]) -> Iterator[tuple[Standing, str]]:
    """Yield where each step of a playbook stands, and who does it; nothing for an experiment."""
    if identity.get("kind") != "playbook":
        return
    planned = {s["name"]: s["by"] for s in identity.get("plan", {}).get("steps", ())}
    marks = run.marks()
    for name, standing in standings(marks, planned or names_of(marks)).items():
        yield standing, planned.get(name, "drkit")


def _step(now: Standing, by: str, at_ns: int, *, running: bool) -> dict[str, Any]:
    took_s = since_s = None
    if now.began_ns is not None and now.ended_ns is not None and now.state in ("done", "failed"):
        took_s = (now.ended_ns - now.began_ns) / NS_PER_S
    elif now.began_ns is not None and running:
        since_s = max(0.0, (at_ns - now.began_ns) / NS_PER_S)
    return {
        "name": now.name, "by": now.by or by, "state": now.state, "already": now.already, "tries": now.tries,
        "looked": now.looked, "took_s": took_s, "since_s": since_s, "why": now.why,
    }  # fmt: skip


def _waiting(run: RunDir, identity: dict[str, Any]) -> list[dict[str, Any]]:
    from drkit.catalog import filled_text

    if identity.get("kind") != "playbook":
        return []
    variables = identity.get("configuration", {})
    with contextlib.suppress(DrkitError, KeyError):  # its steps' module is gone: the run can be shown all the same
        return [
            {
                "step": c.name,
                "asks": " ".join(filled_text(c.approval or c.manual, variables).split()),
                "four_eyes": c.four_eyes,
                "answer_with": answers.command(run, c.name, manual=bool(c.manual)),
            }
            for c in answers.waiting(run)
        ]
    return []


def _clients(run: RunDir, now_ns: int) -> Iterator[Client]:
    """Yield what each probe saw in the last second; of one that went on for a dead one, the newest."""
    newest: dict[str, Path] = {}
    for path in run.probe_files():
        stem, _, life = path.stem.partition("@")
        kept = newest.get(stem)
        if kept is None or int(life or 1) > int(kept.stem.partition("@")[2] or 1):
            newest[stem] = path
    for name, path in newest.items():
        try:
            attempts = [a for a in Tail(path).poll() if a.done_ns >= now_ns - NS_PER_S]
        except DrkitError:
            continue
        bad = [a for a in attempts if a.outcome is not Outcome.OK]
        last = max(attempts, key=lambda a: a.done_ns, default=None)
        yield Client(
            name,
            None if last is None else last.outcome is Outcome.OK,
            len(attempts) - len(bad),
            len(bad),
            str(bad[-1].error or bad[-1].outcome) if bad else "",
        )


def _client(c: Client) -> dict[str, Any]:
    return {"name": c.name, "ok": c.ok, "answered": c.answered, "failed": c.failed, "last_error": c.last_error}


def _left(run: RunDir) -> dict[str, Any]:
    return {"run_id": run.run_id, "pending": len(_pending(run)), "undo_with": f"drkit undo {run.run_id}"}


def _pending(run: RunDir) -> tuple[Any, ...]:
    return UndoJournal(run.path / "undo.jsonl", run.run_id).pending()


def _pid(run: RunDir) -> int | None:
    try:
        value = json.loads((run.path / "lease.json").read_text("utf-8"))["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, int) else None


# --- in words ---------------------------------------------------------------------------------------------------------


def _lines(now: dict[str, Any], run: RunDir | None) -> Iterator[str]:
    if run is not None:
        yield from _told(now["run"])
        return
    if not any(now[part] for part in ("running", "half_way", "left_broken", "guardians")):
        yield "nothing goes on, and nothing is left broken"
        return
    for one in now["running"]:
        yield from _told(one)
    for one in now["half_way"]:
        yield from _told(one)
    for one in now["guardians"]:
        yield f"the guardian of {one['run_id']} is putting things back: wait for it"
    for one in now["left_broken"]:
        yield f"STILL BROKEN: {one['run_id']} has left {one['pending']} not put back; {one['undo_with']}"


def _told(one: dict[str, Any]) -> Iterator[str]:
    what = f"{one['kind']} {one['name']} on {one['target']} ({one['target_kind']})"
    how = f", {one['mode']}" if one["mode"] else ""
    running = f"running for {numbers.seconds(round(one['for_s']))}" if one["for_s"] is not None else one["state"]
    yield f"{what}{how}: {running}" + (f", phase {one['phase']}" if one["phase"] and one["state"] == "running" else "")
    by = f", by {one['started_by']}" if one["started_by"] else ""
    held = f", held by process {one['held_by_pid']}" if one["held_by_pid"] else ""
    yield f"  run {one['run_id']}, started {numbers.to_the_second(one['started_at'])}{by}{held}"
    for step in one["steps"]:
        yield f"  {_MARKS[step['state']]} {step['name']}: {_standing(step)}"
    for question in one["waiting"]:
        who = "another person than the one who started it" if question["four_eyes"] else "a person"
        yield f"  WAITS for {who}: {question['asks']}"
        yield f"    answer with: {question['answer_with']} (or with --no)"
    if one["clients"]:
        yield "  clients: " + ", ".join(_seen(c) for c in one["clients"])
    if one["half_way"]:
        yield f"  HALF-WAY: go on with drkit resume {one['run_id']}; or put back: drkit undo {one['run_id']}"
    if one["left_broken"]:
        yield f"  STILL BROKEN: drkit undo {one['run_id']}"


_MARKS = {"pending": "·", "begun": "▸", "waiting": "?", "done": "✓", "failed": "✗"}


def _standing(step: dict[str, Any]) -> str:
    tries = f", try {step['tries']}" if step["tries"] > 1 else ""
    since = f" for {numbers.seconds(round(step['since_s'], 1))}" if step["since_s"] is not None else ""
    took = f" in {numbers.seconds(round(step['took_s'], 2))}" if step["took_s"] is not None else ""
    match step["state"]:
        case "begun":
            return f"under way{since}{tries}" if since else f"left under way{tries}"
        case "waiting":
            return f"waits{since} for {step['by']}"
        case "done":
            if step["looked"]:
                return f"holds{took}"
            return "was done already" if step["already"] else f"done{took}{tries}"
        case "failed":
            return f"FAILED{tries}: {step['why']}"
        case _:
            return f"to be done by {step['by']}"


def _seen(c: dict[str, Any]) -> str:
    if c["ok"] is None:
        return f"{c['name']} silent"
    if c["failed"]:
        return f"{c['name']} FAILING ({c['failed']} of {c['answered'] + c['failed']}, {c['last_error']})"
    return f"{c['name']} ok ({c['answered']}/s)"
