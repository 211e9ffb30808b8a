"""The live stream over real sockets, and with the public client."""

import asyncio
import json
import socket
import threading
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aperiodic
import httpx
import orjson
import pytest
from aperiodic.endpoints.stream import StreamClosedError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from publish.keys import KeyFile
from publish.stream import hub as hubs
from publish.stream import server as servers
from publish.stream.hub import Hub, Row
from publish.stream.server import StreamServer

DEADLINE_S = 30.0
CHANNEL = "ohlcv.okx-perps.1m"
BTC, ETH = "perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT"


class Served:
    def __init__(self, hub: Hub, keys: KeyFile, port: int) -> None:
        self.hub = hub
        self.keys = keys
        self.url = f"ws://127.0.0.1:{port}/v1/stream"
        self.key = keys.add("test", "prime")

    def revoke(self) -> None:
        """Revoke that key."""
        self.keys.revoke(self.key.split("_")[1])

    @asynccontextmanager
    async def client(self, key: str | None = None) -> AsyncIterator[ClientConnection]:
        async with connect(self.url, additional_headers={"X-API-KEY": key or self.key}) as client:
            yield client


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[Served]:
    keys = KeyFile(tmp_path / "keys.json")
    keys.add("first", "prime")
    hub = Hub()
    server = StreamServer(hub, keys, ["okx-perps"])
    bound = socket.create_server(("127.0.0.1", 0))
    async with asyncio.timeout(DEADLINE_S), server.listening(bound):
        yield Served(hub, keys, bound.getsockname()[1])


def row(symbol: str, time: int, close: float | None = 1.5) -> Row:
    data = {"symbol": symbol, "interval": "1m", "time": time, "close": close}
    return Row(symbol, orjson.dumps(data))


async def ask(client: ClientConnection, **message: Any) -> dict[str, Any]:
    """Send a control frame, and what is answered to it first."""
    await client.send(json.dumps(message))
    return await answer(client)


async def answer(client: ClientConnection) -> dict[str, Any]:
    body = json.loads(await client.recv())
    assert isinstance(body, dict)
    return body


async def test_rows_go_to_who_subscribed(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.client() as everything, served.client() as some:
        ack = await ask(
            everything, op="subscribe", id="a", channels=[CHANNEL, "ohlcv.okx-perps.7m"]
        )
        assert (ack["op"], ack["id"], ack["channels"]) == ("subscribed", "a", [CHANNEL])
        assert [refused["code"] for refused in ack["rejected"]] == ["unknown_channel"]
        dataset, exchange, interval = CHANNEL.split(".")
        only = {"dataset": dataset, "exchange": exchange, "interval": interval, "symbols": [ETH]}
        assert (await ask(some, op="subscribe", id="b", channels=[only]))["channels"] == [CHANNEL]
        served.hub.publish(CHANNEL, [row(BTC, 60), row(ETH, 60, None)])
        served.hub.publish("flow.okx-perps.1m", [row(BTC, 60)])
        got = [await answer(everything) for _ in range(2)]
        assert [(m["channel"], m["data"]["symbol"]) for m in got] == [
            (CHANNEL, BTC),
            (CHANNEL, ETH),
        ]
        assert await answer(some) == got[1]
        assert got[1]["data"] == {"symbol": ETH, "interval": "1m", "time": 60, "close": None}
        # Nothing else came: the next thing is the answer to this.
        assert await ask(some, op="ping", id=7) == {"op": "pong", "id": 7}


async def test_a_snapshot_is_each_symbols_latest_row(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.client() as client:
        served.hub.publish(CHANNEL, [row(ETH, 60), row(BTC, 60)])
        served.hub.publish(CHANNEL, [row(ETH, 120)])
        await ask(client, op="subscribe", id=1, channels=[CHANNEL])
        got = [await answer(client) for _ in range(2)]
        assert all(m["snapshot"] is True and m["channel"] == CHANNEL for m in got)
        assert [(m["data"]["symbol"], m["data"]["time"]) for m in got] == [(BTC, 60), (ETH, 120)]


async def test_unsubscribed_channels_stay_silent(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.client() as client:
        await ask(client, op="subscribe", id=1, channels=[CHANNEL])
        ack = await ask(client, op="unsubscribe", id=2, channels=[CHANNEL, "a.b.c"])
        assert (ack["op"], ack["channels"]) == ("unsubscribed", [CHANNEL])
        assert ack["rejected"][0]["channel"] == "a.b.c"
        served.hub.publish(CHANNEL, [row(BTC, 60)])
        assert (await ask(client, op="ping", id=3))["op"] == "pong"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_message"),
        ("[]", "invalid_message"),
        ('{"op":5}', "invalid_message"),
        ('{"op":"dance"}', "unknown_op"),
        ('{"op":"subscribe","channels":"x"}', "invalid_message"),
        ('{"op":"unsubscribe"}', "invalid_message"),
        (b"\xff\xfe", "invalid_message"),
    ],
)
async def test_a_wrong_frame_is_answered_with_an_error(
    tmp_path: Path, text: str | bytes, code: str
) -> None:
    async with serving(tmp_path) as served, served.client() as client:
        await client.send(text)
        message = await answer(client)
        assert (message["op"], message["code"]) == ("error", code)
        assert (await ask(client, op="ping", id=1))["op"] == "pong"


async def _status(served: Served, key: str, path: str = "/v1/stream") -> tuple[int, str]:
    url = served.url.replace("/v1/stream", path)
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers={"X-API-KEY": key}).__aenter__()
    response = refused.value.response
    assert response.body is not None
    return response.status_code, orjson.loads(response.body)["code"]


