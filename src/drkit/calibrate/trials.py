"""One trial: a fault of known length or a loss of known rows, seen through the real probes and the real measure."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psycopg

from drkit import clock, errors, probes
from drkit.lab import ports
from drkit.lab.faulty import SLOW_S, Mode
from drkit.lab.postgres import Scratch
from drkit.measure import Settings
from drkit.model import Connection, History, LossAccount, Measurement, Outcome, ProbeKind, Role, Series, Survivors
from drkit.probes import sql

HTTP_EVERY_S = 0.02  # p in the lab
SQL_FRESH_EVERY_S = (
    0.1  # p on AWS; a new session takes 5 to 10 ms, a large part of 20 ms, and the width is 2 p + latency
)
SQL_POOLED_EVERY_S = 0.05  # the first write after an outage needs a new session, too
TIMEOUT_S = 0.5  # τ
TOO_SLOW_S = 0.2  # SLOW_S is more
WINDOW_S = 1.0  # W: longer than τ
SHORTEST_S, LONGEST_S = 0.2, 10.0
TAIL_ROWS = 15  # at most so many acknowledged rows are lost from the end
HOLE_ROWS = 6  # at most so many from the middle
ROWS_BEFORE = TAIL_ROWS + 1  # acknowledged before rows are tampered with, however long a busy machine takes for them

Measure = Callable[[History, Settings], Measurement]


class Kind(StrEnum):
    """What is done to the service, or to its rows."""

    REFUSE = "refuse"
    BLACK_HOLE = "black-hole"
    RESET = "reset"
    SLOW = "slow"
    FLAP = "flap"
    READ_ONLY = "read-only"
    LOSE_TAIL = "lose-tail"  # the last k acknowledged rows
    LOSE_HOLES = "lose-holes"  # some acknowledged rows in the middle
    DUPLICATE = "duplicate"  # rows appear twice
    RESURRECT = "resurrect"  # rows that were refused appear

    @property
    def loses(self) -> bool:
        return self in (Kind.LOSE_TAIL, Kind.LOSE_HOLES, Kind.DUPLICATE, Kind.RESURRECT)


@dataclass(frozen=True, slots=True)
class Truth:
    """What really happened: the brackets in which the service's state changed, a few microseconds wide."""

    start_lo_ns: int
    start_hi_ns: int
    end_lo_ns: int
    end_hi_ns: int

    @property
    def width_s(self) -> float:
        return (self.start_hi_ns - self.start_lo_ns + self.end_hi_ns - self.end_lo_ns) / clock.NS_PER_S


@dataclass(frozen=True, slots=True)
class Trial:
    """What one trial found. `covered`: start, end and length of the outage all lie where the instrument says."""

    number: int
    kind: Kind
    every_s: float
    allowance_s: float  # what the width may have beyond periods: the time in which this failure shows
    truth_s: float
    truth_width_s: float
    covered: bool
    width_s: float | None  # None: no outage with a beginning and an end was measured
    ticks_due: int
    ticks_lost: int
    rows_exact: bool | None = None  # None: no rows were tampered with
    remark: str = ""  # what was wrong

    @property
    def disturbed(self) -> bool:
        """Whether the probe lost so many ticks that a run would be INVALID: the machine was busy, and it knew."""
        return self.ticks_lost > 0.01 * self.ticks_due


def run(number: int, kind: Kind, *, seed: int, server: Scratch, directory: Path, measure: Measure) -> Trial:
    """Make one trial, which takes its outage and about 3 s; all its choices come from the seed."""
    dice = random.Random(f"{seed}:{number}")  # noqa: S311  (reproducible choices)
    spec = _spec(number, kind, dice, server)
    service = FailingService(server.port if spec.kind is ProbeKind.SQL else None)
    try:
        spec = _pointed_at(spec, service.port)
        probe = probes.start(spec, directory / f"{number}.jsonl")
        try:
            seconds = (1.2 if kind.loses else 0.6) + dice.uniform(0, 2 * spec.every_s)
            _settle(probe, seconds, acknowledged=ROWS_BEFORE if kind.loses else 0)
            first_down, planted = _break(kind, dice, service, probe, server)
            last_up = service.set(Mode.UP)
            _settle(probe, WINDOW_S + TIMEOUT_S)
        finally:
            probe.stop()
        if probe.exit_code != 0:
            raise errors.CannotTell(f"the probe ended with {probe.exit_code}: {probe.complaint}")
        series = probes.read(probe.path)
        survivors = (sql.read_survivors(spec, gap_s=0.1, timeout_s=10),) if kind.loses else ()
    finally:
        service.close()
    truth = Truth(*first_down, *last_up)
    found = measure(History(marks=(), series=(series,), survivors=survivors), Settings(window_s=WINDOW_S))
    return _compare(number, kind, series, truth, found, planted)


