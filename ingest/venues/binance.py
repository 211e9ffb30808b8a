"""Binance USD-M futures: @trade, @aggTrade and @bookTicker (EXCHANGES §1).

Frames come combined, {"stream": …, "data": {…}}, or raw. Decimals are strings, times ms, ids
integers. A trade's time is T, a bookTicker's is E; a bookTicker without E is the spot market's,
which has no exchange time.

    trade        id = t, count 1; X other than MARKET (insurance fund, ADL, NA fillers): off_book
    aggTrade     id = l, count = l − f + 1
    bookTicker   sequence = u
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from sys import float_info
from typing import Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta, Struct, field
from msgspec.json import Decoder

from ingest.instruments import BINANCE, Instrument
from ingest.ticks import BUY, LIVE, SELL
from ingest.venues.common import (
    BAD_FRAME,
    FIRST_MS,
    LAST_MS,
    MAX_COUNT,
    MAX_ID,
    QUOTE_ROW,
    SUBSCRIBE,
    TRADE_ROW,
    UNREAD,
    Channel,
    Endpoint,
    Frame,
    Notice,
    ParseReport,
    ParserState,
    Route,
    Venue,
    decoded,
    reason_of,
    trade_channel,
    unroutable,
)
from ingest.words import words

TRADE_CHANNELS = ("trade", "aggTrade")
STREAMS_PER_CONNECTION = 200
_CHANNELS = frozenset({*TRADE_CHANNELS, "bookTicker"})
# Where a channel's stream lives; on the other route it is acknowledged and stays silent (§1.1).
_PATHS = {"bookTicker": "/public/stream", "trade": "/public/stream", "aggTrade": "/market/stream"}

_Ms = Annotated[int, Meta(gt=FIRST_MS, lt=LAST_MS)]
_Id = Annotated[int, Meta(ge=0, le=MAX_ID)]
_Number = Annotated[float, Meta(ge=-float_info.max, le=float_info.max)]  # finite


class _BookTicker(Struct, tag_field="e", tag="bookTicker", gc=False):
    native: str = field(name="s")
    ms: _Ms = field(name="E")
    sequence: _Id = field(name="u")
    bid: _Number = field(name="b")
    bid_size: _Number = field(name="B")
    ask: _Number = field(name="a")
    ask_size: _Number = field(name="A")


class _Trade(Struct, tag_field="e", tag="trade", gc=False):
    native: str = field(name="s")
    ms: _Ms = field(name="T")
    id: _Id = field(name="t")
    price: _Number = field(name="p")
    size: _Number = field(name="q")
    buyer_is_maker: bool = field(name="m")
    kind: Any = field(name="X", default="MARKET")


class _AggTrade(Struct, tag_field="e", tag="aggTrade", gc=False):
    native: str = field(name="s")
    ms: _Ms = field(name="T")
    first: _Id = field(name="f")
    last: _Id = field(name="l")
    price: _Number = field(name="p")
    size: _Number = field(name="q")
    buyer_is_maker: bool = field(name="m")
    number: Any = field(name="a", default=0)


_Tick = _BookTicker | _Trade | _AggTrade


class _Combined(Struct, gc=False):
    data: _Tick


# Not strict: decimals are texts. Straight to structs is three times as fast as through dicts.
_one = Decoder(_Combined, strict=False).decode
_many = Decoder(list[_Combined | int], strict=False).decode
_quote, _trade = QUOTE_ROW.pack, TRADE_ROW.pack
_MISSING = re.compile(r"missing required field `(\w+)`")


def parse(
    frames: Sequence[Frame],
    routes: Mapping[str, Route],
    row: int,
    report: ParseReport,
    state: ParserState | None = None,
) -> int:
    """Append the frames' rows to their routes (by native id); returns the next row number.

    Never raises for what a frame holds: see `ParseReport`. `state` is not used: Binance replays
    nothing on subscribe.
    """
    quotes = trades = 0
    for frame, message in decoded(frames, _many, _one):
        if message is UNREAD:
            row = _other(frame, routes, row, report)
            continue
        tick = message.data
        try:
            route = routes[tick.native]
        except KeyError:
            report.add_unknown(tick.native)
            continue
        # What is most is inline: calls are a third of its time.
        if type(tick) is _BookTicker:
            bid, bid_size, ask, ask_size = tick.bid, tick.bid_size, tick.ask, tick.ask_size
            ms, sequence, code = tick.ms, tick.sequence, route.code
            route.quote(_quote(code, ms, frame[0], sequence, bid, bid_size, ask, ask_size, row))
            quotes += 1
            row += 1
        elif _add_trade(tick, route, frame, row, report):
            trades += 1
            row += 1
    report.quotes += quotes
    report.trades += trades
    report.frames += len(frames)
    return row


def _add_trade(
    tick: _Trade | _AggTrade, route: Route, frame: Frame, row: int, report: ParseReport
) -> bool:
    """Whether its row was added: not that of an aggregate with an impossible count."""
    ms, price, size, code, off_book = tick.ms, tick.price, tick.size, route.code, 0
    if isinstance(tick, _Trade):
        last, count = tick.id, 1
        if tick.kind != "MARKET":
            off_book = 1
    else:
        last, count = tick.last, tick.last - tick.first + 1
        if not 0 < count <= MAX_COUNT:
            report.add_malformed("aggTrade with a bad value", *frame)
            return False
        if report.aggregates is not None:
            report.aggregates.append((row, _number(tick)))
    side = SELL if tick.buyer_is_maker else BUY
    route.trade(_trade(code, ms, frame[0], last, count, side, price, size, LIVE, off_book, row))
    return True


def _number(tick: _AggTrade) -> int:
    """The aggregate's own number, 0 where it has none that counts."""
    number = tick.number
    return number if type(number) is int and 0 < number <= MAX_ID else 0


