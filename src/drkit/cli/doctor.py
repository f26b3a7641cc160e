"""`drkit doctor`: what drkit needs, each line ok or with a hint. Asks only the target that was named."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from drkit import clock
from drkit.catalog import Experiment, Playbook
from drkit.cli import aim, console, look, stored
from drkit.errors import DrkitError
from drkit.project import Project
from drkit.targets import Target

LAB_BYTES = 1 << 30  # three PostgreSQL servers, their WAL, backups and logs for a day of runs
PORTS_WANTED = 40  # one lab has about 30
RESOLUTION_MAX_S = 1e-4
STEP_MAX_S = 0.05


@dataclass(frozen=True, slots=True)
class Check:
    """One line. ok None: it could not be told, or is not needed for what was asked."""

    name: str
    ok: bool | None
    says: str
    hint: str = ""
    required: bool = True
    actions: Mapping[str, bool | None] = field(default_factory=dict)  # IAM actions: allowed? None: cannot be told

    @property
    def missing(self) -> bool:
        return self.ok is False and self.required


def doctor(experiment: str | None, target_name: str | None, *, as_json: bool) -> int:
    """Check everything and return 0, or 2 if something that is required is missing."""
    found = aim.here()
    wanted = target_name or found.settings.default_target
    checks: list[Check] = []
    for check in _all(found, wanted, experiment):
        checks.append(check)
        if not as_json:
            _tell(check)
    missing = [c.name for c in checks if c.missing]
    code = 2 if missing else 0
    if as_json:
        console.out_json(
            {"target": wanted, "checks": [asdict(c) for c in checks], "missing": missing, "exit_code": code}
        )
    else:
        console.out(f"\nmissing: {', '.join(missing)}" if missing else "\nnothing that is needed is missing")
    return code


def _tell(check: Check) -> None:
    sign = "ok  " if check.ok else "–   " if check.ok is None or not check.required else "NO  "
    console.out(f"{sign} {check.name:14} {check.says}")
    if check.hint and not check.ok:
        console.out(f"{'':19} hint: {check.hint}")
    for action, allowed in check.actions.items():
        console.out(f"{'':19} {'NO  ' if allowed is False else 'ok  ' if allowed else '–   '} {action}")


def _all(found: Project, wanted: str, experiment: str | None) -> Iterator[Check]:
    on_lab = wanted == aim.LAB
    yield _python()
    yield _asked("PostgreSQL", _postgresql, required=on_lab)
    yield _moto(required=on_lab)
    yield _asked("ports", _ports, required=on_lab)
    yield from _places(found, on_lab)
    yield _clock_resolution()
    yield _clock_step()
    yield _calibration(found)
    yield _runs(found)
    yield _terraform()
    try:
        target = None if on_lab and not (found.home / "targets" / "lab.json").exists() else aim.at(found, wanted)
    except DrkitError as e:
        yield Check("target", False, e.message, e.hint, required=not on_lab)
        target = None
    else:
        says = f"{wanted}: {target.kind}, account {target.account_id}, {target.region}" if target else "the lab is down"
        yield Check("target", True if target else None, says, "drkit run starts it")
    yield _kubeconfig(target, on_lab)
    if target is not None and target.kind == "aws":
        yield _asked("AWS identity", lambda: _identity(target))
    else:
        yield Check("AWS identity", None, "not asked: the target is not on AWS", "", required=False)
    if experiment is not None:
        yield from _experiment(found, experiment, target)


def _asked(name: str, ask: Callable[[], str], *, required: bool = True) -> Check:
    try:
        return Check(name, True, ask(), required=required)
    except DrkitError as e:
        return Check(name, False, e.message, e.hint, required)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(
        "Python", sys.version_info >= (3, 11), f"{version}, {sys.executable}", "drkit needs Python 3.11 or newer"
    )


def _postgresql() -> str:
    from drkit.lab.binaries import find

    binaries = find()
    how = " (as nobody, because we are root)" if os.geteuid() == 0 else ""
    return f"{binaries.version} in {binaries.directory}{how}"


def _moto(*, required: bool) -> Check:
    there = importlib.util.find_spec("moto") is not None
    return Check(
        "moto", there, "the lab's AWS APIs" if there else "not installed", "pip install 'drkit[lab]'", required
    )


def _ports() -> str:
    from contextlib import ExitStack

    from drkit.errors import LabError
    from drkit.lab import ports

    with ExitStack() as stack:
        for _ in range(PORTS_WANTED):
            try:
                stack.enter_context(ports.listener())
            except OSError as e:
                raise LabError(f"no free loopback ports: {e.strerror or e}", "end what holds them, or reboot") from e
    return f"{PORTS_WANTED} of {ports.FIRST}–{ports.LAST} on {ports.HOST} can be had at once"


def _places(found: Project, on_lab: bool) -> Iterator[Check]:
    for name, path, least in (
        ("home", found.home, LAB_BYTES if on_lab else 1 << 26),
        ("reports", found.reports, 1 << 27),
    ):
        there = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(there).free
        says = f"{path}, {free / 1e9:.1f} GB free"
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            yield Check(name, False, f"{there} cannot be written", "set DRKIT_HOME, or DRKIT_REPORTS, to another place")
        else:
            yield Check(name, free >= least, says, f"free some space: {least / 1e9:.1f} GB are wanted")


def _clock_resolution() -> Check:
    steps = []
    for _ in range(50):
        before = after = clock.now_ns()
        while after == before:
            after = clock.now_ns()
        steps.append(after - before)
    step_s = sorted(steps)[len(steps) // 2] / clock.NS_PER_S
    hint = "outages cannot be measured finer than that: use a machine with a better clock"
    return Check("clock", step_s <= RESOLUTION_MAX_S, f"monotonic, in steps of {step_s * 1e6:.2f} µs", hint)


def _clock_step() -> Check:
    before = clock.wall_minus_monotonic_ns()
    clock.sleep_s(0.2)
    moved_s = abs(clock.wall_minus_monotonic_ns() - before) / clock.NS_PER_S
    hint = "something sets this machine's clock: a run in which that happens is INVALID"
    says = f"moved {moved_s * 1000:.2f} ms against the monotonic one in 0.2 s"
    return Check("wall clock", moved_s <= STEP_MAX_S, says, hint)


def _calibration(found: Project) -> Check:
    from drkit import certificate as certificates

    path = found.home / "calibration.json"
    try:
        certificate = certificates.load(path)
    except DrkitError as e:
        return Check("calibration", False, e.message, e.hint, required=False)
    if certificate is None:
        return Check("calibration", False, "none: reports will say so", "drkit calibrate", required=False)
    says = f"{certificate.trials} trials on {certificate.made_at[:10]}, {certificate.coverage:.1%} covered"
    return Check("calibration", certificate.holds, says, "; ".join(certificate.objections), required=False)


def _runs(found: Project) -> Check:
    open_ = stored.left_open(found.reports)
    if not open_:
        return Check("runs", True, f"none in {found.reports} has left anything broken")
    return Check("runs", False, f"{open_[-1].run_id} has left something broken", f"drkit undo {open_[-1].run_id}")


def _terraform() -> Check:
    path = shutil.which("terraform") or shutil.which("tofu")
    if path is None:
        return Check("Terraform", False, "not installed", "only needed to build a target on AWS", required=False)
    try:
        told = subprocess.run([path, "version"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return Check("Terraform", False, f"{path} does not run", "only needed to build a target on AWS", required=False)
    return Check("Terraform", True, f"{told.splitlines()[0] if told else 'unknown version'}, {path}", required=False)


def _kubeconfig(target: Target | None, on_lab: bool) -> Check:
    if target is None or target.kubeconfig is None:
        why = "not needed by the lab" if on_lab else "the target names none"
        return Check("kubeconfig", None, f"{why}; the environment's is never used", required=False)
    path = Path(target.kubeconfig).expanduser()
    return Check("kubeconfig", os.access(path, os.R_OK), str(path), "kubeconfig of the target file is not readable")


def _identity(target: Target) -> str:
    from drkit.errors import TargetError
    from drkit.targets.aws.account import Account

    caller = Account(target).caller()
    if caller.account_id != target.account_id:
        raise TargetError(
            f"the credentials are of account {caller.account_id}, the target is in {target.account_id}",
            "choose the right profile or role in the target file",
        )
    return f"{caller.role_arn} in account {caller.account_id}"


def _experiment(found: Project, name: str, target: Target | None) -> Iterator[Check]:
    from drkit import catalog

    is_playbook = name in catalog.playbooks(found) and name not in catalog.names(found)
    kind = "playbook" if is_playbook else "experiment"
    try:
        subject = catalog.load_playbook(name, found) if is_playbook else catalog.load(name, found)
    except DrkitError as e:
        yield Check(kind, False, e.message, e.hint)
        return
    yield Check(kind, True, f"{subject.name}: {subject.title}")
    if target is None:
        yield Check("permissions", None, "not asked: no target to ask", "drkit lab up", required=False)
        return
    yield _permissions(found, subject, target)


def _permissions(found: Project, subject: Experiment | Playbook, target: Target) -> Check:
    """Tell every IAM action that may be needed, and ask IAM about each, even if the target can't be asked."""
    from drkit import engine
    from drkit.targets import facts
    from drkit.targets.aws import permissions

    problem: DrkitError | None = None
    try:
        if isinstance(subject, Experiment):
            effects = engine.plan(subject, target, found).effects
        else:
            effects = engine.plan_recovery(subject, target, found, {}).effects
    except DrkitError as e:  # it may be these very permissions that are missing
        problem, effects = e, ()
    if isinstance(subject, Experiment):
        needed = look.needed(subject, target, found, effects)
    else:
        needed = permissions.needed_by_playbook(subject, target, effects)
    answers: dict[str, bool | None] = dict.fromkeys(needed.actions)
    real = not facts.is_loopback(target)
    if real:
        try:
            answers = permissions.check(target, needed.actions)
        except DrkitError as e:
            problem = problem or e
    count = f"{len(answers)} IAM actions"
    more = f"; {', '.join(needed.untold)} may need others, and does not tell" if needed.untold else ""
    denied = [a for a, allowed in answers.items() if allowed is False]
    unknown = [a for a, allowed in answers.items() if allowed is None]
    if denied:
        hint = "allow them to the role of the target file"
        return Check("permissions", False, f"denied: {', '.join(denied)}{more}", hint, actions=answers)
    if problem:
        says = f"{problem.message}; it needs {count}{more}"
        return Check("permissions", False, says, console.hint_of(problem), actions=answers)
    if not real:
        says = f"needs {count} on AWS; the lab allows all{more}"
        return Check("permissions", None, says, required=False, actions=answers)
    if unknown:
        says = f"cannot be told for {len(unknown)} of {count}{more}"
        hint = "allow iam:SimulatePrincipalPolicy to have them checked"
        return Check("permissions", None, says, hint, required=False, actions=answers)
    return Check("permissions", True, f"{count} are allowed{more}", actions=answers)
