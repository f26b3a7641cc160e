"""Target files: what is understood, and what is said about the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drkit import targets
from drkit.errors import BadDocument, UnknownName
from drkit.targets import AwsAccess, DatabaseTarget, LabInfo, ServiceTarget, Target

TARGET = Target(
    name="shop",
    kind="aws",
    account_id="123456789012",
    region="eu-central-1",
    zones=("eu-central-1a", "eu-central-1b"),
    aws=AwsAccess(profile="mine"),
    service=ServiceTarget(url="https://shop.test", zone_urls={"eu-central-1a": "https://a.shop.test"}),
    database=DatabaseTarget(instance_id="orders", host="db.test", port=5432, dbname="orders", user="drkit"),
    lab=LabInfo(directory="/x", speed=2, facts={"postgres": "18"}),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home/targets").mkdir(parents=True)
    (tmp_path / "targets").mkdir()
    return tmp_path / "home"


def test_a_target_survives_its_file(home: Path) -> None:
    (home / "targets/shop.json").write_text(targets.dump(TARGET))
    assert targets.load("shop", home) == TARGET
    assert targets.load(str(home / "targets/shop.json"), home) == TARGET
    assert "null" not in targets.dump(TARGET)


def test_the_home_comes_before_the_project(home: Path) -> None:
    Path("targets/shop.json").write_text(targets.dump(TARGET))
    Path("targets/other.json").write_text(targets.dump(TARGET))
    assert targets.load("shop", home).region == "eu-central-1"
    document = json.loads(targets.dump(TARGET)) | {"region": "eu-west-1"}
    (home / "targets/shop.json").write_text(json.dumps(document))
    assert targets.load("shop", home).region == "eu-west-1"
    assert targets.known(home) == ("other", "shop")


def test_what_terraform_prints_is_understood(home: Path) -> None:
    document = json.loads(targets.dump(TARGET))
    Path("one.json").write_text(json.dumps({"sensitive": False, "type": "x", "value": document}))
    Path("all.json").write_text(json.dumps({"drkit_target": {"sensitive": False, "value": document}, "vpc": {}}))
    assert targets.load("one.json", home) == targets.load("all.json", home) == TARGET


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        ({"regoin": "x"}, "unknown key regoin", "did you mean region?"),
        ({"database": {"instance_idd": "x"}}, "unknown key database.instance_idd", "did you mean instance_id?"),
        ({"zzz": 1}, "unknown key zzz", "known keys: name, kind"),
        ({"database": {"instance_id": "x"}}, "is missing", "Targets"),
        ({"kind": "gcp"}, "kind: input should be 'lab' or 'aws'", ""),
        ({"account_id": 123456789012}, "account_id: input should be a valid string", ""),
        ({"account_id": "12"}, "account_id '12' is not an AWS account", "twelve digits"),
        ({"zones": "a"}, "zones: ", ""),
        ({"service": {"url": 1}}, "service.url: ", ""),
        ({"name": "../x"}, "is no name for a target", ""),
        ({"consent_tag": ["", ""]}, "must not be empty", ""),
        ({"lab": {"directory": "/x", "speed": "fast"}}, "lab.speed: ", ""),
    ],
)
def test_what_is_wrong_is_named(home: Path, changed: dict[str, object], message: str, hint: str) -> None:
    Path("t.json").write_text(json.dumps(json.loads(targets.dump(TARGET)) | changed))
    with pytest.raises(BadDocument) as e:
        targets.load("t.json", home)
    assert message in e.value.message
    assert "t.json" in e.value.message
    assert hint in e.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"value": null}', "\x00"])
def test_no_target_in_the_file(home: Path, text: str) -> None:
    Path("t.json").write_text(text)
    with pytest.raises(BadDocument, match=r"t\.json"):
        targets.load("t.json", home)


def test_a_file_that_is_no_text(home: Path) -> None:
    Path("t.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDocument, match=r"cannot read t\.json"):
        targets.load("t.json", home)


def test_unknown_names(home: Path) -> None:
    with pytest.raises(UnknownName) as e:
        targets.load("lab", home)
    assert e.value.hint == "drkit lab up"
    (home / "targets/staging.json").write_text("{}")
    with pytest.raises(UnknownName) as e:
        targets.load("stagign", home)
    assert e.value.hint == "did you mean staging?"
    with pytest.raises(UnknownName, match="no target file"):
        targets.load("./nope.json", home)


def test_importing_targets_loads_neither_boto3_nor_pydantic() -> None:
    code = (
        "import sys, drkit.targets, drkit.targets.aws, drkit.targets.postgres;"
        "print([m for m in ('boto3', 'botocore', 'pydantic', 'psycopg') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
