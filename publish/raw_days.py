"""Raw ticks of days that are over: one file an instrument and day, in order of arrival.

    raw/{trades,quotes,gaps}/exchange=…/symbol=…/year=YYYY/month=MM/day=DD/data.parquet
    raw/sessions/exchange=…/year=YYYY/month=MM/day=DD/data.parquet

A file is made of the day's chunks, a slice of time after the other, so that memory stays bounded.
Its metadata `perpflow.read`, JSON {partition: next offset}, says what is in it: making it again
changes nothing, and ticks that come for a day that has its file are added to it.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from publish.exclusions import MEMORY_NS, Exclusions
from publish.layout import instrument_path
from publish.merging import EPOCH
from publish.raw_chunks import (
    DAY_NS,
    GAPS,
    QUOTES,
    SCHEMAS,
    SESSIONS,
    TRADES,
    Chunk,
    Group,
    read_group,
)
from publish.raw_rows import (
    SCHEMAS_OF_DAYS,
    STAMP,
    as_chunk,
    as_ticks,
    gaps,
    quotes,
    sessions,
    trade_rows,
)
from publish.store import NotFound, Store, StoreError

ROOT = "raw"
SLICE_ROWS = 500_000
"""About how many rows are in memory at once."""
MAX_SLICES = 144
ROW_GROUP = 262_144


@dataclass(frozen=True, slots=True)
class Instrument:
    """Whose day it is; `symbol` is "" for the sessions, which are of an exchange."""

    kind: str
    exchange: str
    symbol: str


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows that can be read by themselves, and between which arrival stamps (ns) they are."""

    low: int
    high: int
    rows: int
    source: Any
    group: Group | int


def day_key(of: Instrument, day: date) -> str:
    where = instrument_path(of.exchange, of.symbol) if of.symbol else f"exchange={of.exchange}"
    when = f"year={day.year:04}/month={day.month:02}/day={day.day:02}"
    return f"{ROOT}/{of.kind}/{where}/{when}/data.parquet"


def make_day(
    store: Store, of: Instrument, day: date, chunks: Sequence[Chunk], lateness_ns: int
) -> int:
    """Put the instrument's rows of one partition's chunks into its day file; returns how many.

    Again is harmless. Raises `StoreError`.
    """
    with ExitStack() as stack:
        existing, read = _existing(store, stack, day_key(of, day))
        new = [chunk for chunk in chunks if chunk.first >= read.get(str(chunk.partition), 0)]
        pieces = [_piece(chunk, group) for chunk in new for group in chunk.groups if _is(of, group)]
        added = sum(piece.rows for piece in pieces)
        if not added:
            return 0
        read[str(new[0].partition)] = max(chunk.next for chunk in new)
        if existing is not None:
            pieces = [*_pieces_of(existing), *pieces]
        slices = _slices(store, of.kind, pieces, day)
        rows = _finished(store, of, day, slices, lateness_ns)
        metadata = {"perpflow.version": "1", "perpflow.read": orjson.dumps(read)}
        _write(store, day_key(of, day), SCHEMAS_OF_DAYS[of.kind].with_metadata(metadata), rows)
    return added


def _is(of: Instrument, group: Group) -> bool:
    return group.exchange == of.exchange and (not of.symbol or group.symbol == of.symbol)


def _existing(
    store: Store, stack: ExitStack, key: str
) -> tuple[pq.ParquetFile | None, dict[str, int]]:
    """The day's file as it is, open until the stack is left, and what is in it."""
    try:
        source = stack.enter_context(store.reading(key))
        file = pq.ParquetFile(source)
        return file, orjson.loads(file.schema_arrow.metadata[b"perpflow.read"])
    except NotFound:
        return None, {}
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{key} was not written by perpflow: move it away") from error


def _piece(chunk: Chunk, group: Group) -> _Piece:
    return _Piece(group.low, group.high, group.rows, chunk, group)


def _pieces_of(file: pq.ParquetFile) -> Iterator[_Piece]:
    column = file.schema_arrow.get_field_index("local_timestamp")
    for i in range(file.num_row_groups):
        group = file.metadata.row_group(i)
        span = group.column(column).statistics
        low, high = (pa.scalar(v, STAMP).value for v in (span.min, span.max))
        # Statistics are Python datetimes, of microseconds: one more on either side.
        yield _Piece(low - 1000, high + 1000, group.num_rows, file, i)


