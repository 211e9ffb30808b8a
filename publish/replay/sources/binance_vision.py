"""Binance Vision: the venue's daily and monthly zips of USD-M futures.

    {SYMBOL}-{aggTrades|trades|bookTicker}-YYYY-MM[-DD].zip   one CSV, beside it {zip}.CHECKSUM

    aggTrades   agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,
                is_buyer_maker
    trades      id,price,qty,quote_qty,time,is_buyer_maker
    bookTicker  update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,
                event_time

The layouts are those of github.com/binance/binance-public-data (README) and of the files; the
header is there in recent files only. Times are ms; a file's day is the UTC day of the venue's
clock. `is_buyer_maker`: the taker sold. No arrival time. The spot archives have a column more
(isBestMatch) and are refused: the same symbol would be published as a perpetual.

As live (`ingest.venues.binance`): an aggregate's id is its last trade's, its count l − f + 1; a
bookTicker's time is the event time and its sequence the update id. Ids that `trades` lacks are of
prints that are none of the market's (insurance fund, ADL, NA), or lost: both happen
(binance-public-data issues 363, 458), and nothing tells them apart. In `aggTrades` the numbers of
the aggregates do. bookTicker files end with
March 2024, and the last of them are out of order (binance-public-data issues 305, 372): rows are
taken as they come, bars put them in order.
"""

import re
from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from ingest.gaps import SEQUENCE, UNLISTED
from ingest.instruments import BINANCE
from ingest.ticks import BUY, I64, SELL
from publish.replay.sources.base import (
    Layout,
    QuoteRows,
    Rows,
    SourceError,
    TradeRows,
    day_span,
    epoch_ns,
    one_name,
)
from publish.replay.sources.tables import Block, Plainly, Source, header_columns

FORMAT = "binance-vision"
CHECKSUM = ".CHECKSUM"
_NAME = re.compile(
    r"(?P<native>.+)-(?P<type>aggTrades|trades|bookTicker)-(?P<date>\d{4}-\d\d(-\d\d)?)"
    r"\.(zip|csv|csv\.gz)"
)
_AGG = (
    *("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id"),
    *("transact_time", "is_buyer_maker"),
)
_TRADES = ("id", "price", "qty", "quote_qty", "time", "is_buyer_maker")
_BOOK = (
    *("update_id", "best_bid_price", "best_bid_qty", "best_ask_price", "best_ask_qty"),
    *("transaction_time", "event_time"),
)
_COLUMNS = {"aggTrades": _AGG, "trades": _TRADES, "bookTicker": _BOOK}
_UNUSED = {"quote_qty", "transaction_time"}
_SPOT = {"aggTrades": 8, "trades": 7}
_WHOLE = {"agg_trade_id", "first_trade_id", "last_trade_id", "id", "update_id"}
_TYPES: dict[str, pa.DataType] = {
    name: pa.bool_()
    if name == "is_buyer_maker"
    else pa.int64()
    if name in _WHOLE or name.endswith("time")
    else pa.float64()
    for columns in _COLUMNS.values()
    for name in columns
    if name not in _UNUSED
}


def recognise(url: str, lines: Sequence[bytes]) -> Layout | None:
    """Its layout if that is what it is. Raises `SourceError` for an archive that isn't read."""
    line = lines[0]
    name = url.rpartition("/")[2]
    named = _NAME.fullmatch(name)
    if named is None or line.startswith(b"instrument_name"):
        return None
    type_ = named["type"]
    columns = _COLUMNS[type_]
    header = not line[:1].isdigit()
    if header:
        needed = [column for column in columns if column not in _UNUSED]
        columns = header_columns(line, url, needed)
    elif (n := line.count(b",") + 1) != len(columns):
        if n == _SPOT.get(type_):
            raise SourceError(f"{url} is of the spot market, whose symbols are no perpetuals")
        raise SourceError(f"{url}:1: {n} columns, where {type_} has {len(columns)}: {columns}")
    kind = "quotes" if type_ == "bookTicker" else "trades"
    try:
        span = day_span(named["date"])
    except ValueError:
        raise SourceError(f"{url}: {named['date']} is no date") from None
    return Layout(FORMAT, kind, BINANCE, columns, header, named["native"], span)


def _rows(layout: Layout, block: Block, row: I64) -> Rows:
    """A block's rows (n,) with their numbers in the file."""
    n = len(block)
    native = one_name(layout.native or "", n)
    if layout.kind == "quotes":
        stamps = epoch_ns(block["event_time"])
        return QuoteRows(
            native,
            stamps,
            stamps,
            sequence=block["update_id"],
            bid_price=block["best_bid_price"],
            bid_size=block["best_bid_qty"],
            ask_price=block["best_ask_price"],
            ask_size=block["best_ask_qty"],
            row=row,
        )
    side = np.where(block["is_buyer_maker"], SELL, BUY).astype(np.int8)
    if "last_trade_id" in layout.columns:
        id_ = block["last_trade_id"]
        count = id_ - block["first_trade_id"] + 1
        stamps, size = epoch_ns(block["transact_time"]), block["quantity"]
        aggregate = block["agg_trade_id"]
    else:
        id_, count = block["id"], np.ones(n, np.int64)
        stamps, size = epoch_ns(block["time"]), block["qty"]
        aggregate = None
    numbers = block["price"], size, row, aggregate
    return TradeRows(native, stamps, stamps, id_, count, side, *numbers)


def _holes(layout: Layout) -> str:
    """Aggregates are numbered; of single trades only the market prints are in the files."""
    return SEQUENCE if "agg_trade_id" in layout.columns else UNLISTED


SOURCE = Source(
    FORMAT,
    "binance-vision",
    _TYPES,
    lambda layout: Plainly(partial(_rows, layout)),
    recorded=False,
    holes=_holes,
)
