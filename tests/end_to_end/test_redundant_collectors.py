"""kill -9 of collectors, real processes, while the simulated venues go on.

Two that run the same subscriptions, each killed and restarted at random: nothing is missing, and
nothing is twice in the bars. One alone: what it did not append is healed, or in a recorded gap.
"""

import asyncio
import random
import signal
import time
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from aggregate.aggregator import Aggregator
from aggregate.bars import BarBatch
from aggregate.intervals import EXCHANGE
from aggregate.shard import END, Rules, ShardAggregator
from ingest.gaps import RESTART, SEQUENCE
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, COVERAGE, QUOTES, TICK_TOPICS, TRADES, Coverage
from ingest.simulator import EXCHANGES, Market, market_feed, record_span
from ingest.simulator.ledger import Ledger, Trades
from ingest.simulator.spans import instruments_of
from ingest.ticks import HEALED, Quotes, decode
from ingest.ticks import Trades as Ticks
from publish.publisher import Publisher
from publish.replay.command import ReplayOptions, replay
from publish.store import Store
from tests.end_to_end.collect import START_S, Running, collecting
from tests.end_to_end.fault_accounts import (
    OnLog,
    assert_accounted_for,
    read_records,
    read_trades,
)
from tests.end_to_end.fault_run import trade_key
from tests.end_to_end.processes import published, simulator, wait_until, write_settings
from tests.end_to_end.test_kill import DATASETS, assert_every_logged_tick_once

NS = 10**9
SEED = 20261121
PARTITIONS = 2
KINDS = {TRADES: Ticks, QUOTES: Quotes}
INTENSITY = 3
HANDOVER_S = 1.0
"""How long both stand before one is killed: what a batch and an append take, many times over."""
BUSY = {
    BINANCE: ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT"),
    OKX: ("BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USD-SWAP"),
    HYPERLIQUID: ("BTC", "ETH", "kPEPE"),
}


def market_options(start: int, collectors: int) -> list[object]:
    """A market that outlasts the test, from when every collector stands."""
    symbols = [o for e in EXCHANGES for o in ("--exchange", e, "--symbols", ",".join(BUSY[e]))]
    streams = collectors * 2 * sum(map(len, BUSY.values()))
    options = ("--seed", SEED, "--start", start * NS, "--intensity", INTENSITY)
    return [*options, *symbols, "--streams", streams]


def settings(directory: Path, port: int) -> Path:
    return write_settings(directory, port, partitions=PARTITIONS, natives=BUSY)


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.nightly)])
async def test_two_killed_in_turn_give_the_bars_of_the_whole_market(
    tmp_path: Path, kills: int
) -> None:
    print(f"seed {SEED}")
    moments = random.Random(SEED)
    start = int(time.time()) + 6  # by then both stand where the machine is not busy
    with (
        simulator(*market_options(start, 2)) as (venues, port),
        collecting(settings(tmp_path, port), ("a", "b")) as both,
    ):
        await asyncio.sleep(max(0.0, start + HANDOVER_S - time.time()))
        turn: list[Running] = []
        for _ in range(kills):
            turn = turn or moments.sample(both, 2)
            victim = turn.pop()
            victim.kill()
            await asyncio.sleep(moments.uniform(0.0, 1.0))
            victim.start()
            wait_until(victim.stands, START_S, "subscribed again")
            await asyncio.sleep(HANDOVER_S + moments.uniform(0.0, 1.0))
        venues.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1.0)  # the last windows on the arrival clock close
        for one in both:
            one.stop()
    log = SqliteLog(tmp_path / "perpflow.db")
    made, ends = await exchange_bars(log)
    await published_bars(log, tmp_path)
    await log.close()
    for exchange in EXCHANGES:
        assert_bars_of_the_market(tmp_path, exchange, start, ends[exchange], made)
    await assert_every_logged_tick_once(tmp_path, sum(map(len, BUSY.values())))


Bars = dict[str, dict[tuple[str, str], dict[int, dict[str, str]]]]
"""{dataset: {(exchange, symbol): {bar start (s): {column: repr}}}}, of one second."""


async def exchange_bars(log: SqliteLog) -> tuple[Bars, dict[str, int]]:
    """The exchange clock's bars of everything on the log, however late it arrived; and by exchange
    the second (s since the epoch) in which it ends."""
    made: Bars = defaultdict(lambda: defaultdict(dict))
    ends: dict[str, int] = defaultdict(int)
    for partition in range(PARTITIONS):
        shards: dict[str, ShardAggregator] = {}
        for topic in TICK_TOPICS:
            async for record in read_records(log, topic, partition):
                exchange, kind = record.headers["exchange"], record.headers["type"]
                shard = shards.setdefault(exchange, ShardAggregator(exchange, Rules(0, None)))
                if kind in KINDS:
                    ticks = decode(KINDS[kind], record.value)
                    shard.add(ticks, record.headers["collector"], record.offset)
                    ends[exchange] = max(ends[exchange], int(ticks.exchange_ts.max()) // NS)
                elif kind == COVERAGE:
                    coverage = Coverage.decode(record.value)
                    shard.cover(coverage.symbols, coverage.local_from, coverage.exchange_from)
        for exchange, shard in shards.items():
            for batch in shard.seal(EXCHANGE, END):
                if isinstance(batch, BarBatch) and batch.interval == "1s":
                    for row in batch.table().to_pylist():
                        series = made[batch.dataset][exchange, row.pop("symbol")]
                        at = int(np.datetime64(row.pop("time"), "s").astype(int))
                        assert at not in series
                        series[at] = {name: repr(value) for name, value in row.items()}
    return made, ends


async def published_bars(log: SqliteLog, directory: Path) -> None:
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS))
    aggregator = Aggregator(log, range(PARTITIONS))
    aggregator.stop(drain_s=60.0)  # reads to the end of the log, commits, and returns
    await aggregator.run()
    publisher = Publisher(log, Store(f"file://{directory}/bars"), flush_s=1.0)
    publishing = asyncio.create_task(publisher.run())
    publisher.stop()
    await publishing


