"""The lab: a small cloud on this machine, with a real database. Public face: up, down, status, logs, and what
may go wrong in one: disturb, delete_rows.

A lab is one supervisor process with its PostgreSQL and service processes; several labs, of different names or homes,
run side by side. It writes an ordinary target file, so nothing else needs to know that it is a lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from drkit import clock, targets
from drkit.errors import LabError, TimedOut
from drkit.lab import ward
from drkit.lab.corruption import Deleted, delete_rows
from drkit.lab.options import LabOptions, LabPart, LabStatus
from drkit.targets import Target

__all__ = [
    "Deleted", "LabOptions", "LabPart", "LabStatus", "delete_rows", "disturb", "down", "logs", "status", "up",
]  # fmt: skip

UP_TIMEOUT_S = 90.0
HEAL_TIMEOUT_S = 20.0
DOWN_TIMEOUT_S = 30.0
STATUS_TIMEOUT_S = 15.0  # a server that hangs is asked for seconds; one that is down refuses at once
_DEFAULTS = LabOptions()
_FOREIGN = ("AWS_", "BOTO_", "MOTO_", "PG")  # what an environment may say about other clouds and databases
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def up(
    name: str = "lab",
    *,
    home: Path,
    speed: float = 1.0,
    fsync: bool = False,
    options: LabOptions = _DEFAULTS,
    progress: Callable[[str], None] = lambda _: None,
) -> Target:
    """Start a lab and return its target, which is also written to home/targets/NAME.json; one that is up is returned.

    progress gets a sentence whenever something new begins. Raises LabError if it cannot be started, is half dead, or is
    up with other settings; nothing is left behind then that was not there before.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
        raise LabError(f"{name!r} is no name for a lab", "use small letters, digits and dashes")
    if not 0.01 <= speed <= 100:
        raise LabError(f"a lab's speed is 0.01 to 100, not {speed:g}")
    if importlib.util.find_spec("moto") is None:
        raise LabError("the lab needs moto, which is not installed", "pip install 'drkit[lab]'")
    home = home.resolve()
    directory = home / "labs" / name
    wanted = {
        "name": name,
        "speed": speed,
        "fsync": fsync,
        "options": options.as_json(),
        "target_file": str(home / "targets" / f"{name}.json"),
    }
    with _locked(directory):
        if (running := _running(name, home, wanted, progress)) is not None:
            return running
        (directory / "options.json").write_text(json.dumps(wanted))
        supervisor = _start(directory)
        try:
            _follow_start(directory, supervisor, progress)
        except BaseException:
            _end(directory, supervisor)
            raise
        supervisor.returncode = 0  # it is to outlive us; unset, Popen would warn that it still runs
    return targets.load(name, home)


def down(name: str = "lab", *, home: Path) -> tuple[str, ...]:
    """End a lab, also one whose supervisor is dead; return the names of what was ended (empty: there was none).

    Ends exactly the processes that its state file lists by pid and start time, and removes its files and target.
    """
    home = home.resolve()
    directory = home / "labs" / name
    if not directory.is_dir():
        return ()
    with _locked(directory):
        state = _state(directory)
        ended = []
        supervisor = ward.find(state["pid"], state["started"]) if state else None
        if supervisor is not None:
            supervisor.send_signal(signal.SIGTERM)
            _, alive = psutil.wait_procs([supervisor], timeout=DOWN_TIMEOUT_S)
            for process in alive:
                process.kill()
            psutil.wait_procs(alive, timeout=5)
            ended.append("supervisor")
        ended += ward.sweep(state.get("footprint", {}))  # as it was read before the supervisor stopped
        ended += ward.sweep(_state(directory).get("footprint", {}))
        target_file = home / "targets" / f"{name}.json"
        if state and Path(state["target_file"]) == target_file:
            target_file.unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)
    return tuple(ended)


def status(name: str = "lab", *, home: Path) -> LabStatus:
    """Return how a lab is; never raises for one that is down or broken."""
    directory = home.resolve() / "labs" / name
    state = _state(directory)
    if not state:
        return LabStatus(name=name, state="down", directory=str(directory))
    told = state.get("endpoint_url", "")
    alive = ward.find(state["pid"], state["started"]) is not None
    if not alive:
        kind, parts = "half dead", _left_over(state)
    elif state["phase"] != "ready":
        kind, parts = str(state["phase"]), ()
    else:
        parts = _parts(told)
        kind = "up" if parts and all(part.ok for part in parts) else "degraded"
    return LabStatus(
        name=name,
        state=kind,
        parts=parts,
        up_s=(clock.now_ns() - state["since_ns"]) / clock.NS_PER_S if alive else 0.0,
        speed=state["speed"],
        fsync=state["fsync"],
        pid=state["pid"] if alive else None,
        endpoint_url=told if alive else "",
        directory=str(directory),
        options=LabOptions.from_json(state["options"]),
    )


def logs(name: str = "lab", *, home: Path) -> dict[str, Path]:
    """Return a lab's log files by name: supervisor, requests, and one for each process."""
    directory = home.resolve() / "labs" / name
    if not directory.is_dir():
        raise LabError(f"there is no lab {name!r} in {home}", "drkit lab up")
    return {str(p.relative_to(directory).with_suffix("")): p for p in sorted(directory.rglob("*.log"))}


