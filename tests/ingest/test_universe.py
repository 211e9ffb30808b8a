"""Instruments over REST: from the simulator, and from a server that answers badly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ingest import universe
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.simulator import DEFAULT_NATIVES, EXCHANGES, Market, Simulator, market_feed
from ingest.universe import UniverseError, fetch_instruments


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP server that gives each request the next answer, the last one for ever."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        status, _, body = answers[min(len(requests), len(answers)) - 1].partition(b" ")
        head = b"HTTP/1.1 %b X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (status, len(body)) + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_instruments_come_in_the_order_asked_for(exchange: str) -> None:
    natives = list(reversed(DEFAULT_NATIVES[exchange]))
    async with Simulator({exchange: market_feed(Market(1, exchange))}) as simulator:
        found = await fetch_instruments(exchange, simulator.rest_url, natives)
    assert [i.native for i in found] == natives
    assert all(i.exchange == exchange and i.symbol.startswith("perpetual-") for i in found)


async def test_every_unknown_native_is_named_with_the_nearest_there_is() -> None:
    async with Simulator({OKX: market_feed(Market(1, OKX))}) as simulator:
        with pytest.raises(UniverseError) as caught:
            await fetch_instruments(
                OKX, simulator.rest_url, ["BTC-USDT", "BTC-USDT-SWAP", "ZZZZZZ"]
            )
    message = str(caught.value)
    assert "'BTC-USDT' (did you mean 'BTC-USDT-SWAP'?), 'ZZZZZZ'" in message
    assert OKX in message


async def test_requests_name_a_user_agent() -> None:
    async with answering(b'200 {"symbols":[]}') as (url, requests):
        with pytest.raises(UniverseError, match="BTCUSDT"):
            await fetch_instruments(BINANCE, url, ["BTCUSDT"])
    assert b"user-agent: perpflow" in requests[0].lower()


async def test_a_passing_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    good = b"""200 {"symbols":[{"symbol":"BTCUSDT","contractType":"PERPETUAL",
        "baseAsset":"BTC","quoteAsset":"USDT","marginAsset":"USDT","status":"TRADING"}]}"""
    async with answering(b"503 busy", good) as (url, requests):
        found = await fetch_instruments(BINANCE, url, ["BTCUSDT"])
    assert [i.symbol for i in found] == ["perpetual-BTC-USDT:USDT"]
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"403 Forbidden", "answered 403: Forbidden"),
        (b"200 <html>", "did not answer JSON"),
        (b'200 {"other":1}', "symbols"),
        (b"200 []", "not an object"),
    ],
)
async def test_what_is_not_an_instrument_list_is_refused_naming_the_url(
    answer: bytes, said: str
) -> None:
    async with answering(answer) as (url, _):
        with pytest.raises(UniverseError) as caught:
            await fetch_instruments(BINANCE, url, ["BTCUSDT"])
    assert said in str(caught.value)
    assert url in str(caught.value)


async def test_a_venue_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universe, "ATTEMPTS", 1)
    async with answering(b"200 {}") as (url, _):
        pass
    with pytest.raises(UniverseError, match=f"can't reach {url}/info"):
        await fetch_instruments(HYPERLIQUID, url, ["BTC", "xyz:TSLA"])


@pytest.mark.parametrize(
    ("dex", "said"),
    [
        (b"null", "no dex 'xyz', it is left out"),
        (b'{"universe":[{"name":"xyz:TSLA"}],"collateralToken":999}', "collateral token 999"),
    ],
)
async def test_one_dex_that_cannot_be_used_costs_no_other(dex: bytes, said: str) -> None:
    main = b'200 {"universe":[{"name":"BTC","szDecimals":5}],"collateralToken":0}'
    async with answering(main, b"200 " + dex) as (url, _):
        found = await universe.fetch_list(HYPERLIQUID, url, ["", "xyz"])
    assert [item.instrument.native for item in found.listed] == ["BTC"]
    (problem,) = found.problems
    assert said in problem
