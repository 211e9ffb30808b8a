"""The connections of a venue, as far as they need no venue."""

import asyncio
from collections.abc import Sequence

import pytest

from ingest.clock import ArrivalClock
from ingest.feeds import Feeds
from ingest.instruments import BINANCE, Instrument
from ingest.limits import Limiter
from ingest.tasks import cancelled
from ingest.venues import venue


def instrument(number: int) -> Instrument:
    return Instrument(BINANCE, f"N{number}USDT", f"perpetual-N{number}-USDT:USDT")


def feeds_of(instruments: Sequence[Instrument]) -> Feeds:
    return Feeds(
        venue(BINANCE),
        "ws://127.0.0.1:9",
        "trade",
        instruments,
        Limiter(),
        ArrivalClock(),
        lambda line, frames: None,
        lambda feed, what, reason: None,
        lambda to, reason: None,
    )


def silent_trades(feeds: Feeds) -> None:
    """Quotes flow and trades don't, for long."""
    assert feeds._fallback is not None
    feeds._fallback._silence._trade_at -= 3_600.0
    feeds.saw(0, 1_000)


def aggregates(feeds: Feeds) -> set[str]:
    """Native ids of what the fallback's feeds carry."""
    assert feeds._fallback is not None
    return {native for feed in feeds._fallback.feeds for _, native in feed.endpoint.channels}


async def test_listings_and_delistings_reach_the_fallbacks_feeds() -> None:
    old, more = [instrument(0), instrument(1)], [instrument(n) for n in range(2, 300)]
    known = {i.native: i for i in [*old, *more]}
    feeds = feeds_of(old)
    silent_trades(feeds)
    assert aggregates(feeds) == {"N0USDT", "N1USDT"}
    (first,) = feeds._fallback.feeds  # type: ignore[union-attr]
    feeds.update(known, {"N0USDT"}, more[:1], [old[1], more[0]])
    assert aggregates(feeds) == {"N1USDT", "N2USDT"}
    assert feeds._fallback.feeds == [first]  # type: ignore[union-attr]
    feeds.update(known, set(), more[1:], [old[1], *more])
    assert aggregates(feeds) == set(known) - {"N0USDT"}
    assert len(feeds._fallback.feeds) > 1  # type: ignore[union-attr]


@pytest.mark.parametrize("how_long", [0.0, 0.2])
async def test_no_task_is_left_behind(how_long: float) -> None:
    before = asyncio.all_tasks()
    feeds = feeds_of([instrument(0)])
    running = asyncio.create_task(feeds.run())
    await asyncio.sleep(0)
    silent_trades(feeds)
    await asyncio.sleep(how_long)
    await cancelled(running)
    assert asyncio.all_tasks() == before


async def test_a_connection_opened_while_reading_is_paused_does_not_read() -> None:
    old, new = [instrument(0)], [instrument(n) for n in range(1, 300)]
    feeds = feeds_of(old)
    feeds.pause()
    feeds.update({i.native: i for i in old}, set(), new, old + new)
    assert len(feeds._feeds) > 1
    assert all(feed._paused for feed in feeds._feeds)
    feeds.resume()
    assert not any(feed._paused for feed in feeds._feeds)
