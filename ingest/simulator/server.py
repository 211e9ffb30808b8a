"""The simulator: three venues on one localhost port, served from feeds by one market clock."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from types import TracebackType
from typing import Self

from ingest.simulator.clock import MarketClock
from ingest.simulator.connection import GOING_AWAY, INACTIVE, Answer, Connection, wire
from ingest.simulator.data_faults import DataFaults
from ingest.simulator.faults import ConnectionFaults
from ingest.simulator.feeds import Feed
from ingest.simulator.ledger import Ledger
from ingest.simulator.listing_changes import Change
from ingest.simulator.protocols import Session, Subscribe, Unsubscribe, open_session
from ingest.simulator.rest import Request, answer
from ingest.simulator.venue_feed import VenueFeed

_STEP_EVENTS = 1_000  # of a feed, sent between two looks at the clients, when time is free
_LONGEST_SLEEP = 0.02
_LONGEST_STEP = 0.02  # real seconds that market time moves on between two looks at the clients
_HOUSEKEEPING = 0.5


class Simulator:
    """Serves `feeds` (by exchange) while in its `async with`; `ws_url` and `rest_url` say where.

    Market time starts at the earliest origin of the feeds, once the wall clock has reached
    `not_before_ns` and `streams` subscriptions to streams that are served have arrived. Then it
    runs `speed` times as fast as real time, or with `inf` as fast as the clients take it; a client
    that doesn't read delays them all. Where the machine is too slow for a `speed` other than 1 (at
    which exchange stamps follow the wall clock) market time is slower too. With `hold` it stands
    still while fewer than `streams` (at least one) are subscribed; what is sent afterwards keeps
    its exchange stamps.

    A new subscription is first sent what its stream sent in the last `resend_s` seconds of market
    time, in order, then what follows: choose more than a client may have read but not yet stored.
    Hyperliquid sends the backlog of 30 fills before that. When the feeds end, `finished` is set,
    and connections stay open and quiet.

    Every trade is in the `ledgers`, from which REST history is answered; `faults` strike what the
    streams push of them. `changes` list and delist instruments and change contract sizes.
    """

    def __init__(
        self,
        feeds: Mapping[str, Feed],
        *,
        speed: float = 1.0,
        hold: bool = False,
        streams: int = 0,
        resend_s: float = 0.0,
        connection_faults: ConnectionFaults | None = None,
        not_before_ns: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        wall: Callable[[], int] = time.time_ns,
        faults: DataFaults | None = None,
        changes: Sequence[Change] = (),
    ) -> None:
        if not feeds:
            raise ValueError("nothing to simulate: no feed was given")
        if not speed > 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        self.finished = asyncio.Event()
        self._needed = max(streams, 1) if hold else streams
        self._hold = hold
        self._not_before = not_before_ns
        self._wall = wall
        self._clock = None if speed == inf else MarketClock(speed)
        self._speed = speed
        self._origin = min(feed.origin for feed in feeds.values())
        self._sent = self._origin
        self._started = False
        resend = round(resend_s * 1e9)
        self._faults = faults
        self._venues = {
            name: VenueFeed(feed, resend, faults, changes) for name, feed in feeds.items()
        }
        self._natives = {
            name: [item.native for item in feed.listings] for name, feed in feeds.items()
        }
        self._connections: set[Connection] = set()
        self._trouble = connection_faults or ConnectionFaults()
        self._trouble.attach(self._unsubscribe)
        self._subscribed = 0
        self._changed = asyncio.Event()
        self._host = host
        self._port = port
        self._accepted = 0
        self.opened_connections: Counter[str] = Counter()
        """Websockets opened so far, by exchange."""
        self._closed_messages: Counter[str] = Counter()

    # -- life

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self._tasks = [loop.create_task(self._run()), loop.create_task(self._keep_house())]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for connection in list(self._connections):
            connection.close(GOING_AWAY, "simulator stops")
            connection.finish()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    @property
    def port(self) -> int:
        return self._port

    @property
    def ws_url(self) -> str:
        """The websocket base of every venue served."""
        return f"ws://127.0.0.1:{self._port}"

    @property
    def rest_url(self) -> str:
        """The REST base of every venue served."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def market_ns(self) -> int:
        """How far market time has been sent: ns on the clock of the feeds' event times."""
        return self._sent

    @property
    def subscribed(self) -> int:
        """Live subscriptions to streams that are served, over all connections."""
        return self._subscribed

    @property
    def sent_frames(self) -> Counter[str]:
        """Events sent so far per exchange, whether or not anybody listened."""
        return Counter({name: venue.events for name, venue in self._venues.items()})

    @property
    def delivered(self) -> Counter[str]:
        """Messages put on the sockets of clients so far, by exchange."""
        found = Counter(self._closed_messages)
        for connection in self._connections:
            found[connection.exchange] += connection.messages
        return found

    @property
    def ledgers(self) -> dict[str, Ledger]:
        """Every trade made so far, by exchange."""
        return {name: venue.ledger for name, venue in self._venues.items()}

    def disconnect(self) -> None:
        """Drop every connection without a close frame, like a network that breaks."""
        for connection in list(self._connections):
            connection.abort()

    # -- what connections call

    def open_session(self, target: str) -> tuple[str, Session] | None:
        self._accepted += 1
        return open_session(target, self._natives, f"{self._accepted:08x}")

    def answer(self, method: str, target: str, body: bytes, agent: str) -> Answer:
        return answer(self._venues, self._faults, self._sent, Request(method, target, body, agent))

    def opened(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.opened_connections[connection.exchange] += 1
        self._trouble.opened(connection)
        self._act(connection, connection.session.opened())

    def received(self, connection: Connection, text: bytes) -> None:
        actions = connection.session.receive(text)
        self._act(connection, self._trouble.answered(connection, actions))

    def closed(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._closed_messages[connection.exchange] += connection.messages
            self._trouble.closed(connection)
            self._unsubscribe(connection, connection.session.keys)

    def _act(
        self, connection: Connection, actions: Sequence[bytes | Subscribe | Unsubscribe]
    ) -> None:
        for action in actions:
            if isinstance(action, bytes):
                connection.outbox.append(wire(action))
            elif isinstance(action, Subscribe):
                self._subscribe(connection, action.keys)
            else:
                self._unsubscribe(connection, action.keys)
        connection.flush()

    def _subscribe(self, connection: Connection, keys: Sequence[str]) -> None:
        venue = self._venues[connection.exchange]
        connection.outbox += venue.catch_up(keys, self._sent, connection.session.combined)
        for key in keys:
            venue.listeners.setdefault(key, []).append(connection)
            self._subscribed += key in venue.feed.keys
        self._subscriptions_changed()

    def _unsubscribe(self, connection: Connection, keys: Sequence[str] | set[str]) -> None:
        venue = self._venues[connection.exchange]
        for key in keys:
            if connection in (listeners := venue.listeners.get(key, [])):
                listeners.remove(connection)
                self._subscribed -= key in venue.feed.keys
        self._subscriptions_changed()

    def _subscriptions_changed(self) -> None:
        self._changed.set()
        if self._clock is not None and not self._may_flow():
            self._clock.pause()

    # -- the market's time

    def _may_flow(self) -> bool:
        if self._started and not self._hold:
            return True
        return self._subscribed >= self._needed and self._wall() >= self._not_before

    async def _run(self) -> None:
        while any(venue.next_time() is not None for venue in self._venues.values()):
            if not self._may_flow():
                await self._wait_for_change()
                continue
            self._started = True
            self._send_due()
            for connection in list(self._connections):
                await connection.drain()
            await asyncio.sleep(self._pause())
        self.finished.set()

    def _send_due(self) -> None:
        due = self._due()
        for venue in self._venues.values():
            venue.send(due)
        self._sent = max(self._sent, due)
        self._trouble.advance((self._sent - self._origin) / 1e9)
        for connection in self._connections:
            connection.flush()

    def _due(self) -> int:
        """Up to where on the feeds' clock events are to be sent now."""
        if self._clock is not None:
            self._clock.resume()
            due = self._origin + self._clock.now()
            furthest = self._sent + round(_LONGEST_STEP * self._speed * 1e9)
            if due > furthest and self._speed != 1.0:
                self._clock.slip(due - furthest)
            return min(due, furthest)
        ahead = (venue.time_ahead(_STEP_EVENTS) for venue in self._venues.values())
        return min(time for time in ahead if time is not None)

    def _pause(self) -> float:
        """Seconds until there is something to send."""
        if self._clock is None:
            return 0.0
        times = [t for venue in self._venues.values() if (t := venue.next_time()) is not None]
        if not times:
            return 0.0
        wait = (min(times) - self._origin - self._clock.now()) / self._speed / 1e9
        return min(max(wait, 0.0005), _LONGEST_SLEEP)

    async def _wait_for_change(self) -> None:
        """Until subscriptions change or the wall clock may have reached the start."""
        self._changed.clear()
        early = (self._not_before - self._wall()) / 1e9
        timeout = min(max(early, 0.001), _HOUSEKEEPING) if early > 0 else None
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    async def _keep_house(self) -> None:
        """Pings, and the end of connections on which nothing was sent for too long."""
        while True:
            await asyncio.sleep(_HOUSEKEEPING)
            now = time.monotonic()
            for connection in list(self._connections):
                session = connection.session
                if session.ping_seconds and now - connection.pinged_at > session.ping_seconds:
                    connection.ping()
                if session.idle_seconds and now - connection.sent_at > session.idle_seconds:
                    connection.close(INACTIVE, f"No data for {session.idle_seconds:.0f}s.")
