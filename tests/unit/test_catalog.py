"""Experiments as files: what is wrong in one is found before it costs a run, and said in one sentence."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drkit import catalog
from drkit.errors import BadDocument, DrkitError, UnknownName
from drkit.model import ProbeKind, Role
from drkit.project import Project, Settings, shipped

SHIPPED = sorted(p.stem for p in shipped("experiments").glob("*.yaml"))


def document(name: str = "az-failure") -> dict[str, Any]:
    loaded = yaml.safe_load((shipped("experiments") / f"{name}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def refused(changed: dict[str, Any], tmp_path: Path) -> BadDocument:
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(changed))
    with pytest.raises(BadDocument) as caught:
        catalog.load(str(path), Project(tmp_path, Settings()))
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_experiment_is_accepted(name: str, tmp_path: Path) -> None:
    experiment = catalog.load(name, Project(tmp_path, Settings()))
    assert experiment.name == name
    assert experiment.drkit.hypothesis
    assert experiment.drkit.objective.rto_s == 900
    assert experiment.rollbacks == (), "put-everything-back is for plain chaos run"
    assert {catalog.role_in_method(a) for a in experiment.method} & {"fault"}


def test_the_five_that_the_issue_names_are_there() -> None:
    assert {"az-failure", "rds-failover", "replica-lag-failover", "db-blackhole"} <= set(SHIPPED)


def test_a_projects_own_experiment_hides_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    own = document() | {"title": "My own"}
    (tmp_path / "experiments" / "az-failure.yaml").write_text(yaml.safe_dump(own))
    project = Project(tmp_path, Settings())
    assert catalog.load("az-failure", project).title == "My own"
    assert set(catalog.names(project)) >= set(SHIPPED)


@pytest.mark.parametrize(("name", "guess"), [("az-failur", "az-failure"), ("rds_failover", "rds-failover")])
def test_a_misspelt_name_is_guessed(name: str, guess: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        catalog.load(name, Project(tmp_path, Settings()))
    assert caught.value.hint == f"did you mean {guess}?"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        catalog.load(str(tmp_path / "no.yaml"), Project(tmp_path, Settings()))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: a\ntitle: b\n", ":2:1: key 'title' is given twice"),
        ("title: [a\n", ":2:1: "),
        ("- a\n- b\n", "an experiment is a mapping, not list"),
        ("", "an experiment is a mapping, not NoneType"),
        ("title: \x00\n", "cannot read"),
        ("? {a: 1}\n: 2\n", ":1:3: a mapping cannot be a key"),
    ],
)
def test_yaml_that_cannot_be_read_is_said_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(BadDocument) as caught:
        catalog.load(str(path), Project(tmp_path, Settings()))
    assert said in caught.value.message


def _set(where: str, value: Any) -> Any:
    """Return a change of a document at a path such as "extensions.0.objective.rto_s"."""

    def change(d: Any) -> None:
        *path, last = where.split(".")
        for part in path:
            d = d[int(part)] if isinstance(d, list) else d[part]
        d[int(last) if isinstance(d, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("where", "value", "said", "hint"),
    [
        ("rollback", [], "unknown key rollback in the experiment", "did you mean rollbacks?"),
        ("steady-state-hypothesis.probe", [], "unknown key probe in steady-state-hypothesis", "did you mean probes?"),
        ("method.0.paused", {}, "unknown key paused in the activity", "did you mean pauses?"),
        ("method.0.provider.argument", {}, "unknown key argument in its provider", "did you mean arguments?"),
        ("method.0.pauses", {"afetr": 1}, "unknown key afetr in pauses", "did you mean after?"),
        ("method.0.pauses", {"after": "long"}, "the pause after is 'long'", "it is a number of seconds, from 0 up"),
        ("method.0.pauses", {"after": -1}, "the pause after is -1", "it is a number of seconds, from 0 up"),
        ("method.0.timeout_s", "600s", "timeout_s is '600s'", "it is a number of seconds above 0"),
        ("method.0.timeout_s", 0, "timeout_s is 0", "it is a number of seconds above 0"),
        ("method.0.type", "actoin", "type is 'actoin'", "it is action or probe"),
        ("method.0.role", "fault", "lose knows its own role", "leave role out"),
        ("method.0.provider.func", "loose", "there is no drkit.chaos.zone.loose", "did you mean lose?"),
        ("method.0.provider.module", "drkit.chaos.zones", "cannot import drkit.chaos.zones", ""),
        ("method.0.provider.arguments", {"zonne": "a"}, "lose takes no argument zonne", "did you mean zone?"),
        ("method.1.provider.arguments", {}, "leave_zone needs the argument zone", "add it to arguments"),
        ("method.0.provider.arguments", ["a"], "arguments is ['a']", "arguments: {name: value}"),
        ("extensions.0.objectiv", {}, "unknown key objectiv", "did you mean objective?"),
        ("extensions.0.objective.rto", 1, "unknown key objective.rto", "did you mean rto_s?"),
        ("extensions.0.objective.rto_s", "soon", "objective.rto_s: should be a valid number", ""),
        ("extensions.0.objective.rto_s", -1, "rto_s is -1", "it has to be a number from 0 up"),
        ("extensions.0.phases.hold_s", float("nan"), "hold_s is nan", "it has to be a number from 0 up"),
        ("extensions.0.phases.recover_s", float("inf"), "recover_s is inf", "it has to be a number from 0 up"),
        ("extensions.0.probes", [], "no probe stands for the service", ""),
        ("extensions.0.probes.0.kind", "https", "probes.0.kind: should be", ""),
        ("extensions.0.probes.0.name", "../api", "probe '../api' is no name for a file", ""),
        ("extensions.0.probes.1.name", "api", "two probes have the same name", ""),
        ("extensions.0.probes.0.every_s", 0, "every_s of probe api is 0", ""),
        ("extensions.0.witnesses.0.fault", "loose-zone", "no fault of the method is called", "did you mean lose-zone?"),
        ("extensions.0.witnesses", [], "no witness says whether lose-zone took effect", ""),
        ("extensions.0.probes.0.every_s", True, "probes.0.every_s: should be a number, not yes or no", ""),
        ("extensions.0.blast_radius", {"zones_max": True}, "blast_radius.zones_max: should be a number", ""),
        ("method.0.provider.arguments.zone", "${zoone}", "there is no variable ${zoone}", "did you mean ${zone}?"),
        (
            "extensions.0.witnesses.0.provider.arguments.zone",
            "in ${zoone}",
            "extensions.0.witnesses.0.provider.arguments.zone: there is no variable ${zoone}",
            "did you mean ${zone}?",
        ),
        (
            "method.0.pauses",
            {"after": "${lag}"},
            "method.0.pauses.after: there is no variable ${lag}",
            "variables: zone",
        ),
        ("method.0.provider.arguments.zone", "${1:-b}", "there is no variable ${1:-b}", "write $${1:-b}"),
        ("title", "Lose ${zne}", "title: there is no variable ${zne}", "did you mean ${zone}?"),
        ("extensions.0.probes.3.zone", "${zoone}", "probes.3.zone: there is no variable", "did you mean ${zone}?"),
        ("extensions.0.probes.3.zone", "x${zone}", "zone of probe lost-zone is x${zone}", 'or "${zone}"'),
        ("configuration", {}, "there is no variable ${zone}", "declare it in configuration"),
        ("configuration", {"zone": "a", "my-zone": "a", "x": "${my-zone}"}, "nothing can be put in", "letters, digits"),
        ("secrets", {"aws": {"key": "AKIA"}}, "secrets.aws.key holds a value", "refer to it: "),
    ],
)
def test_what_is_wrong_is_named_with_a_guess(where: str, value: Any, said: str, hint: str, tmp_path: Path) -> None:
    changed = document()
    _set(where, value)(changed)
    error = refused(changed, tmp_path)
    assert said in error.message
    assert hint in error.hint


def test_a_misspelt_key_that_is_required_is_told_before_the_one_that_is_missing(tmp_path: Path) -> None:
    changed = document()
    changed["extensions"][0]["objectiv"] = changed["extensions"][0].pop("objective")
    error = refused(changed, tmp_path)
    assert error.message.endswith("extensions: unknown key objectiv (and 1 more)")
    assert error.hint == "did you mean objective?"


def test_a_missing_key_is_said_to_be_missing(tmp_path: Path) -> None:
    changed = document()
    del changed["extensions"][0]["objective"]
    assert refused(changed, tmp_path).message.endswith("extensions: objective is missing")


@pytest.mark.parametrize(
    ("secrets", "text"),
    [
        ({}, "${zone}"),
        ({}, "in ${zone}, not in $zone or $5"),
        ({}, "$${HOME} and $$${zone}"),  # the text "${HOME}", and a dollar before the zone
        ({"aws": {"key": {"type": "env", "key": "DK_KEY"}}}, "${key}"),
        ({"aws": {"type": "vault", "path": "secret/aws"}}, "${whatever_is_there}"),
    ],
)
def test_what_chaoslib_puts_in_or_leaves_as_text_is_accepted(
    secrets: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DK_KEY", "x")
    changed = document() | {"secrets": secrets}
    changed["method"][0]["provider"]["arguments"]["zone"] = text
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(changed))
    assert catalog.load(str(path), Project(tmp_path, Settings()))


def test_a_secret_outside_a_group_cannot_be_put_in(tmp_path: Path) -> None:
    """chaoslib looks into the groups of `secrets` only."""
    changed = document() | {"secrets": {"key": {"type": "env", "key": "K"}}}
    changed["method"][0]["provider"]["arguments"]["zone"] = "${key}"
    assert "there is no variable ${key}" in refused(changed, tmp_path).message


@pytest.mark.parametrize("group", ["witnesses", "redundancy"])
def test_a_judging_probe_needs_a_tolerance(group: str, tmp_path: Path) -> None:
    changed = document()
    del changed["extensions"][0][group][0]["tolerance"]
    assert "tolerance is missing" in refused(changed, tmp_path).message


def test_a_fault_of_drkit_is_no_rollback(tmp_path: Path) -> None:
    changed = document()
    changed["rollbacks"].append(copy.deepcopy(changed["method"][0]))
    assert "lose breaks things, so it is an action of the method" in refused(changed, tmp_path).message


def test_a_module_that_cannot_be_imported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dk_broken_module.py").write_text("raise RuntimeError('on import')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    changed = document()
    changed["method"][0]["provider"] = {"type": "python", "module": "dk_broken_module", "func": "f"}
    assert "cannot import dk_broken_module: on import" in refused(changed, tmp_path).message


def test_actions_of_others_count_as_damage_unless_they_say_otherwise() -> None:
    action = {"name": "a", "type": "action", "provider": {"type": "process", "path": "true"}}
    assert catalog.role_in_method(action) == "fault"
    assert catalog.role_in_method(action | {"role": "recovery"}) == "recovery"
    assert catalog.role_in_method(action | {"type": "probe"}) == "probe"


def test_what_a_probe_stands_for_is_read(tmp_path: Path) -> None:
    probes = {p.name: p for p in catalog.load("az-failure", Project(tmp_path, Settings())).drkit.probes}
    assert probes["api"].kind is ProbeKind.HTTP
    assert probes["lost-zone"].role is Role.WITNESS


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*path, key))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from _places(inner, (*path, n))


@pytest.mark.parametrize("wrong", [None, "text", 7, -1.5, True, [], {}, ["x"], {"x": 1}], ids=repr)
def test_nothing_of_a_wrong_type_ends_in_a_traceback(wrong: Any) -> None:
    """Each value of the file in turn is replaced: the answer is an experiment or an error of ours, never another."""
    whole = document("replica-lag-failover")
    for place in _places(whole):
        if not place:
            continue
        changed = copy.deepcopy(whole)
        inside: Any = changed
        for part in place[:-1]:
            inside = inside[part]
        inside[place[-1]] = copy.deepcopy(wrong)
        try:
            catalog.checked(changed, Path("e.yaml"), "0")
        except DrkitError:
            pass
        except Exception as e:
            raise AssertionError(f"{'.'.join(map(str, place))} = {wrong!r}: {type(e).__name__}: {e}") from e
