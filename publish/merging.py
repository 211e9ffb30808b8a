"""Rows of one series put together: each `time` once, in order, by the log's offsets. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from publish.layout import DAY_US

EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Position:
    """Everything before offset `next` of that partition of a topic."""

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


def merge(existing: pa.Table | None, read: Position | None, rows: Rows) -> tuple[pa.Table, int]:
    """One row per `time` of both, in time order; how many of `rows` came in.

    For a time that `existing` has, its row stays, unless the new one comes from a record after
    `read`, what `existing` was made of. Times decide, not offsets alone: rows are neither lost nor
    doubled if the log was replaced by another or lost its tail.
    """
    fresh = rows.table.replace_schema_metadata(None)
    stamps = times(fresh)
    # Of copies among the new rows the last record's wins.
    order = np.lexsort((rows.offsets, stamps))
    keep = order[np.diff(stamps[order], append=np.iinfo(np.int64).max) != 0]
    if existing is None:
        return fresh.take(keep), len(keep)
    old_stamps = times(existing)
    repeated = np.isin(stamps[keep], old_stamps)
    if read is not None and read.partition == rows.read.partition:
        repeated &= rows.offsets[keep] < read.next
    keep = keep[~repeated]
    old, new = existing.replace_schema_metadata(None), fresh.take(keep)
    in_order = [new.slice(0, 0), old, new]  # the new rows' columns come first
    if not len(keep) or not len(old) or stamps[keep[0]] > old_stamps[-1]:
        return concat(in_order), len(keep)  # by far the most frequent: later bars only
    in_order[1] = old.filter(pa.array(~np.isin(old_stamps, stamps[keep])))
    return concat(in_order).sort_by("time"), len(keep)


def times(table: pa.Table) -> npt.NDArray[np.int64]:
    """`time` in microseconds since the epoch (n,)."""
    found: npt.NDArray[np.int64] = table["time"].cast(pa.int64()).to_numpy()
    return found


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """One under the other; a column that one of them lacks is null there."""
    return pa.concat_tables(tables, promote_options="default")


def split_days(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """The rows of each day, of a table in time order."""
    numbers = times(table) // DAY_US
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = np.append(starts[1:], len(table))[: len(starts)]
    for start, end in zip(starts, ends, strict=True):
        yield EPOCH + timedelta(days=int(numbers[start])), table.slice(start, end - start)
