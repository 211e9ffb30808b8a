"""One websocket to a venue: arrival stamps at the socket, heartbeats, reconnect, resubscribe.

`ArrivalConnection` is the `websockets` client connection with one change: it stamps the bytes when
they come off the socket, before any parsing, and hands complete messages on from there, so that no
stamp waits in a queue and no task switch is paid per message. `Feed` keeps one of them open.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.frames import Frame as WireFrame
from websockets.frames import Opcode
from websockets.protocol import CONNECTING, OPEN, Event

from ingest import metrics
from ingest.clock import ArrivalClock
from ingest.venues import Endpoint, Frame, Notice

MAX_MESSAGE = 16 << 20
"""Bytes. The largest known message is some 177 kB; 1 MiB, the library's default, is too near."""
HEARTBEAT_S = 20.0
"""Between protocol pings, for venues without a heartbeat of their own."""
CONFIRM_S = 15.0
"""A connection whose subscriptions are not all answered after this long is opened again."""
_WHOLE_TEXT = 0x81
"""First byte of an unfragmented text frame: FIN and opcode 1."""
SEND_S = 10.0
CLOSE_S = 1.0
CHECK_S = 0.5
MISSED_BEATS = 3
"""Heartbeats without a byte in return after which a connection is given up."""
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 30.0
STABLE_S = 10.0
"""A connection that stood this long starts the next back-off from its first delay."""

_log = structlog.get_logger(__name__)


