"""Row groups of raw files: what can be read by itself, and which stamps are in it.

A file is a day's (`raw_days.py`) or a chunk's (`raw_chunks.py`). Rows come as a chunk has them, or
straight as columns of numpy, for who reads months.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.ticks import BUY, I64, LIVE, SELL, Quotes, Trades
from publish.raw_chunks import QUOTES, SCHEMAS, TRADES, Chunk, Group
from publish.raw_rows import ORIGINS, as_chunk, completed
from publish.store import Store, StoreError

Ticks = Trades | Quotes
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A row group: arrival stamps lie in [low, high], exchange stamps from `oldest` on (ns).

    `oldest` None: the file doesn't say. `before`: rows of the file's groups before it.
    """

    key: str
    group: int
    rows: int
    before: int
    low: int
    high: int
    oldest: int | None
    day: bool
    file: pq.FileMetaData = field(compare=False)

    @property
    def earliest(self) -> int:
        """The lowest stamp (ns) of either clock, as far as the file says."""
        return self.low if self.oldest is None else min(self.low, self.oldest)


def pieces_of_day(key: str, file: pq.FileMetaData) -> Iterator[Piece]:
    """The row groups of a day's file."""
    names = file.schema.to_arrow_schema().names
    local = names.index("local_timestamp")
    exchange = names.index("exchange_timestamp") if "exchange_timestamp" in names else None
    before = 0
    for i in range(file.num_row_groups):
        group = file.row_group(i)
        span = group.column(local).statistics
        oldest = None if exchange is None else group.column(exchange).statistics.min_raw
        yield Piece(key, i, group.num_rows, before, span.min_raw, span.max_raw, oldest, True, file)
        before += group.num_rows


def pieces_of_chunk(chunk: Chunk, wanted: Callable[[Group], bool]) -> Iterator[Piece]:
    """The row groups of a chunk that are wanted."""
    names = chunk.file.schema.to_arrow_schema().names
    exchange = names.index("exchange_ts") if "exchange_ts" in names else None
    for of in filter(wanted, chunk.groups):
        span = None
        if exchange is not None:
            span = chunk.file.row_group(of.index).column(exchange).statistics
        oldest = span.min_raw if span is not None and span.has_min_max else None
        yield Piece(chunk.key, of.index, of.rows, 0, of.low, of.high, oldest, False, chunk.file)


@contextmanager
def _opened(store: Store, piece: Piece, **options: Any) -> Iterator[pq.ParquetFile]:
    with store.reading(piece.key) as source:
        try:
            yield pq.ParquetFile(
                source,
                metadata=piece.file,
                pre_buffer=store.path("") is None,  # S3: columns beside each other in one request
                page_checksum_verification=True,
                **options,
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"{store.url}/{piece.key} can't be read: {error}") from error


def read_piece(store: Store, kind: str, piece: Piece) -> pa.Table:
    """The rows as a chunk has them."""
    with _opened(store, piece) as file:
        table = file.read_row_group(piece.group, use_threads=False)
    if piece.day:
        return as_chunk(kind, table, piece.before)
    return completed(kind, dict(zip(table.column_names, table.columns, strict=True)), len(table))


def read_ticks(
    store: Store, kind: str, piece: Piece, symbols: Sequence[str]
) -> list[tuple[str, Ticks]]:
    """The rows as ticks of `symbols[0]`, by collector, each in the order of the file."""
    columns = _DAY_COLUMNS[kind] if piece.day else _CHUNK_COLUMNS[kind]
    there = set(columns) & set(piece.file.schema.names)
    texts = [*(_TEXTS & there)] if piece.day else []
    with _opened(store, piece, read_dictionary=texts) as file:
        table = file.read_row_group(piece.group, columns=list(there), use_threads=False)
    made = _day_ticks(kind, table, piece) if piece.day else _chunk_ticks(kind, table)
    ticks = (Trades if kind == TRADES else Quotes)(symbols, np.zeros(piece.rows, np.int32), **made)
    return _by_collector(ticks, table)


