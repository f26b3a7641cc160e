"""What the report tells, for good and for poor records; every look at meaning, none at bytes."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import playbook_runs
import pytest
import report_records as records

from drkit import measure, report
from drkit.certificate import Certificate
from drkit.model import Decomposition, Interval, Judgement, Mark, MarkKind, Reason, Role, RunRecord, Verdict
from drkit.report import calibration, events, timeline

Make = Callable[[], RunRecord]
EVERY_RECORD = (*records.EVERY_RECORD, *playbook_runs.EVERY_RECORD)
every_record = pytest.mark.parametrize("make", EVERY_RECORD, ids=lambda f: f.__name__)
xml = ET.fromstring  # our own output
SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


def page(record: RunRecord) -> str:
    return report.render(record)["report.html"]


@cache
def rendered(make: Make) -> dict[str, str]:
    return report.render(make())


def words(record: RunRecord) -> str:
    return text_of(page(record))


def text_of(source: str) -> str:
    """Return a page's text as a reader sees it, with plain spaces."""
    return re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", source, flags=re.DOTALL)).replace("\u00a0", " ")


class Checker(HTMLParser):
    """Collects what a page would run or fetch, and whether its tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@every_record
def test_every_record_gives_four_well_formed_files(make: Make) -> None:
    files = rendered(make)
    assert sorted(files) == ["junit.xml", "report.html", "report.json", "report.md"]
    json.loads(files["report.json"], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    xml(files["junit.xml"])
    checker = Checker()
    checker.feed(files["report.html"])
    assert checker.open == []
    for picture in SVG.findall(files["report.html"]):
        xml(picture)


@every_record
def test_the_same_record_gives_the_same_bytes(make: Make) -> None:
    assert report.render(make()) == rendered(make)


@every_record
def test_the_page_is_self_contained(make: Make) -> None:
    checker = Checker()
    checker.feed(rendered(make)["report.html"])
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in checker.tags}
    for _, attrs in checker.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert all((attrs[name] or "").startswith("#") for name in ("href", "src") if name in attrs)
    assert "@import" not in rendered(make)["report.html"]
    assert "url(http" not in rendered(make)["report.html"]


@every_record
def test_kind_of_target_stands_before_everything_else(make: Make) -> None:
    record = make()
    kind = report.kind_of_target(record)
    assert rendered(make)["report.md"].startswith("> **" + kind[:7])
    body = rendered(make)["report.html"].split("<body>")[1]
    assert body.index(kind[:7]) < body.index("<h1>")
    assert list(json.loads(rendered(make)["report.json"]))[1] == "target_kind"


@every_record
def test_verdict_and_every_reason_are_told_in_words(make: Make) -> None:
    record = make()
    for text in (text_of(rendered(make)["report.html"]), rendered(make)["report.md"].replace("\\", "")):
        assert record.judgement.verdict.upper() in text
        for reason in record.judgement.reasons:
            assert reason.verdict.upper() in text
            assert html.escape(reason.sentence) in text or reason.sentence in text


@every_record
def test_pictures_tell_a_screen_reader_what_they_show(make: Make) -> None:
    for picture in SVG.findall(rendered(make)["report.html"]):
        if 'aria-hidden="true"' not in picture:
            root = xml(picture)
            names = [child.tag.rpartition("}")[2] for child in root]
            assert names[:2] == ["title", "desc"]
            assert all(child.text for child in root[:2])


@every_record
def test_nothing_is_told_by_colour_alone(make: Make) -> None:
    """Colours live in the style sheet, by class; each coloured thing has a word, a place or a hatch of its own."""
    body = rendered(make)["report.html"].split("</style>")[1]
    assert not re.search(r"(?:fill|color)=|#[0-9a-f]{6}\b|rgb\(", body)
    for found in re.findall(r'<span class="verdict [a-z]+">(.*?)</span>\s*(\w+)', body):
        assert found[1] in {v.upper() for v in Verdict}


def test_a_pass_shows_target_achieved_interval_and_the_loss_account() -> None:
    told = words(records.passed())
    for expected in ("1.918–1.962 s", "≤ 900 s (15 min)", "0 of 4,606 acknowledged", "LAB run at speed 1"):
        assert expected in told
    assert "−0.44 to −0.02 s (negative: healed by itself before that)" in told
    assert "2.54–2.58 s" in told  # pooled clients came back later
    assert "sha256:77aa" in told  # the calibration certificate


def test_a_loss_is_shown_with_what_broke() -> None:
    told = words(records.lost_writes())
    for expected in (
        "113 of 2,303 acknowledged",
        "2.22–2.26 s",
        "113 (#140–#251, #260)",
        "2 (#300–#301)",
        "BROKEN",
    ):
        assert expected in told
    found = json.loads(report.render(records.lost_writes())["report.json"])["measurement"]["losses"][0]
    assert found["lost"] == {"rows": 113, "ranges": [[140, 251], [260, 260]]}
    assert found["integrity_broken"] is True


def test_never_recovered_is_open_ended_and_never_a_number() -> None:
    record = records.never_recovered()
    told = words(record)
    assert "> 42.96 s, not recovered".replace("42.96", "42.9") in told.replace("&gt;", ">")
    assert "PENDING" in told
    assert f"drkit undo {record.run_id}" in told
    assert "Not calibrated" in told
    found = json.loads(report.render(record)["report.json"])["measurement"]
    assert found["rta"] == {"lo_s": 42.96, "hi_s": None}
    assert found["outages"][0]["recovered"] is False


def test_a_run_aborted_before_the_baseline_says_that_nothing_was_touched() -> None:
    told = words(records.aborted())
    assert "No effect was planned" in told
    assert "nothing was broken by this run" in told
    assert "No outage was seen" in told


def test_markup_in_names_details_and_reasons_is_harmless() -> None:
    evil = "<script>alert(1)</script>\"'&|`\x00\x1b[31m\ud800"
    good = records.passed()
    marks = tuple(dataclasses.replace(m, name=evil, detail={evil: [evil]}) for m in good.history.marks)
    series = tuple(dataclasses.replace(s, name=evil) for s in good.history.series)
    record = dataclasses.replace(
        good,
        name=evil,
        title=evil,
        description=evil,
        target=evil,
        started_at=evil,
        run_id=evil,
        history=dataclasses.replace(good.history, marks=marks, series=series),
        judgement=Judgement(Verdict.FAIL, (Reason(Verdict.FAIL, evil, evil),)),
        environment={evil: {evil: evil}},
        effects=tuple(dataclasses.replace(e, what=evil, undo=evil) for e in good.effects),
    )
    files = report.render(record)
    for text in files.values():
        text.encode()
        assert "\x00" not in text
        assert "\x1b" not in text
    checker = Checker()
    checker.feed(files["report.html"])
    assert checker.open == []
    assert "script" not in {tag for tag, _ in checker.tags}
    assert "<script" not in files["report.md"].replace("\\<", "")
    xml(files["junit.xml"])
    for picture in SVG.findall(files["report.html"]):
        xml(picture)


def test_a_run_of_a_hundred_thousand_attempts_stays_small() -> None:
    good = records.passed()
    series = tuple(
        records.series(s.name, s.kind, s.role, (900.0, 960.0), s.connection, length_s=500.0)
        for s in good.history.series
    )
    assert sum(len(s.attempts) for s in series) == 100_000
    text = page(dataclasses.replace(good, history=dataclasses.replace(good.history, series=series)))
    assert len(text.encode()) < 300_000


def test_flapping_all_run_long_stays_small_too() -> None:
    good = records.passed()
    flapping = tuple(
        dataclasses.replace(
            s,
            attempts=tuple(
                dataclasses.replace(a, outcome=list(records.Outcome)[a.seq * a.seq % 3]) for a in s.attempts
            ),
        )
        for s in good.history.series
    )
    text = page(dataclasses.replace(good, history=dataclasses.replace(good.history, series=flapping)))
    assert len(text.encode()) < 300_000


def test_junit_is_red_for_everything_but_a_pass() -> None:
    def counts(record: RunRecord) -> tuple[int, int, int]:
        suite = xml(report.render(record)["junit.xml"])[0]
        return tuple(int(suite.get(k, "")) for k in ("tests", "failures", "errors"))  # type: ignore[return-value]

    assert counts(records.passed()) == (4, 0, 0)
    names = [case.get("name") for case in xml(rendered(records.passed)["junit.xml"]).iter("testcase")]
    assert names == ["rto", "rpo", "integrity", "p95"]  # the same from run to run, whatever was achieved
    assert counts(records.lost_writes()) == (5, 3, 2)  # one error more: the error rate was promised and not judged
    assert counts(records.nothing_at_all()) == (1, 0, 1)
    for make in (records.never_recovered, records.invalid, records.aborted):
        _, failures, errors = counts(make())
        assert failures + errors > 0


def test_an_objective_judged_by_nobody_is_inconclusive() -> None:
    record = dataclasses.replace(records.passed(), judgement=Judgement(Verdict.PASS, ()))
    rows = {r.objective: r.verdict for r in report.table(record).rows}
    assert rows["RTO"] is Verdict.INCONCLUSIVE
    assert rows["MTTR"] is None  # one run cannot tell
    assert 'errors="3"' in report.render(record)["junit.xml"]  # rto, rpo, p95: a PASS that nobody gave is red


def test_lost_writes_are_judged_where_they_are_promised() -> None:
    record = records.lost_writes()
    promised = dataclasses.replace(record, objective=dataclasses.replace(record.objective, lost_writes_max=0))
    judgement = measure.judge(record.measurement, record.history, promised.objective)
    row = next(
        r for r in report.table(dataclasses.replace(promised, judgement=judgement)).rows if r.objective == "Lost writes"
    )
    assert (row.target, row.achieved, row.verdict) == ("none", "113 of 2,303 acknowledged", Verdict.FAIL)


def test_table_takes_each_verdict_from_its_own_reason() -> None:
    rows = {r.objective: r.verdict for r in report.table(records.lost_writes()).rows}
    assert rows == {
        "RTO": Verdict.INCONCLUSIVE,
        "RPO": Verdict.FAIL,
        "Lost writes": None,  # not promised
        "Availability": Verdict.FAIL,
        "Error rate": Verdict.INCONCLUSIVE,
    }


def test_a_failed_undo_is_not_called_undone() -> None:
    good = records.passed()
    marks = tuple(
        dataclasses.replace(m, detail={"ok": False}) if m.kind is MarkKind.UNDO else m for m in good.history.marks
    )
    told = words(dataclasses.replace(good, history=dataclasses.replace(good.history, marks=marks)))
    assert "undo FAILED: restore_acl" in told
    assert "undone: restore_acl" not in told
    assert "undone: restore_acl" in words(good)


@every_record
def test_what_measure_and_judge_yield_can_be_reported(make: Make) -> None:
    record = make()
    found = measure.measure(record.history, measure.Settings(window_s=3.0, p95_s=0.2))
    judgement = measure.judge(found, record.history, record.objective)
    real = dataclasses.replace(record, measurement=found, judgement=judgement)
    told = words(real)
    assert judgement.verdict.upper() in told
    if found.rta is not None and record.history.series:
        assert all(s.name in told for s in record.history.series if s.role is not Role.WITNESS)
    xml(report.render(real)["junit.xml"])


def test_no_objective_passes_in_a_run_that_proves_nothing() -> None:
    calm = records.invalid()
    judgement = Judgement(Verdict.INVALID, (*calm.judgement.reasons, Reason(Verdict.PASS, "rto", "0 s of 900 s")))
    rows = report.table(dataclasses.replace(calm, judgement=judgement)).rows
    assert {r.verdict for r in rows} == {Verdict.INVALID, None}


def test_the_good_record_is_good_and_its_twin_bad_by_todays_judge() -> None:
    verdicts = []
    for make in (records.passed, records.never_recovered):
        record = make()
        found = measure.measure(record.history, measure.Settings(window_s=3.0))
        verdicts.append(measure.judge(found, record.history, record.objective).verdict)
    assert verdicts == [Verdict.PASS, Verdict.FAIL]


# --- the instrument ---------------------------------------------------------------------------------------------------


def _calibrated(**changes: object) -> RunRecord:
    good = records.passed()
    return dataclasses.replace(good, instrument={**good.instrument, "calibration": records.CERTIFICATE | changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coverage": 0.5}, "may not be trusted: by its calibration certificate, it covered the true outage in 50 %"),
        ({"losses_exact": 79}, "it counted lost rows exactly in 79 of 80 trials"),
        ({"mean_width_periods": 2.3}, "its mean width was 2.30 p, and may be 2.2 p"),
        ({"disturbed": 21}, "the probe lost ticks in 21 of 200 trials"),
        ({"coverage": None}, "nobody knows how often it covered the true outage"),
        ({"version": "0.0.1"}, "of another version: it was made by drkit 0.0.1, and this run by 0.1.0"),
    ],
)
def test_a_certificate_that_does_not_hold_is_a_warning_before_any_number(changes: dict[str, object], said: str) -> None:
    files = report.render(_calibrated(**changes))
    body = text_of(files["report.html"].split('<nav aria-label="Sections">')[0])
    assert said in body
    assert f"**Note:** {said[:3]}" in files["report.md"] or said in files["report.md"].replace("\\", "")


def test_a_certificate_that_holds_is_no_warning() -> None:
    told = words(_calibrated())
    assert "may not be trusted" not in told
    assert "another version" not in told
    assert "Not calibrated" not in told


@pytest.mark.parametrize(
    "changes",
    [{}, {"coverage": 0.989}, {"coverage": 0.99}, {"losses_exact": 79}, {"mean_width_periods": 2.21},
     {"mean_width_periods": 2.2}, {"mean_width_periods": None}, {"disturbed": 20}, {"disturbed": 21}],
)  # fmt: skip
def test_the_report_judges_a_certificate_as_calibrate_does(changes: dict[str, object]) -> None:
    fields = {**records.CERTIFICATE, "kinds": (), "misses": ()} | changes
    assert len(calibration.objections(fields)) == len(Certificate(**fields).objections)  # type: ignore[arg-type]


def test_the_certificate_is_told_in_words_with_what_each_kind_was_allowed() -> None:
    told = " ".join(words(_calibrated()).split())
    for expected in (
        "2026-11-22 15:40:00 UTC, by drkit 0.1.0 on Linux x86_64",
        "100 % of 200 trials",
        "misses none",
        "slow 20 20 0 20 ms 0.3 s 0.33 s 1.76 p –",
        "lose-tail 20 20 0 50 ms at once 0.105 s 2.1 p exact in 20",
    ):
        assert expected in told
    assert "allowance_s" not in told


# --- in words ---------------------------------------------------------------------------------------------------------


def _with_mark(mark: Mark) -> str:
    good = records.passed()
    return words(dataclasses.replace(good, history=dataclasses.replace(good.history, marks=(mark,))))


def test_an_activity_is_told_as_a_sentence() -> None:
    provider = {"type": "python", "module": "drkit.chaos.zone", "func": "lose", "arguments": {"zone": "${zone}"}}
    entry = {
        "activity": {"name": "lose-zone", "type": "action", "provider": provider}, "status": "succeeded",
        "start": "2026-11-22T21:53:45+00:00", "end": "2026-11-22T21:53:46+00:00", "duration": 0.294354,
        "output": {"zone": "a", "hit": [f"subnet-{n:017}" for n in range(12)]},
    }  # fmt: skip
    told = _with_mark(records.mark(1, 2, MarkKind.ACTIVITY, "lose-zone", entry=entry))
    assert "drkit.chaos.zone.lose with zone: ${zone}: succeeded after 0.294 s; hit subnet-00000000000000000" in told
    assert "subnet-00000000000000011; zone: a" in told, "nothing is cut off"
    assert "entry:" not in told


@pytest.mark.parametrize(
    ("kind", "detail", "said"),
    [
        (MarkKind.ACTIVITY, {"entry": {"status": "failed", "exception": ["x\n", "Oops: no\n"]}}, "because: Oops: no"),
        (MarkKind.ACTIVITY, {"entry": "torn"}, "entry: torn"),
        (MarkKind.HYPOTHESIS, {"held": False, "when": "after", "why": "it answered 0"}, "DID NOT HOLD after the recov"),
        (
            MarkKind.UNDO,
            {"ok": False, "sentence": "no such subnet", "seq": 5},
            "FAILED: no such subnet (undo record 5)",
        ),
        (MarkKind.FAULT_EFFECTIVE, {"fault": "lose-zone"}, "shows that lose-zone took effect"),
        (MarkKind.DETECTED, {"by": "RDS, by itself"}, "by RDS, by itself"),
        (MarkKind.TOOTHLESS, {"why": "it hit nothing", "more": [1, 2]}, "it hit nothing; more: 1, 2"),
    ],
)
def test_an_event_is_told_as_a_sentence(kind: MarkKind, detail: dict[str, object], said: str) -> None:
    assert said in _with_mark(records.mark(1, 2, kind, "x", **detail))


@pytest.mark.parametrize(
    ("lo", "hi", "remark"),
    [
        (-0.44, -0.02, "negative: healed by itself before that"),
        (-0.13, 0.13, "their moments overlap: which came first is not known"),
        (-0.13, 0.0, "their moments overlap: which came first is not known"),
        (0.0, 0.0, "one and the same observation"),
        (0.0, 0.5, ""),
        (0.5, math.inf, ""),
    ],
)
def test_only_what_is_certainly_negative_is_said_to_have_healed_by_itself(lo: float, hi: float, remark: str) -> None:
    good = records.passed()
    parts = Decomposition(tti=Interval(lo, hi))
    told = words(dataclasses.replace(good, measurement=dataclasses.replace(good.measurement, decomposition=parts)))
    remarks = ("healed by itself", "which came first", "the same observation")
    assert {r for r in remarks if r in told} == {r for r in remarks if r in remark}


def test_the_start_is_told_to_the_second() -> None:
    told = words(dataclasses.replace(records.passed(), started_at="2026-11-22T21:53:41.910177+00:00"))
    assert "2026-11-22 21:53:41 UTC" in told
    assert "910177" not in told


@pytest.mark.parametrize(("fsync", "said"), [(False, True), (True, False)])
def test_a_lab_that_does_not_wait_for_the_disk_says_why_that_is_sound(fsync: bool, said: bool) -> None:
    record = records.passed()
    told = words(dataclasses.replace(record, environment={**record.environment, "lab_fsync": fsync}))
    assert ("the page cache survives SIGKILL" in told) is said


@every_record
def test_no_guide_is_drawn_through_words(make: Make) -> None:
    for picture in SVG.findall(rendered(make)["report.html"]):
        root = xml(picture)
        lines = [e for e in root if e.get("class") == "guide"]
        for y in (float(e.get("y", "")) for e in root if e.get("class") == "label"):
            for line in lines:
                assert not (float(line.get("y1", "")) < y - 4 < float(line.get("y2", "")))


def test_moments_at_one_place_are_one_flag() -> None:
    good = records.passed()
    marks = tuple(records.mark(20, 20.1, MarkKind.EVENT, f"event {n}") for n in range(4))
    many = dataclasses.replace(good, history=dataclasses.replace(good.history, marks=marks))
    picture = timeline.picture(many, (records.at(0), records.at(48)), 820, "t")
    assert ">1–4</text>" in picture
    assert all(f"event {n}" in picture for n in range(4))


# --- playbooks --------------------------------------------------------------------------------------------------------


def test_the_first_screen_of_a_playbook_says_how_real_it_was_and_how_far_it_came() -> None:
    for make, mode, result in (
        (playbook_runs.complete, "Playbook, practice, on the lab. LAB run", "Complete: 6 of 6 steps done."),
        (
            playbook_runs.stopped,
            "Playbook, a real recovery. AWS run",
            "Stands half-way, at promote: 1 of 6 steps done.",
        ),
        (playbook_runs.refused, "Playbook, practice", "Not complete: 0 of 6 steps done."),
    ):
        first = text_of(rendered(make)["report.html"]).split("Targets and what was achieved")[0]
        assert mode in first
        assert result in first


def test_the_steps_are_told_with_who_when_and_what_came_of_it() -> None:
    rows = {r.name: r for r in report.steps(playbook_runs.complete())}
    assert list(rows) == [s.name for s in playbook_runs.PLANNED]
    assert (rows["promote-ok"].by, rows["promote-ok"].note) == ("bob@noc", "AWS confirms the outage")
    assert (rows["promote"].began, rows["promote"].took) == ("9.4 s", "14.7 s")
    assert rows["promote"].came == "done: region: eu-west-1; took over at lsn: 0/5A3F2C8"
    stopped = report.steps(playbook_runs.stopped())
    assert [r.came[:9] for r in stopped] == ["answered ", "failed: n", *["not begun"] * 4]
    assert report.steps(records.passed()) == ()


def test_people_and_gaps_are_told() -> None:
    told = words(playbook_runs.resumed())
    for expected in (
        "promote-ok: bob@noc said yes: AWS confirms the outage",
        "bob@noc: support asks for a time; told them 16:10",
        "Nobody watched from 12.98 s to 18.3 s",
        "another process went on: ann@desk",
    ):
        assert expected in told
    assert "Nobody watched" not in words(playbook_runs.complete())
    assert {r.name: r.tries for r in report.steps(playbook_runs.resumed())}["promote"] == 2


def test_what_is_kept_and_what_is_pending_is_told() -> None:
    assert "kept on purpose: the playbook came to its end" in words(playbook_runs.complete())
    told = words(playbook_runs.stopped())
    assert "pending: drkit undo would carry it out" in told
    assert f"drkit resume {playbook_runs.stopped().run_id}" in told
    assert "something may still be broken" not in told
    assert "cut short" not in told


def test_a_playbook_has_no_words_of_experiments() -> None:
    for make in playbook_runs.EVERY_RECORD:
        told = words(make())
        assert "Hypothesis:" not in told
        assert "fault requested" not in told
        assert "consented" not in told


def test_a_promise_of_verified_data_is_the_headline() -> None:
    record = playbook_runs.down_before()
    row = report.table(record).rows[0]
    assert (row.objective, row.verdict) == ("RTO, data verified", Verdict.PASS)
    assert row.achieved.startswith("7,227.8–7,231.5 s")
    assert "RTA, data verified (headline)" in words(record)
    assert "RTA (headline)" not in words(record)


def test_what_was_down_for_hours_before_does_not_stretch_the_picture() -> None:
    extent = timeline.extent(playbook_runs.down_before())
    assert extent is not None
    assert (extent[1] - extent[0]) / records.S < 60


def test_each_step_is_a_bar_with_its_name() -> None:
    record = playbook_runs.stopped()
    whole = timeline.extent(record)
    assert whole is not None
    picture = timeline.picture(record, whole, 820, "x")
    assert "stepdone" in picture
    assert "✗ promote" in picture
    assert "send-clients-there" not in picture


def test_programs_are_told_the_steps_too() -> None:
    told = json.loads(rendered(playbook_runs.stopped)["report.json"])
    assert told["mode"] == "a real recovery"
    assert [s["state"] for s in told["steps"]] == ["done", "failed", *["pending"] * 4]
    suite = xml(rendered(playbook_runs.stopped)["junit.xml"])
    cases = {c.get("name"): [child.tag for child in c] for c in suite.iter("testcase")}
    assert cases["step promote-ok"] == ["system-out"]
    assert cases["step promote"] == ["failure"]
    assert cases["step verify"] == ["error"]


def test_a_recovery_point_that_was_not_measured_says_why_beside_the_lost_writes_too() -> None:
    record = playbook_runs.down_before()
    rows = {r.objective: r.achieved for r in report.table(record).rows}
    why = "no write of ours was acknowledged before the outage"
    assert rows["RPO"].startswith(f"not measured: {why}")
    assert rows["Lost writes"].startswith(f"0 of 0 acknowledged; not measured: {why}")
    assert f"The recovery point was not measured: {why}" in words(record)
    assert "The recovery point was not measured" not in words(playbook_runs.complete())


def test_the_moment_of_the_recovery_point_is_told() -> None:
    record = playbook_runs.complete()
    point = records.mark(4.0, 4.0, MarkKind.RECOVERY_POINT, "promote", at="2026-11-22T15:54:14.25+00:00")
    marks = (*record.history.marks, point)
    told = words(dataclasses.replace(record, history=dataclasses.replace(record.history, marks=marks)))
    assert "Recovery point: 4 s promote: what was written until 2026-11-22 15:54:14 UTC is there" in told
    assert "Recovery point:" not in words(record)


def test_which_boot_a_process_was_of_is_no_news_for_a_reader() -> None:
    boot = {"boot_id": "b1", "wall_minus_monotonic_ns": 5}
    assert events.sentence(Mark(0, 0, MarkKind.RUN_STARTED, "x", {"number": 3, **boot})) == "run no. 3"
    assert events.sentence(Mark(0, 0, MarkKind.RESUMED, "ann", boot)) == "went on with the run"