class ArrivalConnection(ClientConnection):
    """A client connection that delivers each read's complete messages, stamped, as one list.

    A message in several fragments carries the stamp of the read that completed it. `recv` and
    iteration never return anything.

    Whole unfragmented text frames, nearly all there are, are taken from the bytes here: a frame
    costs 4.5 µs of CPU from the socket to the log instead of 6.5. Everything else goes to the
    library, by whole frames, so that it is between two frames whenever one is taken here.
    """

    def __init__(
        self, clock: ArrivalClock, deliver: Callable[[list[Frame]], None], *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._clock = clock
        self._deliver = deliver
        self._stamp = 0
        self.heard = self.loop.time()
        self._messages: list[Frame] = []
        self._fragments: list[bytes] = []
        self._held = bytearray()
        self._needed = 0

    def data_received(self, data: bytes) -> None:
        self._stamp = self._clock.now()
        self.heard = self.loop.time()
        while self.protocol.state is CONNECTING and data:
            # By lines, as the response ends with one: what follows it are frames.
            end = data.find(b"\n") + 1 or len(data)
            super().data_received(data[:end])
            data = data[end:]
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return
            data = bytes(self._held)
            self._held.clear()
        if data:
            self._take(data)
        if self._messages:
            messages, self._messages = self._messages, []
            self._deliver(messages)

    def _take(self, data: bytes) -> None:
        """Deal with the whole frames of `data`, which starts with a frame; hold what is left."""
        at, size = 0, len(data)
        stamp, messages = self._stamp, self._messages
        while at < size:
            if self.protocol.state is not OPEN:
                super().data_received(data[at:])
                return
            start, end = _payload(data, at)
            if end > size:
                self._held += data[at:]
                self._needed = end - at
                return
            if start and data[at] == _WHOLE_TEXT and not self._fragments:
                messages.append((stamp, data[start:end]))
            else:
                super().data_received(data[at:end])
            at = end

    def process_event(self, event: Event) -> None:
        if self.response is None or not isinstance(event, WireFrame):
            super().process_event(event)
        elif event.opcode is Opcode.TEXT or event.opcode is Opcode.BINARY:
            if event.fin:
                self._messages.append((self._stamp, bytes(event.data)))
            else:
                self._fragments = [bytes(event.data)]
        elif event.opcode is Opcode.CONT:
            self._fragments.append(bytes(event.data))
            if event.fin:
                self._messages.append((self._stamp, b"".join(self._fragments)))
                self._fragments = []
        else:
            super().process_event(event)


def _payload(data: bytes, at: int) -> tuple[int, int]:
    """Start and end of the payload of the frame at `at` (RFC 6455 §5.2).

    An end behind the data: wait for that much. A start of 0: what the library will refuse (a
    server's frames are not masked, and none is larger than `MAX_MESSAGE`), to the end of the data.
    """
    size = len(data)
    start = at + 2
    if start > size:
        return start, start
    length = data[at + 1]
    if length < 126:
        return start, start + length
    if length > 127:
        return 0, size
    start += 2 if length == 126 else 8
    if start > size:
        return start, start
    length = int.from_bytes(data[at + 2 : start], "big")
    return (start, start + length) if length <= MAX_MESSAGE else (0, size)


def back_off() -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling, with jitter, up to `MAX_DELAY_S`."""
    delay = FIRST_DELAY_S
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, MAX_DELAY_S)


class Feed:
    """One endpoint of a venue, kept connected and subscribed until its task is cancelled.

    `deliver(feed, frames)` gets the messages of each read in the order of their stamps; what the
    venue's parser finds among them about the connection comes back through `notice`. `changed` is
    called with ("connected" | "subscribed" | "disconnected", reason), on the event loop.
    """

    def __init__(
        self,
        exchange: str,
        ws_url: str,
        endpoint: Endpoint,
        heartbeat: tuple[float, bytes] | None,
        clock: ArrivalClock,
        deliver: "Callable[[Feed, list[Frame]], None]",
        changed: "Callable[[Feed, str, str], None]",
        *,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self.url = ws_url.rstrip("/") + endpoint.path
        self.path = endpoint.path
        self._endpoint = endpoint
        self._interval = heartbeat[0] if heartbeat else HEARTBEAT_S
        self._beat = heartbeat[1] if heartbeat else None
        self._clock = clock
        self._deliver = deliver
        self._changed = changed
        self._confirm_s = confirm_s
        self._exchange = exchange
        self._log = _log.bind(exchange=exchange, path=endpoint.path)
        self._connection: ClientConnection | None = None
        self._paused = False
        self._answers = 0
        self._confirmed: set[tuple[str, str]] = set()

    @property
    def subscribed(self) -> bool:
        """Whether the venue has answered every subscription, some perhaps with an error."""
        return self._connection is not None and self._answers >= self._endpoint.acks

    @property
    def refused(self) -> set[str]:
        """Native ids with a subscription that was not confirmed."""
        return {native for _, native in set(self._endpoint.channels) - self._confirmed}

    def pause(self) -> None:
        """Stop reading: the venue's data waits in the sockets' buffers."""
        self._paused = True
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.transport.resume_reading()

    def notice(self, notice: Notice) -> None:
        """What the venue said about the connection, from the parser."""
        if notice.kind == "closing":
            self._log.warning("venue will close the connection", text=notice.text)
        elif notice.kind in ("ack", "error") and self._answers < self._endpoint.acks:
            self._answer(notice)
        elif notice.kind == "error":
            self._log.warning("venue reports an error", text=notice.text)

    def _answer(self, notice: Notice) -> None:
        self._answers += 1
        if notice.kind == "error":
            metrics.REFUSED.labels(self._exchange).inc()
            self._log.error("subscription refused", text=notice.text, symbol=notice.native)
        elif notice.channel:
            self._confirmed.add((notice.channel, notice.native))
        else:
            self._confirmed.update(self._endpoint.channels)
        if self.subscribed:
            self._changed(self, "subscribed", "")

    async def run(self) -> None:
        """Connect, subscribe and reconnect, until cancelled."""
        loop = asyncio.get_running_loop()
        delays = back_off()
        while True:
            began = loop.time()
            reason = await self._attempt()
            if loop.time() - began > STABLE_S and self._confirmed:
                delays = back_off()
            delay = next(delays)
            metrics.DISCONNECTED.labels(self._exchange).inc()
            self._log.warning("disconnected", reason=reason, retry_s=round(delay, 2))
            await asyncio.sleep(delay)

    async def _attempt(self) -> str:
        """One connection from its opening to its end; returns why it ended."""
        try:
            connection = await connect(
                self.url,
                create_connection=self._create,  # type: ignore[arg-type]
                compression=None,
                max_size=MAX_MESSAGE,
                ping_interval=None,  # `_watch` beats: a connection paused by us must not look dead
                close_timeout=CLOSE_S,
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            return f"can't connect to {self.url}: {error or type(error).__name__}"
        assert isinstance(connection, ArrivalConnection)
        try:
            await self._subscribe(connection)
            reason = await self._watch(connection)
        except TimeoutError:
            reason = f"could not send for {SEND_S:g} s"
        except WebSocketException as error:
            reason = str(error)
        finally:
            self._connection = None
            await connection.close()
        self._changed(self, "disconnected", reason)
        return reason

    def _create(self, *args: Any, **kwargs: Any) -> ArrivalConnection:
        return ArrivalConnection(self._clock, self._received, *args, **kwargs)

    def _received(self, frames: list[Frame]) -> None:
        self._deliver(self, frames)

    async def _subscribe(self, connection: ArrivalConnection) -> None:
        metrics.CONNECTED.labels(self._exchange).inc()
        self._log.info("connected", url=self.url)
        self._changed(self, "connected", "")
        self._answers = 0
        self._confirmed = set()
        self._connection = connection
        if self._paused:
            connection.transport.pause_reading()
        for message in self._endpoint.subscribe:
            await _send(connection, message)

    async def _watch(self, connection: ArrivalConnection) -> str:
        """Heartbeats, until the connection is closed or has to be; returns the reason."""
        loop = asyncio.get_running_loop()
        confirm_by = loop.time() + self._confirm_s
        beat_at = loop.time() + self._interval
        closed = asyncio.ensure_future(connection.wait_closed())
        while True:
            await asyncio.wait({closed}, timeout=CHECK_S)
            if closed.done():
                return f"closed: {connection.protocol.close_exc}"
            now = loop.time()
            if self._paused:  # nothing can be heard
                connection.heard, confirm_by = now, now + self._confirm_s
            elif now - connection.heard > MISSED_BEATS * self._interval:
                connection.transport.abort()
                return f"silent for {now - connection.heard:.0f} s"
            elif not self.subscribed and now > confirm_by:
                return f"subscriptions not confirmed in {self._confirm_s:g} s"
            elif self.subscribed and not self._confirmed:
                return "every subscription refused"
            if now >= beat_at:
                beat_at = now + self._interval
                await _beat(connection, self._beat)


async def _send(connection: ClientConnection, message: bytes) -> None:
    async with asyncio.timeout(SEND_S):
        await connection.send(message, text=True)


async def _beat(connection: ClientConnection, message: bytes | None) -> None:
    if message is not None:
        await _send(connection, message)
    else:
        async with asyncio.timeout(SEND_S):
            await connection.ping()
