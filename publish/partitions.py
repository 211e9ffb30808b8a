"""Month files and open day parts of bars: their keys, their metadata, and how they change.

    metrics/{dataset}/exchange=…/symbol=…/interval=…/timestamp=…/year=YYYY/month=MM/data.parquet
    metrics_open/…the same…/month=MM/day=DD/data.parquet

A month file lists in its metadata the days it holds. A day it does not list lives in an open part;
a part whose day it lists is dead, and is to be ignored. So a fold is one step for every reader:
the replacement of the month file. Both hold `time` (bar start, timestamp[us], naive UTC), rising,
each value once, then the metric columns.

Metadata: `perpflow.days`, a JSON list of days; `perpflow.folds`, JSON {day: {"offset", "at"}}, what
was folded and when (Unix seconds); `perpflow.offset`, in parts, "partition:next": the part has
every row of the bars records before that offset.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from publish.store import NotFound, Store, StoreError

OPEN = "metrics_open"
CLOSED = "metrics"
FORMAT_VERSION = "1"
DAY_US = 86_400_000_000
ROW_GROUP = 86_400
"""Rows: a day of the 1s series, so that changing one day of a month reads little else."""


@dataclass(frozen=True, slots=True, order=True)
class Series:
    """The rows of one path in the store: bars of one instrument, interval and clock."""

    dataset: str
    exchange: str
    symbol: str
    interval: str
    clock: str


@dataclass(frozen=True, slots=True)
class Position:
    """Everything before offset `next` of that partition of the bars topic."""

    partition: int
    next: int

    def covers(self, other: "Position") -> bool:
        return self.partition == other.partition and self.next >= other.next

    def __str__(self) -> str:
        return f"{self.partition}:{self.next}"

    @classmethod
    def parse(cls, text: str) -> Self:
        partition, offset = text.split(":")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Rows:
    """New rows (n) of a series: `time` and metric columns, and the log offset of each (n,)."""

    table: pa.Table
    offsets: npt.NDArray[np.int64]
    read: Position


@dataclass(frozen=True, slots=True)
class Fold:
    """What a month file has of a day that was folded into it, and since when (Unix seconds)."""

    read: Position
    at: float


@dataclass(frozen=True, slots=True)
class Month:
    """A month file's own account of what it holds."""

    days: frozenset[date] = frozenset()
    folds: Mapping[date, Fold] = field(default_factory=dict)

    def metadata(self) -> dict[str, bytes]:
        folds = {
            str(day): {"offset": str(fold.read), "at": fold.at}
            for day, fold in sorted(self.folds.items())
        }
        return {
            "perpflow.version": FORMAT_VERSION.encode(),
            "perpflow.days": orjson.dumps([str(day) for day in sorted(self.days)]),
            "perpflow.folds": orjson.dumps(folds),
        }

    @classmethod
    def of(cls, metadata: Mapping[bytes, bytes]) -> Self:
        folds = orjson.loads(metadata.get(b"perpflow.folds", b"{}"))
        return cls(
            frozenset(map(date.fromisoformat, orjson.loads(metadata[b"perpflow.days"]))),
            {
                date.fromisoformat(day): Fold(Position.parse(fold["offset"]), fold["at"])
                for day, fold in folds.items()
            },
        )


def month_key(series: Series, year: int, month: int) -> str:
    return f"{_path(CLOSED, series, year, month)}/data.parquet"


def part_key(series: Series, day: date) -> str:
    return f"{_path(OPEN, series, day.year, day.month)}/day={day.day:02}/data.parquet"


def parse_part_key(key: str) -> tuple[Series, date]:
    """The series and the day of an open part. Raises ValueError for another key."""
    try:
        root, dataset, *pairs, name = key.split("/")
        values = dict(pair.split("=", 1) for pair in pairs)
        day = date(int(values["year"]), int(values["month"]), int(values["day"]))
        symbol = unquote(values["symbol"])
        series = Series(
            dataset, values["exchange"], symbol, values["interval"], values["timestamp"]
        )
    except (ValueError, KeyError):
        raise ValueError(f"{key} is not the key of an open part") from None
    if (root, name) != (OPEN, "data.parquet"):
        raise ValueError(f"{key} is not the key of an open part")
    return series, day


def read_month(store: Store, series: Series, year: int, month: int) -> Month:
    """What the month file says it holds; nothing if there is none."""
    key = month_key(series, year, month)
    try:
        with store.reading(key) as source:
            return _month(_reader(source, key).schema_arrow, key)
    except NotFound:
        return Month()


def read_series(store: Store, series: Series, year: int, month: int) -> pa.Table:
    """All rows of a month, in time order: the month file and the open parts it does not list."""
    tables = []
    listed: frozenset[date] = frozenset()
    try:
        # The month file first: a part is deleted only long after its day was listed there.
        key = month_key(series, year, month)
        tables.append(_table(store, key))
        listed = _month(tables[0].schema, key).days
    except NotFound:
        pass
    for key in store.list(_path(OPEN, series, year, month)):
        if parse_part_key(key)[1] not in listed:
            tables.append(_table(store, key))
    if not tables:
        return pa.table({"time": pa.array([], pa.timestamp("us"))})
    return _concat([table.replace_schema_metadata(None) for table in tables]).sort_by("time")


