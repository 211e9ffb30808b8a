"""One endpoint of a venue, kept connected: back-off when it is lost, make-before-break when it
has to go. The next connection is up and subscribed before the old one is closed; what both of them
delivered is removed downstream by id.
"""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import structlog

from ingest import line as lines
from ingest import metrics
from ingest.clock import ArrivalClock
from ingest.limits import Limiter
from ingest.line import CONFIRM_S, Address, Line, kinds_of, label_of
from ingest.tasks import cancelled
from ingest.trouble import Trouble
from ingest.venues import Channel, Endpoint, Frame, Requests
from ingest.watchdog import Watchdog

FIRST_DELAY_S = 0.25
MAX_DELAY_S = 30.0
STABLE_S = 10.0
"""A connection that stood this long starts the next back-off from its first delay, and ends what
was told of trouble."""
OVERLAP_S = 2.0
"""How long old and new both deliver: longer than the lag between two servers of a venue."""

_log = structlog.get_logger(__name__)


def trouble_of(exchange: str) -> Trouble:
    """What the feeds of a venue tell of connections that are lost or can't be had."""
    return Trouble(_log.bind(exchange=exchange), "not connected, trying again", "connected again")


def back_off() -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling, with jitter, up to `MAX_DELAY_S`."""
    delay = FIRST_DELAY_S
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, MAX_DELAY_S)


@dataclass(slots=True)
class _Running:
    line: Line
    task: "asyncio.Task[str]"
    began: float


class Feed:
    """Connected and subscribed until its task is cancelled.

    `deliver(line, frames)` gets the messages of each read in the order of their stamps; what the
    venue's parser finds among them goes back to `line.notice` and `line.heard`. `changed` is
    called with ("connected" | "subscribed" | "confirmed" | "channel-silent" | "disconnected" |
    "replaced", reason) on the event loop. The feeds of a venue share a `trouble`: one that can't be
    reached is told once. Where the venue's limits leave no room for an overlap the old connection
    is closed before the next is opened.
    """

    def __init__(
        self,
        exchange: str,
        ws_url: str,
        endpoint: Endpoint,
        heartbeat: tuple[float, bytes] | None,
        clock: ArrivalClock,
        deliver: Callable[[Line, list[Frame]], None],
        changed: "Callable[[Feed, str, str], None]",
        *,
        requests: Requests,
        limiter: Limiter | None = None,
        trouble: Trouble | None = None,
        confirm_s: float = CONFIRM_S,
        renew_s: float | None = None,
    ) -> None:
        self.path = endpoint.path
        base = ws_url.rstrip("/")
        self._address = Address(exchange, base, endpoint, heartbeat, requests, confirm_s, renew_s)
        self._limiter = limiter or Limiter()
        self._clock = clock
        self._deliver = deliver
        self._changed = changed
        self._log = _log.bind(exchange=exchange, path=endpoint.path)
        self._trouble = trouble or trouble_of(exchange)
        self._watchdogs = {kind: Watchdog() for kind in kinds_of(endpoint)}
        self._current: _Running | None = None
        self._next: _Running | None = None
        self._next_at = 0.0
        self._delays = back_off()
        self._paused = False

    @property
    def subscribed(self) -> bool:
        """Whether the venue has answered every subscription, some perhaps with an error."""
        return self._current is not None and self._current.line.subscribed

    @property
    def state(self) -> str:
        """One of `metrics.CONNECTION_STATES`."""
        if self.subscribed:
            return "subscribed"
        connected = self._current is not None and self._current.line.connection is not None
        return "subscribing" if connected else "connecting"

    def pause(self) -> None:
        """Stop reading: the venue's data waits in the sockets' buffers."""
        self._paused = True
        for running in self._lines():
            running.line.pause()

    def resume(self) -> None:
        self._paused = False
        for running in self._lines():
            running.line.resume()

    @property
    def endpoint(self) -> Endpoint:
        """What the feed carries, or will once it is subscribed."""
        return self._address.endpoint

    @property
    def carries(self) -> set[Channel]:
        """The subscriptions that the venue has confirmed on the connection there is."""
        return set() if self._current is None else self._current.line.confirmed

    def change(self, endpoint: Endpoint) -> None:
        """Carry other subscriptions, on the connection there is."""
        self._address = replace(self._address, endpoint=endpoint)
        for running in self._lines():
            running.line.want(endpoint.channels)

    def renew(self, reason: str) -> None:
        """Replace the connection by another."""
        if self._current is not None:
            self._current.line.renew = self._current.line.renew or reason

    def subscribe_anew(self, channels: Iterable[Channel]) -> None:
        """Leave these and subscribe them again, on the connection there is."""
        if self._current is not None:
            self._current.line.subscribe_anew(channels)

    async def run(self) -> None:
        """Connect, subscribe, renew and reconnect, until cancelled."""
        try:
            while True:
                self._current = self._start()
                await self._stand()
                await asyncio.sleep(next(self._delays))
        finally:
            self._trouble.forget(self)
            self._trouble.forget((self, "next"))
            await cancelled(*(running.task for running in self._lines()))

    async def _stand(self) -> None:
        """Keep a line up, replacing it when it is due, until none is left."""
        loop = asyncio.get_running_loop()
        while True:
            running = self._lines()
            await asyncio.wait(
                {r.task for r in running},
                timeout=lines.CHECK_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert self._current is not None
            now = loop.time()
            since = self._current.line.subscribed_at
            if since is not None and now - since > STABLE_S and self._current.line.confirmed:
                self._trouble.over(self)
            if self._current.task.done():
                self._lost(self._current, now)
                if self._next is None:
                    self._current = None
                    return
                self._promote()
            elif self._next is not None and self._next.task.done():
                self._trouble.failed(self._next.task.result(), (self, "next"))
                self._next = None
                self._next_at = now + next(self._delays)
            elif self._next is not None:
                since = self._next.line.subscribed_at
                if since is not None and now - since >= OVERLAP_S and self._next.line.confirmed:
                    await self._replace()
            elif self._current.line.renew and now >= self._next_at:
                if self._limiter.room_to_overlap:
                    self._next = self._start()
                else:
                    self._current.task.cancel()
                    await asyncio.wait({self._current.task})

    def _start(self) -> _Running:
        loop = asyncio.get_running_loop()
        line = Line(
            self._address,
            self._watchdogs,
            self._limiter,
            self._clock,
            self._deliver,
            self._told,
        )
        if self._paused:
            line.pause()
        return _Running(line, loop.create_task(line.run()), loop.time())

    def _told(self, line: Line, what: str, reason: str) -> None:
        current = self._current is not None and line is self._current.line
        if current or what == "channel-silent":
            self._changed(self, what, reason)

    def _lost(self, running: _Running, now: float) -> None:
        """The current line ended."""
        line = running.line
        reason = f"renewed: {line.renew}" if running.task.cancelled() else running.task.result()
        if line.connected:
            self._changed(self, "disconnected", reason)
        if now - running.began > STABLE_S and line.confirmed:
            self._delays = back_off()
        metrics.DISCONNECTED.labels(self._address.exchange, label_of(reason)).inc()
        self._trouble.failed(reason, self)

    def _promote(self) -> None:
        """The old line is gone before the next took over: the next is what there is."""
        self._current, self._next = self._next, None
        assert self._current is not None
        if self._current.line.connected:
            self._changed(self, "connected", "")
        if self._current.line.subscribed:
            self._changed(self, "subscribed", "")

    async def _replace(self) -> None:
        """The next line stands: the old one is closed."""
        old, self._current, self._next = self._current, self._next, None
        assert old is not None
        self._delays = back_off()
        metrics.RENEWED.labels(self._address.exchange, old.line.renew).inc()
        self._trouble.over((self, "next"))
        self._log.info("connection replaced", reason=old.line.renew)
        self._changed(self, "replaced", old.line.renew)
        await cancelled(old.task)

    def _lines(self) -> list[_Running]:
        return [running for running in (self._current, self._next) if running is not None]
