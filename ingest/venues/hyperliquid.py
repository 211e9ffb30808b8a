"""Hyperliquid perpetuals: trades and bbo (EXCHANGES §3).

Prices and sizes are strings in base units, times ms of the block, tid an unordered 50-bit hash.

    trades   id = tid, count 1; side B is a taker buy, A a taker sell. The first frame of a coin
             after each (re)subscription replays its last fills: origin BACKLOG
    bbo      [bid, ask]; a side may be null or missing. No sequence
"""

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any, Literal

import orjson

from ingest.instruments import HYPERLIQUID, Instrument
from ingest.ticks import BACKLOG, BUY, LIVE, SELL
from ingest.venues.common import (
    BAD_FRAME,
    FIRST_MS,
    LAST_MS,
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

TRADE_CHANNELS = ("trades",)
_SIDES = {"B": BUY, "A": SELL}
_GREETING = b"Websocket connection established."


def parse(
    frames: Sequence[Frame],
    routes: Mapping[str, Route],
    row: int,
    report: ParseReport,
    state: ParserState | None = None,
) -> int:
    """Append the frames' rows to their routes (by coin); returns the next row number.

    Never raises for what a frame holds: see `ParseReport`. `state` tells live from backlog and is
    updated; without one the frames are taken as a connection's first.
    """
    state = state or ParserState()
    for frame, message in decoded(frames):
        try:
            channel = message["channel"]
            if channel == "bbo":
                row = _bbo(message["data"], routes, frame, row, report)
            elif channel == "trades":
                row = _trades(message["data"], routes, frame, row, report, state)
            else:
                _other(channel, message, routes, report, state)
        except BAD_FRAME:
            if message is not UNREAD:
                report.add_malformed("not a Hyperliquid frame", *frame)
            elif frame[1] == _GREETING:
                report.ignored += 1
            else:
                report.add_malformed("not JSON", *frame)
    report.frames += len(frames)
    return row


def _trades(
    data: list[Any],
    routes: Mapping[str, Route],
    frame: Frame,
    row: int,
    report: ParseReport,
    state: ParserState,
) -> int:
    first = row
    backlog = set()
    for fill in data:
        try:
            coin = fill["coin"]
            route = routes.get(coin)
            if route is None:
                unroutable(coin, "trades", report, frame)
                continue
            origin = LIVE if state.is_live(coin) else BACKLOG
            route.trade(_trade_row(fill, route.code, frame[0], origin, row))
        except BAD_FRAME as error:
            report.add_malformed(reason_of("trades", error), *frame)
        else:
            row += 1
            report.trades += 1
            if origin == BACKLOG:
                backlog.add(coin)
    for coin in backlog:
        state.passed_backlog(coin, first, row)
    return row


def _trade_row(fill: dict[str, Any], code: int, local_ns: int, origin: int, row: int) -> Row:
    price, size = fill["px"], fill["sz"]
    ms, tid, side = fill["time"], fill["tid"], fill["side"]
    # One test: both are texts (else TypeError), and none is a Python-only "1_0".
    if "_" in price + size or side not in _SIDES:
        raise ValueError
    price, size = float(price), float(size)
    # Times 0 is 0 for finite numbers only.
    if not FIRST_MS < ms < LAST_MS or tid < 0 or (price + size) * 0.0 != 0.0:
        raise ValueError
    return TRADE_ROW.pack(code, ms, local_ns, tid, 1, _SIDES[side], price, size, origin, 0, row)


def _bbo(
    data: dict[str, Any], routes: Mapping[str, Route], frame: Frame, row: int, report: ParseReport
) -> int:
    try:
        coin, ms = data["coin"], data["time"]
        bid, bid_size, ask, ask_size = _sides(data["bbo"])
        if not FIRST_MS < ms < LAST_MS:
            raise ValueError
        route = routes.get(coin)
        if route is None:
            unroutable(coin, "bbo", report, frame)
            return row
        quote = route.code, ms, frame[0], 0, bid, bid_size, ask, ask_size, row
        route.quote(QUOTE_ROW.pack(*quote))
    except BAD_FRAME as error:
        report.add_malformed(reason_of("bbo", error), *frame)
        return row
    report.quotes += 1
    return row + 1


def _sides(bbo: list[dict[str, str] | None] | None) -> tuple[float, float, float, float]:
    """(bid price, size, ask price, size), NaN for a side that is null or not there."""
    bid = bbo[0] if bbo else None
    ask = bbo[1] if bbo and len(bbo) > 1 else None
    return *_level(bid), *_level(ask)


def _level(side: dict[str, str] | None) -> tuple[float, float]:
    if side is None:
        return nan, nan
    price, size = side["px"], side["sz"]
    if "_" in price + size:
        raise ValueError
    level = float(price), float(size)
    if (level[0] + level[1]) * 0.0 != 0.0:
        raise ValueError
    return level


def _other(
    channel: str,
    message: dict[str, Any],
    routes: Mapping[str, Route],
    report: ParseReport,
    state: ParserState,
) -> None:
    if channel == "subscriptionResponse":
        data = message["data"]
        what = data["subscription"]
        # Echoed with more fields than were sent: type and coin identify it (§3.1).
        name, coin = words(what["type"]), words(what.get("coin"))
        if data.get("method") != "subscribe":
            report.ignored += 1
            return
        report.notices.append(Notice("ack", name, coin))
        if name == "trades" and coin in routes:
            state.subscribed(coin)
    elif channel == "error":
        report.notices.append(_refusal(words(message.get("data"))))
    elif channel == "pong":
        report.notices.append(Notice("pong"))
    else:
        report.ignored += 1


def _refusal(text: str) -> Notice:
    """An error, which names its subscription in its text alone; one that stands is no error."""
    kind: Literal["ack", "error"] = "ack" if text.startswith("Already subscribed") else "error"
    named = text[text.find("{") :] if "{" in text else "{}"
    try:
        subscription = orjson.loads(named)
        names = words(subscription.get("type")), words(subscription.get("coin"))
    except BAD_FRAME:
        names = "", ""
    return Notice(kind, *names, text=text)


def endpoints(instruments: Sequence[Instrument], trades: str = "trades") -> list[Endpoint]:
    """The one connection of all coins; each (channel, coin) is a message of its own (§3.1)."""
    channel = trade_channel(HYPERLIQUID, trades, TRADE_CHANNELS)
    channels = tuple((name, i.native) for i in instruments for name in ("bbo", channel))
    subscribe = tuple(_requests(channels))
    return [Endpoint("/ws", subscribe, channels, acks=len(channels))] if channels else []


def _requests(
    channels: Sequence[Channel],
    op: Literal["subscribe", "unsubscribe"] = SUBSCRIBE,
    number: int = 1,
) -> list[bytes]:
    return [
        orjson.dumps({"method": op, "subscription": {"type": name, "coin": coin}})
        for name, coin in channels
    ]


VENUE = Venue(
    name=HYPERLIQUID,
    parse=parse,
    endpoints=endpoints,
    trade_channels=TRADE_CHANNELS,
    heartbeat=(30.0, b'{"method":"ping"}'),  # closed after 60 s without a push (§3.2)
    ws_url="wss://api.hyperliquid.xyz",
    rest_url="https://api.hyperliquid.xyz",
    requests=_requests,
)
