"""The values that everything else speaks in: frozen, typed, without behaviour that touches the world.

Times are integers in nanoseconds on one monotonic clock (`_ns`); durations are floats in seconds (`_s`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

type_json = Any  # what json.loads returns; only catalog and engine look into it


# --- what a client saw ------------------------------------------------------------------------------------------------


class Outcome(StrEnum):
    """How one attempt ended, as the client knows it."""

    OK = "ok"
    FAILED = "failed"  # certainly not done
    UNKNOWN = "unknown"  # sent, and no answer that can be trusted: it may have been done


class ErrorClass(StrEnum):
    """Why an attempt was not OK: it tells which layer came back late."""

    REFUSED = "refused"
    RESET = "reset"
    TIMEOUT = "timeout"
    DNS = "dns"
    TLS = "tls"
    AUTH = "auth"
    READ_ONLY = "read-only"  # SQLSTATE 25006
    SHUTTING_DOWN = "shutting-down"  # SQLSTATE 57P01, 57P02, 57P03
    NOT_REPLICATED = "not-replicated"  # SQLSTATE 01000: acknowledged although the wait for the standby was cancelled
    SERVER_ERROR = "server-error"  # HTTP 5xx
    TOO_SLOW = "too-slow"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request of an open-loop probe. Due, sent and done are monotonic; latency counts from due_ns."""

    seq: int
    due_ns: int
    sent_ns: int
    done_ns: int
    outcome: Outcome
    error: ErrorClass | None = None
    detail: str = ""


class ProbeKind(StrEnum):
    HTTP = "http"
    SQL = "sql"
    TCP = "tcp"


class Role(StrEnum):
    """What a series of attempts stands for in the measurement."""

    SERVICE = "service"  # what a user sees; counts for outage, RTA, availability
    WRITES = "writes"  # the same, and its acknowledged writes count for RPA
    WITNESS = "witness"  # shows whether a fault bit (a probe inside the lost zone); never counts as the service


class Connection(StrEnum):
    FRESH = "fresh"  # a new connection for each attempt
    POOLED = "pooled"  # connections are kept and reused, as applications do


@dataclass(frozen=True, slots=True)
class Series:
    """All attempts of one probe, in the order sent.

    ticks_due is how many starts the schedule asked for, ticks_lost how many were skipped or started later than one
    period after they were due: more than 1 % makes a run INVALID.
    """

    name: str
    kind: ProbeKind
    role: Role
    every_s: float
    timeout_s: float
    attempts: tuple[Attempt, ...]
    connection: Connection = Connection.FRESH
    ticks_due: int = 0
    ticks_lost: int = 0
    complete: bool = True  # False: the probe died before it was told to stop
    unrecorded: tuple[tuple[int, int], ...] = ()  # seq lo..hi (hi excluded): may have been sent with no record left


@dataclass(frozen=True, slots=True)
class SurvivingRow:
    """A marker row as read back. `intact`: its stored checksum is the checksum of its own content."""

    seq: int
    intact: bool = True


@dataclass(frozen=True, slots=True)
class Survivors:
    """The marker rows of one writer series, read through the writer endpoint after recovery.

    `settled`: two reads in a row agreed. Where rows were read more than once in a run (after recovery, and again after
    everything was put back) there is one value for each reading.
    """

    series: str
    read_lo_ns: int
    read_hi_ns: int
    rows: tuple[SurvivingRow, ...]
    settled: bool = True


# --- what happened ----------------------------------------------------------------------------------------------------


class MarkKind(StrEnum):
    """Kinds of entries in a run's history. The first block is docs/measurement.md's table of events."""

    FAULT_REQUESTED = "fault-requested"
    FAULT_EFFECTIVE = "fault-effective"
    DETECTED = "detected"
    DECLARED = "declared"
    RECOVERY_START = "recovery-start"
    RECOVERY_END = "recovery-end"
    DATA_VERIFIED = "data-verified"
    REDUNDANCY_RESTORED = "redundancy-restored"
    ABORTED = "aborted"
    CLEANED_UP = "cleaned-up"

    RUN_STARTED = "run-started"  # first entry: identity
    PHASE = "phase"  # name: baseline, method, recovery, verification, undo, redundancy, residue, done
    ACTIVITY = "activity"  # one activity of the method; detail: status, output
    EVENT = "event"  # something the target itself reported (an RDS event)
    GUARD = "guard"  # a guard tripped; name: which
    UNDO = "undo"  # one undo carried out; detail: ok, message
    INSTRUMENT = "instrument"  # an instrument of ours failed: no PASS can come of this
    TOOTHLESS = "toothless"  # a fault hit nothing, failed, or its witness never confirmed it: INVALID
    BASELINE_MISSING = "baseline-missing"  # the steady state did not hold before the fault: INVALID
    CLOCK_STEPPED = "clock-stepped"
    HYPOTHESIS = "hypothesis"  # a steady-state probe before or after; detail: held
    RESIDUE = "residue"  # a difference in the control plane that should not be there
    NOTE = "note"  # a person's words
    IMPACT = "impact"  # since when the service is down, as a person told it who began to recover it
    STEP = "step"  # a playbook's step; detail: state (observed, waiting, begun, done, failed), facts, result, why
    ANSWER = "answer"  # a person's answer to a step; detail: by, yes, note
    RECOVERY_POINT = "recovery-point"  # the moment that a backup was restored to, as the target tells it
    RESUMED = "resumed"  # another process goes on with the playbook
    RECOVERED = "recovered"  # the playbook has come to its end
    GUARDIAN = "guardian"  # written by the guardian after drkit died
    RUN_ENDED = "run-ended"


