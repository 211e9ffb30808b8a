"""The simulated venue's own book of trades: what its REST history lists, and what tests compare.

Every trade the market has made is in it from the first to the last, whatever faults its streams
suffered: some 50 bytes each, in columns. Pure.
"""

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from ingest.simulator.listings import BINANCE, HYPERLIQUID, OKX, decimal
from ingest.simulator.market import Event
from ingest.ticks import F64, I8, I64

RECENT_FILLS = 50
_PARSED_AT_ONCE = 512
_BUY, _MARKET = 1, 2  # bits of a trade's flags

Answer = tuple[int, bytes]
Row = tuple[int, int, int, int, float, float, int]


@dataclass(frozen=True, slots=True)
class Trades:
    """The trades of one stream in the order in which they were made; arrays of equal length.

    `id` is the last id of a row, `first` the first: they differ for an aggregate, whose own number
    is `number` (else 0). `ms` is the venue's time, `size` in the venue's unit (contracts on OKX).
    """

    id: I64
    first: I64
    number: I64
    ms: I64
    price: F64
    size: F64
    flags: I8

    @property
    def buy(self) -> Any:
        """Whether the taker bought, as booleans."""
        return (self.flags & _BUY) > 0

    @property
    def market(self) -> Any:
        """Whether it is a trade of the market, not a filler or the insurance fund's."""
        return (self.flags & _MARKET) > 0

    def __len__(self) -> int:
        return len(self.id)


class _Book:
    """One stream: the columns of `Trades`, and frames that wait to be read into them."""

    def __init__(self, read: Callable[[dict[str, Any]], Iterable[Row]]) -> None:
        self._read = read
        self._waiting: list[bytes] = []
        self._columns = tuple(array(kind) for kind in "qqqqddb")
        self.last: deque[bytes] = deque(maxlen=RECENT_FILLS)

    def add(self, frame: bytes) -> None:
        self._waiting.append(frame)
        self.last.append(frame)
        if len(self._waiting) >= _PARSED_AT_ONCE:
            self._take()

    def _take(self) -> None:
        frames, self._waiting = self._waiting, []
        rows = [
            row
            for message in orjson.loads(b"[%b]" % b",".join(frames))
            for row in self._read(message["data"])
        ]
        for column, values in zip(self._columns, zip(*rows, strict=True), strict=False):
            column.extend(values)

    @property
    def columns(self) -> tuple["array[Any]", ...]:
        """id, first, number, ms, price, size, flags."""
        if self._waiting:
            self._take()
        return self._columns

    def rows(self, start: int, end: int) -> list[Row]:
        return list(zip(*(column[start:end] for column in self.columns), strict=True))

    def from_id(self, first: int) -> int:
        """The place of the first row whose id is not below `first`, where ids rise."""
        return bisect_left(self.columns[0], first)


