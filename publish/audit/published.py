"""What is published of a series' day, whichever files it is in."""

from datetime import date

import pyarrow as pa

from publish.bar_files import month_file, read_part
from publish.layout import Series, day_prefix, month_key
from publish.merging import concat
from publish.partitions import until_whole
from publish.store import NotFound, Store


def read_day(store: Store, series: Series, day: date) -> pa.Table:
    """The day's rows, in time order: of the month file if it lists the day, else of open parts.

    Raises `StoreError`.
    """
    return until_whole(lambda: _read(store, series, day))


def _read(store: Store, series: Series, day: date) -> pa.Table:
    # Parts are listed first: one that a fold made dead meanwhile is not read at all.
    keys = store.list(day_prefix(series, day))
    try:
        with month_file(store, month_key(series, day.year, day.month)) as file:
            if day in file.month.days:
                return file.rows_of(day).replace_schema_metadata(None)
    except NotFound:
        pass
    tables = [read_part(store, key)[0] for key in keys]
    if not tables:
        return pa.table({"time": pa.array([], pa.timestamp("us"))})
    return concat(tables).sort_by("time")
