"""Playbooks looked at without touching anything: which there are, what one does, and what a run of it would change."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drkit import catalog
from drkit.catalog import Playbook, StepCall, single
from drkit.cli import aim, console, look
from drkit.errors import DrkitError, UsageError
from drkit.model import Effect, Plan
from drkit.report import numbers


def list_(*, as_json: bool) -> int:
    found = aim.here()
    rows: list[dict[str, Any]] = []
    for name, path in catalog.playbooks(found).items():
        row: dict[str, Any] = {"name": name, "title": "", "tier": "", "tags": [], "path": str(path)}
        try:
            book = catalog.load_playbook(str(path), found)
        except DrkitError as e:
            rows.append(row | {"problem": e.message, "hint": e.hint})
            continue
        told = {"title": book.title, "tier": book.file.tier, "tags": list(book.file.tags)}
        rows.append(row | told | {"problem": None, "hint": ""})
    if as_json:
        console.out_json({"playbooks": rows})
        return 0
    own = found.root / "dr_playbooks"
    cells = [
        (
            r["name"],
            r["title"] or f"cannot be used: {r['problem']}",
            r["tier"] or "–",
            "here" if Path(r["path"]).parent == own else "drkit",
        )
        for r in rows
    ]
    console.out(console.table(("playbook", "what it brings about", "tier", "from"), cells) if rows else "no playbook")
    console.say("\nmore of one: drkit playbook show NAME; what it would change: drkit playbook plan NAME")
    return 0


def show(name: str, *, page: bool, as_json: bool) -> int:
    book = catalog.load_playbook(name, aim.here())
    if page:
        if as_json:
            raise UsageError("--format and --json exclude each other", "--json tells the same for programs")
        from drkit.cli import runbooks

        console.out(runbooks.page(book))
        return 0
    if as_json:
        console.out_json(_as_json(book))
        return 0
    part = book.file
    lines = [f"{book.name}: {book.title}", "", *look.wrapped(book.description), ""]
    if part.before:
        lines += ["before it is started", *look.wrapped(part.before.strip(), "  "), ""]
    lines += ["objectives", *(f"  {n:13} {limit}" for n, limit in look.promised(part.objective)), ""]
    if part.prerequisites:
        lines += ["prerequisites", *(f"  - {c.name}: {what(c)}" for c in single(part.prerequisites)), ""]
    lines.append("steps")
    for n, call in enumerate(part.steps, 1):
        inner = f"  {n}. side by side" if call.parallel else ""
        lines += [inner] if inner else []
        for one in single((call,)):
            lead = "     - " if call.parallel else f"  {n}. "
            lines.append(f"{lead}{one.name}  [{by(one)}, at most {numbers.seconds(one.timeout_s)}]")
            lines += look.wrapped(what(one), "     " + "  " * bool(call.parallel))
            if one.when:
                lines.append(f"     only if {one.when}")
    if book.variables:
        lines += ["", "variables (--var KEY=VALUE)", *(f"  {k} = {v}" for k, v in book.variables.items())]
    lines += ["", f"file: {book.path}"]
    console.out("\n".join(lines))
    return 0


def plan(
    name: str,
    target_name: str | None,
    *,
    var: Sequence[str],
    to_time: str | None,
    reports: Path | None,
    as_json: bool,
) -> int:
    from drkit import engine
    from drkit.targets.aws import permissions

    found = aim.here(reports)
    book = catalog.load_playbook(name, found)
    variables = variables_of(book, var, to_time)
    target = aim.at(found, target_name, whole=False)
    made = engine.plan_recovery(book, target, found, variables)
    needed = permissions.needed_by_playbook(book, target, made.effects)
    real = target.kind != "lab" and not target.copy_of
    command = shlex.join(
        [
            *("drkit", "playbook", "run", name),
            *(("--target", target_name) if target_name else ()),
            *(word for k, v in variables.items() for word in ("--var", f"{k}={v}")),
            *(("--real",) if real else ()),
            *("--plan", made.digest[:12]),
        ]
    )
    if as_json:
        console.out_json(
            {
                "name": made.name,
                "target": made.target,
                "kind": made.kind,
                "real": real,
                "digest": made.digest,
                "expected_s": made.expected_s,
                "expected_from_runs": made.expected_from_runs,
                "steps": [asdict(s) for s in made.steps],
                "iam_actions": needed.actions,
                "iam_untold": needed.untold,
                "notes": made.notes,
                "run_with": command,
            }
        )
        return 0
    where = "for real" if real else "practice"
    lines = [f"{made.name} on {made.target} ({made.kind}, {where}) would, in this order:", "", *_steps(made)]
    lines += ["", *(f"note: {note}" for note in made.notes)]
    lines.append(f"IAM actions: {', '.join(needed.actions)}")
    lines += [f"and those of {', '.join(needed.untold)}, which does not tell"] if needed.untold else []
    lines.append(
        f"takes about {numbers.seconds(made.expected_s)} (median of {made.expected_from_runs} earlier)"
        if made.expected_s is not None
        else "how long it takes is not known: no run of it yet"
    )
    lines += [f"digest: {made.digest}", "", f"run exactly this: {command}"]
    console.out("\n".join(lines))
    return 0


def _steps(made: Plan) -> Iterator[str]:
    """Yield the lines about the steps; those side by side have a line before them."""
    n = 0
    for parallel, together in itertools.groupby(made.steps, key=lambda s: s.parallel):
        if parallel:
            yield "     side by side:"
        for step in together:
            n += 1
            took = f", about {numbers.seconds(round(step.expected_s, 1))}" if step.expected_s is not None else ""
            yield f"{n:3}. {step.name}  [{step.by}{took}]"
            yield from look.wrapped(step.what, "     ")
            for effect in step.effects:
                yield from _effect(effect)


def _effect(effect: Effect) -> Iterator[str]:
    place = effect.zone or effect.region
    yield f"     - {effect.what or effect.call}"
    yield f"       call: {effect.call} {effect.resource}" + (f" in {place}" if place else "")
    yield f"       undo: {effect.undo or 'none: it stays'}"


# --- what other commands use ------------------------------------------------------------------------------------------


def variables_of(book: Playbook, var: Sequence[str], to_time: str | None) -> dict[str, str]:
    """Return what --var and --to-time say. Raises UsageError, also for a variable that the playbook does not have."""
    values = look.variables(None, var)
    if to_time is not None:
        if "to_time" not in book.variables:
            raise UsageError(f"{book.name} has no variable 'to_time', so no --to-time", _known(book))
        moment = time_of("--to-time", to_time).isoformat().replace("+00:00", "Z")
        if values.setdefault("to_time", moment) != moment:
            raise UsageError("--to-time and --var to_time say different things", "say it once")
    for name in values:
        if name not in book.variables:
            raise UsageError(f"{book.name} has no variable {name!r}", _known(book))
    return values


def time_of(option: str, text: str) -> datetime:
    """Return a time of ISO 8601 in UTC. Raises UsageError, also where it does not say of which time zone it is."""
    example = "for example 2026-11-22T15:54:10Z, or 2026-11-22T16:54:10+01:00"
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(f"{option} {text}: not a time", example) from None
    if moment.tzinfo is None:
        why = "machines and people are in different time zones, and a recovery must not guess"
        raise UsageError(f"{option} {text}: it does not say of which time zone it is: {why}", example)
    return moment.astimezone(UTC)


def what(call: StepCall) -> str:
    """Return what a step does, in one sentence, or what is asked of a person."""
    if call.by_person:
        return " ".join((call.approval or call.manual).split())
    lines = (catalog.step_function(call).__doc__ or "").strip().splitlines()
    return lines[0] if lines else call.step


def by(call: StepCall) -> str:
    """Return who does it: "drkit", "a person", or "another person" than the one who started the run."""
    if call.approval:
        return "another person" if call.four_eyes else "a person"
    return "a person" if call.manual else "drkit"


def _known(book: Playbook) -> str:
    return f"it has: {', '.join(book.variables) or 'none'}; see drkit playbook show {book.name}"


def _as_json(book: Playbook) -> dict[str, Any]:
    part = book.file

    def told(call: StepCall) -> dict[str, Any]:
        if call.parallel:
            return {"parallel": [told(c) for c in call.parallel]}
        one = {k: v for k, v in asdict(call).items() if k != "parallel"}
        return {**one, "by": by(call), "what": what(call)}

    return {
        "name": book.name,
        "title": book.title,
        "description": book.description,
        "before": part.before,
        "tier": part.tier,
        "tags": part.tags,
        "path": str(book.path),
        "sha256": book.sha256,
        "variables": book.variables,
        "objective": asdict(part.objective),
        "probes": [asdict(p) for p in part.probes],
        "prerequisites": [told(c) for c in part.prerequisites],
        "steps": [told(c) for c in part.steps],
    }