def _spec(number: int, kind: Kind, dice: random.Random, server: Scratch) -> probes.ProbeSpec:
    ledger = str(uuid.UUID(int=dice.getrandbits(128), version=4))
    if kind is Kind.READ_ONLY or kind.loses:
        return probes.ProbeSpec(
            name=f"writes-{number}",
            kind=ProbeKind.SQL,
            role=Role.WRITES,
            every_s=SQL_POOLED_EVERY_S if kind.loses else SQL_FRESH_EVERY_S,
            timeout_s=TIMEOUT_S,
            connection=Connection.POOLED if kind.loses else Connection.FRESH,
            host=ports.HOST,
            port=server.port,
            dbname=server.dbname,
            user=server.user,
            sslmode="disable",
            ledger_id=ledger,
        )
    return probes.ProbeSpec(
        name=f"http-{number}",
        kind=ProbeKind.HTTP,
        role=Role.SERVICE,
        every_s=HTTP_EVERY_S,
        timeout_s=TIMEOUT_S,
        too_slow_s=TOO_SLOW_S if kind is Kind.SLOW else None,
        url=f"http://{ports.HOST}:1/",
    )


def _pointed_at(spec: probes.ProbeSpec, port: int) -> probes.ProbeSpec:
    document = spec.to_json()
    if spec.kind is ProbeKind.HTTP:
        document["url"] = f"http://{ports.HOST}:{port}/"
    else:
        document["port"] = port
    return probes.ProbeSpec.from_json(document)


class FailingService:
    """The failing service's process, as its parent sees it."""

    def __init__(self, upstream_port: int | None) -> None:
        arguments = [] if upstream_port is None else [str(upstream_port)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "drkit.lab.faulty", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._line() or 0)

    def set(self, mode: Mode) -> tuple[int, int]:
        """Change the mode; return the bracket in which it changed."""
        assert self._process.stdin is not None  # asked for above
        self._process.stdin.write(f"{mode}\n")
        self._process.stdin.flush()
        stamps = json.loads(self._line())
        return stamps["lo_ns"], stamps["hi_ns"]

    def _line(self) -> str:
        assert self._process.stdout is not None  # asked for above
        line = self._process.stdout.readline()
        if not line:
            raise errors.CannotTell("the failing service of the calibration died")
        return line

    def close(self) -> None:
        with self._process as process:
            if process.stdin is not None:
                process.stdin.close()


def _settle(probe: probes.ProbeProcess, seconds: float, *, acknowledged: int = 0) -> None:
    """Wait until the probe has made attempts for so long, and so many of all it ever made were acknowledged.

    Raises CannotTell if the probe has ended, TimedOut if its attempts do not come.
    """
    tail = probes.Tail(probe.path)
    made = rows = 0

    def come() -> bool:
        nonlocal made, rows
        new = tail.poll()
        made += len(new)
        rows += sum(a.outcome is Outcome.OK for a in new)
        if not probe.alive:
            probe.stop()
            raise errors.CannotTell(f"the probe ended with {probe.exit_code}: {probe.complaint}")
        return made > 0 and rows >= acknowledged

    first = clock.wait_until(lambda: come() or made > 0, "the probe's first attempt", timeout_s=30)[1]
    clock.sleep_s(seconds - (clock.now_ns() - first) / clock.NS_PER_S)
    clock.wait_until(come, f"{acknowledged} acknowledged rows", timeout_s=60)


