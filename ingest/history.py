"""Trades a venue still lists over REST: what to ask for a gap, and what the answer holds. Pure.

A walk asks page after page until the gap is covered:

    while (request := walk.next()) is not None:
        prints = walk.take(<the decoded body>)

    Binance      /fapi/v1/historicalTrades by fromId: ≤ 500 market trades, weight 20, one month
                 /fapi/v1/aggTrades by fromId: ≤ 1000 aggregates, weight 20, 24 h  (EXCHANGES §1.4);
                 by time, ≤ 1 h, where historicalTrades is refused: it may want an API key (§7)
    OKX          /api/v5/market/history-trades after an id: ≤ 100 fills, newest first; the time
                 paging loses fills of one ms at page ends  (§2.4)
    Hyperliquid  POST /info recentTrades: a short list without a range  (§3.3)

Of an instrument's last trade Binance's /fapi/v1/trades tells for a weight of 5 (§1.4).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ingest.gaps import FILLS, IDS, Gap
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.ticks import BUY, SELL
from ingest.venues.common import BAD_FRAME, FIRST_MS, LAST_MS, MAX_COUNT, MAX_ID
from ingest.words import shown, words

_MS = 1_000_000
_OKX_SIDES = {"buy": BUY, "sell": SELL}
_HYPERLIQUID_SIDES = {"B": BUY, "A": SELL}
_BINANCE_TRADES, _BINANCE_AGGREGATES, _OKX_TRADES = 500, 1_000, 100
_BEFORE_MS, _HOUR_MS = 5_000, 3_600_000

MAX_MISSING = 500_000
"""Longer gaps are for the venues' daily archives: over REST they would take all of the budget for
a quarter of an hour and more."""
TOO_MANY = f"more than {MAX_MISSING} trades"
NOT_LISTED = "the venue lists no market trade under these ids"
ENDS_EARLY = "the venue's list ends inside the gap"
SPLIT = "at an end of the gap only a part of an aggregate is missing"
TOO_SHORT = "the venue's list of recent trades is too short"


class BadAnswer(ValueError):
    """A body that is not what the venue documents."""


@dataclass(frozen=True, slots=True)
class Print:
    """A trade as the venue lists it: `id` the last of `count` ids, sizes in the venue's unit."""

    id: int
    count: int
    exchange_ms: int
    side: int
    price: float
    size: float


@dataclass(frozen=True, slots=True)
class Request:
    """`weight` is in the venue's own unit of its rate limit."""

    method: str
    path: str
    params: Mapping[str, str]
    body: Mapping[str, str] | None
    weight: int


class Walk(Protocol):
    """One gap of one instrument being asked for, page by page."""

    @property
    def behind(self) -> bool:
        """Whether the list ended before ids that the stream has passed already: ask again."""
        ...

    def next(self) -> Request | None:
        """What to ask now; None when the gap is covered or no more can be had."""
        ...

    def take(self, body: object) -> list[Print]:
        """The trades of the gap in an answer, in the venue's order. Raises `BadAnswer`."""
        ...

    def why(self) -> str:
        """Why trades are still missing; "" when none are."""
        ...


def walk(exchange: str, native: str, gap: Gap, *, trades: bool = True) -> Walk:
    """How to fill the gap from that venue's history; not by Binance's single `trades` if those
    are refused."""
    if exchange == HYPERLIQUID:
        return _Recent(native, gap)
    if gap.kind == FILLS and gap.first_missing is not None:
        return _ToTheLast(exchange, native, gap, trades)
    if exchange == OKX:
        return _OkxTrades(native, gap)
    assert exchange == BINANCE
    if gap.aggregates:
        return _BinanceAggregates(native, gap)
    return _BinanceTrades(native, gap) if trades else _BinanceByTime(native, gap)


def newest_request(exchange: str, native: str) -> Request:
    """What to ask for an instrument's last trade."""
    if exchange == HYPERLIQUID:
        return Request("POST", "/info", {}, {"type": "recentTrades", "coin": native}, 21)
    if exchange == OKX:
        params = {"instId": native, "limit": "1"}
        return Request("GET", "/api/v5/market/history-trades", params, None, 1)
    assert exchange == BINANCE
    return Request("GET", "/fapi/v1/trades", {"symbol": native, "limit": "1"}, None, 5)


def newest_print(exchange: str, body: object) -> Print | None:
    """The last trade in the answer, None if it has none. Raises `BadAnswer`."""
    if exchange == OKX:
        rows, read = _okx_rows(body), _okx_trade
    else:
        rows = _rows(body)
        read = _hyperliquid_trade if exchange == HYPERLIQUID else _binance_trade
    try:
        return max(map(read, rows), key=lambda p: p.exchange_ms, default=None)
    except BAD_FRAME as error:
        raise BadAnswer(f"last trade with {shown(error)}") from error


def _ends(gap: Gap) -> tuple[int, int]:
    assert gap.first_missing is not None
    assert gap.last_missing is not None
    return gap.first_missing, gap.last_missing


