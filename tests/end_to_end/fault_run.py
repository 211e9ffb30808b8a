"""Collectors of three simulated venues while everything goes wrong that can, in fast time.

The script of faults is in rounds: every kind of fault once on every venue that knows it, in an
order drawn from the seed, each with time to recover before the next. During the first of them a
third of the symbols trade for the first time. Faults of the data strike in all others: what is
dropped before a symbol's first trade nobody can know. Market time is the collectors' arrival clock;
what they wait for in real seconds (back-off, watchdogs, budgets for REST) is scaled down with it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from ingest import feed as feeds
from ingest import limits, rest, subscriptions
from ingest import line as lines
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.keeper import Keeper, KeeperSettings
from ingest.limits import Rate
from ingest.log import Log
from ingest.simulator import EXCHANGES, Feed, Market, Simulator, market_feed
from ingest.simulator import faults as sim
from ingest.simulator.data_faults import DataFaults, Fault, Throttle
from ingest.simulator.faults import ConnectionFaults
from ingest.simulator.listing_changes import Change
from ingest.simulator.listings import many_natives
from ingest.simulator.market import Event
from ingest.watchdog import Watchdog
from tests.ingest.simulating import eventually

START = 1_700_000_000_000_000_000
NS = 10**9
PARTITIONS = 4
INTENSITY = 2.0
CHANNELS = {
    BINANCE: ("trade", "bookTicker"),
    OKX: ("trades-all", "bbo-tbt"),
    HYPERLIQUID: ("trades", "bbo"),
}
BUSY = {
    BINANCE: ["BTCUSDT", "ETHUSDT"],
    OKX: ["BTC-USDT-SWAP", "ETH-USDT-SWAP"],
    HYPERLIQUID: ["BTC", "ETH"],
}
NATIVES = {exchange: [*BUSY[exchange], *many_natives(exchange, 71)] for exchange in EXCHANGES}
LISTED = {exchange: NATIVES[exchange][-1] for exchange in EXCHANGES}
"""Listed while the collectors run."""
DELISTED = {exchange: NATIVES[exchange][-2] for exchange in EXCHANGES}
LATE = {exchange: NATIVES[exchange][5:-3:3] for exchange in EXCHANGES}
"""Listed all the while, and not traded before some moment of the first round."""
RESIZED = NATIVES[OKX][-3]
"""Its contract goes from one SOL to two and a half."""

SILENCE_S = 2.0
"""Real seconds of silence that the watchdogs allow at least."""
PAUSES = {
    sim.SILENT: 4.0,
    sim.HALF_OPEN: 4.5,
    sim.STORM: 3.0,
    sim.REFUSE: 3.5,
    sim.NOTICE: 3.0,
    sim.CLOSE: 1.5,
}
"""Real seconds after a fault until the next one, so that each is met by standing connections."""
FRAME_PAUSE_S = 0.4
CALM_S = 3.0
"""Real seconds after the last fault."""
TRADES = r"@trade$|^trades"
BTC_TRADES = r"^btcusdt@trade$|^trades(-all)?:BTC(-USDT-SWAP)?$"


def one_round(order: Random, at: float, speed: float) -> tuple[list[sim.Fault], float]:
    """Every fault of connections once, from market second `at` on; and where the round ends."""
    kinds = [
        *((kind, 0) for kind in (sim.SILENT, sim.HALF_OPEN, sim.STORM, sim.REFUSE, sim.NOTICE)),
        *((sim.CLOSE, code) for code in sim.CODES),
        *((kind, 0) for kind in sim.FRAMES),
    ]
    order.shuffle(kinds)
    faults = []
    for kind, code in kinds:
        if kind == sim.SILENT:
            faults.append(sim.Fault(at, kind, seconds=speed, streams=TRADES))
        elif kind == sim.REFUSE:  # what asks again meanwhile, as after a close
            faults.append(sim.Fault(at, kind, seconds=1.5 * speed, streams=BTC_TRADES))
            faults.append(sim.Fault(at, sim.CLOSE))
        elif kind == sim.NOTICE:
            faults.append(sim.Fault(at, kind, OKX, seconds=1.5 * speed))
        else:
            faults.append(sim.Fault(at, kind, seconds=speed, code=code or 1006))
        at += PAUSES.get(kind, FRAME_PAUSE_S) * speed
    return faults, at


def data_faults(seed: int, begin: float, end: float) -> DataFaults:
    """Of Hyperliquid only copies: its fills have no sequence, so what a standing connection
    leaves out or overtakes is not to be noticed, and its block time never steps back."""
    span = (begin, end)
    return DataFaults(
        seed,
        [
            fault
            for streams in ("*@*", "trades-all:*", "bbo-tbt:*")
            for fault in (
                Fault("drop", streams, 0.002, span, n=4),
                Fault("reorder", streams, 0.01, span, n=3),
                Fault("delay", streams, 0.005, span, by_s=0.7),
                Fault("shift", streams, 0.001, span, n=10, by_s=-3.0),
                Fault("shift", streams, 0.001, span, n=10, by_s=0.4),
            )
        ]
        + [Fault("duplicate", "*", 0.01, span, n=2)],
        [Throttle(429, 0.03, 0.1), Throttle(418, 0.01, 0.2)],
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: market seconds at which faults of data begin and all end, and what strikes.

    `first` says when (ns) those that trade late do so for the first time, by (exchange, stream).
    """

    seed: int
    speed: float
    first: Mapping[tuple[str, str], int]
    begin: float
    end: float
    connections: ConnectionFaults
    data: DataFaults
    changes: tuple[Change, ...]


