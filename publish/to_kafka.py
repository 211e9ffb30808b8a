"""`perpflow replay --to-kafka`: archived ticks onto the log once more, as if they came now.

A whole deployment can be rehearsed with them: aggregators, publisher, archive and API see what a
collector would have written. Ticks keep both their clocks, and only the log's time moves by them;
how fast they are appended is another matter (`speed`). Whichever log the settings name is written,
Kafka or the embedded one.

One session of a collector "replay" for each exchange: session-start, coverage as the source has it,
ticks in order of arrival, punctuation, session-end at the end of what the source covers. So an
aggregator makes the bars of `replay --lateness` with its own lateness, as far as live gets: the
last seconds (hold and lateness) stay open.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from aggregate.intervals import NS
from ingest import records
from ingest.errors import UserError
from ingest.instruments import partition_of
from ingest.log import Log, NewRecord
from ingest.numbered import Numbered
from ingest.records import BARS_TOPIC, QUOTES_TOPIC, TICK_TOPICS, TRADES_TOPIC, Coverage, Source
from ingest.ticks import Quotes, Trades, encode
from publish.log import place as place_of
from publish.pipeline import opened
from publish.progress import Progress, quiet
from publish.replay.command import ReplayOptions, jobs_of
from publish.replay.in_order import InOrder, Slice
from publish.replay.month import OUTAGE_NS, MonthUnit
from publish.replay.plan import NONE
from publish.replay.summary import ReplaySummary
from publish.replay.ticks_in import RawTicks
from publish.settings import Settings

COLLECTOR = "replay"
BATCH_ROWS = 4096
APPEND_BYTES = 4 << 20
STEP_S = 0.25
"""Seconds between punctuations; at full speed there is one after each slice."""
_EVER = 4_000_000_000_000_000_000


class RepublishError(UserError):
    """The ticks can't be put on that log; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Republished:
    """What was written; `str()` is what the command prints."""

    trades: int
    quotes: int
    symbols: int
    seconds: float
    place: str

    def __str__(self) -> str:
        return (
            f"{self.trades:,} trades and {self.quotes:,} quotes of {self.symbols} symbols onto "
            f"{self.place} ({self.seconds:.1f} s)"
        )


def replay_to_kafka(
    options: ReplayOptions, settings: Settings, speed: float | None, progress: Progress = quiet
) -> Republished:
    """Put the ticks of the options' sources onto the log of the settings.

    Raises what `replay` does, `RepublishError` and `LogError`.
    """
    with jobs_of(options, ReplaySummary(place_of(settings.log)), progress) as (jobs, _):
        units = [(job.unit, job.arrival) for job in jobs]
        return asyncio.run(_onto(units, settings, speed, progress))


async def _onto(
    units: Sequence[tuple[MonthUnit, str]],
    settings: Settings,
    speed: float | None,
    progress: Progress,
) -> Republished:
    place = place_of(settings.log)
    async with opened(settings) as log:
        await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), settings.log.partitions))
        return await republish(units, log, place, speed, progress)


async def republish(
    units: Sequence[tuple[MonthUnit, str]],
    log: Log,
    place: str,
    speed: float | None,
    progress: Progress = quiet,
) -> Republished:
    """Write the units' ticks onto the log's tick topics, which must be there and empty.

    `units` with how their arrival times are known. `speed`: seconds of the ticks' time a second;
    None: as fast as the log takes them. Raises `RepublishError`, `LogError` or `StoreError`.
    """
    _refuse_without_arrival(units)
    await _refuse_used(log, place)
    began = time.perf_counter()
    instruments = _instruments(units)
    feed = InOrder(instruments)
    if not feed.rows:
        raise RepublishError("there are no ticks to replay")
    partitions = await log.partitions(TRADES_TOPIC)
    sessions = [
        _Session(exchange, partitions, list(of), _end(units, exchange, feed))
        for exchange, of in groupby(instruments, key=lambda of: of.exchange)
    ]
    pace = _Pace(speed, feed.first, max(session.end for session in sessions))
    done = 0
    for session in sessions:
        await _append(log, session.start(feed.first))
    slices = iter(feed)
    while (part := await asyncio.to_thread(next, slices, None)) is not None:
        for end in pace.steps(part):
            due = [record for session in sessions for record in session.until(part, end)]
            await pace.wait(end)
            await _append(log, due)
        done += sum(len(ticks) for both in part.ticks.values() for ticks in both)
        progress("publishing", done, feed.rows)
    for session in sessions:
        await _append(log, session.finish())
    counts = sum((session.counts for session in sessions), Counter[str]())
    seconds = time.perf_counter() - began
    return Republished(counts["trades"], counts["quotes"], len(instruments), seconds, place)


def _refuse_without_arrival(units: Sequence[tuple[MonthUnit, str]]) -> None:
    for unit, arrival in units:
        if arrival == NONE:
            raise RepublishError(
                f"the ticks of {unit.symbol} ({unit.exchange}) have no time of arrival, by which "
                f"the log's time goes: pass --assume-latency"
            )


async def _refuse_used(log: Log, place: str) -> None:
    """A log that holds ticks has a time of its own: what is earlier would be taken for late."""
    for topic in TICK_TOPICS:
        for partition in range(await log.partitions(topic)):
            _, end = await log.bounds(topic, partition)
            if end:
                raise RepublishError(
                    f"{place} has ticks already: rehearse on a log of its own (another log.path, "
                    f"or another log.kafka.prefix)"
                )


