"""What the tests of the playbooks share: a lab, people who answer, and rivals for the writer's place."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import pytest
import yaml
from botocore.config import Config
from by_hand import Console
from late_ticks import verdict_but_for_late_ticks
from wholeness import not_whole

import drkit.targets.aws  # noqa: F401  (registers its undo verbs)
from drkit import catalog, clock, engine, undo
from drkit import lab as labs
from drkit.catalog import Playbook, StepCall
from drkit.clock import NS_PER_S
from drkit.engine import Progress, Wishes
from drkit.engine.session import recovery_journal
from drkit.errors import LabError, TargetError, TimedOut
from drkit.model import MarkKind, RunRecord, Verdict
from drkit.playbook import Standing, standings
from drkit.project import Project, Settings, shipped
from drkit.rundir import RunDir
from drkit.targets import DatabaseTarget, Target, postgres
from drkit.targets.aws import Database
from drkit.targets.aws.claims import Claims
from drkit.targets.postgres import Endpoint

RECOVERY = "eu-west-1"
WRITER, REPLICA = "orders-db", "orders-db-replica"

Change = Callable[[dict[str, Any]], None]


class Ground:
    """One lab with its project. A test that leaves the service in the second region spends it: then it is replaced."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.project = Project(root, Settings())
        self.target = labs.up(home=self.home)
        self.spent = False

    def down(self) -> None:
        labs.down(home=self.home)

    def make_whole(self) -> None:
        """Wait until the lab is as a fresh one; a spent one is replaced."""
        if self.spent:
            self.down()
            self.target, self.spent = labs.up(home=self.home), False
        broken: list[str] = []

        def whole() -> bool:
            broken[:] = not_whole(self.target, self.home)
            return not broken

        try:
            clock.wait_until(whole, "the lab is whole", timeout_s=90, every_s=0.1)
        except TimedOut as e:
            raise AssertionError("\n".join([f"{e}:", *broken, *self.log()])) from e

    def log(self) -> list[str]:
        """Return the last lines of what the lab's supervisor did."""
        try:
            return labs.logs(home=self.home)["supervisor"].read_text(errors="replace").splitlines()[-60:]
        except (LabError, KeyError):
            return ["and it has no log"]

    # --- playbooks ----------------------------------------------------------------------------------------------------

    def playbook(self, name: str, change: Change = lambda _: None) -> Playbook:
        """Return a shipped playbook with a shorter baseline and slower probes (this machine runs other things)."""
        document = yaml.safe_load((shipped("dr_playbooks") / f"{name}.yaml").read_text())
        document["baseline_s"] = 10
        for probe in document["probes"]:
            probe["every_s"] = 0.05
        change(document)
        folder = self.root / "playbooks"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))
        return catalog.load_playbook(str(folder / f"{name}.yaml"), self.project)

    def recover(
        self,
        playbook: str | Playbook,
        people: People | None = None,
        *,
        digest: str | None = None,
        since: datetime | None = None,
        **variables: str,
    ) -> RunRecord:
        chosen = self.playbook(playbook) if isinstance(playbook, str) else playbook
        people = people or People()
        return engine.recover(
            chosen, self.target, self.project, Wishes(variables=variables, approved_digest=digest, since=since),
            watcher=people, ask=people.ask,
        )  # fmt: skip

    def resume(self, run: RunDir, people: People | None = None) -> RunRecord:
        people = people or People()
        return engine.resume(run, self.project, watcher=people, ask=people.ask)

    def run_of(self, record: RunRecord) -> RunDir:
        return RunDir(self.project.reports / record.run_id)

    def last_run(self) -> RunDir:
        return RunDir.all(self.project.reports)[-1]

    def give_up(self, run: RunDir) -> None:
        """Put back what a run that will not go on has done, and free the target."""
        failed = [u.sentence for u in undo.replay(recovery_journal(run, self.target), self.target) if not u.ok]
        assert failed == []
        Claims(self.target).release(run.run_id)

    # --- the lab, asked from outside ----------------------------------------------------------------------------------

    @property
    def database(self) -> DatabaseTarget:
        assert self.target.database is not None
        return self.target.database

    def client(self, service: str, region: str = "") -> Any:
        session = boto3.Session("lab", "lab", region_name=region or self.target.region)
        return session.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.target.aws.endpoint_url,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=30),
        )

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls that changed something, in order."""
        path = self.home / "labs" / "lab" / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @contextlib.contextmanager
    def deeds(self) -> Iterator[list[tuple[str, str]]]:
        """Give what was changed meanwhile, by whomever: (action, resource); without drkit's own notes in SSM."""
        before, found = len(self.calls()), []
        yield found
        found += [(c["action"], c["resource"]) for c in self.calls()[before:] if c["service"] != "ssm"]

    def endpoint(self, instance_id: str, region: str = "") -> Endpoint:
        now = Database(self.target, region or self.target.region).instance(instance_id)
        return now.host, now.port

    def rows(self, ledger_id: str, at: Endpoint | None = None) -> set[int]:
        """Return the numbers of a writer's markers at the writer endpoint, or at one."""
        with postgres.connect(self.target, at=at, timeout_s=30) as connection:
            found = connection.execute("select seq from drkit_marker where run_id = %s", [ledger_id]).fetchall()
        return {seq for (seq,) in found}

    def await_archived(self, moment: datetime | None = None) -> None:
        """Wait until the second region's backups reach past a moment; None: past now."""
        moment = moment or clock.wall_utc()
        rds = self.client("rds", RECOVERY)

        def reaches() -> bool:
            kept = rds.describe_db_instance_automated_backups(DBInstanceIdentifier=WRITER)["DBInstanceAutomatedBackups"]
            windows = [k["RestoreWindow"] for k in kept if k["Status"] == "replicating" and "RestoreWindow" in k]
            return any(w["LatestTime"] > moment for w in windows)

        clock.wait_until(reaches, f"the backup reaches past {moment}", timeout_s=60, every_s=0.1)

    @property
    def console(self) -> Console:
        return Console(self.target)