def plan(seed: int, speed: float, seconds: float) -> Plan:
    """Rounds of faults until so many seconds of market have passed, at least two."""
    order = Random(seed)
    script, at = one_round(order, speed, speed)
    first = {
        (exchange, trade_key(exchange, native)): START + round(order.uniform(0.0, at) * NS)
        for exchange in EXCHANGES
        for native in LATE[exchange]
    }
    traded = max(_all_traded(seed, exchange, first) for exchange in EXCHANGES)
    begin = at = max(traded, at) + 2.0 * speed
    while at == begin or at + CALM_S * speed < seconds:
        faults, at = one_round(order, at, speed)
        script += faults
    middle = (begin + at) / 2
    changes = [
        change
        for exchange in EXCHANGES
        for change in (
            Change(middle, exchange, LISTED[exchange], trading=True),
            Change(middle + 2.0 * speed, exchange, DELISTED[exchange], trading=False),
        )
    ]
    changes.append(Change(middle + speed, OKX, RESIZED, contract_size=2.5))
    return Plan(
        seed, speed, first, begin, at, ConnectionFaults(script), data_faults(seed, begin, at),
        tuple(changes),
    )  # fmt: skip


def market(seed: int, exchange: str) -> Market:
    channels = CHANNELS[exchange]
    return Market(seed, exchange, NATIVES[exchange], START, channels=channels, intensity=INTENSITY)


def trade_key(exchange: str, native: str) -> str:
    return f"{native.lower()}@trade" if exchange == BINANCE else f"{CHANNELS[exchange][0]}:{native}"


def _all_traded(seed: int, exchange: str, first: Mapping[tuple[str, str], int]) -> float:
    """Market seconds until everything has traded: continuity starts from a symbol's first trade."""
    waiting = {trade_key(exchange, native) for native in NATIVES[exchange]}
    for events in market(seed, exchange).events():
        for when, key, _ in events:
            if when >= first.get((exchange, key), 0):
                waiting.discard(key)
            if not waiting:
                return (when - START) / NS
    raise AssertionError("a market is endless")


def feed_of(script: Plan, exchange: str) -> Feed:
    """The market until everything has traded after the last fault: what is dropped behind a
    symbol's last trade nobody can know."""
    feed = market_feed(market(script.seed, exchange))

    def happened(event: Event) -> bool:
        return event[0] >= script.first.get((exchange, event[1]), 0)

    calm = START + round((script.end + CALM_S * script.speed) * NS)
    waiting = {trade_key(exchange, n) for n in NATIVES[exchange] if n != DELISTED[exchange]}

    def chunks() -> Iterator[list[Event]]:
        for every in feed.chunks:
            events = [event for event in every if happened(event)]
            for i, (when, key, _) in enumerate(events):
                if when >= calm:
                    waiting.discard(key)
                    if not waiting:
                        yield events[: i + 1]
                        return
            yield events

    history = [event for event in feed.history if happened(event)]
    return replace(feed, history=history, chunks=chunks())