@dataclass(frozen=True, slots=True)
class Mark:
    """One event: it happened in t_lo_ns..t_hi_ns. `detail` is JSON for people, except where MarkKind names a key."""

    t_lo_ns: int
    t_hi_ns: int
    kind: MarkKind
    name: str
    detail: Mapping[str, type_json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """Everything recorded in one run; all that verdicts are made of."""

    marks: tuple[Mark, ...]
    series: tuple[Series, ...]
    survivors: tuple[Survivors, ...] = ()


# --- what was promised ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Objective:
    """Targets; None means not promised, so not judged. Defaults of the system are in the seed document, §8 and §9."""

    rto_s: float | None = None
    verified: bool = False  # rto_s is promised until the data is verified, not until the service answers
    rpo_s: float | None = None
    lost_writes_max: int | None = None  # acknowledged writes that may be lost, of all writers together; 0: none
    mttr_s: float | None = None
    availability: float | None = None  # share of the observed time, 0..1
    p95_s: float | None = None
    error_rate: float | None = None  # share of requests, 0..1


# --- what was measured ------------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """Whether objectives were met, mildest first."""

    PASS = "pass"  # noqa: S105  (a verdict, not a password)
    INCONCLUSIVE = "inconclusive"  # the instrument could not tell
    FAIL = "fail"
    INVALID = "invalid"  # the run proves nothing: the fault did not bite, no baseline, a bad instrument
    ABORTED = "aborted"  # a guard fired, or a person stopped it

    @classmethod
    def worst(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Return the gravest verdict; nothing judged is INCONCLUSIVE, never PASS."""
        return max(verdicts, key=list(cls).index, default=cls.INCONCLUSIVE)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number known to lie in lo_s..hi_s, in seconds; it may be negative where a difference may be."""

    lo_s: float
    hi_s: float

    def __post_init__(self) -> None:
        if not self.lo_s <= self.hi_s:
            raise ValueError(f"not an interval: [{self.lo_s}, {self.hi_s}]")

    @property
    def width_s(self) -> float:
        return self.hi_s - self.lo_s

    def covers(self, truth_s: float) -> bool:
        """Return whether the truth lies inside, to the nanosecond."""
        return self.lo_s - 1e-9 <= truth_s <= self.hi_s + 1e-9

    def judge(self, limit_s: float) -> Verdict:
        """PASS if all of it is within the limit, FAIL if none of it is, INCONCLUSIVE if the limit lies inside."""
        if self.hi_s <= limit_s:
            return Verdict.PASS
        return Verdict.FAIL if self.lo_s > limit_s else Verdict.INCONCLUSIVE


@dataclass(frozen=True, slots=True)
class Outage:
    """One outage of one series: it began in start_lo_ns..start_hi_ns and ended in end_lo_ns..end_hi_ns.

    end_* are None if the series never became stable again; `lasted` is then the least it lasted (hi is infinite).
    """

    series: str
    start_lo_ns: int
    start_hi_ns: int
    end_lo_ns: int | None
    end_hi_ns: int | None
    lasted: Interval
    failures: Mapping[str, int]  # error class or outcome → attempts

    @property
    def recovered(self) -> bool:
        return self.end_hi_ns is not None


@dataclass(frozen=True, slots=True)
class LossAccount:
    """What became of one writer's acknowledged writes, by sequence number; docs/measurement.md, "Recovery point"."""

    series: str
    acknowledged: int  # A
    unknown: int  # I
    failed: int  # F
    read: int  # R, distinct
    lost: tuple[int, ...]
    recovered: tuple[int, ...]  # unknown ones that are there: allowed
    phantom: tuple[int, ...]
    resurrected: tuple[int, ...]
    corrupt: tuple[int, ...]
    duplicated: tuple[int, ...]
    holes: int  # surviving rows acknowledged after the first lost one: the loss is not a suffix
    rpa: Interval
    lost_later: tuple[
        int, ...
    ] = ()  # acknowledged after SERVICE_RESTORED, so not in rpa, and missing from a later reading

    @property
    def integrity_broken(self) -> bool:
        return bool(
            self.phantom or self.resurrected or self.corrupt or self.duplicated or self.holes or self.lost_later
        )


@dataclass(frozen=True, slots=True)
class Availability:
    """One series over the observed time. Shares are 0..1 as (lo, hi)."""

    series: str
    observed_s: float
    time_share_lo: float  # A_time
    time_share_hi: float
    good: int
    eligible: int
    request_share: float  # A_req
    error_rate_upper95: float  # upper 95 % bound of the failure rate (3/N with no failure)
    brownout_s: Interval  # SLO broken while some requests succeeded


@dataclass(frozen=True, slots=True)
class Latency:
    """Open-loop latency of one series from an HdrHistogram; time-outs enter at τ."""

    series: str
    count: int
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class Decomposition:
    """RTA in four parts: detect, decide (TTI), mitigate, verify. None: its events were not all seen.

    A negative part means that it healed by itself before it was seen.
    """

    ttd: Interval | None = None
    tti: Interval | None = None
    ttm: Interval | None = None
    ttv: Interval | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """All numbers of one run. An absent number is None, with the reason in `unmeasured`."""

    outages: tuple[Outage, ...]  # every outage of every series that stands for the service, in order of time
    headline_series: tuple[str, ...]  # the series behind rta
    impact: tuple[int, int] | None  # IMPACT_START bracket, ns; None: no failed attempt
    service_restored: tuple[int, int] | None  # SERVICE_RESTORED bracket, ns
    rta: Interval | None  # headline
    rta_slo: Interval | None
    rta_verified: Interval | None
    since_recovery_start: Interval | None  # NIST SP 800-34's start
    since_plan_start: Interval | None  # what AWS ARC reports
    redundancy: Interval | None  # IMPACT_START (else fault) → REDUNDANCY_RESTORED
    decomposition: Decomposition
    losses: tuple[LossAccount, ...]
    rpa: Interval | None  # worst of losses
    availability: tuple[Availability, ...]
    latency: tuple[Latency, ...]
    rta_by_series: Mapping[str, Interval] = field(default_factory=dict)  # fresh against pooled: a finding
    unmeasured: Mapping[str, str] = field(default_factory=dict)  # name of a number → why it is absent


@dataclass(frozen=True, slots=True)
class Reason:
    """One judged point. `what` names it (rto, rpo, integrity, availability, fault, baseline, instrument, …)."""

    verdict: Verdict
    what: str
    sentence: str  # "RTO achieved [1.92 s, 1.96 s], target 900 s"


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    reasons: tuple[Reason, ...]  # gravest first


# --- what a run is aimed at, and what it may do -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Effect:
    """One call that would change something, resolved to the exact resource, before it is made: what `plan` prints."""

    call: str  # "ec2:ReplaceNetworkAclAssociation"
    resource: str  # "subnet-0123"
    region: str
    zone: str = ""
    what: str = ""  # "cut subnet-0123 (10.0.1.0/24) from the network"
    undo: str = ""  # "give subnet-0123 its network ACL acl-0aaa back"
    iam: tuple[str, ...] = ()  # actions needed for it, its reads and its undo
    consented: bool = False  # the resource carries the target's consent tag


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step of a playbook before it is played."""

    name: str
    what: str  # one sentence
    by: str  # "drkit", "a person", "another person" (not the one who started the run)
    effects: tuple[Effect, ...] = ()
    parallel: bool = False  # side by side with its neighbours that are so too
    expected_s: float | None = None  # median of earlier runs


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, with its digest: the thing that gets approved."""

    name: str
    target: str
    kind: str
    effects: tuple[Effect, ...]
    digest: str
    expected_s: float | None = None  # median of earlier runs
    expected_from_runs: int = 0
    notes: tuple[str, ...] = ()
    steps: tuple[PlannedStep, ...] = ()  # of a playbook


@dataclass(frozen=True, slots=True)
class UndoRecord:
    """One line of undo.jsonl: what will put a fault right, written before the fault."""

    seq: int
    verb: str
    args: Mapping[str, type_json]
    region: str = ""
    at_ns: int = 0
    done: bool = False
    kept: bool = False  # done, but nothing was put back: a playbook that came to its end keeps its effects


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as a reader wants it: everything that report.render needs, and nothing live."""

    run_id: str  # the directory's name: 20261122T155410Z-az-failure-lab-3f9c
    number: int  # from the register; a gap is a run that was hidden
    name: str
    title: str
    description: str
    kind: str  # "experiment" | "playbook"
    target: str
    target_kind: str  # "lab" | "aws"
    started_at: str  # ISO 8601, UTC
    origin_ns: int  # the monotonic time that reports call 0 s
    objective: Objective
    history: History
    measurement: Measurement
    judgement: Judgement
    hypothesis: str = ""
    plan_digest: str = ""
    effects: tuple[Effect, ...] = ()
    steps: tuple[PlannedStep, ...] = ()  # of a playbook, as planned
    undo: tuple[UndoRecord, ...] = ()
    environment: Mapping[str, type_json] = field(default_factory=dict)  # versions, machine, lab speed, account, …
    instrument: Mapping[str, type_json] = field(default_factory=dict)  # p, τ, W per probe, calibration certificate
    ended: bool = True  # False: the run was cut short and nobody finished it
