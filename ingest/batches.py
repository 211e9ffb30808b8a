"""Rows to columns: what a venue's parser appended, as tick batches in base and quote units.

    linear    qty = size × contract_size          notional = price × qty
    inverse   notional = size × contract_size     qty = notional / price (0 where the price is 0)

A quote's amounts likewise; a side without a price above 0 is empty (NaN).
"""

import struct
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ingest.instruments import Instrument, partition_of
from ingest.ticks import F64, LIVE, Quotes, Trades
from ingest.venues.common import QUOTE_ROW, TRADE_ROW, Route, Row

_NS_PER_MS = 1_000_000


def _dtype(fields: str, layout: struct.Struct) -> np.dtype[np.void]:
    kinds = layout.format.lstrip("=")
    pairs = zip(fields.split(), kinds, strict=True)
    return np.dtype([(name, "f8" if kind == "d" else "i8") for name, kind in pairs])


_TRADE = _dtype("code ms local id count side price size origin off_book row", TRADE_ROW)
_QUOTE = _dtype("code ms local sequence bid bid_size ask ask_size row", QUOTE_ROW)


class Universe:
    """The instruments of one exchange that are collected; an instrument's index is its code."""

    def __init__(self, instruments: Sequence[Instrument]) -> None:
        """Raises ValueError for two instruments of one name or of different exchanges."""
        self.instruments = tuple(instruments)
        self.symbols = [i.symbol for i in instruments]
        self.contract_size: F64 = np.array([i.contract_size for i in instruments], np.float64)
        self.inverse: npt.NDArray[np.bool_] = np.array([i.inverse for i in instruments], np.bool_)
        self._sized = bool((self.contract_size != 1.0).any())
        self._any_inverse = bool(self.inverse.any())
        exchanges = {i.exchange for i in instruments}
        if len(exchanges) > 1:
            raise ValueError(f"a universe is of one exchange, not of {sorted(exchanges)}")
        for what, names in (("native", [i.native for i in instruments]), ("symbol", self.symbols)):
            twice = sorted(name for name, n in Counter(names).items() if n > 1)
            if twice:
                raise ValueError(f"instruments with the same {what}: {', '.join(twice)}")

    def changed(self, instruments: Sequence[Instrument]) -> "Universe":
        """With these instruments added, or in the place of those of their name: codes stay."""
        by_native = {i.native: i for i in (*self.instruments, *instruments)}
        return Universe(list(by_native.values()))

    def partitions(self, n: int) -> list[int]:
        """The partition of each code when topics have `n` partitions."""
        return [partition_of(i.exchange, i.symbol, n) for i in self.instruments]

    def routes(self, trades: Sequence[list[Row]], quotes: Sequence[list[Row]]) -> dict[str, Route]:
        """Routes by native id that append to the row lists: one list per partition and kind."""
        if len(trades) != len(quotes):
            raise ValueError(f"{len(trades)} trade lists but {len(quotes)} quote lists")
        where = self.partitions(len(trades))
        return {
            instrument.native: Route(code, trades[where[code]].append, quotes[where[code]].append)
            for code, instrument in enumerate(self.instruments)
        }

    def amounts(self, code: npt.NDArray[np.int32], size: F64, price: F64) -> tuple[F64, F64]:
        """(qty in base units, notional in quote units) of `size` at `price`, all of length n."""
        if self._sized:
            size = size * self.contract_size[code]
        if not self._any_inverse:
            return size, price * size
        inverse = self.inverse[code]
        per_price = np.divide(size, price, out=np.zeros_like(size), where=price != 0)
        qty = np.where(inverse, per_price, size)
        return qty, np.where(inverse, size, price * qty)


def trades_batch(universe: Universe, rows: Sequence[Row]) -> Trades:
    """The trade rows (see `ingest.venues.common`) as columns, in their order."""
    table = np.frombuffer(b"".join(rows), _TRADE)
    code = table["code"].astype(np.int32)
    price = table["price"].copy()
    size = table["size"].copy()
    qty, notional = universe.amounts(code, size, price)
    return Trades(
        symbols=universe.symbols,
        code=code,
        exchange_ts=table["ms"] * _NS_PER_MS,
        local_ts=table["local"].copy(),
        id=table["id"].copy(),
        count=table["count"].astype(np.int32),
        side=table["side"].astype(np.int8),
        price=price,
        qty=qty,
        notional=notional,
        origin=table["origin"].astype(np.int8),
        off_book=table["off_book"].astype(np.int8),
        row=table["row"].copy(),
    )


def quotes_batch(universe: Universe, rows: Sequence[Row]) -> Quotes:
    """The quote rows (see `ingest.venues.common`) as columns, in their order."""
    table = np.frombuffer(b"".join(rows), _QUOTE)
    code = table["code"].astype(np.int32)
    bid, bid_size = _side(table["bid"], table["bid_size"])
    ask, ask_size = _side(table["ask"], table["ask_size"])
    return Quotes(
        symbols=universe.symbols,
        code=code,
        exchange_ts=table["ms"] * _NS_PER_MS,
        local_ts=table["local"].copy(),
        sequence=table["sequence"].copy(),
        bid_price=bid,
        bid_qty=universe.amounts(code, bid_size, bid)[0],
        ask_price=ask,
        ask_qty=universe.amounts(code, ask_size, ask)[0],
        origin=np.full(len(table), LIVE, np.int8),
        row=table["row"].copy(),
    )


def _side(price: F64, size: F64) -> tuple[F64, F64]:
    there = price > 0
    if there.all():
        return price.copy(), size.copy()
    return np.where(there, price, np.nan), np.where(there, size, np.nan)
