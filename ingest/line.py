"""One connection of a feed, from its opening to its end: subscriptions, heartbeats, silence."""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from ingest import metrics
from ingest.clock import ArrivalClock
from ingest.connection import MAX_MESSAGE, ArrivalConnection
from ingest.limits import Limiter
from ingest.records import QUOTES, TRADES
from ingest.subscriptions import Due, Subscriptions
from ingest.tasks import cancelled
from ingest.universe import why
from ingest.venues import (
    SUBSCRIBE,
    UNSUBSCRIBE,
    Channel,
    Endpoint,
    Frame,
    Notice,
    ParserState,
    Requests,
)
from ingest.watchdog import Watchdog

HEARTBEAT_S = 20.0
"""Between protocol pings, for venues without a heartbeat of their own."""
CONFIRM_S = 15.0
"""A connection whose subscriptions are not all answered after this long is opened again."""
OPEN_S = 10.0
SEND_S = 10.0
CLOSE_S = 1.0
CHECK_S = 0.5
MISSED_BEATS = 3
"""Heartbeats without a byte in return after which a connection is given up."""
_QUOTE_CHANNELS = frozenset({"bookTicker", "bbo-tbt", "bbo"})

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """What a connection is opened for: the venue's websocket base and an endpoint of it.

    `renew_s`: after how long it should be replaced by another, None: never.
    """

    exchange: str
    base: str
    endpoint: Endpoint
    heartbeat: tuple[float, bytes] | None
    requests: Requests
    confirm_s: float = CONFIRM_S
    renew_s: float | None = None


_LABELS = (
    ("can't connect", "can't connect"),
    ("could not send", "sending"),
    ("silent", "silent"),
    ("subscriptions not confirmed", "unconfirmed"),
    ("every subscription refused", "refused"),
    ("renewed", "renewed"),
)
_CODES = frozenset({"1000", "1001", "1002", "1006", "1008", "1009", "1011", "1012", "1013"})


def label_of(reason: str) -> str:
    """Why a connection ended, as one of few words: what a metric may be labelled with."""
    for start, label in _LABELS:
        if reason.startswith(start):
            return label
    received = re.search(r"received (\d+)", reason)
    code = received[1] if received else "1006"  # no close frame: RFC 6455 §7.1.5
    return f"closed {code}" if code in _CODES else "closed"


def kinds_of(endpoint: Endpoint) -> set[str]:
    """Which of "trades" and "quotes" the endpoint carries."""
    return {QUOTES if name in _QUOTE_CHANNELS else TRADES for name, _ in endpoint.channels}


