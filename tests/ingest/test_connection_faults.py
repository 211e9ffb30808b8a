"""A collector against venues whose connections go wrong."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from ingest import feed as feeds
from ingest import feeds as module
from ingest import line as lines
from ingest import subscriptions
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument
from ingest.log import Record
from ingest.log.sqlite import SqliteLog
from ingest.records import TRADES, Coverage
from ingest.simulator import Market, Simulator, market_feed
from ingest.simulator import faults as sim
from ingest.simulator.faults import ConnectionFaults, Fault, script
from ingest.ticks import Trades, decode
from ingest.universe import fetch_instruments
from ingest.watchdog import Watchdog
from tests.ingest.collecting import DEADLINE_S, collected, until

NATIVES = {
    BINANCE: ["BTCUSDT", "ETHUSDT"],
    OKX: ["BTC-USDT-SWAP", "ETH-USDT-SWAP"],
    HYPERLIQUID: ["BTC", "ETH"],
}
CHANNELS = {
    BINANCE: ("bookTicker", "trade"),
    OKX: ("bbo-tbt", "trades-all"),
    HYPERLIQUID: ("bbo", "trades"),
}
BTC = {
    BINANCE: "perpetual-BTC-USDT:USDT",
    OKX: "perpetual-BTC-USDT:USDT",
    HYPERLIQUID: "perpetual-BTC-USDC:USDC",
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHECK_S", 0.02)
    monkeypatch.setattr(feeds, "OVERLAP_S", 0.1)
    monkeypatch.setattr(feeds, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(feeds, "MAX_DELAY_S", 0.2)
    monkeypatch.setattr(feeds, "Watchdog", lambda: Watchdog(60.0, 60.0, 60.0))


class Scene:
    """A collector of one venue on the simulator, and its faults."""

    def __init__(self, exchange: str, log: SqliteLog) -> None:
        self.exchange = exchange
        self.faults = ConnectionFaults()
        self.log = log
        self.collector: Collector
        self.simulator: Simulator

    def strike(self, kind: str, **more: object) -> None:
        self.faults.strike(Fault(0.0, kind, self.exchange, **more))  # type: ignore[arg-type]

    async def flows(self) -> None:
        """Until some more ticks have come."""
        before = self.collector.ticks
        await until(lambda: self.collector.ticks > before + 60, "more ticks")

    async def records(self) -> list[Record]:
        return [r for part in (await collected(self.log, 1)).values() for r in part]

    async def events(self) -> list[str]:
        return [
            orjson.loads(r.value)["event"]
            for r in await self.records()
            if r.headers["type"] == "event"
        ]

    async def coverages(self) -> list[Coverage]:
        """By time; each is in both topics."""
        found = {r.value for r in await self.records() if r.headers["type"] == "coverage"}
        return sorted(map(Coverage.decode, found), key=lambda c: c.local_from)

    async def trade_ids(self, symbol: str) -> list[int]:
        batches = [
            decode(Trades, r.value) for r in await self.records() if r.headers["type"] == TRADES
        ]
        ids: set[int] = set()
        for batch in batches:
            mine = [batch.symbols[code] == symbol for code in batch.code]
            ids.update(batch.id[mine].tolist())
        return sorted(ids)

    async def until_replaced(self, times: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while (await self.events()).count("replaced") < times:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until_trades(self, symbol: str, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(await self.trade_ids(symbol)) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@asynccontextmanager
async def playing(
    exchange: str,
    tmp_path: Path,
    before: Callable[[Scene], None] = lambda scene: None,
    extra: tuple[Instrument, ...] = (),
) -> AsyncIterator[Scene]:
    log = SqliteLog(tmp_path / "log.db")
    scene = Scene(exchange, log)
    market = Market(
        3, exchange, NATIVES[exchange], time.time_ns(), channels=CHANNELS[exchange], intensity=4.0
    )
    async with Simulator(
        {exchange: market_feed(market)}, connection_faults=scene.faults
    ) as scene.simulator:
        before(scene)
        listed = await fetch_instruments(exchange, scene.simulator.rest_url, NATIVES[exchange])
        settings = CollectorSettings(exchange, ws_url=scene.simulator.ws_url)
        scene.collector = Collector(settings, [*listed, *extra], log, 1, ArrivalClock())
        running = asyncio.create_task(scene.collector.run())
        try:
            await until(lambda: scene.collector.subscribed, "subscribed")
            yield scene
        finally:
            await scene.collector.stop()
            await running
    await log.close()


def assert_nothing_missing(ids: list[int]) -> None:
    assert len(ids) > 10
    assert ids == list(range(ids[0], ids[-1] + 1))


def short_watchdogs(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.5) -> None:
    monkeypatch.setattr(feeds, "Watchdog", lambda: Watchdog(seconds, 4 * seconds, seconds))


async def test_a_subscription_that_is_acknowledged_but_silent_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_watchdogs(monkeypatch)

    def silent_from_the_start(scene: Scene) -> None:
        scene.strike(sim.SILENT, seconds=1.0, streams="@trade$")

    with capture_logs() as told:
        async with playing(BINANCE, tmp_path, silent_from_the_start) as scene:
            await scene.until_trades(BTC[BINANCE], 20)
            assert "replaced" in await scene.events()
            assert "disconnected" not in await scene.events()
    silent = [e for e in told if e["event"].startswith("channel silent")]
    assert "trades" in {e["channel"] for e in silent}


async def test_a_channel_that_falls_silent_is_subscribed_anew_and_the_other_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_watchdogs(monkeypatch)
    async with playing(HYPERLIQUID, tmp_path) as scene:
        await scene.flows()
        scene.strike(sim.SILENT, streams="^trades:")
        await scene.until_replaced(1)
        await scene.flows()
        assert "disconnected" not in await scene.events()


async def test_a_half_open_connection_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_watchdogs(monkeypatch)
    async with playing(BINANCE, tmp_path) as scene:
        await scene.flows()
        scene.strike(sim.HALF_OPEN)
        await scene.flows()
        assert "replaced" in await scene.events()


async def test_after_notice_64008_the_new_connection_stands_before_the_old_one_closes(
    tmp_path: Path,
) -> None:
    async with playing(OKX, tmp_path) as scene:
        await scene.flows()
        scene.strike(sim.NOTICE, seconds=3.0)
        await until(lambda: scene.simulator.subscribed > 4, "both connections")
        await until(lambda: scene.simulator.subscribed == 4, "the old one closed")
        await scene.flows()
        events = await scene.events()
        assert events.count("replaced") == 2  # public and business
        assert "disconnected" not in events
        assert_nothing_missing(await scene.trade_ids(BTC[OKX]))


async def test_connections_are_replaced_before_their_age_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_BEFORE_S", 24 * 3600.0 - 0.5)
    async with playing(BINANCE, tmp_path) as scene:
        await scene.until_replaced(3)
        await scene.flows()
        assert "disconnected" not in await scene.events()
        assert_nothing_missing(await scene.trade_ids(BTC[BINANCE]))


@pytest.mark.parametrize("code", sim.CODES)
async def test_a_close_is_followed_by_a_new_connection(tmp_path: Path, code: int) -> None:
    async with playing(OKX, tmp_path) as scene:
        await scene.flows()
        scene.strike(sim.CLOSE, code=code)
        await scene.flows()
        events = await scene.events()
        assert events.count("disconnected") == 2
        assert events.count("connected") == 4


async def test_a_reconnect_storm_ends_with_everything_subscribed(tmp_path: Path) -> None:
    async with playing(BINANCE, tmp_path) as scene:
        await scene.flows()
        scene.strike(sim.STORM, seconds=1.5)
        await until(lambda: not scene.collector.subscribed, "lost")
        await until(lambda: scene.collector.subscribed, "subscribed again")
        await scene.flows()
        assert (await scene.events()).count("disconnected") > 2


@pytest.mark.parametrize("exchange", [OKX, HYPERLIQUID])
async def test_a_refused_subscription_is_retried_and_the_others_go_on(
    exchange: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RETRY_S", 0.3)
    native = NATIVES[exchange][1]

    def refuse(scene: Scene) -> None:
        scene.strike(sim.REFUSE, seconds=0.4, streams=f"^trades.*:{native}$")

    with capture_logs() as told:
        async with playing(exchange, tmp_path, refuse) as scene:
            await scene.flows()
            await until(lambda: scene.simulator.subscribed == 4, "the refused one too")
            assert "disconnected" not in await scene.events()
            await until(lambda: not scene.collector.uncovered, "its coverage")
            await scene.flows()
            first, later = await scene.coverages()
    # It is covered from when it was accepted, and did not hold the other back.
    assert len(first.symbols) == len(later.symbols) == 1
    assert first.symbols[0] == BTC[exchange] != later.symbols[0]
    assert later.local_from - first.local_from > 0.2e9
    refused = [e for e in told if e["event"] == "subscription refused"]
    assert refused
    assert all(e["symbols"] == [native] for e in refused)


async def test_a_subscription_that_stays_refused_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "RETRY_S", 0.02)
    wrong = Instrument(OKX, "NOPE-USDT-SWAP", "perpetual-NOPE-USDT:USDT")
    with capture_logs() as told:
        async with playing(OKX, tmp_path, extra=(wrong,)) as scene:
            await until(
                lambda: sum(e["event"] == "subscriptions given up" for e in told) == 2, "given up"
            )
            await scene.flows()
    counts = Counter(e["event"] for e in told if e.get("symbols") == ["NOPE-USDT-SWAP"])
    assert counts["asking again for refused subscriptions"] == 2 * subscriptions.RETRIES
    assert counts["subscription refused"] == 2 * (1 + subscriptions.RETRIES)


@pytest.mark.parametrize("kind", sim.FRAMES)
@pytest.mark.parametrize("exchange", list(NATIVES))
async def test_a_bad_frame_costs_only_itself(exchange: str, kind: str, tmp_path: Path) -> None:
    async with playing(exchange, tmp_path) as scene:
        await scene.flows()
        scene.strike(kind)
        await scene.flows()
        assert "disconnected" not in await scene.events()
        assert scene.faults.struck == {kind: 1}


async def test_a_frame_too_huge_to_take_costs_the_connection_and_no_memory(
    tmp_path: Path,
) -> None:
    async with playing(BINANCE, tmp_path) as scene:
        await scene.flows()
        scene.strike(sim.HUGE, size=17 << 20)
        await scene.flows()
        assert "disconnected" in await scene.events()


def test_scripts_are_repeatable_and_hold_every_kind() -> None:
    one = script(5, 3_600, list(NATIVES))
    assert one == script(5, 3_600, list(NATIVES))
    assert one != script(6, 3_600, list(NATIVES))
    assert {fault.kind for fault in one} == set(sim.KINDS)
    assert all(0 <= fault.at < 3_600 for fault in one)


async def test_a_script_is_played_at_its_times(tmp_path: Path) -> None:
    faults = [Fault(0.1, sim.CLOSE, BINANCE), Fault(0.2, sim.BINARY)]
    played = ConnectionFaults(faults)
    feed = market_feed(Market(1, BINANCE, ["BTCUSDT"], time.time_ns()))
    async with Simulator({BINANCE: feed}, connection_faults=played):
        await until(lambda: played.struck == {sim.CLOSE: 1, sim.BINARY: 1})


def test_an_unknown_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="'rain' is no fault"):
        ConnectionFaults().strike(Fault(0.0, "rain"))