class _ToTheLast:
    """Of a delisted instrument: the venue's last trade says where the gap ends, if there is one."""

    def __init__(self, exchange: str, native: str, gap: Gap, trades: bool) -> None:
        self._exchange, self._native, self._gap, self._trades = exchange, native, gap, trades
        self._why = "not asked"
        self._inner: Walk | None = None

    @property
    def behind(self) -> bool:
        return self._inner is not None and self._inner.behind

    def next(self) -> Request | None:
        if self._inner is not None:
            return self._inner.next()
        return newest_request(self._exchange, self._native) if self._why == "not asked" else None

    def take(self, body: object) -> list[Print]:
        if self._inner is not None:
            return self._inner.take(body)
        newest = newest_print(self._exchange, body)
        assert self._gap.first_missing is not None
        missing = newest.id - self._gap.first_missing + 1 if newest else 0
        self._why = ENDS_EARLY if newest is None else TOO_MANY if missing > MAX_MISSING else ""
        if newest is not None and 0 < missing <= MAX_MISSING:
            ids = replace(self._gap, kind=IDS, last_missing=newest.id)
            self._inner = walk(self._exchange, self._native, ids, trades=self._trades)
        return []

    def why(self) -> str:
        return self._why if self._inner is None else self._inner.why()


class _BinanceTrades:
    """By id, upwards. Only market trades are listed: ids that are passed over are no trades."""

    def __init__(self, native: str, gap: Gap) -> None:
        self._native = native
        self._at, self._last = _ends(gap)
        self._found = 0
        self.behind = False

    def next(self) -> Request | None:
        if self._at > self._last:
            return None
        # One more than is missing: the trade behind the gap shows that the list has passed it.
        self._limit = min(self._last - self._at + 2, _BINANCE_TRADES)
        params = {"symbol": self._native, "fromId": str(self._at), "limit": str(self._limit)}
        return Request("GET", "/fapi/v1/historicalTrades", params, None, 20)

    def take(self, body: object) -> list[Print]:
        rows = _rows(body)
        try:
            prints = [_binance_trade(row) for row in rows]
        except BAD_FRAME as error:
            raise BadAnswer(f"historicalTrades with {shown(error)}") from error
        high = max((p.id for p in prints), default=self._at - 1)
        found = [p for p in prints if self._at <= p.id <= self._last]
        self.behind = high < self._last and len(prints) < self._limit
        self._at = max(self._at, high + 1)
        self._found += len(found)
        return found

    def why(self) -> str:
        if self._at <= self._last:
            return ENDS_EARLY
        return "" if self._found else NOT_LISTED


class _BinanceAggregates:
    """By the aggregates' own number, upwards."""

    def __init__(self, native: str, gap: Gap) -> None:
        assert gap.aggregates is not None
        self._native = native
        self._at, self._last = gap.aggregates
        self.behind = False

    def next(self) -> Request | None:
        if self._at > self._last:
            return None
        limit = min(self._last - self._at + 1, _BINANCE_AGGREGATES)
        params = {"symbol": self._native, "fromId": str(self._at), "limit": str(limit)}
        return Request("GET", "/fapi/v1/aggTrades", params, None, 20)

    def take(self, body: object) -> list[Print]:
        rows = _rows(body)
        try:
            numbered = [(int(row["a"]), _binance_aggregate(row)) for row in rows]
        except BAD_FRAME as error:
            raise BadAnswer(f"aggTrades with {shown(error)}") from error
        found = [(a, p) for a, p in numbered if self._at <= a <= self._last]
        self.behind = not found
        self._at = max((a + 1 for a, _ in found), default=self._at)
        return [p for _, p in found]

    def why(self) -> str:
        return ENDS_EARLY if self._at <= self._last else ""


class _BinanceByTime:
    """Aggregates around the time of the gap: those inside it are taken, whole."""

    def __init__(self, native: str, gap: Gap) -> None:
        self._native = native
        self._first, self._last = _ends(gap)
        # Exchange stamps may step back, and an aggregate has the time of its first fill.
        self._since = gap.exchange_ts // _MS - _BEFORE_MS
        self._until = gap.exchange_to // _MS + _BEFORE_MS
        self._from: int | None = None
        self._reached_back = self._passed = self._split = False
        self.behind = False

    def next(self) -> Request | None:
        if self._passed or (self._from is None and self._since > self._until):
            return None
        params = {"symbol": self._native, "limit": str(_BINANCE_AGGREGATES)}
        if self._from is None:
            until = min(self._since + _HOUR_MS - 1, self._until)
            params |= {"startTime": str(self._since), "endTime": str(until)}
        else:
            params |= {"fromId": str(self._from)}
        return Request("GET", "/fapi/v1/aggTrades", params, None, 20)

    def take(self, body: object) -> list[Print]:
        rows = _rows(body)
        try:
            numbered = [(int(row["a"]), _binance_aggregate(row)) for row in rows]
        except BAD_FRAME as error:
            raise BadAnswer(f"aggTrades with {shown(error)}") from error
        prints = [p for _, p in numbered]
        self.behind = not prints and self._from is not None
        self._reached_back |= any(p.id < self._first for p in prints)
        self._passed |= any(p.id >= self._last for p in prints)
        inside = [p for p in prints if self._first <= p.id - p.count + 1 and p.id <= self._last]
        touching = [p for p in prints if p.id >= self._first and p.id - p.count < self._last]
        self._split |= len(touching) > len(inside)
        if numbered:
            self._from = max(a for a, _ in numbered) + 1
        elif self._from is None:
            self._since += _HOUR_MS
        return inside

    def why(self) -> str:
        if self._split:
            return SPLIT
        return "" if self._passed and self._reached_back else ENDS_EARLY


