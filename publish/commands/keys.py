"""`perpflow keys`."""

from typing import Annotated, Literal

import typer

from publish.commands.common import Assignments, Config, settings_of

keys = typer.Typer(help="The API's keys.", no_args_is_help=True)


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Whose it is, for the list.")],
    plan: Annotated[
        Literal["preview", "standard", "prime", "prime+raw"],
        typer.Option(help="standard: bars from 1m; prime: from 1s; prime+raw: ticks too"),
    ] = "standard",
    rate: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Requests a second [default: the plan's]")
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Make a key and print it; it is shown this once only."""
    from publish.keys import KeyFile

    print(KeyFile(settings_of(config, assignments).api.keys).add(name, plan, rate))


@keys.command("list")
def keys_list(config: Config = None, assignments: Assignments = None) -> None:
    """Show the keys' ids, names, plans and rates."""
    from publish.keys import KeyFile, table

    print(table(KeyFile(settings_of(config, assignments).api.keys).keys()))


@keys.command("revoke")
def keys_revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As perpflow keys list shows it.")],
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Take a key away; running servers notice within a second."""
    from publish.keys import KeyFile

    gone = KeyFile(settings_of(config, assignments).api.keys).revoke(identity)
    print(f"revoked {gone.id} ({gone.name})")
