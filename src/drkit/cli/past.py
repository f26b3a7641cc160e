"""What was run before: judged again, reported, listed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drkit import report as reports_of
from drkit.cli import aim, console, scenario, stored, verdict
from drkit.cli.scenario import Past
from drkit.errors import DrkitError, RunDirError, UsageError
from drkit.model import Interval
from drkit.report import numbers
from drkit.rundir import RunDir
from drkit.undo import UndoJournal

_FILES = {"md": "report.md", "json": "report.json", "html": "report.html", "junit": "junit.xml"}


def measure(name: str, *, reports: Path | None, as_json: bool) -> int:
    run = RunDir.find(aim.here(reports).reports, name)
    if stored.is_running(run):
        raise UsageError(
            f"run {run.run_id} is going on", f"it is judged at its end; so far: drkit report {run.run_id} --format md"
        )
    record = stored.record_of(run)
    altered = stored.alteration(run)
    before = stored.derived(run)
    now = {"measurement": asdict(record.measurement), "judgement": asdict(record.judgement)}
    changed = None if before is None else differences(before, json.loads(json.dumps(now, default=str)))
    code = verdict.exit_code(record)
    if altered:
        code = verdict.worst((code, 3))  # whatever it says, it is not what happened
    if as_json:
        told = verdict.as_json(record, run.path)
        console.out_json({**told, "exit_code": code, "altered": altered or None, "differs": changed})
        return code
    console.out(verdict.text(record, run.path))
    if altered:
        console.out(f"ALTERED: {altered}; this verdict proves nothing")
    if changed is None:
        console.out("nothing was stored to compare it with: nobody finished this run")
    elif changed:
        console.out(f"differs from what was stored, in {len(changed)} places:")
        console.out("\n".join(f"  {line}" for line in changed[:12]))
    else:
        console.out("the same as was stored")
    return code


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Return one line for each leaf that is not the same: "measurement.rta.lo_s: 1.2 -> 1.3"."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after})
        return [d for k in keys for d in differences(before.get(k), after.get(k), f"{where}.{k}" if where else k)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            d for n, (a, b) in enumerate(zip(before, after, strict=True)) for d in differences(a, b, f"{where}[{n}]")
        ]
    if before == after or (isinstance(before, float) and isinstance(after, float) and math.isnan(before + after)):
        return []
    return [f"{where}: {numbers.short(before, 60)} -> {numbers.short(after, 60)}"]


def report(name: str, *, form: str | None, open_it: bool, reports: Path | None, as_json: bool) -> int:
    run = RunDir.find(aim.here(reports).reports, name)
    if form is not None:
        if as_json:
            raise UsageError("--format and --json exclude each other", "--format json prints the report as JSON")
        console.out(reports_of.render(stored.record_of(run))[_FILES[form]])
        return 0
    if not (run.path / "report.html").exists():
        _write_again(run)
    paths = {kind: run.path / name for kind, name in _FILES.items()}
    if as_json:
        console.out_json({"run_id": run.run_id, **{kind: str(path) for kind, path in paths.items()}})
    else:
        console.out("\n".join(str(path) for path in paths.values()))
    if open_it:
        import webbrowser

        if not webbrowser.open(paths["html"].as_uri()):
            console.say(f"no browser to open: {paths['html']}")
    return 0


def _write_again(run: RunDir) -> None:
    from drkit.engine import finish

    if stored.is_running(run):
        raise UsageError(f"run {run.run_id} is going on", "its report comes at its end; --format md shows it so far")
    stored.record_of(run)  # a damaged run is told as one
    finish(run)
    if not (run.path / "report.html").exists():
        raise RunDirError(f"cannot write the report of {run.run_id}", "free some space; drkit report RUN --format md")


def history(*, reports: Path | None, as_json: bool) -> int:
    found = aim.here(reports)
    runs: list[dict[str, Any]] = []
    past: list[Past] = []
    for run in RunDir.all(found.reports):
        try:
            row, one = _row(run)
        except DrkitError as e:
            row, one = {**_EMPTY, "run_id": run.run_id, "state": "damaged", "problem": e.message}, None
        runs.append(row)
        if one is not None:
            past.append(one)
    here = {r["run_id"] for r in runs}
    missing = [{"number": n, "run_id": name} for n, name in stored.registered(found.home).items() if name not in here]
    scenarios = scenario.summaries(past)
    if as_json:
        console.out_json({"runs": runs, "scenarios": [s.to_json() for s in scenarios], "missing": missing})
        return 0
    if not runs:
        console.out(f"no run in {found.reports} yet")
    else:
        head = ("no.", "when (UTC)", "experiment or playbook", "target", "verdict", "RTA", "RPA", "lost", "run")
        console.out(console.table(head, [_cells(r) for r in runs]))
    for entry in missing:
        console.out(f"no. {entry['number']} is not here: {entry['run_id']} was removed, or is in another directory")
    for r in runs:
        if r["problem"]:
            console.out(f"{r['run_id']}: {r['problem']}")
    if scenarios:
        console.out("\nmean time to recovery, scenario by scenario")
        for summary in scenarios:
            console.out(summary.text())
    return 0


_EMPTY: dict[str, Any] = {
    "run_id": "", "number": None, "name": "", "target": "", "target_kind": "", "started_at": "", "state": "",
    "verdict": None, "rta": None, "rpa": None, "acknowledged_writes": None, "lost_writes": None, "problem": None,
}  # fmt: skip


def _row(run: RunDir) -> tuple[dict[str, Any], Past | None]:
    """Return a run's line, from what was stored at its end; one that nobody finished is judged now."""
    identity = stored.identity(run)
    row = _EMPTY | {k: identity[k] for k in ("run_id", "number", "name", "target", "target_kind", "started_at")}
    if stored.is_running(run):
        return row | {"state": "running"}, None
    kept = stored.derived(run)
    if kept is None:
        record = stored.record_of(run)
        kept = json.loads(
            json.dumps({"measurement": asdict(record.measurement), "judgement": asdict(record.judgement)})
        )
    try:
        m = kept["measurement"]
        rta, rpa = _headline(m, identity), _interval(m["rpa"])
        row |= {
            "state": "sealed" if run.sealed else "unfinished",
            "verdict": kept["judgement"]["verdict"],
            "rta": verdict.span(rta),
            "rpa": verdict.span(rpa),
            "acknowledged_writes": sum(x["acknowledged"] for x in m["losses"]) if m["losses"] else None,
            "lost_writes": sum(len(x["lost"]) for x in m["losses"]) if m["losses"] else None,
            "problem": _left_broken(run),
        }
        stopped = any("a person stopped it" in r["sentence"] for r in kept["judgement"]["reasons"])
        one = scenario.past(
            identity, verdict=row["verdict"], rta=rta, impact=m["impact"] is not None, stopped_by_a_person=stopped
        )
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise RunDirError(f"its measurement.json is damaged: {type(e).__name__}: {e}") from e
    return row, one