def read_stamps(store: Store, piece: Piece) -> I64:
    """The exchange stamps of a tick kind's rows."""
    name = "exchange_timestamp" if piece.day else "exchange_ts"
    with _opened(store, piece) as file:
        return _numbers(file.read_row_group(piece.group, columns=[name], use_threads=False)[name])


_TEXTS = {"side", "origin", "collector", "excluded_exchange"}
_DAY_COLUMNS = {
    TRADES: [
        *("exchange_timestamp", "local_timestamp", "id", "side", "price", "amount", "notional"),
        *("count", "origin", "collector", "row", "excluded_exchange"),
    ],
    QUOTES: [
        *("exchange_timestamp", "local_timestamp", "bid_price", "bid_amount"),
        *("ask_price", "ask_amount", "sequence", "collector", "row"),
    ],
}
_CHUNK_COLUMNS = {
    kind: [n for n in SCHEMAS[kind].names if n not in ("exchange", "symbol")]
    for kind in (TRADES, QUOTES)
}


def _day_ticks(kind: str, table: pa.Table, piece: Piece) -> dict[str, Array]:
    out = {
        "exchange_ts": _numbers(table["exchange_timestamp"]),
        "local_ts": _numbers(table["local_timestamp"]),
    }
    if "row" in table.column_names:
        out["row"] = _numbers(table["row"])
    else:  # of a file from before quotes had it; its order is theirs
        out["row"] = np.arange(piece.before, piece.before + piece.rows)
    if kind == QUOTES:
        for side in ("bid", "ask"):
            out[f"{side}_price"] = _numbers(table[f"{side}_price"])
            out[f"{side}_qty"] = _numbers(table[f"{side}_amount"])
        out["sequence"] = _numbers(table["sequence"].fill_null(0))
        out["origin"] = np.full(piece.rows, LIVE, np.int8)
        return out
    names = list(ORIGINS.values())
    return out | {
        "id": _numbers(table["id"].cast(pa.int64())),
        "count": _numbers(table["count"]),
        "side": _coded(table["side"], lambda side: BUY if side == "buy" else SELL),
        "price": _numbers(table["price"]),
        "qty": _numbers(table["amount"]),
        "notional": _numbers(table["notional"]),
        "origin": _coded(table["origin"], names.index),
        "off_book": _coded(table["excluded_exchange"], lambda why: int(why == "not_a_trade")),
    }


def _chunk_ticks(kind: str, table: pa.Table) -> dict[str, Array]:
    out = {name: _numbers(table[name]) for name in table.column_names if name != "collector"}
    if kind == QUOTES:
        out["origin"] = np.full(len(table), LIVE, np.int8)
    return out


def _numbers(column: pa.ChunkedArray) -> Array:
    """Numbers, NaN for null, and stamps (ns); a copy only of what is in several chunks."""
    if pa.types.is_timestamp(column.type):
        column = pa.chunked_array([c.view(pa.int64()) for c in column.chunks], pa.int64())
    numbers: Array = column.to_numpy()
    return numbers


def _coded(column: pa.ChunkedArray, code: Callable[[str], int]) -> Array:
    """A small number for each text of a dictionary column, 0 for null."""
    parts = []
    for chunk in column.chunks:
        codes = np.array([*map(code, chunk.dictionary.to_pylist()), 0], np.int8)
        index = chunk.indices
        if index.null_count:
            index = index.fill_null(len(codes) - 1)
        parts.append(codes[index.to_numpy()])
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty(0, np.int8)])


def _by_collector(ticks: Ticks, table: pa.Table) -> list[tuple[str, Ticks]]:
    if "collector" not in table.column_names:
        return [("", ticks)]
    column = table["collector"]
    names = sorted({name for chunk in column.chunks for name in chunk.dictionary.to_pylist()})
    if len(names) == 1:
        return [(names[0], ticks)]
    place = {name: i for i, name in enumerate(names)}
    codes = _coded(column, place.__getitem__)
    return [(name, ticks.take(codes == i)) for i, name in enumerate(names) if (codes == i).any()]
