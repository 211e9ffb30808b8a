"""The fault run: 216 symbols of three venues, seeded faults, and the simulator's ledger.

Every trade of the ledger is on the log, once when copies are removed, or inside a recorded gap.
Market time runs faster than the clock, and the budgets for REST with it.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ingest import healing, metrics
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, partition_of
from ingest.log.sqlite import SqliteLog
from ingest.records import GAP, OPEN, TRADES, TRADES_TOPIC, GapRecord
from ingest.simulator import EXCHANGES, Market, Simulator, market_feed
from ingest.simulator.data_faults import DataFaults, Fault, Throttle
from ingest.simulator.listings import many_natives
from ingest.ticks import Trades, decode
from ingest.universe import fetch_instruments
from tests.ingest.simulating import eventually

START = 1_700_000_000_000_000_000
PARTITIONS = 4
QUIET_S = 25.0
"""Market seconds without faults at both ends: a symbol's first trade is what continuity starts
from, and what is dropped behind its last one nobody can know."""
BUSY = {
    BINANCE: ["BTCUSDT", "ETHUSDT"],
    OKX: ["BTC-USDT-SWAP", "ETH-USDT-SWAP"],
    HYPERLIQUID: ["BTC", "ETH"],
}
KEYS = {BINANCE: "{}@trade", OKX: "trades-all:{}", HYPERLIQUID: "trades:{}"}
IDS = {BINANCE: "t", OKX: "tradeId", HYPERLIQUID: "tid"}
PRICES = {BINANCE: ("p", "T"), OKX: ("px", "ts"), HYPERLIQUID: ("px", "time")}


@dataclass
class OnLog:
    """What the log says of one symbol: prices by id, and its gap records."""

    prices: dict[int, set[float]] = field(default_factory=lambda: defaultdict(set))
    gaps: list[GapRecord] = field(default_factory=list)

    def explains(self, trade_id: int, exchange_ms: int) -> bool:
        """Whether a recorded gap says that this trade may be missing."""
        for gap in self.gaps:
            if gap.first_missing is None or gap.last_missing is None:
                if gap.exchange_ts <= exchange_ms * 1_000_000 <= gap.exchange_to:
                    return True
            elif gap.first_missing <= trade_id <= gap.last_missing:
                return True
        return False


def faults(seed: int, seconds: float) -> DataFaults:
    while_on = (QUIET_S, seconds - QUIET_S)
    trades = "*trade*"
    return DataFaults(
        seed,
        [
            # Hyperliquid's fills have no sequence: what a standing connection leaves out is
            # not to be noticed, so nothing is left out there but by disconnects.
            Fault("drop", "*@trade", 0.004, while_on, n=4),
            Fault("drop", "trades-all:*", 0.004, while_on, n=4),
            Fault("duplicate", trades, 0.01, while_on, n=2),
            Fault("reorder", trades, 0.01, while_on, n=3),
            Fault("delay", trades, 0.005, while_on, by_s=0.5),
            Fault("shift", trades, 0.002, while_on, n=10, by_s=-3.0),
            Fault("shift", trades, 0.002, while_on, n=10, by_s=0.4),
        ],
        [Throttle(429, 0.03, 0.1), Throttle(418, 0.01, 0.2)],
    )


async def run(
    log: SqliteLog, seed: int, seconds: float, speed: float
) -> tuple[Simulator, dict[tuple[str, str], str]]:
    """The simulator when its markets have ended, and native ids by (exchange, symbol)."""
    symbols = {}
    natives = {e: [*BUSY[e], *many_natives(e, 70)] for e in EXCHANGES}
    feeds = {
        e: market_feed(Market(seed, e, natives[e], START, intensity=3.0), seconds)
        for e in EXCHANGES
    }
    streams = sum(2 * len(names) for names in natives.values())
    struck = faults(seed, seconds)
    async with Simulator(feeds, speed=speed, streams=streams, faults=struck) as simulator:
        collectors = []
        for exchange in EXCHANGES:
            instruments = await fetch_instruments(exchange, simulator.rest_url, natives[exchange])
            symbols |= {(exchange, i.symbol): i.native for i in instruments}
            settings = CollectorSettings(
                exchange, ws_url=simulator.ws_url, rest_url=simulator.rest_url
            )
            collectors.append(Collector(settings, instruments, log, PARTITIONS, ArrivalClock()))
        running = [asyncio.create_task(c.run()) for c in collectors]
        breaking = asyncio.create_task(_break_connections(simulator, seconds, speed))
        await simulator.finished.wait()
        await breaking
        await asyncio.sleep(1.0)  # longer than rows may be out of order: every hole is a gap now
        await eventually(lambda: not any(c.healing for c in collectors), 120)
        for collector in collectors:
            await collector.stop()
        await asyncio.gather(*running)
    assert min(struck.struck[kind] for kind in ("drop", "duplicate", "reorder", "delay")) > 10
    return simulator, symbols


async def _break_connections(simulator: Simulator, seconds: float, speed: float) -> None:
    """Drop all connections again and again; at last with time to be back before the market ends.

    In a long run after so many real seconds that a connection counts as stable: else back-off
    would grow to what is a good part of an hour of market time.
    """
    for at in np.arange(
        QUIET_S + 10.0,
        seconds - 3 * QUIET_S * max(speed / 8.0, 1.0),
        40.0 if seconds < 1_000.0 else 13.0 * speed,
    ):
        due = START + int(at * 1e9)
        await eventually(lambda due=due: simulator.market_ns >= due, seconds)  # type: ignore[misc]
        simulator.disconnect()


async def read(log: SqliteLog) -> dict[tuple[str, str], OnLog]:
    found: dict[tuple[str, str], OnLog] = defaultdict(OnLog)
    for partition in range(PARTITIONS):
        offset = 0
        while records := await log.read(TRADES_TOPIC, partition, offset):
            offset = records[-1].offset + 1
            for record in records:
                exchange = record.headers["exchange"]
                if record.headers["type"] == TRADES:
                    batch = decode(Trades, record.value)
                    rows = zip(batch.code.tolist(), batch.id.tolist(), batch.price, strict=True)
                    for code, trade_id, price in rows:
                        assert partition_of(exchange, batch.symbols[code], PARTITIONS) == partition
                        found[exchange, batch.symbols[code]].prices[trade_id].add(float(price))
                elif record.headers["type"] == GAP:
                    gap = GapRecord.decode(record.value)
                    found[exchange, gap.symbol].gaps.append(gap)
    return found


def assert_accounted_for(
    simulator: Simulator, symbols: dict[tuple[str, str], str], on_log: dict[tuple[str, str], OnLog]
) -> None:
    """Each trade of the ledger: on the log, with its price, or inside a recorded gap."""
    for (exchange, symbol), native in symbols.items():
        name = native.lower() if exchange == BINANCE else native
        mine = on_log[exchange, symbol]
        price_name, time_name = PRICES[exchange]
        ledger = {
            int(row[IDS[exchange]]): (float(row[price_name]), int(row[time_name]))
            for row in simulator.ledgers[exchange].trades(KEYS[exchange].format(name))
            if int(row[time_name]) >= START // 1_000_000
        }
        for trade_id, (price, ms) in ledger.items():
            if trade_id in mine.prices:
                assert mine.prices[trade_id] == {price}, (exchange, symbol, trade_id)
            else:
                assert mine.explains(trade_id, ms), (exchange, symbol, trade_id, ms, mine.gaps)
        if exchange != HYPERLIQUID:  # whose first backlog is of before the ledger's start
            assert set(mine.prices) <= set(ledger)


def value(counter: object, **labels: str) -> float:
    """The sum of a counter's samples with these labels."""
    (family,) = counter.collect()  # type: ignore[attr-defined]
    return sum(
        s.value
        for s in family.samples
        if s.name.endswith("_total") and labels.items() <= s.labels.items()
    )


