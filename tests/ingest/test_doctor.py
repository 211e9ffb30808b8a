"""ingest/doctor.py: each step's verdict on a venue that is well, refuses, hangs or talks badly."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection

from ingest import clock_offset
from ingest.doctor import Check, Doctor, Patient
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.simulator import EXCHANGES, Market, Simulator, market_feed
from tests.ingest.collecting import acknowledge, venue_server
from tests.ingest.test_keeper import free_port
from tests.ingest.test_universe import answering

STEPS = ["websocket dns", "websocket tcp", "instruments", "subscribe", "first tick", "clock"]


async def examined(patient: Patient, timeout_s: float = 5.0) -> dict[str, Check]:
    checks: list[Check] = []
    failed = await Doctor(patient, checks.append, timeout_s).examine()
    assert failed == sum(check.state == "failed" for check in checks)
    assert all("\n" not in check.text and check.text for check in checks)
    assert {check.exchange for check in checks} == {patient.exchange}
    return {check.step: check for check in checks}


def patient(exchange: str, port: int, patterns: Sequence[str], rest: int | None = None) -> Patient:
    return Patient(
        exchange,
        patterns,
        ws_url=f"ws://127.0.0.1:{port}",
        rest_url=f"http://127.0.0.1:{rest or port}",
    )


def states(checks: dict[str, Check]) -> dict[str, str]:
    return {step: check.state for step, check in checks.items()}


@asynccontextmanager
async def hanging() -> AsyncIterator[int]:
    """A port that takes connections and never says a word."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_a_venue_that_is_well(exchange: str) -> None:
    market = Market(1, exchange, start_ns=time.time_ns(), intensity=20.0)
    async with Simulator({exchange: market_feed(market)}) as simulator:
        checks = await examined(patient(exchange, simulator.port, ["all"]))
    assert states(checks) == dict.fromkeys(STEPS, "ok")
    assert "quote after" in checks["first tick"].text
    assert "selected" in checks["instruments"].text


async def test_a_port_that_refuses() -> None:
    checks = await examined(patient(OKX, free_port(), ["BTC-USDT-SWAP"]))
    assert states(checks) == dict(
        zip(STEPS, ["ok", "failed", "skipped", "skipped", "skipped", "skipped"], strict=True)
    )
    assert "Connection refused" in checks["websocket tcp"].text


async def test_a_port_that_hangs_takes_no_longer_than_its_timeouts() -> None:
    began = time.monotonic()
    async with hanging() as port:
        checks = await examined(patient(HYPERLIQUID, port, ["BTC"]), 0.3)
    assert time.monotonic() - began < 10
    assert states(checks) == dict(
        zip(STEPS, ["ok", "ok", "failed", "failed", "failed", "skipped"], strict=True)
    )
    assert checks["instruments"].text == "no answer in 0.3 s"
    assert "0 of 2 answers in 0.3 s" in checks["subscribe"].text
    assert checks["first tick"].text == "nothing came in 0.3 s"


async def test_a_name_that_does_not_resolve_and_a_port_without_tls() -> None:
    async with hanging() as port:
        away = Patient(BINANCE, ["BTCUSDT"], "wss://nowhere.invalid", f"https://127.0.0.1:{port}")
        checks = await examined(away, 0.3)
    assert checks["websocket dns"].state == "failed"
    assert "nowhere.invalid:443: " in checks["websocket dns"].text
    assert checks["websocket tls"] == Check(BINANCE, "websocket tls", "skipped", "no dns")
    assert checks["rest tcp"].state == "ok"
    assert checks["rest tls"].text == f"127.0.0.1:{port}: no answer in 0.3 s"


async def test_subscriptions_are_tried_by_name_while_rest_is_down() -> None:
    market = Market(1, OKX, start_ns=time.time_ns(), intensity=20.0)
    async with Simulator({OKX: market_feed(market)}) as simulator:
        checks = await examined(patient(OKX, simulator.port, ["BTC-USDT-SWAP"], free_port()))
    assert checks["rest tcp"].state == "failed"
    assert checks["instruments"].state == "skipped"
    assert checks["subscribe"].state == checks["first tick"].state == "ok"
    assert "after their exchange stamp" in checks["clock"].text


async def test_patterns_that_match_nothing_are_a_failure() -> None:
    async with Simulator({BINANCE: market_feed(Market(1, BINANCE))}) as simulator:
        checks = await examined(patient(BINANCE, simulator.port, ["BTCUSDT", "DOGE*"]), 0.5)
    assert checks["instruments"] == Check(
        BINANCE, "instruments", "failed", "nothing matches 'DOGE*'"
    )


async def test_acknowledged_but_silent() -> None:
    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await connection.wait_closed()

    async with venue_server(handler) as port:
        checks = await examined(patient(BINANCE, port, ["BTCUSDT"], free_port()), 0.3)
    assert checks["subscribe"].state == "ok"
    assert checks["first tick"].text == "nothing came in 0.3 s"


async def test_a_refused_subscription_is_told_in_the_venues_words() -> None:
    async def handler(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"error":{"code":2,"msg":"Invalid request"},"id":1}')
        await connection.wait_closed()

    async with venue_server(handler) as port:
        checks = await examined(patient(BINANCE, port, ["BTCUSDT"], free_port()), 0.3)
    assert checks["subscribe"].text == "refused: 2 Invalid request"


async def test_a_clock_that_is_off_is_a_failure_unless_the_network_may_be_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = b'200 {"serverTime": %d}' % (time.time_ns() // 1_000_000 + 60_000)
    async with answering(late) as (url, _):
        port = int(url.rpartition(":")[2])
        checks = await examined(patient(BINANCE, port, ["BTC*"]), 1.0)
        assert checks["clock"].state == "failed"
        assert "behind the venue's" in checks["clock"].text
        assert "set the clock (NTP)" in checks["clock"].text
        monkeypatch.setattr("ingest.doctor.MAX_OFFSET_MS", 100_000)
        checks = await examined(patient(BINANCE, port, ["BTC*"]), 1.0)
        assert checks["clock"].state == "ok"


async def test_the_offset_of_a_venue_that_answers_otherwise_is_unknown() -> None:
    async with answering(b"200 {}") as (url, _):
        assert await clock_offset.venue_offset(BINANCE, url, 1.0) is None
        assert await clock_offset.venue_offset(OKX, url, 1.0) is None
        assert await clock_offset.venue_offset(HYPERLIQUID, url, 1.0) is None
    async with answering(b'200 {"code":"0","data":[{"ts":"1790000000000"}]}') as (url, _):
        offset = await clock_offset.venue_offset(OKX, url, 1.0)
    assert offset is not None
    ahead, within = offset
    assert abs(ahead - (time.time() * 1e3 - 1_790_000_000_000)) < 5_000
    assert 0 < within < 5_000