def _break(
    kind: Kind, dice: random.Random, service: FailingService, probe: probes.ProbeProcess, server: Scratch
) -> tuple[tuple[int, int], _Planted | None]:
    """Take the service down for the trial's time, and tamper with its rows; return when it went down."""
    lasts_s = SHORTEST_S * (LONGEST_S / SHORTEST_S) ** dice.random()
    match kind:
        case Kind.FLAP:
            down = service.set(Mode.REFUSE)
            for _ in range(dice.randint(2, 4)):
                clock.sleep_s(dice.uniform(0.05, lasts_s / 4))
                service.set(Mode.UP)
                clock.sleep_s(dice.uniform(0.05, WINDOW_S / 2))
                service.set(Mode.REFUSE)
            clock.sleep_s(dice.uniform(0.05, lasts_s / 4))
            return down, None
        case Kind.REFUSE | Kind.BLACK_HOLE | Kind.RESET | Kind.SLOW | Kind.READ_ONLY:
            down = service.set(Mode(kind.value))
            clock.sleep_s(lasts_s)
            return down, None
        case Kind.LOSE_TAIL | Kind.LOSE_HOLES | Kind.DUPLICATE | Kind.RESURRECT:
            hard = kind is Kind.RESURRECT or dice.random() < 0.5  # refused attempts are certain failures
            down = service.set(Mode.REFUSE if hard else Mode.BLACK_HOLE)
            clock.sleep_s(max(min(lasts_s, 2.0), 0.3 if hard else TIMEOUT_S + 0.3))
            return down, _plant(kind, dice, probe, server)


# --- losses -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Planted:
    """What was done to the rows, and what had been there."""

    there: frozenset[int]
    lost: frozenset[int] = frozenset()
    duplicated: frozenset[int] = frozenset()
    resurrected: frozenset[int] = frozenset()
    holes: bool = False


def prepare_ledger(server: Scratch) -> None:
    """Make the ledger without its primary key: a database that duplicates rows has none either."""
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("CREATE TABLE drkit_marker (run_id uuid, seq bigint, sent_ns bigint, sha256 text)")
        conn.execute("CREATE INDEX ON drkit_marker (run_id)")


def _plant(kind: Kind, dice: random.Random, probe: probes.ProbeProcess, server: Scratch) -> _Planted:
    """Tamper with the rows while the service is down."""
    ledger = probe.spec.ledger_id
    attempts = probes.read(probe.path).attempts
    acknowledged = sorted(a.seq for a in attempts if a.outcome is Outcome.OK)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        there = frozenset(
            seq for (seq,) in conn.execute("SELECT seq FROM drkit_marker WHERE run_id = %s", (ledger,)).fetchall()
        )
        match kind:
            case Kind.LOSE_TAIL:
                lost = acknowledged[-dice.randint(1, TAIL_ROWS) :]
                _delete(conn, ledger, lost)
                return _Planted(there, lost=frozenset(lost))
            case Kind.LOSE_HOLES:
                lost = dice.sample(acknowledged[1:-3], dice.randint(1, HOLE_ROWS))  # rows acknowledged after it stay
                _delete(conn, ledger, lost)
                return _Planted(there, lost=frozenset(lost), holes=True)
            case Kind.DUPLICATE:
                twice = dice.sample(acknowledged, dice.randint(1, 4))
                for seq in twice:
                    conn.execute(
                        "INSERT INTO drkit_marker SELECT * FROM drkit_marker WHERE run_id = %s AND seq = %s",
                        (ledger, seq),
                    )
                return _Planted(there, duplicated=frozenset(twice))
            case _:
                failed = [a for a in attempts if a.outcome is Outcome.FAILED]
                back = dice.sample(failed, min(len(failed), dice.randint(1, 4)))
                for a in back:
                    row = (ledger, a.seq, a.sent_ns, sql.checksum(ledger, a.seq, a.sent_ns))
                    conn.execute("INSERT INTO drkit_marker VALUES (%s, %s, %s, %s)", row)
                return _Planted(there, resurrected=frozenset(a.seq for a in back))


def _delete(conn: psycopg.Connection[tuple[object, ...]], ledger: str, seqs: Sequence[int]) -> None:
    conn.execute("DELETE FROM drkit_marker WHERE run_id = %s AND seq = ANY(%s)", (ledger, list(seqs)))


