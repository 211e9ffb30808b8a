"""The simulator over real websockets: what arrives, when, and what a new subscription gets."""

import asyncio
import time
from math import inf

import httpx
import orjson
import pytest

from ingest.instruments import instruments_from
from ingest.simulator import EXCHANGES, Market, Simulator, market_feed
from ingest.simulator.feeds import stream_key
from ingest.simulator.listings import BINANCE, DEFAULT_NATIVES, HYPERLIQUID, OKX
from ingest.simulator.protocols import BinanceSession, OkxSession
from tests.ingest.simulating import (
    START,
    Client,
    events,
    eventually,
    feed,
    frames,
    quote_keys,
)

BTC = ["btcusdt@trade", "btcusdt@bookTicker"]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("speed", [60.0, inf])
async def test_the_frames_are_the_markets_at_any_speed(exchange: str, speed: float) -> None:
    keys = quote_keys(exchange)
    async with (
        Simulator({exchange: feed(exchange, 30)}, speed=speed, streams=len(keys)) as simulator,
        Client(simulator, exchange, keys) as client,
    ):
        expected = frames(exchange, 30, keys)
        await client.received(len(expected))
        await eventually(simulator.finished.is_set)
        assert client.pushes == expected


async def test_every_client_gets_its_own_streams() -> None:
    async with (
        Simulator({BINANCE: feed(BINANCE, 60)}, speed=inf, streams=4) as simulator,
        Client(simulator, BINANCE, BTC) as first,
        Client(simulator, BINANCE, ["ethusdt@trade"]) as second,
        Client(simulator, BINANCE, BTC[:1]) as third,
    ):
        for client, keys in ((first, BTC), (second, ["ethusdt@trade"]), (third, BTC[:1])):
            expected = frames(BINANCE, 60, keys)
            await client.received(len(expected))
            assert client.pushes == expected


async def test_raw_streams_are_the_data_of_the_combined() -> None:
    async with (
        Simulator({BINANCE: feed(BINANCE, 30)}, speed=inf, streams=1) as simulator,
        Client(simulator, BINANCE, [], path="/public/ws/btcusdt@bookTicker") as client,
    ):
        expected = [orjson.loads(f)["data"] for f in frames(BINANCE, 30, BTC[1:])]
        await client.received(len(expected))
        assert [orjson.loads(push) for push in client.pushes] == expected


async def test_nothing_comes_after_unsubscribing() -> None:
    keys = [*BTC, "ethusdt@bookTicker"]
    simulator = Simulator({BINANCE: feed(BINANCE, 4_000)}, speed=200, streams=3)
    async with simulator, Client(simulator, BINANCE, keys) as client:
        await client.received(50)
        await client.socket.send('{"method":"UNSUBSCRIBE","params":["ethusdt@bookTicker"],"id":2}')
        await eventually(lambda: len(client.others) == 2)
        count = len(client.pushes)
        await client.received(count + 200)
        assert not any(b"ethusdt" in push for push in client.pushes[count:])
        assert simulator.subscribed == 2


async def test_venues_share_one_market_time() -> None:
    feeds = {exchange: feed(exchange, 400) for exchange in EXCHANGES}
    async with Simulator(feeds, speed=100, streams=3) as simulator:
        keys = [quote_keys(exchange)[:1] for exchange in EXCHANGES]
        async with (
            Client(simulator, EXCHANGES[0], keys[0]) as first,
            Client(simulator, EXCHANGES[1], keys[1]) as second,
            Client(simulator, EXCHANGES[2], keys[2]) as third,
        ):
            clients = (first, second, third)
            await eventually(lambda: all(len(c.pushes) > 300 for c in clients))
            assert simulator.market_ns - START < 400e9
            seconds = []
            for exchange, client, key in zip(EXCHANGES, clients, keys, strict=True):
                pushed = events(exchange, 400, key)
                seconds.append((pushed[len(client.pushes) - 1][0] - START) / 1e9)
            assert max(seconds) - min(seconds) < 60  # at ×100: within 0.6 s


