"""The command line: each command reads its flags and settings and calls one function.

What a command needs is imported when it runs, so that `--help` and refusals are immediate.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ingest.errors import UserError
from publish.commands import history, keys, log
from publish.commands.common import (
    Assignments,
    Config,
    Exchange,
    nanoseconds,
    run_async,
    settings_of,
)
from publish.version import VERSION

app = typer.Typer(
    name="perpflow",
    help="Crypto-perpetuals market data: venue websockets to order-flow and top-of-book parquet.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_NO_VENUE = 'no venue is configured, and "perpflow run" and "perpflow ingest" need one'
_ADD_VENUE = "add [venues.binance-futures] with symbols to perpflow.toml"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"perpflow {VERSION}")
        raise typer.Exit


@app.callback()
def perpflow(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Crypto-perpetuals market data: venue websockets to order-flow and top-of-book parquet."""


@app.command()
def run(config: Config = None, assignments: Assignments = None) -> None:
    """Collect from the live venues, aggregate and publish, all in this process."""
    settings = settings_of(config, assignments)
    if not settings.venues.enabled():
        raise UserError(f"{_NO_VENUE}: {_ADD_VENUE}")
    from publish import pipeline

    run_async(settings, pipeline.run(settings))


@app.command()
def ingest(config: Config = None, assignments: Assignments = None) -> None:
    """Collect from the live venues onto the log."""
    settings = settings_of(config, assignments)
    if not settings.venues.enabled():
        raise UserError(f"{_NO_VENUE}: {_ADD_VENUE}")
    from publish import daemons

    run_async(settings, daemons.ingest(settings))


@app.command()
def aggregate(config: Config = None, assignments: Assignments = None) -> None:
    """Make bars of the ticks on the log; on Kafka any number of these share the work."""
    settings = settings_of(config, assignments)
    from publish import daemons

    run_async(settings, daemons.aggregate(settings))


@app.command()
def publish(config: Config = None, assignments: Assignments = None) -> None:
    """Write the bars on the log to parquet, and archive its ticks; one process a log."""
    settings = settings_of(config, assignments)
    from publish import daemons

    run_async(settings, daemons.publish(settings))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory for what the demo makes.")] = Path(
        "demo-data"
    ),
    seconds: Annotated[int, typer.Option(min=5, help="How long the live part runs.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated market.")] = 1,
) -> None:
    """Run the whole pipeline against simulated venues and show its bars."""
    from publish.demo import demo as run_demo

    run_demo(out, seconds, seed)


app.command()(history.replay)
app.command()(history.audit)
app.command()(log.tail)
app.command()(log.topics)


@app.command()
def instruments(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATTERN", help='Ids or patterns like "BTC*" [default: all]'),
    ] = None,
    venue: Annotated[
        Exchange | None,
        typer.Option(help="[default: the configured ones, or all if none is]"),
    ] = None,
    cached: Annotated[
        bool, typer.Option("--cached", help="The copy a collector keeps beside the log.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """List the venues' perpetuals: native id, Atlas id, contract size, status."""
    settings = settings_of(config, assignments)
    from publish.instruments import InstrumentsOptions, show_instruments

    run_async(
        settings,
        show_instruments(settings, InstrumentsOptions(venue, patterns or (), cached, as_json)),
    )


@app.command()
def doctor(
    timeout: Annotated[
        int | None,
        typer.Option(
            parser=nanoseconds, metavar="DURATION", help="How long a step may take [default: 10s]"
        ),
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Check that the configured venues can be collected from here, step by step."""
    settings = settings_of(config, assignments)
    if not settings.venues.enabled():
        raise UserError(_NO_VENUE)
    from publish.doctor import examine

    run_async(settings, examine(settings, (timeout or 10_000_000_000) / 1e9))


@app.command()
def serve(config: Config = None, assignments: Assignments = None) -> None:
    """Serve the HTTP API over the published files."""
    settings = settings_of(config, assignments)
    from publish.serve import serve as run_serve

    run_async(settings, run_serve(settings))


app.add_typer(keys.keys, name="keys")


@app.command("check-config")
def check_config(config: Config = None, assignments: Assignments = None) -> None:
    """Check the settings and print those in effect, as TOML without secrets."""
    from publish.settings_sources import load_settings, to_toml

    settings = load_settings(config, assignments or ())
    print(to_toml(settings), end="")
    if not settings.venues.enabled():
        print(_NO_VENUE, file=sys.stderr)


def _reasons(error: BaseException) -> list[str]:
    """A message a line; a task group wraps what its tasks raise."""
    if isinstance(error, BaseExceptionGroup):
        return list(dict.fromkeys(text for e in error.exceptions for text in _reasons(e)))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return [f"{where}{error.strerror}"]
    return [str(error)]


def main() -> None:
    """The console script: what a user can mend is one line on stderr, never a traceback."""
    code = 0
    try:
        app()
    except* UserError as group:
        code = max(getattr(error, "exit_code", 1) for error in group.exceptions)
        print("\n".join(f"perpflow: {text}" for text in _reasons(group)), file=sys.stderr)
    except* KeyboardInterrupt:
        code = 130
        print("perpflow: interrupted", file=sys.stderr)
    except* OSError as group:
        code = 1
        print("\n".join(f"perpflow: {text}" for text in _reasons(group)), file=sys.stderr)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
