"""Binance USD-M futures: @trade, @aggTrade and @bookTicker (EXCHANGES §1).

Frames come combined, {"stream": …, "data": {…}}, or raw. Decimals are strings, times ms, ids
integers. A trade's time is T, a bookTicker's is E; a bookTicker without E is the spot market's,
which has no exchange time.

    trade        id = t, count 1; X other than MARKET (insurance fund, ADL, NA fillers): off_book
    aggTrade     id = l, count = l − f + 1
    bookTicker   sequence = u
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson

from ingest.instruments import BINANCE, Instrument
from ingest.ticks import BUY, LIVE, SELL
from ingest.venues.common import (
    BAD_FRAME,
    FIRST_MS,
    LAST_MS,
    MAX_COUNT,
    MAX_ID,
    SUBSCRIBE,
    Channel,
    Endpoint,
    Frame,
    Notice,
    ParseReport,
    ParserState,
    Route,
    Row,
    Venue,
    reason_of,
    trade_channel,
    unroutable,
)

TRADE_CHANNELS = ("trade", "aggTrade")
STREAMS_PER_CONNECTION = 200
_CHANNELS = frozenset({*TRADE_CHANNELS, "bookTicker"})
# Where a channel's stream lives; on the other route it is acknowledged and stays silent (§1.1).
_PATHS = {"bookTicker": "/public/stream", "trade": "/public/stream", "aggTrade": "/market/stream"}


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
    aggregates = report.aggregates
    start = row
    quotes = 0
    for frame in frames:
        channel = None
        try:
            data = orjson.loads(frame[1])
            data = data.get("data", data)
            channel = data.get("e")
            if channel not in _CHANNELS:
                _other(data, report, frame)
                continue
            route = routes.get(data["s"])
            if route is None:
                unroutable(data["s"], channel, report, frame)
                continue
            if channel == "bookTicker":
                route.quote(_quote_row(data, route.code, frame[0], row))
                quotes += 1
            else:
                route.trade(_trade_row(data, route.code, frame[0], row))
                if aggregates is not None and channel == "aggTrade":
                    aggregates.append((row, _aggregate_of(data)))
            row += 1
        except orjson.JSONDecodeError:
            report.add_malformed("not JSON", *frame)
        except BAD_FRAME as error:
            known = isinstance(channel, str) and channel in _CHANNELS
            reason = reason_of(str(channel), error) if known else "not a Binance frame"
            report.add_malformed(reason, *frame)
    report.frames += len(frames)
    report.quotes += quotes
    report.trades += row - start - quotes
    return row


def _quote_row(book: dict[str, Any], code: int, local_ns: int, row: int) -> Row:
    ms, sequence = book["E"], book["u"]
    bid, bid_size, ask, ask_size = book["b"], book["B"], book["a"], book["A"]
    # One test: all are texts (else TypeError), and none is a Python-only "1_0".
    if "_" in bid + bid_size + ask + ask_size:
        raise ValueError
    bid, ask = float(bid), float(ask)
    bid_size, ask_size = float(bid_size), float(ask_size)
    # `|` takes nothing but integers; times 0 is 0 for finite numbers only.
    if (
        not (FIRST_MS < ms < LAST_MS and 0 <= (ms | sequence) <= MAX_ID)
        or (bid + bid_size + ask + ask_size) * 0.0 != 0.0
    ):
        raise ValueError
    return code, ms, local_ns, sequence, bid, bid_size, ask, ask_size, LIVE, row


def _trade_row(trade: dict[str, Any], code: int, local_ns: int, row: int) -> Row:
    ms, price, size = trade["T"], trade["p"], trade["q"]
    if "_" in price + size:
        raise ValueError
    price, size = float(price), float(size)
    if trade["e"] == "trade":
        trade_id, count = trade["t"], 1
    else:
        trade_id = trade["l"]
        count = trade_id - trade["f"] + 1
    if (
        not (FIRST_MS < ms < LAST_MS and 0 <= (ms | trade_id | count) <= MAX_ID)
        or not 0 < count <= MAX_COUNT
        or (price + size) * 0.0 != 0.0
        or not isinstance(trade["m"], bool)
    ):
        raise ValueError
    side = SELL if trade["m"] else BUY
    off_book = 0 if trade.get("X", "MARKET") == "MARKET" else 1
    return code, ms, local_ns, trade_id, count, side, price, size, LIVE, off_book, row


def _aggregate_of(trade: dict[str, Any]) -> int:
    """The aggregate's own number, 0 where it has none that counts."""
    number = trade.get("a")
    return number if type(number) is int and 0 < number <= MAX_ID else 0


def _other(data: dict[str, Any], report: ParseReport, frame: Frame) -> None:
    """A frame that is not a trade or quote: an answer, the spot bookTicker, another channel."""
    error = data.get("error", data)
    if "code" in error and "msg" in error:
        text = f"{error['code']} {error['msg']}"
        report.notices.append(Notice("error", text=text, number=str(data.get("id", ""))))
    elif "result" in data and "id" in data:
        report.notices.append(Notice("ack", number=str(data["id"])))
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
