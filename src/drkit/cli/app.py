"""What can be said on the command line: every command, its options, help and examples. What it does is elsewhere."""

# No `from __future__ import annotations`: Typer would evaluate each of them three times, a fifth of the time of --help.

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from drkit.cli import complete
from drkit.cli.app_lab import lab
from drkit.cli.app_playbook import add_to, playbook
from drkit.cli.app_target import target
from drkit.cli.words import HELP, PLAIN, Json, Name, Names, Plan, Reports, Run, Speed, Target, Variables, Zone, command
from drkit.errors import UsageError

app = typer.Typer(
    name="drkit",
    help="Break it on purpose, recover it, and measure the recovery from the client's side.",
    epilog="Start here: drkit run az-failure (on the lab: no account, nothing real is touched). "
    "Exit codes: 0 pass, 1 fail, 2 usage, 3 inconclusive, invalid or aborted, 4 refused, 5 something is still broken.",
    **HELP,
    **PLAIN,
)
for group, name in ((playbook, "playbook"), (target, "target"), (lab, "lab")):
    app.add_typer(group, name=name)


class Format(StrEnum):
    MD = "md"
    JSON = "json"
    HTML = "html"
    JUNIT = "junit"


# --- experiments ------------------------------------------------------------------------------------------------------


@command(app, "init", "drkit init  # here", "drkit init ../my-service")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The repository.")] = Path(),
    json: Json = False,
) -> int:
    """Add a drkit.toml, a sample experiment and a CI job to a repository; nothing that is there is changed."""
    from drkit.cli import setup

    return setup.init(directory, as_json=json)


@command(app, "list", "drkit list", "drkit list --json | jq -r '.experiments[].name'")
def list_(json: Json = False) -> int:
    """List the experiments that can be run: the project's own, then those that come with drkit."""
    from drkit.cli import look

    return look.list_(as_json=json)


@command(app, "show", "drkit show az-failure", "drkit show experiments/my-own.yaml  # checks it too")
def show(name: Name, json: Json = False) -> int:
    """Show what an experiment does, what it promises, and how it is measured."""
    from drkit.cli import look

    return look.show(name, as_json=json)


