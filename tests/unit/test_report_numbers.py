"""Numbers as printed: outwards, with units, never more certain than measured."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.model import Interval
from drkit.report import numbers


@pytest.mark.parametrize(
    ("lo", "hi", "printed"),
    [
        (1.92, 1.96, "1.92–1.96 s"),
        (1.918, 1.962, "1.918–1.962 s"),
        (0.0, 0.02, "0–20 ms"),
        (0.0, 0.0, "0 s"),
        (2.5, 2.5, "2.5 s"),
        (-0.44, -0.02, "−0.44 to −0.02 s"),
        (12.34, math.inf, "> 12.3 s, not recovered"),
        (898.0, 905.0, "898–905 s (≈ 15.1 min)"),
        (14_400.0, 14_400.0, "14,400 s (4 h)"),
    ],
)
def test_interval(lo: float, hi: float, printed: str) -> None:
    assert numbers.interval(Interval(lo, hi)) == printed


def test_no_interval_is_a_dash() -> None:
    assert numbers.interval(None) == "–"


@given(st.floats(0, 5000), st.floats(1e-4, 500))
def test_a_printed_interval_covers_the_measured_one_and_shows_its_width(lo: float, width: float) -> None:
    printed = numbers.interval(Interval(lo, lo + width)).split(" (")[0]
    found = re.fullmatch(r"([\d.,]+)–([\d.,]+) (m?s)", printed)
    assert found, printed
    unit_s = 0.001 if found[3] == "ms" else 1.0
    low, high = (float(found[n].replace(",", "")) * unit_s for n in (1, 2))
    assert low <= lo + 1e-8
    assert high >= lo + width - 1e-8
    assert high - low <= 1.5 * width + 1e-6


@pytest.mark.parametrize(
    ("lo", "hi", "printed"), [(0.9995, 0.9995, "99.95 %"), (0.99911, 0.99973, "99.911–99.973 %"), (1.0, 1.0, "100 %")]
)
def test_percent(lo: float, hi: float, printed: str) -> None:
    assert numbers.percent(lo, hi) == printed


def test_few_names_runs_and_counts_all() -> None:
    assert numbers.few(()) == "0"
    assert numbers.few((3, 4, 5, 9)) == "4 (#3–#5, #9)"


def test_plain_drops_what_no_xml_may_hold() -> None:
    assert numbers.plain("a\x00b\x1bc\nd") == "a\ufffdb\ufffdc\nd"
    numbers.plain("\ud800").encode()
