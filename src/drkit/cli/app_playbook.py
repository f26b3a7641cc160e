"""`drkit playbook …`: what can be said of recoveries, and of one that is under way."""

# No `from __future__ import annotations`: see words.py.

from enum import StrEnum
from typing import Annotated

import typer

from drkit.cli import complete
from drkit.cli.words import Json, Plan, Reports, Run, Speed, Target, Variables, command, group

playbook = group("Playbooks: recoveries, step by step, that can be killed anywhere and gone on with.")

Book = Annotated[
    str, typer.Argument(metavar="NAME", help="A playbook, or its file.", autocompletion=complete.playbooks)
]
ToTime = Annotated[
    str | None, typer.Option("--to-time", metavar="TIME", help="Restore to this time; short for --var to_time=TIME.")
]
Watching = Annotated[bool, typer.Option("--watch", help="Go on looking until it is over, or Ctrl-C.")]


class Page(StrEnum):
    MD = "md"


@command(playbook, "list", "drkit playbook list", "drkit playbook list --json | jq -r '.playbooks[].name'")
def list_(json: Json = False) -> int:
    """List the playbooks that can be run: the project's own, then those that come with drkit."""
    from drkit.cli import playbooks

    return playbooks.list_(as_json=json)


@command(
    playbook,
    "show",
    "drkit playbook show failover-to-standby",
    "drkit playbook show failover-to-standby --format md  # the runbook page, to print and to keep",
)
def show(
    name: Book,
    form: Annotated[Page | None, typer.Option("--format", "-f", metavar="md", help="Print the runbook page.")] = None,
    json: Json = False,
) -> int:
    """Show what a playbook does, what it promises, and what it asks of people."""
    from drkit.cli import playbooks

    return playbooks.show(name, page=form is not None, as_json=json)


@command(
    playbook,
    "plan",
    "drkit playbook plan failover-to-standby",
    "drkit playbook plan failover-to-standby --target staging --json",
)
def plan(
    name: Book,
    target: Target = None,
    var: Variables = None,
    to_time: ToTime = None,
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Resolve what a playbook would touch, step by step, with read-only questions; change nothing.

    Its digest is what gets approved: `drkit playbook run NAME --plan DIGEST` refuses if anything has changed since.
    """
    from drkit.cli import playbooks

    return playbooks.plan(name, target, var=var or [], to_time=to_time, reports=reports, as_json=json)


@command(
    playbook,
    "run",
    "drkit playbook run failover-to-standby  # practise, on the lab",
    "drkit playbook run failover-to-standby --target production --real --plan 3f9c2a71 --since 2026-11-22T15:54:10Z",
    "drkit playbook run failover-to-standby --target copy --var approve=no --json",
)
def run(
    name: Book,
    target: Target = None,
    var: Variables = None,
    plan: Plan = None,
    real: Annotated[
        bool, typer.Option("--real", help="For real, on a target that is neither a lab nor a copy.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Since when the service is down (2026-11-22T15:54:10Z)."),
    ] = None,
    instead_of: Annotated[
        str | None, typer.Option("--instead-of", metavar="RUN", help="Whose machine is lost and will never go on.")
    ] = None,
    to_time: ToTime = None,
    reports: Reports = None,
    speed: Speed = None,
    json: Json = False,
) -> int:
    """Recover a target step by step, and measure the recovery by what its clients see.

    Nothing is undone by itself: a run that stops stays as it is, `drkit resume` goes on with it and `drkit undo` puts
    back what it did. The lab is started if it is down. Exit codes as of drkit run.
    """
    from drkit.cli import recovering

    return recovering.run(
        name,
        target,
        var=var or [],
        plan=plan,
        real=real,
        since=since,
        instead_of=instead_of or "",
        to_time=to_time,
        reports=reports,
        speed=speed,
        as_json=json,
    )


# --- a recovery under way; registered at the top by app.py ------------------------------------------------------------


def add_to(app: typer.Typer) -> None:
    """Register the commands about a run."""
    command(app, "resume", "drkit resume last", "drkit resume 3f9c --json")(resume)
    command(
        app,
        "approve",
        "drkit approve last promote-ok",
        'drkit approve last promote-ok --no --note "the first region is coming back"',
        'drkit approve 3f9c tell-support --note "told at 16:02, ticket 4711"',
    )(approve)
    command(app, "note", 'drkit note last "AWS confirms the outage: case 1234"')(note)
    command(app, "status", "drkit status", "drkit status last --watch", "drkit status --json")(status)


def resume(run: Run, reports: Reports = None, json: Json = False) -> int:
    """Go on with a playbook's run where it stopped or was killed; what is done already is not done again."""
    from drkit.cli import recovering

    return recovering.resume(run, reports=reports, as_json=json)


def approve(
    run: Run,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step that asks.", autocompletion=complete.steps)],
    no: Annotated[bool, typer.Option("--no", help="Do not approve: the run stops at this step.")] = False,
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", help="Why, or what was done; of a manual step it is needed.")
    ] = "",
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Answer the question that a step of a running playbook asks, or confirm that its manual work is done."""
    from drkit.cli import answers

    return answers.approve(run, step, yes=not no, note=note, reports=reports, as_json=json)


def note(
    run: Run,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What shall be in the run's history.")],
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Write a person's words into a run's history: they are part of its report and of its evidence."""
    from drkit.cli import answers

    return answers.note(run, text, reports=reports, as_json=json)


def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="One run in detail; without it, all of them.", autocompletion=complete.runs),
    ] = None,
    watch: Watching = False,
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Show what goes on: runs, steps, waiting questions, and what is left broken or half done.

    Exit code 0 if nothing is wrong, 5 if something is left broken, 3 if a playbook stands half-way.
    """
    from drkit.cli import status as statuses

    return statuses.status(run, watch=watch, reports=reports, as_json=json)
