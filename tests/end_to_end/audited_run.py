"""Two minutes of three simulated venues around the turn of a month, and what goes wrong in them.

    market seconds   5–T      trades and quotes are dropped, sent twice, overtaken, delayed, some by
                              more than the lateness limit; exchange stamps step
                     0.15 T   every connection breaks
                     0.25 T   of two redundant collectors one is killed, the other stopped
                              (SIGSTOP); the killed one starts again, the stopped one is evicted
                              from every shard and resumed
                     T/2      midnight, a new month
                     0.7 T    every connection breaks, and another aggregator takes over

Collectors are processes of their own; their arrival clock is the market's time. What they leave:
the log, and then the bars and the raw archive under `bars`.
"""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from aggregate.aggregator import GROUP, Aggregator
from aggregate.partition import PartitionAggregator
from aggregate.shard import Rules
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, EVICTION, PUNCTUATION, TICK_TOPICS
from ingest.simulator import EXCHANGES, Market, Simulator, market_feed
from ingest.simulator import faults as sim
from ingest.simulator.data_faults import DataFaults, Fault
from ingest.simulator.faults import ConnectionFaults
from ingest.simulator.market import Event
from publish.archive import Archive
from publish.publisher import Publisher
from publish.store import Store
from tests.end_to_end.fault_accounts import read_records
from tests.end_to_end.market_collector import LOG, PARTITIONS, SharedTime, start
from tests.ingest.simulating import eventually

NS = 10**9
MIDNIGHT = int(datetime(2025, 11, 1, tzinfo=UTC).timestamp())
LATENESS_NS = 5 * NS
LATE_BY_S = 7.0
"""More than the limit whatever the tick's place in its second."""
EVICTION_NS = 10 * NS
RULES = Rules(lateness_ns=LATENESS_NS, partial=True)
"""Partial windows too, so that two minutes have bars of every interval."""
SYMBOLS = {
    BINANCE: ["BTCUSDT", "1000PEPEUSDT"],
    OKX: ["BTC-USDT-SWAP", "BTC-USD-SWAP"],
    HYPERLIQUID: ["BTC", "kPEPE"],
}
CHANNELS = {
    BINANCE: ("trade", "bookTicker"),
    OKX: ("trades-all", "bbo-tbt"),
    HYPERLIQUID: ("trades", "bbo"),
}
STREAMS = 2 * sum(map(len, SYMBOLS.values()))
START_S = 60.0
STEP_S = 0.3
"""Real time for a flush and a promise of every collector."""


class Delays(DataFaults):
    """Data faults that remember what they delayed by more than the lateness limit."""

    def __init__(self, seed: int, faults: list[Fault]) -> None:
        super().__init__(seed, faults)
        self.late: dict[str, list[Event]] = {exchange: [] for exchange in EXCHANGES}

    def pushed(self, exchange: str, event: Event, since_ns: int) -> list[Event]:
        waiting = {id(e) for _, _, e in self._delayed.get(exchange, [])}
        due = super().pushed(exchange, event, since_ns)
        for when, _, held in self._delayed.get(exchange, []):
            if id(held) not in waiting and when - held[0] >= LATENESS_NS + NS:
                self.late[exchange].append(held)
        return due


def data_faults(seed: int, seconds: float) -> Delays:
    """Of Hyperliquid's fills, which have no sequence, only copies and delays can be noticed."""
    span = (5.0, seconds)
    numbered = ("*@*", "trades-all:*", "bbo-tbt:*")
    return Delays(
        seed,
        [
            *(Fault("drop", of, 0.002, span, n=4) for of in numbered),
            *(Fault("reorder", of, 0.01, span, n=3) for of in numbered),
            *(Fault("shift", of, 0.001, span, n=10, by_s=-3.0) for of in numbered),
            Fault("delay", "*", 0.005, span, by_s=0.7),
            Fault("delay", "*", 0.002, span, by_s=LATE_BY_S),
            Fault("duplicate", "*", 0.01, span, n=2),
        ],
    )


@dataclass
class Run:
    """What was left behind: `sealed` is each exchange's time by clock (s since the epoch)."""

    store: Store
    faults: Delays
    simulator: Simulator
    sealed: dict[tuple[str, str], int] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def aggregating(log: SqliteLog) -> AsyncIterator[Callable[[], "asyncio.Future[None]"]]:
    """An aggregator all the while in the block; what it gives replaces it by another at once."""
    made: list[tuple[Aggregator, asyncio.Task[None]]] = []

    def begin() -> None:
        aggregator = Aggregator(log, range(PARTITIONS), RULES, eviction_ns=EVICTION_NS)
        made.append((aggregator, asyncio.create_task(aggregator.run())))

    async def replace() -> None:
        made[-1][0].stop(drain_s=0.0)
        await made[-1][1]
        begin()

    begin()
    yield lambda: asyncio.ensure_future(replace())
    made[-1][0].stop(drain_s=60.0)
    await made[-1][1]


