"""What a simulated venue serves: a generated market or a recording.

A feed is a finite or endless sequence of events in time order, with what the server must know
about them beforehand: the instruments, the streams, and where its time begins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path

import orjson

from ingest.recording import ReadReport, RecordingError, read_frames
from ingest.simulator.listings import BINANCE, HYPERLIQUID, OKX, Listing, listing_of_recording
from ingest.simulator.market import Event, Market
from ingest.simulator.venue_frames import WRITERS

_CHUNK = 2_000


@dataclass(slots=True)
class Feed:
    """`origin` is the feed's zero of market time (ns, on the clock of its event times); `history`
    the events just before it. `chunks` yields lists of events in time order."""

    exchange: str
    listings: Sequence[Listing]
    keys: frozenset[str]
    origin: int
    chunks: Iterator[list[Event]]
    history: list[Event] = field(default_factory=list)


def market_feed(market: Market, seconds: float | None = None) -> Feed:
    """A generated market from its start, for `seconds` of market time (None: without end)."""
    keys = frozenset(w.key(c) for w in market.writers for c in market.channels)
    chunks = market.events()
    if seconds is not None:
        chunks = until(chunks, market.start_ns + round(seconds * 1e9))
    history = [
        (time, pushed.key, frame)
        for pushed in market.history
        for time, frame in zip(pushed.time.tolist(), pushed.frames, strict=True)
    ]
    return Feed(market.exchange, market.listings, keys, market.start_ns, chunks, history)


def until(chunks: Iterator[list[Event]], end: int) -> Iterator[list[Event]]:
    """The events before `end` (ns)."""
    for events in chunks:
        if events and events[-1][0] >= end:
            yield [event for event in events if event[0] < end]
            return
        yield events


def recording_feed(exchange: str, paths: Sequence[Path | str]) -> Feed:
    """The frames of one venue's recordings, by their local stamps; several files are merged.

    Frames that belong to no stream (acknowledgements, pongs, REST answers) are left out. Held in
    memory. Raises RecordingError naming the file if one is missing, empty or not a recording, or
    if none of the frames is of the exchange's streams.
    """
    if exchange not in WRITERS:
        raise ValueError(f"unknown exchange {exchange!r}; known: {', '.join(WRITERS)}")
    report = ReadReport()
    read = (_read(exchange, path, report) for path in paths)
    events = list(merge(*read, key=lambda event: event[0]))
    if not events:
        names = ", ".join(str(path) for path in paths)
        raise RecordingError(f"no frame of a {exchange} stream in {names}")
    keys = frozenset(key for _, key, _ in events)
    natives = sorted({native_of(exchange, key) for key in keys})
    chunks = (events[i : i + _CHUNK] for i in range(0, len(events), _CHUNK))
    named = {i.native: i for _, header in report.headers for i in header.instruments}
    listings = [listing_of_recording(exchange, native, named.get(native)) for native in natives]
    return Feed(exchange, listings, keys, events[0][0], chunks)


def _read(exchange: str, path: Path | str, report: ReadReport) -> list[Event]:
    events: list[Event] = []
    last = 0
    for _, local_ns, payload in read_frames(path, report):
        key = stream_key(exchange, payload)
        if key is not None:
            last = max(last, local_ns)
            events.append((last, key, payload))
    return events


def stream_key(exchange: str, frame: bytes) -> str | None:
    """The stream a frame belongs to, None for a frame that is not of a stream."""
    if exchange == BINANCE and frame.startswith(b'{"stream":"'):
        return frame[11 : frame.index(b'"', 11)].decode()
    try:
        message = orjson.loads(frame)
        if exchange == BINANCE:
            return str(message["stream"])
        if exchange == OKX:
            arg = message["arg"] if "data" in message else {}
            return f"{arg['channel']}:{arg['instId']}"
        if exchange == HYPERLIQUID and message["channel"] in ("subscriptionResponse", "error"):
            return None
        data = message["data"]
        return f"{message['channel']}:{(data[0] if isinstance(data, list) else data)['coin']}"
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError, ValueError):
        return None


def native_of(exchange: str, key: str) -> str:
    """The instrument's own name in a stream key."""
    if exchange == BINANCE:
        return key.partition("@")[0].upper()
    return key.partition(":")[2]