async def test_handshakes_are_refused_with_the_apis_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MAX_CONNECTIONS", 1)
    async with serving(tmp_path) as served:
        assert await _status(served, "pf_no_key") == (401, "unauthorized")
        assert await _status(served, served.keys.add("p", "preview")) == (403, "live_not_in_plan")
        assert await _status(served, served.key, "/v1/other") == (404, "not_found")
        async with served.client():
            assert await _status(served, served.key) == (429, "too_many_connections")
        async with httpx.AsyncClient() as http:
            url = served.url.replace("ws:", "http:")
            plain = await http.get(url, headers={"X-API-KEY": served.key})
            twice = await http.get(url, headers=[("X-API-KEY", served.key)] * 2)
        assert twice.status_code == 401
        assert (plain.status_code, plain.headers["Upgrade"]) == (426, "websocket")
        while True:  # the connection above has left: its place is free again
            try:
                async with served.client() as client:
                    assert (await ask(client, op="ping", id=1))["op"] == "pong"
                    break
            except InvalidStatus:
                await asyncio.sleep(0.01)


async def _ping_without_end(client: ClientConnection) -> None:
    while True:
        await client.send('{"op":"ping"}')


async def test_keys_that_cant_be_read_are_answered_with_503(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.keys.path.write_text("{")
        with pytest.raises(InvalidStatus) as refused:
            async with served.client():
                pass
        assert refused.value.response.status_code == 503
        assert json.loads(refused.value.response.body)["code"] == "keys_unavailable"


async def test_too_many_control_frames_end_it_with_1008(tmp_path: Path) -> None:
    async with serving(tmp_path) as served, served.client() as client:
        with pytest.raises(ConnectionClosed) as closed:
            await _ping_without_end(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_a_revoked_key_is_sent_away_with_4001(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "RECHECK_S", 0.05)
    async with serving(tmp_path) as served, served.client() as client:
        served.revoke()
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4001


async def test_stopping_sends_everyone_away_with_1012(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        client = await connect(served.url, additional_headers={"X-API-KEY": served.key})
        ack = await ask(client, op="subscribe", id=1, channels=[CHANNEL])
        assert ack["channels"] == [CHANNEL]
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


async def test_heartbeats_come_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "HEARTBEAT_S", 0.05)
    async with serving(tmp_path) as served, served.client() as client:
        beat = await answer(client)
        assert beat["op"] == "heartbeat"
        assert beat["time"] > 1_700_000_000_000_000


async def test_a_reader_that_stands_still_is_cut_off_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "MAX_UNSENT", 256 << 10)
    async with serving(tmp_path) as served, served.client() as reader:
        await ask(reader, op="subscribe", id=1, channels=[CHANNEL])
        with socket.create_connection(("127.0.0.1", int(served.url.split(":")[2][:-10]))) as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.to_thread(_subscribe_and_stop_reading, stuck, served.key)
            sent = 0
            block = [row(f"perpetual-X{n}-USDT:USDT", 60) for n in range(500)]
            while _connections(served.hub) == 2:
                served.hub.publish(CHANNEL, block)
                for _ in block:
                    assert (await answer(reader))["data"]["time"] == 60
                sent += 1
                assert sent < 5000, "never cut off"
        assert (await ask(reader, op="ping", id=2))["op"] == "pong"


def _connections(hub: Hub) -> int:
    return len(hub._all[CHANNEL])


def _subscribe_and_stop_reading(sock: socket.socket, key: str) -> None:
    """A websocket by hand: its client never reads after the acknowledgement."""
    lines = [
        "GET /v1/stream HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"X-API-KEY: {key}",
    ]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    sock.recv(4096)
    text = json.dumps({"op": "subscribe", "id": 1, "channels": [CHANNEL]}).encode()
    assert len(text) < 126
    # A mask of zeros changes nothing (RFC 6455, 5.3).
    sock.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
    sock.recv(4096)


async def test_the_public_client_streams(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        served.hub.publish(CHANNEL, [row(BTC, 60)])
        stream = aperiodic.stream(
            served.key, "ohlcv", "okx-perps", "1m", [BTC], stream_url=served.url
        )
        got: list[Any] = []
        done = threading.Event()

        def read() -> None:
            for message in stream:
                got.append(message)
                if len(got) == 2:
                    break
            done.set()

        thread = threading.Thread(target=read)
        thread.start()
        while not got:  # noqa: ASYNC110 (filled by the thread)
            await asyncio.sleep(0.01)
        served.hub.publish(CHANNEL, [row(ETH, 120), row(BTC, 120)])
        await asyncio.to_thread(thread.join, DEADLINE_S)
        assert done.is_set()
        assert [(m.channel, m.snapshot, m.data["time"]) for m in got] == [
            (CHANNEL, True, 60),
            (CHANNEL, False, 120),
        ]
        assert stream.subscription is not None
        assert stream.subscription.channels == (CHANNEL,)


async def test_the_public_client_is_told_of_a_revoked_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "RECHECK_S", 0.05)
    async with serving(tmp_path) as served:
        stream = aperiodic.stream(
            served.key, channels=[CHANNEL, "no.such.one"], stream_url=served.url
        )

        def read() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", aperiodic.endpoints.stream.StreamWarning)
                for _ in stream:
                    pass

        reading = asyncio.create_task(asyncio.to_thread(read))
        while stream.subscription is None:  # noqa: ASYNC110 (set by the thread)
            await asyncio.sleep(0.01)
        assert [r.code for r in stream.subscription.rejected] == ["unknown_channel"]
        served.revoke()
        with pytest.raises(StreamClosedError) as closed:
            await reading
        assert closed.value.code == 4001
