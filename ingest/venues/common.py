"""What the venues' parsers share: frames in, rows out, and what to say about the rest.

A parser is a pure function over frames: no socket, no clock, no state of its own. It appends rows,
packed as they are made, to the lists of an instrument's `Route`; `ingest.batches` turns a list of
them into columns.

    TRADE_ROW   code, exchange_ms, local_ns, id, count, side, price, size, origin, off_book, row
    QUOTE_ROW   code, exchange_ms, local_ns, sequence, bid_price, bid_size, ask_price, ask_size, row

Prices and sizes are as the venue sends them: sizes in contracts where it counts contracts. NaN is
the price and size of an empty side.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, Protocol

import orjson

from ingest.instruments import Instrument

Frame = tuple[int, bytes]
"""(arrival in ns since the epoch, the payload of one websocket message)."""

Row = bytes
TRADE_ROW = struct.Struct("=qqqqqqddqqq")
QUOTE_ROW = struct.Struct("=qqqqddddq")
ROW_STAMPS = struct.Struct("=8xqq")
"""exchange_ms and local_ns of a row of either kind."""

FIRST_MS, LAST_MS = 978_307_200_000, 4_102_444_800_000
"""Exchange times (ms) outside 2001…2099 are no times: they are counted as malformed."""

MAX_ID = (1 << 63) - 1
MAX_COUNT = (1 << 31) - 1
_UNKNOWN_KEPT = 1_000
_EXAMPLE_BYTES = 200
_NAME_CHARS = 100
_AT_ONCE = 128
"""Frames that are decoded at once."""

BAD_FRAME = (
    KeyError,
    TypeError,
    ValueError,
    IndexError,
    AttributeError,
    OverflowError,
    struct.error,  # a row's integer that is none, or needs more than 63 bits
)
"""What reading an untrusted payload can raise."""


class Route:
    """Where an instrument's rows go: its code and the appends of its partition's row lists."""

    __slots__ = ("code", "quote", "trade")

    def __init__(
        self, code: int, trade: Callable[[Row], None], quote: Callable[[Row], None]
    ) -> None:
        self.code = code
        self.trade = trade
        self.quote = quote


@dataclass(frozen=True, slots=True)
class Notice:
    """A frame that is about the connection, not the market.

    `channel` and `native` name the subscription where the venue says which, `number` the request
    that is answered where it says that; `text` is the venue's own words: an error's code and
    message.
    """

    kind: Literal["ack", "error", "pong", "closing"]
    channel: str = ""
    native: str = ""
    text: str = ""
    number: str = ""


@dataclass(slots=True)
class ParseReport:
    """What became of the frames: rows by kind, everything else by reason.

    `malformed` counts frames, or rows of a frame whose other rows are good, by reason; `examples`
    keeps the first of each: (local_ns, the first 200 bytes). `unknown` counts rows (Hyperliquid,
    Binance) or frames (OKX) of symbols without a route, for at most 1000 symbols by name and the
    rest as "…". `aggregates`, for who gives a list, gets (row, `a`) of each Binance aggTrade.
    """

    frames: int = 0
    trades: int = 0
    quotes: int = 0
    ignored: int = 0
    malformed: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    aggregates: list[tuple[int, int]] | None = None

    def add_malformed(self, reason: str, local_ns: int, payload: bytes) -> None:
        self.malformed[reason] += 1
        if reason not in self.examples:
            self.examples[reason] = (local_ns, bytes(payload[:_EXAMPLE_BYTES]))

    def add_unknown(self, native: str, n: int = 1) -> None:
        native = native[:_NAME_CHARS]
        known = native in self.unknown or len(self.unknown) < _UNKNOWN_KEPT
        self.unknown[native if known else "…"] += n

    def merge(self, other: "ParseReport") -> None:
        """Add what `other` counted; of examples the earlier (this report's) stays."""
        self.frames += other.frames
        self.trades += other.trades
        self.quotes += other.quotes
        self.ignored += other.ignored
        self.malformed.update(other.malformed)
        for native, n in other.unknown.items():
            self.add_unknown(native, n)
        for reason, example in other.examples.items():
            self.examples.setdefault(reason, example)
        self.notices.extend(other.notices)


class ParserState:
    """Which streams are past their backlog: one per connection (or per recording being read).

    Hyperliquid's first trades frame of a coin after each (re)subscription replays its last fills
    (EXCHANGES §3.1); it is marked BACKLOG. A recording cut into chunks is parsed with a fresh
    state per chunk, and then the chunks are settled in order:

        state = ParserState()
        for chunk_state, trades in chunks:
            for native, first, end in state.settle(chunk_state):
                ...  # that coin's rows with first <= row < end are LIVE after all
    """

    __slots__ = ("_live", "_subscribed", "_tentative")

    def __init__(self) -> None:
        self._live: set[str] = set()
        self._subscribed: set[str] = set()
        self._tentative: dict[str, tuple[int, int]] = {}

    def subscribed(self, native: str) -> None:
        """A subscription was acknowledged: the next trades frame is backlog."""
        self._live.discard(native)
        self._subscribed.add(native)

    def is_live(self, native: str) -> bool:
        return native in self._live

    def passed_backlog(self, native: str, first: int, end: int) -> None:
        """The coin's rows [first, end) were marked BACKLOG; what follows is live."""
        self._live.add(native)
        if native not in self._subscribed:
            # Only the frames before these can tell whether this was the first one.
            self._tentative.setdefault(native, (first, end))

    def settle(self, chunk: "ParserState") -> list[tuple[str, int, int]]:
        """Go on to the chunk's end; returns (native, first row, end row) of what is LIVE there."""
        live = [(n, *rows) for n, rows in chunk._tentative.items() if n in self._live]
        self._live = (self._live - chunk._subscribed) | chunk._live
        return live


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One connection to open: its URL is the venue's websocket base + `path`.

    `subscribe` are the text messages to send after connecting; the venue answers them with `acks`
    acknowledgements. `channels` lists (channel, native) of every stream of the connection.
    """

    path: str
    subscribe: tuple[bytes, ...]
    channels: tuple[tuple[str, str], ...]
    acks: int


Channel = tuple[str, str]
"""A subscription: (channel, native)."""

SUBSCRIBE: Literal["subscribe"] = "subscribe"
UNSUBSCRIBE: Literal["unsubscribe"] = "unsubscribe"


class Requests(Protocol):
    """Makes the messages that subscribe channels or leave them; `number` is the first's id."""

    def __call__(
        self,
        channels: Sequence[Channel],
        op: Literal["subscribe", "unsubscribe"] = ...,
        number: int = ...,
    ) -> list[bytes]: ...


class Parse(Protocol):
    def __call__(
        self,
        frames: Sequence[Frame],
        routes: Mapping[str, Route],
        row: int,
        report: ParseReport,
        state: ParserState | None = None,
    ) -> int: ...


class Endpoints(Protocol):
    def __call__(self, instruments: Sequence[Instrument], trades: str = ...) -> list[Endpoint]: ...


@dataclass(frozen=True, slots=True)
class Venue:
    """One exchange as declarations and two pure functions.

    `trade_channels` are the values the setting `trades` may have, the default first. `heartbeat`
    is (seconds of silence, text message to send), None where the venue pings by itself. A
    connection lives `max_age_s` at most, None: as long as it likes.
    """

    name: str
    parse: Parse
    endpoints: Endpoints
    trade_channels: tuple[str, ...]
    heartbeat: tuple[float, bytes] | None
    ws_url: str
    rest_url: str
    requests: Requests
    max_age_s: float | None = None


UNREAD = object()
"""Stands for a frame that a decoder refuses."""
_BETWEEN = b",0,"  # and not a comma alone, so that halves of frames never pass for whole ones
_REFUSES = (ValueError, RecursionError)

Decode = Callable[[bytes], Any]


def decoded(
    frames: Sequence[Frame], many: Decode = orjson.loads, one: Decode = orjson.loads
) -> Iterator[tuple[Frame, Any]]:
    """Each frame with its value, or `UNREAD`: `many` decodes a JSON array, `one` a frame alone.

    Many are decoded at once, because half of a decoder's time is for being called. An array that
    is refused, or isn't one value a frame, is taken apart again.
    """
    parts = (frames[at : at + _AT_ONCE] for at in range(0, len(frames), _AT_ONCE))
    return chain.from_iterable(zip(part, _values(part, many, one), strict=True) for part in parts)


def _values(frames: Sequence[Frame], many: Decode, one: Decode) -> list[Any]:
    n = len(frames)
    if n > 1:
        joined = _BETWEEN.join([b"[0", *[payload for _, payload in frames], b"0]"])
        with suppress(*_REFUSES):
            values: list[Any] = many(joined)
            if len(values) == 2 * n + 3 and values[1::2] == [0] * (n + 1):
                return values[2:-1:2]
    return [_value(payload, one) for _, payload in frames]


def _value(payload: bytes, one: Decode) -> Any:
    try:
        return one(payload)
    except _REFUSES:
        return UNREAD


def reason_of(channel: str, error: Exception) -> str:
    """Why a row of `channel` could not be read, as one of a bounded set of texts."""
    if isinstance(error, KeyError):
        return f"{channel} without {error.args[0]}"
    if isinstance(error, AttributeError | IndexError):
        return f"{channel} of another shape"
    return f"{channel} with a bad value"


def unroutable(native: object, channel: str, report: ParseReport, frame: Frame) -> None:
    """Count a row whose symbol has no route."""
    if isinstance(native, str):
        report.add_unknown(native)
    else:
        report.add_malformed(f"{channel} with a bad value", *frame)


def trade_channel(exchange: str, trades: str, allowed: Sequence[str]) -> str:
    """The trades channel to subscribe. Raises ValueError naming the allowed ones."""
    if trades not in allowed:
        raise ValueError(f"{exchange} has no trades channel {trades!r}: use one of {allowed}")
    return trades
