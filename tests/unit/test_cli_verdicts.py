"""How runs are told: exit codes, the verdict's text and JSON, scenarios and their means, the live view."""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import playbook_runs
import pytest
import report_records as records

from drkit.cli import console, live, past, scenario, verdict
from drkit.engine import ProbeView, Progress
from drkit.model import History, Interval, Judgement, Mark, MarkKind, Reason, Role, RunRecord, UndoRecord, Verdict

Make = Callable[[], RunRecord]
EVERY_RECORD = (*records.EVERY_RECORD, *playbook_runs.EVERY_RECORD)
every_record = pytest.mark.parametrize("make", EVERY_RECORD, ids=lambda f: f.__name__)


def judged(word: Verdict) -> RunRecord:
    return replace(records.passed(), judgement=Judgement(word, (Reason(word, "rto", "as it is"),)), undo=())


def with_marks(record: RunRecord, *kinds: tuple[MarkKind, dict[str, Any]]) -> RunRecord:
    marks = tuple(Mark(n, n, kind, str(kind), detail) for n, (kind, detail) in enumerate(kinds))
    return replace(record, history=History(marks, ()))


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "code"),
    [
        (Verdict.PASS, 0),
        (Verdict.FAIL, 1),
        (Verdict.INCONCLUSIVE, 3),
        (Verdict.INVALID, 3),
        (Verdict.ABORTED, 3),
    ],
)
def test_each_verdict_has_its_exit_code(word: Verdict, code: int) -> None:
    assert verdict.exit_code(with_marks(judged(word))) == code


@pytest.mark.parametrize("word", list(Verdict))
def test_something_still_broken_is_5_whatever_the_verdict(word: Verdict) -> None:
    pending = replace(judged(word), undo=(UndoRecord(1, "restore_acl", {}),))
    left = with_marks(judged(word), (MarkKind.RESIDUE, {"why": "a subnet has another ACL"}))
    assert verdict.exit_code(with_marks(pending)) == 5
    assert verdict.exit_code(left) == 5
    assert verdict.still_broken(left) == ("a subnet has another ACL",)


def test_what_was_put_back_later_is_not_broken_any_more() -> None:
    failed = (MarkKind.UNDO, {"seq": 1, "ok": False, "sentence": "throttled"})
    again = (MarkKind.UNDO, {"seq": 1, "ok": True, "sentence": "gave it back"})
    residue = (MarkKind.RESIDUE, {"why": "a subnet"})
    clean = (MarkKind.CLEANED_UP, {})
    record = replace(judged(Verdict.PASS), undo=(UndoRecord(1, "restore_acl", {}),))
    assert verdict.still_broken(with_marks(record, failed)) == ("restore_acl has not been undone: throttled",)
    assert verdict.still_broken(with_marks(record, failed, again)) == ()
    assert verdict.still_broken(with_marks(record, failed, again, residue)) == ("a subnet",)
    assert verdict.still_broken(with_marks(record, failed, again, residue, clean)) == ()


def test_of_several_exit_codes_the_gravest_counts() -> None:
    assert verdict.worst([]) == 0
    assert verdict.worst([0, 3, 1]) == 1
    assert verdict.worst([0, 3]) == 3
    assert verdict.worst([1, 4, 0]) == 4
    assert verdict.worst([4, 5, 1]) == 5


# --- text and JSON ----------------------------------------------------------------------------------------------------


@every_record
def test_every_record_can_be_told(make: Make, tmp_path: Path) -> None:
    record = make()
    told = verdict.text(record, tmp_path)
    assert told.splitlines()[0] == f"{record.name} on {record.target}: {str(record.judgement.verdict).upper()}"
    assert "RTO" in told
    assert "data: " in told
    assert "\n\n\n" not in told
    document = json.loads(json.dumps(console.finite(verdict.as_json(record, tmp_path)), allow_nan=False))
    assert document["verdict"] == record.judgement.verdict
    assert set(document) == set(verdict.as_json(records.passed(), tmp_path))


