"""What the documentation says is true: it is generated, loaded, or compared with the code."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from drkit import catalog, cli, project, targets
from drkit.catalog import Extension, StepCall
from drkit.catalog._playbook import _File as PlaybookFile
from drkit.chaos import planner
from drkit.cli import reference, runbooks
from drkit.model import Objective
from drkit.playbook import info_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])  # test_readme.py looks after the README's links
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)#\s]+)(#[^)\s]*)?\)")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text("utf-8")) if kind == language]


# --- commands ---------------------------------------------------------------------------------------------------------


def test_the_command_reference_is_current() -> None:
    assert (DOCS / "cli.md").read_text("utf-8") == reference.text(), "python -m drkit.cli.reference > docs/cli.md"


def test_every_command_is_in_the_reference() -> None:
    headings = re.findall(r"^## (drkit .+)$", (DOCS / "cli.md").read_text("utf-8"), re.MULTILINE)
    assert headings == [words for words, _ in reference.commands()]


@every_page
def test_every_command_that_is_mentioned_exists(page: Path) -> None:
    known = {words for words, _ in reference.commands()}
    text = page.read_text("utf-8")
    mentioned = [*re.findall(r"`(drkit [^`\n]+)`", text), *re.findall(r"^\$ (drkit .+)$", text, re.MULTILINE)]
    for line in mentioned:
        words = line.split()
        if words[1].startswith("-"):
            continue
        assert {" ".join(words[:2]), " ".join(words[:3])} & known, f"{page.name}: {line}"
        command = next(c for w, c in reference.commands() if line.startswith(w) and w in known)
        options = {o for p in command.params for o in (*p.opts, "--help")}
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line.partition(" # ")[0]):
            assert option in options, f"{page.name}: {line}"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def my_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The Python of the worked example, importable."""
    (code,) = blocks(DOCS / "adding-an-experiment.md", "python")
    (tmp_path / "my_faults.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_faults", None)


def test_the_worked_example_is_a_valid_experiment(my_faults: Path) -> None:
    (text,) = blocks(DOCS / "adding-an-experiment.md", "yaml")
    (my_faults / "one-instance.yaml").write_text(text)
    experiment = catalog.load(str(my_faults / "one-instance.yaml"), project.Project(my_faults, project.Settings()))
    assert experiment.variables == {"zone": "c"}
    function = catalog.function_of(experiment.method[0]["provider"])
    assert function is not None
    assert planner(function) is not None


@pytest.fixture
def my_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The Python of the worked playbook, importable."""
    (code,) = blocks(DOCS / "adding-a-playbook.md", "python")
    (tmp_path / "my_steps.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("my_steps", None)


def test_the_worked_playbook_is_valid_and_its_steps_do_what_it_says(my_steps: Path) -> None:
    (text,) = blocks(DOCS / "adding-a-playbook.md", "yaml")
    (my_steps / "warm-cache.yaml").write_text(text)
    book = catalog.load_playbook(str(my_steps / "warm-cache.yaml"), project.Project(my_steps, project.Settings()))
    check, warm = book.file.prerequisites[0], book.file.steps[0]
    assert info_of(check).purpose == "check"
    recovery = types.SimpleNamespace(permit=types.SimpleNamespace(check=lambda: None))
    arguments = catalog.arguments_of(warm, book.variables)
    facts = info_of(warm).observe(recovery, **arguments)
    made = catalog.step_function(warm)(recovery, **arguments, facts=facts)
    assert not made.done()
    made.act()
    made.act()  # killed and played again
    assert made.done()
    assert made.result() == {"keys": 1000, "new": 1000}
    page = runbooks.page(book)
    assert "- By hand: ./warm-cache --keys 1000" in page
    assert "The cache holds ${keys} keys. Let all clients in?" in page


def test_the_runbooks_are_current() -> None:
    pages = runbooks.pages()
    there = {p.name: p.read_text("utf-8") for p in (DOCS / "runbooks").glob("*.md")}
    assert there == pages, "python -m drkit.cli.reference --runbooks docs/runbooks"


def test_the_configuration_shown_is_understood_and_shows_the_defaults() -> None:
    (text,) = blocks(DOCS / "configuration.md", "toml")
    settings = project.parse(project.Settings, tomllib.loads(text), "configuration.md")
    assert len(settings.guard.freeze) == 1
    assert dataclasses.replace(settings, guard=dataclasses.replace(settings.guard, freeze=())) == project.Settings()


def test_the_target_shown_is_understood(tmp_path: Path) -> None:
    (text,) = blocks(DOCS / "configuration.md", "json")
    (tmp_path / "staging.json").write_text(text)
    target = targets.load(str(tmp_path / "staging.json"), tmp_path)
    assert (target.kind, json.loads(targets.dump(target))["name"]) == ("aws", "staging")


def keys(kind: typing.Any) -> Iterator[str]:
    """Yield the keys of a dataclass, and of those inside it, each as its own name."""
    for field in dataclasses.fields(kind):
        yield field.name
        hint = typing.get_type_hints(kind)[field.name]
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                yield from keys(part)


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        ("configuration.md", project.Settings),
        ("configuration.md", targets.Target),
        ("adding-an-experiment.md", Extension),
        ("adding-an-experiment.md", Objective),
    ],
)
def test_every_key_is_explained(page: str, kind: type) -> None:
    assert {k for k in keys(kind) if k != "name"} <= explained_in(page)


@pytest.mark.parametrize("kind", [PlaybookFile, StepCall])
def test_every_key_of_a_playbook_is_explained(kind: type) -> None:
    assert {f.name for f in dataclasses.fields(kind) if f.name != "name"} <= explained_in("adding-a-playbook.md")


def explained_in(page: str) -> set[str]:
    """Return the words that the tables of a page explain."""
    tables = "\n".join(line for line in (DOCS / page).read_text("utf-8").splitlines() if line.startswith("|"))
    return {part for code in re.findall(r"`([^`]+)`", tables) for part in re.split(r"[^\w]+", code)}


@pytest.mark.parametrize("name", ["drkit.yml", "other-zone.yaml"])
def test_what_init_writes_is_yaml(name: str) -> None:
    assert yaml.safe_load((Path(cli.__file__).parent / "templates" / name).read_text("utf-8"))


# --- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    for place, anchor in LINK.findall(text):
        if re.match(r"[a-z]+:", place):
            continue
        path = (page.parent / place).resolve()
        assert path.exists(), f"{page.name}: {place}"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor[1:] in slugs, f"{page.name}: {place}{anchor}"


@every_page
def test_every_block_of_python_compiles(page: Path) -> None:
    for code in blocks(page, "python"):
        compile(textwrap.dedent(code), page.name, "exec")
