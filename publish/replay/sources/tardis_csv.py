"""Tardis CSV: datasets.tardis.dev's daily files, gzip, of three kinds.

    {exchange}/{kind}/YYYY/MM/DD/{SYMBOL}.csv.gz, or as its client names them:
    {exchange}_{kind}_YYYY-MM-DD_{SYMBOL}.csv.gz

    trades           exchange,symbol,timestamp,local_timestamp,id,side,price,amount
    quotes           exchange,symbol,timestamp,local_timestamp,ask_amount,ask_price,bid_price,
    (book_ticker)    bid_amount
    book_snapshot_5  exchange,symbol,timestamp,local_timestamp,asks[0].price,asks[0].amount,
    (_25)            bids[0].price,bids[0].amount,asks[1].price,…

Source: docs.tardis.dev/downloadable-csv-files/data-types. Stamps are µs UTC; rows are ordered, and
files cut, by local_timestamp; an empty cell is no value; `timestamp` is local_timestamp where the
venue gave none. `side` is the taker's, "unknown" where it isn't known: such a trade is left out.
Amounts are the venue's: contracts on OKX. Trades of the insurance fund and the like are not in
them (tardis-node's mappers), nor Hyperliquid's backlog.

Of a book snapshot the best level counts, and a row only if that changed: Tardis writes one for a
change in any level.

Quotes have no update number here. Without one a bar would take a quote that comes back within a
millisecond (a, b, a) for a copy, so they are numbered by their arrival.

Lost connections are not marked. Ids of trades that are missing are of prints off the book or lost
(Binance), lost (OKX); Hyperliquid's say nothing, nor do OKX' of before 2023-10-20: until the day
before, Tardis recorded aggregated trades, whose counts are not in the files.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.gaps import SEQUENCE, UNLISTED
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.ticks import BUY, I64, SELL
from ingest.words import shown
from publish.replay.sources.base import (
    NS_PER_US,
    Bools,
    Layout,
    QuoteRows,
    Rows,
    SourceError,
    TradeRows,
    coded,
    day_span,
    without,
)
from publish.replay.sources.tables import TEXT, Block, Source, header_columns

FORMAT = "tardis-csv"
EXCHANGES = {"binance-futures": BINANCE, "okex-swap": OKX, "hyperliquid": HYPERLIQUID}
_START = b"exchange,symbol,timestamp,local_timestamp,"
_STAMPS = ("exchange", "symbol", "timestamp", "local_timestamp")
_TRADES = (*_STAMPS, "id", "side", "price", "amount")
_QUOTES = (*_STAMPS, "bid_price", "bid_amount", "ask_price", "ask_amount")
_BOOK = (*_STAMPS, "bids[0].price", "bids[0].amount", "asks[0].price", "asks[0].amount")
_TYPES: dict[str, pa.DataType] = {
    "exchange": TEXT,
    "symbol": TEXT,
    "timestamp": pa.int64(),
    "local_timestamp": pa.int64(),
    "id": pa.int64(),
    "side": TEXT,
    **dict.fromkeys([*_TRADES[6:], *_QUOTES[4:], *_BOOK[4:]], pa.float64()),
}
_OTHER = re.compile(r"(^|[/_])liquidations([/_.]|$)")  # which have the columns of trades
_DATE = re.compile(r"(?<!\d)(\d{4})[-/](\d\d)[-/](\d\d)(?!\d)")
_SIDES = {"buy": BUY, "sell": SELL}
_SINGLE_FROM = day_span("2023-10-20")[0]
_MOST_AT_ONCE = 1 << 10
"""Quotes with the same local_timestamp that are told apart."""
Array = npt.NDArray[Any]


def recognise(url: str, lines: Sequence[bytes]) -> Layout | None:
    """Its layout if that is what it is. Raises `SourceError` for a kind that isn't read."""
    head = lines[0]
    if not head.startswith(_START):
        return None
    if b"is_snapshot" in head or b"funding" in head or b"strike" in head or _OTHER.search(url):
        raise SourceError(
            f"{url}: of Tardis' CSV the trades, quotes, book_ticker and book_snapshot kinds are "
            f"read, not this one: {shown(head.decode('utf-8', 'replace'), 100)}"
        )
    kind = "trades" if b",side," in head else "quotes"
    needed = _TRADES if kind == "trades" else _BOOK if b"[0]" in head else _QUOTES
    columns = header_columns(head, url, needed)
    if columns[:4] != _STAMPS:
        raise SourceError(f"{url}:1: the columns don't begin with {', '.join(_STAMPS)}")
    in_name = next((exchange for name, exchange in EXCHANGES.items() if name in url), None)
    exchange = _exchange(url, lines[1]) if len(lines) > 1 else in_name
    return Layout(FORMAT, kind, exchange, columns, span=_span(url))


