"""OKX's own archives of trades: daily and monthly zips of one CSV.

    {instId}-trades-YYYY-MM[-DD].zip
    instrument_name,trade_id,side,price,size,created_time[,source]

From static.okx.com/cdn/okex/traderecords/trades/{daily|monthly}/…; real files are in
../shared/data/okx. Every fill (trades-all): ids step by one, `side` is the taker's, size counts
contracts, created_time is ms. `source` (0 normal, 1 ELP) came later and is not used. The file of a
day is the day of UTC+8: 16:00Z of the day before to 16:00Z. No arrival time.

A contract's size is in no name: it comes from a list of instruments, or the file is refused.
"""

import re
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pyarrow as pa

from ingest.gaps import SEQUENCE
from ingest.instruments import OKX
from ingest.ticks import BUY, I64, SELL
from publish.replay.sources.base import (
    Layout,
    Rows,
    SourceError,
    TradeRows,
    coded,
    day_span,
    epoch_ns,
)
from publish.replay.sources.tables import TEXT, Block, Plainly, Source, header_columns

FORMAT = "okx-archive"
_COLUMNS = ("instrument_name", "trade_id", "side", "price", "size", "created_time")
_TYPES: dict[str, pa.DataType] = {
    "instrument_name": TEXT,
    "trade_id": pa.int64(),
    "side": TEXT,
    "price": pa.float64(),
    "size": pa.float64(),
    "created_time": pa.int64(),
}
_NAME = re.compile(r"(?P<native>.+)-(?P<type>\w+)-(?P<date>\d{4}-\d\d(-\d\d)?)\.(zip|csv|csv\.gz)")
_EAST = timedelta(hours=8)
_SIDES = {"buy": BUY, "sell": SELL}


def recognise(url: str, lines: Sequence[bytes]) -> Layout | None:
    """Its layout if that is what it is. Raises `SourceError` for an archive that isn't read."""
    if not lines[0].startswith(b"instrument_name,"):
        return None
    named = _NAME.fullmatch(url.rpartition("/")[2])
    if named is not None and named["type"] != "trades":
        raise SourceError(f"{url}: of OKX' archives the trades are read, not the {named['type']}")
    columns = header_columns(lines[0], url, _COLUMNS)
    try:
        span = day_span(named["date"], _EAST) if named else None
    except ValueError:
        raise SourceError(f"{url}: {named and named['date']} is no date") from None
    return Layout(FORMAT, "trades", OKX, columns, span=span)


def _rows(block: Block, row: I64) -> Rows:
    stamps = epoch_ns(block["created_time"])
    count, side = np.ones(len(block), np.int64), coded(block.texts("side"), _SIDES)
    figures = block["price"], block["size"], row
    return TradeRows(
        block.texts("instrument_name"), stamps, stamps, block["trade_id"], count, side, *figures
    )


SOURCE = Source(
    FORMAT,
    "okx-archive",
    _TYPES,
    lambda layout: Plainly(_rows),
    recorded=False,
    holes=lambda layout: SEQUENCE,
)
