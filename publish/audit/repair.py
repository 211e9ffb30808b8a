"""The days that differ made the truth: each month file replaced once, whole, under its lease."""

from collections.abc import Iterable
from datetime import date
from itertools import groupby

from publish.audit.causes import Cause, Explained
from publish.audit.spool import Spool
from publish.layout import Series
from publish.lease import PATIENCE_S, Place, leased
from publish.partitions import write_days
from publish.replay.plan import RECORDED
from publish.store import Store


def repair(
    store: Store, differences: Iterable[tuple[Series, date, Explained]], spool: Spool
) -> list[tuple[Series, date]]:
    """Write what is spooled of days that differ; returns which. All are of one month.

    A day that differs for no known reason stays: perhaps it is the archive that lacks something.
    Raises `StoreError`; what was written by then stays written.
    """
    known = [(s, day) for s, day, explained in differences if Cause.OTHER not in explained.count()]
    for _, places in groupby(sorted(known), key=lambda place: place[0].dataset):
        by_series = {
            series: {day for _, day in days}
            for series, days in groupby(places, key=lambda place: place[0])
        }
        series, days = next(iter(by_series.items()))
        month = min(days)
        place = Place.of(series, month.year, month.month)
        with leased(store, place, "audit", patience_s=PATIENCE_S) as lease:
            for series, days in by_series.items():
                lease.keep()
                rows = spool.days(series, days)
                write_days(store, series, days, rows, spool.schema(series), arrival=RECORDED)
    return known
