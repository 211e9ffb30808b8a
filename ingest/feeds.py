"""The connections of one venue: as many feeds as its subscriptions need, within its limits."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from ingest import metrics
from ingest.clock import ArrivalClock
from ingest.fallback import Fallback, Switch
from ingest.feed import Feed, trouble_of
from ingest.instruments import BINANCE, Instrument
from ingest.limits import Limiter
from ingest.line import Line
from ingest.reassign import Make, reassigned
from ingest.tasks import cancelled, raise_first
from ingest.venues import Channel, Endpoint, Frame, Venue

RENEW_BEFORE_S = 3600.0
"""How long before the venue would end a connection another takes over."""
STAGGER_S = 97.0
"""Between the ends of connections that were opened together."""


class Feeds:
    """Feeds for `instruments`, whose trades come over the channel `trades`.

    `deliver(line, frames)` gets what they receive, `changed(feed, what, reason)` what happens to
    them (see `Feed`), `switched` when Binance's aggregates take over and hand back.
    """

    def __init__(
        self,
        venue: Venue,
        ws_url: str,
        trades: str,
        instruments: Sequence[Instrument],
        limiter: Limiter,
        clock: ArrivalClock,
        deliver: Callable[[Line, list[Frame]], None],
        changed: Callable[[Feed, str, str], None],
        switched: Callable[[Switch, str], None],
    ) -> None:
        self._venue = venue
        self._ws_url = ws_url
        self._trades = trades
        self._limiter = limiter
        self._clock = clock
        self._deliver = deliver
        self._changed = changed
        self._trouble = trouble_of(venue.name)
        self._news = asyncio.Event()
        self._paused = False
        endpoints = venue.endpoints(instruments, trades)
        self._feeds = [self._feed(endpoint, i) for i, endpoint in enumerate(endpoints)]
        self._fallback: Fallback | None = None
        if venue.name == BINANCE and trades != "aggTrade":
            aggregates = self._aggregates(instruments)
            self._fallback = Fallback(venue.name, aggregates, self._feed, switched)

    @property
    def subscribed(self) -> bool:
        """Whether every connection is open and its subscriptions answered."""
        return all(feed.subscribed for feed in self._feeds)

    @property
    def wanted(self) -> set[Channel]:
        """The subscriptions that should stand."""
        return {channel for feed in self._feeds for channel in feed.endpoint.channels}

    @property
    def carries(self) -> set[Channel]:
        """The subscriptions that do stand."""
        return set[Channel]().union(*(feed.carries for feed in self._feeds))

    async def run(self) -> None:
        """Run the feeds there are; ends when one of them does, which none should."""
        tasks: dict[Feed, asyncio.Task[None]] = {}
        try:
            while not any(task.done() for task in tasks.values()):
                self._news.clear()
                feeds = self._all()
                await cancelled(*(tasks.pop(f) for f in list(tasks) if f not in feeds))
                tasks |= {f: asyncio.create_task(f.run()) for f in feeds if f not in tasks}
                changed = asyncio.create_task(self._news.wait())
                try:
                    await asyncio.wait(
                        {changed, *tasks.values()}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    await cancelled(changed)
            raise_first(*tasks.values())
        finally:
            await cancelled(*tasks.values())

    def update(
        self,
        known: Mapping[str, Instrument],
        gone: Collection[str],
        added: Sequence[Instrument],
        active: Sequence[Instrument],
    ) -> None:
        """Leave the native ids `gone` and take `added` in, on the connections there are.

        `known` are all instruments by native id, `active` those that trade now.
        """

        def carrying(feeds: Sequence[Feed], lay_out: Make) -> list[Feed]:
            kept, more = reassigned([feed.endpoint for feed in feeds], known, gone, added, lay_out)
            left = []
            for feed, endpoint in zip(feeds, kept, strict=True):
                if endpoint is not None:
                    left.append(feed)
                    if endpoint is not feed.endpoint:
                        feed.change(endpoint)
            return left + [self._feed(e, len(left) + i) for i, e in enumerate(more)]

        self._feeds = carrying(self._feeds, lambda i: self._venue.endpoints(i, self._trades))
        if self._fallback is not None:
            self._fallback.endpoints = self._aggregates(active)
            if self._fallback.feeds:
                self._fallback.feeds = carrying(self._fallback.feeds, self._aggregates)
        self._news.set()

    def subscribe_anew(self, native: str) -> None:
        """Leave the subscriptions of an instrument and ask for them again."""
        for feed in self._feeds:
            feed.subscribe_anew([c for c in feed.endpoint.channels if c[1] == native])

    @property
    def standing(self) -> set[str]:
        """Native ids whose subscriptions all stand."""
        wanted, carries = self.wanted, self.carries
        return {native for _, native in wanted} - {native for _, native in wanted - carries}

    def renew(self, native: str, reason: str) -> None:
        """Replace the connections that carry an instrument by others."""
        for feed in self._feeds:
            if any(channel[1] == native for channel in feed.endpoint.channels):
                feed.renew(reason)

    def saw(self, trades: int, quotes: int) -> None:
        """So many single trades and quotes have come since the last call."""
        metrics.connections(self._venue.name, (feed.state for feed in self._feeds))
        if self._fallback is not None and self._fallback.saw(trades, quotes):
            self._news.set()

    def pause(self) -> None:
        """Stop reading, on connections opened meanwhile too: data waits in the sockets' buffers."""
        self._paused = True
        for feed in self._all():
            feed.pause()

    def resume(self) -> None:
        self._paused = False
        for feed in self._all():
            feed.resume()

    def _all(self) -> Sequence[Feed]:
        return [*self._feeds, *(self._fallback.feeds if self._fallback else ())]

    def _feed(self, endpoint: Endpoint, number: int = 0) -> Feed:
        """Feeds share the venue's limits; those opened together end at other times."""
        age = self._venue.max_age_s
        feed = Feed(
            self._venue.name,
            self._ws_url,
            endpoint,
            self._venue.heartbeat,
            self._clock,
            self._deliver,
            self._changed,
            requests=self._venue.requests,
            limiter=self._limiter,
            trouble=self._trouble,
            renew_s=None if age is None else age - RENEW_BEFORE_S - number * STAGGER_S % 3600,
        )
        if self._paused:
            feed.pause()
        return feed

    def _aggregates(self, instruments: Sequence[Instrument]) -> list[Endpoint]:
        """Binance's @aggTrade, for when @trade is silent."""
        endpoints = self._venue.endpoints(instruments, "aggTrade")
        return [e for e in endpoints if all(name == "aggTrade" for name, _ in e.channels)]
