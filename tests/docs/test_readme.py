"""What the README says is so: its commands exist, its two ways are the Makefile's, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from drkit import project, targets

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", README, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands() -> list[str]:
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [re.sub(r"\s{2,}#.*", "", line) for line in lines]


def drkit_commands() -> list[str]:
    return sorted({c.removeprefix(".venv/bin/") for c in commands() if re.match(r"(\.venv/bin/)?drkit ", c)})


def test_it_shows_commands() -> None:
    assert len(drkit_commands()) >= 10


@pytest.mark.parametrize("command", drkit_commands())
def test_every_drkit_command_and_option_exists(command: str) -> None:
    words = shlex.split(command)[1:]
    verbs = words[:2] if words[0] in ("lab", "target", "playbook") else words[:1]
    drkit = Path(sys.executable).parent / "drkit"
    told = subprocess.run([drkit, *verbs, "--help"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    for option in (w for w in words if w.startswith("--")):
        assert option in told.stdout


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make ")])
def test_every_make_target_exists(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:", MAKEFILE, re.MULTILINE)


def test_the_two_plain_commands_are_what_make_demo_does() -> None:
    assert "$(BIN)/drkit run az-failure" in MAKEFILE
    assert ".venv/bin/drkit run az-failure" in commands()
    assert "pip install --quiet --editable '.[lab]'" in MAKEFILE
    assert "python3 -m venv .venv && .venv/bin/python -m pip install -e '.[lab]'" in commands()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_experiments_are_those_that_are_shipped() -> None:
    named = set(re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE))
    assert named == {p.stem for p in project.shipped("experiments").glob("*.yaml")}


def test_the_playbooks_are_those_that_are_shipped() -> None:
    named = set(re.findall(r"^\| \[([a-z-]+)\]\(docs/runbooks/", README, re.MULTILINE))
    assert named == {p.stem for p in project.shipped("dr_playbooks").glob("*.yaml")}


def test_the_target_file_is_one(tmp_path: Path) -> None:
    (example,) = blocks("json")
    path = tmp_path / "staging.json"
    path.write_text(example)
    target = targets.load(str(path), tmp_path)
    assert (target.name, target.kind, target.pace) == ("staging", "aws", 1.0)


def test_the_settings_are_understood(tmp_path: Path) -> None:
    (example,) = blocks("toml")
    (tmp_path / "drkit.toml").write_text(example)
    assert project.find(tmp_path).settings.guard.allowed_accounts == ("111122223333",)


def test_no_output_is_missing() -> None:
    assert "@@" not in README
