"""What the calibration certificate that came with a run is worth, in words.

It is read as the JSON that it is in the record, and not through drkit.certificate: a stored run may carry one of
another version, with other keys. That both judge alike is tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from drkit.certificate import COVERAGE_AT_LEAST, DISTURBED_AT_MOST, WIDTH_AT_MOST_PERIODS
from drkit.model import RunRecord, type_json
from drkit.report import numbers
from drkit.report.document import Block, Grid, Text

Certificate = Mapping[str, type_json]


def certificate(record: RunRecord) -> Certificate | None:
    """Return the calibration certificate that came with the run, if any."""
    found = next((record.instrument[k] for k in ("calibration", "certificate") if record.instrument.get(k)), None)
    return found if isinstance(found, Mapping) else {"certificate": found} if found else None


def warnings(record: RunRecord) -> tuple[str, ...]:
    """Return what a reader must know of the instrument before any number; nothing if it may be trusted."""
    found = certificate(record)
    if found is None:
        return ("Not calibrated: no calibration certificate belongs to this run. drkit calibrate",)
    said = []
    if why := objections(found):
        said.append(
            f"The instrument may not be trusted: by its calibration certificate, {'; '.join(why)}. drkit calibrate"
        )
    made_by, used = found.get("version"), record.environment.get("drkit")
    if made_by != used and made_by and used:
        said.append(
            f"The calibration certificate is of another version: it was made by drkit {numbers.words(made_by)}, "
            f"and this run by {numbers.words(used)}. drkit calibrate"
        )
    return tuple(said)


def objections(found: Certificate) -> tuple[str, ...]:
    """Return why an instrument with this certificate may not be trusted, one clause each; silence is a reason too."""
    told = []
    coverage, width = _number(found, "coverage"), _number(found, "mean_width_periods")
    if coverage is None:
        told.append("nobody knows how often it covered the true outage")
    elif coverage < COVERAGE_AT_LEAST:
        told.append(
            f"it covered the true outage in {numbers.percent(round(coverage, 6))} of trials, not in "
            f"{numbers.percent(COVERAGE_AT_LEAST)}"
        )
    losses, exact = _number(found, "losses"), _number(found, "losses_exact")
    if losses is None or exact is None:
        told.append("nobody knows how often it counted lost rows exactly")
    elif exact < losses:
        told.append(f"it counted lost rows exactly in {exact:g} of {losses:g} trials")
    if width is None or width > WIDTH_AT_MOST_PERIODS:
        is_ = "unknown" if width is None else f"{width:.2f} p"
        told.append(f"its mean width was {is_}, and may be {WIDTH_AT_MOST_PERIODS:g} p")
    disturbed, trials = _number(found, "disturbed"), _number(found, "trials")
    if disturbed is not None and trials is not None and disturbed > DISTURBED_AT_MOST * trials:
        told.append(f"the machine was too busy: the probe lost ticks in {disturbed:g} of {trials:g} trials")
    return tuple(told)


def blocks(record: RunRecord) -> tuple[Block, ...]:
    """Return the certificate as a section of the report tells it."""
    found = certificate(record)
    if found is None:
        return (Text("Calibration: not calibrated."),)
    told: list[Block] = [Grid("Calibration certificate", ("", "value"), tuple(_facts(found)))]
    kinds = found.get("kinds")
    if isinstance(kinds, list | tuple) and (rows := tuple(_kind(k) for k in kinds if isinstance(k, Mapping))):
        head = ("fault", "trials", "covered", "disturbed", "period p", "shows within", "width", "beyond that", "rows")
        told.append(Grid("Known faults, and how closely each was measured (widths are means)", head, rows))
    return tuple(told)


def _facts(found: Certificate) -> Iterator[tuple[str, str]]:
    why = objections(found)
    yield "may be trusted", "yes" if not why else f"NO: {'; '.join(why)}"
    made = " ".join(
        f"{before} {numbers.words(found[key])}"
        for before, key in (("by drkit", "version"), ("on", "machine"))
        if found.get(key)
    )
    at = numbers.to_the_second(numbers.words(found.get("made_at", "")))
    yield "made", ", ".join(part for part in (at, made, _took(found)) if part) or numbers.ABSENT
    shown = {str(key): _shown(str(key), value) for key, value in found.items()}
    for name, words in (
        ("known outages covered", "{coverage} of {trials} trials; {coverage_of_all} with the disturbed ones"),
        (
            "mean width",
            "{mean_width_periods} p beyond the time in which the failure shows; it may be "
            + f"{WIDTH_AT_MOST_PERIODS:g} p",
        ),
        ("lost rows counted exactly", "in {losses_exact} of {losses} trials"),
        ("trials disturbed by a busy machine", "{disturbed}"),
        ("truth known to", "{truth_known_to_s}"),
        ("time-out τ", "{timeout_s}"),
        ("successes must last (W)", "{window_s}"),
        ("misses", "{misses}"),
        ("dice", "seed {seed}"),
        ("hash", "{hash}"),
    ):
        try:
            yield name, words.format_map(shown)
        except KeyError:  # a certificate without that number
            continue
    for key in sorted(found.keys() - _SAID, key=str):
        yield str(key).replace("_", " "), numbers.short(numbers.words(found[key]), 600)


_SAID = {
    "version", "made_at", "machine", "seed", "trials", "timeout_s", "window_s", "disturbed", "coverage",
    "coverage_of_all", "mean_width_periods", "losses", "losses_exact", "truth_known_to_s", "took_s", "kinds", "misses",
    "hash",
}  # fmt: skip


def _shown(key: str, value: type_json) -> str:
    """Return a value of the certificate with the unit that its key names; an empty list is "none"."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return numbers.words(value) or "none"
    if key.startswith("coverage"):
        return numbers.percent(round(value, 6))
    if key.endswith("_periods"):
        return f"{value:.2f}"
    return numbers.seconds(value) if key.endswith("_s") else numbers.words(value)


def _kind(kind: Certificate) -> tuple[str, ...]:
    def shown(key: str, write: str = "{}") -> str:
        value = _number(kind, key)
        if value is None:
            return numbers.ABSENT
        return numbers.seconds(value) if key.endswith("_s") else write.format(f"{value:.3g}")

    exact = _number(kind, "rows_exact")
    return (
        numbers.words(kind.get("kind", "")),
        *(shown(key) for key in ("trials", "covered", "disturbed", "every_s")),
        shown("allowance_s") if _number(kind, "allowance_s") else "at once",
        shown("mean_width_s"),
        shown("mean_width_periods", "{} p"),
        numbers.ABSENT if exact is None else f"exact in {exact:g}",
    )


def _took(found: Certificate) -> str:
    took_s = _number(found, "took_s")
    return "" if took_s is None else f"in {numbers.seconds(round(took_s))}"


def _number(found: Certificate, key: str) -> float | None:
    value = found.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
