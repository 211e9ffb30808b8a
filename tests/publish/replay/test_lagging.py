"""An evicted session's ticks: replay of the archive leaves out what live left out."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aggregate.aggregator import Aggregator
from aggregate.bars import read_table
from aggregate.intervals import NS
from aggregate.shard import Rules
from ingest import records
from ingest.log.sqlite import SqliteLog
from publish.layout import Series
from publish.replay.month import Account, MonthUnit
from publish.replay.ticks_in import Area
from publish.settings import PublishSettings
from publish.store import Store
from tests.publish.archiving import ns, run
from tests.publish.replay.test_month import replayed
from tests.publish.ticks_on_log import BTC, EXCHANGE, Collector

SEED = 4
RULES = Rules(lateness_ns=5 * NS)


async def live_and_archive(directory: Path) -> tuple[dict[Series, pa.Table], Store]:
    """Two collectors, one of which hangs for two minutes and is evicted; bars by series."""
    log = SqliteLog(directory / "log.db")
    await log.create(dict.fromkeys((*records.TICK_TOPICS, records.BARS_TOPIC), 1))
    rng = np.random.default_rng(SEED)
    first, second = Collector("a"), Collector("b")
    for c in (first, second):
        await log.append([*c.mark(records.SESSION_START, ns(0)), *c.covered(ns(1))])
    at = ns(1) + np.sort(rng.integers(0, 240 * NS, 4000))
    number = np.arange(1, len(at) + 1)

    async def aggregated() -> None:
        aggregator = Aggregator(log, [0], RULES)
        aggregator.stop()
        await aggregator.run()

    async def bring(c: Collector, low: float, high: float, delay: int) -> None:
        for start in range(int(low), int(high)):
            rows = (at >= ns(start)) & (at < ns(start + 1)) & (rng.random(len(at)) < 0.7)
            if rows.any():
                stamps = at[rows] + delay
                of = number[rows].tolist()
                # The trades' own time is before both arrivals; copies know each other by id.
                await log.append([c.trades(stamps, of, exchange_ts=at[rows] - 5_000_000)])
                await log.append([c.quotes(stamps, of)])
            await log.append(c.mark(records.PUNCTUATION, ns(start + 1)))

    await bring(first, 0, 60, 3_000_000)
    await bring(second, 0, 60, 1_000_000)
    await aggregated()
    await bring(first, 60, 170, 3_000_000)
    await aggregated()  # evicts the second
    await aggregated()  # and goes on without it
    await bring(second, 60, 150, 1_000_000)
    await aggregated()
    await bring(second, 150, 240, 1_000_000)
    await bring(first, 170, 240, 3_000_000)
    for c in (first, second):
        await log.append(c.mark(records.SESSION_END, ns(240)))
    await aggregated()
    tables: dict[Series, list[pa.Table]] = {}
    for record in await log.read(records.BARS_TOPIC, 0, 0, max_bytes=1 << 30):
        if record.headers["type"] == records.BARS:
            of = record.headers
            series = Series(of["dataset"], EXCHANGE, BTC, of["interval"], of["clock"])
            tables.setdefault(series, []).append(read_table(record.value).drop_columns("symbol"))
    store = Store(f"file://{directory}/out")
    await run(log, store)
    await log.close()
    return {s: pa.concat_tables(t).combine_chunks() for s, t in tables.items()}, store


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Series, pa.Table], Store]:
    return asyncio.run(live_and_archive(tmp_path_factory.mktemp("lagging")))


def test_replay_leaves_out_what_came_when_its_seconds_were_sealed(
    ran: tuple[dict[Series, pa.Table], Store],
) -> None:
    live, store = ran
    area = Area(PublishSettings(url=store.url))
    span = ((ns(0), ns(240)),)
    unit = MonthUnit(area, EXCHANGE, BTC, 2026, 11, RULES, spans=span)
    account = Account()
    got = replayed(unit, account)
    assert account.dropped["true", "trades", "source_lagging"] > 500, f"seed {SEED}"
    assert account.dropped["exchange", "quotes", "source_lagging"] > 500
    assert got.keys() == live.keys()
    for series, table in got.items():
        assert table.equals(live[series]), series


def test_the_truth_has_what_live_left_out(ran: tuple[dict[Series, pa.Table], Store]) -> None:
    live, store = ran
    area = Area(PublishSettings(url=store.url))
    unit = MonthUnit(area, EXCHANGE, BTC, 2026, 11, Rules(lateness_ns=None))
    got = replayed(unit)
    of = Series("flow", EXCHANGE, BTC, "1s", "true")
    assert not got[of].equals(live[of])