async def collect(directory: Path, seed: int, seconds: float, speed: float) -> Run:
    """Run the market and leave its log; then publish and archive what is on it."""
    begin = MIDNIGHT * NS - round(seconds / 2 * NS)
    feeds = {
        exchange: market_feed(
            Market(seed, exchange, SYMBOLS[exchange], begin, channels=CHANNELS[exchange]), seconds
        )
        for exchange in EXCHANGES
    }
    breaks = [sim.Fault(share * seconds, sim.CLOSE) for share in (0.15, 0.7)]
    faults = data_faults(seed, seconds)
    now = SharedTime(directory, new=True)
    log = SqliteLog(directory / LOG)
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS))
    async with Simulator(
        feeds,
        speed=speed,
        streams=2 * STREAMS,
        not_before_ns=1,
        connection_faults=ConnectionFaults(breaks),
        faults=faults,
    ) as simulator:
        clock = MarketTime(simulator, now)
        running = {}
        try:
            for name in ("a", "b"):
                running[name] = start(directory, name, simulator.port, speed)
            async with aggregating(log) as replace_aggregator, clock.kept():
                await clock.reached(begin + round(0.25 * seconds * NS), START_S + seconds)
                await struck(directory, simulator, log, running, speed)
                await clock.reached(begin + round(0.7 * seconds * NS), seconds)
                await replace_aggregator()
                await asyncio.wait_for(simulator.finished.wait(), START_S + seconds)
                await clock.goes_on(30 * NS)
                for process in running.values():
                    process.terminate()
                for process in running.values():
                    assert await asyncio.to_thread(process.wait, 20) == 0, f"see {directory}/*.log"
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    found = Run(Store(f"file://{directory}/bars"), faults, simulator, await sealed(log))
    await published(log, found.store)
    await log.close()
    return found


async def struck(
    directory: Path,
    simulator: Simulator,
    log: SqliteLog,
    running: dict[str, "subprocess.Popen[bytes]"],
    speed: float,
) -> None:
    """Kill a, stop b while it alone collects, start a again; resume b once it is evicted."""
    a, b = running["a"], running["b"]
    a.kill()
    a.wait()
    await asyncio.sleep(STEP_S)  # b alone has what comes now
    b.send_signal(signal.SIGSTOP)
    running["a"] = start(directory, "a", simulator.port, speed)
    deadline = time.monotonic() + START_S
    wanted = {(e, t, p) for e in EXCHANGES for t in TICK_TOPICS for p in await carrying(log, e)}
    try:
        while not wanted <= await evicted(log, "b"):
            assert time.monotonic() < deadline, "never evicted"
            assert running["a"].poll() is None, f"see {directory}/a.log"
            await asyncio.sleep(0.2)
        await asyncio.sleep(2 * STEP_S)  # for what it held back to be sealed
    finally:
        b.send_signal(signal.SIGCONT)


async def carrying(log: SqliteLog, exchange: str) -> set[int]:
    """The partitions in which a collector of the exchange promises anything."""
    return {
        partition
        for partition in range(PARTITIONS)
        async for record in read_records(log, TICK_TOPICS[0], partition)
        if record.headers["exchange"] == exchange and record.headers["type"] == PUNCTUATION
    }


async def evicted(log: SqliteLog, collector: str) -> set[tuple[str, str, int]]:
    return {
        (record.headers["exchange"], topic, partition)
        for topic in TICK_TOPICS
        for partition in range(PARTITIONS)
        async for record in read_records(log, topic, partition)
        if record.headers["type"] == EVICTION and record.headers["collector"] == collector
    }


class MarketTime:
    """Keeps the collectors' arrival clock at the market's time, and going on beyond its end."""

    def __init__(self, simulator: Simulator, shared: SharedTime) -> None:
        self._simulator = simulator
        self._shared = shared
        self._beyond = 0
        self._set()

    def _set(self) -> None:
        self._shared.set(self._simulator.market_ns + self._beyond)

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        async def keep() -> None:
            while True:
                self._set()
                await asyncio.sleep(0.001)

        task = asyncio.create_task(keep())
        try:
            yield
        finally:
            task.cancel()

    async def reached(self, ns: int, seconds: float) -> None:
        await eventually(lambda: self._simulator.market_ns >= ns, seconds)

    async def goes_on(self, nanoseconds: int) -> None:
        """In steps of real time, so that collectors flush, heal and promise at each."""
        for _ in range(10):
            self._beyond += nanoseconds // 10
            await asyncio.sleep(STEP_S)


async def sealed(log: SqliteLog) -> dict[tuple[str, str], int]:
    """Up to which second each exchange's windows are closed for certain, by clock."""
    found: dict[tuple[str, str], int] = {}
    for partition in range(PARTITIONS):
        owner = await log.acquire(GROUP, partition)
        times = PartitionAggregator(owner, RULES, EVICTION_NS).times()
        for exchange, ns in times.items():
            for clock, wait in (("true", RULES.hold_ns), ("exchange", RULES.hold_ns + LATENESS_NS)):
                second = (ns - wait) // NS
                found[exchange, clock] = min(found.get((exchange, clock), second), second)
    return found


async def published(log: SqliteLog, store: Store) -> None:
    """The bars, and the ticks: both days are over by the wall clock, so they have day files."""
    ends = {(BARS_TOPIC, p): (await log.bounds(BARS_TOPIC, p))[1] for p in range(PARTITIONS)}
    publisher = Publisher(log, store, flush_s=0.2)
    running = asyncio.create_task(publisher.run())
    deadline = time.monotonic() + START_S
    while await log.committed("publisher") != ends:  # once the day that is over is folded
        assert not running.done(), running.exception()
        assert time.monotonic() < deadline, "never all published"
        await asyncio.sleep(0.05)
    publisher.stop()
    await running
    archive = Archive(log, store, lateness_ns=LATENESS_NS, settle_s=0.0)
    running = asyncio.create_task(archive.run())
    while not archive.caught_up:  # a stop reads on for a second only
        assert not running.done(), running.exception()
        assert time.monotonic() < deadline, "never all read"
        await asyncio.sleep(0.05)
    archive.stop()
    await running
