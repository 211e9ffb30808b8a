"""Doubts about symbols that had not traded when a connection was lost."""

import asyncio
import itertools
from pathlib import Path

import orjson
import pytest
from websockets.asyncio.server import ServerConnection

from ingest import feed as feeds
from ingest import line as lines
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.gaps import DISCONNECT, FILLS
from ingest.instruments import BINANCE
from ingest.log.sqlite import SqliteLog
from ingest.records import EVENT, GAP, TRADES_TOPIC, GapRecord
from ingest.untraded import NOTICED_NS, Untraded
from ingest.watchdog import Watchdog
from tests.ingest.collecting import (
    DEADLINE_S,
    acknowledge,
    collected,
    instruments,
    quote,
    trade,
    until,
    venue_server,
)
from tests.ingest.test_continuity import NOW, SYMBOLS, batch, single


def test_a_symbol_that_trades_for_the_first_time_after_an_interruption_is_in_doubt() -> None:
    untraded = Untraded()
    untraded.covered(SYMBOLS, NOW - 9)
    assert untraded.check(batch(single(0, 1), at=NOW)[0]) == []
    untraded.interrupted()
    assert untraded.check(batch(single(0, 2), at=NOW + 3)[0]) == []
    trades = batch([*single(0, 3), *single(1, 70, 71)], at=NOW + 5)[0]
    assert untraded.check(trades) == [(SYMBOLS[1], NOW - NOTICED_NS, NOW + 6, NOW + 5)]
    assert untraded.check(batch(single(1, 72), at=NOW + 9)[0]) == []


def test_without_an_interruption_there_is_no_doubt() -> None:
    untraded = Untraded()
    untraded.interrupted()
    untraded.covered(SYMBOLS, NOW)
    assert untraded.check(batch([*single(0, 5), *single(1, 9)])[0]) == []


def test_of_several_interruptions_the_first_counts() -> None:
    untraded = Untraded()
    untraded.covered(SYMBOLS[1:], NOW - 9)
    untraded.interrupted()
    untraded.check(batch(single(0, 1), at=NOW)[0])
    untraded.interrupted()
    ((_, since, until, _),) = untraded.check(batch(single(1, 70), at=NOW + 5)[0])
    assert (since, until) == (NOW - 9, NOW + 5)


def test_a_dead_stream_puts_its_own_symbol_in_doubt_alone() -> None:
    untraded = Untraded()
    untraded.covered(SYMBOLS, NOW - 9)
    untraded.interrupted([SYMBOLS[1], "perpetual-NOPE"])
    trades = batch([*single(0, 3), *single(1, 70)], at=NOW)[0]
    assert [symbol for symbol, *_ in untraded.check(trades)] == [SYMBOLS[1]]


def test_a_dead_connection_is_noticed_late_and_a_dead_stream_any_time_later() -> None:
    began = NOW - 9 * NOTICED_NS
    for dead, since in ((None, NOW - NOTICED_NS), (SYMBOLS[1:], began)):
        untraded = Untraded()
        untraded.covered(SYMBOLS[1:], began)
        untraded.check(batch(single(0, 1), at=NOW)[0])  # by another connection
        untraded.interrupted(dead)
        ((_, doubted, until, _),) = untraded.check(batch(single(1, 70), at=NOW + 5)[0])
        assert (doubted, until) == (since, NOW + 5)


async def test_a_first_trade_while_a_silent_channel_is_being_replaced_ends_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "CHECK_S", 0.02)
    monkeypatch.setattr(feeds, "OVERLAP_S", 0.5)
    monkeypatch.setattr(feeds, "Watchdog", lambda: Watchdog(0.5, 2.0, 0.5))
    connections = 0

    async def venue(connection: ServerConnection) -> None:
        """Trades of BTC and then none; from the second connection on those of ETH."""
        nonlocal connections
        connections += 1
        native = "BTCUSDT" if connections == 1 else "ETHUSDT"
        await acknowledge(connection)
        await connection.send(trade(connections, native), text=True)
        for update in itertools.count(1):
            await connection.send(quote(update), text=True)
            await asyncio.sleep(0.05)

    log = SqliteLog(tmp_path / "log.db")
    async with venue_server(venue) as port:
        settings = CollectorSettings(BINANCE, ws_url=f"ws://127.0.0.1:{port}")
        both = instruments(["BTCUSDT", "ETHUSDT"])
        collector = Collector(settings, both, log, 1, ArrivalClock())
        running = asyncio.create_task(collector.run())
        await until(lambda: connections > 1, "another connection")
        async with asyncio.timeout(DEADLINE_S):
            while "replaced" not in {e["event"] for e in await events(log)}:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await collector.stop()
        await running
    told = [e["event"] for e in await events(log)]
    gaps = [g for g in await gap_records(log) if g.symbol == both[1].symbol]
    await log.close()
    assert told.index("channel-silent") < told.index("replaced")
    assert [(g.kind, g.reason) for g in gaps] == [(FILLS, DISCONNECT)]


async def events(log: SqliteLog) -> list[dict[str, str]]:
    records = (await collected(log, 1))[TRADES_TOPIC, 0]
    return [orjson.loads(r.value) for r in records if r.headers["type"] == EVENT]


async def gap_records(log: SqliteLog) -> list[GapRecord]:
    records = (await collected(log, 1))[TRADES_TOPIC, 0]
    return [GapRecord.decode(r.value) for r in records if r.headers["type"] == GAP]
