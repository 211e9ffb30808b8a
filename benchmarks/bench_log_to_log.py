"""Ticks on the embedded log → all datasets, all intervals, both clocks → bars on the log.

A tenth of an hour of the day's market at 50 times its rate, a third trades and the rest quotes,
200 instruments, one partition, in records of up to 4096 ticks with a punctuation after each, as a
collector under load writes them. The aggregator reads, seals, rolls up, finishes, encodes and
commits bars, state and offsets in one process; its CPU seconds are of all its threads.
"""

import asyncio
import tempfile
from pathlib import Path

import numpy as np

from aggregate.aggregator import GROUP, Aggregator
from aggregate.bars import read_table
from aggregate.intervals import NS
from aggregate.shard import Rules
from benchmarks import market
from benchmarks.result import Result, cpu_time
from ingest import records
from ingest.log import Log, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.ticks import Quotes, Trades, encode

SECONDS, FASTER = 360, 50
TARGET = 1_000_000.0
EXCHANGE = "binance-futures"


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as place:
        return [asyncio.run(_embedded(Path(place) / "log.db"))]


async def _embedded(path: Path) -> Result:
    log = SqliteLog(path)
    name = "ticks on the log → bars on the log, all datasets, intervals and clocks"
    result = await aggregated(log, workload(), name, TARGET)
    await log.close()
    return result


def workload() -> tuple[Trades, Quotes]:
    rate = FASTER * SECONDS / 86_400 * market.scale()
    return (
        market.trades(round(market.TRADES_A_DAY * rate), market.INSTRUMENTS, SECONDS),
        market.quotes(round(market.QUOTES_A_DAY * rate), market.INSTRUMENTS, SECONDS),
    )


async def aggregated(log: Log, ticks: tuple[Trades, Quotes], name: str, target: float) -> Result:
    """Put the ticks on an empty log, and measure an aggregator that turns them into bars."""
    trades, quotes = ticks
    await log.create(dict.fromkeys((*records.TICK_TOPICS, records.BARS_TOPIC), 1))
    written = session(trades, quotes)
    for i in range(0, len(written), 20):
        await log.append(written[i : i + 20])
    end = {(t, 0): (await log.bounds(t, 0))[1] for t in records.TICK_TOPICS}
    aggregator = Aggregator(log, [0], Rules())
    with cpu_time() as cpu:
        running = asyncio.create_task(aggregator.run())
        while not running.done() and await log.committed(GROUP) != end:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        aggregator.stop()
        await running
    n = len(trades) + len(quotes)
    detail: dict[str, object] = {
        "trades": len(trades),
        "quotes": len(quotes),
        "records": len(written),
        "bars": await _bars(log),
        "cpu_seconds": round(cpu.seconds, 2),
    }
    return Result(name, n / cpu.seconds, "ticks/CPU-s", target, detail)


def session(trades: Trades, quotes: Quotes, partition: int = 0) -> list[NewRecord]:
    """One collector's records in both topics, in arrival order, until long after the last tick."""
    source = records.Source(EXCHANGE, EXCHANGE, "c1", "1")
    seq = dict.fromkeys(records.TICK_TOPICS, 0)
    start, stop = market.START * NS, (market.START + SECONDS + 60) * NS
    out: list[NewRecord] = []

    def put(topic: str, kind: str, value: bytes = b"", **more: str) -> None:
        out.append(NewRecord(topic, partition, value, source.headers(kind, seq[topic], **more)))
        seq[topic] += 1

    cover = records.Coverage(market.symbols(market.INSTRUMENTS), start, start).encode()
    for topic in records.TICK_TOPICS:
        put(topic, records.SESSION_START, local_ts=str(start))
        put(topic, records.COVERAGE, cover)
    step = round(NS * market.BATCH * SECONDS / max(len(quotes), 1))
    for now in range(start + step, stop, step):
        for topic, kind, ticks in (
            (records.TRADES_TOPIC, records.TRADES, trades),
            (records.QUOTES_TOPIC, records.QUOTES, quotes),
        ):
            low, high = np.searchsorted(ticks.local_ts, (now - step, now))
            if high > low:
                put(topic, kind, encode(ticks.take(slice(low, high))))
            put(topic, records.PUNCTUATION, local_ts=str(now))
    for topic in records.TICK_TOPICS:
        put(topic, records.SESSION_END, local_ts=str(stop))
    return out


async def _bars(log: Log) -> int:
    count, offset = 0, 0
    while chunk := await log.read(records.BARS_TOPIC, 0, offset):
        offset = chunk[-1].offset + 1
        for record in chunk:
            if record.headers["type"] == records.BARS:
                count += read_table(record.value).num_rows
    return count
