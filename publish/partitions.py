"""Month files and open parts of bars: what readers are given, and how they change.

A month file lists in its metadata the days it holds. A day it does not list lives in open parts; a
part whose day it lists is dead, and is to be ignored. So a fold is one step for every reader: the
replacement of the month file.

Who is sent to a month and to open parts reads them later, after a fold perhaps, and would find the
folded day in both. So while there are open parts each month file is fixed as well, under a name
that no other ever has, and readers are sent to that.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa

from publish.bar_files import (
    Fold,
    Month,
    month_file,
    month_of,
    put_part,
    read_part,
    read_table,
    replace_days,
    replace_rows,
)
from publish.columns import Columns
from publish.layout import (
    CLOSED,
    OPEN,
    Part,
    Series,
    day_prefix,
    fixed_key,
    fixed_prefix,
    month_key,
    month_prefix,
    parse_month_key,
    parse_part_key,
    part_key,
)
from publish.merging import Rows, concat, merge, split_days, times
from publish.store import NotFound, Replaced, Store

T = TypeVar("T")

READS = 5
"""Of a month file that is being replaced: it is not, so often in a row."""


@dataclass(frozen=True, slots=True)
class ServedFile:
    """A file to give to readers: a month (`part` None), or an open part of a day."""

    key: str
    year: int
    month: int
    part: Part | None = None


def served_files(store: Store, series: Series) -> list[ServedFile]:
    """The files that together hold the rows of a series once, in time order."""
    # Parts first: one that a fold made dead meanwhile is still there, and its month says so.
    parts = [(key, parse_part_key(key)[1]) for key in store.list(f"{OPEN}/{series.path}")]
    months = {
        month: month_key(series, *month)
        for month in map(parse_month_key, store.list(f"{CLOSED}/{series.path}"))
    }
    read: dict[tuple[int, int], Month] = {}
    live = []
    for key, part in parts:
        month = (part.day.year, part.day.month)
        if month not in read:
            read[month] = read_month(store, series, *month)
            if read[month].days:  # its first fold may have been just now
                months[month] = month_key(series, *month)
        if part.day not in read[month].days:
            live.append(ServedFile(key, *month, part))
    for month in {(file.year, file.month) for file in live} & months.keys():
        fixed = fixed_key(series, *month, read[month].fixed)
        if read[month].fixed and store.exists(fixed):
            months[month] = fixed
    found = [*(ServedFile(key, *month) for month, key in months.items()), *live]
    return sorted(found, key=lambda file: (file.year, file.month, file.part is not None, file.key))


def read_month(store: Store, series: Series, year: int, month: int) -> Month:
    """What the month file says it holds; nothing if there is none."""

    def read() -> Month:
        try:
            with month_file(store, month_key(series, year, month)) as file:
                return file.month
        except NotFound:
            return Month()

    return until_whole(read)


def until_whole(read: Callable[[], T]) -> T:
    """What is read of a month file, again if the file was replaced meanwhile."""
    for _ in range(READS):
        try:
            return read()
        except Replaced as error:
            problem = error
    raise problem


def read_series(store: Store, series: Series, year: int, month: int) -> pa.Table:
    """All rows of a month, in time order: the month file and the open parts it does not list."""
    tables = []
    listed: frozenset[date] = frozenset()
    try:
        # The month file first: a part is deleted only long after its day was listed there.
        key = month_key(series, year, month)
        tables.append(read_table(store, key))
        listed = month_of(tables[0].schema, key).days
    except NotFound:
        pass
    for key in store.list(month_prefix(series, year, month)):
        if parse_part_key(key)[1].day not in listed:
            tables.append(read_part(store, key)[0])
    if not tables:
        return pa.table({"time": pa.array([], pa.timestamp("us"))})
    return concat([table.replace_schema_metadata(None) for table in tables]).sort_by("time")


def write_part(store: Store, series: Series, part: Part, rows: Rows) -> int:
    """Merge rows into the open part; returns how many were new."""
    key = part_key(series, part.day, part.hour)
    try:
        existing, read = read_part(store, key)
    except NotFound:
        existing = read = None
    merged, new = merge(existing, read, rows)
    if new:
        put_part(store, key, merged, rows.read)
    return new


def fold(store: Store, columns: Columns, series: Series, day: date, now: float) -> Month:
    """Put the day's open parts into the month file, which then lists the day; `now`: Unix seconds.

    The parts stay, for readers that were sent to them; `discard` deletes them. Folding again,
    also after a crash anywhere in between, changes nothing. Returns what the month file now says.
    """
    month = read_month(store, series, day.year, day.month)
    keys = store.list(day_prefix(series, day))
    if not keys:
        return month
    parts = [read_part(store, key) for key in keys]
    read = max((read for _, read in parts), key=lambda read: read.next)
    known = month.folds.get(day)
    if known and all(known.read.covers(of) for _, of in parts):
        return month
    table = columns.fit(series, concat([table for table, _ in parts]))
    offsets = np.concatenate([np.full(len(table), of.next - 1) for table, of in parts])
    _, month = add_to_month(store, series, day, Rows(table, offsets, read), now)
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
        with month_file(store, key) as file:
            month, existing = file.month, file.rows_of(day)
    except NotFound:
        pass
    known = month.folds.get(day)
    merged, new = merge(existing, known.read if known else None, rows)
    if not new and day in month.days and known and known.read.covers(rows.read):
        return 0, month
    folds = {**month.folds, day: Fold(rows.read, known.at if known else now)}
    version, fixed = "", None
    if store.list(month_prefix(series, day.year, day.month)):  # which may be read beside it
        version, fixed = _fixed(series, day, rows.read.next, now)
    month = Month(month.days | {day}, folds, version, month.arrival)
    replace_days(store, key, {day: merged}, month, fixed)
    return new, month


def _fixed(series: Series, day: date, read: int, now: float) -> tuple[str, str]:
    """A new version of a month file, and the key under which it stays."""
    version = f"{int(now * 1000):014}-{read:020}-{day.day:02}"
    return version, fixed_key(series, day.year, day.month, version)


def discard(store: Store, series: Series, day: date, before: float) -> None:
    """Delete what no reader can still want of a day that was folded by `before` (Unix seconds).

    That is its parts and the fixed files that others had followed by then, or all of them with the
    month's last part.
    """
    parts = set(store.list(day_prefix(series, day)))
    fixed = store.list(fixed_prefix(series, day.year, day.month))
    # Without parts nobody was sent to the last one since.
    if parts.issuperset(store.list(month_prefix(series, day.year, day.month))):
        gone = fixed
    else:
        gone = [key for key, following in pairwise(fixed) if _made(following) <= before]
    for key in (*gone, *sorted(parts)):
        store.delete(key)


def _made(fixed: str) -> float:
    """When a fixed file was made (Unix seconds)."""
    return int(fixed.rpartition("/")[2].partition("-")[0]) / 1000


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
    if table.column_names[0] != "time" or (np.diff(times(table)) <= 0).any():
        raise ValueError(f"{series}: `time` must come first and rise, each value once")
    stray = sorted({str(day) for day, _ in split_days(table)} - set(map(str, wanted)))
    if stray:
        raise ValueError(f"{series}: rows of {stray}, which are not among the days to write")
    table = table.replace_schema_metadata(None)
    by_day = dict(split_days(table))
    rows = [(day, by_day.get(day, table.schema.empty_table())) for day in sorted(wanted)]
    write_days(store, series, wanted, rows, table.schema)


def write_days(
    store: Store,
    series: Series,
    days: Collection[date],
    rows: Iterable[tuple[date, pa.Table]],
    schema: pa.Schema,
    *,
    arrival: str = "",
    replay: str = "",
) -> Month:
    """Replace those days of one month by `rows`, day by day in order; its other days stay.

    Hold the month's lease. Where live has open parts of such a day, the fold adds what only they
    have. Returns what the month file now says.
    """
    first = min(days)
    schema = Columns(store).fit(series, schema.empty_table()).schema
    before = read_month(store, series, first.year, first.month)
    version, fixed = "", None
    if store.list(month_prefix(series, first.year, first.month)):  # which may be read beside it
        version, fixed = _fixed(series, first, 0, time.time())
    month = Month(before.days | set(days), before.folds, version, arrival or before.arrival, replay)
    key = month_key(series, first.year, first.month)
    replace_rows(store, key, days, rows, schema, month, fixed)
    return month
