"""The days that are not closed yet: which parts are open, which are folded and wait to be deleted.

Their state is what the store lists, so a new process knows what the one before left.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import date

import structlog

from publish import metrics
from publish.bar_files import Month
from publish.columns import Columns
from publish.layout import OPEN, Part, Series, parse_part_key
from publish.lease import LeaseHeld, Place, leased
from publish.merging import Rows
from publish.partitions import add_to_month, discard, fold, read_month, write_part
from publish.pending import Closed
from publish.store import Store

HOLDER = "publisher"
_log = structlog.get_logger(__name__)


class OpenDays:
    """Open parts and the month files they go into. Blocking; one thread per series at a time.

    `now`: Unix seconds. A folded day's parts are deleted `grace_s` after its fold, never before: a
    reader may still hold their addresses.
    """

    def __init__(self, store: Store, grace_s: float, now: Callable[[], float]) -> None:
        self._store = store
        self._grace_s = grace_s
        self._now = now
        self._columns = Columns(store)
        self._open: dict[Series, set[date]] = defaultdict(set)
        self._folded: dict[Series, dict[date, float]] = defaultdict(dict)
        # A bit for each day that a month file lists: there may be tens of thousands of series.
        self._listed: dict[tuple[Series, int, int], int] = {}

    def load(self) -> list[Series]:
        """Learn from the store which parts there are; returns the series to `settle`."""
        self._store.sweep()
        for key in self._store.list(OPEN):
            try:
                series, part = parse_part_key(key)
            except ValueError as error:
                _log.warning("no open part, left alone", url=self._store.url, problem=str(error))
                continue
            self._open[series].add(part.day)
        return list(self._open)

    def settle(self, series: Series) -> None:
        """Days that the month file lists: fold what it lacks of them, await the deletion."""
        days = sorted(day for day in self._open[series] if self._lists(series, day))
        for day in days:
            with leased(self._store, _place(series, day), HOLDER):
                self._fold(series, day)

    def write(self, series: Series, parts: Sequence[tuple[Part, Rows]]) -> None:
        """Put rows where readers will find them; again is harmless. Raises `StoreError`."""
        for part, rows in parts:
            rows = Rows(self._columns.fit(series, rows.table), rows.offsets, rows.read)
            if self._lists(series, part.day):
                with leased(self._store, _place(series, part.day), HOLDER):
                    new, month = add_to_month(self._store, series, part.day, rows, self._now())
                self._note(series, part.day, month)
            else:
                new = write_part(self._store, series, part, rows)
                self._open[series].add(part.day)
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

    def fold(
        self, due: Mapping[Series, Sequence[date]], in_time: Callable[[], bool] = lambda: True
    ) -> list[Series]:
        """Move the days of series of one dataset and instrument into their month files.

        Returns the series that are done: not those for which there was no time, none while another
        has the month's lease. Again is harmless. Raises `StoreError`.
        """
        done: list[Series] = []
        months = {_place(series, day) for series, days in due.items() for day in days}
        try:
            with ExitStack() as stack:
                leases = [
                    stack.enter_context(leased(self._store, month, HOLDER))
                    for month in sorted(months)
                ]
                for series, days in due.items():
                    if not in_time():
                        break
                    for lease in leases:
                        lease.keep()
                    for day in days:
                        self._fold(series, day)
                    done.append(series)
        except LeaseHeld as held:
            _log.info("folded later", reason=str(held))
        return done

    def _fold(self, series: Series, day: date) -> None:
        month = fold(self._store, self._columns, series, day, self._now())
        self._note(series, day, month)
        self._open[series].discard(day)
        if day in month.folds:
            self._folded[series][day] = month.folds[day].at
            metrics.FOLDS.inc()

    def expired(self) -> list[tuple[Series, list[date]]]:
        """The folded days of each series whose parts may be deleted."""
        before = self._now() - self._grace_s
        found = [
            (series, [day for day, at in days.items() if at <= before])
            for series, days in self._folded.items()
        ]
        return [(series, days) for series, days in found if days]

    def discard(self, series: Series, days: Iterable[date]) -> None:
        """Delete the parts of folded days. Raises `StoreError`."""
        for day in days:
            discard(self._store, series, day, self._now() - self._grace_s)
            self._folded[series].pop(day, None)
            metrics.DISCARDED.inc()

    def _lists(self, series: Series, day: date) -> bool:
        """Whether the month file lists the day."""
        key = (series, day.year, day.month)
        if key not in self._listed:
            self._note(series, day, read_month(self._store, *key))
        return bool(self._listed[key] >> day.day & 1)

    def _note(self, series: Series, day: date, month: Month) -> None:
        self._listed[series, day.year, day.month] = sum(1 << listed.day for listed in month.days)


def _place(series: Series, day: date) -> Place:
    return Place.of(series, day.year, day.month)
