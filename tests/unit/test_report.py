"""What the report tells, for good and for poor records; every look at meaning, none at bytes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
import report_records as records

from drkit import measure, report
from drkit.model import Judgement, MarkKind, Reason, Role, RunRecord, Verdict

Make = Callable[[], RunRecord]
every_record = pytest.mark.parametrize("make", records.EVERY_RECORD, ids=lambda f: f.__name__)
xml = ET.fromstring  # our own output
SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


def page(record: RunRecord) -> str:
    return report.render(record)["report.html"]


@cache
def rendered(make: Make) -> dict[str, str]:
    return report.render(make())


def words(record: RunRecord) -> str:
    return text_of(page(record))


def text_of(html: str) -> str:
    """Return a page's text as a reader sees it, with plain spaces."""
    return re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)).replace("\u00a0", " ")


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
            assert reason.sentence.replace("'", "&#x27;") in text or reason.sentence in text


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
    for expected in ("1.918–1.962 s", "≤ 900 s (15 min)", "0 of 4,606 acknowledged writes lost", "LAB run at speed 1"):
        assert expected in told
    assert "−0.44 to −0.02 s (negative: healed by itself before that)" in told
    assert "2.54–2.58 s" in told  # pooled clients came back later
    assert "sha256:77aa" in told  # the calibration certificate


def test_a_loss_is_shown_with_what_broke() -> None:
    told = words(records.lost_writes())
    for expected in (
        "113 of 2,303 acknowledged writes lost",
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


def test_table_takes_each_verdict_from_its_own_reason() -> None:
    rows = {r.objective: r.verdict for r in report.table(records.lost_writes()).rows}
    assert rows == {
        "RTO": Verdict.INCONCLUSIVE,
        "RPO": Verdict.FAIL,
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
