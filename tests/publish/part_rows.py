"""Rows of a series, and how they are shown, for tests of files."""

from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa

from publish import partitions
from publish.bar_files import Month
from publish.columns import Columns
from publish.layout import Series
from publish.merging import Position, Rows
from publish.store import Store
from tests.publish.bars import at, series

DAY = date(2026, 11, 20)
S = series()


def fold(store: Store, of: Series, day: date, now: float) -> Month:
    return partitions.fold(store, Columns(store), of, day, now)


def table(times: Sequence[str | int], values: Sequence[float] | None = None) -> pa.Table:
    seconds = [at(f"2026-11-{time}") if isinstance(time, str) else time for time in times]
    time = pa.array([1_000_000 * s for s in seconds], pa.int64()).cast(pa.timestamp("us"))
    return pa.table({"time": time, "open": pa.array(values or range(len(times)), pa.float64())})


def rows(
    times: Sequence[str | int],
    values: Sequence[float] | None = None,
    *,
    offset: int = 0,
    read: int | None = None,
    partition: int = 0,
) -> Rows:
    """Rows of one record at `offset`, read up to `read`."""
    position = Position(partition, offset + 1 if read is None else read)
    return Rows(table(times, values), np.full(len(times), offset), position)


def shown(found: pa.Table) -> list[tuple[str, float]]:
    times = [time.strftime("%d %H:%M") for time in found["time"].to_pylist()]
    return list(zip(times, found["open"].to_pylist(), strict=True))