def accelerate(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    """Market time runs faster than the clock, and with it what the venues allow an hour."""

    def scaled(rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
        return tuple((round(count * speed), seconds) for count, seconds in rates)

    scaled_limits = {
        name: replace(
            limit,
            connections=scaled(limit.connections),
            line_messages=scaled(limit.line_messages),
            messages=scaled(limit.messages),
        )
        for name, limit in limits.LIMITS.items()
    }
    monkeypatch.setattr(limits, "LIMITS", scaled_limits)
    monkeypatch.setattr(lines, "CHECK_S", 0.05)
    monkeypatch.setattr(subscriptions, "RETRY_S", 0.5)
    monkeypatch.setattr(feeds, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(feeds, "MAX_DELAY_S", 0.3)
    monkeypatch.setattr(feeds, "OVERLAP_S", 0.2)
    monkeypatch.setattr(
        feeds, "Watchdog", lambda: Watchdog(SILENCE_S, 1.25 * SILENCE_S, 1.25 * SILENCE_S)
    )
    # A round's gaps of an hour are healed in seconds; that budgets are kept is tested by itself.
    monkeypatch.setattr(rest, "BUDGETS", dict.fromkeys(EXCHANGES, (1e5, 1e5)))


class MarketTime:
    """The arrival clock of the run: the market's time, and what is added once that has ended."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.beyond = 0

    def __call__(self) -> int:
        return self._simulator.market_ns + self.beyond


async def run(script: Plan, log: Log, directory: Path, lateness_ns: int) -> Simulator:
    """Collect until the market has ended and its gaps are healed; `lateness_ns` has passed too."""
    made: list[Collector] = []

    def standing() -> int:
        return int(len(made) == len(EXCHANGES) and all(c.subscribed for c in made))

    async with Simulator(
        {exchange: feed_of(script, exchange) for exchange in EXCHANGES},
        speed=script.speed,
        not_before_ns=1,
        wall=standing,
        connection_faults=script.connections,
        faults=script.data,
        changes=script.changes,
    ) as simulator:
        now = MarketTime(simulator)
        keepers = [_keeper(e, simulator, log, directory, now, made) for e in EXCHANGES]
        running = [asyncio.create_task(keeper.run()) for keeper in keepers]
        await _or_failure(simulator.finished.wait(), running)
        # What is held back by then comes within a second; every hole is a gap after another.
        await _time_passes(now, 3 * NS)
        await eventually(lambda: not any(c.healing for c in made), 300)
        await _time_passes(now, lateness_ns + 10 * NS)
        for keeper in keepers:
            await keeper.stop()
        await asyncio.gather(*running)
    return simulator


def _keeper(
    exchange: str,
    simulator: Simulator,
    log: Log,
    directory: Path,
    now: Callable[[], int],
    made: list[Collector],
) -> Keeper:
    settings = CollectorSettings(exchange, ws_url=simulator.ws_url, rest_url=simulator.rest_url)

    def collector_of(instruments: object) -> Collector:
        clock = ArrivalClock(wall=now, monotonic=now)
        made.append(Collector(settings, instruments, log, PARTITIONS, clock))  # type: ignore[arg-type]
        return made[-1]

    cache = directory / f"{exchange}.json"
    kept = KeeperSettings(exchange, ["all"], cache, simulator.rest_url, refresh_s=0.5)
    return Keeper(kept, collector_of)


async def _or_failure(what: object, running: list["asyncio.Task[None]"]) -> None:
    """Wait for it, unless a task that should go on ends before."""
    waiting = asyncio.ensure_future(what)  # type: ignore[arg-type]
    await asyncio.wait({waiting, *running}, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        assert not task.done(), task
    await waiting


async def _time_passes(now: MarketTime, nanoseconds: int) -> None:
    """In steps of real time, so that collectors flush and promise at each."""
    for _ in range(4):
        now.beyond += nanoseconds // 4 + 1
        began = time.monotonic()
        await eventually(lambda began=began: time.monotonic() > began + 0.35)  # type: ignore[misc]
