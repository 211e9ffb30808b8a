"""Ticks on the embedded log → all datasets, all intervals, both clocks → bars on the log.

The issue's day (a part of it, as `PERPFLOW_BENCH_SCALE` says) at its own rates, a third trades and
the rest quotes, 200 instruments: a trade group of four, and more than two bars a tick. Then six
minutes at 50 times its rates. One partition, in records of up to 4096 ticks with a punctuation
after each, as a collector under load or one that catches up writes them. The aggregator reads,
seals, rolls up, finishes, encodes and commits bars, state and offsets in one process; its CPU
seconds are of all its threads, the log's and the kernel's work for them included.
"""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aggregate.aggregator import GROUP, Aggregator
from aggregate.bars import read_table
from aggregate.intervals import DAY, NS
from aggregate.shard import Rules
from benchmarks import market
from benchmarks.result import Result, cpu_time
from ingest import records
from ingest.instruments import partition_of
from ingest.log import Log, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.ticks import Quotes, Trades, encode

DAYS_RATE = (market.TRADES_A_DAY + market.QUOTES_A_DAY) / DAY
"""Ticks a second."""
BURST_S, FASTER = 360, 50
TARGET = 1_000_000.0
EXCHANGE = "binance-futures"
APPENDED = 20
"""Records that are appended together."""


def run() -> list[Result]:
    name = "ticks on the log → bars on the log, all datasets, intervals and clocks"
    return [
        _embedded(name, round(DAY * market.scale()), DAYS_RATE),
        _embedded(f"{name}, {FASTER} times as many a second", *burst()),
    ]


def burst() -> tuple[int, float]:
    """Seconds of the burst, and its ticks a second."""
    return max(market.PART_S // 10, round(BURST_S * market.scale())), FASTER * DAYS_RATE


def _embedded(name: str, seconds: int, ticks_s: float) -> Result:
    async def work() -> Result:
        log = SqliteLog(Path(place) / "log.db")
        result = await aggregated(log, seconds, ticks_s, name, TARGET)
        await log.close()
        return result

    with tempfile.TemporaryDirectory() as place:
        return asyncio.run(work())


async def aggregated(log: Log, seconds: int, ticks_s: float, name: str, target: float) -> Result:
    """Put the market on an empty log, and measure an aggregator that turns it into bars."""
    ticks = await collect(log, seconds, ticks_s)
    end = {(t, 0): (await log.bounds(t, 0))[1] for t in records.TICK_TOPICS}
    aggregator = Aggregator(log, [0], Rules())
    with cpu_time() as cpu:
        running = asyncio.create_task(aggregator.run())
        while not running.done() and await log.committed(GROUP) != end:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        aggregator.stop()
        await running
    detail: dict[str, object] = {
        "ticks": ticks,
        "seconds of market": seconds,
        "records": sum(end.values()),
        "bars": await _bars(log),
        "cpu_seconds": round(cpu.seconds, 2),
    }
    return Result(name, ticks / cpu.seconds, "ticks/CPU-s", target, detail)


async def collect(log: Log, seconds: int, ticks_s: float, partitions: int = 1) -> int:
    """Write one collector's session to both topics; returns how many ticks were in it."""
    await log.create(dict.fromkeys((*records.TICK_TOPICS, records.BARS_TOPIC), partitions))
    names = market.symbols(market.INSTRUMENTS)
    where = np.array([partition_of(EXCHANGE, name, partitions) for name in names])
    sessions = [_Session(partition) for partition in range(partitions)]
    start, stop = market.START * NS, (market.START + seconds + 60) * NS
    step = round(NS * market.BATCH / (ticks_s * 2 / 3)) * partitions
    for session in sessions:
        await log.append(session.begin(start))
    ticks = 0
    for part in market.parts(seconds, ticks_s):
        for partition, session in enumerate(sessions):
            own = [of.take(np.flatnonzero(where[of.code] == partition)) for of in part]
            written = list(session.records((own[0], own[1]), step))
            for i in range(0, len(written), APPENDED):
                await log.append(written[i : i + APPENDED])
        ticks += sum(map(len, part))
    for session in sessions:
        await log.append(session.end(stop))
    return ticks


class _Session:
    """A collector's records in a partition of both topics, in arrival order."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._source = records.Source(EXCHANGE, EXCHANGE, "c1", "1")
        self._next = dict.fromkeys(records.TICK_TOPICS, 0)

    def begin(self, at: int) -> list[NewRecord]:
        cover = records.Coverage(market.symbols(market.INSTRUMENTS), at, at).encode()
        return [
            *self._both(records.SESSION_START, local_ts=str(at)),
            *self._both(records.COVERAGE, cover),
        ]

    def records(self, part: tuple[Trades, Quotes], step: int) -> Iterator[NewRecord]:
        """The part's ticks, a record of each kind and a punctuation every `step` ns."""
        kinds = ((records.TRADES_TOPIC, records.TRADES), (records.QUOTES_TOPIC, records.QUOTES))
        held = [ticks for ticks in part if len(ticks)]
        first = min((int(ticks.local_ts[0]) for ticks in held), default=0)
        last = max((int(ticks.local_ts[-1]) for ticks in held), default=-1)
        for low in range(first, last + 1, step):
            high = min(low + step, last + 1)
            for (topic, kind), ticks in zip(kinds, part, strict=True):
                edges = np.searchsorted(ticks.local_ts, (low, high))
                if edges[1] > edges[0]:
                    yield self._record(topic, kind, encode(ticks.take(slice(*edges))))
                yield self._record(topic, records.PUNCTUATION, local_ts=str(high))

    def end(self, at: int) -> list[NewRecord]:
        return [
            *self._both(records.PUNCTUATION, local_ts=str(at)),
            *self._both(records.SESSION_END, local_ts=str(at)),
        ]

    def _both(self, kind: str, value: bytes = b"", **more: str) -> list[NewRecord]:
        return [self._record(topic, kind, value, **more) for topic in records.TICK_TOPICS]

    def _record(self, topic: str, kind: str, value: bytes = b"", **more: str) -> NewRecord:
        headers = self._source.headers(kind, self._next[topic], **more)
        self._next[topic] += 1
        return NewRecord(topic, self._partition, value, headers)


async def _bars(log: Log) -> int:
    count, offset = 0, 0
    while chunk := await log.read(records.BARS_TOPIC, 0, offset):
        offset = chunk[-1].offset + 1
        for record in chunk:
            if record.headers["type"] == records.BARS:
                count += read_table(record.value).num_rows
    return count
