"""ingest/keeper.py: a venue whose REST API refuses, hangs or answers badly, and comes back."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ingest import keeper as module
from ingest import rest
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instrument_cache import load, save
from ingest.instruments import BINANCE, OKX, Instrument
from ingest.keeper import Keeper, KeeperSettings
from ingest.log.sqlite import SqliteLog
from ingest.simulator import Market, Simulator, market_feed
from ingest.universe import fetch_list
from tests.ingest.collecting import until

PARTITIONS = 2


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(module, "MAX_DELAY_S", 0.05)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    await log.close()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def simulated(exchange: str, port: int = 0) -> Simulator:
    return Simulator(
        {exchange: market_feed(Market(1, exchange, start_ns=time.time_ns()))}, port=port
    )


@asynccontextmanager
async def keeping(
    log: SqliteLog,
    tmp_path: Path,
    exchange: str,
    patterns: Sequence[str],
    rest_port: int,
    ws_port: int | None = None,
    refresh_s: float = 60.0,
    heal: bool = False,
    collector: str = "c1",
) -> AsyncIterator[tuple[Keeper, list[Collector]]]:
    """A keeper that runs, and the collectors it made; it has stopped when the block is left."""
    made: list[Collector] = []

    def collector_of(found: Sequence[Instrument]) -> Collector:
        settings = CollectorSettings(
            exchange,
            collector=collector,
            ws_url=f"ws://127.0.0.1:{ws_port or rest_port}",
            rest_url=f"http://127.0.0.1:{rest_port}" if heal else None,
        )
        made.append(Collector(settings, found, log, PARTITIONS, ArrivalClock()))
        return made[-1]

    settings = KeeperSettings(
        exchange,
        patterns,
        tmp_path / "list.json",
        rest_url=f"http://127.0.0.1:{rest_port}",
        refresh_s=refresh_s,
    )
    keeper = Keeper(settings, collector_of)
    running = asyncio.create_task(keeper.run())
    try:
        yield keeper, made
    finally:
        await keeper.stop()
        await running


def warnings(told: Sequence[dict[str, object]], event: str) -> list[str]:
    return [str(e.get("details", e.get("reason"))) for e in told if event in str(e["event"])]


async def test_a_venue_that_refuses_is_told_once_and_collected_when_it_is_there(
    log: SqliteLog, tmp_path: Path
) -> None:
    port = free_port()
    with capture_logs() as told:
        async with keeping(log, tmp_path, BINANCE, ["BTC*", "XMRUSDT"], port) as (keeper, made):
            failures = module.metrics.LIST_FAILURES.labels(BINANCE)
            before = failures._value.get()
            await until(lambda: failures._value.get() >= before + 3)
            assert not keeper.subscribed
            async with simulated(BINANCE, port):
                await until(lambda: keeper.subscribed)
                await until(lambda: made[0].ticks > 20)
    [said] = warnings(told, "can't get the instruments")
    assert said == f"{BINANCE}: can't reach http://127.0.0.1:{port}/fapi/v1/exchangeInfo: " + (
        "Connection refused"
    )
    assert load(tmp_path / "list.json", BINANCE, f"http://127.0.0.1:{port}", ("",)) is not None


async def test_a_kept_copy_starts_a_collector_while_rest_is_down(
    log: SqliteLog, tmp_path: Path
) -> None:
    port = free_port()
    async with simulated(OKX, port) as simulator:
        save(tmp_path / "list.json", await fetch_list(OKX, simulator.rest_url))
    with capture_logs() as told:
        async with (
            simulated(OKX) as simulator,  # the websockets are elsewhere and up
            keeping(log, tmp_path, OKX, ["BTC-*"], port, simulator.port) as (keeper, made),
        ):
            await until(lambda: keeper.subscribed)
            await until(lambda: made[0].ticks > 20)
    assert len(warnings(told, "starting with instruments kept on disk")) == 1


async def test_a_venue_that_hangs_is_told_and_can_be_stopped_at_once(
    log: SqliteLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "TIMEOUT_S", 0.2)
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with capture_logs() as told:
        async with server, keeping(log, tmp_path, OKX, ["all"], port):
            await until(lambda: bool(warnings(told, "can't get the instruments")))
            monkeypatch.setattr(rest, "TIMEOUT_S", 60.0)
            stopping = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping < 5
    assert "no answer from" in warnings(told, "can't get the instruments")[0]


async def test_symbols_that_select_nothing_are_named_and_the_others_collected(
    log: SqliteLog, tmp_path: Path
) -> None:
    with capture_logs() as told:
        async with simulated(OKX) as simulator:
            patterns = ["DOGE*", "BTC-USDT-SWAP", "BTC-USDT"]
            async with keeping(log, tmp_path, OKX, patterns, simulator.port) as (keeper, _):
                await until(lambda: keeper.subscribed)
    [said] = warnings(told, "symbols that select nothing")
    assert said == "'DOGE*', 'BTC-USDT' (did you mean 'BTC-USDT-SWAP'?)"
