"""What the commands have in common: how they are registered, and the options that many of them take."""

# No `from __future__ import annotations`: Typer would evaluate each of them three times, a fifth of the time of --help.

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from drkit.cli import complete

Function = TypeVar("Function", bound=Callable[..., Any])
PLAIN: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True, "pretty_exceptions_enable": False}
HELP: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100}}


def group(words: str) -> typer.Typer:
    """Return a group of commands; words: its help."""
    return typer.Typer(help=words, **HELP, **PLAIN)


def command(of: typer.Typer, name: str, *examples: str) -> Callable[[Function], Function]:
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
    list[str] | None, typer.Option("--var", metavar="KEY=VALUE", help="Set a variable of it; repeatable.")
]
Plan = Annotated[str | None, typer.Option("--plan", metavar="DIGEST", help="Run only if this is still the plan.")]
Speed = Annotated[float | None, typer.Option("--speed", metavar="FACTOR", help="Of a lab that is started for the run.")]
