"""`perpflow tail` and `perpflow topics`."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from publish.commands.common import Assignments, Config, run_async, settings_of

if TYPE_CHECKING:
    from publish.tail import Start


def _log_start(text: str) -> "Start":
    from publish.tail import parse_start

    try:
        return parse_start(text, time.time_ns())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def tail(
    topic: Annotated[str, typer.Argument(help="ticks.trades, ticks.quotes or bars")],
    start: Annotated[
        Any,
        typer.Option(
            "--from",
            parser=_log_start,
            metavar="WHERE",
            help="start, end, an offset, a time (2026-11-21T10:00:00Z) or -10m",
        ),
    ] = "start",
    partition: Annotated[int | None, typer.Option(min=0, help="[default: all]")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after that many lines.")] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Print a topic of the log as JSON lines, one a tick, bar or control record."""
    settings = settings_of(config, assignments)
    from publish.tail import TailOptions, tail_log

    options = TailOptions(topic, start, partition, follow, limit)
    run_async(settings, tail_log(settings.log, options, sys.stdout.buffer))


def topics(
    action: Annotated[
        Literal["create", "check", "describe"],
        typer.Argument(help="check changes nothing; describe shows offsets and lag too"),
    ],
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Make, check or describe the topics on Kafka."""
    settings = settings_of(config, assignments)
    from publish.topics import topics as run_topics

    run_async(settings, run_topics(settings.log, action, sys.stdout))
