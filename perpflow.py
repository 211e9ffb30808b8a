"""The command line: each command reads its flags and settings and calls one function.

What a command needs is imported when it runs, so that `--help` and refusals are immediate.
"""

import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ingest.errors import UserError
from publish.version import VERSION

if TYPE_CHECKING:
    from publish.settings import Settings
    from publish.tail import Start

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

Exchange = Literal["binance-futures", "okx-perps", "hyperliquid-perps"]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML settings [default: ./perpflow.toml if there is one]"),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting, over the file; may be repeated."),
]


def _settings(config: Path | None, assignments: list[str] | None) -> "Settings":
    from publish.logs import configure_logs
    from publish.settings_sources import load_settings

    configure_logs()
    return load_settings(config, assignments or ())


def _nanoseconds(text: str) -> int:
    from publish.settings import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text} {error}") from None


def _log_start(text: str) -> "Start":
    from publish.tail import parse_start

    try:
        return parse_start(text, time.time_ns())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _await(settings: "Settings", work: Coroutine[Any, Any, None]) -> None:
    from ingest.event_loop import run

    run(work, uvloop=settings.runtime.uvloop)


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
    settings = _settings(config, assignments)
    if not settings.venues.enabled():
        raise UserError(f"{_NO_VENUE}: {_ADD_VENUE}")
    from publish import pipeline

    _await(settings, pipeline.run(settings))


@app.command()
def ingest(config: Config = None, assignments: Assignments = None) -> None:
    """Collect from the live venues onto the log."""
    settings = _settings(config, assignments)
    if not settings.venues.enabled():
        raise UserError(f"{_NO_VENUE}: {_ADD_VENUE}")
    from publish import daemons

    _await(settings, daemons.ingest(settings))


@app.command()
def aggregate(config: Config = None, assignments: Assignments = None) -> None:
    """Make bars of the ticks on the log; on Kafka any number of these share the work."""
    settings = _settings(config, assignments)
    from publish import daemons

    _await(settings, daemons.aggregate(settings))


@app.command()
def publish(config: Config = None, assignments: Assignments = None) -> None:
    """Write the bars on the log to parquet, and archive its ticks; one process a log."""
    settings = _settings(config, assignments)
    from publish import daemons

    _await(settings, daemons.publish(settings))


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


@app.command()
def replay(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="An own archive (directory or URL), or recordings and venues' or Tardis' files",
        ),
    ],
    out: Annotated[
        str | None, typer.Option(metavar="URL", help="file:// or s3:// for the parquet.")
    ] = None,
    to_kafka: Annotated[
        bool,
        typer.Option(
            "--to-kafka",
            help="Put the ticks onto the configured log instead, Kafka or embedded: a rehearsal.",
        ),
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Of --to-kafka: 1 as they came, 10 ten times that [default: full speed]"
        ),
    ] = None,
    venue: Annotated[
        Exchange | None,
        typer.Option(help="Of files that don't say it; of an archive that one alone."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Publish the incomplete first and last windows too.")
    ] = False,
    lateness: Annotated[
        int | None,
        typer.Option(
            parser=_nanoseconds,
            metavar="DURATION",
            help="Leave ticks out that arrived later, as live did (5s) [default: none is late]",
        ),
    ] = None,
    assume_latency: Annotated[
        int | None,
        typer.Option(
            parser=_nanoseconds,
            metavar="DURATION",
            help="When ticks without a time of arrival came [default: no true clock for them]",
        ),
    ] = None,
    instruments: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DATE=]FILE",
            help="The venue's REST answer that lists its instruments; may be repeated, by date.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="[default: one a core]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace days that exist.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; say what would change.")
    ] = False,
    scratch: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Keep imports there, for a next time [default: a temporary one]"
        ),
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Make bars of an own archive, of recordings or of others' files, by the aggregation of live.

    What is finished is not done again: a replay that was cut off goes on where it was.
    """
    if to_kafka == (out is not None) or (speed is not None and not to_kafka):
        raise typer.BadParameter("give either --out, or --to-kafka (and perhaps its --speed)")
    settings = _settings(config, assignments)
    import os

    from publish.progress import watched_progress
    from publish.replay.command import ReplayOptions
    from publish.replay.command import replay as run_replay

    options = ReplayOptions(
        sources=sources,
        exchange=venue,
        out=out or "",
        partial=partial,
        lateness_ns=lateness,
        assume_latency_ns=assume_latency,
        instruments=instruments or (),
        processes=processes or os.cpu_count() or 1,
        force=force,
        dry=dry_run,
        scratch=scratch,
        toxicity_reset=settings.aggregate.toxicity_reset,
        publish=settings.publish,
    )
    with watched_progress() as progress:
        if to_kafka:
            from publish.to_kafka import replay_to_kafka

            print(replay_to_kafka(options, settings, speed, progress))
        else:
            print(run_replay(options, progress))


@app.command()
def audit(
    exchange: Annotated[Exchange | None, typer.Option(help="[default: all]")] = None,
    symbol: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="perpetual-BTC-USDT:USDT, say [default: all]"),
    ] = None,
    month: Annotated[
        str | None, typer.Option(metavar="YYYY-MM", help="[default: yesterday's]")
    ] = None,
    day: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="One day only.")] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rewrite the days that differ for known reasons.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Everything that was found.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on after each midnight UTC, as a daemon.")
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=256, help="[default: one a core, with --watch one]"),
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Hold published bars against the raw archive; exit code 3 if they differ, 4 if unexplained."""
    settings = _settings(config, assignments)
    import os
    from datetime import UTC, datetime

    from publish.audit import command
    from publish.audit.plan import Wanted
    from publish.progress import watched_progress

    if watch:
        if any((exchange, symbol, month, day, repair)):
            raise typer.BadParameter(
                "--watch audits everything, and repairs if audit.repair is set: give no others"
            )
        from publish.audit.daemon import watch as watch_days

        _await(settings, watch_days(settings, processes or 1, json))
        return
    try:
        year, number, of_month = command.wanted_days(month, day, datetime.now(UTC).date())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    wanted = Wanted(year, number, of_month, exchange, symbol or (), repair)
    with watched_progress() as progress:
        report = command.audit(settings, wanted, processes or os.cpu_count() or 1, progress)
    command.show(report)
    if json is not None:
        command.write_json(json, report)
    raise typer.Exit(report.exit_code)


