"""Parquet files of bars: how they are written, read, and what their metadata says.

Both month files and open parts hold `time` (bar start, timestamp[us], naive UTC), rising, each
value once, then the metric columns. Metadata: `perpflow.days`, a JSON list of the days a month file
holds; `perpflow.folds`, JSON {day: {"offset", "at"}}, what was folded and when (Unix seconds);
`perpflow.fixed`, the version under which the same bytes stay, if they do; `perpflow.arrival`, how
replay knew arrival times, if some of its rows are replay's; `perpflow.replay`, the identity of that
replay, if all is as it left it (its manifest then says more); `perpflow.offset`, in
parts, "partition:next": the part has every row of the bars records before.
"""

import heapq
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from publish.layout import manifest_key
from publish.merging import Position, concat, split_days
from publish.store import NotFound, Store, StoreError

FORMAT_VERSION = "1"
_TEXTS = ("fixed", "arrival", "replay")
ROW_GROUP = 86_400
"""Rows: a day of the 1s series, so that changing one day of a month reads little else."""


@dataclass(frozen=True, slots=True)
class Fold:
    """What a month file has of a day that was folded into it, and since when (Unix seconds)."""

    read: Position
    at: float


@dataclass(frozen=True, slots=True)
class Month:
    """A month file's own account of what it holds; `fixed`: the version of its copy, or "".

    `arrival`, `replay`: see the module; "" where replay had no part in it.
    """

    days: frozenset[date] = frozenset()
    folds: Mapping[date, Fold] = field(default_factory=dict)
    fixed: str = ""
    arrival: str = ""
    replay: str = ""

    def metadata(self) -> dict[str, bytes]:
        folds = {
            str(day): {"offset": str(fold.read), "at": fold.at}
            for day, fold in sorted(self.folds.items())
        }
        more = {name: getattr(self, name).encode() for name in _TEXTS}
        return {
            "perpflow.version": FORMAT_VERSION.encode(),
            "perpflow.days": orjson.dumps([str(day) for day in sorted(self.days)]),
            "perpflow.folds": orjson.dumps(folds),
            **{f"perpflow.{name}": value for name, value in more.items() if value},
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
            *(metadata.get(f"perpflow.{n}".encode(), b"").decode() for n in _TEXTS),
        )


@dataclass(frozen=True, slots=True)
class MonthFile:
    """An open month file, for as long as it is being read."""

    reader: pq.ParquetFile
    month: Month

    @property
    def schema(self) -> pa.Schema:
        return self.reader.schema_arrow.remove_metadata()

    def rows_of(self, day: date) -> pa.Table:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC).replace(tzinfo=None)
        end = start + timedelta(days=1)
        found = [self.reader.schema_arrow.empty_table()]
        for group in range(self.reader.num_row_groups):
            span = self.reader.metadata.row_group(group).column(0).statistics
            if span.min < end and span.max >= start:
                table = self.reader.read_row_group(group, use_threads=False)
                found += [rows for of, rows in split_days(table) if of == day]
        return concat(found)

    def days_but(self, left_out: Container[date]) -> Iterator[tuple[date, pa.Table]]:
        """The rows of its other days, a row group at a time: a month of 1s bars is large."""
        for group in range(self.reader.num_row_groups):
            for day, rows in split_days(self.reader.read_row_group(group, use_threads=False)):
                if day not in left_out:
                    yield day, rows.replace_schema_metadata(None)


@contextmanager
def month_file(store: Store, key: str) -> Iterator[MonthFile]:
    """Read a month file in ranges. Raises `NotFound`, and `StoreError` for what is none."""
    with store.reading(key) as source:
        try:
            reader = pq.ParquetFile(source)
        except pa.ArrowInvalid as error:
            raise StoreError(f"{key} is not parquet ({error}): move it away") from error
        yield MonthFile(reader, month_of(reader.schema_arrow, key))


