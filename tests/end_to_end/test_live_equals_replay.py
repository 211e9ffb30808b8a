"""Collectors over real websockets give the bars of a replay, however the log is cut."""

import asyncio
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from aggregate.aggregator import Aggregator
from aggregate.intervals import NS
from aggregate.shard import Rules
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import OKX
from ingest.keeper import Keeper, KeeperSettings
from ingest.log import Record
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, TICK_TOPICS, Coverage
from ingest.simulator import DEFAULT_NATIVES, Market, Simulator, market_feed, recording_feed
from ingest.simulator.listing_changes import Change
from ingest.simulator.spans import record_span
from ingest.universe import fetch_instruments
from publish.publisher import Publisher
from publish.replay.command import ReplayOptions, replay
from publish.store import Store
from tests.aggregate.reference import SECONDS
from tests.end_to_end.processes import published

DATA = Path(__file__).parents[2] / "../shared/data"
RULES = Rules(lateness_ns=120 * NS)
SPEED = 40.0
DATASETS = ("flow", "ohlcv", "vtwap", "l1_imbalance", "l1_liquidity", "l1_price")


@dataclass(frozen=True)
class Cut:
    """How the ticks are cut on their way: partitions, batches, aggregating processes."""

    partitions: int
    batch_ms: float
    batch_rows: int
    processes: int


COARSE = Cut(partitions=1, batch_ms=50.0, batch_rows=4096, processes=0)
FINE = Cut(partitions=5, batch_ms=3.0, batch_rows=7, processes=2)


async def live(
    exchange: str, recordings: list[Path], natives: list[str], cut: Cut, out: Path
) -> None:
    """Serve the recordings, collect, aggregate and publish them under the directory `out`."""
    feed = recording_feed(exchange, recordings)
    collector: Collector | None = None
    beyond = 0

    def subscribed() -> int:
        return int(collector is not None and collector.subscribed)

    # The market begins when every subscription stands, as the recording did.
    async with Simulator(
        {exchange: feed}, speed=SPEED, not_before_ns=1, wall=subscribed
    ) as simulator:
        # The arrival clock starts at the recording's first stamp and follows its time.
        def arrival() -> int:
            return simulator.market_ns + beyond

        clock = ArrivalClock(wall=arrival, monotonic=arrival)
        log = SqliteLog(out / "perpflow.db")
        await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), cut.partitions))
        settings = CollectorSettings(
            exchange,
            ws_url=simulator.ws_url,
            batch_ms=cut.batch_ms,
            batch_rows=cut.batch_rows,
        )
        instruments = await fetch_instruments(exchange, simulator.rest_url, natives)
        collector = Collector(settings, instruments, log, cut.partitions, clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(collector.run())
            await asyncio.wait_for(simulator.finished.wait(), 60)
            await settled(log, cut.partitions)
            # Time goes on without ticks until every window of the recording has closed.
            beyond = 200 * NS
            await asyncio.sleep(0.6)
            await collector.stop()
    await aggregated(log, cut)
    store = Store(f"file://{out}/bars")
    publisher = Publisher(log, store, flush_s=1.0)
    publishing = asyncio.create_task(publisher.run())
    publisher.stop()
    await publishing
    await log.close()


async def settled(log: SqliteLog, partitions: int) -> None:
    """Until no more ticks come: the last of the recording are on the log."""
    async with asyncio.timeout(30):
        before = None
        while (now := await ticks_on(log, partitions)) != before:
            before = now
            await asyncio.sleep(0.4)


async def ticks_on(log: SqliteLog, partitions: int) -> int:
    ticks = 0
    for topic in TICK_TOPICS:
        for partition in range(partitions):
            for record in await log.read(topic, partition, 0, max_bytes=1 << 40):
                ticks += record.headers["type"] in ("trades", "quotes")
    return ticks


async def aggregated(log: SqliteLog, cut: Cut) -> None:
    if not cut.processes:
        aggregator = Aggregator(log, range(cut.partitions), RULES)
        aggregator.stop()  # reads to the end of the log, commits, and returns
        await aggregator.run()
        return
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=aggregate_partitions,
            args=(log.path, list(range(i, cut.partitions, cut.processes))),
        )
        for i in range(cut.processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        await asyncio.to_thread(worker.join, 60)
        assert worker.exitcode == 0


def aggregate_partitions(path: Path, partitions: list[int]) -> None:
    async def work() -> None:
        log = SqliteLog(path)
        aggregator = Aggregator(log, partitions, RULES)
        aggregator.stop()
        await aggregator.run()
        await log.close()

    asyncio.run(work())


def bars_of(store: Path, interval: str) -> dict:
    return {name: published(store, name, interval, "exchange") for name in DATASETS}


def assert_replay_bars_are_there(live_store: Path, replay_store: Path, symbols: int) -> None:
    """Every bar that replay publishes is in the live files, to the last bit."""
    compared = 0
    for interval in SECONDS:
        got, want = bars_of(live_store, interval), bars_of(replay_store, interval)
        for dataset in DATASETS:
            if interval == "1s":
                assert len(want[dataset]) == symbols, dataset
            for key, rows in want[dataset].items():
                live_rows = got[dataset][key]
                # Live also closes what time passed after the recording's end.
                until = max(rows)
                assert {at: row for at, row in live_rows.items() if at <= until} == rows
                compared += len(rows)
    assert compared > 100


def recorded(name: str) -> list[Path]:
    paths = [DATA / "binance" / name.format(day) for day in (18, 19)]
    if not all(path.exists() for path in paths):
        pytest.skip("the recordings of ../shared/data are not here")
    return paths


@pytest.mark.parametrize("cut", [COARSE, FINE], ids=["coarse", "fine"])
async def test_real_recordings_of_binance(tmp_path, cut):
    btc, eth = (recorded(f"usdm_ws_{name}usdt_202407{{}}.gz") for name in ("btc", "eth"))
    files = [*btc, *eth]
    store = f"file://{tmp_path}/replayed"
    replay(ReplayOptions(files, "binance-futures", store))
    (tmp_path / "live").mkdir()
    await live("binance-futures", files, ["BTCUSDT", "ETHUSDT"], cut, tmp_path / "live")
    assert_replay_bars_are_there(tmp_path / "live/bars", tmp_path / "replayed", symbols=2)


@pytest.mark.parametrize("cut", [COARSE, FINE], ids=["coarse", "fine"])
@pytest.mark.parametrize("exchange", list(DEFAULT_NATIVES))
async def test_simulated_recordings(tmp_path, exchange, cut):
    path = tmp_path / "recording.gz"
    record_span(path, exchange, seed=3, start_ns=1_709_251_180 * NS, seconds=150)
    store = f"file://{tmp_path}/replayed"
    replay(ReplayOptions([path], exchange, store))
    natives = list(DEFAULT_NATIVES[exchange])
    (tmp_path / "live").mkdir()
    await live(exchange, [path], natives, cut, tmp_path / "live")
    assert_replay_bars_are_there(
        tmp_path / "live/bars", tmp_path / "replayed", symbols=len(natives)
    )


async def changing(recordings: Path, out: Path) -> list[Record]:
    """Collect, record and publish an OKX of which one instrument is listed late, one is delisted
    and listed again, and one gets another contract size; returns what is on the log."""
    script = [
        Change(20.0, OKX, "ETH-USDT-SWAP", trading=True),
        Change(30.0, OKX, "BTC-USD-SWAP", trading=False),
        Change(44.0, OKX, "BTC-USDT-SWAP", contract_size=1.28),
        Change(62.0, OKX, "BTC-USD-SWAP", trading=True),
    ]
    natives = ["BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USD-SWAP"]
    market = Market(5, OKX, natives, start_ns=1_709_251_180 * NS, intensity=2.0)
    made: list[Collector] = []
    beyond = 0

    def subscribed() -> int:
        return int(bool(made) and made[0].subscribed)

    async with Simulator(
        {OKX: market_feed(market, 120.0)},
        speed=20.0,
        not_before_ns=1,
        wall=subscribed,
        changes=script,
    ) as simulator:

        def arrival() -> int:
            return simulator.market_ns + beyond

        log = SqliteLog(out / "perpflow.db")
        await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), COARSE.partitions))
        settings = CollectorSettings(OKX, ws_url=simulator.ws_url, record_dir=recordings)

        def collector_of(found):
            clock = ArrivalClock(wall=arrival, monotonic=arrival)
            made.append(Collector(settings, found, log, COARSE.partitions, clock))
            return made[-1]

        wanted = KeeperSettings(
            OKX, ["all"], out / "list.json", rest_url=simulator.rest_url, refresh_s=0.1
        )
        keeper = Keeper(wanted, collector_of)
        running = asyncio.create_task(keeper.run())
        await asyncio.wait_for(simulator.finished.wait(), 60)
        await settled(log, COARSE.partitions)
        beyond = 200 * NS
        await asyncio.sleep(0.6)
        await keeper.stop()
        await running
    await aggregated(log, COARSE)
    publisher = Publisher(log, Store(f"file://{out}/bars"), flush_s=1.0)
    publishing = asyncio.create_task(publisher.run())
    publisher.stop()
    await publishing
    told = await log.read(TICK_TOPICS[0], 0, 0, max_bytes=1 << 40)
    await log.close()
    return told


