"""The connections of a venue, as far as they need no venue."""

from ingest.clock import ArrivalClock
from ingest.feeds import Feeds
from ingest.instruments import BINANCE, Instrument
from ingest.limits import Limiter
from ingest.venues import venue


def instrument(number: int) -> Instrument:
    return Instrument(BINANCE, f"N{number}USDT", f"perpetual-N{number}-USDT:USDT")


async def test_a_connection_opened_while_reading_is_paused_does_not_read() -> None:
    old, new = [instrument(0)], [instrument(n) for n in range(1, 300)]
    feeds = Feeds(
        venue(BINANCE),
        "ws://127.0.0.1:9",
        "trade",
        old,
        Limiter(),
        ArrivalClock(),
        lambda line, frames: None,
        lambda feed, what, reason: None,
        lambda to, reason: None,
    )
    feeds.pause()
    feeds.update({i.native: i for i in old}, set(), new, old + new)
    assert len(feeds._feeds) > 1
    assert all(feed._paused for feed in feeds._feeds)
    feeds.resume()
    assert not any(feed._paused for feed in feeds._feeds)