def read_part(store: Store, key: str) -> tuple[pa.Table, Position]:
    """All rows of an open part, and what it was made of. Raises as `month_file` does."""
    table = read_table(store, key)
    try:
        read = Position.parse(table.schema.metadata[b"perpflow.offset"].decode())
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{key} was not written by perpflow: move it away") from error
    return table.replace_schema_metadata(None), read


def read_table(store: Store, key: str) -> pa.Table:
    """All rows of a file, its metadata in the schema. Raises as `month_file` does."""
    data = store.get(key)
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{key} is not parquet ({error}): move it away") from error


def put_part(store: Store, key: str, table: pa.Table, read: Position) -> None:
    metadata = {"perpflow.version": FORMAT_VERSION, "perpflow.offset": str(read)}
    sink = pa.BufferOutputStream()
    with bars_writer(sink, table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table)
    store.put(key, sink.getvalue().to_pybytes())


def replace_days(
    store: Store, key: str, days: Mapping[date, pa.Table], month: Month, fixed: str | None = None
) -> None:
    """Write a month file anew with those days' rows in place of what it had of them.

    Columns are those of the days' tables, and then what the file has beside them. `fixed`: the key
    at which the new file is first, and stays.
    """
    schemas = [table.schema.remove_metadata() for table in days.values()]
    schema = pa.unify_schemas(schemas, promote_options="default")
    replace_rows(store, key, days, sorted(days.items()), schema, month, fixed)


def replace_rows(
    store: Store,
    key: str,
    days: Container[date],
    rows: Iterable[tuple[date, pa.Table]],
    schema: pa.Schema,
    month: Month,
    fixed: str | None = None,
) -> None:
    """`replace_days`, of rows that come day by day, in order, with the columns of `schema`."""
    try:
        with month_file(store, key) as file:
            schema = pa.unify_schemas([schema, file.schema], promote_options="default")
            _forget_manifest(store, key, file)
            _write_days(store, fixed or key, file.days_but(days), rows, schema, month)
    except NotFound:
        _write_days(store, fixed or key, iter(()), rows, schema, month)
    if fixed:
        store.copy(fixed, key)


def _forget_manifest(store: Store, key: str, file: MonthFile) -> None:
    """Before what it describes is replaced: a manifest that is there is true."""
    if file.month.replay:
        store.delete(manifest_key(key))


def rewrite_month(store: Store, key: str, schema: pa.Schema) -> None:
    """Give a month file those columns, which include all it has."""
    with month_file(store, key) as file:
        _forget_manifest(store, key, file)
        month = replace(file.month, fixed="", replay="")  # what is fixed lacks those columns
        _write_days(store, key, file.days_but(()), (), schema, month)


def _write_days(
    store: Store,
    key: str,
    kept: Iterator[tuple[date, pa.Table]],
    days: Iterable[tuple[date, pa.Table]],
    schema: pa.Schema,
    month: Month,
) -> None:
    pending: list[pa.Table] = [schema.empty_table()]
    with (
        store.replacing(key) as sink,
        bars_writer(sink, schema.with_metadata(month.metadata())) as writer,
    ):
        for _, rows in heapq.merge(kept, days, key=lambda item: item[0]):
            if sum(map(len, pending)) + len(rows) > ROW_GROUP:
                writer.write_table(concat(pending))
                pending = [schema.empty_table()]
            pending.append(rows)
        if any(map(len, pending)):
            writer.write_table(concat(pending))


def bars_writer(sink: Any, schema: pa.Schema, **more: Any) -> pq.ParquetWriter:
    """How files of bars are encoded."""
    # Dictionaries and statistics cost more than they save on real-valued columns.
    whole = [field.name for field in schema if not pa.types.is_floating(field.type)]
    return pq.ParquetWriter(
        sink,
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=["time"],
        column_encoding=dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
        **more,
    )


def month_of(schema: pa.Schema, key: str) -> Month:
    """What a month file's metadata says. Raises `StoreError` if it is another program's."""
    try:
        return Month.of(schema.metadata or {})
    except (KeyError, ValueError) as error:
        raise StoreError(f"{key} was not written by perpflow: move it away") from error