@pytest.mark.parametrize(
    ("seed", "seconds", "speed"),
    [
        (1, 160.0, 8.0),
        *(pytest.param(s, 3_600.0, 15.0, marks=pytest.mark.nightly) for s in range(1, 11)),
    ],
)
async def test_every_trade_is_on_the_log_or_inside_a_recorded_gap(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    seconds: float,
    speed: float,
) -> None:
    budgets = {e: (rate * speed, burst * speed) for e, (rate, burst) in healing.BUDGETS.items()}
    monkeypatch.setattr(healing, "BUDGETS", budgets)
    before = {e: value(metrics.GAPS, exchange=e) for e in EXCHANGES}
    healed_before = {e: value(metrics.HEALED, exchange=e) for e in EXCHANGES}
    log = SqliteLog(str(tmp_path / "log.db"))
    try:
        simulator, symbols = await run(log, seed, seconds, speed)
        on_log = await read(log)
    finally:
        await log.close()
    assert len(symbols) == 216
    assert_accounted_for(simulator, symbols, on_log)

    for exchange in EXCHANGES:
        gaps = [g for (e, _), mine in on_log.items() if e == exchange for g in mine.gaps]
        opened = [g for g in gaps if g.state == OPEN]
        assert len(gaps) == 2 * len(opened)  # the healing of each has ended
        assert value(metrics.GAPS, exchange=exchange) - before[exchange] == len(opened)
        healed = sum(g.healed for g in gaps)
        assert value(metrics.HEALED, exchange=exchange) - healed_before[exchange] == healed
        if exchange != HYPERLIQUID:
            assert healed > 50
