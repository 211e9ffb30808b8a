"""`perpflow replay`: recorded frames to monthly parquet, by the code that live runs on."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import orjson
import pyarrow as pa

from aggregate.bars import BarBatch
from aggregate.intervals import CLOCKS
from aggregate.shard import END, Rules, ShardAggregator
from ingest.errors import UserError
from ingest.instruments import OKX, Instrument, instruments_from
from ingest.recorded import RecordedFile, files_in_order, recorded_ticks
from publish.layout import Series
from publish.partitions import month_days, write_month
from publish.progress import Progress, quiet
from publish.settings import PublishSettings
from publish.store import Store, open_store

Month = tuple[Series, pa.Table, list[str]]
"""A calendar month of a series: its rows by time, and the UTC days they lie in."""

_SHOWN = 5
_WRITERS = 4


class ReplayError(UserError):
    """The replay can't be made or published; the message names the input or the output."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What to replay and where to. `lateness_ns` None: no tick is too late (the whole truth).

    `publish`: how to reach the store, but not which one.
    """

    recordings: Sequence[Path]
    exchange: str
    out: str
    partial: bool = False
    lateness_ns: int | None = None
    instruments: Path | None = None
    processes: int = 1
    force: bool = False
    toxicity_reset: str = "month"
    publish: PublishSettings = field(default_factory=PublishSettings)


@dataclass(slots=True)
class ReplaySummary:
    """What came of it; `str()` is what the command prints."""

    out: str
    frames: int = 0
    trades: int = 0
    quotes: int = 0
    ignored: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    bars: int = 0
    files: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.frames:,} frames: {self.trades:,} trades, {self.quotes:,} quotes, "
            f"{self.ignored:,} of other channels"
        ]
        for reason, n in self.malformed.most_common():
            at, payload = self.examples[reason]
            example = payload[:100].decode("utf-8", "replace")
            lines.append(f"  skipped {n:,} malformed, {reason}; the first at {at}: {example}")
        for native, n in self.unknown.most_common(_SHOWN):
            lines.append(f"  skipped {n:,} of unknown symbol {native}")
        if len(self.unknown) > _SHOWN:
            lines.append(f"  … and of {len(self.unknown) - _SHOWN} more unknown symbols")
        for (clock, kind, reason), n in sorted(self.dropped.items()):
            which = "both clocks" if clock == "both" else f"{clock} clock"
            if reason == "withheld":
                lines.append(
                    f"  withheld {n:,} {kind} windows that the data covers only in part "
                    f"({which}; --partial publishes them)"
                )
            else:
                lines.append(f"  left out {n:,} {kind}, {reason.replace('_', ' ')} ({which})")
        lines += [f"  {problem}" for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  … and {len(self.problems) - _SHOWN} more problems")
        lines.append(
            f"{self.bars:,} bars of {len(self.symbols)} symbols in {self.files:,} files "
            f"under {self.out} ({self.seconds:.1f} s)"
        )
        return "\n".join(lines)


def replay(options: ReplayOptions, progress: Progress = quiet) -> ReplaySummary:
    """Make and publish the bars of the recordings.

    Raises `ReplayError`, `RecordingError` or `StoreError`; nothing is published then.
    """
    started = perf_counter()
    store = open_store(options.publish.model_copy(update={"url": options.out}))
    store.check()
    summary = ReplaySummary(options.out)
    bars = _aggregate(options, summary, progress)
    months = list(_months(bars, options.exchange))
    if not months:
        raise ReplayError(_nothing(summary, options))
    _check_days(store, months, options.force, summary)
    with ThreadPoolExecutor(_WRITERS) as writers:
        written = writers.map(lambda month: write_month(store, *month), months)
        for done, _ in enumerate(written, 1):
            progress("writing", done, len(months))
    summary.bars = sum(table.num_rows for _, table, _ in months)
    summary.files = len(months)
    summary.seconds = perf_counter() - started
    return summary


def _aggregate(
    options: ReplayOptions, summary: ReplaySummary, progress: Progress
) -> list[BarBatch]:
    files = files_in_order(options.recordings, options.exchange)
    rules = Rules(
        lateness_ns=options.lateness_ns,
        partial=options.partial,
        toxicity_reset=options.toxicity_reset,
    )
    shard = ShardAggregator(options.exchange, rules)
    sizes = {file.path: file.path.stat().st_size for file in files}
    total = sum(sizes.values())
    batches = recorded_ticks(
        files,
        options.exchange,
        _instruments(options),
        processes=options.processes,
        progress=lambda file, share: progress("reading", _done(files, sizes, file, share), total),
    )
    for trades, quotes in batches:
        shard.add(trades, "recording")
        shard.add(quotes, "recording")
    for file in files:
        _account(file, shard, summary)
    summary.symbols = sorted({symbol for file in files for symbol in file.symbols})
    progress("aggregating", 0, len(CLOCKS))
    bars = []
    for done, clock in enumerate(CLOCKS, 1):
        bars += [bar for bar in shard.seal(clock, END) if isinstance(bar, BarBatch)]
        progress("aggregating", done, len(CLOCKS))
    summary.dropped.update(shard.dropped)
    return bars


def _done(
    files: Sequence[RecordedFile], sizes: dict[Path, int], at: RecordedFile, share: float
) -> int:
    before = files[: files.index(at)]
    return int(sum(sizes[file.path] for file in before) + share * sizes[at.path])


def _instruments(options: ReplayOptions) -> list[Instrument]:
    if options.instruments is None:
        return []
    try:
        payload = orjson.loads(options.instruments.read_bytes())
        return instruments_from(options.exchange, payload)
    except OSError as error:
        raise ReplayError(f"can't read {options.instruments}: {error.strerror}") from error
    except ValueError as error:
        raise ReplayError(f"{options.instruments}: {error}") from error


def _account(file: RecordedFile, shard: ShardAggregator, summary: ReplaySummary) -> None:
    report = file.parsing
    summary.frames += report.frames
    summary.trades += report.trades
    summary.quotes += report.quotes
    summary.ignored += report.ignored
    summary.malformed.update(report.malformed)
    summary.unknown.update(report.unknown)
    summary.problems += file.reading.problems
    for reason, example in report.examples.items():
        summary.examples.setdefault(reason, example)
    for coverage in file.coverage:
        stamps = coverage.local_from, coverage.exchange_from
        shard.cover(coverage.symbols, *stamps, anew=coverage.anew)
        shard.cover_until(coverage.symbols, file.local_to, file.exchange_to)


def _months(bars: Iterable[BarBatch], exchange: str) -> Iterator[Month]:
    """The bars of each series by calendar month."""
    tables: dict[tuple[str, str, str], list[BarBatch]] = {}
    for batch in bars:
        tables.setdefault((batch.dataset, batch.interval, batch.clock), []).append(batch)
    for (dataset, interval, clock), batches in tables.items():
        table = pa.concat_tables([batch.table() for batch in batches])
        table = table.unify_dictionaries().combine_chunks()
        code = table.column("symbol").chunk(0)
        time = table.column("time").to_numpy()
        month = time.astype("datetime64[M]")
        order = np.lexsort((time, month, code.indices.to_numpy()))
        key = np.stack([code.indices.to_numpy()[order], month[order].astype(np.int64)])
        edges = np.flatnonzero((np.diff(key) != 0).any(axis=0)) + 1
        for rows in np.split(order, edges):
            part = table.take(rows).drop_columns("symbol")
            symbol = code.dictionary[code.indices[int(rows[0])].as_py()].as_py()
            days = np.unique(time[rows].astype("datetime64[D]")).astype(str).tolist()
            yield Series(dataset, exchange, symbol, interval, clock), part, days


def _check_days(store: Store, months: Sequence[Month], force: bool, summary: ReplaySummary) -> None:
    """Refuse to replace days that are there, unless forced; say which days stay beside them."""
    kept: set[str] = set()
    for series, _, days in months:
        there = set(month_days(store, series, days[0][:7]))
        both = sorted(there & set(days))
        if both and not force:
            more = f" and {len(both) - 1} more days" if len(both) > 1 else ""
            raise ReplayError(
                f"{store.url} already holds {series.dataset} {series.interval} of "
                f"{series.symbol} for {both[0]}{more}: pass --force to replace them, or write to "
                f"another --out"
            )
        if series.dataset == "flow":
            kept |= there - set(days)
    if kept:
        summary.problems.append(
            f"{len(kept)} other days of these months stay as they are; flow_toxicity_score runs "
            f"through a month: replay a month as a whole for scores that do"
        )


def _nothing(summary: ReplaySummary, options: ReplayOptions) -> str:
    if not summary.trades and not summary.quotes:
        reasons = [f"{n:,} malformed ({reason})" for reason, n in summary.malformed.items()]
        reasons += [f"{n:,} of unknown symbol {s}" for s, n in summary.unknown.most_common(_SHOWN)]
        reasons += [f"{summary.ignored:,} of other channels"] if summary.ignored else []
        hint = ""
        if summary.unknown and options.instruments is None:
            why = "contract sizes are not in a name: " if options.exchange == OKX else ""
            hint = f"; {why}pass --instruments with the venue's list"
        return (
            f"no trades or quotes of {options.exchange} in {summary.frames:,} frames: "
            f"{', '.join(reasons) or 'no frames'}{hint}"
        )
    return (
        "the data covers no whole window of any interval: pass --partial to publish the "
        "incomplete ones"
    )