class Line:
    """One connection. `deliver(line, frames)` gets each read's messages, `told` what happens.

    What the venue's parser finds about the connection comes back through `notice`, what it finds
    of the market through `heard`. `told(line, what, reason)` is called with "connected",
    "subscribed" (once all it was opened for is answered), "confirmed" for what is subscribed later,
    and "channel-silent" for the kind of tick, the reason, of which nothing comes any more.
    """

    def __init__(
        self,
        address: Address,
        watchdogs: Mapping[str, Watchdog],
        limiter: Limiter,
        clock: ArrivalClock,
        deliver: "Callable[[Line, list[Frame]], None]",
        told: "Callable[[Line, str, str], None]",
    ) -> None:
        self.state = ParserState()
        self.renew = ""
        """Why another connection should take over: "age", "notice", "silence", or "" if none."""
        self.connected = False
        """Whether it ever stood."""
        self.subscribed_at: float | None = None
        self._address = address
        self._watchdogs = watchdogs
        self._limiter = limiter
        self._budget = limiter.line()
        self._clock = clock
        self._deliver = deliver
        self._told = told
        self._log = _log.bind(exchange=address.exchange, path=address.endpoint.path)
        self._connection: ArrivalConnection | None = None
        self._paused = False
        self._subscriptions = Subscriptions(address.endpoint)

    @property
    def connection(self) -> ArrivalConnection | None:
        return self._connection

    @property
    def subscribed(self) -> bool:
        """Whether the venue has answered every subscription, some perhaps with an error."""
        return self._connection is not None and self._subscriptions.answered

    @property
    def confirmed(self) -> set[Channel]:
        """The subscriptions that the venue has confirmed."""
        return self._subscriptions.confirmed

    def want(self, channels: Iterable[Channel]) -> None:
        """Carry these from now on, on this connection."""
        self._subscriptions.want(channels)

    def subscribe_anew(self, channels: Iterable[Channel]) -> None:
        """Leave these and subscribe them again, on this connection."""
        self._subscriptions.renew(channels)

    # -- what the venue says

    def notice(self, notice: Notice) -> None:
        """What the venue said about the connection, from the parser."""
        if notice.kind == "closing":
            self._log.warning("venue will close the connection", text=notice.text)
            self.renew = self.renew or "notice"
        elif notice.kind == "error":
            self._refused(notice)
        elif notice.kind == "ack":
            self._acknowledged(notice)

    def heard(self, trades: int, quotes: int) -> None:
        """So many ticks have arrived."""
        now = asyncio.get_running_loop().time()
        for kind, ticks in ((TRADES, trades), (QUOTES, quotes)):
            if ticks and kind in self._watchdogs:
                self._watchdogs[kind].heard(now, ticks)

    def _acknowledged(self, notice: Notice) -> None:
        new = self._subscriptions.acknowledged(notice)
        if self.subscribed_at is not None and new:
            self._told(self, "confirmed", "")
        self._answered()

    def _refused(self, notice: Notice) -> None:
        if notice.native and (notice.channel, notice.native) not in self._subscriptions.wanted:
            self._log.info("no such subscription to leave", text=notice.text)  # delisted, say
            return
        metrics.REFUSED.labels(self._address.exchange).inc()
        symbols = self._subscriptions.refuse(notice)
        self._log.error(
            "subscription refused", text=notice.text, channel=notice.channel, symbols=symbols
        )
        self._answered()

    def _answered(self) -> None:
        if self.subscribed_at is None and self.subscribed:
            now = asyncio.get_running_loop().time()
            self.subscribed_at = now
            self._subscriptions.opened(now)
            for watchdog in self._watchdogs.values():
                watchdog.start(now)
            self._told(self, "subscribed", "")

    # -- reading

    def pause(self) -> None:
        """Stop reading: the venue's data waits in the sockets' buffers."""
        self._paused = True
        if self._connection is not None:
            self._connection.transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.transport.resume_reading()

    # -- life

    async def run(self) -> str:
        """Open, subscribe and watch until it ends, or is cancelled; returns why it ended."""
        await self._limiter.connecting()
        try:
            return await self._live()
        finally:
            self._limiter.closed()

    async def _live(self) -> str:
        try:
            connection = await connect(
                self._address.base + self._address.endpoint.path,
                create_connection=self._create,  # type: ignore[arg-type]
                compression=None,
                max_size=MAX_MESSAGE,
                ping_interval=None,  # `_watch` beats: a connection paused by us must not look dead
                open_timeout=OPEN_S,
                close_timeout=CLOSE_S,
            )
        except TimeoutError:
            return f"can't connect to {self._address.base}: no answer in {OPEN_S:g} s"
        except (OSError, WebSocketException) as error:
            return f"can't connect to {self._address.base}: {why(error)}"
        assert isinstance(connection, ArrivalConnection)
        try:
            self._opened(connection)
            watching = asyncio.create_task(self._watch(connection))
            try:
                await self._subscribe(connection, watching)
                return await watching
            finally:
                await cancelled(watching)
        except TimeoutError:
            return f"could not send for {SEND_S:g} s"
        except WebSocketException as error:
            return str(error)
        finally:
            self._connection = None
            await connection.close()

    def _create(self, *args: Any, **kwargs: Any) -> ArrivalConnection:
        return ArrivalConnection(self._clock, self._received, *args, **kwargs)

    def _received(self, frames: list[Frame]) -> None:
        self._deliver(self, frames)

    def _opened(self, connection: ArrivalConnection) -> None:
        metrics.CONNECTED.labels(self._address.exchange).inc()
        self._connection = connection
        self.connected = True
        self._told(self, "connected", "")
        if self._paused:
            connection.transport.pause_reading()

    async def _subscribe(
        self, connection: ArrivalConnection, watching: "asyncio.Task[str]"
    ) -> None:
        """Ask for what it was opened for, and then for what comes and goes, until it ends."""
        await self._send_all(connection, self._address.endpoint.subscribe, watching)
        while not watching.done():
            await asyncio.wait({watching}, timeout=CHECK_S)
            if self.subscribed:
                due = self._subscriptions.due(asyncio.get_running_loop().time())
                await self._send_all(connection, self._messages(due), watching)

    def _messages(self, due: Due) -> list[bytes]:
        if due.given_up:
            metrics.GIVEN_UP.labels(self._address.exchange).inc(len(due.given_up))
            self._log.error("subscriptions given up", symbols=_natives(due.given_up))
        if due.again:
            symbols = _natives(due.again)
            self._log.info("asking again for refused subscriptions", symbols=symbols)
        messages: list[bytes] = []
        if due.leave:
            number = self._subscriptions.number(())
            messages += self._address.requests(due.leave, UNSUBSCRIBE, number)
        if asked := [*due.new, *due.again]:
            number = self._subscriptions.number(asked)
            messages += self._address.requests(asked, SUBSCRIBE, number)
        return messages

    async def _send_all(
        self,
        connection: ArrivalConnection,
        messages: Sequence[bytes],
        watching: "asyncio.Task[str]",
    ) -> None:
        """Send within the venue's limits, unless the connection ends meanwhile."""
        for message in messages:
            free = asyncio.ensure_future(self._limiter.sending(self._budget))
            try:
                await asyncio.wait({free, watching}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancelled(free)
            if watching.done():
                return
            await _send(connection, message)

    async def _watch(self, connection: ArrivalConnection) -> str:
        """Heartbeats and checks until the connection is closed or has to be; the reason."""
        loop = asyncio.get_running_loop()
        address = self._address
        interval = address.heartbeat[0] if address.heartbeat else HEARTBEAT_S
        opened = loop.time()
        confirm_by = opened + self._patience()
        received = metrics.RECEIVED_BYTES.labels(address.exchange)
        beat_at = opened + interval
        closed = connection.connection_lost_waiter
        told = 0
        while True:
            await asyncio.wait({closed}, timeout=CHECK_S)
            received.inc(connection.received - told)
            told = connection.received
            if closed.done():
                return f"closed: {connection.protocol.close_exc}"
            now = loop.time()
            if self._paused:  # nothing can be heard
                connection.heard, confirm_by = now, now + self._patience()
                for watchdog in self._watchdogs.values():
                    watchdog.start(now)
            elif now - connection.heard > MISSED_BEATS * interval:
                connection.transport.abort()
                return f"silent for more than {MISSED_BEATS * interval:g} s"
            elif not self.subscribed and now > confirm_by:
                return f"subscriptions not confirmed in {address.confirm_s:g} s"
            elif self._subscriptions.hopeless:
                return "every subscription refused"
            self._check_silence(now)
            if address.renew_s is not None and now - opened > address.renew_s:
                self.renew = self.renew or "age"
            if now >= beat_at:
                beat_at = now + interval
                await self._beat(connection)

    def _patience(self) -> float:
        """Until when subscriptions should be answered, with the time that sending them takes."""
        rates = (*self._limiter.limits.line_messages, *self._limiter.limits.messages)
        messages = len(self._address.endpoint.subscribe)
        takes = max((messages / count * seconds for count, seconds in rates), default=0.0)
        return self._address.confirm_s + takes

    def _check_silence(self, now: float) -> None:
        if not self.subscribed:
            return
        for kind, watchdog in self._watchdogs.items():
            if watchdog.expired(now):
                metrics.SILENT.labels(self._address.exchange, kind).inc()
                self._log.warning(
                    "channel silent, subscribing on a fresh connection",
                    channel=kind,
                    deadline_s=round(watchdog.deadline, 1),
                )
                watchdog.give_up(now)
                self.renew = self.renew or "silence"
                # Before another connection brings what comes after: that says what was missed.
                self._told(self, "channel-silent", kind)

    async def _beat(self, connection: ArrivalConnection) -> None:
        heartbeat = self._address.heartbeat
        await self._limiter.sending(self._budget)
        if heartbeat is not None:
            await _send(connection, heartbeat[1])
        else:
            async with asyncio.timeout(SEND_S):
                await connection.ping()


def _natives(channels: Sequence[Channel]) -> list[str]:
    return sorted({native for _, native in channels})


async def _send(connection: ClientConnection, message: bytes) -> None:
    async with asyncio.timeout(SEND_S):
        await connection.send(message, text=True)
