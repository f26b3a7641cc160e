"""From a run's directory to its record: measure, judge, render, seal; for the engine, the guardian, `drkit measure`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from drkit import measure, probes, report
from drkit.clock import NS_PER_S
from drkit.errors import DrkitError, RunDirError
from drkit.model import (
    Effect,
    History,
    Mark,
    MarkKind,
    Objective,
    PlannedStep,
    ProbeKind,
    Role,
    RunRecord,
    Series,
    Verdict,
)
from drkit.rundir import RunDir
from drkit.undo import UndoJournal


def record_of(run: RunDir) -> RunRecord:
    """Return a stored run, measured and judged by this version of drkit; changes nothing on disk.

    A run that was cut short has a record too. Raises RunDirError when even run.json is unreadable.
    """
    identity = run.identity
    history = History(run.marks(), _all_series(run), run.survivors())
    settings = measure.Settings(**identity["settings"])
    objective = Objective(**identity["objective"])
    measurement = measure.measure(history, settings)
    return RunRecord(
        run_id=run.run_id,
        number=identity["number"],
        name=identity["name"],
        title=identity["title"],
        description=identity["description"],
        kind=identity["kind"],
        target=identity["target"],
        target_kind=identity["target_kind"],
        started_at=identity["started_at"],
        origin_ns=identity["origin_ns"],
        objective=objective,
        history=history,
        measurement=measurement,
        judgement=measure.judge(measurement, history, objective),
        hypothesis=identity["hypothesis"],
        plan_digest=identity["plan"]["digest"],
        effects=_effects(identity["plan"]["effects"]),
        steps=tuple(PlannedStep(**{**s, "effects": _effects(s["effects"])}) for s in identity["plan"].get("steps", ())),
        undo=UndoJournal(run.path / "undo.jsonl", run.run_id).records(),
        environment=identity["environment"],
        instrument=identity["instrument"],
        ended=any(m.kind is MarkKind.RUN_ENDED for m in history.marks),
    )


def _effects(stored: Sequence[Mapping[str, Any]]) -> tuple[Effect, ...]:
    return tuple(Effect(**{**e, "iam": tuple(e["iam"])}) for e in stored)


def finish(run: RunDir) -> RunRecord:
    """Write down everything that follows from the history, and seal the run, again if it was sealed before.

    A record is returned even if the disk does not take it; RunDirError is raised only when the run cannot be read.
    """
    with run.alone():
        record = record_of(run)
        try:
            derived = {"measurement": asdict(record.measurement), "judgement": asdict(record.judgement)}
            run.write_json("measurement.json", derived)
            run.write_json("journal.json", _journal(run, record))
            for name, text in report.render(record).items():
                run.write_text(name, text)
            run.seal()
        except DrkitError as e:
            # The facts are safe; what is derived can be made again with `drkit report`.
            if run.try_mark(MarkKind.INSTRUMENT, "report", why=e.message):
                record = record_of(run)
    return record


def _all_series(run: RunDir) -> tuple[Series, ...]:
    """Return one series for each probe: NAME.jsonl, and NAME@2.jsonl, … of those that went on for it after a resume."""
    files: dict[str, list[Path]] = {}
    for path in run.probe_files():
        files.setdefault(path.stem.partition("@")[0], []).append(path)
    return tuple(_series(*paths) for paths in files.values())


def _series(*paths: Path) -> Series:
    """Return one probe's attempts; of a file that was cut within its first line, none, and that it is not complete."""
    try:
        return probes.read(*paths)
    except RunDirError:
        return Series(paths[0].stem, ProbeKind.HTTP, Role.SERVICE, 0.0, 0.0, (), complete=False)


def _journal(run: RunDir, record: RunRecord) -> dict[str, Any]:
    """Return the run in Chaos Toolkit's journal format, so that its reporters can read it.

    `status` and `deviated` are drkit's verdict in chaoslib's words: only PASS and FAIL are "completed".
    """
    from chaoslib import __version__

    marks = record.history.marks
    started = datetime.fromisoformat(record.started_at)
    seconds = (marks[-1].t_hi_ns - marks[0].t_lo_ns) / NS_PER_S if marks else 0.0
    verdict = record.judgement.verdict
    finished = {Verdict.PASS: "completed", Verdict.FAIL: "completed", Verdict.ABORTED: "aborted"}.get(verdict, "failed")
    return {
        "chaoslib-version": __version__,
        "platform": record.environment.get("platform", ""),
        "node": record.environment.get("host", ""),
        "experiment": run.identity["document"],
        "start": record.started_at,
        "end": (started + timedelta(seconds=seconds)).isoformat(),
        "duration": seconds,
        "status": finished if record.ended else "interrupted",
        "deviated": verdict is Verdict.FAIL,
        "steady_states": {
            "before": _steady_state(run, marks, "before"),
            "after": _steady_state(run, marks, "after"),
            "during": [],
        },
        "run": [m.detail["entry"] for m in marks if m.kind is MarkKind.ACTIVITY],
        "rollbacks": [
            {
                "activity": {"name": m.name, "type": "action", "provider": {"type": "drkit-undo"}},
                "status": "succeeded" if m.detail["ok"] else "failed",
                "output": m.detail["sentence"],
                "start": (started + timedelta(seconds=(m.t_lo_ns - record.origin_ns) / NS_PER_S)).isoformat(),
                "end": (started + timedelta(seconds=(m.t_hi_ns - record.origin_ns) / NS_PER_S)).isoformat(),
                "duration": (m.t_hi_ns - m.t_lo_ns) / NS_PER_S,
            }
            for m in marks
            if m.kind is MarkKind.UNDO
        ],
        "drkit": {"run_id": record.run_id, "verdict": str(verdict)},
    }


def _steady_state(run: RunDir, marks: Sequence[Mark], when: str) -> dict[str, Any]:
    asked = [m for m in marks if m.kind is MarkKind.HYPOTHESIS and m.detail["when"] == when]
    title = run.identity["document"].get("steady-state-hypothesis", {}).get("title", "")
    met = all(m.detail["held"] is True for m in asked) if asked else None
    return {"title": title, "steady_state_met": met, "probes": [m.detail["entry"] for m in asked]}