def test_reasons_come_gravest_first_and_what_passed_is_one_line(tmp_path: Path) -> None:
    reasons = (
        Reason(Verdict.FAIL, "rto", "RTO achieved [20 s, 21 s], target 15 s"),
        Reason(Verdict.PASS, "rpo", "nothing lost"),
        Reason(Verdict.PASS, "fault", "seen"),
    )
    told = verdict.text(replace(records.passed(), judgement=Judgement(Verdict.FAIL, reasons)), tmp_path)
    lines = [line.strip() for line in told.splitlines()]
    assert lines.index("FAIL  rto: RTO achieved [20 s, 21 s], target 15 s") < lines.index("PASS  rpo, fault")
    assert "nothing lost" not in told


def test_lost_writes_are_counted_and_said(tmp_path: Path) -> None:
    record = records.lost_writes()
    lost = sum(len(x.lost) for x in record.measurement.losses)
    assert lost > 0
    assert f"data: {lost} lost of " in verdict.text(record, tmp_path)
    assert verdict.as_json(record, tmp_path)["lost_writes"] == lost


def test_differences_name_each_leaf() -> None:
    before = {"rta": {"lo_s": 1.0, "hi_s": math.inf}, "losses": [1, 2], "gone": 1}
    after = {"rta": {"lo_s": 1.5, "hi_s": math.inf}, "losses": [1, 3]}
    assert past.differences(before, before) == []
    assert past.differences(before, after) == ["gone: 1 -> None", "losses[1]: 2 -> 3", "rta.lo_s: 1.0 -> 1.5"]


# --- scenarios --------------------------------------------------------------------------------------------------------


def identity(**changed: Any) -> dict[str, Any]:
    return {
        "name": "az-failure",
        "target": "lab",
        "target_kind": "lab",
        "objective": {"rto_s": 900.0, "mttr_s": 300.0},
        "configuration": {"zone": "eu-central-1a"},
        "before": {"writer_zone": "eu-central-1a"},
        "environment": {"lab_speed": 1.0},
        **changed,
    }


def ran(
    rta: Interval | None,
    word: Verdict = Verdict.PASS,
    *,
    impact: bool = True,
    stopped_by_a_person: bool = False,
    **changed: Any,
) -> scenario.Past:
    return scenario.past(
        identity(**changed), verdict=word, rta=rta, impact=impact, stopped_by_a_person=stopped_by_a_person
    )


def test_a_person_who_stops_a_run_early_leaves_no_failed_recovery() -> None:
    """A guard that stops one does: nobody came back. So does a person who waited for longer than the RTO."""
    early, late = Interval(2, math.inf), Interval(1000, math.inf)
    assert not ran(early, Verdict.ABORTED, stopped_by_a_person=True).counts
    assert ran(early, Verdict.ABORTED).counts
    assert ran(late, Verdict.ABORTED, stopped_by_a_person=True).counts
    assert ran(Interval(1, 2), Verdict.ABORTED, stopped_by_a_person=True).counts


def test_a_mean_has_its_n_and_its_worst() -> None:
    (summary,) = scenario.summaries([ran(Interval(1, 2)), ran(Interval(3, 4))])
    assert summary.mttr is not None
    assert (summary.mttr.n, summary.mttr.mean, summary.mttr.worst) == (2, Interval(2, 3), Interval(3, 4))
    assert "n = 2" in summary.text()


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "rds-failover"},
        {"target": "staging"},
        {"target_kind": "aws"},
        {"environment": {"lab_speed": 4.0}},
        {"configuration": {"zone": "eu-central-1c"}},
        {"configuration": {"zone": "eu-central-1a", "lag_s": "5"}},
    ],
)
def test_what_differs_is_never_pooled(changed: dict[str, Any]) -> None:
    assert len(scenario.summaries([ran(Interval(1, 2)), ran(Interval(1, 2), **changed)])) == 2


def test_the_writers_zone_is_one_scenario_wherever_the_writer_was() -> None:
    moved = {"configuration": {"zone": "eu-central-1b"}, "before": {"writer_zone": "eu-central-1b"}}
    assert len(scenario.summaries([ran(Interval(1, 2)), ran(Interval(1, 2), **moved)])) == 1


