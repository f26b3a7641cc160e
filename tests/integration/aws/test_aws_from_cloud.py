"""`drkit undo RUN --from-cloud` on a mock of AWS: the copy is found in either region, and the claim goes at the end."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from drkit.cli import aim, undoing
from drkit.errors import TargetError, UnknownName
from drkit.targets.aws import Parameters
from drkit.targets.aws.claims import Claim, Claims
from drkit.undo import UndoJournal

from .conftest import RECOVERY_REGION, REGION
from .test_aws_database import make_replica, make_writer

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("honest_promotion", "fresh_sessions")]


@pytest.fixture(autouse=True)
def another_machine(target, tmp_path, monkeypatch) -> None:
    """One that has neither the run's directory nor its journal."""
    monkeypatch.setattr(aim, "here", lambda *_: SimpleNamespace(home=tmp_path / "home", reports=tmp_path / "reports"))
    monkeypatch.setattr(aim, "at", lambda *_, **__: target)


@pytest.fixture
def lost(aws, target, tmp_path):
    """A playbook's run whose machine is lost: it has not promoted the replica yet."""
    make_replica(aws, make_writer(aws))
    journal = UndoJournal(tmp_path / "lost.jsonl", "run-1", Parameters(target, RECOVERY_REGION))
    journal.will("stay_promoted", aws_region=RECOVERY_REGION, replica_id="orders-replica")
    Claims(target).take(Claim("run-1", "me@lost", "2026-11-27T21:00:00Z"))
    return journal


def test_what_a_playbook_did_is_put_back_from_the_region_that_recovers(aws, target, lost, capsys) -> None:
    assert undoing.undo_from_cloud("run-1", None, as_json=True) == 0
    out, err = capsys.readouterr()
    assert "is a replica of" in json.loads(out)["undone"][0]
    assert "released the claim of run-1" in err
    assert Claims(target).holder() is None
    assert Parameters(target, RECOVERY_REGION).records("run-1") == ()
    with pytest.raises(UnknownName, match="knows nothing that run-1 has left"):
        undoing.undo_from_cloud("run-1", None, as_json=True)


def test_the_first_region_need_not_answer_for_it(aws, target, lost) -> None:
    dead = {o: aws.answers.get(o) for o in ("GetParametersByPath", "GetCallerIdentity")}
    for operation in dead:
        aws.answers[operation] = lambda call: (503, "text/plain", "dead") if call.region == REGION else None
    assert undoing.undo_from_cloud("run-1", None, as_json=True) == 0
    with pytest.raises(TargetError):  # it may be there
        undoing.undo_from_cloud("run-0", None, as_json=True)


def test_the_claim_stays_while_something_is_still_broken(aws, target, lost, capsys) -> None:
    aws.client("rds", RECOVERY_REGION).promote_read_replica(DBInstanceIdentifier="orders-replica")
    assert undoing.undo_from_cloud("run-1", None, as_json=True) == 5
    assert "is a writer of its own now" in json.loads(capsys.readouterr().out)["still_broken"][0]
    holder = Claims(target).holder()
    assert holder is not None
    assert holder.run_id == "run-1"


def test_an_experiment_is_put_back_from_the_first_region_and_releases_nobodys_claim(aws, target, tmp_path) -> None:
    make_writer(aws)
    aws.client("rds").stop_db_instance(DBInstanceIdentifier="orders")
    journal = UndoJournal(tmp_path / "lost.jsonl", "run-2", Parameters(target))
    journal.will("start_database", aws_region=REGION, instance_id="orders")
    Claims(target).take(Claim("run-1", "me@elsewhere", "2026-11-27T21:00:00Z"))
    assert undoing.undo_from_cloud("run-2", None, as_json=True) == 0
    holder = Claims(target).holder()
    assert holder is not None
    assert holder.run_id == "run-1"
