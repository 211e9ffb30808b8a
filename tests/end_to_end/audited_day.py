"""A minute of yesterday on three simulated venues, collected, published and archived, and what the
simulator knows of it: which frames went out, how often and when.

Frames are lost, sent twice and held back for longer than the lateness limit; Binance's lost trades
are healed, OKX's are not. Only then time goes on to the next day, so that the day is over.
"""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np

from aggregate.aggregator import Aggregator
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, TICK_TOPICS
from ingest.simulator import EXCHANGES, Market, Simulator, market_feed
from ingest.simulator.data_faults import DataFaults, Fault
from ingest.simulator.ledger import Trades
from ingest.simulator.market import Event
from ingest.universe import fetch_instruments
from publish.store import Store
from tests.end_to_end.audited_run import published
from tests.ingest.simulating import eventually

NS = 10**9
SEED = 7
SECONDS = 60.0
SPEED = 10.0
PARTITIONS = 2
LATE_BY_S = 7.0
NATIVES = {BINANCE: ["BTCUSDT"], OKX: ["ETH-USDT-SWAP"], HYPERLIQUID: ["BTC"]}
CHANNELS = {
    BINANCE: ("trade", "bookTicker"),
    OKX: ("trades-all", "bbo-tbt"),
    HYPERLIQUID: ("trades", "bbo"),
}
_ROWS = {
    BINANCE: re.compile(rb'"t":(\d+)'),
    OKX: re.compile(rb'"tradeId":"(\d+)"'),
    HYPERLIQUID: re.compile(rb'"tid":(\d+)'),
}


def is_trades(key: str) -> bool:
    return "trade" in key


@dataclass
class Sent:
    """What went out on a stream."""

    frames: Counter[bytes] = field(default_factory=Counter)
    late: Counter[bytes] = field(default_factory=Counter)


class Watched(DataFaults):
    """Data faults that remember what went out, by exchange and stream."""

    def __init__(self, seed: int, faults: list[Fault]) -> None:
        super().__init__(seed, faults)
        self.sent: dict[tuple[str, str], Sent] = defaultdict(Sent)

    def pushed(self, exchange: str, event: Event, since_ns: int) -> list[Event]:
        due = super().pushed(exchange, event, since_ns)
        for _, key, frame in due:
            self.sent[exchange, key].frames[frame] += 1
        return due

    def released(self, exchange: str, due: int) -> Iterator[Event]:
        for event in super().released(exchange, due):
            when, key, frame = event
            self.sent[exchange, key].frames[frame] += 1
            if due - when >= LATE_BY_S * NS:
                self.sent[exchange, key].late[frame] += 1
            yield event


@dataclass(frozen=True)
class Known:
    """What the simulator knows of a stream of trades or quotes, in rows."""

    rows: int
    copies: int
    late: int
    ids: np.ndarray
    """Of trades: those that went out, each once, rising."""


def known(faults: Watched, exchange: str, key: str) -> Known:
    sent = faults.sent[exchange, key]
    found = {frame: list(map(int, _ROWS[exchange].findall(frame))) for frame in sent.frames}
    each = {frame: len(found[frame]) if is_trades(key) else 1 for frame in sent.frames}
    return Known(
        sum(each[frame] * n for frame, n in sent.frames.items()),
        sum(each[frame] * (n - 1) for frame, n in sent.frames.items()),
        sum(each[frame] * n for frame, n in sent.late.items()),
        np.unique(np.array([i for ids in found.values() for i in ids], np.int64)),
    )


@dataclass
class Day:
    """`ledgers`: every trade made, by exchange and native symbol."""

    day: date
    store: Store
    faults: Watched
    ledgers: dict[tuple[str, str], Trades]
    symbols: dict[tuple[str, str], str]
    """The native symbol of each (exchange, Atlas id)."""


def keys_of(exchange: str, native: str) -> dict[str, str]:
    """The streams of a symbol, by kind."""
    trades, quotes = CHANNELS[exchange]
    if exchange == BINANCE:
        return {"trades": f"{native.lower()}@{trades}", "quotes": f"{native.lower()}@{quotes}"}
    return {"trades": f"{trades}:{native}", "quotes": f"{quotes}:{native}"}


async def yesterday(directory: Path) -> Day:
    """Collect the minute and leave `bars` and its raw archive."""
    day = (datetime.now(UTC) - timedelta(minutes=1)).date() - timedelta(days=1)
    noon = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp())
    span = (5.0, SECONDS - 5.0)
    faults = Watched(
        SEED,
        [
            *(Fault("drop", of, 0.01, span, n=3) for of in ("*@*", "trades-all:*", "bbo-tbt:*")),
            Fault("duplicate", "*", 0.02, span, n=2),
            Fault("delay", "*", 0.02, (5.0, SECONDS - 2 * LATE_BY_S), by_s=LATE_BY_S),
        ],
    )
    feeds = {
        e: market_feed(
            Market(SEED, e, NATIVES[e], noon * NS, channels=CHANNELS[e], intensity=2.0), SECONDS
        )
        for e in EXCHANGES
    }
    log = SqliteLog(directory / "perpflow.db")
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS))
    aggregator = Aggregator(log, range(PARTITIONS))
    aggregating = asyncio.create_task(aggregator.run())
    made: list[Collector] = []
    beyond = 0

    def subscribed() -> int:
        return int(len(made) == len(EXCHANGES) and all(c.subscribed for c in made))

    symbols = {}
    async with Simulator(
        feeds, speed=SPEED, not_before_ns=1, wall=subscribed, faults=faults
    ) as simulator:

        def arrival() -> int:
            return simulator.market_ns + beyond

        for exchange in EXCHANGES:
            found = await fetch_instruments(exchange, simulator.rest_url, NATIVES[exchange])
            symbols |= {(exchange, i.symbol): i.native for i in found}
            settings = CollectorSettings(
                exchange,
                ws_url=simulator.ws_url,
                rest_url=simulator.rest_url if exchange == BINANCE else None,
            )
            clock = ArrivalClock(wall=arrival, monotonic=arrival)
            made.append(Collector(settings, found, log, PARTITIONS, clock))
        running = [asyncio.create_task(collector.run()) for collector in made]
        await asyncio.wait_for(simulator.finished.wait(), 60)
        beyond = 3 * NS  # what is a gap is known by now
        await asyncio.sleep(0.5)
        await eventually(lambda: not any(collector.healing for collector in made), 60)
        await asyncio.sleep(0.5)  # for the last batches
        beyond = 86_400 * NS
        await asyncio.sleep(0.6)  # for a promise of each
        await asyncio.gather(*(collector.stop() for collector in made))
        await asyncio.gather(*running)
        ledgers = {
            (e, n): simulator.ledgers[e].trades(keys_of(e, n)["trades"])
            for e in EXCHANGES
            for n in NATIVES[e]
        }
    aggregator.stop(drain_s=60.0)
    await aggregating
    store = Store(f"file://{directory}/bars")
    await published(log, store)
    await log.close()
    return Day(day, store, faults, ledgers, symbols)
