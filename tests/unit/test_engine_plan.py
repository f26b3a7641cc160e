"""Variables, the plan's digest, and rollbacks in the journal: all without a target that answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drkit import catalog, undo
from drkit.engine import foreign
from drkit.engine.plan import refuse_drift, resolve
from drkit.errors import PlanDrift, UsageError
from drkit.project import Project, Settings
from drkit.targets import AwsAccess, Target
from drkit.undo import UndoJournal

TARGET = Target(
    name="t",
    kind="lab",
    account_id="123456789012",
    region="eu-central-1",
    zones=("eu-central-1a",),
    aws=AwsAccess(endpoint_url="http://127.0.0.1:9"),
)


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def experiment(tmp_path: Path, **more: Any) -> catalog.Experiment:
    action = {"name": "bite", "type": "action", "provider": {"type": "process", "path": "true"}}
    witness = {**action, "name": "seen", "type": "probe", "tolerance": 0, "fault": "bite"}
    document = {
        "title": "t",
        "description": "d",
        "configuration": {
            "zone_count": {"type": "env", "key": "DK_NO_SUCH", "default": "2", "env_var_type": "int"},
            "who": "me",
        },
        "extensions": [
            {
                "name": "drkit",
                "hypothesis": "h",
                "objective": {"rto_s": 1},
                "probes": [{"name": "api", "kind": "http"}],
                "witnesses": [witness],
            }
        ],
        "method": [action],
        **more,
    }
    path = tmp_path / "e.json"
    path.write_text(json.dumps(document))
    return catalog.load(str(path), Project(tmp_path, Settings()))


def resolved(tmp_path: Path, **variables: str) -> Any:
    return resolve(experiment(tmp_path), TARGET, Project(tmp_path, Settings()), variables)


def test_variables_have_the_type_that_the_experiment_declares(tmp_path: Path) -> None:
    assert dict(resolved(tmp_path).configuration) == {"zone_count": 2, "who": "me"}
    assert dict(resolved(tmp_path, zone_count="3", who="you").configuration) == {"zone_count": 3, "who": "you"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [({"zone_cont": "1"}, "no variable 'zone_cont'"), ({"zone_count": "many"}, "invalid literal")],
)
def test_a_variable_that_is_wrong_is_refused(variables: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        resolved(tmp_path, **variables)


def test_a_pause_from_a_variable_is_checked_beforehand(tmp_path: Path) -> None:
    method = [
        {
            "name": "bite",
            "type": "action",
            "pauses": {"after": "${who}"},
            "provider": {"type": "process", "path": "true"},
        }
    ]
    with pytest.raises(UsageError, match="bite: the pause after is 'me'"):
        resolve(experiment(tmp_path, method=method), TARGET, Project(tmp_path, Settings()), {})


def test_the_digest_is_of_what_will_happen(tmp_path: Path) -> None:
    first, again = resolved(tmp_path).plan, resolved(tmp_path).plan
    assert first.digest == again.digest
    other = resolved(tmp_path, zone_count="3").plan
    assert other.digest != first.digest
    refuse_drift(first, first.digest[:12])
    for approved in (other.digest, first.digest[:7], ""):
        with pytest.raises(PlanDrift):
            refuse_drift(first, approved)


def test_nothing_of_the_shells_environment_is_left_for_other_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_EC2", "AWS_ROLE_ARN"):
        monkeypatch.setenv(name, "garbage")
    monkeypatch.setenv("KUBECONFIG", "garbage")
    foreign.use_environment_of(TARGET)
    left = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
    assert "garbage" not in {*left.values(), os.environ["KUBECONFIG"]}
    assert left["AWS_ENDPOINT_URL"] == "http://127.0.0.1:9"
    assert (left["AWS_ACCESS_KEY_ID"], left["AWS_SECRET_ACCESS_KEY"]) == ("lab", "lab")


def test_rollbacks_run_in_the_order_of_the_file_after_all_else_and_hold_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DK_SECRET", "hush")
    monkeypatch.setattr(foreign, "aim", lambda *_: None)
    monkeypatch.setattr("drkit.engine.activity.aim", lambda *_: None)
    told = tmp_path / "told"
    rollbacks = [
        {
            "name": name,
            "type": "action",
            "provider": {"type": "process", "path": "sh", "arguments": ["-c", f"echo {name} >> {told}"]},
        }
        for name in ("first", "second")
    ]
    journal = UndoJournal(tmp_path / "undo.jsonl", "run")
    references = {"aws": {"key": {"type": "env", "key": "DK_SECRET"}}}
    foreign.journal_rollbacks(rollbacks, journal, configuration={}, secrets=references)
    assert "hush" not in (tmp_path / "undo.jsonl").read_text()
    assert not told.exists()
    results = undo.replay(journal, TARGET)
    assert [r.sentence for r in results] == [
        "ran the experiment's own rollback first",
        "ran the experiment's own rollback second",
    ]
    assert told.read_text().split() == ["first", "second"]
    assert journal.pending() == ()


def test_a_rollback_that_fails_stays_to_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drkit.engine.activity.aim", lambda *_: None)
    rollback = {"name": "r", "type": "action", "provider": {"type": "process", "path": "/no/such/program"}}
    journal = UndoJournal(tmp_path / "undo.jsonl", "run")
    foreign.journal_rollbacks([rollback], journal, configuration={}, secrets={})
    (result,) = undo.replay(journal, TARGET)
    assert not result.ok
    assert result.sentence.startswith("rollback r failed: ")
    assert len(journal.pending()) == 1