@pytest.fixture(scope="module")
def _ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    made = Ground(tmp_path_factory.mktemp("playbooks"))
    yield made
    made.down()


@pytest.fixture
def ground(_ground: Ground, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """Return the module's lab, whole; what a test that failed has left behind is nobody else's matter."""
    monkeypatch.delenv("DRKIT_HOME", raising=False)
    monkeypatch.delenv("DRKIT_REPORTS", raising=False)
    failed = request.session.testsfailed
    _ground.make_whole()
    yield _ground
    _ground.spent = _ground.spent or request.session.testsfailed > failed


@dataclass
class People:
    """Who watches a run and answers its questions: with yes, unless it is said otherwise.

    says: the answer to a question by its step's name, None for none. when: what is done at an event, by its beginning,
    each once. What goes wrong in them is raised by `check`, for the engine goes on without its watcher.
    """

    says: Mapping[str, bool | None] = field(default_factory=dict)
    when: dict[str, Callable[[], None]] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    raised: list[Exception] = field(default_factory=list)

    def progress(self, now: Progress) -> None:
        pass

    def event(self, at_s: float, text: str) -> None:
        self.events.append(text)
        self._do(next((begin for begin in self.when if text.startswith(begin)), ""))

    def ask(self, run: RunDir, call: StepCall, text: str) -> None:
        self.asked.append(call.name)
        self._do(f"? {call.name}")
        said = self.says.get(call.name, True)
        if said is not None:
            run.mark(MarkKind.ANSWER, call.name, by="bob", yes=said, note="seen by ann")

    def _do(self, moment: str) -> None:
        if (act := self.when.pop(moment, None)) is not None:
            try:
                act()
            except Exception as e:  # noqa: BLE001  (kept for the test)
                self.raised.append(e)

    def check(self) -> None:
        """Raise what went wrong in one of its deeds; assert that each was done."""
        for e in self.raised:
            raise e
        assert self.when == {}


def passed(record: RunRecord, people: People) -> None:
    """Assert that a playbook came to its end, and that its verdict is PASS."""
    people.check()
    assert people.events[-1] == "every step is done", people.events
    assert record.ended
    assert verdict_but_for_late_ticks(record) is Verdict.PASS, record.judgement.reasons


def stopped(record: RunRecord, people: People, step: str, why: str) -> None:
    """Assert that a playbook stopped at a step, and said why."""
    people.check()
    assert people.events[-1].startswith(f"STOPPED at {step}: "), people.events
    assert why in people.events[-1]
    assert not record.ended
    assert record.judgement.verdict is not Verdict.PASS


def stood(run: RunDir) -> dict[str, Standing]:
    """Return where each step of a run stands that was ever begun."""
    marks = run.marks()
    names = [m.name for m in marks if m.kind is MarkKind.STEP]
    return standings(marks, dict.fromkeys(names))


class Client(threading.Thread):
    """Commits at one server's own endpoint, again and again, by whatever means a client has; begins at once.

    `acknowledged`: when each of its commits was sent and acknowledged. It overrides a database that is read-only by
    default, so nothing but a fence, or a server that cannot, stops it.
    """

    def __init__(self, target: Target, at: Endpoint) -> None:
        super().__init__(name=f"client of {at[0]}", daemon=True)
        self._target, self._at = target, at
        self._over = threading.Event()
        self.acknowledged: list[tuple[int, int]] = []
        self.tries = 0
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.tries += 1
            sent_ns = clock.now_ns()
            notices: list[str] = []
            try:
                with postgres.connect(self._target, at=self._at, timeout_s=1.0, insist=True) as connection:
                    connection.add_notice_handler(lambda n, seen=notices: seen.append(n.sqlstate or ""))  # type: ignore[misc]
                    connection.execute("insert into rivals (at, sent_ns) values (%s, %s)", [self._at[0], sent_ns])
            except TargetError:
                continue
            if "01000" not in notices:  # that one was not replicated as promised, and says so
                self.acknowledged.append((sent_ns, clock.now_ns()))

    def stop(self) -> None:
        self._over.set()
        self.join(30)


class Rivals:
    """Two clients, one at the old writer and one at the new one, both from before the new one can write."""

    def __init__(self, ground: Ground, old: Endpoint, new: Endpoint) -> None:
        with postgres.connect(ground.target) as connection:
            connection.execute("create table if not exists rivals (at text, sent_ns bigint)")
        self.old, self.new = Client(ground.target, old), Client(ground.target, new)

    def __enter__(self) -> Self:
        clock.wait_until(lambda: len(self.old.acknowledged) > 3, "the old writer takes writes", timeout_s=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.old.stop()
        self.new.stop()

    def split_brain(self) -> list[float]:
        """Return how long after the new writer's first commit the old one has acknowledged others, in seconds."""
        first_ns = min((done_ns for _, done_ns in self.new.acknowledged), default=None)
        if first_ns is None:
            return []
        return [(done_ns - first_ns) / NS_PER_S for _, done_ns in self.old.acknowledged if done_ns > first_ns]
