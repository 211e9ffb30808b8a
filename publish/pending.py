"""Bars read from the log and not yet in files. Pure: records in, rows of each file out."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aggregate.bars import read_closed, read_table
from ingest.log import Record
from ingest.records import BARS, CLOSED
from publish.partitions import DAY_US, Position, Rows, Series

Closed = dict[tuple[str, str, str], date]
"""The last UTC day that is over, by (exchange, symbol, clock)."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that can't be read. `reason` is one of a few fixed words."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """What all tables of a group share: their columns, and what is in the path but the symbol."""

    dataset: str
    exchange: str
    interval: str
    clock: str
    partition: int


@dataclass(slots=True)
class Decoded:
    """What a flush has to do: rows by the file they belong in, and the days that are over."""

    rows: dict[Series, dict[date, Rows]] = field(default_factory=lambda: defaultdict(dict))
    closed: Closed = field(default_factory=dict)
    malformed: list[Malformed] = field(default_factory=list)


@dataclass(slots=True)
class Pending:
    """The records read since the last flush; `positions`: the next offset of each partition."""

    positions: dict[int, int]
    size: int = 0
    """Bytes of the records' values."""
    _records: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> None:
        self.positions[record.partition] = record.offset + 1
        self.size += len(record.value)
        self._records.append(record)

    def decode(self) -> Decoded:
        """Read the records; those that can't be read are told, the others count."""
        decoded = Decoded()
        tables: dict[_Kind, list[tuple[int, pa.Table]]] = defaultdict(list)
        for record in self._records:
            where = f"{record.topic}/{record.partition} offset {record.offset}"
            kind = record.headers.get("type")
            try:
                if kind == BARS:
                    table = _table(record)
                    tables[_kind(record)].append((record.offset, table))
                elif kind == CLOSED:
                    _close(record, decoded.closed)
                else:
                    decoded.malformed.append(Malformed("type", f"{where}: unknown type {kind!r}"))
            except KeyError as error:
                decoded.malformed.append(Malformed("header", f"{where}: lacks {error}"))
            except (pa.ArrowException, OSError, ValueError, TypeError) as error:
                decoded.malformed.append(Malformed("value", f"{where}: {error}"))
        for of, batches in tables.items():
            read = Position(of.partition, self.positions[of.partition])
            for symbol, day, table, offsets in _split(batches):
                series = Series(of.dataset, of.exchange, symbol, of.interval, of.clock)
                decoded.rows[series][day] = Rows(table, offsets, read)
        return decoded


def _kind(record: Record) -> _Kind:
    of = record.headers
    return _Kind(of["dataset"], of["exchange"], of["interval"], of["clock"], record.partition)


def _table(record: Record) -> pa.Table:
    table = read_table(record.value)
    if table.column_names[:2] != ["symbol", "time"]:
        raise ValueError(f"columns {table.column_names[:2]} instead of symbol, time")
    return table


def _close(record: Record, closed: Closed) -> None:
    mark = read_closed(record.headers, record.value)
    day = date.fromisoformat(mark.day)
    for symbol in mark.symbols:
        key = (record.headers["exchange"], symbol, mark.clock)
        closed[key] = max(day, closed.get(key, day))


def _split(
    tables: list[tuple[int, pa.Table]],
) -> list[tuple[str, date, pa.Table, npt.NDArray[np.int64]]]:
    """(symbol, day, rows without the symbol column, offset of each) of one kind's records."""
    table = pa.concat_tables([table for _, table in tables], promote_options="default")
    table = table.unify_dictionaries().combine_chunks()
    if not len(table):
        return []
    offsets = np.repeat([offset for offset, _ in tables], [len(table) for _, table in tables])
    symbols = table["symbol"].chunk(0)
    code = symbols.indices.to_numpy()
    time = table["time"].cast(pa.int64()).to_numpy()
    day = time // DAY_US
    order = np.lexsort((offsets, time, day, code))
    table, offsets = table.drop_columns("symbol").take(order), offsets[order]
    key = np.stack([code[order], day[order]])
    starts = np.flatnonzero(np.append(True, (np.diff(key) != 0).any(axis=0)))
    names = symbols.dictionary.to_pylist()
    return [
        (
            names[key[0, start]],
            date(1970, 1, 1) + timedelta(days=int(key[1, start])),
            table.slice(start, end - start),
            offsets[start:end],
        )
        for start, end in zip(starts, [*starts[1:], len(table)], strict=True)
    ]