@app.command()
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
    settings = _settings(config, assignments)
    from publish.tail import TailOptions, tail_log

    options = TailOptions(topic, start, partition, follow, limit)
    _await(settings, tail_log(settings.log, options, sys.stdout.buffer))


@app.command()
def topics(
    action: Annotated[
        Literal["create", "check", "describe"],
        typer.Argument(help="check changes nothing; describe shows offsets and lag too"),
    ],
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Make, check or describe the topics on Kafka."""
    settings = _settings(config, assignments)
    from publish.topics import topics as run_topics

    _await(settings, run_topics(settings.log, action, sys.stdout))


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
    settings = _settings(config, assignments)
    from publish.instruments import InstrumentsOptions, show_instruments

    _await(
        settings,
        show_instruments(settings, InstrumentsOptions(venue, patterns or (), cached, as_json)),
    )


@app.command()
def doctor(
    timeout: Annotated[
        int | None,
        typer.Option(
            parser=_nanoseconds, metavar="DURATION", help="How long a step may take [default: 10s]"
        ),
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Check that the configured venues can be collected from here, step by step."""
    settings = _settings(config, assignments)
    if not settings.venues.enabled():
        raise UserError(_NO_VENUE)
    from publish.doctor import examine

    _await(settings, examine(settings, (timeout or 10_000_000_000) / 1e9))


@app.command()
def serve(config: Config = None, assignments: Assignments = None) -> None:
    """Serve the HTTP API over the published files."""
    settings = _settings(config, assignments)
    from publish.serve import serve as run_serve

    _await(settings, run_serve(settings))


keys = typer.Typer(help="The API's keys.", no_args_is_help=True)
app.add_typer(keys, name="keys")


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

    print(KeyFile(_settings(config, assignments).api.keys).add(name, plan, rate))


@keys.command("list")
def keys_list(config: Config = None, assignments: Assignments = None) -> None:
    """Show the keys' ids, names, plans and rates."""
    from publish.keys import KeyFile, table

    print(table(KeyFile(_settings(config, assignments).api.keys).keys()))


@keys.command("revoke")
def keys_revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As perpflow keys list shows it.")],
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Take a key away; running servers notice within a second."""
    from publish.keys import KeyFile

    gone = KeyFile(_settings(config, assignments).api.keys).revoke(identity)
    print(f"revoked {gone.id} ({gone.name})")


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