@command(
    app,
    "plan",
    "drkit plan az-failure",
    "drkit plan az-failure --zone b --target staging",
    "drkit plan az-failure --target targets/staging.json --json",
)
def plan(
    name: Name,
    target: Target = None,
    zone: Zone = None,
    var: Variables = None,
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Resolve what a run would touch, call by call, with read-only questions; break nothing.

    Its digest is what gets approved: `drkit run NAME --plan DIGEST` refuses if anything has changed since.
    """
    from drkit.cli import look

    return look.plan(name, target, zone=zone, var=var or [], reports=reports, as_json=json)


@command(
    app,
    "run",
    "drkit run az-failure  # on the lab, which is started if it is down",
    "drkit run az-failure --zone b",
    "drkit run rds-failover az-failure --json > result.json",
    "drkit run az-failure --target staging --plan 3f9c2a71",
    "drkit run replica-lag-failover --var lag_s=5",
)
def run(
    names: Names,
    target: Target = None,
    zone: Zone = None,
    var: Variables = None,
    plan: Plan = None,
    reports: Reports = None,
    speed: Speed = None,
    json: Json = False,
) -> int:
    """Break a target on purpose, put it back, and judge the recovery by what its clients saw.

    Ctrl-C stops a run and puts everything back. Several experiments run one after another; the gravest result is the
    exit code. If drkit itself is killed, its guardian puts everything back.
    """
    from drkit.cli import runs

    return runs.run(names, target, zone=zone, var=var or [], plan=plan, reports=reports, speed=speed, as_json=json)


# --- runs -------------------------------------------------------------------------------------------------------------


@command(
    app,
    "undo",
    "drkit undo last",
    "drkit undo 20261122T155410Z-az-failure-staging-3f9c --from-cloud --target staging  # this machine was lost",
)
def undo(
    run: Run,
    from_cloud: Annotated[
        bool, typer.Option("--from-cloud", help="Take what must be undone from the target's cloud, not from the disk.")
    ] = False,
    target: Target = None,
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Put back what a run left broken. Safe to repeat: what is right already is left alone."""
    from drkit.cli import undoing

    if from_cloud:
        return undoing.undo_from_cloud(run, target, as_json=json)
    if target is not None:
        raise UsageError("--target goes with --from-cloud", "a run on disk knows its target")
    return undoing.undo(run, reports=reports, as_json=json)


@command(app, "abort", "drkit abort last", "drkit abort 3f9c --wait")
def abort(
    run: Run = "last",
    wait: Annotated[bool, typer.Option("--wait", help="Until it has stopped.")] = False,
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Stop a run that is going on, from another terminal.

    An experiment puts everything back. A playbook puts nothing back: go on with drkit resume, or drkit undo.
    """
    from drkit.cli import undoing

    return undoing.abort(run, wait=wait, reports=reports, as_json=json)


@command(app, "measure", "drkit measure last", "drkit measure reports/20261122T155410Z-az-failure-lab-3f9c --json")
def measure(run: Run, reports: Reports = None, json: Json = False) -> int:
    """Judge a stored run again, by today's code, and say whether that differs from what was stored.

    Changes nothing on disk. The exit code is that of the verdict.
    """
    from drkit.cli import past

    return past.measure(run, reports=reports, as_json=json)


@command(
    app,
    "report",
    "drkit report last",
    "drkit report last --open",
    "drkit report last --format md >> $GITHUB_STEP_SUMMARY",
)
def report(
    run: Run,
    form: Annotated[
        Format | None, typer.Option("--format", "-f", metavar="md|json|html|junit", help="Print the report itself.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    reports: Reports = None,
    json: Json = False,
) -> int:
    """Say where a run's report is, or print it, made anew from the run's history."""
    from drkit.cli import past

    return past.report(run, form=form and form.value, open_it=show, reports=reports, as_json=json)


@command(app, "history", "drkit history", "drkit history --json")
def history(reports: Reports = None, json: Json = False) -> int:
    """List all runs, and the mean time to recovery of each scenario; runs that were removed show as gaps."""
    from drkit.cli import past

    return past.history(reports=reports, as_json=json)


add_to(app)


# --- the instrument and the machine -----------------------------------------------------------------------------------


@command(app, "calibrate", "drkit calibrate", "drkit calibrate --trials 40  # about a minute")
def calibrate(
    trials: Annotated[
        int, typer.Option("--trials", metavar="N", min=1, help="How many known outages to measure.")
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which ones.")] = 1,
    json: Json = False,
) -> int:
    """Prove the instrument against outages and losses that are known; every later report carries the certificate."""
    from drkit.cli import setup

    return setup.calibrate(trials, seed=seed, as_json=json)


@command(
    app,
    "doctor",
    "drkit doctor",
    "drkit doctor az-failure --target staging  # and the permissions it needs",
    "drkit doctor failback -t staging",
)
def doctor(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Also check the permissions that this experiment or playbook needs.",
            autocompletion=complete.experiments,
        ),
    ] = None,
    target: Target = None,
    json: Json = False,
) -> int:
    """Check what drkit needs on this machine and, for a target that you name, in its account."""
    from drkit.cli import doctor as checks

    return checks.doctor(name, target, as_json=json)


# --- all of it ---


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print drkit's version.", is_eager=True)] = False,
) -> None:
    if version:
        import drkit

        typer.echo(f"drkit {drkit.__version__}")
        raise typer.Exit


def obey(words: Sequence[str]) -> int:
    """Carry out one command line. Raises DrkitError, also for what Typer itself finds wrong."""
    command = typer.main.get_command(app)
    try:
        code = command.main(list(words), prog_name="drkit", standalone_mode=False)
    except typer.Abort:
        return 130
    except Exception as e:
        raise (_usage(e) or e) from e
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> UsageError | None:
    """Return an error of Typer's own parser as one of ours; None if it is something else."""
    # Typer has its own copy of Click since 0.26; what its parser raises can only be told by what it can do.
    told = getattr(error, "format_message", None)
    if told is None or getattr(error, "exit_code", None) is None:
        return None
    message = " ".join(str(told()).split())
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "drkit"
    if type(error).__name__ == "NoArgsIsHelpError":
        message = "what shall it do?"
    return UsageError(message[:1].lower() + message[1:].rstrip("."), f"see {path} --help")
