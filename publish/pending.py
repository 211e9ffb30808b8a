"""Bars read from the log and not yet in files. Pure: records in, rows of each file out."""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aggregate.bars import read_closed, read_table
from ingest.log import Record
from ingest.records import BARS, CLOSED
from publish.layout import Part, Series, part_us
from publish.merging import Position, Rows

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
    """What a flush has to do: rows by the part they belong in, and the days that are over."""

    rows: dict[Series, list[tuple[Part, Rows]]] = field(default_factory=lambda: defaultdict(list))
    closed: Closed = field(default_factory=dict)
    malformed: list[Malformed] = field(default_factory=list)


class Pending:
    """The records read and not yet in files, by interval: some are flushed less often than others.

    `positions`: the offset of each partition to read next.
    """

    def __init__(self, positions: dict[int, int]) -> None:
        self.positions = positions
        self.size = 0
        """Bytes of the records' values."""
        self.closing = False
        """Whether there is a close mark among them: all rows before it have to be in files."""
        self._records: dict[str, list[Record]] = defaultdict(list)

    def __len__(self) -> int:
        """Records."""
        return sum(map(len, self._records.values()))

    @property
    def intervals(self) -> set[str]:
        """The intervals of which there are records."""
        return set(self._records)

    def add(self, record: Record) -> None:
        self.positions[record.partition] = record.offset + 1
        self.size += len(record.value)
        self.closing |= record.headers.get("type") == CLOSED
        self._records[record.headers.get("interval", "")].append(record)

    def unwritten(self, partition: int) -> int:
        """The first offset of a partition that is not in files."""
        offsets = (
            r.offset for of in self._records.values() for r in of if r.partition == partition
        )
        return min(offsets, default=self.positions[partition])

    def forget(self, intervals: set[str]) -> None:
        """Their records are in files."""
        for interval in intervals:
            self.size -= sum(len(record.value) for record in self._records.pop(interval, ()))
        self.closing = any(r.headers.get("type") == CLOSED for r in self._records.get("", ()))

    def decode(self, intervals: set[str]) -> Decoded:
        """Read the records of some intervals; those that can't be read are told, the others count.

        The interval of records that have none is "".
        """
        decoded = Decoded()
        tables: dict[_Kind, list[tuple[int, pa.Table]]] = defaultdict(list)
        for record in (r for interval in sorted(intervals) for r in self._records[interval]):
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
            for symbol, part, table, offsets in _split(batches, of.interval):
                series = Series(of.dataset, of.exchange, symbol, of.interval, of.clock)
                decoded.rows[series].append((part, Rows(table, offsets, read)))
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
    tables: list[tuple[int, pa.Table]], interval: str
) -> list[tuple[str, Part, pa.Table, npt.NDArray[np.int64]]]:
    """(symbol, part, rows without the symbol column, offset of each) of one kind's records."""
    table = pa.concat_tables([table for _, table in tables], promote_options="default")
    table = table.unify_dictionaries().combine_chunks()
    if not len(table):
        return []
    offsets = np.repeat([offset for offset, _ in tables], [len(table) for _, table in tables])
    symbols = table["symbol"].chunk(0)
    code = symbols.indices.to_numpy()
    time = table["time"].cast(pa.int64()).to_numpy()
    span = part_us(interval)
    number = time // span
    order = np.lexsort((offsets, time, number, code))
    table, offsets = table.drop_columns("symbol").take(order), offsets[order]
    key = np.stack([code[order], number[order]])
    starts = np.flatnonzero(np.append(True, (np.diff(key) != 0).any(axis=0)))
    names = symbols.dictionary.to_pylist()
    return [
        (
            names[key[0, start]],
            Part.of(interval, int(key[1, start]) * span),
            table.slice(start, end - start),
            offsets[start:end],
        )
        for start, end in zip(starts, [*starts[1:], len(table)], strict=True)
    ]