async def test_own_recordings_hold_listings_and_contract_sizes(tmp_path):
    (tmp_path / "live").mkdir()
    told = await changing(tmp_path / "frames", tmp_path / "live")
    events = [orjson.loads(r.value) for r in told if r.headers["type"] == "event"]
    assert [e["event"] for e in events if "native" in e] == [
        *("listed", "delisted", "contract-size", "listed")
    ]
    # Nothing of it took another connection.
    assert [e["event"] for e in events if "path" in e] == ["connected", "connected"]
    files = list((tmp_path / "frames").iterdir())
    options = ReplayOptions(files, OKX, f"file://{tmp_path}/replayed", lateness_ns=120 * NS)
    replay(options)
    live_store, replayed = tmp_path / "live/bars", tmp_path / "replayed"
    assert_replay_bars_are_there(live_store, replayed, symbols=3)
    for interval in ("1s", "15s", "30s"):
        got, want = bars_of(live_store, interval), bars_of(replayed, interval)
        for dataset in DATASETS:
            assert got[dataset].keys() == want[dataset].keys()
            for key, rows in got[dataset].items():
                until = max(want[dataset][key])
                assert {at for at in rows if at <= until} == want[dataset][key].keys()
    # What was delisted and listed again has whole windows before and after, none across.
    coverage = [Coverage.decode(r.value) for r in told if r.headers["type"] == "coverage"]
    first, *_, again = (c for c in coverage if "perpetual-BTC-USD:BTC" in c.symbols)
    assert (first.anew, again.anew) == (False, True)
    for interval, seconds in (("1s", 1), ("15s", 15)):
        bars = published(live_store, "ohlcv", interval, "true")[OKX, "perpetual-BTC-USD:BTC"]
        across = [at for at in bars if at * NS < again.local_from < (at + seconds) * NS]
        assert not across
        assert min(bars) * NS < again.local_from < max(bars) * NS
