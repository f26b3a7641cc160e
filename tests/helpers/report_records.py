"""Run records built in code, as the engine would hand them to the report."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from drkit.model import (
    Attempt,
    Availability,
    Connection,
    Decomposition,
    Effect,
    ErrorClass,
    History,
    Interval,
    Judgement,
    Latency,
    LossAccount,
    Mark,
    MarkKind,
    Measurement,
    Objective,
    Outage,
    Outcome,
    ProbeKind,
    Reason,
    Role,
    RunRecord,
    Series,
    SurvivingRow,
    Survivors,
    UndoRecord,
    Verdict,
)

S = 1_000_000_000
ORIGIN_NS = 5_000 * S
EVERY_S = 0.02


def at(seconds: float) -> int:
    return ORIGIN_NS + round(seconds * S)


def mark(lo_s: float, hi_s: float, kind: MarkKind, name: str = "", **detail: object) -> Mark:
    return Mark(at(lo_s), at(hi_s), kind, name, detail)


def attempts(length_s: float, down: tuple[float, float] | None, every_s: float = EVERY_S) -> Iterable[Attempt]:
    """Yield a probe's attempts: failing between two moments, at first without an answer, later refused."""
    for seq in range(round(length_s / every_s)):
        due = at(seq * every_s)
        latency = 2_000_000 + (seq * 7919 % 100) * 40_000
        if down is None or not down[0] <= seq * every_s < down[1]:
            yield Attempt(seq, due, due + 50_000, due + latency, Outcome.OK)
        elif seq * every_s < down[0] + 0.3:
            yield Attempt(seq, due, due + 50_000, due + S // 2, Outcome.UNKNOWN, ErrorClass.TIMEOUT, "no answer")
        else:
            yield Attempt(
                seq, due, due + 50_000, due + 400_000, Outcome.FAILED, ErrorClass.REFUSED, "connection refused"
            )


def series(
    name: str,
    kind: ProbeKind,
    role: Role,
    down: tuple[float, float] | None,
    connection: Connection = Connection.FRESH,
    length_s: float = 48.0,
) -> Series:
    tries = tuple(attempts(length_s, down))
    return Series(name, kind, role, EVERY_S, 0.5, tries, connection, ticks_due=len(tries), ticks_lost=3)


def outage(name: str, start: float, end: float | None) -> Outage:
    lasted = Interval(end - start - 0.02, end - start + 0.02) if end is not None else Interval(48 - start, math.inf)
    ends = (at(end - 0.02), at(end + 0.01)) if end is not None else (None, None)
    return Outage(name, at(start - 0.02), at(start + 0.01), *ends, lasted, {"timeout": 15, "refused": 82})


NOTHING = Measurement(
    outages=(),
    headline_series=(),
    impact=None,
    service_restored=None,
    rta=None,
    rta_slo=None,
    rta_verified=None,
    since_recovery_start=None,
    since_plan_start=None,
    redundancy=None,
    decomposition=Decomposition(),
    losses=(),
    rpa=None,
    availability=(),
    latency=(),
)


CERTIFICATE = {
    "version": "0.1.0", "made_at": "2026-11-22T15:40:00+00:00", "machine": "Linux x86_64, 2 cores, Python 3.11.2",
    "seed": 1, "trials": 200, "timeout_s": 0.5, "window_s": 1.0, "disturbed": 0, "coverage": 1.0,
    "coverage_of_all": 1.0, "mean_width_periods": 2.02, "losses": 80, "losses_exact": 80, "truth_known_to_s": 0.003,
    "took_s": 246.2, "misses": [], "hash": "sha256:77aa",
    "kinds": [
        {
            "kind": "slow", "trials": 20, "covered": 20, "every_s": 0.02, "allowance_s": 0.3, "mean_width_s": 0.33,
            "mean_width_periods": 1.76, "rows_exact": None, "disturbed": 0,
        },
        {
            "kind": "lose-tail", "trials": 20, "covered": 20, "every_s": 0.05, "allowance_s": 0.0,
            "mean_width_s": 0.105, "mean_width_periods": 2.1, "rows_exact": 20, "disturbed": 0,
        },
    ],
}  # fmt: skip


def passed() -> RunRecord:
    """A zone was lost, the standby took over in 1.94 s, nothing was lost."""
    marks = (
        mark(0, 0, MarkKind.RUN_STARTED, "az-failure"),
        mark(0.1, 0.1, MarkKind.PHASE, "baseline"),
        mark(4.0, 4.4, MarkKind.HYPOTHESIS, "writes-accepted", held=True),
        mark(5, 5, MarkKind.PHASE, "method"),
        mark(5.01, 5.06, MarkKind.FAULT_REQUESTED, "lose-zone", zone="eu-central-1a", instances=["i-1", "i-2"]),
        mark(5.02, 5.11, MarkKind.FAULT_EFFECTIVE, "lose-zone", zone="eu-central-1a"),
        mark(5.6, 6.1, MarkKind.DETECTED, "RDS-EVENT-0013", message="Multi-AZ instance failover started."),
        mark(6.1, 6.1, MarkKind.DECLARED, "automatic"),
        mark(6.12, 6.13, MarkKind.RECOVERY_START, "promote-standby"),
        mark(6.6, 7.4, MarkKind.RECOVERY_END, "promote-standby"),
        mark(7.5, 8.0, MarkKind.EVENT, "RDS-EVENT-0049", message="Multi-AZ instance failover completed"),
        mark(10, 10, MarkKind.PHASE, "verification"),
        mark(12.1, 12.9, MarkKind.DATA_VERIFIED, "markers"),
        mark(13, 13, MarkKind.PHASE, "undo"),
        mark(13.1, 13.4, MarkKind.UNDO, "restore_acl", ok=True, message="gave subnet-0a its network ACL back"),
        mark(13.5, 13.5, MarkKind.PHASE, "redundancy"),
        mark(38.2, 38.7, MarkKind.REDUNDANCY_RESTORED, "standby in sync, capacity in every zone"),
        mark(39, 39, MarkKind.PHASE, "residue"),
        mark(40.0, 41.0, MarkKind.CLEANED_UP, "lab"),
        mark(48, 48, MarkKind.RUN_ENDED, "done"),
    )
    probes = (
        series("http", ProbeKind.HTTP, Role.SERVICE, (5.04, 6.7)),
        series("writes-fresh", ProbeKind.SQL, Role.WRITES, (5.04, 6.98)),
        series("writes-pooled", ProbeKind.SQL, Role.WRITES, (5.04, 7.6), Connection.POOLED),
        series("zone-a", ProbeKind.TCP, Role.WITNESS, (5.02, 14.0)),
    )
    losses = tuple(
        LossAccount(name, 2303, 15, 82, 2311, (), tuple(range(253, 261)), (), (), (), (), 0, Interval(0, 0.02))
        for name in ("writes-fresh", "writes-pooled")
    )
    measurement = replace(
        NOTHING,
        outages=(outage("http", 5.04, 6.7), outage("writes-fresh", 5.04, 6.98), outage("writes-pooled", 5.04, 7.6)),
        headline_series=("http", "writes-fresh"),
        impact=(at(5.02), at(5.05)),
        service_restored=(at(6.96), at(6.99)),
        rta=Interval(1.918, 1.962),
        rta_slo=Interval(2.4, 2.7),
        rta_verified=Interval(7.05, 7.88),
        since_recovery_start=Interval(0.83, 0.87),
        since_plan_start=Interval(1.9, 1.98),
        redundancy=Interval(33.15, 33.68),
        decomposition=Decomposition(
            Interval(0.55, 1.08), Interval(0.0, 0.5), Interval(0.5, 1.3), Interval(-0.44, -0.02)
        ),
        losses=losses,
        rpa=Interval(0, 0.02),
        availability=(
            Availability("http", 48.0, 0.9646, 0.9654, 2317, 2400, 0.965416, 0.0425, Interval(0.1, 0.4)),
            Availability("writes-fresh", 48.0, 0.9588, 0.9596, 2303, 2400, 0.959583, 0.0488, Interval(0, 0.02)),
        ),
        latency=(
            Latency("http", 2317, 0.0041, 0.0059, 0.5, 0.5),
            Latency("writes-fresh", 2318, 0.0042, 0.006, 0.5, 0.5),
        ),
        rta_by_series={
            "writes-pooled": Interval(2.54, 2.58),
            "http": Interval(1.64, 1.68),
            "writes-fresh": Interval(1.918, 1.962),
        },
        unmeasured={},
    )
    reasons = (
        Reason(Verdict.PASS, "rto", "RTO achieved [1.918 s, 1.962 s], target 900 s"),
        Reason(Verdict.PASS, "rpo", "RPO achieved [0 s, 0.02 s], target 300 s"),
        Reason(Verdict.PASS, "integrity", "nothing phantom, resurrected, corrupt or duplicated, and no holes"),
        Reason(Verdict.PASS, "p95", "p95 of http 5.9 ms, target 200 ms"),
    )
    survivors = tuple(
        Survivors(
            p.name,
            at(47.0),
            at(47.4),
            tuple(SurvivingRow(a.seq) for a in p.attempts if a.outcome is Outcome.OK or a.seq in (253, 254)),
        )
        for p in probes
        if p.role is Role.WRITES
    )
    return RunRecord(
        run_id="20261122T155410Z-az-failure-lab-3f9c",
        number=17,
        name="az-failure",
        title="The service outlives the loss of a zone",
        description="Everything in one zone is lost at once; the standby takes over.",
        kind="experiment",
        target="lab",
        target_kind="lab",
        started_at="2026-11-22T15:54:10Z",
        origin_ns=ORIGIN_NS,
        objective=Objective(rto_s=900, rpo_s=300, mttr_s=300, p95_s=0.2),
        history=History(marks, probes, survivors),
        measurement=measurement,
        judgement=Judgement(Verdict.PASS, reasons),
        hypothesis="Writes are accepted",
        plan_digest="sha256:9b1d6f0c2f6d9a1f0a7c0b62a0a4c1c5b0e5f4a7d98c1b5f6d2e3a4b5c6d7e8f",
        effects=(
            Effect(
                "ec2:StopInstances",
                "i-0aaa1",
                "eu-central-1",
                "eu-central-1a",
                "stop i-0aaa1",
                "start i-0aaa1",
                ("ec2:StopInstances",),
                consented=True,
            ),
            Effect(
                "ec2:ReplaceNetworkAclAssociation",
                "subnet-0a",
                "eu-central-1",
                "eu-central-1a",
                "cut subnet-0a (10.0.1.0/24) from the network",
                "give subnet-0a its network ACL acl-0aaa back",
                ("ec2:ReplaceNetworkAclAssociation", "ec2:DescribeNetworkAcls"),
                consented=True,
            ),
        ),
        undo=(
            UndoRecord(1, "start_instances", {"instance_ids": ["i-0aaa1"]}, "eu-central-1", at(5.01), done=True),
            UndoRecord(
                2, "restore_acl", {"subnet_id": "subnet-0a", "acl_id": "acl-0aaa"}, "eu-central-1", at(5.02), done=True
            ),
        ),
        environment={
            "drkit": "0.1.0",
            "python": "3.11.2",
            "speed": 1.0,
            "machine": {"cores": 2, "system": "Linux"},
            "account_id": "123456789012",
        },
        instrument={
            "stable_s": 3.0,
            "calibration": CERTIFICATE,
        },
    )


def lost_writes() -> RunRecord:
    """The asynchronous replica was promoted while it lagged: acknowledged writes are gone, and two rows too many."""
    good = passed()
    account = LossAccount(
        "writes-fresh",
        2303,
        15,
        82,
        2190,
        (*range(140, 252), 260),
        (253, 255),
        (9001,),
        (300, 301),
        (77,),
        (),
        4,
        Interval(2.22, 2.26),
    )
    return replace(
        good,
        name="replica-lag-failover",
        objective=Objective(rto_s=1.95, rpo_s=1.0, availability=0.9995, error_rate=0.001),
        measurement=replace(good.measurement, losses=(account,), rpa=account.rpa),
        judgement=Judgement(
            Verdict.FAIL,
            (
                Reason(Verdict.FAIL, "integrity", "1 phantom, 2 resurrected, 1 corrupt row(s), 4 holes"),
                Reason(Verdict.FAIL, "rpo", "RPO achieved [2.22 s, 2.26 s], target 1 s; 113 acknowledged writes lost"),
                Reason(Verdict.FAIL, "availability", "96.46 % of the time, target 99.95 %"),
                Reason(Verdict.INCONCLUSIVE, "rto", "RTO achieved [1.918 s, 1.962 s], target 1.95 s lies inside"),
            ),
        ),
    )


def never_recovered() -> RunRecord:
    """The standby was missing: the service stayed down until the run gave up; one undo is pending."""
    good = passed()
    never = Interval(42.96, math.inf)
    down = tuple(series(s.name, s.kind, s.role, (5.04, 60.0), s.connection) for s in good.history.series)
    marks = tuple(m for m in good.history.marks if m.t_lo_ns <= at(6.13))
    return replace(
        good,
        target="staging",
        target_kind="aws",
        history=History((*marks, mark(48, 48, MarkKind.RUN_ENDED, "gave up")), down),
        measurement=replace(
            NOTHING,
            outages=tuple(outage(s.name, 5.04, None) for s in down[:3]),
            impact=(at(5.02), at(5.05)),
            rta=never,
            rta_by_series={"http": never, "writes-fresh": never},
            unmeasured={"rpa": "the writer endpoint never answered again", "ttd": "no alarm was seen"},
        ),
        judgement=Judgement(
            Verdict.FAIL,
            (
                Reason(Verdict.INCONCLUSIVE, "rpo", "the surviving rows could not be read"),
                Reason(Verdict.FAIL, "rto", "not recovered within 42.96 s, target 900 s"),
            ),
        ),
        undo=(*good.undo[:1], replace(good.undo[1], done=False)),
        ended=False,
        environment={},
        instrument={},
    )


def invalid() -> RunRecord:
    """The fault hit nothing: no outage, no loss, and no proof of anything."""
    good = passed()
    calm = tuple(series(s.name, s.kind, s.role, None, s.connection) for s in good.history.series)
    return replace(
        good,
        history=History((*good.history.marks[:4], mark(5.1, 5.2, MarkKind.TOOTHLESS, "lose-zone", hit=0)), calm),
        measurement=replace(NOTHING, rta=Interval(0, 0.04), rpa=Interval(0, 0.02)),
        judgement=Judgement(Verdict.INVALID, (Reason(Verdict.INVALID, "fault", "lose-zone hit nothing"),)),
    )


def aborted() -> RunRecord:
    """Stopped before the baseline: nothing was broken and nothing was recorded but that."""
    return replace(
        passed(),
        history=History(
            (
                mark(0, 0, MarkKind.RUN_STARTED, "az-failure"),
                mark(0.2, 0.2, MarkKind.ABORTED, "a person pressed Ctrl-C"),
            ),
            (),
        ),
        measurement=NOTHING,
        judgement=Judgement(Verdict.ABORTED, (Reason(Verdict.ABORTED, "aborted", "a person pressed Ctrl-C"),)),
        undo=(),
        effects=(),
    )


def nothing_at_all() -> RunRecord:
    """The poorest record there can be."""
    return RunRecord(
        run_id="r",
        number=1,
        name="az-failure",
        title="",
        description="",
        kind="experiment",
        target="lab",
        target_kind="lab",
        started_at="2026-11-22T15:54:10Z",
        origin_ns=0,
        objective=Objective(),
        history=History((), ()),
        measurement=NOTHING,
        judgement=Judgement(Verdict.INCONCLUSIVE, ()),
        ended=False,
    )


EVERY_RECORD = (passed, lost_writes, never_recovered, invalid, aborted, nothing_at_all)