# -- start, hold, resend


async def test_the_market_waits_for_its_start() -> None:
    now = START - 10_000_000_000
    simulator = Simulator(
        {BINANCE: feed(BINANCE, 60)}, speed=inf, hold=True, not_before_ns=START, wall=lambda: now
    )
    async with simulator, Client(simulator, BINANCE, BTC) as client:
        await eventually(lambda: len(client.others) == 1)
        await asyncio.sleep(0.05)
        assert client.pushes == []
        assert simulator.market_ns == START
        now = START
        expected = frames(BINANCE, 60, BTC)
        await client.received(len(expected))
        assert client.pushes == expected


async def test_real_time_stamps_follow_the_wall_clock() -> None:
    start = time.time_ns() + 300_000_000
    market = market_feed(Market(7, BINANCE, start_ns=start, intensity=20))
    async with (
        Simulator({BINANCE: market}, not_before_ns=start) as simulator,
        Client(simulator, BINANCE, BTC) as client,
    ):
        await client.received(1)
        assert time.time_ns() >= start
        await client.received(100)
        pushed = orjson.loads(client.pushes[-1])["data"]["E"] * 1_000_000
        assert 0 <= time.time_ns() - pushed < 2_000_000_000


async def test_the_market_begins_when_enough_streams_are_subscribed() -> None:
    async with (
        Simulator({BINANCE: feed(BINANCE, 30)}, speed=inf, streams=3) as simulator,
        Client(simulator, BINANCE, BTC) as first,
    ):
        await eventually(lambda: simulator.subscribed == 2)
        async with Client(simulator, BINANCE, ["nope@trade", "btcusdt@aggTrade"]) as other:
            await eventually(lambda: len(other.others) == 1)
            assert (first.pushes, simulator.subscribed) == ([], 2)
        async with Client(simulator, BINANCE, ["ethusdt@trade"]) as second:
            for client, keys in ((first, BTC), (second, ["ethusdt@trade"])):
                expected = frames(BINANCE, 30, keys)
                await client.received(len(expected))
                assert client.pushes == expected


@pytest.mark.parametrize("exchange", [BINANCE, OKX])
@pytest.mark.parametrize("speed", [100.0, inf])
async def test_a_held_market_loses_nothing_over_broken_connections(
    exchange: str, speed: float
) -> None:
    keys = quote_keys(exchange)
    expected = frames(exchange, 300, keys)
    got: list[bytes] = []
    simulator = Simulator(
        {exchange: feed(exchange, 300)}, speed=speed, hold=True, streams=len(keys), resend_s=300
    )
    async with simulator:
        while len(set(got)) < len(expected):
            async with Client(simulator, exchange, keys) as client:
                await client.received(min(len(set(got)) + 1_500, len(expected)))
            await eventually(lambda: simulator.subscribed == 0)
            position = simulator.market_ns
            for key in keys:  # in order within each stream, from its first frame on
                pushed = [f for f in client.pushes if stream_key(exchange, f) == key]
                whole = [f for f in expected if stream_key(exchange, f) == key]
                assert pushed == whole[: len(pushed)]
            got += client.pushes
            await asyncio.sleep(0.03)
            assert simulator.market_ns == position


async def test_a_new_subscription_is_sent_the_last_seconds_in_order() -> None:
    simulator = Simulator(
        {BINANCE: feed(BINANCE, 200)}, speed=inf, hold=True, streams=1, resend_s=20
    )
    async with simulator, Client(simulator, BINANCE, BTC):
        await eventually(simulator.finished.is_set)
        end = simulator.market_ns
        async with Client(simulator, BINANCE, [*BTC, "ethusdt@trade"]) as late:
            keys = [*BTC, "ethusdt@trade"]
            expected = [e[2] for e in events(BINANCE, 200, keys) if e[0] >= end - 20_000_000_000]
            assert len(expected) > 100
            await late.received(len(expected))
            assert late.pushes == expected
        async with Client(simulator, BINANCE, BTC[:1]) as one:
            expected = [f for f in expected if b"btcusdt@trade" in f[:40]]
            await one.received(len(expected))
            assert one.pushes == expected


