"""@trade silent while quotes flow: @aggTrade takes over and hands back, each trade once."""

import asyncio
from pathlib import Path

import numpy as np
import orjson
import pytest

from aggregate.seen import RisingIds
from ingest import fallback as module
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.fallback import CEILING_S, FIRST_S, FLOOR_S, QUOTES, STEADY_S, Silence
from ingest.instruments import BINANCE
from ingest.log.sqlite import SqliteLog
from ingest.records import EVENT, GAP, TRADES, TRADES_TOPIC, GapRecord
from ingest.simulator import Simulator
from ingest.simulator.data_faults import DataFaults, Fault
from ingest.ticks import Trades, decode
from ingest.universe import fetch_instruments
from tests.ingest.collecting import collected, until
from tests.ingest.simulating import feed


def flowing(every_s: float, until_s: float) -> tuple[Silence, float]:
    """A trade with some quotes every so often."""
    silence, now = Silence(0.0), 0.0
    while now < until_s:
        now += every_s
        assert silence.saw(1, 5, now) is None
    return silence, now


def test_silence_while_quotes_flow_calls_the_aggregates_in_once() -> None:
    silence, now = flowing(0.1, 60)
    assert silence.limit == FLOOR_S
    assert silence.saw(0, QUOTES, now + FLOOR_S - 0.1) is None
    assert silence.saw(0, 1, now + FLOOR_S + 0.1) == "aggTrade"
    assert silence.saw(0, 100, now + 100) is None


def test_without_quotes_it_is_not_the_trade_stream_that_is_silent() -> None:
    silence, now = flowing(0.1, 60)
    assert silence.saw(0, QUOTES - 1, now + 100) is None


def test_a_slow_market_has_longer_pauses() -> None:
    silence, now = flowing(4.0, 400)
    assert silence.limit == pytest.approx(80.0)
    assert silence.saw(0, 1_000, now + 79) is None
    assert flowing(100.0, 10_000)[0].limit == CEILING_S


def test_a_stream_that_never_spoke() -> None:
    silence = Silence(0.0)
    assert silence.saw(0, 1_000, FIRST_S) is None
    assert silence.saw(0, 1_000, FIRST_S + 0.1) == "aggTrade"


def test_it_hands_back_only_to_a_steady_stream() -> None:
    silence, now = flowing(0.1, 60)
    now += 6
    assert silence.saw(0, 100, now) == "aggTrade"
    assert silence.saw(1, 1, now + 1) is None
    assert silence.saw(0, 1, now + 1 + FLOOR_S + 0.1) is None  # silent again
    assert silence.saw(1, 1, now + 8) is None
    assert silence.saw(1, 1, now + 8 + STEADY_S - 0.1) is None
    assert silence.saw(1, 1, now + 8 + STEADY_S) == "trade"
    assert not silence.aggregates


async def test_every_trade_is_counted_once_over_both_switches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FLOOR_S", 0.4)
    monkeypatch.setattr(module, "USUAL_PAUSES", 5.0)
    monkeypatch.setattr(module, "STEADY_S", 0.3)
    log = SqliteLog(str(tmp_path / "log.db"))
    faults = DataFaults(1, [Fault("drop", "*@trade", between=(20.0, 60.0))])
    async with Simulator(
        {BINANCE: feed(BINANCE, 90)}, speed=15, streams=4, faults=faults
    ) as simulator:
        natives = ["BTCUSDT", "ETHUSDT"]
        instruments = await fetch_instruments(BINANCE, simulator.rest_url, natives)
        settings = CollectorSettings(BINANCE, ws_url=simulator.ws_url, rest_url=simulator.rest_url)
        collector = Collector(settings, instruments, log, 1, ArrivalClock())
        running = asyncio.create_task(collector.run())
        await until(simulator.finished.is_set)
        await asyncio.sleep(0.7)  # the bound of reordering
        await until(lambda: not collector.healing)
        await collector.stop()
        await running
        ledger = {n: simulator.ledgers[BINANCE].trades(f"{n.lower()}@trade") for n in natives}
    records = (await collected(log, 1))[TRADES_TOPIC, 0]
    await log.close()

    switches = [orjson.loads(r.value) for r in records if r.headers["type"] == EVENT]
    # A lull of the market may call the aggregates in once more: nothing is counted twice then too.
    to = [s["to"] for s in switches if s["event"] == "trade-feed"]
    assert to[:2] == ["aggTrade", "trade"]
    batches = [decode(Trades, r.value) for r in records if r.headers["type"] == TRADES]
    gaps = [GapRecord.decode(r.value) for r in records if r.headers["type"] == GAP]
    for native, symbol in zip(natives, (i.symbol for i in instruments), strict=True):
        qty, counted, aggregates = 0.0, set[int](), 0
        seen = RisingIds()
        for batch in batches:
            if symbol not in batch.symbols:
                continue
            mine = batch.take(batch.code == batch.symbols.index(symbol))
            if not len(mine):
                continue
            first = mine.id - mine.count + 1
            new = seen.fresh(np.zeros(len(mine), np.int32), first, mine.id)
            fresh = mine.take(new & (mine.off_book == 0))
            qty += float(fresh.qty.sum())
            aggregates += int((mine.count > 1).sum())
            for a, b in zip(first[new].tolist(), mine.id[new].tolist(), strict=True):
                assert counted.isdisjoint(range(a, b + 1))
                counted |= set(range(a, b + 1))
        made = ledger[native]
        known = (min(counted) <= made.id) & (made.id <= max(counted))
        market = known & made.market
        explained = {
            i
            for g in gaps
            if g.symbol == symbol
            for i in range(g.first_missing or 0, (g.last_missing or 0) + 1)
        }
        assert set(made.id[market].tolist()) <= counted
        fillers = set(made.id[known & ~made.market].tolist())
        assert set(made.id[known].tolist()) - counted <= explained | fillers
        assert aggregates > 10
        assert qty == pytest.approx(made.size[market].sum())
