"""OKX perpetual swaps: trades-all, trades and bbo-tbt (EXCHANGES §2).

Numbers are strings, except seqId; sizes are contracts. `side` is the taker's.

    trades-all   every fill: id = tradeId, count 1
    trades       fills of one taker order at one price: id = tradeId, the last; count = count
    bbo-tbt      best bid and ask, [price, contracts, …] each or nothing; sequence = seqId (0: none)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any, Literal

import orjson

from ingest.instruments import OKX, Instrument
from ingest.ticks import BUY, LIVE, SELL
from ingest.venues.common import (
    BAD_FRAME,
    FIRST_MS,
    LAST_MS,
    MAX_COUNT,
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
    Row,
    Venue,
    decoded,
    reason_of,
    trade_channel,
    unroutable,
)
from ingest.words import words

TRADE_CHANNELS = ("trades-all", "trades")
_PATHS = {"bbo-tbt": "/ws/v5/public", "trades": "/ws/v5/public", "trades-all": "/ws/v5/business"}
_SIDES = {"buy": BUY, "sell": SELL}
_CLOSING = "64008"
# An error names its subscription in its text alone (§2.2).
_REFUSED = re.compile(r"channel:([\w-]+),instId:(\S+) doesn't exist")
_MAX_REQUEST_BYTES = 60_000  # the venue's limit for the args of a request is 64 KB (§2.3)
_ARGS_PER_REQUEST = 400


def parse(
    frames: Sequence[Frame],
    routes: Mapping[str, Route],
    row: int,
    report: ParseReport,
    state: ParserState | None = None,
) -> int:
    """Append the frames' rows to their routes (by instId); returns the next row number.

    Never raises for what a frame holds: see `ParseReport`. `state` is not used: a push after
    subscribing is the market's, however old.
    """
    for frame, message in decoded(frames):
        try:
            arg = message.get("arg")
            if arg is None or "event" in message:
                _other(message, report)
                continue
            read = _READ.get(arg["channel"])
            if read is None:
                report.ignored += 1
                continue
            route = routes.get(arg["instId"])
            if route is None:
                unroutable(arg["instId"], arg["channel"], report, frame)
                continue
            row = read(message["data"], route, frame, row, report)
        except BAD_FRAME:
            if message is not UNREAD:
                report.add_malformed("not an OKX frame", *frame)
            elif frame[1] == b"pong":
                report.notices.append(Notice("pong"))
            else:
                report.add_malformed("not JSON", *frame)
    report.frames += len(frames)
    return row


def _trades(data: list[Any], route: Route, frame: Frame, row: int, report: ParseReport) -> int:
    for fill in data:
        try:
            route.trade(_trade_row(fill, route.code, frame[0], row))
        except BAD_FRAME as error:
            report.add_malformed(reason_of("trades", error), *frame)
        else:
            row += 1
            report.trades += 1
    return row


def _trade_row(fill: dict[str, Any], code: int, local_ns: int, row: int) -> Row:
    price, size = fill["px"], fill["sz"]
    ms, trade_id, count = fill["ts"], fill["tradeId"], fill.get("count", "1")
    side = fill["side"]
    # One test: all are texts (else TypeError), and none is a Python-only "1_0".
    if "_" in price + size + ms + trade_id + count or side not in _SIDES:
        raise ValueError
    price, size, ms, trade_id, count = float(price), float(size), int(ms), int(trade_id), int(count)
    if (
        not (FIRST_MS < ms < LAST_MS and trade_id >= 0 and 0 < count <= MAX_COUNT)
        or (price + size) * 0.0 != 0.0
    ):
        raise ValueError
    return TRADE_ROW.pack(
        code, ms, local_ns, trade_id, count, _SIDES[side], price, size, LIVE, 0, row
    )


def _quotes(data: list[Any], route: Route, frame: Frame, row: int, report: ParseReport) -> int:
    for book in data:
        try:
            route.quote(_quote_row(book, route.code, frame[0], row))
        except BAD_FRAME as error:
            report.add_malformed(reason_of("bbo-tbt", error), *frame)
        else:
            row += 1
            report.quotes += 1
    return row


def _quote_row(book: dict[str, Any], code: int, local_ns: int, row: int) -> Row:
    ms, sequence = book["ts"], book.get("seqId", 0)
    if "_" in ms:
        raise ValueError
    ms = int(ms)
    if not FIRST_MS < ms < LAST_MS or sequence < 0:
        raise ValueError
    bid, bid_size = _level(book["bids"])
    ask, ask_size = _level(book["asks"])
    return QUOTE_ROW.pack(code, ms, local_ns, sequence, bid, bid_size, ask, ask_size, row)


def _level(side: list[list[str]]) -> tuple[float, float]:
    if not side:
        return nan, nan
    price, size = side[0][0], side[0][1]
    if "_" in price + size:
        raise ValueError
    level = float(price), float(size)
    if (level[0] + level[1]) * 0.0 != 0.0:
        raise ValueError
    return level


_READ: dict[str, Callable[[list[Any], Route, Frame, int, ParseReport], int]] = {
    "trades": _trades,
    "trades-all": _trades,
    "bbo-tbt": _quotes,
}


def _other(message: dict[str, Any], report: ParseReport) -> None:
    """An event of the connection; a REST body or any other message is ignored."""
    event = message.get("event")
    arg = message.get("arg") or {}
    names = words(arg.get("channel")), words(arg.get("instId"))
    text = f"{words(message.get('code'))} {words(message.get('msg'))}".strip()
    if event == "subscribe":
        report.notices.append(Notice("ack", *names, number=words(message.get("id"))))
    elif event == "error":
        named = _REFUSED.search(text)
        channel, native = named.groups() if named else names
        report.notices.append(Notice("error", channel, native, text))
    elif event == "notice" and message.get("code") == _CLOSING:
        report.notices.append(Notice("closing", text=text))
    else:
        report.ignored += 1


def endpoints(instruments: Sequence[Instrument], trades: str = "trades-all") -> list[Endpoint]:
    """The connections that carry the instruments' bbo-tbt and trades: one per path (§2.1)."""
    channel = trade_channel(OKX, trades, TRADE_CHANNELS)
    by_path: dict[str, list[tuple[str, str]]] = {}
    for instrument in instruments:
        for name in ("bbo-tbt", channel):
            by_path.setdefault(_PATHS[name], []).append((name, instrument.native))
    return [
        Endpoint(path, tuple(_requests(channels)), tuple(channels), acks=len(channels))
        for path, channels in by_path.items()
    ]


def _requests(
    channels: Sequence[Channel],
    op: Literal["subscribe", "unsubscribe"] = SUBSCRIBE,
    number: int = 1,
) -> list[bytes]:
    """Messages of as many args each as fit: requests are limited per hour (§2.3)."""
    requests: list[bytes] = []
    for start in range(0, len(channels), _ARGS_PER_REQUEST):
        part = channels[start : start + _ARGS_PER_REQUEST]
        args = [{"channel": channel, "instId": native} for channel, native in part]
        request = orjson.dumps({"id": str(number + len(requests)), "op": op, "args": args})
        if len(request) > _MAX_REQUEST_BYTES:
            raise ValueError(f"instrument names too long for one request: {part[0][1]!r}, …")
        requests.append(request)
    return requests


VENUE = Venue(
    name=OKX,
    parse=parse,
    endpoints=endpoints,
    trade_channels=TRADE_CHANNELS,
    heartbeat=(20.0, b"ping"),  # dropped after 30 s of silence (§2.3)
    ws_url="wss://ws.okx.com:8443",
    rest_url="https://www.okx.com",
    requests=_requests,
)