def assert_bars_of_the_market(
    directory: Path, exchange: str, start: int, end: int, made: Bars
) -> None:
    """To the last bit: what a replay of every frame of the market gives, up to second `end`."""
    recording = directory / f"{exchange}.gz"
    options = {"natives": BUSY[exchange], "intensity": INTENSITY}
    seconds = end + 1 - start
    record_span(recording, exchange, seed=SEED, start_ns=start * NS, seconds=seconds, **options)
    replay(ReplayOptions([recording], exchange, f"file://{directory}/replayed"))
    for dataset in DATASETS:
        want = published(directory / "replayed", dataset, "1s", "exchange")
        mine = {key: rows for key, rows in want.items() if key[0] == exchange}
        assert len(mine) == len(BUSY[exchange])
        for key, rows in mine.items():
            first = min(made[dataset][key])  # windows before the collectors stood are withheld
            got = {at: row for at, row in made[dataset][key].items() if at < end}
            expected = {at: row for at, row in rows.items() if first <= at < end}
            for row in (*got.values(), *expected.values()) if first > min(rows) else ():
                row.pop("flow_toxicity_score", None)  # which looks back to the first of all
            assert got == expected, (dataset, key)
        assert sum(len(made[dataset][key]) for key in mine) > len(mine) * 5


@pytest.mark.parametrize("kills", [2, pytest.param(25, marks=pytest.mark.nightly)])
async def test_what_a_killed_collector_did_not_append_is_healed_or_in_a_recorded_gap(
    tmp_path: Path, kills: int
) -> None:
    print(f"seed {SEED}")
    moments = random.Random(SEED)
    start = int(time.time()) + 2
    with (
        simulator(*market_options(start, 1)) as (_, port),
        collecting(settings(tmp_path, port), ("a",)) as (one,),
    ):
        await until_traded(tmp_path / "perpflow.db")
        for _ in range(kills):
            one.kill()
            await asyncio.sleep(moments.uniform(0.0, 1.5))
            one.start()
            wait_until(one.stands, START_S, "subscribed again")
            await asyncio.sleep(moments.uniform(0.5, 2.0))
        await asyncio.sleep(3.0)
        one.stop()
    opened = SqliteLog(tmp_path / "perpflow.db")
    found = await read_trades(opened, PARTITIONS)
    await opened.close()
    for exchange in EXCHANGES:
        # Of a session that was killed before it had recorded its gap, the jump is found on the log.
        assert {gap.reason for gap in found.gaps(exchange)} <= {RESTART, SEQUENCE}
        ledger, instruments = made_until(exchange, start, time.time_ns())
        for instrument in instruments:
            mine = found.symbols[exchange, instrument.symbol]
            made = up_to_the_last(ledger.trades(trade_key(exchange, instrument.native)), mine)
            missing = assert_accounted_for(made, mine, start * 1_000)
            if exchange != HYPERLIQUID:  # all of it can be had over REST, but for fillers
                assert missing <= (~made.market).sum()
                healed = sum(g.healed for g in mine.closed)
                assert (mine.origin == HEALED).sum() >= healed > 0


async def until_traded(path: Path) -> None:
    """Until there is a trade of every symbol on the log: what continuity starts from."""
    log = SqliteLog(path)
    traded, deadline = 0, time.monotonic() + 60.0
    while traded < sum(map(len, BUSY.values())):
        assert time.monotonic() < deadline, f"trades of {traded} symbols only"
        await asyncio.sleep(0.2)
        traded = len((await read_trades(log, PARTITIONS)).symbols)
    await log.close()


def made_until(exchange: str, start: int, end_ns: int) -> tuple[Ledger, list[Instrument]]:
    """What the simulator's market made, made again."""
    market = Market(SEED, exchange, BUSY[exchange], start * NS, intensity=INTENSITY)
    feed = market_feed(market, end_ns / NS - start)
    ledger = Ledger(exchange)
    for events in (feed.history, *feed.chunks):
        for event in events:
            ledger.add(event)
    return ledger, instruments_of(market.listings)


def up_to_the_last(made: Trades, mine: OnLog) -> Trades:
    """What was made until the collector was stopped."""
    end = int(np.flatnonzero(np.isin(made.id, mine.ids)).max()) + 1
    return Trades(*(getattr(made, f.name)[:end] for f in fields(Trades)))
