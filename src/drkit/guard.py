"""May it be hurt? The only place where a Permit is made. Pure: facts come in, a Permit or a Refused comes out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from drkit.errors import Aborted, Refused
from drkit.model import Effect

GLOBAL = "global"  # the region of services that have none, such as Route 53
_TOKEN = object()


class Permit:
    """Leave to break what a plan named, for one run; revoked when the run aborts or loses its lease.

    Made by `authorise` only. Every function that breaks something takes one and calls `check` first.
    real: it is for a real recovery. A person approved the plan by name, and resources need not carry the consent tag.
    """

    def __init__(self, run_id: str, *, real: bool = False, _token: object = None) -> None:
        if _token is not _TOKEN:
            raise TypeError("a Permit comes from guard.authorise only")
        self.run_id = run_id
        self.real = real
        self.also_ask: Callable[[], str | None] = lambda: None  # asked at each check: why not any more, or None
        self._revoked: str | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Aborted if the permit has been revoked."""
        if why := self._revoked or self.also_ask():
            raise Aborted(f"not breaking anything more: {why}")

    def revoke(self, why: str) -> None:
        """Take the leave back; the first reason stays."""
        with self._lock:
            self._revoked = self._revoked or why


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """A time in which nothing may be broken."""

    starts: datetime
    ends: datetime
    why: str = "change freeze"

    def __post_init__(self) -> None:
        """Raise ValueError unless both times say of which time zone they are, and the first is the earlier one."""
        if self.starts.tzinfo is None or self.ends.tzinfo is None:
            raise ValueError("starts and ends of a freeze need a time zone: 2026-12-20T00:00:00Z")
        if self.ends <= self.starts:
            raise ValueError("a freeze ends after it starts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """[guard] of drkit.toml."""

    allowed_accounts: tuple[str, ...] = ()
    allowed_regions: tuple[str, ...] = ()  # empty: the target's own two
    freeze: tuple[Freeze, ...] = ()
    effects_max: int = 50
    stop_alarms: tuple[str, ...] = ()  # CloudWatch alarms: firing before the start refuses, firing later aborts
    incident_file: str = ""  # while this file exists, there is an open incident
    allow_unresolved: bool = (
        False  # activities of other libraries, whose resources plan cannot resolve, on real accounts
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlastRadius:
    """The most an experiment may touch; part of the experiment's file."""

    zones_max: int = 1
    instances_max: int | None = None
    databases_max: int = 1
    regions_max: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was true of the target just now, asked with read-only calls."""

    target: str
    account_id: str  # the target's
    caller_account_id: str  # sts:GetCallerIdentity
    regions: tuple[str, ...]  # the target's
    loopback: bool  # the APIs are on this machine: nothing real can be hurt
    now: datetime
    alarms_firing: tuple[str, ...] = ()
    open_incident: str = ""
    unfinished: tuple[str, ...] = ()  # runs, of whatever machine, that have not put everything back
    recovering: str = ""  # the playbook's run, of whatever machine, that recovers it
    consent_tag: tuple[str, str] = ("drkit:consent", "yes")
    unresolved: tuple[str, ...] = field(default_factory=tuple)  # activities whose effects are not known beforehand


def authorise(
    run_id: str,
    effects: Sequence[Effect],
    *,
    facts: Facts,
    rules: Rules,
    blast_radius: BlastRadius,
    real: bool = False,
    recovery: bool = False,
) -> Permit:
    """Return the leave to carry out exactly these effects, or raise Refused with the first reason not to.

    recovery: a playbook, which may find that nothing is to be changed. real: of a system that serves. What keeps
    experiments away from a system in trouble (freeze, incident, alarms) or within bounds (consent tags, blast radius,
    effects_max) does not refuse it: that is what recovery is for. The wrong account or region, another run there, and
    activities whose effects nobody can know do.
    """
    name = facts.target
    breaking = "recovering" if real else "breaking"
    if facts.caller_account_id != facts.account_id:
        raise Refused(
            f"not {breaking} {name}: the credentials are of account {facts.caller_account_id}, the target is in "
            f"{facts.account_id}",
            "choose the right profile or role in the target file",
        )
    if not facts.loopback and facts.account_id not in rules.allowed_accounts:
        raise Refused(
            f"not {breaking} {name}: account {facts.account_id} is not in allowed_accounts",
            f"add it to [guard] in drkit.toml if {facts.account_id} really is "
            + ("the account to recover" if real else "a test account"),
        )
    regions = rules.allowed_regions or facts.regions
    for effect in effects:
        if effect.region not in ("", GLOBAL) and effect.region not in regions:
            raise Refused(
                f"not {breaking} {effect.resource}: region {effect.region} is not allowed",
                f"allowed: {', '.join(regions)}; see allowed_regions in [guard] of drkit.toml",
            )
    if not real:
        _is_the_time(facts, rules)
    if facts.unfinished:
        other = facts.unfinished[0]
        more = f" (and {len(facts.unfinished) - 1} more)" if len(facts.unfinished) > 1 else ""
        raise Refused(
            f"not {breaking} {name}: run {other}{more} is going on there, or has left something broken",
            f"wait for it, or put it back: drkit undo {other}; from another machine, or if that finds nothing: "
            f"drkit undo {other} --from-cloud --target {name}",
        )
    if facts.recovering:
        raise Refused(
            f"not breaking {name}: run {facts.recovering} recovers it",
            f"go on with that one: drkit resume {facts.recovering}; how far it is: drkit status",
        )
    if facts.alarms_firing and not real:
        raise Refused(
            f"not breaking {name}: already in alarm: {', '.join(facts.alarms_firing)}",
            "mend that first: an experiment starts from a healthy system",
        )
    if facts.unresolved and not (facts.loopback or rules.allow_unresolved):
        raise Refused(
            f"not running {', '.join(facts.unresolved)}: what it will hit cannot be resolved beforehand",
            "set allow_unresolved = true in [guard] of drkit.toml to accept that",
        )
    if not real and (effects or not recovery):
        _may_be_hit(effects, facts, rules, blast_radius)
    return Permit(run_id, real=real, _token=_TOKEN)


def _is_the_time(facts: Facts, rules: Rules) -> None:
    """Raise Refused while no experiment may start."""
    for freeze in rules.freeze:
        if freeze.starts <= facts.now < freeze.ends:
            raise Refused(
                f"not breaking {facts.target}: {freeze.why} until {freeze.ends:%Y-%m-%d %H:%M %Z}",
                "wait, or change [[guard.freeze]] in drkit.toml",
            )
    if facts.open_incident:
        raise Refused(
            f"not breaking {facts.target}: an incident is open ({facts.open_incident})",
            "experiments wait until it is closed",
        )


def _may_be_hit(effects: Sequence[Effect], facts: Facts, rules: Rules, blast_radius: BlastRadius) -> None:
    """Raise Refused unless there is something to hit, all of it consents, and it is not too much at once."""
    if not effects and not facts.unresolved:
        raise Refused(
            f"nothing to break on {facts.target}: the experiment's selection is empty",
            "check zone and tags with: drkit plan",
        )
    key, value = facts.consent_tag
    for effect in effects:
        if not effect.consented:
            raise Refused(
                f"not breaking {effect.resource}: it does not carry the tag {key}={value}",
                "tag the resources that may be hurt, on purpose, one by one",
            )
    _within("zones", {e.zone for e in effects if e.zone}, blast_radius.zones_max)
    _within("regions", {e.region for e in effects} - {"", GLOBAL}, blast_radius.regions_max)
    _within("databases", {e.resource for e in effects if e.call.startswith("rds:")}, blast_radius.databases_max)
    instances = {e.resource for e in effects if e.resource.startswith("i-")}
    if blast_radius.instances_max is not None:
        _within("instances", instances, blast_radius.instances_max)
    _within("calls", set(range(len(effects))), rules.effects_max, "effects_max in [guard] of drkit.toml")


def _within(what: str, touched: set[str] | set[int], most: int, where: str = "the experiment's blast_radius") -> None:
    if len(touched) > most:
        raise Refused(
            f"blast radius: {len(touched)} {what} would be touched, at most {most} may be",
            f"the limit is set in {where}",
        )