# --- the instrument against the truth ---------------------------------------------------------------------------------


def _compare(
    number: int, kind: Kind, series: Series, truth: Truth, found: Measurement, planted: _Planted | None
) -> Trial:
    remarks = _missed(truth, found)
    width_s = found.rta.width_s if found.rta is not None and math.isfinite(found.rta.hi_s) else None
    rows_exact = None
    if planted is not None:
        wrong = _miscounted(series, planted, found.losses, truth)
        rows_exact = not wrong
        remarks += wrong
    return Trial(
        number=number,
        kind=kind,
        every_s=series.every_s,
        allowance_s=_allowance_s(kind, series),
        truth_s=(truth.end_lo_ns - truth.start_lo_ns) / clock.NS_PER_S,
        truth_width_s=truth.width_s,
        covered=not _missed(truth, found),
        width_s=width_s,
        ticks_due=series.ticks_due,
        ticks_lost=series.ticks_lost,
        rows_exact=rows_exact,
        remark="; ".join(remarks),
    )


def _allowance_s(kind: Kind, series: Series) -> float:
    """Return what the width may have beyond periods: how long an attempt that fails this way takes to be over.

    τ if nothing answers, the injected delay if the answer comes late, nothing for all that fails at once. It is a
    property of the fault, known before the trial, and never of what was measured. Source: docs/measurement.md,
    "Calibration".
    """
    if kind is Kind.SLOW:
        return SLOW_S
    silent = any(a.error == "timeout" for a in series.attempts)
    return series.timeout_s if kind is Kind.BLACK_HOLE or (kind.loses and silent) else 0.0


def _missed(truth: Truth, found: Measurement) -> list[str]:
    """Return where the instrument contradicts the truth. Both are brackets, so they must have a moment in common."""
    if found.rta is None or found.impact is None or found.service_restored is None:
        return ["no outage measured"]
    missed = []
    if found.impact[0] > truth.start_hi_ns or found.impact[1] < truth.start_lo_ns:
        missed.append("start not covered")
    if found.service_restored[0] > truth.end_hi_ns or found.service_restored[1] < truth.end_lo_ns:
        missed.append("end not covered")
    shortest_s = (truth.end_lo_ns - truth.start_hi_ns) / clock.NS_PER_S
    longest_s = (truth.end_hi_ns - truth.start_lo_ns) / clock.NS_PER_S
    if found.rta.lo_s > longest_s or found.rta.hi_s < shortest_s:
        missed.append(f"length [{found.rta.lo_s:.4f}, {found.rta.hi_s:.4f}] s does not cover {shortest_s:.4f} s")
    return missed


def _miscounted(series: Series, planted: _Planted, losses: Sequence[LossAccount], truth: Truth) -> list[str]:
    """Return where the loss account differs from what was done to the rows.

    Unanswered writes are compared as far as the service was not back yet: then the rows were looked at. One whose
    answer a busy machine held up afterwards has its row, which nobody looked for.
    """
    if len(losses) != 1:
        return ["no loss account"]
    (account,) = losses
    outcomes = {a.seq: a.outcome for a in series.attempts}
    unknown_there = {s for s in planted.there if outcomes.get(s) is Outcome.UNKNOWN}
    later = {a.seq for a in series.attempts if a.sent_ns >= truth.end_lo_ns}
    acknowledged_not_there = {
        a.seq for a in series.attempts if a.outcome is Outcome.OK and a.seq <= max(planted.there, default=-1)
    } - planted.there
    checks = {
        "lost": set(account.lost) == planted.lost,
        "duplicated": set(account.duplicated) == planted.duplicated,
        "resurrected": set(account.resurrected) == planted.resurrected,
        "recovered": set(account.recovered) - later == unknown_there,
        "phantom": not account.phantom,
        "corrupt": not account.corrupt,
        "holes": bool(account.holes) == planted.holes,
        "acknowledged": not acknowledged_not_there,
    }
    return [f"{what} wrong" for what, right in checks.items() if not right]


__all__ = ["Kind", "Measure", "Survivors", "Trial", "prepare_ledger", "run"]
