"""How well the instrument measured what was known: the result of `drkit calibrate`, part of every run's record."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drkit import errors

COVERAGE_AT_LEAST = 0.99
DISTURBED_AT_MOST = 0.1  # of the trials
WIDTH_AT_MOST_PERIODS = 2.2


@dataclass(frozen=True, slots=True)
class KindResult:
    """All trials of one kind."""

    kind: str
    trials: int
    covered: int
    every_s: float
    allowance_s: float  # mean; the time in which a failure of this kind shows (τ for a black hole), beyond the periods
    mean_width_s: float | None
    mean_width_periods: float | None  # (width − allowance) / p
    rows_exact: int | None  # trials with an exact loss account; None where no rows were tampered with
    disturbed: int


@dataclass(frozen=True, slots=True)
class Certificate:
    """How well this instrument measured what was known, on this machine. Part of every run's record."""

    version: str
    made_at: str
    machine: str
    seed: int
    trials: int
    timeout_s: float  # τ
    window_s: float  # W
    disturbed: int  # trials in which the probe itself said that it lost more than 1 % of its ticks: a run were INVALID
    coverage: float  # share of undisturbed trials whose start, end and length were all covered
    coverage_of_all: float  # the same with the disturbed ones
    mean_width_periods: float | None  # of undisturbed trials
    losses: int  # trials in which rows were tampered with, disturbed or not
    losses_exact: int
    truth_known_to_s: float  # the least exactly known truth of all trials
    took_s: float
    kinds: tuple[KindResult, ...]
    misses: tuple[str, ...]  # what was wrong, by trial
    hash: str = ""

    @property
    def holds(self) -> bool:
        """Whether the instrument may be trusted."""
        return not self.objections

    @property
    def objections(self) -> tuple[str, ...]:
        """Why it may not, one sentence each."""
        found = []
        if self.coverage < COVERAGE_AT_LEAST:
            found.append(f"it covered the true outage in {self.coverage:.1%} of trials, not in {COVERAGE_AT_LEAST:.0%}")
        if self.losses_exact < self.losses:
            found.append(f"it counted lost rows exactly in {self.losses_exact} of {self.losses} trials")
        if self.mean_width_periods is None or self.mean_width_periods > WIDTH_AT_MOST_PERIODS:
            width = "unknown" if self.mean_width_periods is None else f"{self.mean_width_periods:.2f} p"
            found.append(f"its mean width was {width}, and may be {WIDTH_AT_MOST_PERIODS:g} p")
        if self.disturbed > DISTURBED_AT_MOST * self.trials:
            found.append(f"the machine was too busy: the probe lost ticks in {self.disturbed} of {self.trials} trials")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sealed(certificate: Certificate) -> Certificate:
    """Return the certificate with the hash of all else in it."""
    document = certificate.to_json() | {"hash": ""}
    return replace(certificate, hash=hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest())


def save(certificate: Certificate, path: Path) -> None:
    """Write a certificate as JSON, replacing an older one at once. Raises RunDirError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.write_text(json.dumps(certificate.to_json(), indent=2) + "\n", encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise errors.RunDirError(f"cannot write {path}: {error.strerror}") from error


def load(path: Path) -> Certificate | None:
    """Return the certificate in a file, None if there is no file. Raises BadDocument if it was altered."""
    try:
        certificate = _from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.BadDocument(f"not a calibration certificate: {path}", "run `drkit calibrate`") from error
    if sealed(certificate).hash != certificate.hash:
        raise errors.BadDocument(f"calibration certificate was altered: {path}", "run `drkit calibrate`")
    return certificate


def _from_json(document: dict[str, Any]) -> Certificate:
    return Certificate(
        **{
            **document,
            "kinds": tuple(KindResult(**k) for k in document["kinds"]),
            "misses": tuple(document["misses"]),
        }
    )
