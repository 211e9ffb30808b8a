"""Binance USD-M futures: @trade, @aggTrade and @bookTicker (EXCHANGES §1).

Frames come combined, {"stream": …, "data": {…}}, or raw. Decimals are strings, times ms, ids
integers. A trade's time is T, a bookTicker's is E; a bookTicker without E is the spot market's,
which has no exchange time.

    trade        id = t, count 1; X other than MARKET (insurance fund, ADL, NA fillers): off_book
    aggTrade     id = l, count = l − f + 1
    bookTicker   sequence = u
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from ingest.instruments import BINANCE, Instrument
from ingest.ticks import BUY, LIVE, SELL
from ingest.venues.common import (
    BAD_FRAME,
    FIRST_MS,
    LAST_MS,
    MAX_COUNT,
    MAX_ID,
    Endpoint,
    Frame,
    Notice,
    ParseReport,
    ParserState,
    Route,
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
    loads = orjson.loads
    get = routes.get
    start = row
    quotes = 0
    for frame in frames:
        local_ns, payload = frame
        channel = None
        try:
            data = loads(payload)
            data = data.get("data", data)
            channel = data.get("e")
            if channel == "bookTicker":
                native = data["s"]
                ms, sequence = data["E"], data["u"]
                bid, bid_size, ask, ask_size = data["b"], data["B"], data["a"], data["A"]
                # One test: all are texts (else TypeError), and none is a Python-only "1_0".
                if "_" in bid + bid_size + ask + ask_size:
                    raise ValueError
                bid, bid_size, ask, ask_size = (
                    float(bid),
                    float(bid_size),
                    float(ask),
                    float(ask_size),
                )
                # `|` takes nothing but integers; times 0 is 0 for finite numbers only.
                if (
                    not (FIRST_MS < ms < LAST_MS and 0 <= (ms | sequence) <= MAX_ID)
                    or (bid + bid_size + ask + ask_size) * 0.0 != 0.0
                ):
                    raise ValueError
                route = get(native)
                if route is None:
                    unroutable(native, channel, report, frame)
                    continue
                route.quote(
                    (route.code, ms, local_ns, sequence, bid, bid_size, ask, ask_size, LIVE, row)
                )
                row += 1
                quotes += 1
            elif channel == "trade" or channel == "aggTrade":
                native = data["s"]
                ms = data["T"]
                price, size = data["p"], data["q"]
                if "_" in price + size:
                    raise ValueError
                price, size = float(price), float(size)
                if channel == "trade":
                    trade_id = data["t"]
                    count = 1
                else:
                    trade_id = data["l"]
                    count = trade_id - data["f"] + 1
                maker_buys = data["m"]
                if (
                    not (FIRST_MS < ms < LAST_MS and 0 <= (ms | trade_id | count) <= MAX_ID)
                    or not 0 < count <= MAX_COUNT
                    or (price + size) * 0.0 != 0.0
                    or (maker_buys is not True and maker_buys is not False)
                ):
                    raise ValueError
                side = SELL if maker_buys else BUY
                off_book = 0 if data.get("X", "MARKET") == "MARKET" else 1
                route = get(native)
                if route is None:
                    unroutable(native, channel, report, frame)
                    continue
                route.trade(
                    (
                        route.code,
                        ms,
                        local_ns,
                        trade_id,
                        count,
                        side,
                        price,
                        size,
                        LIVE,
                        off_book,
                        row,
                    )
                )
                row += 1
            else:
                _other(data, report, frame)
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


def _other(data: dict[str, Any], report: ParseReport, frame: Frame) -> None:
    """A frame that is not a trade or quote: an answer, the spot bookTicker, another channel."""
    error = data.get("error", data)
    if "code" in error and "msg" in error:
        report.notices.append(Notice("error", text=f"{error['code']} {error['msg']}"))
    elif "result" in data and "id" in data:
        report.notices.append(Notice("ack", text=str(data["id"])))
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
        Endpoint(path, (_subscribe(channels),), tuple(channels), acks=1)
        for path, streams in by_path.items()
        for channels in _split(streams)
    ]


def _split(streams: list[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(streams), STREAMS_PER_CONNECTION):
        yield streams[start : start + STREAMS_PER_CONNECTION]


def _subscribe(channels: Sequence[tuple[str, str]]) -> bytes:
    params = [f"{native.lower()}@{channel}" for channel, native in channels]
    return orjson.dumps({"method": "SUBSCRIBE", "params": params, "id": 1})


VENUE = Venue(
    name=BINANCE,
    parse=parse,
    endpoints=endpoints,
    trade_channels=TRADE_CHANNELS,
    heartbeat=None,  # the server pings; the websocket library answers
    ws_url="wss://fstream.binance.com",
    rest_url="https://fapi.binance.com",
)
