"""`perpflow replay` and `perpflow audit`."""

from pathlib import Path
from typing import Annotated

import typer

from publish.commands.common import (
    Assignments,
    Config,
    Exchange,
    nanoseconds,
    run_async,
    settings_of,
)


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
            parser=nanoseconds,
            metavar="DURATION",
            help="Leave ticks out that arrived later, as live did (5s) [default: none is late]",
        ),
    ] = None,
    assume_latency: Annotated[
        int | None,
        typer.Option(
            parser=nanoseconds,
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
    if to_kafka and (partial or lateness is not None or force or dry_run):
        raise typer.BadParameter("--partial, --lateness, --force and --dry-run are of --out")
    settings = settings_of(config, assignments)
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
    settings = settings_of(config, assignments)
    import os
    from datetime import UTC, datetime

    from publish.audit import command
    from publish.audit.plan import Wanted
    from publish.progress import watched_progress

    # Told now: an audit takes hours, and its report would be lost.
    if json is not None and (json.is_dir() or not os.access(json.parent, os.W_OK)):
        raise typer.BadParameter(f"--json {json}: can't be written there")
    if watch:
        if any((exchange, symbol, month, day, repair)):
            raise typer.BadParameter(
                "--watch audits everything, and repairs if audit.repair is set: give no others"
            )
        from publish.audit.daemon import watch as watch_days

        run_async(settings, watch_days(settings, processes or 1, json))
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
