"""What can be said on the command line: every command, its options, help and examples. What it does is elsewhere."""

# No `from __future__ import annotations`: Typer would evaluate each of them three times, a fifth of the time of --help.

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from drkit.cli import complete
from drkit.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True, "pretty_exceptions_enable": False}
HELP: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100}}

app = typer.Typer(
    name="drkit",
    help="Break it on purpose, recover it, and measure the recovery from the client's side.",
    epilog="Start here: drkit run az-failure (on the lab: no account, nothing real is touched). "
    "Exit codes: 0 pass, 1 fail, 2 usage, 3 inconclusive, invalid or aborted, 4 refused, 5 something is still broken.",
    **HELP,
    **PLAIN,
)
lab = typer.Typer(help="The lab: a small cloud with a real database on this machine.", **HELP, **PLAIN)
app.add_typer(lab, name="lab")
target_app = typer.Typer(help="Targets: what a run is aimed at.", **HELP, **PLAIN)
app.add_typer(target_app, name="target")


def _command(name: str, *examples: str, of: typer.Typer = app) -> Callable[[Function], Function]:
    """Register a command. examples: "command line  # what it is for"."""
    return of.command(name, epilog="\b\nExamples:\n" + "\n".join(f"  {e}" for e in examples), **HELP)


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Reports = Annotated[Path | None, typer.Option("--reports", metavar="DIR", help="Where runs are kept.")]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        metavar="NAME|FILE",
        help="What to aim at; default: default_target of drkit.toml, else the lab.",
        autocompletion=complete.targets,
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="An experiment, or its file.", autocompletion=complete.experiments)
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME", help="Experiments, or their files.", autocompletion=complete.experiments),
]
Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help='A run id, a part of one, its number, its directory, or "last".',
        autocompletion=complete.runs,
    ),
]
Zone = Annotated[
    str | None, typer.Option("--zone", metavar="ZONE", help="Which zone: a, b, c, a full name, or writer.")
]
Variables = Annotated[
    list[str] | None, typer.Option("--var", metavar="KEY=VALUE", help="Set a variable of the experiment; repeatable.")
]
LabName = Annotated[str, typer.Option("--name", metavar="NAME", help="Which lab.")]


class Format(StrEnum):
    MD = "md"
    JSON = "json"
    HTML = "html"
    JUNIT = "junit"


# --- experiments ------------------------------------------------------------------------------------------------------


@_command("init", "drkit init  # here", "drkit init ../my-service")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The repository.")] = Path(),
    json: Json = False,
) -> int:
    """Add a drkit.toml, a sample experiment and a CI job to a repository; nothing that is there is changed."""
    from drkit.cli import setup

    return setup.init(directory, as_json=json)


@_command("list", "drkit list", "drkit list --json | jq -r '.experiments[].name'")
def list_(json: Json = False) -> int:
    """List the experiments that can be run: the project's own, then those that come with drkit."""
    from drkit.cli import look

    return look.list_(as_json=json)


@_command("show", "drkit show az-failure", "drkit show experiments/my-own.yaml  # checks it too")
def show(name: Name, json: Json = False) -> int:
    """Show what an experiment does, what it promises, and how it is measured."""
    from drkit.cli import look

    return look.show(name, as_json=json)


@_command(
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


@_command(
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
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="DIGEST", help="Run only if this is still the plan.")
    ] = None,
    reports: Reports = None,
    speed: Annotated[
        float | None, typer.Option("--speed", metavar="FACTOR", help="Of a lab that is started for the run.")
    ] = None,
    json: Json = False,
) -> int:
    """Break a target on purpose, put it back, and judge the recovery by what its clients saw.

    Ctrl-C stops a run and puts everything back. Several experiments run one after another; the gravest result is the
    exit code. If drkit itself is killed, its guardian puts everything back.
    """
    from drkit.cli import runs

    return runs.run(names, target, zone=zone, var=var or [], plan=plan, reports=reports, speed=speed, as_json=json)


# --- runs -------------------------------------------------------------------------------------------------------------


@_command(
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


@_command("abort", "drkit abort last")
def abort(run: Run = "last", reports: Reports = None, json: Json = False) -> int:
    """Stop a run that is going on, from another terminal; it puts everything back."""
    from drkit.cli import undoing

    return undoing.abort(run, reports=reports, as_json=json)


@_command("measure", "drkit measure last", "drkit measure reports/20261122T155410Z-az-failure-lab-3f9c --json")
def measure(run: Run, reports: Reports = None, json: Json = False) -> int:
    """Judge a stored run again, by today's code, and say whether that differs from what was stored.

    Changes nothing on disk. The exit code is that of the verdict.
    """
    from drkit.cli import past

    return past.measure(run, reports=reports, as_json=json)


@_command(
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


@_command("history", "drkit history", "drkit history --json")
def history(reports: Reports = None, json: Json = False) -> int:
    """List all runs, and the mean time to recovery of each scenario; runs that were removed show as gaps."""
    from drkit.cli import past

    return past.history(reports=reports, as_json=json)


# --- the instrument and the machine -----------------------------------------------------------------------------------


@_command("calibrate", "drkit calibrate", "drkit calibrate --trials 40  # about a minute")
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


@_command("doctor", "drkit doctor", "drkit doctor az-failure --target staging  # and the permissions it needs")
def doctor(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="Also check the permissions this experiment needs.",
            autocompletion=complete.experiments,
        ),
    ] = None,
    target: Target = None,
    json: Json = False,
) -> int:
    """Check what drkit needs on this machine and, for a target that you name, in its account."""
    from drkit.cli import doctor as checks

    return checks.doctor(name, target, as_json=json)


