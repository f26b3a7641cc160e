"""`drkit lab …`: what can be said of the lab."""

from typing import Annotated

import typer

from drkit.cli.words import Json, command, group

lab = group("The lab: a small cloud with a real database on this machine.")
LabName = Annotated[str, typer.Option("--name", metavar="NAME", help="Which lab.")]


@command(
    lab,
    "up",
    "drkit lab up",
    "drkit lab up --speed 4  # its clocks run four times as fast",
    "drkit lab up --name loses --async-standby  # a failover may lose writes here",
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


@command(lab, "down", "drkit lab down", "drkit lab down --name loses")
def lab_down(
    name: LabName = "lab",
    force: Annotated[bool, typer.Option("--force", help="Also while a run is going on in it.")] = False,
    json: Json = False,
) -> int:
    """End a lab, also one that is half dead; nothing of it stays. Not while a run is going on in it."""
    from drkit.cli import laboratory

    return laboratory.down(name, force=force, as_json=json)


@command(lab, "status", "drkit lab status", "drkit lab status --json")
def lab_status(name: LabName = "lab", json: Json = False) -> int:
    """Show each part of a lab and how it is; exit code 0 if all of it works, else 3."""
    from drkit.cli import laboratory

    return laboratory.status(name, as_json=json)


@command(lab, "logs", "drkit lab logs", "drkit lab logs supervisor --lines 100")
def lab_logs(
    log: Annotated[str | None, typer.Argument(metavar="LOG", help="Print the end of this one.")] = None,
    name: LabName = "lab",
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, help="How much of it.")] = 40,
    json: Json = False,
) -> int:
    """List a lab's log files, or print the end of one."""
    from drkit.cli import laboratory

    return laboratory.logs(name, log, lines=lines, as_json=json)


@command(lab, "delete-rows", "drkit lab delete-rows drkit_marker  # a mistake to be recovered from")
def lab_delete_rows(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Which table loses its rows.")],
    name: LabName = "lab",
    json: Json = False,
) -> int:
    """Delete all rows of a table of a lab's database, as a person's mistake would, and say how to go back."""
    from drkit.cli import laboratory

    return laboratory.delete_rows(table, name, as_json=json)


@command(lab, "disturb", "drkit lab disturb silent-region-1 --for-s 60  # see whether a playbook lives with it")
def lab_disturb(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="One of s3-503 (too busy), silent-region-1 (no answer).")],
    for_s: Annotated[
        float, typer.Option("--for-s", metavar="SECONDS", min=0, help="For how long; 0: it is over.")
    ] = 30.0,
    name: LabName = "lab",
    json: Json = False,
) -> int:
    """Make the APIs of a lab's cloud fail for a while. It ends by itself."""
    from drkit.cli import laboratory

    return laboratory.disturb(what, name, for_s=for_s, as_json=json)
