"""What the commands share: flags, settings, and how asynchronous work is run."""

from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from publish.settings import Settings

Exchange = Literal["binance-futures", "okx-perps", "hyperliquid-perps"]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML settings [default: ./perpflow.toml if there is one]"),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, over the file; may be repeated."),
]


def settings_of(config: Path | None, assignments: list[str] | None) -> "Settings":
    """The effective settings; raises `SettingsError`."""
    from publish.logs import configure_logs
    from publish.settings_sources import load_settings

    configure_logs()
    return load_settings(config, assignments or ())


def nanoseconds(text: str) -> int:
    """A flag that is a duration, like 5s."""
    from publish.settings import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text} {error}") from None


def run_async(settings: "Settings", work: Coroutine[Any, Any, None]) -> None:
    """Run to its end, on the event loop that the settings want."""
    from ingest.event_loop import run

    run(work, uvloop=settings.runtime.uvloop)