# --- targets ----------------------------------------------------------------------------------------------------------


@_command("list", "drkit target list", "drkit target list --json | jq -r '.targets[].name'", of=target_app)
def target_list(json: Json = False) -> int:
    """List the targets that can be named."""
    from drkit.cli import aiming

    return aiming.list_(as_json=json)


@_command("show", "drkit target show staging", "drkit target show targets/staging.json --json", of=target_app)
def target_show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A target, or its file.", autocompletion=complete.targets)
    ],
    json: Json = False,
) -> int:
    """Show what a target's file says, checked, with its defaults. Nothing is reached by it."""
    from drkit.cli import aiming

    return aiming.show(name, as_json=json)


@_command(
    "discover",
    "drkit target discover staging --region eu-central-1 --profile staging > targets/staging.json",
    "drkit target discover orders --region eu-central-1 --recovery-region eu-west-1 --tag stack=orders",
    of=target_app,
)
def target_discover(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the target shall be called.")],
    region: Annotated[str, typer.Option("--region", metavar="REGION", help="Where it is.")],
    recovery_region: Annotated[
        str | None, typer.Option("--recovery-region", metavar="REGION", help="Where its replica is.")
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", metavar="NAME", help="AWS profile to use.")] = None,
    assume_role: Annotated[
        str | None, typer.Option("--assume-role", metavar="ARN", help="Role to assume with it.")
    ] = None,
    external_id: Annotated[
        str | None, typer.Option("--external-id", metavar="ID", help="What that role asks for.")
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option("--endpoint-url", metavar="URL", help="Another place of the AWS APIs.")
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", metavar="KEY=VALUE", help="What its parts are tagged with; default: drkit:target=NAME."),
    ] = None,
    json: Json = False,  # noqa: ARG001  (a target's file is JSON either way)
) -> int:
    """Print a target's file, made from what carries a tag in an AWS account; only read-only calls are made.

    At most one of each may carry it: VPC, RDS instance (and its replica), Auto Scaling group, target group, load
    balancer.
    """
    from drkit.cli import aiming
    from drkit.targets import AwsAccess

    access = AwsAccess(endpoint_url=endpoint_url, profile=profile, assume_role_arn=assume_role, external_id=external_id)
    return aiming.discover(name, region=region, recovery_region=recovery_region, access=access, tag=tag)


# --- the lab ----------------------------------------------------------------------------------------------------------


@_command(
    "up",
    "drkit lab up",
    "drkit lab up --speed 4  # its clocks run four times as fast",
    "drkit lab up --name loses --async-standby  # a failover may lose writes here",
    of=lab,
)
def lab_up(
    name: LabName = "lab",
    speed: Annotated[
        float, typer.Option("--speed", metavar="FACTOR", help="Of detection and repair, 0.01 to 100.")
    ] = 1.0,
    fsync: Annotated[bool, typer.Option("--fsync", help="PostgreSQL waits for the disk.")] = False,
    instances: Annotated[int, typer.Option("--instances", metavar="N", help="Of the service, 1 to 30.")] = 3,
    no_standby: Annotated[bool, typer.Option("--no-standby", help="A database that cannot fail over.")] = False,
    async_standby: Annotated[bool, typer.Option("--async-standby", help="A standby that may lag.")] = False,
    json: Json = False,
) -> int:
    """Start a lab, or say that it is up; ready in seconds."""
    from drkit.cli import laboratory

    options = {"instances": instances, "multi_az": not no_standby, "sync_standby": not async_standby}
    return laboratory.up(name, speed=speed, fsync=fsync, options=options, as_json=json)


@_command("down", "drkit lab down", "drkit lab down --name loses", of=lab)
def lab_down(
    name: LabName = "lab",
    force: Annotated[bool, typer.Option("--force", help="Also while a run is going on in it.")] = False,
    json: Json = False,
) -> int:
    """End a lab, also one that is half dead; nothing of it stays. Not while a run is going on in it."""
    from drkit.cli import laboratory

    return laboratory.down(name, force=force, as_json=json)


@_command("status", "drkit lab status", "drkit lab status --json", of=lab)
def lab_status(name: LabName = "lab", json: Json = False) -> int:
    """Show each part of a lab and how it is; exit code 0 if all of it works, else 3."""
    from drkit.cli import laboratory

    return laboratory.status(name, as_json=json)


@_command("logs", "drkit lab logs", "drkit lab logs supervisor --lines 100", of=lab)
def lab_logs(
    log: Annotated[str | None, typer.Argument(metavar="LOG", help="Print the end of this one.")] = None,
    name: LabName = "lab",
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, help="How much of it.")] = 40,
    json: Json = False,
) -> int:
    """List a lab's log files, or print the end of one."""
    from drkit.cli import laboratory

    return laboratory.logs(name, log, lines=lines, as_json=json)


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
