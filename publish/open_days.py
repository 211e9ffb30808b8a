"""The days that are not closed yet: which parts are open, which are folded and wait to be deleted.

Their state is what the store lists, so a new process knows what the one before left.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date

import structlog

from publish import metrics
from publish.partitions import (
    OPEN,
    Month,
    Rows,
    Series,
    add_to_month,
    discard_part,
    fold,
    parse_part_key,
    read_month,
    write_part,
)
from publish.pending import Closed
from publish.store import Store

_log = structlog.get_logger(__name__)


class OpenDays:
    """Open parts and the month files they go into. Blocking; one thread per series at a time.

    `now`: Unix seconds. A folded part is deleted `grace_s` after its fold, never before: a reader
    may still hold its address.
    """

    def __init__(self, store: Store, grace_s: float, now: Callable[[], float]) -> None:
        self._store = store
        self._grace_s = grace_s
        self._now = now
        self._open: dict[Series, set[date]] = defaultdict(set)
        self._folded: dict[Series, dict[date, float]] = defaultdict(dict)
        self._months: dict[tuple[Series, int, int], Month] = {}

    def load(self) -> list[Series]:
        """Learn from the store which parts there are; returns the series to `settle`."""
        self._store.sweep()
        for key in self._store.list(OPEN):
            try:
                series, day = parse_part_key(key)
            except ValueError as error:
                _log.warning("not a day part, left alone", url=self._store.url, problem=str(error))
                continue
            self._open[series].add(day)
        return list(self._open)

    def settle(self, series: Series) -> None:
        """Days that the month file lists: fold what it lacks of them, await the deletion."""
        listed = [day for day in self._open[series] if day in self._month(series, day).days]
        self.fold(series, sorted(listed))

    def write(self, series: Series, days: Mapping[date, Rows]) -> None:
        """Put rows where readers will find them; again is harmless. Raises `StoreError`."""
        for day, rows in days.items():
            if day in self._month(series, day).days:
                new, month = add_to_month(self._store, series, day, rows, self._now())
                self._months[series, day.year, day.month] = month
            else:
                new = write_part(self._store, series, day, rows)
                self._open[series].add(day)
            metrics.ROWS.labels(series.dataset).inc(new)
            metrics.REPEATED.labels(series.dataset).inc(len(rows.table) - new)

    def due(self, closed: Closed) -> dict[Series, list[date]]:
        """The open days that are over."""
        found = {}
        for series, days in self._open.items():
            last = closed.get((series.exchange, series.symbol, series.clock))
            over = sorted(day for day in days if last is not None and day <= last)
            if over:
                found[series] = over
        return found

    def fold(self, series: Series, days: Iterable[date]) -> None:
        """Move days into the month file; again is harmless. Raises `StoreError`."""
        for day in days:
            month = fold(self._store, series, day, self._now())
            self._months[series, day.year, day.month] = month
            self._open[series].discard(day)
            if day in month.folds:
                self._folded[series][day] = month.folds[day].at
                metrics.FOLDS.inc()

    def discard(self) -> None:
        """Delete the parts whose time is over. Raises `StoreError`."""
        for series, day in list(self._expired()):
            discard_part(self._store, series, day)
            del self._folded[series][day]
            metrics.DISCARDED.inc()

    def _expired(self) -> Iterator[tuple[Series, date]]:
        for series, days in self._folded.items():
            for day, at in days.items():
                if self._now() - at >= self._grace_s:
                    yield series, day

    def _month(self, series: Series, day: date) -> Month:
        key = (series, day.year, day.month)
        if key not in self._months:
            self._months[key] = read_month(self._store, *key)
        return self._months[key]