async def test_hyperliquid_backlog_comes_first_then_the_resent_seconds() -> None:
    key = "trades:BTC"
    simulator = Simulator(
        {HYPERLIQUID: feed(HYPERLIQUID, 200)}, speed=inf, hold=True, streams=1, resend_s=10
    )
    async with simulator:
        async with Client(simulator, HYPERLIQUID, [key]) as client:
            await eventually(simulator.finished.is_set)
            pushed = frames(HYPERLIQUID, 200, [key])
            await client.received(1 + len(pushed))
            assert client.others[0] == b"Websocket connection established."
            backlog = orjson.loads(client.pushes[0])["data"]
            assert len(backlog) == 30
            assert all(fill["time"] * 1_000_000 <= START for fill in backlog)
            assert client.pushes[1:] == pushed
        end = simulator.market_ns
        async with Client(simulator, HYPERLIQUID, [key]) as client:
            again = [e[2] for e in events(HYPERLIQUID, 200, [key]) if e[0] >= end - 10_000_000_000]
            await client.received(1 + len(again))
            fills = [fill for frame in pushed for fill in orjson.loads(frame)["data"]]
            assert orjson.loads(client.pushes[0])["data"] == fills[-30:]
            assert client.pushes[1:] == again


async def test_without_hold_time_goes_on_unheard() -> None:
    async with Simulator({OKX: feed(OKX, 20)}, speed=200) as simulator:
        await eventually(simulator.finished.is_set)
        assert simulator.sent_frames[OKX] > 500
        async with Client(simulator, OKX, quote_keys(OKX)) as client:
            await eventually(lambda: len(client.others) == 4)
            assert client.pushes == []


# -- connections


async def test_the_end_of_the_feed_leaves_connections_open() -> None:
    async with (
        Simulator({OKX: feed(OKX, 5)}, speed=inf, streams=1) as simulator,
        Client(simulator, OKX, ["bbo-tbt:BTC-USDT-SWAP"]) as client,
    ):
        await eventually(simulator.finished.is_set)
        await client.socket.send("ping")
        await eventually(lambda: b"pong" in client.others)
        await client.socket.send('{"op":"subscribe","args":[{"channel":"trades","instId":"X"}]}')
        await eventually(lambda: b"60018" in client.others[-1])


async def test_a_client_that_reads_slowly_gets_everything() -> None:
    keys = quote_keys(OKX)
    expected = frames(OKX, 2_000, keys)
    async with Simulator({OKX: feed(OKX, 2_000)}, speed=inf, streams=len(keys)) as simulator:
        client = Client(simulator, OKX, keys)
        async with client:
            client.socket.transport.pause_reading()
            await asyncio.sleep(0.2)
            assert not simulator.finished.is_set()
            client.socket.transport.resume_reading()
            await client.received(len(expected))
            assert client.pushes == expected


async def test_disconnect_drops_everybody_and_they_may_come_back() -> None:
    async with Simulator({OKX: feed(OKX, 4_000)}, speed=50, hold=True) as simulator:
        async with Client(simulator, OKX, quote_keys(OKX)) as client:
            await client.received(10)
            simulator.disconnect()
            await eventually(lambda: client.closed is not None)
            assert client.closed == (1006, "")
        await eventually(lambda: simulator.subscribed == 0)
        async with Client(simulator, OKX, quote_keys(OKX)) as client:
            await client.received(10)


async def test_a_stopping_simulator_says_goodbye() -> None:
    async with Simulator({OKX: feed(OKX, 10)}, hold=True, streams=99) as simulator:
        client = await Client(simulator, OKX, quote_keys(OKX)).__aenter__()
    await eventually(lambda: client.closed is not None)
    assert client.closed == (1001, "simulator stops")