def _slices(
    store: Store, kind: str, pieces: Sequence[_Piece], day: date
) -> Iterator[tuple[int, pa.Table]]:
    """(end in ns, the rows that arrived before it and not in an earlier slice, in order)."""
    begin = (day - EPOCH).days * DAY_NS
    whole = kind in (GAPS, SESSIONS)  # corrections of a row may be anywhere in the day
    count = 1 if whole else min(1 + sum(p.rows for p in pieces) // SLICE_ROWS, MAX_SLICES)
    for i in range(count):
        start, end = begin + i * DAY_NS // count, begin + (i + 1) * DAY_NS // count
        tables = [
            _between(_read(store, kind, piece), start, end)
            for piece in pieces
            if piece.low < end and piece.high >= start
        ]
        table = pa.concat_tables([SCHEMAS[kind].empty_table(), *tables]).unify_dictionaries()
        yield end, _in_order(kind, table)


def _between(table: pa.Table, start: int, end: int) -> pa.Table:
    stamps = table["local_ts"].to_numpy()
    inside = (stamps >= start) & (stamps < end)
    return table if inside.all() else table.filter(pa.array(inside))


def _in_order(kind: str, table: pa.Table) -> pa.Table:
    """By arrival; at one stamp by collector and its own order, else as on the log."""
    stamps = table["local_ts"].to_numpy()
    if kind not in (TRADES, QUOTES):
        return table.take(np.argsort(stamps, kind="stable"))
    table = table.combine_chunks()
    names = pc.rank(table["collector"].cast(pa.utf8()), tiebreaker="dense").to_numpy()
    rows = table["row"].to_numpy()
    return table.take(np.lexsort((rows, names, stamps)))


def _read(store: Store, kind: str, piece: _Piece) -> pa.Table:
    """The piece's rows as a chunk has them."""
    if isinstance(piece.group, Group):
        return read_group(store, piece.source, piece.group).cast(SCHEMAS[kind])
    return as_chunk(kind, piece.source.read_row_group(piece.group, use_threads=False))


def _finished(
    store: Store,
    of: Instrument,
    day: date,
    slices: Iterator[tuple[int, pa.Table]],
    lateness_ns: int,
) -> Iterator[pa.Table]:
    if of.kind == TRADES:
        return _trades(store, of, day, slices, lateness_ns)
    finish = {QUOTES: quotes, GAPS: gaps, SESSIONS: sessions}[of.kind]
    return (finish(table) for _, table in slices)


def _trades(
    store: Store,
    of: Instrument,
    day: date,
    slices: Iterator[tuple[int, pa.Table]],
    lateness_ns: int,
) -> Iterator[pa.Table]:
    why = Exclusions(of.exchange, lateness_ns)
    for table in _tail(store, of, day):
        why.remember(as_ticks(table))
    waiting: list[pa.Table] = []
    for end, table in slices:
        waiting.append(table)
        for codes in why.add(as_ticks(table), end):
            yield trade_rows(waiting.pop(0), codes)
    for codes in why.close():
        yield trade_rows(waiting.pop(0), codes)


def _tail(store: Store, of: Instrument, day: date) -> Iterator[pa.Table]:
    """The last trades of the day before, of which the first of this day may be copies."""
    midnight = (day - EPOCH).days * DAY_NS
    with ExitStack() as stack:
        key = day_key(of, date.fromordinal(day.toordinal() - 1))
        file, _ = _existing(store, stack, key)
        for piece in () if file is None else _pieces_of(file):
            if piece.high >= midnight - MEMORY_NS:
                rows = _read(store, of.kind, piece)
                yield _between(rows, midnight - MEMORY_NS, midnight)


def _write(store: Store, key: str, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    names = [f.name for f in schema if f.type == pa.utf8() and f.name != "id"]
    delta = [n for n in schema.names if n in ("exchange_timestamp", "local_timestamp", "row")]
    encoding = dict.fromkeys(delta, "DELTA_BINARY_PACKED")
    if "id" in schema.names:
        encoding["id"] = "DELTA_BYTE_ARRAY"
    figures = [f.name for f in schema if f.type in (pa.float64(), pa.int32())]
    with (
        store.replacing(key) as sink,
        pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            use_dictionary=[*names, *figures],
            column_encoding=encoding,
            write_statistics=[n for n in schema.names if n.endswith("_timestamp")],
        ) as writer,
    ):
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table)
            if sum(map(len, waiting)) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
