"""The venues' limits on connections and messages (EXCHANGES §1.3, §2.3, §3.2), kept by reservation.

    venue      connections            messages of a client                 subscriptions
    Binance    300 in 5 min           10/s a connection (5/s here)         200 streams a connection
    OKX        3 in 1 s               480 requests/h a connection          64 KB a request
    Hyperliquid  30 in 1 min, 10 open 2000/min over all connections        1000 over all

One `Limiter` is shared by all collectors of a venue on an event loop. Every connection and message
asks for its moment and waits for it, so that reconnect storms and back-off stay within the limits
too; what all of them subscribe is counted together. The limits but those of one connection are of
an IP address: of several processes on one each takes its part (`divided`).
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from ingest.instruments import BINANCE, HYPERLIQUID, OKX

Rate = tuple[int, float]
"""(how many, in any so many seconds)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one venue; an empty tuple or None: no such limit is known."""

    connections: tuple[Rate, ...] = ()
    line_messages: tuple[Rate, ...] = ()
    messages: tuple[Rate, ...] = ()
    open_connections: int | None = None
    subscriptions: int | None = None

    def divided(self, processes: int) -> "Limits":
        """The part of one of so many processes on an address; a connection's own limits stay."""

        def part(rate: Rate) -> Rate:
            count, seconds = rate
            return (count // processes, seconds) if count >= processes else (1, seconds * processes)

        def least(count: int | None) -> int | None:
            return None if count is None else max(1, count // processes)

        return replace(
            self,
            connections=tuple(map(part, self.connections)),
            messages=tuple(map(part, self.messages)),
            open_connections=least(self.open_connections),
            subscriptions=least(self.subscriptions),
        )


LIMITS = {
    BINANCE: Limits(connections=((280, 300.0), (5, 1.0)), line_messages=((5, 1.0),)),
    OKX: Limits(connections=((2, 1.0),), line_messages=((3, 1.0), (460, 3600.0))),
    HYPERLIQUID: Limits(
        connections=((28, 60.0), (3, 1.0)),
        messages=((1900, 60.0),),
        open_connections=10,
        subscriptions=1000,
    ),
}
"""What is used: a little below what is allowed, for clocks that differ."""


class Budget:
    """Moments such that no `seconds` of any of the rates hold more than its count. Pure."""

    def __init__(self, *rates: Rate) -> None:
        self._rates = rates
        self._granted: deque[float] = deque(maxlen=max((count for count, _ in rates), default=1))

    def reserve(self, now: float) -> float:
        """The earliest moment from `now` on that is free; it is taken, in the order of asking."""
        at = now
        if self._granted:
            at = max(at, self._granted[-1])
        for count, seconds in self._rates:
            if len(self._granted) >= count:
                at = max(at, self._granted[-count] + seconds)
        self._granted.append(at)
        return at


class Limiter:
    """The limits of one venue, shared by its feeds on one event loop.

    `now` and `sleep` are the loop's clock, seconds, and how to wait; tests give virtual ones.
    """

    def __init__(
        self,
        limits: Limits = Limits(),
        *,
        now: Callable[[], float] | None = None,
        sleep: "Callable[[float], asyncio.Future[None]] | None" = None,
    ) -> None:
        self.limits = limits
        self._now = now
        self._sleep = sleep or asyncio.sleep
        self._connections = Budget(*limits.connections)
        self._messages = Budget(*limits.messages)
        self._open = asyncio.Semaphore(limits.open_connections or 1 << 30)
        self._subscribed: dict[Hashable, int] = {}

    def subscribe(self, who: Hashable, count: int) -> None:
        """`who` has so many subscriptions from now on; 0: it has ended."""
        self._subscribed[who] = count
        if not count:
            del self._subscribed[who]

    def subscriptions_left(self, who: Hashable) -> int:
        """How many `who` may have beside the others."""
        most = self.limits.subscriptions
        others = sum(count for other, count in self._subscribed.items() if other != who)
        return sys.maxsize if most is None else max(most - others, 0)

    @property
    def room_to_overlap(self) -> bool:
        """Whether all may stand twice for a moment, on an old and a new connection."""
        most = self.limits.subscriptions
        return most is None or 2 * sum(self._subscribed.values()) <= most

    async def connecting(self) -> None:
        """Wait until one more connection may be opened; `closed` must follow its end."""
        await self._open.acquire()
        try:
            await self._until(self._connections.reserve(self._time()))
        except BaseException:
            self._open.release()
            raise

    def closed(self) -> None:
        """A connection, or an attempt at one, has ended."""
        self._open.release()

    def line(self) -> Budget:
        """The messages of one new connection."""
        return Budget(*self.limits.line_messages)

    async def sending(self, line: Budget) -> None:
        """Wait until a message may be sent on the connection whose budget is `line`."""
        now = self._time()
        await self._until(max(line.reserve(now), self._messages.reserve(now)))

    def _time(self) -> float:
        return self._now() if self._now else asyncio.get_running_loop().time()

    async def _until(self, moment: float) -> None:
        wait = moment - self._time()
        if wait > 0:
            await self._sleep(wait)


class PerLoop(Generic[T]):
    """One object of each name on every event loop: what its tasks share without locks."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, T]] = WeakKeyDictionary()

    def get(self, name: str, make: Callable[[], T]) -> T:
        """The running loop's, made at first use."""
        mine = self._of.setdefault(asyncio.get_running_loop(), {})
        if name not in mine:
            mine[name] = make()
        return mine[name]


_LIMITERS: PerLoop[Limiter] = PerLoop()


def limits(exchange: str, processes: int = 1) -> Limits:
    """What one of so many processes on an address may do; a venue not known here has no limits."""
    return LIMITS.get(exchange, Limits()).divided(processes)


def limiter(exchange: str, processes: int = 1) -> Limiter:
    """The one that all collectors of a venue on the running loop share."""
    return _LIMITERS.get(exchange, lambda: Limiter(limits(exchange, processes)))
