"""One symbol falls silent on a busy connection: found by asking REST, subscribed anew, healed."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from ingest import line as lines
from ingest import symbol_checks, symbol_watch
from ingest.clock import ArrivalClock
from ingest.collector import Collector
from ingest.collector_settings import CollectorSettings
from ingest.history import BadAnswer, newest_print, newest_request
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.log.sqlite import SqliteLog
from ingest.simulator import Market, Simulator, market_feed
from ingest.simulator import faults as sim
from ingest.simulator.faults import ConnectionFaults, Fault
from ingest.universe import fetch_instruments
from tests.ingest.collecting import collected, until

NATIVES = {
    BINANCE: ["BTCUSDT", "ETHUSDT"],
    OKX: ["BTC-USDT-SWAP", "ETH-USDT-SWAP"],
    HYPERLIQUID: ["BTC", "ETH"],
}
STREAMS = {BINANCE: "^ethusdt@{}$", OKX: "^{}:ETH-USDT-SWAP$", HYPERLIQUID: "^{}:ETH$"}
CHANNELS = {
    BINANCE: ("bookTicker", "trade"),
    OKX: ("bbo-tbt", "trades-all"),
    HYPERLIQUID: ("bbo", "trades"),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "CHECK_S", 0.02)
    monkeypatch.setattr(symbol_checks, "CHECK_S", 0.1)
    monkeypatch.setattr(symbol_checks, "SETTLE_S", 0.2)
    monkeypatch.setattr(symbol_watch, "FLOOR_S", 0.5)
    monkeypatch.setattr(symbol_watch, "FIRST_S", 1.0)
    monkeypatch.setattr(symbol_watch, "CEILING_S", 2.0)


class Scene:
    collector: Collector
    faults: ConnectionFaults
    log: SqliteLog

    async def events(self) -> list[dict[str, str]]:
        records = (await collected(self.log, 1))["ticks.trades", 0]
        return [orjson.loads(r.value) for r in records if r.headers["type"] == "event"]

    async def until_event(self, what: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while sum(e["event"] == what for e in await self.events()) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


@asynccontextmanager
async def playing(exchange: str, tmp_path: Path, intensity: float = 20.0) -> AsyncIterator[Scene]:
    scene = Scene()
    scene.faults = ConnectionFaults()
    scene.log = SqliteLog(tmp_path / "log.db")
    market = Market(
        3,
        exchange,
        NATIVES[exchange],
        time.time_ns(),
        channels=CHANNELS[exchange],
        intensity=intensity,
    )
    async with Simulator(
        {exchange: market_feed(market)}, connection_faults=scene.faults
    ) as simulator:
        listed = await fetch_instruments(exchange, simulator.rest_url, NATIVES[exchange])
        settings = CollectorSettings(exchange, ws_url=simulator.ws_url, rest_url=simulator.rest_url)
        scene.collector = Collector(settings, listed, scene.log, 1, ArrivalClock())
        running = asyncio.create_task(scene.collector.run())
        try:
            await until(lambda: scene.collector.subscribed, "subscribed")
            yield scene
        finally:
            await scene.collector.stop()
            await running
    await scene.log.close()


@pytest.mark.parametrize("exchange", list(NATIVES))
async def test_a_silent_symbol_is_subscribed_anew_on_the_running_connection(
    exchange: str, tmp_path: Path
) -> None:
    streams = STREAMS[exchange].format(CHANNELS[exchange][1])
    native = NATIVES[exchange][1]
    with capture_logs() as told:
        async with playing(exchange, tmp_path) as scene:
            ticks = scene.collector.ticks
            await until(lambda: scene.collector.ticks > ticks + 200)
            scene.faults.strike(Fault(0.0, sim.SILENT, exchange, streams=streams))
            await scene.until_event("symbol-silent")
            (event, *_) = [e for e in await scene.events() if e["event"] == "symbol-silent"]
            assert (event["native"], event["kind"]) == (native, "trades")
            watch = scene.collector._session.watch
            await until(lambda: watch.alive(1, "trades"), "heard again")
            assert {e["event"] for e in await scene.events()} == {"connected", "symbol-silent"}
            if exchange != HYPERLIQUID:  # its gaps are found by the backlog, of unknown size
                await until(lambda: any(e["event"] == "gap healed" for e in told), "healed")
    silent = [e for e in told if e["event"].startswith("symbol silent")]
    assert {e["symbol"] for e in silent} == {native}


async def test_one_that_stays_silent_gets_another_connection(tmp_path: Path) -> None:
    async with playing(BINANCE, tmp_path) as scene:
        ticks = scene.collector.ticks
        await until(lambda: scene.collector.ticks > ticks + 200)
        streams = STREAMS[BINANCE].format("trade")
        # Subscribing it again on the connection there is doesn't help for a while.
        scene.faults.strike(Fault(0.0, sim.SILENT, BINANCE, seconds=6.0, streams=streams))
        await scene.until_event("symbol-silent", 2)
        await scene.until_event("replaced")


async def test_missing_quotes_are_proven_by_the_trades(tmp_path: Path) -> None:
    async with playing(OKX, tmp_path) as scene:
        ticks = scene.collector.ticks
        await until(lambda: scene.collector.ticks > ticks + 200)
        streams = STREAMS[OKX].format("bbo-tbt")
        scene.faults.strike(Fault(0.0, sim.SILENT, OKX, streams=streams))
        await scene.until_event("symbol-silent")
        (event, *_) = [e for e in await scene.events() if e["event"] == "symbol-silent"]
        assert (event["native"], event["kind"]) == ("ETH-USDT-SWAP", "quotes")
        await until(lambda: scene.collector._session.watch.alive(1, "quotes"), "heard again")


async def test_a_quiet_market_is_left_alone(tmp_path: Path) -> None:
    with capture_logs() as told:
        async with playing(BINANCE, tmp_path, intensity=0.001) as scene:
            requests = symbol_checks.metrics.REST_REQUESTS.labels(BINANCE, "200")
            before = requests._value.get()
            await until(lambda: requests._value.get() >= before + 3, "checks")
            assert {e["event"] for e in await scene.events()} == {"connected"}
    assert not any("silent" in e["event"] for e in told)


def test_the_last_trade_of_each_venue() -> None:
    row = {"id": 7, "price": "1.5", "qty": "2", "time": 1_792_000_000_123, "isBuyerMaker": True}
    found = newest_print(BINANCE, [row])
    assert found is not None
    assert (found.id, found.exchange_ms) == (7, 1_792_000_000_123)
    assert newest_request(BINANCE, "BTCUSDT").weight == 5  # EXCHANGES §1.4
    assert newest_print(OKX, {"code": "0", "data": []}) is None
    with pytest.raises(BadAnswer):
        newest_print(OKX, {"code": "50011"})
    with pytest.raises(BadAnswer):
        newest_print(HYPERLIQUID, [{"px": 1}])
