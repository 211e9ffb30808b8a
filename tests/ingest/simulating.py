"""A client of the simulator and what it should receive, for the simulator's tests."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ingest.simulator import Feed, Market, Simulator, market_feed
from ingest.simulator.feeds import until
from ingest.simulator.listings import BINANCE, DEFAULT_NATIVES, HYPERLIQUID, OKX
from ingest.simulator.market import Event

START = 1_700_000_000_000_000_000  # behind the wall clock of any machine
PATHS = {BINANCE: "/public/stream", OKX: "/ws/v5/public", HYPERLIQUID: "/ws"}
DEADLINE = 20.0


def market(exchange: str, **options: Any) -> Market:
    return Market(7, exchange, start_ns=START, **options)


def feed(exchange: str, seconds: float, **options: Any) -> Feed:
    return market_feed(market(exchange, **options), seconds)


def frames(exchange: str, seconds: float, keys: Sequence[str], **options: Any) -> list[bytes]:
    """What the streams of a market push: the truth a client's frames are compared with."""
    return [event[2] for event in events(exchange, seconds, keys, **options)]


def events(exchange: str, seconds: float, keys: Sequence[str], **options: Any) -> list[Event]:
    end = START + round(seconds * 1e9)
    chunks = until(market(exchange, **options).events(), end)
    return [event for chunk in chunks for event in chunk if event[1] in keys]


def quote_keys(exchange: str) -> list[str]:
    natives = DEFAULT_NATIVES[exchange]
    if exchange == BINANCE:
        return [f"{native.lower()}@bookTicker" for native in natives]
    return [f"{'bbo-tbt' if exchange == OKX else 'bbo'}:{native}" for native in natives]


async def eventually(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Until the condition holds; fails after a deadline."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "a condition never came true"
        await asyncio.sleep(0.005)


class Client:
    """Subscribes `keys` on one connection and collects: `pushes` (frames of streams), `others`."""

    def __init__(
        self, simulator: Simulator, exchange: str, keys: Sequence[str], path: str | None = None
    ) -> None:
        self._url = simulator.ws_url + (PATHS[exchange] if path is None else path)
        self._exchange = exchange
        self._keys = keys
        self.pushes: list[bytes] = []
        self.others: list[bytes] = []
        self.closed: tuple[int | None, str | None] | None = None
        self.socket: ClientConnection

    async def __aenter__(self) -> Self:
        self.socket = await connect(self._url, compression=None, ping_interval=None)
        for request in requests(self._exchange, self._keys):
            await self.socket.send(request)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.abort()

    async def abort(self) -> None:
        """Drop the connection without a word, as a killed process does."""
        self.socket.transport.abort()
        await self._reader

    async def _read(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                frame = (await self.socket.recv()).encode()  # type: ignore[union-attr]
                push = any(mark in frame[:40] for mark in (b'"stream"', b'"trades"', b'"bbo"'))
                push = push or frame[:7] in (b'{"arg":', b'{"e":"t', b'{"e":"b', b'{"e":"a')
                (self.pushes if push else self.others).append(frame)
        self.closed = (self.socket.close_code, self.socket.close_reason)

    async def received(self, count: int) -> None:
        await eventually(lambda: len(self.pushes) >= count)


def requests(exchange: str, keys: Sequence[str]) -> list[str]:
    if exchange == BINANCE:
        bodies = [{"method": "SUBSCRIBE", "params": list(keys), "id": 1}] if keys else []
    elif exchange == OKX:
        args = [dict(zip(("channel", "instId"), key.split(":", 1), strict=True)) for key in keys]
        bodies = [{"op": "subscribe", "args": args}]
    else:
        wanted = [dict(zip(("type", "coin"), key.split(":", 1), strict=True)) for key in keys]
        bodies = [{"method": "subscribe", "subscription": w} for w in wanted]
    return [orjson.dumps(body).decode() for body in bodies]
