"""A playbook as a page for people: the runbook, to be printed and kept where it can be read when nothing else can."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from drkit.model import Objective
from drkit.report import numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class RunbookStep:
    """One step in words. `number`: "3", or "3a" of one in a block that is carried out side by side."""

    number: str
    name: str
    by: str  # "drkit", "a person", "another person"
    what: str  # a paragraph
    at_most_s: float
    given: str = ""  # its arguments: "instance: replica; region: recovery"
    when: str = ""  # "variable=value"
    done_when: str = ""
    undo: str = ""
    iam: tuple[str, ...] = ()
    by_hand: str = ""
    lasting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Runbook:
    """A playbook in words."""

    name: str
    title: str
    description: str
    before: str
    tier: str
    objective: Objective
    variables: tuple[tuple[str, str], ...]
    prerequisites: tuple[RunbookStep, ...]
    steps: tuple[RunbookStep, ...]


_TIERS = {
    "A": "tier A: the replica is promoted",
    "B": "tier B: the backup is restored, so it counts once it is verified",
}


def render(book: Runbook) -> str:
    """Return the page as Markdown."""
    tier = f", {_TIERS.get(book.tier, '')}" if book.tier else ""
    lines = [f"# {book.title}", "", f"Playbook `{book.name}`{tier}.", "", "## When to use it", "", book.description, ""]
    if book.before:
        lines += ["Before it is started:", "", book.before, ""]
    lines += ["## What is promised", "", *_promises(book.objective), ""]
    if book.variables:
        lines += ["## What can be chosen", "", "| variable | default |", "|---|---|"]
        lines += [f"| `{name}` | {f'`{value}`' if value else 'none'} |" for name, value in book.variables]
        lines += ["", f"`--var NAME=VALUE` of `drkit playbook plan {book.name}` and of its run.", ""]
    if book.prerequisites:
        lines += ["## What must be true first", ""]
        lines += ["drkit asks all of it before the first step. If one does not hold, nothing is touched.", ""]
        lines += [f"- **{p.name}**: {p.what}" for p in book.prerequisites] + [""]
    lines += ["## Steps", ""]
    for step in book.steps:
        lines += _step(step)
    lines += _how(book)
    lines += _by_hand(book)
    return "\n".join(lines).rstrip() + "\n"


def _promises(objective: Objective) -> Iterator[str]:
    until = "until the data is verified" if objective.verified else "until the service answers again, and goes on to"
    o, s = objective, numbers.seconds
    found = (
        ("RTO", o.rto_s is not None and f"≤ {s(o.rto_s)}, from the first failure that a client sees {until}"),
        ("RPO", o.rpo_s is not None and f"≤ {s(o.rpo_s)} of acknowledged writes may be lost"),
        ("lost writes", o.lost_writes_max is not None and f"≤ {o.lost_writes_max} acknowledged writes"),
        ("MTTR", o.mttr_s is not None and f"≤ {s(o.mttr_s)}, the mean of many runs"),
        ("availability", o.availability is not None and f"≥ {numbers.percent(o.availability)}"),
        ("latency p95", o.p95_s is not None and f"≤ {s(o.p95_s)}"),
        ("error rate", o.error_rate is not None and f"≤ {numbers.percent(o.error_rate)}"),
    )
    rows = [f"| {name} | {told} |" for name, told in found if told]
    yield from ("| objective | target |", "|---|---|", *rows) if rows else ("Nothing is promised.",)


def _step(step: RunbookStep) -> list[str]:
    lines = [f"### {step.number}. {step.name}", ""]
    lines += [f"*By {step.by}, at most {numbers.seconds(step.at_most_s)}"]
    lines[-1] += f"; only if `{step.when}`*" if step.when else "*"
    lines += ["", step.what, ""]
    facts = [
        ("With", step.given),
        ("Done when", step.done_when),
        ("Undo", step.undo),
        ("Asked again on resume", "it must still be so whenever the run is gone on with" if step.lasting else ""),
        ("IAM", ", ".join(f"`{a}`" for a in step.iam)),
        ("By hand", step.by_hand),
    ]
    told = [f"- {name}: {words}" for name, words in facts if words]
    return [*lines, *told, *([""] if told else [])]


def _how(book: Runbook) -> list[str]:
    asks = next((s for s in book.steps if s.by != "drkit"), None)
    lines = [
        "## How to run it",
        "",
        "```console",
        f"$ drkit playbook plan {book.name} --target TARGET  # what it would change, call by call; its digest",
        f"$ drkit playbook run {book.name} --target TARGET --real --plan DIGEST --since 2026-11-22T15:54:10Z",
        "$ drkit status last --watch  # in another terminal: steps, questions, what clients see",
    ]
    if asks is not None:
        lines.append(f"$ drkit approve last {asks.name}  # or with --no; a note: --note TEXT")
    lines += [
        "$ drkit note last TEXT  # into the history, and so into the report",
        "$ drkit abort last  # stop it; nothing is put back",
        "$ drkit resume last  # go on where it stopped or was killed",
        "$ drkit undo last  # put back what it has done so far; one that came to its end keeps it",
        "```",
        "",
        "To practise: leave out `--real`, and name the lab (the default) or a copy of the target.",
        "",
    ]
    return lines


def _by_hand(book: Runbook) -> list[str]:
    """Return what to do if drkit is not at hand: every step, with its command where it has one."""
    lines = ["## If drkit is not at hand", "", "In this order; see each one done before the next is begun.", ""]
    for step in book.steps:
        whole = " ".join(step.what.split())
        alone = step.by_hand or (whole if step.by != "drkit" else whole.partition(". ")[0].rstrip("."))
        given = f" [{step.given}]" if step.given else ""
        only = f", only if {step.when}" if step.when else ""
        lines.append(f"- {step.number}. **{step.name}** ({step.by}{only}): {alone}{given}")
    return lines