def test_a_run_that_never_recovered_counts_and_one_that_proves_nothing_is_told() -> None:
    runs = [
        ran(Interval(1, 2)),
        ran(Interval(30, math.inf), Verdict.FAIL),
        ran(None, Verdict.ABORTED),  # it was down when it was stopped
        ran(None, Verdict.ABORTED, impact=False),
        ran(Interval(0, 0), Verdict.INVALID),
    ]
    (summary,) = scenario.summaries(runs)
    assert summary.mttr is not None
    assert (summary.mttr.n, summary.mttr.never_recovered, summary.left_out) == (3, 2, 2)
    assert summary.mttr.worst.lo_s == 900.0
    assert summary.verdict is Verdict.FAIL
    assert json.loads(json.dumps(console.finite(summary.to_json())))["mean"]["hi_s"] is None


def test_a_scenario_that_was_only_invalid_has_no_mean() -> None:
    (summary,) = scenario.summaries([ran(None, Verdict.INVALID)])
    assert summary.verdict is None
    assert "no run to count" in summary.text()


# --- the live view ----------------------------------------------------------------------------------------------------


def now(**changed: Any) -> Progress:
    probe = ProbeView("api", Role.SERVICE, True, 50.0, 0.0124, 120, 0, "")
    failing = ProbeView("writes-fresh", Role.WRITES, False, 48.0, None, 120, 3, "refused")
    fields: dict[str, Any] = {
        "run_id": "r", "name": "az-failure", "target": "lab", "target_kind": "lab", "phase": "method", "elapsed_s": 6.0,
        "probes": (probe, failing), "outage_s": (0.84, 0.9), "outage_over": False,
        "guards": ("outage 0.9 of at most 45 s",),
    }  # fmt: skip
    return Progress(**{**fields, **changed})


def drawn(progress: Progress) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=100, color_system=None).print(live.picture("az-failure on lab", progress))
    return out.getvalue()


def test_the_picture_says_everything_without_colour() -> None:
    words = drawn(now())
    for expected in ("az-failure on lab", "phase method", "6.0 s", "api", "ok", "50/s", "12.4 ms", "writes-fresh",
                     "FAILING",
                     "refused", "3 of 120", "down for 0.84–0.90 s so far", "outage 0.9 of at most 45 s"):  # fmt: skip
        assert expected in words


def test_the_outage_clock_says_what_is_known() -> None:
    assert live.outage(now(outage_s=None, phase="baseline")) == "not broken yet"
    assert live.outage(now(outage_s=None)) == "no failure since the fault"
    assert live.outage(now(outage_over=True)) == "was down for 0.84–0.90 s"


def test_without_a_terminal_there_are_lines_and_a_heartbeat() -> None:
    out = io.StringIO()
    with live.view("az-failure on lab", out) as shown:
        shown.event(0.5, "baseline …")
        for tenths in range(5, 130):
            shown.progress(now(elapsed_s=tenths / 10))
    lines = out.getvalue().splitlines()
    assert lines[0] == "   0.50 s  baseline …"
    assert [line[:9] for line in lines[1:]] == ["   5.50 s", "  10.50 s"]
    assert "api ok 50/s p95 12.4 ms, writes-fresh FAILING (refused); down for 0.84–0.90 s so far" in lines[1]


class Gone(io.StringIO):
    """A terminal that has been closed."""

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("view", [lambda out: live.Lines(out), lambda out: live.Picture("t", out)])
def test_a_view_never_disturbs_the_run(view: Callable[[io.StringIO], live.View]) -> None:
    shown = view(Gone())
    shown.event(1.0, "x")
    shown.progress(now())
    shown.progress(now(probes=None))
    shown.event(2.0, "x")
    shown.close()
    shown.close()


def test_a_terminal_gets_a_picture_and_may_be_told_from_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("CI", raising=False)
    out = Terminal()
    errors: list[BaseException] = []
    with live.view("az-failure on lab", out) as shown:
        assert isinstance(shown, live.Picture)

        def tell(name: str) -> None:
            try:
                for n in range(20):
                    shown.event(n, f"{name}-{n}")
                    shown.progress(now(elapsed_s=n))
            except BaseException as e:  # noqa: BLE001
                errors.append(e)

        threads = [threading.Thread(target=tell, args=(f"t{k}",)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert all(f"t{k}-{n}" in out.getvalue() for k in range(4) for n in range(20))


def test_markup_in_an_event_is_only_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    out = Terminal()
    with live.view("t", out) as shown:
        shown.event(1.0, "[/red] [link=x]\x1b")
    assert "[/red] [link=x]" in out.getvalue()
