"""The whole collector over real websockets: from a venue's frames to the records on the log."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode

from ingest import collector as module
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument
from ingest.log import Record
from ingest.log.sqlite import SqliteLog
from ingest.recording import ReadReport, read_frames
from ingest.records import Coverage
from ingest.simulator import Market, Simulator, market_feed
from ingest.ticks import BACKLOG, Trades
from ingest.universe import fetch_instruments
from tests.ingest.collecting import (
    BadLog,
    acknowledge,
    assert_sessions_keep_their_promises,
    collected,
    instruments,
    quote,
    ticks_of,
    trade,
    trade_ids,
    until,
    venue_server,
)

PARTITIONS = 3
CHANNELS = {
    BINANCE: ("bookTicker", "trade"),
    OKX: ("bbo-tbt", "trades-all"),
    HYPERLIQUID: ("bbo", "trades"),
}


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[BadLog]:
    log = BadLog(str(tmp_path / "log.db"))
    yield log
    log.open.set()
    await log.close()


@asynccontextmanager
async def collecting(
    log: SqliteLog, settings: CollectorSettings, listed: Sequence[Instrument] | None = None
) -> AsyncIterator[Collector]:
    """A collector that runs; it has stopped when the block is left."""
    universe = instruments() if listed is None else listed
    collector = Collector(settings, universe, log, PARTITIONS, ArrivalClock())
    running = asyncio.create_task(collector.run())
    try:
        yield collector
    finally:
        await collector.stop()
        await running


def binance(port: int) -> CollectorSettings:
    return CollectorSettings(BINANCE, ws_url=f"ws://127.0.0.1:{port}")


def assert_promises_kept(records: dict[tuple[str, int], list[Record]]) -> None:
    assert len(records) == 2 * PARTITIONS
    for part in records.values():
        by_session = sorted(part, key=lambda r: (r.headers["exchange"], r.headers["session"]))
        for _, mine in groupby(
            by_session, key=lambda r: (r.headers["exchange"], r.headers["session"])
        ):
            assert_sessions_keep_their_promises(sorted(mine, key=lambda r: r.offset))


def events(records: Sequence[Record]) -> list[str]:
    return [orjson.loads(r.value)["event"] for r in records if r.headers["type"] == "event"]


async def test_what_a_venue_sends_is_on_the_log_with_promises_and_coverage(log: BadLog) -> None:
    sent = 0
    done = asyncio.Event()

    async def handler(connection: ServerConnection) -> None:
        nonlocal sent
        await acknowledge(connection)
        while not done.is_set():
            sent += 1
            await connection.send(trade(sent, "BTCUSDT"), text=True)
            await connection.send(quote(sent, "ETHUSDT"), text=True)
            await asyncio.sleep(0.001)
        await connection.wait_closed()

    async with venue_server(handler) as port, collecting(log, binance(port)) as collector:
        await until(lambda: collector.subscribed)
        await until(lambda: sent > 600)
        done.set()
        await until(lambda: collector.ticks == 2 * sent)
    records = await collected(log, PARTITIONS)
    assert_promises_kept(records)
    assert trade_ids(records) == list(range(1, sent + 1))
    for part in records.values():
        assert sum(r.headers["type"] == "punctuation" for r in part) >= 2
    covered = [
        Coverage.decode(r.value)
        for part in records.values()
        for r in part
        if r.headers["type"] == "coverage"
    ]
    assert Counter(s for c in covered for s in c.symbols) == dict.fromkeys(
        (i.symbol for i in instruments()), 2
    )
    assert all(r.headers["shard"] == BINANCE for part in records.values() for r in part)


async def test_a_promise_follows_a_second_and_its_hold_at_once(log: BadLog) -> None:
    """By the wall clock's multiples of 250 ms, so that a bar waits for no other."""
    async with venue_server(acknowledge) as port, collecting(log, binance(port)):
        await asyncio.sleep(2.0)  # eight of them
    stamps = {
        int(record.headers["local_ts"]) % 250_000_000
        for record in await log.read("ticks.trades", 0, 0)
        if record.headers["type"] == "punctuation"
    }
    assert len(stamps) >= 4
    # A machine under load is late; that it comes anywhere in the 250 ms is what is to be seen.
    assert sorted(stamps)[len(stamps) // 2] < 100_000_000


async def test_a_reconnect_is_in_the_stream_where_it_happened(log: BadLog) -> None:
    connections = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await acknowledge(connection)
        for i in range(1, 101):
            await connection.send(trade(1_000 * connections + i), text=True)
        if connections == 3:
            await connection.wait_closed()

    async with venue_server(handler) as port, collecting(log, binance(port)) as collector:
        await until(lambda: collector.ticks == 300)
    records = await collected(log, PARTITIONS)
    assert_promises_kept(records)
    assert trade_ids(records) == [1_000 * c + i for c in (1, 2, 3) for i in range(1, 101)]
    history = ["connected", "disconnected", "connected", "disconnected", "connected"]
    for partition in range(PARTITIONS):
        assert events(records["ticks.trades", partition])[:5] == history
    btc = next(p for (topic, p), part in records.items() for r in part if ticks_of(r) is not None)
    story: list[str] = []
    for record in records["ticks.trades", btc]:
        ticks = ticks_of(record)
        told = [str(ticks.id[0] // 1_000)] if isinstance(ticks, Trades) else events([record])
        story += [one for one in told if story[-1:] != [one]]
    expected = ["connected", "1", "disconnected", "connected", "2", "disconnected", "connected"]
    assert story[:7] == expected


async def test_a_slow_log_stops_the_reading_and_loses_nothing(log: BadLog) -> None:
    blocks, each = 200, 1_000  # some 35 MB, more than the sockets' buffers hold
    sent = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal sent
        await acknowledge(connection)
        for block in range(blocks):
            ids = range(1 + block * each, 1 + (block + 1) * each)
            frames = (WireFrame(Opcode.TEXT, trade(i)).serialize(mask=False) for i in ids)
            connection.transport.write(b"".join(frames))
            await connection.drain()
            sent += 1
        await connection.wait_closed()

    async with venue_server(handler) as port:
        settings = replace(binance(port), high_water=1_000_000, low_water=100_000)
        async with collecting(log, settings) as collector:
            await until(lambda: collector.subscribed)
            log.open.clear()
            await until(lambda: collector.paused)
            await asyncio.sleep(0.1)
            waiting = collector._appender.waiting
            await asyncio.sleep(0.6)  # time passes, and not even promises pile up
            assert collector._appender.waiting == waiting
            assert sent < blocks
            log.open.set()
            await until(lambda: collector.ticks == blocks * each)
    records = await collected(log, PARTITIONS)
    assert_promises_kept(records)
    assert trade_ids(records) == list(range(1, blocks * each + 1))


async def test_appends_that_fail_lose_and_reorder_nothing(log: BadLog) -> None:
    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        for i in range(1, 1_001):
            await connection.send(trade(i), text=True)
        await connection.wait_closed()

    with capture_logs() as told:
        async with venue_server(handler) as port, collecting(log, binance(port)) as collector:
            await until(lambda: collector.subscribed)
            log.failures = 2
            await until(lambda: log.failures == 0 and collector.ticks == 1_000)
    records = await collected(log, PARTITIONS)
    assert_promises_kept(records)
    assert trade_ids(records) == list(range(1, 1_001))
    assert sum(e["event"] == "append failed, will retry" for e in told) == 1  # one reason
    assert sum(e["event"] == "the log takes records again" for e in told) == 1


async def test_stop_is_quick_in_a_flood(log: BadLog) -> None:
    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        i = 0
        while True:
            i += 1
            await connection.send(trade(i), text=True)

    async with venue_server(handler) as port, collecting(log, binance(port)) as collector:
        await until(lambda: collector.subscribed)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await collector.stop()
        assert loop.time() - start < 5.0
    records = await collected(log, PARTITIONS)
    assert_promises_kept(records)
    ids = trade_ids(records)
    assert ids == list(range(1, len(ids) + 1))


async def test_stop_with_a_log_that_is_stuck_gives_up_and_says_what_is_lost(
    log: BadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.1)

    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await connection.wait_closed()

    with capture_logs() as told:
        async with venue_server(handler) as port, collecting(log, binance(port)) as collector:
            await until(lambda: collector.subscribed)
            log.open.clear()
    (lost,) = (e for e in told if e["event"] == "stopped before the log took everything")
    assert lost["records_lost"] >= 2 * PARTITIONS


async def test_frames_are_recorded_as_they_came(log: BadLog, tmp_path: Path) -> None:
    bad = b'{"torn'

    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        for i in range(1, 101):
            if i == 50:
                await connection.send(bad, text=True)
            await connection.send(trade(i), text=True)
            await asyncio.sleep(0.001)
        await connection.wait_closed()

    async with venue_server(handler) as port:
        settings = replace(binance(port), record_dir=tmp_path / "frames")
        async with collecting(log, settings) as collector:
            await until(lambda: collector.ticks == 100)
    (path,) = (tmp_path / "frames").iterdir()
    report = ReadReport()
    recorded = list(read_frames(path, report))
    assert [p for _, _, p in recorded][1:] == [
        *(trade(i) for i in range(1, 50)),
        bad,
        *(trade(i) for i in range(50, 101)),
    ]
    records = await collected(log, PARTITIONS)
    coverage = next(
        Coverage.decode(r.value)
        for part in records.values()
        for r in part
        if r.headers["type"] == "coverage"
    )
    assert {c.local_from for c in report.coverage} == {coverage.local_from}
    assert {c.exchange_from for c in report.coverage} == {coverage.exchange_from}
    assert report.headers[-1][1].session == records["ticks.trades", 0][0].headers["session"]


async def test_a_recording_that_cannot_be_written_does_not_stop_the_ticks(
    log: BadLog, tmp_path: Path
) -> None:
    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        for i in range(1, 101):
            await connection.send(trade(i), text=True)
            await asyncio.sleep(0.001)
        await connection.wait_closed()

    directory = tmp_path / "frames"
    with capture_logs() as told:
        async with venue_server(handler) as port:
            settings = replace(binance(port), record_dir=directory)
            async with collecting(log, settings) as collector:
                await until(directory.exists)
                directory.rmdir()
                directory.write_text("in the way")
                await until(lambda: collector.ticks == 100)
    assert trade_ids(await collected(log, PARTITIONS)) == list(range(1, 101))
    assert sum(e["event"] == "recording failed" for e in told) == 1


async def test_an_instrument_the_venue_refuses_is_not_covered_and_the_others_are(
    log: BadLog,
) -> None:
    feed = market_feed(Market(1, OKX, ["BTC-USDT-SWAP"], time.time_ns()))
    good = Instrument(OKX, "BTC-USDT-SWAP", "perpetual-BTC-USDT:USDT", 0.01)
    bad = Instrument(OKX, "NOPE-USDT-SWAP", "perpetual-NOPE-USDT:USDT")
    with capture_logs() as told:
        async with Simulator({OKX: feed}) as simulator:
            settings = CollectorSettings(OKX, ws_url=simulator.ws_url)
            async with collecting(log, settings, [good, bad]) as collector:
                await until(lambda: collector.subscribed)
                before = collector.ticks
                await until(lambda: collector.ticks > before + 10)
    records = await collected(log, PARTITIONS)
    covered = {
        symbol
        for part in records.values()
        for r in part
        if r.headers["type"] == "coverage"
        for symbol in Coverage.decode(r.value).symbols
    }
    assert covered == {good.symbol}
    assert sum(e["event"] == "subscription refused" for e in told) == 2  # quotes and trades


async def test_three_venues_to_one_log_lose_no_frame(log: BadLog) -> None:
    feeds = {
        name: market_feed(
            Market(7, name, start_ns=time.time_ns(), channels=used, intensity=4.0), 3.0
        )
        for name, used in CHANNELS.items()
    }
    streams = sum(len(feed.keys) for feed in feeds.values())
    async with Simulator(feeds, streams=streams, speed=4.0) as simulator:
        collectors = []
        for name, feed in feeds.items():
            natives = [listing.native for listing in feed.listings]
            listed = await fetch_instruments(name, simulator.rest_url, natives)
            settings = CollectorSettings(name, ws_url=simulator.ws_url)
            collectors.append(Collector(settings, listed, log, PARTITIONS, ArrivalClock()))
        running = [asyncio.create_task(collector.run()) for collector in collectors]
        await asyncio.wait_for(simulator.finished.wait(), 30)
        sent = simulator.sent_frames
        await until(
            lambda: all(c.ticks >= n for c, n in zip(collectors, sent.values(), strict=True))
        )
        await asyncio.gather(*(collector.stop() for collector in collectors))
        await asyncio.gather(*running)
    records = await collected(log, PARTITIONS)
    assert_promises_kept(records)
    live: Counter[str] = Counter()
    for part in records.values():
        for record in part:
            ticks = ticks_of(record)
            if ticks is not None:
                live[record.headers["exchange"]] += int((ticks.origin != BACKLOG).sum())
    assert live[BINANCE] == sent[BINANCE]  # a frame is a tick there, at least one on OKX
    assert live[OKX] >= sent[OKX]
    assert live[HYPERLIQUID] > 0


async def test_wrong_settings_are_refused_before_anything_runs(log: BadLog) -> None:
    clock = ArrivalClock()
    with pytest.raises(ValueError, match="unknown exchange 'bitmex'"):
        Collector(CollectorSettings("bitmex"), instruments(), log, 1, clock)
    with pytest.raises(ValueError, match="no instruments"):
        Collector(CollectorSettings(BINANCE), [], log, 1, clock)
    with pytest.raises(ValueError, match="trades-all"):
        Collector(CollectorSettings(BINANCE, trades="trades-all"), instruments(), log, 1, clock)
