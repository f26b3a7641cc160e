"""drkit as a real process on a real lab, and the means to kill it at an exact moment.

The moment is a durable state: a line in the run's history.jsonl or undo.jsonl, or a file that appears. Every step of a
run leaves one, so no hook in the product is needed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from late_ticks import verdict_but_for_late_ticks

from drkit import clock, targets
from drkit import lab as labs
from drkit.chaos import state
from drkit.engine.finish import record_of
from drkit.errors import TargetBusy, TargetError, TimedOut
from drkit.lease import TargetLock
from drkit.model import MarkKind, RunRecord, Verdict
from drkit.rundir import RunDir
from drkit.targets import Target
from drkit.targets.aws import Database, Groups
from drkit.targets.aws.network import acls_of_runs
from drkit.undo import UndoJournal

# A shell that starts pytest in the background has it ignore Ctrl-C, and its children with it.
MAIN = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from drkit.cli import main; sys.exit(main(sys.argv[1:]))"
)
HELPERS = Path(__file__).parent.parent / "helpers"
Moment = Callable[[Path], bool]  # has a run's directory come so far?


def line(file: str, number: int) -> Moment:
    """Return the moment at which a file of the run has so many lines."""

    def reached(run: Path) -> bool:
        try:
            return (run / file).read_bytes().count(b"\n") >= number
        except FileNotFoundError:
            return False

    return reached


def says(file: str, text: str) -> Moment:
    """Return the moment at which a file of the run contains a text."""

    def reached(run: Path) -> bool:
        try:
            return text.encode() in (run / file).read_bytes()
        except FileNotFoundError:
            return False

    return reached


class Ground:
    """One lab with its home and reports, for runs that come to harm."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.reports = root, root / "home", root / "reports"
        self.environment = {**os.environ, "DRKIT_HOME": str(self.home), "DRKIT_REPORTS": str(self.reports)}
        self.target: Target = labs.up(home=self.home)
        self.acls: dict[str, str] = {}  # of the databases' subnets, before somebody cut them by hand
        self._processes: list[subprocess.Popen[str]] = []

    # --- drkit, as a process ------------------------------------------------------------------------------------------

    def drkit(self, *words: str, **more: object) -> subprocess.Popen[str]:
        arguments: dict[str, object] = {
            "env": self.environment, "cwd": self.root, "text": True, "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT,
            "preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # pytest itself may run under nohup
            **more,
        }  # fmt: skip
        self._processes.append(subprocess.Popen([sys.executable, "-c", MAIN, *words], **arguments))  # type: ignore[call-overload]
        return self._processes[-1]

    def play(self, *words: str, answers: bool = True, home: Path | None = None) -> subprocess.Popen[str]:
        """Start tests/helpers/play_playbook.py. answers: whether its questions are answered, with yes."""
        environment = {**self.environment}
        if home:
            environment |= {"DRKIT_HOME": str(home), "DRKIT_REPORTS": str(home / "reports")}
        if answers:
            environment["ANSWER_AFTER_S"] = "0.3"
        self._processes.append(
            subprocess.Popen(
                [sys.executable, str(HELPERS / "play_playbook.py"), *words],
                env=environment, cwd=self.root, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
        return self._processes[-1]

    def end_all(self) -> None:
        """Kill what a test that failed has left running, and close its pipes."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            with contextlib.suppress(ValueError):  # communicated with already
                process.communicate()
        self._processes.clear()

    def put_back_all(self) -> None:
        """Undo what a test that failed has left broken: the next one is not to fail for it."""
        for run in RunDir.all(self.reports):
            if self.pending(run):
                self.wait_until_free()
                self.say("undo", run.run_id)

    def say(self, *words: str, timeout_s: float = 90.0) -> tuple[int, str]:
        """Return the exit code and the output of a command."""
        process = self.drkit(*words)
        said, _ = process.communicate(timeout=timeout_s)
        return process.returncode, said

    def start(self, *, target: str = "lab", **more: object) -> tuple[subprocess.Popen[str], RunDir]:
        """Start az-failure on a whole lab and return it with its directory, as soon as that is there."""
        self.wait_until_whole()
        before = {r.path for r in RunDir.all(self.reports)}
        process = self.drkit("run", "az-failure", "--target", target, **more)
        found: list[RunDir] = []

        def there() -> bool:
            found[:] = [r for r in RunDir.all(self.reports) if r.path not in before]
            if process.poll() is not None and not found:
                raise AssertionError(process.communicate()[0])
            return bool(found)

        clock.wait_until(there, "the run has begun", timeout_s=60, every_s=0.002)
        return process, found[0]

    def until(self, process: subprocess.Popen[str], run: RunDir, moment: Moment, timeout_s: float = 90.0) -> bool:
        """Wait for a moment of a run; False if the run ended without it."""
        clock.wait_until(
            lambda: moment(run.path) or process.poll() is not None, "the moment", timeout_s=timeout_s, every_s=0.001
        )
        return process.poll() is None

    def kill_at(self, moment: Moment) -> tuple[RunDir, bool]:
        """Run az-failure, kill it with SIGKILL at a moment; return the run, and whether the moment came."""
        process, run = self.start()
        came = self.until(process, run, moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return run, came

    # --- what must be true afterwards ---------------------------------------------------------------------------------

    def wait_until_free(self, target: str = "lab") -> None:
        """Wait until nobody holds a target."""

        def free() -> bool:
            try:
                TargetLock(self.home, target).close()
            except TargetBusy:
                return False
            return True

        clock.wait_until(free, "the target is free", timeout_s=90, every_s=0.05)

    def wait_until_whole(self) -> None:
        """Wait until the lab is as a fresh one: redundant, an instance in each zone, and the replica follows."""
        missing: list[str] = []

        def whole() -> bool:
            missing[:] = self._missing()
            return not missing

        try:
            clock.wait_until(whole, "the lab is whole", timeout_s=90, every_s=0.1)
        except TimedOut as e:
            log = labs.logs(home=self.home)["supervisor"].read_text().splitlines()[-40:]
            raise AssertionError("\n".join([f"{e}: {missing}", *log])) from e

    def _missing(self) -> list[str]:
        """Return what the lab lacks to be as a fresh one."""
        target = self.target
        assert target.database is not None
        assert target.database.replica_id is not None
        assert target.recovery_region is not None
        assert target.compute is not None
        assert target.compute.asg_name is not None
        found = [f"not ok: {p}" for p in labs.status(home=self.home).parts if not p.ok]
        if not Database(target).instance(target.database.instance_id).redundant:
            found.append("a standby in another zone")
        group = Groups(target).group(target.compute.asg_name)
        if group.in_service_by_zone != dict.fromkeys(sorted(target.zones), 1) or len(group.members) != group.desired:
            found.append(f"an instance in each zone, and no other: {group.members}")
        replica = Database(target, target.recovery_region).instance(target.database.replica_id)
        if not (replica.is_replica and replica.status == "available" and replica.replication == "replicating"):
            found.append(f"a replica that follows: {replica}")
        return found

    def pending(self, run: RunDir) -> list[str]:
        """Return the verbs of a run's undo journal that nobody has carried out."""
        return [r.verb for r in UndoJournal(run.path / "undo.jsonl", run.run_id).pending()]

    def left_behind(self, run: RunDir) -> tuple[str, ...]:
        """Return what is still broken of a run, asked of the lab itself.

        The lab's own words flicker: one slow answer makes "replicating" an "error", or an instance unhealthy. So it is
        asked until nothing is left, and what is there to the end is returned. Nobody undoes anything meanwhile.
        """
        target = targets.load(str(run.path / "target.json"), run.path)
        before = state.State.of(run.identity["before"])
        regions = [r for r in (target.region, target.recovery_region) if r]
        left: list[str] = []

        def none() -> bool:
            try:
                left[:] = state.differences(before, state.snapshot(target))
                left.extend(f"deny ACL {a}" for region in regions for a in acls_of_runs(target, region))
            except TargetError as e:  # the database is failing over
                left[:] = [f"the lab does not say how it is: {e.message}"]
            return not left

        with contextlib.suppress(TimedOut):
            clock.wait_until(none, "nothing is left behind", timeout_s=30, every_s=0.2)
        return (*left, *(f"pending {verb}" for verb in self.pending(run)))

    def processes_of(self, run: RunDir) -> list[str]:
        """Return the command lines of all processes that have to do with a run."""
        lines = (" ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
        return [text for text in lines if str(run.path) in text]

    def check_put_back(self, run: RunDir, *, by_guardian: bool = True) -> RunRecord:
        """Assert everything that must be true after a run came to harm; return its record."""
        self.wait_until_free(run.identity["target"])
        assert self.left_behind(run) == ()
        assert self.processes_of(run) == []
        record = record_of(run)
        kinds = [m.kind for m in record.history.marks]
        assert record.judgement.verdict is not Verdict.PASS
        assert MarkKind.RESIDUE not in kinds
        assert kinds.count(MarkKind.GUARDIAN) == by_guardian
        if by_guardian:
            assert record.ended
            assert run.sealed
            assert run.broken_at() == ""
            assert (run.path / "guardian.log").read_text() == ""
            assert (run.path / "report.html").exists()
            assert any(r.what == "guardian" for r in record.judgement.reasons)
        return record

    def passed(self, process: subprocess.Popen[str], run: RunDir) -> None:
        """Wait for the end of a run, and assert that it passed."""
        said, _ = process.communicate(timeout=120)
        verdict = record_of(run).judgement.verdict
        assert verdict_but_for_late_ticks(record_of(run)) is Verdict.PASS, said
        assert process.returncode == (0 if verdict is Verdict.PASS else 3), said
        assert str(verdict).upper() in said

    def passes(self) -> None:
        """Assert that az-failure passes on this lab."""
        self.passed(*self.start())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the sweep out unless it is asked for."""
    if "sweep" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("sweep")]
        config.hook.pytest_deselected(
            items=left_out
        )  # so that they are counted: pytest -m sweep tests/faults runs them
        items[:] = [item for item in items if item not in left_out]


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    """Say why tests are left out, where CI prints how many."""
    if "sweep" in config.option.markexpr:
        return ""
    return (
        "deselected are further cases of what the gate tests too, for more than an hour: pytest -m sweep tests/faults"
    )


@pytest.fixture(scope="session")
def _ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    ground = Ground(tmp_path_factory.mktemp("faults"))
    yield ground
    labs.down(home=ground.home)


@pytest.fixture
def ground(_ground: Ground) -> Iterator[Ground]:
    """Return the session's lab, whole."""
    _ground.wait_until_free()
    _ground.wait_until_whole()
    yield _ground
    _ground.end_all()
    _ground.put_back_all()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    """Return a lab of one module's own: playbooks leave it with another writer, at another timeline."""
    stage = Ground(tmp_path_factory.mktemp("stage"))
    yield stage
    stage.end_all()
    labs.down(home=stage.home)


@pytest.fixture(scope="session")
def moments() -> dict[str, Moment]:
    """Return every durable state of az-failure, by name, in about the order in which a run comes to them."""
    found: dict[str, Moment] = {}
    for phase in ("baseline", "method", "recovery", "verification", "undo", "redundancy", "residue"):
        found[f"phase {phase} begins"] = says("history.jsonl", f'"kind":"phase","name":"{phase}"')
    found |= {f"line {n} of the history": line("history.jsonl", n) for n in range(2, 34)}
    found |= {f"line {n} of the undo journal": line("undo.jsonl", n) for n in range(1, 11)}
    for name in ("measurement.json", "journal.json", "report.html", "MANIFEST.sha256"):
        found[f"{name} is there"] = lambda run, name=name: (run / name).exists()  # type: ignore[misc]
    return found