def write_part(store: Store, series: Series, day: date, rows: Rows) -> int:
    """Merge rows of that day into its open part; returns how many were new."""
    key = part_key(series, day)
    try:
        existing = _table(store, key)
    except NotFound:
        existing = None
    read = None if existing is None else _part_read(existing, key)
    merged, new = merge(existing, read, rows)
    if new:
        metadata = {"perpflow.version": FORMAT_VERSION, "perpflow.offset": str(rows.read)}
        sink = pa.BufferOutputStream()
        with _writer(sink, merged.schema.with_metadata(metadata)) as writer:
            writer.write_table(merged)
        store.put(key, sink.getvalue().to_pybytes())
    return new


def fold(store: Store, series: Series, day: date, now: float) -> Month:
    """Put the day's open part into the month file, which then lists the day; `now`: Unix seconds.

    The part stays, for readers that were sent to it; `discard_part` deletes it. Folding again, also
    after a crash anywhere in between, changes nothing. Returns what the month file now says.
    """
    key = part_key(series, day)
    month = read_month(store, series, day.year, day.month)
    try:
        part = _table(store, key)
    except NotFound:
        return month
    read = _part_read(part, key)
    known = month.folds.get(day)
    if known and known.read.covers(read):
        return month
    offsets = np.full(len(part), read.next - 1)
    _, month = add_to_month(store, series, day, Rows(part, offsets, read), now)
    return month


def add_to_month(
    store: Store, series: Series, day: date, rows: Rows, now: float
) -> tuple[int, Month]:
    """Merge rows of that day into the month file, which then lists the day.

    Returns how many were new, and what the month file now says.
    """
    key = month_key(series, day.year, day.month)
    month, existing = Month(), None
    try:
        with store.reading(key) as source:
            reader = _reader(source, key)
            month = _month(reader.schema_arrow, key)
            existing = _rows_of_day(reader, day)
    except NotFound:
        pass
    known = month.folds.get(day)
    merged, new = merge(existing, known.read if known else None, rows)
    if not new and day in month.days and known and known.read.covers(rows.read):
        return 0, month
    folds = {**month.folds, day: Fold(rows.read, known.at if known else now)}
    month = Month(month.days | {day}, folds)
    _replace_days(store, key, {day: merged}, month)
    return new, month


def discard_part(store: Store, series: Series, day: date) -> None:
    """Delete the part of a day that was folded, once no reader can still want it."""
    store.delete(part_key(series, day))


def month_days(store: Store, series: Series, month: str) -> list[str]:
    """The days ("2026-11-20") that the file of a month ("2026-11") lists; [] if there is none."""
    year, number = map(int, month.split("-"))
    return sorted(map(str, read_month(store, series, year, number).days))


def write_month(store: Store, series: Series, table: pa.Table, days: Sequence[str]) -> None:
    """Replace those days ("2026-11-20") of a month by the rows of `table`; its other days stay.

    The days must be of one month and the rows of those days, `time` first and rising, each value
    once. A day may have no rows. Raises ValueError.
    """
    wanted = {date.fromisoformat(day) for day in days}
    if len({(day.year, day.month) for day in wanted}) != 1:
        raise ValueError(f"{series}: days of one month are needed, not {list(days)}")
    if table.column_names[0] != "time" or (np.diff(_times(table)) <= 0).any():
        raise ValueError(f"{series}: `time` must come first and rise, each value once")
    table = table.replace_schema_metadata(None)
    by_day = dict(_split_days(table))
    stray = sorted(map(str, by_day.keys() - wanted))
    if stray:
        raise ValueError(f"{series}: rows of {stray}, which are not among the days to write")
    first = min(wanted)
    before = read_month(store, series, first.year, first.month)
    _replace_days(
        store,
        month_key(series, first.year, first.month),
        {day: by_day.get(day, table.schema.empty_table()) for day in wanted},
        Month(before.days | wanted, before.folds),
    )


