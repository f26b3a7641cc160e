"""drkit.toml: found from anywhere inside a project, and refused when it says what drkit does not understand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from drkit import project
from drkit.errors import BadDocument


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRKIT_HOME", raising=False)
    monkeypatch.delenv("DRKIT_REPORTS", raising=False)


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "drkit.toml").write_text(text)
    return tmp_path


def test_without_a_file_the_target_is_the_lab(tmp_path: Path) -> None:
    found = project.find(tmp_path)
    assert found.settings.default_target == "lab"
    assert found.settings.guard.allowed_accounts == ()
    assert found.home == tmp_path / ".drkit"
    assert found.reports == tmp_path / "reports"


def test_the_nearest_file_upwards_counts(tmp_path: Path) -> None:
    written(tmp_path, 'default_target = "staging"\n[guard]\nallowed_accounts = ["210987654321"]\neffects_max = 7\n')
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    found = project.find(deep)
    assert found.root == tmp_path
    assert found.settings.default_target == "staging"
    assert found.settings.guard.allowed_accounts == ("210987654321",)
    assert found.settings.guard.effects_max == 7


def test_a_freeze_is_read_with_its_times(tmp_path: Path) -> None:
    text = "[[guard.freeze]]\nstarts = 2026-12-20T00:00:00Z\nends = 2027-01-02T00:00:00Z\nwhy = 'holidays'\n"
    (freeze,) = project.find(written(tmp_path, text)).settings.guard.freeze
    assert (freeze.starts, freeze.ends) == (datetime(2026, 12, 20, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC))
    assert freeze.why == "holidays"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("default_taget = 'x'\n", "unknown key default_taget", "did you mean default_target?"),
        ("[gaurd]\n", "unknown key gaurd", "did you mean guard?"),
        ("[guard]\nallowed_acounts = []\n", "unknown key guard.allowed_acounts", "did you mean allowed_accounts?"),
        ("[guard]\nallowed_accounts = 12\n", "guard.allowed_accounts", ""),
        ("[guard]\neffects_max = 'many'\n", "guard.effects_max", ""),
        ("[[guard.freeze]]\nstarts = 2026-12-20T00:00:00Z\n", "guard.freeze.0.ends is missing", ""),
        ("[guard]\neffects_max = true\n", "guard.effects_max: should be a number, not yes or no", ""),
        (
            "[[guard.freeze]]\nstart = 2026-12-20T00:00:00Z\nends = 2026-12-21T00:00:00Z\nwhy = 'x'\n",
            "unknown key guard.freeze.0.start (and 1 more)",
            "did you mean starts?",
        ),
        ("default_target = \n", "cannot read", ""),
        ("default_target = 'a'\ndefault_target = 'b'\n", "cannot read", ""),
    ],
)
def test_what_is_wrong_is_named_with_a_guess(text: str, said: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(BadDocument) as caught:
        project.find(written(tmp_path, text))
    assert said in caught.value.message
    assert str(tmp_path / "drkit.toml") in caught.value.message
    assert hint in caught.value.hint


def test_the_environment_names_other_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRKIT_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DRKIT_REPORTS", str(tmp_path / "runs"))
    found = project.find(tmp_path)
    assert (found.home, found.reports) == (tmp_path / "state", tmp_path / "runs")


def test_a_freeze_without_a_time_zone_is_refused(tmp_path: Path) -> None:
    """It could not be compared with the time of now."""
    text = "[[guard.freeze]]\nstarts = 2026-12-20T00:00:00\nends = 2027-01-02T00:00:00\n"
    with pytest.raises(BadDocument):
        project.find(written(tmp_path, text))