def _instruments(units: Sequence[tuple[MonthUnit, str]]) -> list[RawTicks]:
    """Each instrument once, with all its months."""
    found = {(unit.exchange, unit.symbol): unit for unit, _ in units}
    return [RawTicks(unit.area, *of, 0, _EVER) for of, unit in sorted(found.items())]


def _end(units: Sequence[tuple[MonthUnit, str]], exchange: str, feed: InOrder) -> int:
    """Until when (ns) what there is of an exchange goes."""
    ends = [end for unit, _ in units if unit.exchange == exchange for _, end in unit.spans]
    for of in feed.instruments:
        if of.exchange == exchange:
            ends += [covered.local_to or 0 for covered in of.coverage()]
    return max([feed.last(exchange) + 1, *ends])


async def _append(log: Log, due: Sequence[NewRecord]) -> None:
    """In order, some megabytes at once."""
    part: list[NewRecord] = []
    size = 0
    for record in due:
        part.append(record)
        size += len(record.value)
        if size >= APPEND_BYTES:
            await log.append(part)
            part, size = [], 0
    if part:
        await log.append(part)


class _Pace:
    """When what of the ticks' time is due."""

    def __init__(self, speed: float | None, first: int, last: int) -> None:
        self._speed = speed
        self._first = first
        self._last = last
        self._began = time.monotonic()

    def steps(self, part: Slice) -> Iterator[int]:
        """The ends (ns) of the steps in which a slice is written."""
        if self._speed is not None:
            step = max(int(STEP_S * self._speed * NS), 1)
            yield from range(part.start + step, part.end, step)
        yield part.end

    async def wait(self, stamp: int) -> None:
        """Until it is that time of the ticks; a slice may end minutes after the last of them."""
        if self._speed is not None:
            due = self._began + (min(stamp, self._last) - self._first) / NS / self._speed
            await asyncio.sleep(max(0.0, due - time.monotonic()))


class _Session:
    """One exchange's records, in an order that keeps its promises (see `ingest.session`)."""

    def __init__(
        self, exchange: str, partitions: int, instruments: Sequence[RawTicks], end: int
    ) -> None:
        """`end` (ns): that of what is covered, or of the last tick if that is later."""
        self.counts: Counter[str] = Counter()
        self._exchange = exchange
        self.end = end
        self._promised = 0
        symbols = [of.symbol for of in instruments]
        where = [partition_of(exchange, symbol, partitions) for symbol in symbols]
        self._where = np.array(where, np.int32)
        self._covered = sorted(
            (
                (covered, partition)
                for of, partition in zip(instruments, where, strict=True)
                for covered in _coverage(of)
            ),
            key=lambda of: of[0].local_from,
        )
        source = Source(exchange, exchange, COLLECTOR, str(time.time_ns()))
        self._records = Numbered(source, partitions)

    def start(self, at: int) -> list[NewRecord]:
        return self._records.marks(records.SESSION_START, at)

    def until(self, part: Slice, end: int) -> list[NewRecord]:
        """A slice's ticks that arrived before `end` and were not given yet, and the promise."""
        due = self._coverage_before(end)
        end = min(end, self.end)
        if end <= self._promised:
            return due
        for ticks in part.ticks.get(self._exchange, ()):
            low, high = np.searchsorted(ticks.local_ts, [self._promised, end])
            due += self._batches(ticks.take(slice(low, high)))
        self._promised = end
        return due + self._records.marks(records.PUNCTUATION, end)

    def finish(self) -> list[NewRecord]:
        """The last promise, and the end."""
        due = self._coverage_before(self.end + 1)
        due += self._records.marks(records.PUNCTUATION, self.end)
        return due + self._records.marks(records.SESSION_END, self.end)

    def _batches(self, ticks: Trades | Quotes) -> Iterator[NewRecord]:
        trades = isinstance(ticks, Trades)
        topic, kind = (TRADES_TOPIC, records.TRADES) if trades else (QUOTES_TOPIC, records.QUOTES)
        self.counts[kind] += len(ticks)
        partition = self._where[ticks.code]
        for number in np.unique(partition).tolist():
            mine = np.flatnonzero(partition == number)
            for at in range(0, len(mine), BATCH_ROWS):
                batch = ticks.take(mine[at : at + BATCH_ROWS])
                yield self._records.record(topic, number, kind, encode(batch))

    def _coverage_before(self, end: int) -> list[NewRecord]:
        due = []
        while self._covered and self._covered[0][0].local_from < end:
            covered, partition = self._covered.pop(0)
            value = covered.encode()
            due += [
                self._records.record(t, partition, records.COVERAGE, value) for t in TICK_TOPICS
            ]
        return due


def _coverage(of: RawTicks) -> list[Coverage]:
    """As the source has it; after an outage that no source covers, anew."""
    out: list[Coverage] = []
    reached: int | None = None
    for covered in sorted(of.coverage(), key=lambda of: of.local_from):
        hole = reached is not None and covered.local_from > reached + OUTAGE_NS
        anew = covered.anew or hole
        out.append(Coverage([of.symbol], covered.local_from, covered.exchange_from, anew))
        if covered.local_to is not None:
            reached = max(reached or 0, covered.local_to)
    return out
