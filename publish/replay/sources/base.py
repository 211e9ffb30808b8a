"""What the sources share: what a file says of itself, what was found in it, whose contracts."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.errors import UserError
from ingest.ticks import F64, I64
from ingest.venues.common import FIRST_MS, LAST_MS, MAX_COUNT

NS_PER_MS, NS_PER_US = 1_000_000, 1_000
FIRST_NS, LAST_NS = FIRST_MS * NS_PER_MS, LAST_MS * NS_PER_MS
BAD_ROWS = 1_000
"""A file with more rows than this that can't be read is refused."""
_KEPT = 100
_UNKNOWN_KEPT = 1_000
_NAME_CHARS = 100

Bools = npt.NDArray[np.bool_]
Span = tuple[int, int]
"""[from, to) in ns since the epoch."""


class SourceError(UserError):
    """A file can't be replayed; the message names it, the line where there is one, and why."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file on this machine, and where it came from."""

    url: str
    path: Path
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """Its last part, without what a URL may have after it."""
        return self.url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file is, by its name and its first line.

    `kind`: trades, quotes, or "" for frames. `columns` are those of the file in their order, ()
    where it is no table. `native`: whose rows they are, where no column says it. `span`: the time
    that the file is the whole of, None where its name does not say; on the arrival clock where
    the file has one.
    """

    format: str
    kind: str = ""
    exchange: str | None = None
    columns: tuple[str, ...] = ()
    header: bool = True
    native: str | None = None
    span: Span | None = None

    @property
    def facts(self) -> tuple[object, ...]:
        """What makes other ticks of the same content: what the name says."""
        return self.format, self.kind, self.native, self.span


@dataclass(slots=True)
class Report:
    """What was in a file: rows by kind, and what was left out, by reason.

    `problems` are messages with file and line: the first of each reason and at most 100.
    `unknown` counts rows of instruments that are not known, by native name.
    """

    read: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """Numbers of the rows that were left out; of lines that are no rows, of the row before."""

    def add_unknown(self, native: str, n: int) -> None:
        """Count rows of an instrument that is not known."""
        native = native[:_NAME_CHARS]
        kept = native in self.unknown or len(self.unknown) < _UNKNOWN_KEPT
        self.unknown[native if kept else "…"] += n

    def skip(self, reason: str, n: int, where: Callable[[], str]) -> None:
        """Count rows that are left out; the first of a reason is named."""
        if reason not in self.skipped and len(self.problems) < _KEPT:
            self.problems.append(f"{where()}: {reason}, skipped")
        self.skipped[reason] += n

    def note(self, problem: str) -> None:
        if len(self.problems) < _KEPT:
            self.problems.append(problem)


@dataclass(slots=True)
class TradeRows:
    """Trades as a file has them (n,): sizes in the venue's units, stamps in ns.

    `aggregate`: the numbers of Binance's aggregates, where they are.
    """

    native: pa.DictionaryArray
    exchange_ts: I64
    local_ts: I64
    id: I64
    count: I64
    side: npt.NDArray[np.int8]
    price: F64
    size: F64
    row: I64
    aggregate: I64 | None = None

    def bad(self) -> Bools:
        """Which rows no venue sends: stamps, ids, counts or numbers out of range."""
        bad = _bad_stamps(self) | (self.id < 0) | (self.count < 1) | (self.count > MAX_COUNT)
        bad |= self.side == 0
        return bad | ~np.isfinite(self.price) | ~np.isfinite(self.size)


@dataclass(slots=True)
class QuoteRows:
    """Quotes as a file has them (n,); an empty side is NaN."""

    native: pa.DictionaryArray
    exchange_ts: I64
    local_ts: I64
    sequence: I64
    bid_price: F64
    bid_size: F64
    ask_price: F64
    ask_size: F64
    row: I64

    def bad(self) -> Bools:
        numbers = (self.bid_price, self.bid_size, self.ask_price, self.ask_size)
        infinite = np.logical_or.reduce([np.isinf(of) for of in numbers])
        bad: Bools = _bad_stamps(self) | (self.sequence < 0) | infinite
        return bad


Rows = TradeRows | QuoteRows
R = TypeVar("R", bound=Rows)


def _bad_stamps(rows: Rows) -> Bools:
    stamps = (rows.exchange_ts, rows.local_ts)
    bad: Bools = np.logical_or.reduce([(ts <= FIRST_NS) | (ts >= LAST_NS) for ts in stamps])
    return bad


def epoch_ns(numbers: I64) -> I64:
    """ns of ms or µs since the epoch, told apart by their digits (13 and 16).

    Binance Vision's spot archives went from ms to µs on 2025-01-01; USD-M's have stayed at ms
    (binance-public-data, README). Anything else is 0, which no file means.
    """
    ms = (numbers > FIRST_MS) & (numbers < LAST_MS)
    us = (numbers > FIRST_MS * 1_000) & (numbers < LAST_MS * 1_000)
    return np.select([ms, us], [numbers * NS_PER_MS, numbers * NS_PER_US], 0)


def one_name(native: str, n: int) -> pa.DictionaryArray:
    """A column of one name."""
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([native], pa.utf8()))


def coded(texts: pa.DictionaryArray, codes: Mapping[str, int]) -> npt.NDArray[np.int8]:
    """The code of each text (n,), 0 for any other."""
    of = np.array([codes.get(text, 0) for text in texts.dictionary.to_pylist()], np.int8)
    found: npt.NDArray[np.int8] = of[texts.indices.to_numpy()]
    return found


def day_span(text: str, offset: timedelta = timedelta()) -> Span:
    """[from, to) of YYYY-MM-DD or YYYY-MM; `offset`: how much earlier than UTC's it begins.

    Raises ValueError for no date.
    """
    monthly = len(text) == len("YYYY-MM")
    start = datetime.strptime(text, "%Y-%m" if monthly else "%Y-%m-%d").replace(tzinfo=UTC)
    end = start + timedelta(days=1)
    if monthly:
        end = (start + timedelta(days=32)).replace(day=1)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    low, high = ((at - offset - epoch) // timedelta(microseconds=1) for at in (start, end))
    return low * NS_PER_US, high * NS_PER_US


def taken(rows: R, keep: Bools) -> R:
    index = pa.array(np.flatnonzero(keep))
    columns: list[Any] = [getattr(rows, name) for name in type(rows).__slots__ if name != "native"]
    kept: list[Any] = [None if values is None else values[keep] for values in columns]
    return type(rows)(rows.native.take(index), *kept)


def without(rows: R, bad: Bools) -> R:
    """The rows that are not marked (n,)."""
    return taken(rows, ~bad)


def joined(first: QuoteRows, second: QuoteRows) -> QuoteRows:
    """The rows of both, which are of one instrument."""
    columns = [
        np.concatenate([getattr(first, name), getattr(second, name)])
        for name in QuoteRows.__slots__
        if name != "native"
    ]
    n = len(columns[0])
    return QuoteRows(one_name(first.native.dictionary[0].as_py(), n), *columns)
