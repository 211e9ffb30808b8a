"""What files there are, by a store's own listings, each kept for a few seconds.

Bars of one series: its month files, and the open parts of days that no month file lists yet. Raw
ticks of one instrument: its day files, with their sizes.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, TypeVar
from urllib.parse import unquote

from publish.catalog import EXCHANGES, METRICS, RAW
from publish.layout import CLOSED, OPEN, Series, instrument_path
from publish.partitions import ServedFile, served_files
from publish.raw_days import ROOT as RAW_ROOT
from publish.store import Store, StoreError

FRESH_S = 5.0
"""How old a listing of a series may be: much less than a folded part stays readable."""
SYMBOLS_FRESH_S = 60.0
COVERAGE_FRESH_S = 600.0
_KEPT = 20_000
_DAY = re.compile(r"(.*)/year=(\d{4})/month=(\d\d)/day=(\d\d)/data\.parquet")
_RAW_SERIES = re.compile(rf"{RAW_ROOT}/([^/]+)/exchange=([^/]+)/symbol=([^/]+)")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RawFile:
    """A day of raw ticks; `size` in bytes."""

    key: str
    day: date
    size: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What there is of one instrument's raw ticks: days without a file in between are `missing`."""

    first: date
    last: date
    days: int
    missing: int
    size: int


class Listing:
    """Listings of a store. Raises `StoreError`; an unknown series has no files.

    Of many that ask at once for the same, one asks the store. `clock`: monotonic seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._kept: OrderedDict[Hashable, tuple[float, asyncio.Future[Any]]] = OrderedDict()

    async def bars(self, series: Series, first: date, last: date) -> list[ServedFile]:
        """The files that may have rows of these days, both included, in time order."""
        files = await self._fresh(series, FRESH_S, lambda: _bar_files(self._store, series))
        return [file for file in files if _overlaps(file, first, last)]

    async def raw(self, dataset: str, exchange: str, symbol: str) -> Mapping[date, RawFile]:
        """All day files of an instrument, by day of arrival, in time order."""
        prefix = f"{RAW_ROOT}/{dataset}/{instrument_path(exchange, symbol)}"
        return await self._fresh(prefix, FRESH_S, lambda: _raw_files(self._store, prefix))

    async def symbols(self, exchange: str) -> list[str]:
        """The instruments of which there is any dataset, sorted."""
        return await self._fresh(
            ("symbols", exchange), SYMBOLS_FRESH_S, lambda: _symbols(self._store, exchange)
        )

    async def coverage(self) -> Mapping[tuple[str, str, str], Coverage]:
        """What raw ticks there are, by dataset, exchange and symbol."""
        return await self._fresh("coverage", COVERAGE_FRESH_S, lambda: _coverage(self._store))

    async def _fresh(self, name: Hashable, age_s: float, load: Callable[[], T]) -> T:
        now = self._clock()
        at, future = self._kept.get(name, (now, None))
        if future is None or now - at >= age_s or (future.done() and future.exception()):
            future = asyncio.ensure_future(asyncio.to_thread(load))
            self._kept[name] = (now, future)
        self._kept.move_to_end(name)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        # Shielded: one who hangs up doesn't take the answer from the others.
        return await asyncio.shield(future)


def _bar_files(store: Store, series: Series) -> list[ServedFile]:
    try:
        return served_files(store, series)
    except ValueError as error:
        raise StoreError(f"{store.url}: {error}: move it away") from error


def _overlaps(file: ServedFile, first: date, last: date) -> bool:
    if file.part:
        return first <= file.part.day <= last
    return (first.year, first.month) <= (file.year, file.month) <= (last.year, last.month)


def _raw_files(store: Store, prefix: str) -> Mapping[date, RawFile]:
    files = {}
    for key, size in store.sizes(prefix).items():
        if found := _DAY.fullmatch(key):
            day = date(*map(int, found.groups()[1:]))
            files[day] = RawFile(key, day, size)
    return dict(sorted(files.items()))


def _symbols(store: Store, exchange: str) -> list[str]:
    names: set[str] = set()
    for root in (CLOSED, OPEN):
        for dataset in METRICS:
            names.update(store.children(f"{root}/{dataset}/exchange={exchange}"))
    return sorted(unquote(n.removeprefix("symbol=")) for n in names if n.startswith("symbol="))


def _coverage(store: Store) -> Mapping[tuple[str, str, str], Coverage]:
    days: dict[tuple[str, str, str], list[tuple[date, int]]] = {}
    for key, size in store.sizes(RAW_ROOT).items():
        found = _DAY.fullmatch(key)
        series = found and _RAW_SERIES.fullmatch(found[1])
        if found and series and series[1] in RAW and series[2] in EXCHANGES:
            name = (series[1], series[2], unquote(series[3]))
            days.setdefault(name, []).append((date(*map(int, found.groups()[1:])), size))
    return {name: _covered(items) for name, items in sorted(days.items())}


def _covered(items: list[tuple[date, int]]) -> Coverage:
    first, last = min(items)[0], max(items)[0]
    span = (last - first) // timedelta(days=1) + 1
    return Coverage(first, last, len(items), span - len(items), sum(size for _, size in items))