class Ledger:
    """The trades of one venue; `add` takes each event of its feed as it happens."""

    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self._channels = frozenset(_READ[exchange])
        self._books: dict[str, _Book] = {}

    def add(self, event: Event) -> None:
        _, key, frame = event
        book = self._books.get(key)
        if book is None:
            binance = self._exchange == BINANCE
            channel = key.rpartition("@")[2] if binance else key.partition(":")[0]
            if channel not in self._channels:
                return
            book = self._books[key] = _Book(_READ[self._exchange][channel])
        book.add(frame)

    def trades(self, key: str) -> Trades:
        """All trades of a stream, oldest first."""
        return Trades(*(np.array(column) for column in self._book(key).columns))

    def streams(self) -> set[str]:
        """The streams that trades were pushed on."""
        return set(self._books)

    def _book(self, key: str) -> _Book:
        return self._books.get(key) or _Book(lambda data: ())

    def answer(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """The answer to a request for history; None if the venue has no such path."""
        lists: dict[tuple[str, str], Callable[[Mapping[str, str]], object]] = {
            (BINANCE, "/fapi/v1/historicalTrades"): self._historical_trades,
            (BINANCE, "/fapi/v1/trades"): self._historical_trades,
            (BINANCE, "/fapi/v1/aggTrades"): self._aggregates,
            (OKX, "/api/v5/market/history-trades"): self._history_trades,
            (HYPERLIQUID, "/info"): self._recent,
        }
        found = lists.get((self._exchange, path))
        if found is None:
            return None
        try:
            return 200, orjson.dumps(found(query))
        except (KeyError, ValueError) as error:
            return 400, orjson.dumps({"code": -1102, "msg": f"Mandatory parameter: {error}"})

    def _historical_trades(self, query: Mapping[str, str]) -> object:
        book = self._book(f"{query['symbol'].lower()}@trade")
        limit = min(int(query.get("limit", "100")), 500)
        flags = book.columns[-1]
        if "fromId" in query:
            start = end = book.from_id(int(query["fromId"]))
            found = 0
            while end < len(flags) and found < limit:
                found += flags[end] & _MARKET > 0
                end += 1
        else:
            start = end = len(flags)
            found = 0
            while start and found < limit:
                start -= 1
                found += flags[start] & _MARKET > 0
        return [
            {
                "id": last,
                "price": decimal(price),
                "qty": decimal(size),
                "quoteQty": f"{price * size:.2f}",
                "time": ms,
                "isBuyerMaker": not flag & _BUY,
                "isRPITrade": False,
            }
            for last, _, _, ms, price, size, flag in book.rows(start, end)
            if flag & _MARKET
        ]

    def _aggregates(self, query: Mapping[str, str]) -> object:
        book = self._book(f"{query['symbol'].lower()}@aggTrade")
        limit = min(int(query.get("limit", "500")), 1_000)
        _, _, numbers, times, *_ = book.columns
        start, end = 0, len(numbers)
        if "fromId" in query:
            start = bisect_left(numbers, int(query["fromId"]))
        if "startTime" in query:
            first, last = int(query["startTime"]), int(query.get("endTime", 1 << 60))
            inside = [i for i in range(start, end) if first <= times[i] <= last][:limit]
        elif "fromId" in query:
            inside = list(range(start, min(start + limit, end)))
        else:
            inside = list(range(max(end - limit, 0), end))
        return [_aggregate(row) for i in inside for row in book.rows(i, i + 1)]

    def _history_trades(self, query: Mapping[str, str]) -> object:
        if query.get("type", "1") != "1":
            return {"code": "51000", "data": [], "msg": "Parameter type error"}
        native = query["instId"]
        book = self._book(f"trades-all:{native}")
        limit = min(int(query.get("limit", "100")), 100)
        low = book.from_id(int(query.get("before", "-1")) + 1)
        high = book.from_id(int(query.get("after", 1 << 62)))
        data = [
            {
                "instId": native,
                "tradeId": str(last),
                "px": decimal(price),
                "sz": decimal(size),
                "side": "buy" if flag & _BUY else "sell",
                "source": "0",
                "ts": str(ms),
            }
            for last, _, _, ms, price, size, flag in book.rows(max(low, high - limit), high)
        ]
        return {"code": "0", "data": data[::-1], "msg": ""}

    def _recent(self, query: Mapping[str, str]) -> object:
        frames = self._book(f"trades:{query['coin']}").last
        rows = [row for frame in frames for row in orjson.loads(frame)["data"]]
        return rows[: -RECENT_FILLS - 1 : -1]


def _aggregate(row: Row) -> dict[str, object]:
    last, first, number, ms, price, size, flag = row
    head: dict[str, object] = {"a": number, "p": decimal(price), "q": decimal(size)}
    return head | {"nq": decimal(size), "f": first, "l": last, "T": ms, "m": not flag & _BUY}


def _binance_trade(t: dict[str, Any]) -> Iterable[Row]:
    flags = (0 if t["m"] else _BUY) | (_MARKET if t["X"] == "MARKET" else 0)
    return ((t["t"], t["t"], 0, t["T"], float(t["p"]), float(t["q"]), flags),)


def _binance_aggregate(t: dict[str, Any]) -> Iterable[Row]:
    flags = _MARKET | (0 if t["m"] else _BUY)
    return ((t["l"], t["f"], t["a"], t["T"], float(t["p"]), float(t["q"]), flags),)


def _okx(fills: Any) -> Iterable[Row]:
    for t in fills:
        trade_id, flags = int(t["tradeId"]), _MARKET | (_BUY if t["side"] == "buy" else 0)
        yield trade_id, trade_id, 0, int(t["ts"]), float(t["px"]), float(t["sz"]), flags


def _hyperliquid(fills: Any) -> Iterable[Row]:
    for t in fills:
        flags = _MARKET | (_BUY if t["side"] == "B" else 0)
        yield t["tid"], t["tid"], 0, t["time"], float(t["px"]), float(t["sz"]), flags


_READ: dict[str, dict[str, Callable[[Any], Iterable[Row]]]] = {
    BINANCE: {"trade": _binance_trade, "aggTrade": _binance_aggregate},
    OKX: {"trades-all": _okx},
    HYPERLIQUID: {"trades": _hyperliquid},
}
