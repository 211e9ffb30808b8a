"""Raw ticks of days that are over: one file an instrument and day, in order of arrival.

    raw/{trades,quotes,gaps}/exchange=…/symbol=…/year=YYYY/month=MM/day=DD/data.parquet
    raw/sessions/exchange=…/year=YYYY/month=MM/day=DD/data.parquet

A file is made of the day's chunks, a slice of time after the other, so that memory stays bounded.
Its metadata `perpflow.read`, JSON {partition: next offset}, says what is in it: making it again
changes nothing, and ticks that come for a day that has its file are added to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from urllib.parse import unquote

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
)
from publish.raw_pieces import Piece, pieces_of_chunk, pieces_of_day, read_piece
from publish.raw_rows import (
    SCHEMAS_OF_DAYS,
    as_ticks,
    gaps,
    quotes,
    sessions,
    trade_rows,
)
from publish.store import NotFound, Store, StoreError

ROOT = "raw"
_NAME = "data.parquet"
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


def series_prefix(of: Instrument) -> str:
    """Below which all day files of an instrument are."""
    where = instrument_path(of.exchange, of.symbol) if of.symbol else f"exchange={of.exchange}"
    return f"{ROOT}/{of.kind}/{where}"


def day_key(of: Instrument, day: date) -> str:
    return f"{series_prefix(of)}/year={day.year:04}/month={day.month:02}/day={day.day:02}/{_NAME}"


def parse_day_key(key: str) -> tuple[Instrument, date]:
    """Raises ValueError for a key that is not a day file's."""
    try:
        root, kind, *pairs, name = key.split("/")
        of = dict(pair.split("=", 1) for pair in pairs)
        if (root, name) != (ROOT, _NAME) or kind not in SCHEMAS:
            raise ValueError
        day = date(int(of["year"]), int(of["month"]), int(of["day"]))
        return Instrument(kind, of["exchange"], unquote(of.get("symbol", ""))), day
    except (ValueError, KeyError):
        raise ValueError(f"{key} is not the key of a day file") from None


def make_day(
    store: Store, of: Instrument, day: date, chunks: Sequence[Chunk], lateness_ns: int
) -> int:
    """Put the instrument's rows of one partition's chunks into its day file; returns how many.

    Again is harmless. Raises `StoreError`.
    """
    existing, read = existing_day(store, day_key(of, day))
    new = [chunk for chunk in chunks if chunk.first >= read.get(str(chunk.partition), 0)]
    pieces = [p for chunk in new for p in pieces_of_chunk(chunk, lambda group: _is(of, group))]
    added = sum(piece.rows for piece in pieces)
    if not added:
        return 0
    read[str(new[0].partition)] = max(chunk.next for chunk in new)
    slices = _slices(store, of.kind, [*existing, *pieces], day)
    write_day(store, of, day, _finished(store, of, day, slices, lateness_ns), read)
    return added


def _is(of: Instrument, group: Group) -> bool:
    return group.exchange == of.exchange and (not of.symbol or group.symbol == of.symbol)


def existing_day(store: Store, key: str) -> tuple[list[Piece], dict[str, int]]:
    """The row groups of a day's file, and the offsets up to which each partition is in it."""
    try:
        with store.reading(key) as source:
            file = pq.ParquetFile(source).metadata
        return list(pieces_of_day(key, file)), orjson.loads(file.metadata[b"perpflow.read"])
    except NotFound:
        return [], {}
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{key} was not written by perpflow: move it away") from error


def _slices(
    store: Store, kind: str, pieces: Sequence[Piece], day: date
) -> Iterator[tuple[int, pa.Table]]:
    """(end in ns, the rows that arrived before it and not in an earlier slice, in order)."""
    begin = (day - EPOCH).days * DAY_NS
    whole = kind in (GAPS, SESSIONS)  # corrections of a row may be anywhere in the day
    count = 1 if whole else min(1 + sum(p.rows for p in pieces) // SLICE_ROWS, MAX_SLICES)
    for i in range(count):
        start, end = begin + i * DAY_NS // count, begin + (i + 1) * DAY_NS // count
        tables = [
            _between(read_piece(store, kind, piece), start, end)
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
    existing, _ = existing_day(store, day_key(of, date.fromordinal(day.toordinal() - 1)))
    for piece in existing:
        if piece.high >= midnight - MEMORY_NS:
            yield _between(read_piece(store, of.kind, piece), midnight - MEMORY_NS, midnight)


def write_day(
    store: Store, of: Instrument, day: date, tables: Iterator[pa.Table], read: Mapping[str, int]
) -> None:
    """Make the day's file of rows in order; `read`: the offsets up to which they are the log's."""
    metadata = {"perpflow.version": "1", "perpflow.read": orjson.dumps(read)}
    schema = SCHEMAS_OF_DAYS[of.kind].with_metadata(metadata)
    names = [f.name for f in schema if f.type == pa.utf8() and f.name != "id"]
    delta = [n for n in schema.names if n in ("exchange_timestamp", "local_timestamp", "row")]
    encoding = dict.fromkeys(delta, "DELTA_BINARY_PACKED")
    if "id" in schema.names:
        encoding["id"] = "DELTA_BYTE_ARRAY"
    figures = [f.name for f in schema if f.type in (pa.float64(), pa.int32())]
    with (
        store.replacing(day_key(of, day)) as sink,
        pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            write_page_checksum=True,
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
