"""The stream's server: who may connect, what they ask for, when they are sent away."""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ingest.tasks import cancelled, raise_first
from publish.api.access import DATA_PLANS, KEY_HEADER, intervals_of
from publish.keys import Key, KeyFile, KeysError
from publish.stream import channels, metrics
from publish.stream.hub import Hub, Subscriber
from publish.stream.limits import ControlLimit, Verdict

PATH = "/v1/stream"
HEARTBEAT_S = 30.0
RECHECK_S = 2.0
MAX_FRAME = 64 << 10
MAX_CONNECTIONS = 20
"""Of one key."""
CLOSE_S = 1.0
"""For a client to answer a close; one that sends without end may never."""
RESTARTING, POLICY, REVOKED = 1012, 1008, 4001

_log = structlog.get_logger(__name__)


class _Connection(ServerConnection):
    """Tells when the socket of an accepted handshake is gone."""

    on_lost: Callable[[], None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


class StreamServer:
    """Serves `hub` to the keys of `keys`; `live`: the venues that are collected."""

    def __init__(self, hub: Hub, keys: KeyFile, live: Collection[str]) -> None:
        self._hub = hub
        self._keys = keys
        self._live = live
        self._open: Counter[str] = Counter()
        self._keys_of: dict[ServerConnection, Key] = {}
        self._subscribers: dict[Subscriber, Key] = {}

    @contextlib.asynccontextmanager
    async def listening(self, sock: socket.socket) -> AsyncIterator[None]:
        """Serve on the bound socket; leaving the block sends everyone away with 1012."""
        async with contextlib.AsyncExitStack() as stack:
            server = await serve(
                self._session,
                sock=sock,
                create_connection=_Connection,
                process_request=self._handshake,
                compression=None,
                max_size=MAX_FRAME,
                close_timeout=CLOSE_S,
                server_header=None,
            )
            stack.push_async_callback(self._drain, server)
            for work in (self._heartbeats, self._recheck):
                task = asyncio.create_task(work())
                stack.callback(raise_first, task)
                stack.push_async_callback(cancelled, task)
            yield

    async def _handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        """None to go on; otherwise the refusal, as the API writes them."""
        assert isinstance(connection, _Connection)
        if request.path.partition("?")[0] != PATH:
            return _refusal(404, "not_found", f"The live stream is at {PATH}")
        try:
            key = self._keys.authenticate(_header(request, KEY_HEADER))
        except KeysError as error:
            _log.error("the keys can't be read", problem=str(error))
            message = "Keys can't be checked now, try again"
            return _refusal(503, "keys_unavailable", message, **{"Retry-After": "2"})
        if key is None:
            return _refusal(401, "unauthorized", f"{KEY_HEADER} should be a valid API key")
        if key.plan not in DATA_PLANS:
            return _refusal(403, "live_not_in_plan", f"The plan {key.plan} has no live data")
        if _header(request, "Upgrade").lower() != "websocket":
            return _refusal(426, "upgrade_required", "This is a websocket", Upgrade="websocket")
        if self._open[key.id] >= MAX_CONNECTIONS:
            message = f"The key has {MAX_CONNECTIONS} connections open, as many as it may"
            return _refusal(429, "too_many_connections", message, **{"Retry-After": "30"})
        self._open[key.id] += 1
        metrics.CONNECTIONS.inc()
        self._keys_of[connection] = key
        connection.on_lost = partial(self._lost, connection)
        return None

    def _lost(self, connection: ServerConnection) -> None:
        self._open[self._keys_of.pop(connection).id] -= 1
        metrics.CONNECTIONS.dec()

    async def _session(self, connection: ServerConnection) -> None:
        key = self._keys_of[connection]
        subscriber = Subscriber(connection)
        self._subscribers[subscriber] = key
        limit = ControlLimit(time.monotonic)
        try:
            async for message in connection:
                verdict = limit.take()
                if verdict is Verdict.ALLOWED:
                    await self._control(subscriber, key, message)
                elif verdict is Verdict.REFUSED:
                    _error(subscriber, None, "rate_limited", "too many control frames: slow down")
                else:
                    metrics.DROPPED.labels("control_frames").inc()
                    await connection.close(POLICY, "too many control frames")
        except (ConnectionClosed, OSError):
            return
        finally:
            self._hub.leave(subscriber)
            del self._subscribers[subscriber]

    async def _control(self, subscriber: Subscriber, key: Key, message: str | bytes) -> None:
        try:
            body = orjson.loads(message)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("op"), str):
            _error(subscriber, None, "invalid_message", 'should be JSON: {"op": …}')
            return
        op, request = body["op"], body.get("id")
        if op == "ping":
            subscriber.say(op="pong", id=request)
        elif op == "subscribe":
            await self._subscribe(subscriber, key, body)
        elif op == "unsubscribe":
            self._unsubscribe(subscriber, body)
        else:
            _error(subscriber, request, "unknown_op", "ops are subscribe, unsubscribe and ping")

    async def _subscribe(self, subscriber: Subscriber, key: Key, body: dict[str, Any]) -> None:
        access = channels.Access(self._live, intervals_of(key.plan))
        try:
            granted, rejected = channels.read(body.get("channels"), access, subscriber.channels)
        except ValueError as error:
            _error(subscriber, body.get("id"), "invalid_message", str(error))
            return
        for refused in rejected:
            metrics.REJECTED.labels(refused.code).inc()
        for channel in granted:
            self._hub.subscribe(subscriber, channel)
        subscriber.say(
            op="subscribed",
            id=body.get("id"),
            channels=[channel.name for channel in granted],
            rejected=[refused.answer() for refused in rejected],
        )
        for channel in granted:
            await self._hub.snapshot(subscriber, channel)

    def _unsubscribe(self, subscriber: Subscriber, body: dict[str, Any]) -> None:
        asked = body.get("channels")
        if not isinstance(asked, list):
            _error(subscriber, body.get("id"), "invalid_message", '"channels" should be a list')
            return
        names = list(dict.fromkeys(map(channels.name_of, asked)))
        gone = {name for name in names if self._hub.unsubscribe(subscriber, name)}
        unknown = [
            channels.Rejected(name, "unknown_channel", "was not subscribed").answer()
            for name in names
            if name not in gone
        ]
        subscriber.say(
            op="unsubscribed",
            id=body.get("id"),
            channels=[name for name in names if name in gone],
            rejected=unknown,
        )

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for subscriber in self._subscribers:
                subscriber.say(op="heartbeat", time=time.time_ns() // 1000)

    async def _recheck(self) -> None:
        """Close what belongs to a key that was revoked or changed."""
        while True:
            await asyncio.sleep(RECHECK_S)
            try:
                revoked = [s for s, key in self._subscribers.items() if not self._keys.holds(key)]
            except KeysError as error:
                _log.error("can't tell which keys were revoked", problem=str(error))
                continue
            for subscriber in revoked:
                metrics.DROPPED.labels("revoked").inc()
                self._hub.leave(subscriber)
            await asyncio.gather(
                *(s.connection.close(REVOKED, "the key was revoked") for s in revoked)
            )

    async def _drain(self, server: Server) -> None:
        server.close(code=RESTARTING, reason="the server is stopping")
        await server.wait_closed()


def _header(request: Request, name: str) -> str:
    """What a header says; "" if it is not there, or there more than once."""
    values = request.headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def _error(subscriber: Subscriber, request: object, code: str, message: str) -> None:
    subscriber.say(op="error", id=request, code=code, message=message)


def _refusal(status: int, code: str, error: str, **headers: str) -> Response:
    metrics.REFUSED.labels(str(status)).inc()
    body = orjson.dumps({"error": error, "code": code})
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    return Response(status, HTTPStatus(status).phrase, Headers(fields), body)