def _headline(m: Mapping[str, Any], identity: Mapping[str, Any]) -> Interval | None:
    """Return what is held against the RTO: until the data is verified, where that is what was promised."""
    rta, verified = _interval(m["rta"]), _interval(m.get("rta_verified"))
    if rta is None or verified is None or not identity["objective"].get("verified"):
        return rta
    return Interval(max(rta.lo_s, verified.lo_s), max(rta.hi_s, verified.hi_s))


def _left_broken(run: RunDir) -> str | None:
    if stored.half_way(run):
        return f"stands half-way; drkit resume {run.run_id}, or drkit undo {run.run_id}"
    pending = UndoJournal(run.path / "undo.jsonl", run.run_id).pending()
    return f"STILL BROKEN: {len(pending)} not put back; drkit undo {run.run_id}" if pending else None


def _interval(value: Mapping[str, float] | None) -> Interval | None:
    return None if value is None else Interval(value["lo_s"], value["hi_s"])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    rta, rpa = _interval(row["rta"]), _interval(row["rpa"])
    return (
        "?" if row["number"] is None else str(row["number"]),
        row["started_at"][:16].replace("T", " "),
        row["name"],
        row["target"] + (f" ({row['target_kind']})" if row["target_kind"] not in ("", row["target"]) else ""),
        (row["verdict"] or row["state"]).upper() if row["verdict"] else row["state"],
        numbers.interval(rta),
        numbers.interval(rpa, "no upper bound"),
        "–" if row["lost_writes"] is None else f"{row['lost_writes']} of {row['acknowledged_writes']}",
        row["run_id"],
    )
