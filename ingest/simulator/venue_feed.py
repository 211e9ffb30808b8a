"""One venue of the simulator: its feed being sent, who listens, what newcomers get first."""

from collections import deque
from collections.abc import Iterable, Sequence

from ingest.simulator.connection import Connection, wire
from ingest.simulator.data_faults import DataFaults
from ingest.simulator.feeds import Feed
from ingest.simulator.ledger import Ledger
from ingest.simulator.listing_changes import Change, ListingChanges
from ingest.simulator.listings import HYPERLIQUID, Listing
from ingest.simulator.market import Event
from ingest.simulator.protocols import BACKLOG_FILLS, hyperliquid_backlog


class VenueFeed:
    """One feed being sent: where it is, who listens, and what a newcomer gets first."""

    def __init__(
        self, feed: Feed, resend: int, faults: DataFaults | None, changes: Sequence[Change]
    ) -> None:
        self.feed = feed
        self._changes = ListingChanges(feed.exchange, changes)
        self.ledger = Ledger(feed.exchange)
        self._faults = faults
        self.listeners: dict[str, list[Connection]] = {}
        self.events = 0
        self._resend = resend
        self._recent: deque[Event] = deque()
        self._fills: dict[str, deque[bytes]] = {}
        self._chunk: list[Event] = []
        self._at = 0
        for event in feed.history:
            self._remember_fills(event)
            self.ledger.add(event)

    def listings(self, sent: int) -> list[Listing]:
        """What the venue lists when market time has come to `sent`."""
        return self._changes.listed(self.feed.listings, sent - self.feed.origin)

    def next_time(self) -> int | None:
        """When the next event is due, None after the last one."""
        while self._at >= len(self._chunk):
            chunk = next(self.feed.chunks, None)
            if chunk is None:
                return None
            self._chunk, self._at = chunk, 0
        return self._chunk[self._at][0]

    def time_ahead(self, events: int) -> int | None:
        """A time by which at most about `events` more are due, None after the last one."""
        if self.next_time() is None:
            return None
        return self._chunk[min(self._at + events, len(self._chunk)) - 1][0]

    def send(self, due: int) -> None:
        """Put the events up to `due` into their listeners' outboxes."""
        while (time_ns := self.next_time()) is not None and time_ns <= due:
            event = self._chunk[self._at]
            self._at += 1
            if self._changes.silent(event[1], event[0] - self.feed.origin):
                continue
            self.events += 1
            since = event[0] - self.feed.origin
            if self._faults is not None:
                event = self._faults.stamped(self.feed.exchange, event, since)
            self.ledger.add(event)
            if self._faults is not None:
                self._deliver_all(self._faults.pushed(self.feed.exchange, event, since))
            elif listeners := self.listeners.get(event[1]):
                self._deliver(event, listeners)
            if self.feed.exchange == HYPERLIQUID:
                self._remember_fills(event)
            if self._resend:
                self._recent.append(event)
        if self._faults is not None:
            self._deliver_all(self._faults.released(self.feed.exchange, due))
        while self._recent and self._recent[0][0] < due - self._resend:
            self._recent.popleft()

    def _deliver_all(self, events: Iterable[Event]) -> None:
        for event in events:
            if listeners := self.listeners.get(event[1]):
                self._deliver(event, listeners)

    def _deliver(self, event: Event, listeners: list[Connection]) -> None:
        data = wire(event[2])
        for connection in listeners:
            combined = connection.session.combined
            connection.outbox.append(data if combined else wire(_unwrapped(event)))

    def catch_up(self, keys: Sequence[str], sent: int, combined: bool) -> list[bytes]:
        """What new subscriptions get first: the backlog of fills, then the last events again."""
        wanted = set(keys)
        first = [hyperliquid_backlog(f) for key in keys if (f := self._fills.get(key))]
        again = [
            event[2] if combined else _unwrapped(event)
            for event in self._recent
            if event[1] in wanted and event[0] >= sent - self._resend
        ]
        return [wire(frame) for frame in (*first, *again)]

    def _remember_fills(self, event: Event) -> None:
        if event[1].startswith("trades:"):
            self._fills.setdefault(event[1], deque(maxlen=BACKLOG_FILLS)).append(event[2])


def _unwrapped(event: Event) -> bytes:
    """The data of a combined Binance frame, as a raw stream sends it."""
    return event[2][len(event[1]) + len('{"stream":"","data":') : -1]