async def test_okx_closes_a_silent_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OkxSession, "idle_seconds", 0.2)
    async with (
        Simulator({OKX: feed(OKX, 5)}, hold=True, streams=99) as simulator,
        Client(simulator, OKX, quote_keys(OKX)) as client,
    ):
        await eventually(lambda: client.closed is not None)
        assert client.closed is not None
        assert client.closed[0] == 1000


async def test_binance_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BinanceSession, "ping_seconds", 0.1)
    async with (
        Simulator({BINANCE: feed(BINANCE, 5)}, hold=True, streams=99) as simulator,
        Client(simulator, BINANCE, BTC) as client,
    ):
        pings: list[bytes] = []
        received = client.socket.protocol.recv_frame
        monkeypatch.setattr(
            client.socket.protocol,
            "recv_frame",
            lambda frame: (pings.append(frame.data), received(frame)),
        )
        await eventually(lambda: len(pings) >= 2)
        assert client.closed is None


async def test_client_pings_are_answered() -> None:
    async with (
        Simulator({BINANCE: feed(BINANCE, 5)}, hold=True, streams=99) as simulator,
        Client(simulator, BINANCE, BTC) as client,
    ):
        pong = await client.socket.ping(b"abc")
        assert await asyncio.wait_for(pong, 5) < 5


# -- REST


async def test_rest_lists_what_is_served() -> None:
    feeds = {exchange: feed(exchange, 5) for exchange in EXCHANGES}
    async with (
        Simulator(feeds, hold=True) as simulator,
        httpx.AsyncClient(base_url=simulator.rest_url) as rest,
    ):
        info = (await rest.get("/fapi/v1/exchangeInfo")).json()
        swaps = (await rest.get("/api/v5/public/instruments", params={"instType": "SWAP"})).json()
        meta = (await rest.post("/info", json={"type": "meta"})).json()
        xyz = (await rest.post("/info", json={"type": "meta", "dex": "xyz"})).json()
        dexes = (await rest.post("/info", json={"type": "perpDexs"})).json()
    assert dexes == [None, {"name": "xyz"}]
    found = {
        BINANCE: instruments_from(BINANCE, info),
        OKX: instruments_from(OKX, swaps),
        HYPERLIQUID: instruments_from(HYPERLIQUID, meta) + instruments_from(HYPERLIQUID, xyz),
    }
    for exchange, instruments in found.items():
        assert tuple(i.native for i in instruments) == DEFAULT_NATIVES[exchange]
    inverse = {i.symbol: (i.contract_size, i.inverse) for i in found[OKX]}
    assert inverse["perpetual-BTC-USD:BTC"] == (100.0, True)
    assert inverse["perpetual-BTC-USDT:USDT"] == (0.01, False)


async def test_rest_refuses_as_the_venues_do() -> None:
    feeds = {exchange: feed(exchange, 5) for exchange in EXCHANGES}
    async with (
        Simulator(feeds, hold=True) as simulator,
        httpx.AsyncClient(base_url=simulator.rest_url) as rest,
    ):
        url = "/api/v5/public/instruments"
        unknown = await rest.get(url, params={"instType": "SWAP", "instId": "NOPE-USDT-SWAP"})
        assert unknown.json()["code"] == "51001"
        assert (await rest.get(url, headers={"User-Agent": ""})).status_code == 403
        assert (await rest.post("/info", content=b"{")).status_code == 422
        assert (await rest.post("/info", json={"type": []})).status_code == 422
        assert (await rest.get("/fapi/v1/nope")).status_code == 404
        assert (await rest.get("/ws")).status_code == 404


async def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ValueError, match="no feed"):
        Simulator({})
    with pytest.raises(ValueError, match="speed must be above 0, not -1"):
        Simulator({OKX: feed(OKX, 1)}, speed=-1)
