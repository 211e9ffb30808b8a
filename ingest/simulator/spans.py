"""Recordings of simulated spans: what a collector's recorder would have written, without waiting.

They are in perpflow's own format, so the demo's backfill and the tests of `replay` read them like
any other. Arrival is the push time plus a seeded network delay, never decreasing.
"""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from ingest.instruments import Instrument, instruments_from
from ingest.recorder import RecordingFile
from ingest.recording import RecordingHeader
from ingest.simulator.feeds import market_feed
from ingest.simulator.listings import (
    BINANCE,
    HYPERLIQUID,
    OKX,
    Listing,
    dex_of,
    exchange_info,
    hyperliquid_meta,
    okx_instruments,
)
from ingest.simulator.market import Event, Market
from ingest.simulator.protocols import hyperliquid_ack, hyperliquid_backlog
from ingest.simulator.venue_frames import WRITERS
from ingest.venues import Frame

_DELAY_NS = {BINANCE: 5e6, OKX: 8e6, HYPERLIQUID: 20e6}  # medians


def record_span(
    path: Path | str,
    exchange: str,
    *,
    seed: int,
    start_ns: int,
    seconds: float,
    natives: Sequence[str] | None = None,
    intensity: float = 1.0,
    trades: str | None = None,
) -> int:
    """Append `seconds` of a simulated market from `start_ns` to a recording; returns its frames.

    The channels are the ones a collector subscribes: quotes, and one of trades (`trades`, the
    venue's default if None). Appending to an existing file starts a new member in it. Raises
    ValueError for an unknown exchange, instrument or channel, RecordingError if `path` can't be
    written.
    """
    if exchange not in WRITERS:
        raise ValueError(f"unknown exchange {exchange!r}; known: {', '.join(WRITERS)}")
    usual, quotes = WRITERS[exchange].channels[:2]
    channels = (usual if trades is None else trades, quotes)
    market = Market(seed, exchange, natives, start_ns, channels=channels, intensity=intensity)
    feed = market_feed(market, seconds)
    instruments = tuple(instruments_of(market.listings))
    header = RecordingHeader(exchange, str(start_ns), start_ns, instruments)
    rng = np.random.default_rng([seed, 6, crc32(exchange.encode())])
    first = _greeting(exchange, feed.history, sorted(feed.keys), start_ns)
    written, last = len(first), start_ns
    with RecordingFile(path, header) as file:
        file.write(first)
        for events in feed.chunks:
            frames = _arrivals(events, rng, _DELAY_NS[exchange], last)
            file.write(frames)
            written += len(frames)
            last = frames[-1][0] if frames else last
    return written


def instruments_of(listings: Sequence[Listing]) -> list[Instrument]:
    """The listings as the venue's REST answers describe them."""
    exchange = listings[0].exchange
    if exchange == BINANCE:
        found = instruments_from(exchange, exchange_info(listings))
    elif exchange == OKX:
        found = instruments_from(exchange, okx_instruments(listings))
    else:
        dexes = sorted({dex_of(item) for item in listings})
        metas = [hyperliquid_meta(listings, dex) for dex in dexes]
        found = [i for meta in metas for i in instruments_from(exchange, meta)]
    return found


def _arrivals(
    events: Sequence[Event], rng: np.random.Generator, median: float, last: int
) -> list[Frame]:
    if not events:
        return []
    delay = rng.lognormal(np.log(median), 0.4, len(events)).astype(np.int64)
    arrival = np.array([event[0] for event in events]) + delay
    arrival[0] = max(int(arrival[0]), last)
    stamps = np.maximum.accumulate(arrival).tolist()
    return [(ns, event[2]) for ns, event in zip(stamps, events, strict=True)]


def _greeting(
    exchange: str, history: Sequence[Event], keys: Sequence[str], start_ns: int
) -> list[Frame]:
    """Hyperliquid's answers to the subscriptions: an ack each, and a coin's last fills."""
    if exchange != HYPERLIQUID:
        return []
    frames = []
    for key in keys:
        channel, _, native = key.partition(":")
        frames.append(hyperliquid_ack("subscribe", {"type": channel, "coin": native}))
        if fills := [frame for _, of, frame in history if of == key]:
            frames.append(hyperliquid_backlog(fills))
    return [(start_ns, frame) for frame in frames]