def _exchange(url: str, line: bytes) -> str:
    name = line.partition(b",")[0].decode("utf-8", "replace")
    if name not in EXCHANGES:
        raise SourceError(
            f"{url}:2: {shown(name)} is no exchange of perpflow: of Tardis' those are "
            f"{', '.join(EXCHANGES)}"
        )
    return EXCHANGES[name]


def _span(url: str) -> tuple[int, int] | None:
    """The day in a file's name or path: files are cut at midnight by local_timestamp."""
    dates = _DATE.findall(url)
    try:
        return day_span("-".join(dates[-1])) if dates else None
    except ValueError:
        return None


class _Reader:
    """Turns a file's blocks into rows, one after the other."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = _BOOK if _BOOK[4] in layout.columns else _QUOTES
        self._best: dict[str, Array] = {}
        self._last_us, self._same = 0, 0

    def rest(self) -> Rows | None:
        return None

    def rows(self, block: Block, row: I64) -> Rows:
        for name in block.texts("exchange").unique().to_pylist():
            if EXCHANGES.get(name) != self._layout.exchange:
                raise SourceError(
                    f"{block.name}:{block.first_line}: rows of {shown(name)} among those of "
                    f"{self._layout.exchange}"
                )
        native = block.texts("symbol")
        local_us = block["local_timestamp"]
        stamps = block["timestamp"] * NS_PER_US, local_us * NS_PER_US
        if self._layout.kind == "trades":
            return TradeRows(
                native,
                *stamps,
                id=block["id"],
                count=np.ones(len(block), np.int64),
                side=coded(block.texts("side"), _SIDES),
                price=block["price"],
                size=block["amount"],
                row=row,
            )
        bid_price, bid_size, ask_price, ask_size = self._names[4:]
        quotes = QuoteRows(
            native,
            *stamps,
            sequence=self._numbers(local_us),
            bid_price=block[bid_price],
            bid_size=block[bid_size],
            ask_price=block[ask_price],
            ask_size=block[ask_size],
            row=row,
        )
        return quotes if self._names is _QUOTES else without(quotes, self._unchanged(quotes))

    def _numbers(self, local_us: I64) -> I64:
        """A number for each quote that rises with its arrival: µs × 1024 + its place in the µs."""
        n = len(local_us)
        starts = np.append(True, local_us[1:] != local_us[:-1])
        place = np.arange(n) - np.maximum.accumulate(np.where(starts, np.arange(n), 0))
        if local_us[0] == self._last_us:
            place[: int(np.argmax(starts[1:])) + 1 if starts[1:].any() else n] += self._same + 1
        self._last_us, self._same = int(local_us[-1]), int(place[-1])
        return local_us * _MOST_AT_ONCE + np.minimum(place, _MOST_AT_ONCE - 1)

    def _unchanged(self, quotes: QuoteRows) -> Bools:
        """Which rows have the best level of the row before of their symbol."""
        best = np.stack([quotes.bid_price, quotes.bid_size, quotes.ask_price, quotes.ask_size])
        code = quotes.native.indices.to_numpy()
        same = np.zeros(len(code), np.bool_)
        for index, name in enumerate(quotes.native.dictionary.to_pylist()):
            at = np.flatnonzero(code == index)
            before = self._best.get(name, np.full((4, 1), -1.0))
            mine = np.hstack([before, best[:, at]])
            equal = (mine[:, 1:] == mine[:, :-1]) | (np.isnan(mine[:, 1:]) & np.isnan(mine[:, :-1]))
            same[at] = equal.all(axis=0)
            self._best[name] = mine[:, -1:]
        return same


def _holes(layout: Layout) -> str:
    if layout.exchange == BINANCE:
        return UNLISTED
    single = layout.span is not None and layout.span[0] >= _SINGLE_FROM
    return SEQUENCE if layout.exchange == OKX and single else ""


SOURCE = Source(
    FORMAT,
    "tardis",
    _TYPES,
    _Reader,
    optional=frozenset(name for name in _TYPES if name.startswith(("bid", "ask"))),
    holes=_holes,
)