def _other(frame: Frame, routes: Mapping[str, Route], row: int, report: ParseReport) -> int:
    """A frame that is not a tick in its envelope: a bare one, an answer, another channel, or one
    that can't be read."""
    channel = None
    try:
        message = orjson.loads(frame[1])
        data = message.get("data", message)
        channel = data.get("e")
        if channel not in _CHANNELS:
            _no_tick(data, report, frame)
            return row
        route = routes.get(data["s"])
        if route is None:
            unroutable(data["s"], channel, report, frame)
            return row
        tick = msgspec.convert(data, _Tick, strict=False)
        if isinstance(tick, _BookTicker):
            sides = tick.bid, tick.bid_size, tick.ask, tick.ask_size
            route.quote(_quote(route.code, tick.ms, frame[0], tick.sequence, *sides, row))
            report.quotes += 1
            return row + 1
        if _add_trade(tick, route, frame, row, report):
            report.trades += 1
            return row + 1
    except orjson.JSONDecodeError:
        report.add_malformed("not JSON", *frame)
    except BAD_FRAME as error:
        report.add_malformed(_reason(channel, error), *frame)
    return row


def _reason(channel: object, error: Exception) -> str:
    if not isinstance(channel, str) or channel not in _CHANNELS:
        return "not a Binance frame"
    missing = _MISSING.search(str(error)) if isinstance(error, msgspec.ValidationError) else None
    return f"{channel} without {missing[1]}" if missing else reason_of(channel, error)


def _no_tick(data: dict[str, Any], report: ParseReport, frame: Frame) -> None:
    """An answer, the spot bookTicker, another channel."""
    error = data.get("error", data)
    if "code" in error and "msg" in error:
        text = f"{words(error['code'])} {words(error['msg'])}"
        report.notices.append(Notice("error", text=text, number=words(data.get("id"))))
    elif "result" in data and "id" in data:
        report.notices.append(Notice("ack", number=words(data["id"])))
    elif "e" not in data and {"u", "s", "b", "B", "a", "A"} <= data.keys():
        report.add_malformed("bookTicker without E", *frame)
    else:
        report.ignored += 1


def endpoints(instruments: Sequence[Instrument], trades: str = "trade") -> list[Endpoint]:
    """The connections that carry the instruments' bookTicker and trades: one route each (§1.1)."""
    channel = trade_channel(BINANCE, trades, TRADE_CHANNELS)
    by_path: dict[str, list[tuple[str, str]]] = {}
    for instrument in instruments:
        for name in ("bookTicker", channel):
            by_path.setdefault(_PATHS[name], []).append((name, instrument.native))
    return [
        Endpoint(path, tuple(_requests(channels)), tuple(channels), acks=1)
        for path, streams in by_path.items()
        for channels in _split(streams)
    ]


def _split(streams: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(streams), STREAMS_PER_CONNECTION):
        yield streams[start : start + STREAMS_PER_CONNECTION]


def _requests(
    channels: Sequence[Channel],
    op: Literal["subscribe", "unsubscribe"] = SUBSCRIBE,
    number: int = 1,
) -> list[bytes]:
    params = [f"{native.lower()}@{channel}" for channel, native in channels]
    return [orjson.dumps({"method": op.upper(), "params": params, "id": number})]


VENUE = Venue(
    name=BINANCE,
    parse=parse,
    endpoints=endpoints,
    trade_channels=TRADE_CHANNELS,
    heartbeat=None,  # the server pings; the websocket library answers
    ws_url="wss://fstream.binance.com",
    rest_url="https://fapi.binance.com",
    requests=_requests,
    max_age_s=24 * 3600.0,  # §1.3
)
