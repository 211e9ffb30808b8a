"""CSV of a public recorder of Hyperliquid (djienne): trades and bbo with arrival stamps.

    YYYYMMDD_trades_{coin}.csv.gz   timestamp,price,size,side,trade_id,exchange_timestamp
    YYYYMMDD_prices_{coin}.csv.gz   timestamp,price,size,side,exchange_timestamp

Real files are in ../shared/data/hyperliquid. `timestamp` is arrival, seconds with a fraction (a
float's digits: µs are exact); `exchange_timestamp` is the block's, ms; `side` of a trade is the
taker's. `prices` has a row for each side (bid, ask) of one bbo message; a message of one side has
one. What was replayed after a reconnect is not marked: its ids tell.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ingest.instruments import HYPERLIQUID
from ingest.ticks import BUY, I64, SELL
from publish.replay.sources.base import (
    NS_PER_US,
    Layout,
    QuoteRows,
    Rows,
    TradeRows,
    coded,
    epoch_ns,
    joined,
    one_name,
    without,
)
from publish.replay.sources.tables import TEXT, Block, Source, header_columns

FORMAT = "hyperliquid-csv"
_NAME = re.compile(r"\d{8}_(?P<kind>trades|prices)_(?P<coin>.+?)\.csv(\.gz)?")
_PRICES = ("timestamp", "price", "size", "side", "exchange_timestamp")
_TRADES = (*_PRICES[:4], "trade_id", "exchange_timestamp")
_TYPES: dict[str, pa.DataType] = {
    "timestamp": pa.float64(),
    "price": pa.float64(),
    "size": pa.float64(),
    "side": TEXT,
    "trade_id": pa.int64(),
    "exchange_timestamp": pa.int64(),
}
_SIDES = {"buy": BUY, "sell": SELL}
_BID, _ASK = 1, 2
_BOOK = {"bid": _BID, "ask": _ASK}
_FAR_S = 1e10


def recognise(url: str, lines: Sequence[bytes]) -> Layout | None:
    """Its layout if that is what it is."""
    named = _NAME.fullmatch(url.rpartition("/")[2])
    if named is None or not lines[0].startswith(b"timestamp,"):
        return None
    trades = named["kind"] == "trades"
    columns = header_columns(lines[0], url, _TRADES if trades else _PRICES)
    kind = "trades" if trades else "quotes"
    return Layout(FORMAT, kind, HYPERLIQUID, columns, native=named["coin"])


class _Reader:
    """Puts the two rows of a bbo message together, also where a block ends between them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._held: QuoteRows | None = None

    def rows(self, block: Block, row: I64) -> Rows:
        native = one_name(self._layout.native or "", len(block))
        seconds = np.where(np.abs(block["timestamp"]) < _FAR_S, block["timestamp"], 0.0)
        local_ts = np.round(seconds * 1e6).astype(np.int64) * NS_PER_US
        stamps = epoch_ns(block["exchange_timestamp"]), local_ts
        price, size = block["price"], block["size"]
        if self._layout.kind == "trades":
            count, side = np.ones(len(block), np.int64), coded(block.texts("side"), _SIDES)
            return TradeRows(native, *stamps, block["trade_id"], count, side, price, size, row)
        side = coded(block.texts("side"), _BOOK)
        # A row of neither side is no quote: its stamp of 0 says so.
        stamps[0][side == 0] = 0
        sides = QuoteRows(
            native,
            *stamps,
            sequence=np.zeros(len(block), np.int64),
            bid_price=np.where(side == _BID, price, np.nan),
            bid_size=np.where(side == _BID, size, np.nan),
            ask_price=np.where(side == _ASK, price, np.nan),
            ask_size=np.where(side == _ASK, size, np.nan),
            row=row,
        )
        return self._paired(sides if self._held is None else joined(self._held, sides))

    def rest(self) -> Rows | None:
        return self._held

    def _paired(self, sides: QuoteRows) -> Rows:
        """One row a message; the last is held back if its other side may be still to come."""
        bid = ~np.isnan(sides.bid_price)
        second = np.append(False, bid[:-1] & ~bid[1:])
        for stamp in (sides.exchange_ts, sides.local_ts):
            second &= np.append(False, stamp[1:] == stamp[:-1])
        first = np.flatnonzero(second) - 1
        sides.ask_price[first], sides.ask_size[first] = (
            of[second] for of in (sides.ask_price, sides.ask_size)
        )
        last = np.zeros(len(bid), np.bool_)
        last[-1] = bool(bid[-1])
        self._held = without(sides, ~last) if bid[-1] else None
        return without(sides, second | last)


SOURCE = Source(FORMAT, "hyperliquid-csv", _TYPES, _Reader)
