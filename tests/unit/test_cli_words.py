"""What is said on the command line and how it answers: help, errors, exit codes, JSON. Nothing is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from drkit import catalog, cli, clock, project
from drkit.cli import app, complete, console, laboratory, reference
from drkit.errors import StillBroken
from drkit.guard import Rules
from drkit.lab import LabStatus

COMMANDS = dict(reference.commands())
every_command = pytest.mark.parametrize("words", COMMANDS)
HEAVY = ("boto3", "botocore", "kubernetes", "chaoslib", "chaosaws", "moto", "psycopg", "rich", "yaml", "psutil")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with nothing in the environment."""
    for name in [n for n in os.environ if n.startswith(("DRKIT_", "AWS_", "KUBECONFIG"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    out, err = capsys.readouterr()
    return code, out, err


# --- help -------------------------------------------------------------------------------------------------------------


@every_command
def test_every_command_explains_itself_with_an_example(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *words.split()[1:], "--help")
    assert code == 0
    assert err == ""
    _, examples, rest = out.partition("Examples:\n")
    assert examples
    assert rest.strip().startswith(words)


@every_command
def test_every_command_has_json_and_every_option_is_explained(words: str) -> None:
    parameters = COMMANDS[words].params
    assert "--json" in {o for p in parameters for o in p.opts}
    assert all(p.help and p.help[0].isupper() for p in parameters)
    assert all(p.metavar for p in parameters if p.param_type_name == "argument" or not p.is_flag)


def test_the_commands_are_those_of_the_design() -> None:
    assert set(COMMANDS) >= {
        f"drkit {name}"
        for name in (
            "init", "list", "show", "plan", "run", "undo", "abort", "measure", "report", "history", "calibrate",
            "doctor", "lab up", "lab down", "lab status", "lab logs",
        )
    }  # fmt: skip


@pytest.mark.parametrize("words", ["--help", "run --help", "--version", "lab up --help", "rnu"])
def test_what_is_only_said_loads_nothing_heavy(words: str) -> None:
    heavy = (*HEAVY, "pydantic") if words == "--help" else HEAVY  # Typer reads values by pydantic
    code = f"""
import sys
from drkit.cli import main
main({words.split()!r})
print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "--version")
    assert (code, out.split()[0]) == (0, "drkit")


# --- errors -----------------------------------------------------------------------------------------------------------

WRONG = {
    "an unknown command": ("rnu", 2, "no such command 'rnu'"),
    "an unknown option": ("run az-failure --zoen b", 2, "no such option: --zoen"),
    "no experiment": ("run", 2, "missing argument 'NAME'"),
    "not a number": ("calibrate --trials many", 2, "invalid value for '--trials'"),
    "no trial": ("calibrate --trials 0", 2, "invalid value for '--trials'"),
    "an unknown format": ("report last --format pdf", 2, "invalid value for '--format'"),
    "an unknown experiment": ("run az-failur", 2, "no experiment is called 'az-failur'"),
    "an unknown file": ("show nothing.yaml", 2, "no experiment file nothing.yaml"),
    "an unknown target": ("plan az-failure --target staging", 2, "there is no target called 'staging'"),
    "an unknown target file": ("plan az-failure --target no/such.json", 2, "there is no target file no/such.json"),
    "a lab that is not up": ("plan az-failure", 2, "there is no target called 'lab'"),
    "an unknown run": ("measure last", 2, "no run 'last'"),
    "a variable without a value": ("run az-failure --var zone", 2, "--var zone: not KEY=VALUE"),
    "an unknown variable": ("run rds-failover --zone b", 2, "rds-failover has no variable 'zone'"),
    "a variable twice": ("run az-failure --zone a --var zone=b", 2, "--var zone is given twice"),
    "one plan for two": ("run az-failure rds-failover --plan 0123456789", 2, "--plan approves one experiment"),
    "a speed for a target that is no lab": ("run az-failure --target staging --speed 2", 2, "--speed is of the lab"),
    "a target without the cloud": ("undo last --target lab", 2, "--target goes with --from-cloud"),
    "no such lab": ("lab logs", 2, "there is no lab 'lab'"),
    "no name for a lab": ("lab up --name ../x", 2, "'../x' is no name for a lab"),
    "no instance": ("lab up --instances 0", 2, "a lab has 1 to 30 instances, not 0"),
    "no speed": ("lab up --speed nan", 2, "a lab's speed is 0.01 to 100, not nan"),
    "nowhere to write": ("init /proc", 2, "cannot write /proc/drkit.toml"),
    "no such directory": ("init no/such/place", 2, "no/such/place is not a directory"),
}


@pytest.mark.parametrize(("words", "code", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_error_with_a_hint(
    words: str, code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = said(capsys, *words.split())
    assert (got, out) == (code, "")
    error, hint = err.strip().splitlines()
    assert error.startswith(f"error: {message}")
    assert hint.startswith("hint: ")
    assert not (here / ".drkit" / "labs").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [("lab up --instances 0", "--instances 3"), ("lab up --speed nan", "--speed 1"), ("init /proc", "drkit init DIR")],
)
def test_a_hint_names_what_to_say_instead(
    words: str, hint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint in said(capsys, *words.split())[2].splitlines()[1]


def test_what_is_left_of_a_dead_lab_is_cleared_and_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "lab", "down")[1] == "lab 'lab' was not up\n"
    lab = here / ".drkit" / "labs" / "lab"
    lab.mkdir(parents=True)
    assert "had not come up and is cleared: no process of it was left" in said(capsys, "lab", "down")[1]
    assert not lab.exists()
    lab.mkdir()
    assert json.loads(said(capsys, "lab", "down", "--json")[1])["cleared"] is True
    assert json.loads(said(capsys, "lab", "down", "--json")[1])["cleared"] is False


@pytest.mark.parametrize(
    ("state", "ended", "told"),
    [
        ("up", ("supervisor", "w"), "is down: 2 processes ended"),
        ("half dead", (), "was half dead and is cleared: no process of it was left, its files removed"),
        ("half dead", ("w",), "was half dead and is cleared: 1 process ended, its files removed"),
    ],
)
def test_the_end_of_a_lab_in_words(state: str, ended: tuple[str, ...], told: str) -> None:
    assert laboratory._ended(LabStatus(name="lab", state=state), ended) == told


@pytest.mark.parametrize(("debug", "lines"), [("", 0), ("1", 1)])
def test_chaoslibs_own_log_lines_stay_off_the_terminal(debug: str, lines: int, tmp_path: Path) -> None:
    code = """
import logging, sys
from drkit.cli import main
main(["target", "list"])
sys.stderr.write("--")
logging.getLogger("chaostoolkit").error("  => failed: drkit.errors.TargetError: no")
"""
    env = {**os.environ, "DRKIT_DEBUG": debug}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env, cwd=tmp_path
    )
    assert len(done.stderr.partition("--")[2].splitlines()) == lines


@pytest.mark.parametrize(("words", "code", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_in_json_has_three_keys(
    words: str, code: int, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got, out, err = said(capsys, *words.split(), "--json")
    told = json.loads(out)
    assert (got, err) == (code, "")
    assert set(told) == {"error", "hint", "exit_code"}
    assert told["error"].startswith(message)
    assert told["exit_code"] == code


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[gaurd]\n", "drkit.toml: unknown key gaurd", "did you mean guard?"),
        ("[guard]\neffects_max = 'many'\n", "drkit.toml: guard.effects_max: should be", ""),
        ("default_target = \n", "cannot read ", "docs/configuration.md"),
        ("\udcff", "cannot read ", "docs/configuration.md"),
    ],
)
def test_a_wrong_configuration_is_one_error(
    text: str, message: str, hint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "drkit.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    code, out, err = said(capsys, "list")
    assert (code, out) == (2, "")
    assert message in err.splitlines()[0]
    assert hint in err
    assert "Traceback" not in err


# --- what is nobody's mistake -----------------------------------------------------------------------------------------


def _raising(error: BaseException) -> Callable[..., int]:
    def raise_it(**_: object) -> int:
        raise error

    return raise_it


def test_a_defect_is_one_line_and_its_traceback_a_file(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from drkit.cli import look

    monkeypatch.setattr(look, "list_", _raising(ZeroDivisionError("division by\nzero")))
    code, out, err = said(capsys, "list")
    assert (code, out) == (3, "")
    error, hint = err.strip().splitlines()
    assert error == "error: ZeroDivisionError: division by zero (a defect in drkit)"
    path = Path(hint.partition("the traceback is in ")[2].partition(";")[0])
    assert "raise_it" in path.read_text()
    path.unlink()


def test_a_defect_shows_its_traceback_to_who_asks(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from drkit.cli import look

    monkeypatch.setenv("DRKIT_DEBUG", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    monkeypatch.setattr(look, "list_", _raising(ZeroDivisionError()))
    assert "Traceback" in said(capsys, "list")[2]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (StillBroken("a subnet is cut", "drkit undo last"), 5, "error: a subnet is cut"),
        (OSError(28, "No space left on device", "x.json"), 3, "error: cannot use x.json: No space left on device"),
    ],
)
def test_what_is_nobodys_mistake_has_its_exit_code(
    error: BaseException, code: int, line: str, here: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from drkit.cli import look

    monkeypatch.setattr(look, "list_", _raising(error))
    got, _, err = said(capsys, "list")
    assert got == code
    assert err.partition("\n")[0] == line


def test_a_reader_that_has_gone_changes_nothing(here: Path) -> None:
    code = "import sys; from drkit.cli import main; sys.exit(main(['list', '--json']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert err == ""


# --- results ----------------------------------------------------------------------------------------------------------


def test_list_names_every_experiment_and_says_which_cannot_be_used(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "experiments").mkdir()
    (here / "experiments" / "broken.yaml").write_text("title: [")
    code, out, _ = said(capsys, "list", "--json")
    rows = {r["name"]: r for r in json.loads(out)["experiments"]}
    assert code == 0
    assert rows["az-failure"]["problem"] is None
    assert "broken.yaml:1" in rows["broken"]["problem"]
    assert set(rows["broken"]) == set(rows["az-failure"]) == {"name", "title", "tags", "path", "problem", "hint"}


@pytest.mark.parametrize("name", ["az-failure", "rds-failover", "replica-lag-failover", "db-blackhole"])
def test_show_says_everything_and_json_has_units_in_its_keys(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "show", name)
    assert code == 0
    for word in ("hypothesis", "objectives", "method", "blast radius", "measured by", "RTO"):
        assert word in out
    told = json.loads(said(capsys, "show", name, "--json")[1])
    assert told["objective"]["rto_s"] == 900
    assert told["name"] == name


def test_history_of_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "history")[:2] == (0, f"no run in {here / 'reports'} yet\n")
    assert json.loads(said(capsys, "history", "--json")[1]) == {"runs": [], "scenarios": [], "missing": []}


def test_init_writes_what_works_and_keeps_what_is_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "drkit.toml").write_text("# mine\n")
    code, out, _ = said(capsys, "init", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["kept"] == ["drkit.toml"]
    assert told["written"] == ["experiments/other-zone.yaml", ".github/workflows/drkit.yml"]
    assert (here / "drkit.toml").read_text() == "# mine\n"
    experiment = catalog.load("other-zone", project.find())
    assert experiment.path == here / "experiments" / "other-zone.yaml"
    assert json.loads(said(capsys, "init", "--json")[1])["written"] == []


def test_the_configuration_that_init_writes_shows_the_defaults(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "init")
    assert project.find().settings == project.Settings()
    text = (here / "drkit.toml").read_text()
    said_out_loud = "\n".join(
        line.removeprefix("# ") if line.removeprefix("# ").partition(" ")[2][:1] == "=" or line[:3] == "# [" else ""
        for line in text.replace("[guard]", "# [guard]").splitlines()
    )
    (here / "drkit.toml").write_text(said_out_loud)
    settings = project.find().settings
    assert (settings.default_target, settings.reports) == ("lab", "reports")
    assert settings.guard.allowed_accounts == ("123456789012",)
    assert settings.guard.effects_max == Rules().effects_max
    assert settings.guard.freeze[0].starts.tzinfo is not None


# --- completion -------------------------------------------------------------------------------------------------------


def test_completion_knows_experiments_runs_and_targets(here: Path) -> None:
    run = here / "reports" / "20261122T155410Z-az-failure-lab-3f9c"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{")
    (here / ".drkit" / "targets").mkdir(parents=True)
    (here / ".drkit" / "targets" / "staging.json").write_text("{")
    assert complete.experiments("az") == ["az-failure"]
    assert complete.runs("3f9c") == ["20261122T155410Z-az-failure-lab-3f9c"]
    assert complete.runs("la") == ["last", "20261122T155410Z-az-failure-lab-3f9c"]
    assert complete.targets("") == ["lab", "staging"]


def test_completion_is_silent_about_what_is_wrong(here: Path) -> None:
    (here / "drkit.toml").write_text("[")
    assert (complete.experiments(""), complete.runs(""), complete.targets("")) == ([], ["last"], ["lab"])


def test_the_shell_is_told_what_could_follow(here: Path) -> None:
    environment = {**os.environ, "_DRKIT_COMPLETE": "complete_bash", "COMP_WORDS": "drkit run az", "COMP_CWORD": "2"}
    code = "import sys; from drkit.cli import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["az-failure"]


# --- small things -----------------------------------------------------------------------------------------------------


def test_json_carries_no_number_without_bound(capsys: pytest.CaptureFixture[str]) -> None:
    console.out_json({"hi_s": float("inf"), "rows": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"hi_s": None, "rows": [1, 2]}


def test_usage_errors_are_told_whatever_click_typer_brings() -> None:
    class ForeignError(Exception):
        exit_code = 2
        ctx = None

        def format_message(self) -> str:
            return "Got unexpected extra argument (x)."

    error = app._usage(ForeignError())
    assert error is not None
    assert (error.message, error.hint) == ("got unexpected extra argument (x)", "see drkit --help")
    assert app._usage(ValueError("x")) is None


def stored_run(here: Path, **lease: object) -> Path:
    run = here / "reports" / "20261122T155410Z-az-failure-lab-3f9c"
    run.mkdir(parents=True)
    identity = {"run_id": run.name, "number": 1, "name": "az-failure", "target": "lab", "target_kind": "lab"}
    (run / "run.json").write_text(json.dumps(identity | {"started_at": "2026-11-22T15:54:10+00:00"}))
    if lease:
        (run / "lease.json").write_text(json.dumps(lease))
    return run


def test_abort_of_a_run_that_is_over_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stored_run(here)
    code, _, err = said(capsys, "abort", "last")
    assert code == 2
    assert "is not going on" in err
    assert not (run / "abort").exists()


def test_a_run_that_goes_on_is_stopped_by_abort_and_by_nothing_else(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    me = psutil.Process()
    run = stored_run(here, pid=me.pid, started_at=me.create_time(), ttl_s=60, renewed_ns=clock.now_ns())
    code, _, err = said(capsys, "undo", "last")
    assert code == 2
    assert "is going on" in err
    assert f"drkit abort {run.name}" in err
    assert json.loads(said(capsys, "history", "--json")[1])["runs"][0]["state"] == "running"
    assert not (run / "abort").exists()
    assert said(capsys, "abort", "last")[0] == 0
    assert (run / "abort").exists()


@pytest.mark.parametrize("lease", ["", "{", "[]", '{"pid": "x"}'])
def test_a_damaged_run_is_listed_and_never_a_traceback(
    lease: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stored_run(here)
    (run / "lease.json").write_text(lease)
    (run / "history.jsonl").write_text('{"prev": 1}\n[]\n')
    (run / "measurement.json").write_text('{"measurement": {}, "judgement": {}}')
    code, out, _ = said(capsys, "history", "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["state"] == "damaged"
    assert "damaged" in said(capsys, "history")[1]
    for command in ("measure", "undo"):
        code, _, err = said(capsys, command, "last")
        assert code == 3
        assert err.startswith(f"error: run {run.name} is damaged")
        assert "(a defect" not in err


def test_a_run_that_is_missing_shows_as_a_gap(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / ".drkit").mkdir()
    (here / ".drkit" / "register.jsonl").write_text('{"number": 1, "run_id": "gone"}\n{"number": 2, "ru')
    assert json.loads(said(capsys, "history", "--json")[1])["missing"] == [{"number": 1, "run_id": "gone"}]
    assert "no. 1 is not here: gone" in said(capsys, "history")[1]