def disturb(name: str = "lab", *, home: Path, what: str, for_s: float) -> None:
    """Let a lab's AWS APIs misbehave from now on for a while; 0 s ends it. Raises LabError if the lab is not up.

    what: "s3-503": objects of the bucket with the backups can't be read, S3 says SlowDown; "silent-region-1": whatever
    is asked of the first region's APIs is never answered, until the time is over or the client hangs up.
    """
    state = _state(home.resolve() / "labs" / name)
    if state.get("phase") != "ready" or ward.find(state["pid"], state["started"]) is None:
        raise LabError(f"lab {name!r} is not up", "drkit lab up")
    ask = urllib.request.Request(  # noqa: S310  (the lab's own http URL)
        f"{state['endpoint_url']}/_drkit/disturb",
        data=json.dumps({"what": what, "for_s": for_s}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(ask, timeout=STATUS_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as e:
        with e:
            raise LabError(str(json.load(e).get("error", e))) from None
    except OSError as e:
        raise LabError(f"lab {name!r} does not answer: {e}", "drkit lab status") from e


# --- the parts of up --------------------------------------------------------------------------------------------------


def _running(name: str, home: Path, wanted: Mapping[str, Any], progress: Callable[[str], None]) -> Target | None:
    """Return the target of a lab that is up and whole (it gets some time to heal), None if there is none."""
    directory = home / "labs" / name
    state = _state(directory)
    if not state:
        return None
    now = status(name, home=home)
    if now.state == "degraded":
        progress("waiting until everything is healthy again")
        with contextlib.suppress(TimedOut):
            clock.wait_until(lambda: status(name, home=home).ok, "whole", timeout_s=HEAL_TIMEOUT_S, every_s=0.2)
        now = status(name, home=home)
    if not now.ok:
        broken = ", ".join(p.name for p in now.parts if not p.ok) or "it is not ready"
        raise LabError(
            f"lab {name!r} is there, but {now.state}: {broken}",
            f"drkit undo the run that broke it, or drkit lab down and up again; its logs are in {directory}",
        )
    for setting in ("speed", "fsync", "options"):
        if state[setting] != wanted[setting]:
            raise LabError(
                f"lab {name!r} is up with another {setting}", "drkit lab down first, or give the new one a --name"
            )
    return targets.load(name, home)


def _start(directory: Path) -> subprocess.Popen[bytes]:
    with (directory / "supervisor.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "drkit.lab.supervisor", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=_environment(),
            cwd=directory,
        )


def _environment() -> dict[str, str]:
    """Return the environment without anything that could lead a client elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_FOREIGN) and k.lower() not in _PROXIES}
    nowhere = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return {**kept, **nowhere}


def _follow_start(directory: Path, supervisor: subprocess.Popen[bytes], progress: Callable[[str], None]) -> None:
    told = ""

    def over() -> bool:
        nonlocal told
        gone = supervisor.poll() is not None
        state = _state(directory)
        if state.get("phase") == "failed" or gone:
            raise LabError(
                f"the lab did not start: {state.get('error') or _last_line(directory / 'supervisor.log')}",
                state.get("hint") or "drkit lab logs",
            )
        if (doing := state.get("doing", "")) and doing != told:
            told = doing
            progress(doing)
        return state.get("phase") == "ready"

    clock.wait_until(over, "the lab is ready", timeout_s=UP_TIMEOUT_S)


def _end(directory: Path, supervisor: subprocess.Popen[bytes]) -> None:
    supervisor.terminate()
    try:
        supervisor.wait(DOWN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
    ward.sweep(_state(directory).get("footprint", {}))
    (directory / "state.json").unlink(missing_ok=True)  # the logs stay, the next up starts anew


# --- state.json -------------------------------------------------------------------------------------------------------


def _state(directory: Path) -> dict[str, Any]:
    """Return what state.json says; {} if there is none or it says nothing we know."""
    try:
        state = json.loads((directory / "state.json").read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and "pid" in state else {}


def _parts(endpoint_url: str) -> tuple[LabPart, ...]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{endpoint_url}/_drkit/status", timeout=STATUS_TIMEOUT_S) as answer:
            return tuple(LabPart(**part) for part in json.load(answer)["parts"])
    except (urllib.error.URLError, OSError, ValueError, KeyError):
        return (LabPart(name="aws", ok=False),)


def _left_over(state: Mapping[str, Any]) -> tuple[LabPart, ...]:
    processes = state.get("footprint", {}).get("processes", ())
    return (
        LabPart(name="supervisor", ok=False, pid=state["pid"]),
        *(LabPart(name=p["name"], ok=ward.find(p["pid"], p["started"]) is not None, pid=p["pid"]) for p in processes),
    )


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "its process ended at once"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Make the directory; let one process at a time start or end the lab in it."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = directory.with_name(f".{directory.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(f"another process is starting or ending lab {directory.name!r}", "wait for it") from None
        yield
    if not directory.exists():
        lock.unlink(missing_ok=True)
