"""`drkit target …`: what can be said of what a run is aimed at."""

from typing import Annotated

import typer

from drkit.cli import complete
from drkit.cli.words import Json, command, group

target = group("Targets: what a run is aimed at.")


@command(target, "list", "drkit target list", "drkit target list --json | jq -r '.targets[].name'")
def target_list(json: Json = False) -> int:
    """List the targets that can be named."""
    from drkit.cli import aiming

    return aiming.list_(as_json=json)


@command(target, "show", "drkit target show staging", "drkit target show targets/staging.json --json")
def target_show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A target, or its file.", autocompletion=complete.targets)
    ],
    json: Json = False,
) -> int:
    """Show what a target's file says, checked, with its defaults. Nothing is reached by it."""
    from drkit.cli import aiming

    return aiming.show(name, as_json=json)


@command(
    target,
    "discover",
    "drkit target discover staging --region eu-central-1 --profile staging > targets/staging.json",
    "drkit target discover orders --region eu-central-1 --recovery-region eu-west-1 --tag stack=orders",
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