def merge(existing: pa.Table | None, read: Position | None, rows: Rows) -> tuple[pa.Table, int]:
    """One row per `time` of both, in time order; how many of `rows` came in.

    For a time that `existing` has, its row stays, unless the new one comes from a record after
    `read`, what `existing` was made of. Times decide, not offsets alone: rows are neither lost nor
    doubled if the log was replaced by another or lost its tail.
    """
    fresh = rows.table.replace_schema_metadata(None)
    times = _times(fresh)
    # Of copies among the new rows the last record's wins.
    order = np.lexsort((rows.offsets, times))
    keep = order[np.diff(times[order], append=np.iinfo(np.int64).max) != 0]
    if existing is None:
        return fresh.take(keep), len(keep)
    old_times = _times(existing)
    repeated = np.isin(times[keep], old_times)
    if read is not None and read.partition == rows.read.partition:
        repeated &= rows.offsets[keep] < read.next
    keep = keep[~repeated]
    old, new = existing.replace_schema_metadata(None), fresh.take(keep)
    in_order = [new.slice(0, 0), old, new]  # the new rows' columns come first
    if not len(keep) or not len(old) or times[keep[0]] > old_times[-1]:
        return _concat(in_order), len(keep)  # by far the most frequent: later bars only
    in_order[1] = old.filter(pa.array(~np.isin(old_times, times[keep])))
    return _concat(in_order).sort_by("time"), len(keep)


def _path(root: str, series: Series, year: int, month: int) -> str:
    # Hive readers decode %XX; `:` is safe in file names and in S3 keys.
    return (
        f"{root}/{series.dataset}/exchange={series.exchange}"
        f"/symbol={quote(series.symbol, safe=':')}/interval={series.interval}"
        f"/timestamp={series.clock}/year={year:04}/month={month:02}"
    )


def _times(table: pa.Table) -> npt.NDArray[np.int64]:
    """`time` in microseconds since the epoch (n,)."""
    times: npt.NDArray[np.int64] = table["time"].cast(pa.int64()).to_numpy()
    return times


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    """One under the other; a column that one of them lacks is null there."""
    return pa.concat_tables(tables, promote_options="default")


def _table(store: Store, key: str) -> pa.Table:
    data = store.get(key)
    return _reader(pa.BufferReader(data), key).read(use_threads=False)


def _reader(source: Any, key: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise StoreError(f"{key} is not parquet ({error}): move it away") from error


def _month(schema: pa.Schema, key: str) -> Month:
    try:
        return Month.of(schema.metadata or {})
    except (KeyError, ValueError) as error:
        raise StoreError(f"{key} was not written by perpflow: move it away") from error


def _part_read(part: pa.Table, key: str) -> Position:
    try:
        return Position.parse(part.schema.metadata[b"perpflow.offset"].decode())
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{key} was not written by perpflow: move it away") from error


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    # Dictionaries and statistics cost more than they save on real-valued columns.
    return pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=False, write_statistics=["time"]
    )


def _split_days(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """The rows of each day, of a table in time order."""
    numbers = _times(table) // DAY_US
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = np.append(starts[1:], len(table))[: len(starts)]
    for start, end in zip(starts, ends, strict=True):
        day = date(1970, 1, 1) + timedelta(days=int(numbers[start]))
        yield day, table.slice(start, end - start)


def _rows_of_day(reader: pq.ParquetFile, day: date) -> pa.Table:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC).replace(tzinfo=None)
    end = start + timedelta(days=1)
    found = [reader.schema_arrow.empty_table()]
    for group in range(reader.num_row_groups):
        span = reader.metadata.row_group(group).column(0).statistics
        if span.min < end and span.max >= start:
            table = reader.read_row_group(group, use_threads=False)
            found += [rows for of, rows in _split_days(table) if of == day]
    return _concat(found)


def _kept_days(
    reader: pq.ParquetFile, replaced: Mapping[date, pa.Table]
) -> Iterator[tuple[date, pa.Table]]:
    for group in range(reader.num_row_groups):
        for day, rows in _split_days(reader.read_row_group(group, use_threads=False)):
            if day not in replaced:
                yield day, rows.replace_schema_metadata(None)


def _replace_days(store: Store, key: str, days: Mapping[date, pa.Table], month: Month) -> None:
    """Write the month file anew, a row group at a time: a month of 1s bars is large."""
    schemas = [table.schema.remove_metadata() for table in days.values()]
    try:
        with store.reading(key) as source:
            reader = _reader(source, key)
            schemas.append(reader.schema_arrow.remove_metadata())
            _write_days(store, key, _kept_days(reader, days), days, schemas, month)
    except NotFound:
        _write_days(store, key, iter(()), days, schemas, month)


def _write_days(
    store: Store,
    key: str,
    kept: Iterator[tuple[date, pa.Table]],
    days: Mapping[date, pa.Table],
    schemas: Sequence[pa.Schema],
    month: Month,
) -> None:
    schema = pa.unify_schemas(schemas, promote_options="default")
    pending: list[pa.Table] = [schema.empty_table()]
    with (
        store.replacing(key) as sink,
        _writer(sink, schema.with_metadata(month.metadata())) as writer,
    ):
        for _, rows in heapq.merge(kept, sorted(days.items()), key=lambda item: item[0]):
            if sum(map(len, pending)) + len(rows) > ROW_GROUP:
                writer.write_table(_concat(pending))
                pending = [schema.empty_table()]
            pending.append(rows)
        if any(map(len, pending)):
            writer.write_table(_concat(pending))