class _OkxTrades:
    """By id, downwards: `after` an id are the older ones."""

    def __init__(self, native: str, gap: Gap) -> None:
        self._native = native
        self._first, self._at = _ends(gap)
        self._ended = False
        self._skipped = False
        self.behind = False

    def next(self) -> Request | None:
        if self._at < self._first or self._ended:
            return None
        params = {
            "instId": self._native,
            "type": "1",
            "after": str(self._at + 1),
            "limit": str(min(self._at - self._first + 1, _OKX_TRADES)),
        }
        return Request("GET", "/api/v5/market/history-trades", params, None, 1)

    def take(self, body: object) -> list[Print]:
        rows = _okx_rows(body)
        try:
            prints = [_okx_trade(row) for row in rows]
        except BAD_FRAME as error:
            raise BadAnswer(f"history-trades with {shown(error)}") from error
        found = [p for p in prints if self._first <= p.id <= self._at]
        self.behind = max((p.id for p in found), default=-1) < self._at
        if self.behind:
            return []
        low = min(p.id for p in found)
        self._skipped |= len(found) < self._at - low + 1
        self._at = low - 1
        return found

    def why(self) -> str:
        return ENDS_EARLY if self._at >= self._first or self._skipped else ""


class _Recent:
    """One list: whether it reaches back to before the last good tick says if it covers the gap."""

    def __init__(self, native: str, gap: Gap) -> None:
        self._native = native
        self._from, self._to = gap.exchange_ts // _MS, gap.exchange_to // _MS
        self._asked = False
        self._reaches = False
        self.behind = False

    def next(self) -> Request | None:
        if self._asked:
            return None
        body = {"type": "recentTrades", "coin": self._native}
        return Request("POST", "/info", {}, body, 21)  # 20 and one for every 20 listed

    def take(self, body: object) -> list[Print]:
        rows = _rows(body)
        try:
            prints = [_hyperliquid_trade(row) for row in rows]
        except BAD_FRAME as error:
            raise BadAnswer(f"recentTrades with {shown(error)}") from error
        self._asked = True
        self._reaches = any(p.exchange_ms < self._from for p in prints)
        return [p for p in prints if self._from <= p.exchange_ms <= self._to]

    def why(self) -> str:
        return "" if self._reaches else TOO_SHORT


def _rows(body: object) -> list[Any]:
    if not isinstance(body, list):
        raise BadAnswer(f"not a list of trades: {shown(body)}")
    return body


def _okx_rows(body: object) -> list[Any]:
    if not isinstance(body, dict) or words(body.get("code")) != "0":
        raise BadAnswer(f"history-trades answered {shown(body)}")
    return _rows(body.get("data"))


def _binance_trade(row: Mapping[str, Any]) -> Print:
    side = SELL if row["isBuyerMaker"] is True else BUY
    return _print(row["id"], 1, row["time"], side, row["price"], row["qty"])


def _binance_aggregate(row: Mapping[str, Any]) -> Print:
    side = SELL if row["m"] is True else BUY
    return _print(row["l"], row["l"] - row["f"] + 1, row["T"], side, row["p"], row["q"])


def _okx_trade(row: Mapping[str, Any]) -> Print:
    side = _OKX_SIDES[row["side"]]
    return _print(int(row["tradeId"]), 1, int(row["ts"]), side, row["px"], row["sz"])


def _hyperliquid_trade(row: Mapping[str, Any]) -> Print:
    side = _HYPERLIQUID_SIDES[row["side"]]
    return _print(row["tid"], 1, row["time"], side, row["px"], row["sz"])


def _print(trade_id: int, count: int, ms: int, side: int, price: str, size: str) -> Print:
    found = Print(trade_id, count, ms, side, float(price), float(size))
    if (
        not (FIRST_MS < ms < LAST_MS and 0 <= (trade_id | ms) <= MAX_ID and 0 < count <= MAX_COUNT)
        or (found.price + found.size) * 0.0 != 0.0
    ):
        raise ValueError(f"bad value in trade {trade_id}")
    return found
