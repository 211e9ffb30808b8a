"""A unit's bars into the store: kept on local disk as they come, then each month file replaced.

    day ─▶ a parquet file a series in a temporary directory ─▶ lease ─▶ month file ─▶ manifest

Each file is replaced whole, and keeps the days that were not recomputed. The manifests come last:
a replay that was cut off has none, and does the unit again with the same outcome.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.errors import UserError
from publish.bar_files import Month, bars_writer, month_file
from publish.columns import Columns
from publish.layout import Series, month_key, month_prefix
from publish.lease import PATIENCE_S, Lease, Place, leased
from publish.merging import times
from publish.partitions import read_month, write_days
from publish.replay.manifest import (
    Manifest,
    code_version,
    day_digest,
    read_manifest,
    whole_digest,
    write_manifest,
)
from publish.store import Store

_THREADS = 4
_TEMPORARY = "perpflow-replay-"


class ReplayError(UserError):
    """The replay can't be made or published; the message names the input or the output."""


@dataclass(frozen=True, slots=True)
class Made:
    """What the bars of a unit are made of, for the manifests."""

    identity: str
    arrival: str
    settings: Mapping[str, Any]
    sources: Mapping[str, str]


@dataclass(slots=True)
class Changes:
    """What writing changes: rows, and a series' days; each new, same, different or gone."""

    rows: Counter[str] = field(default_factory=Counter)
    days: Counter[str] = field(default_factory=Counter)
    files: int = 0
    """Month files that are there now, or would be."""

    def any(self) -> bool:
        """Whether a row changes."""
        return any(n for what, n in self.rows.items() if what != "same")

    def add(self, other: "Changes") -> None:
        self.rows += other.rows
        self.days += other.days
        self.files += other.files


class _Spooled:
    """One series' bars on local disk, a row group a day."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.schema = schema
        self.days: dict[date, str] = {}
        """The digest of each day's rows."""
        self.counts: dict[date, int] = {}
        self.first = self.last = 0
        # What the file says of itself is known at its end: not in Arrow's copy of the schema.
        self._writer = bars_writer(str(path), schema, store_schema=False)

    def add(self, day: date, table: pa.Table) -> None:
        stamps = times(table)
        self.first, self.last = self.first or int(stamps[0]), int(stamps[-1])
        self.counts[day] = len(table)
        self.days[day] = day_digest(table)
        self._writer.write_table(table)

    def close(self, month: Month) -> None:
        self._writer.add_key_value_metadata(month.metadata())
        self._writer.close()

    def read(self) -> Iterator[tuple[date, pa.Table]]:
        with pq.ParquetFile(self.path) as file:
            for group, day in enumerate(self.days):
                table = file.read_row_group(group, use_threads=False)
                yield day, table.replace_schema_metadata(None)


class UnitWriter:
    """Takes a unit's days of bars, then publishes them. `dry`: only says what would change.

    `force`: days that are there with other rows are replaced too.
    """

    def __init__(
        self, store: Store, year: int, month: int, made: Made, *, force: bool, dry: bool
    ) -> None:
        self._store = store
        self._when = year, month
        self._made = made
        self._force = force
        self._dry = dry
        self._spooled: dict[Series, _Spooled] = {}
        self._directory = TemporaryDirectory(prefix=f"{_TEMPORARY}{os.getpid()}-")
        self.bars = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._directory.cleanup()

    def add(self, series: Series, day: date, table: pa.Table) -> None:
        """A series' days come in order."""
        if series not in self._spooled:
            path = Path(self._directory.name) / f"{len(self._spooled)}.parquet"
            self._spooled[series] = _Spooled(path, table.schema)
        self._spooled[series].add(day, table)
        self.bars += len(table)

    def publish(self, gaps: int) -> Changes:
        """Replace what differs. Raises `ReplayError` for days that are another's, `StoreError`."""
        for spooled in self._spooled.values():
            days = frozenset(spooled.days)
            spooled.close(Month(days, arrival=self._made.arrival, replay=self._made.identity))
        by_dataset: dict[str, list[Series]] = defaultdict(list)
        for series in sorted(self._spooled):
            by_dataset[series.dataset].append(series)
        changes = Changes()
        with ThreadPoolExecutor(_THREADS) as threads:
            for found in threads.map(self._publish, by_dataset.values()):
                changes.add(found)
            if not self._dry:
                names = [short_name(series) for series in sorted(self._spooled)]
                list(threads.map(lambda of: self._describe(of, names, gaps), self._spooled))
        return changes

    def _publish(self, of_dataset: Sequence[Series]) -> Changes:
        changes = Changes()
        if self._dry:
            for series in of_dataset:
                changes.add(self._compared(series, self._month(series)))
            return changes
        place = Place.of(of_dataset[0], *self._when)
        with leased(self._store, place, "replay", patience_s=PATIENCE_S) as lease:
            for series in of_dataset:
                changes.add(self._replace(series, lease))
        return changes

    def _month(self, series: Series) -> Month:
        return read_month(self._store, series, *self._when)

    def _replace(self, series: Series, lease: Lease) -> Changes:
        before, spooled = self._month(series), self._spooled[series]
        changes = self._compared(series, before)
        if before.replay == self._made.identity and not changes.any():
            return changes
        lease.keep()
        key = month_key(series, *self._when)
        if before == Month() and self._stands_alone(series):
            with self._store.replacing(key) as sink, spooled.path.open("rb") as source:
                shutil.copyfileobj(source, sink, 1 << 20)
            return changes
        write_days(
            self._store,
            series,
            spooled.days,
            spooled.read(),
            spooled.schema,
            arrival=self._made.arrival,
            replay=self._made.identity,
        )
        return changes

    def _stands_alone(self, series: Series) -> bool:
        """Whether the file can be as it is: no columns of other months, no open parts beside it."""
        if self._store.list(month_prefix(series, *self._when)):
            return False
        schema = self._spooled[series].schema
        fitted: pa.Schema = Columns(self._store).fit(series, schema.empty_table()).schema
        return bool(fitted.equals(schema))

    def _compared(self, series: Series, before: Month) -> Changes:
        """What would change. Raises `ReplayError` for rows that only force may replace."""
        spooled, changes = self._spooled[series], Changes(files=1)
        there = before.days & spooled.days.keys()
        changes.days["new"] += len(spooled.days) - len(there)
        digests = self._digests(series, before, there)
        other = {day for day in there if digests[day] != spooled.days[day]}
        changes.days["same"] += len(there) - len(other)
        forced = self._force or self._dry or before.replay == self._made.identity
        if other and not forced:
            raise ReplayError(held_already(self._store, series, sorted(other)))
        changes.days["different"] += len(other)
        for day, n in spooled.counts.items():
            if day not in other:
                changes.rows["same" if day in there else "new"] += n
        if other:
            with month_file(self._store, month_key(series, *self._when)) as file:
                for day, table in spooled.read():
                    if day in other:
                        _compare(file.rows_of(day), table, changes.rows)
        return changes

    def _digests(self, series: Series, before: Month, days: Any) -> dict[date, str]:
        """Of days that are there, from the manifest if there is one."""
        if not days:
            return {}
        made = read_manifest(self._store, series, *self._when) if before.replay else None
        if made is not None and made.replay == before.replay:
            return {day: made.days[str(day)] for day in days}
        with month_file(self._store, month_key(series, *self._when)) as file:
            return {day: day_digest(file.rows_of(day)) for day in days}

    def _describe(self, series: Series, names: Sequence[str], gaps: int) -> None:
        """Write the manifest of what is in the store now."""
        made, spooled = self._made, self._spooled[series]
        days, rows = dict(spooled.days), sum(spooled.counts.values())
        first, last = spooled.first, spooled.last
        kept: list[date] = []
        with month_file(self._store, month_key(series, *self._when)) as file:
            if file.month.replay != made.identity:
                return  # changed since by another, who did not want it described
            if file.month.days - spooled.days.keys():
                for day, table in file.days_but(spooled.days):
                    kept.append(day)
                    days[day] = day_digest(table)
                    stamps = times(table)
                    first, last = min(first, int(stamps[0])), max(last, int(stamps[-1]))
                    rows += len(table)
        manifest = Manifest(
            replay=made.identity,
            code=code_version(),
            settings=made.settings,
            arrival=made.arrival,
            sources=made.sources,
            rows=rows,
            first=_iso(first),
            last=_iso(last),
            gaps=gaps,
            digest=whole_digest(days),
            days={str(day): digest for day, digest in sorted(days.items())},
            kept=[str(day) for day in kept],
            series=names,
        )
        write_manifest(self._store, series, *self._when, manifest)


def sweep() -> None:
    """Remove what writers that were killed left on this machine: it may be large."""
    for path in Path(gettempdir()).glob(f"{_TEMPORARY}*-*"):
        pid = path.name.removeprefix(_TEMPORARY).partition("-")[0]
        with suppress(ValueError, OSError):
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                shutil.rmtree(path)


def held_already(store: Store, series: Series, days: Sequence[date]) -> str:
    """The message of days that only force replaces."""
    more = f" and {len(days) - 1} more days" if len(days) > 1 else ""
    return (
        f"{store.url} already holds {series.dataset} {series.interval} of {series.symbol} for "
        f"{days[0]}{more}: pass --force to replace them, or write to another --out"
    )


def short_name(series: Series) -> str:
    """What tells a unit's series apart."""
    return f"{series.dataset}/{series.interval}/{series.clock}"


def _compare(existing: pa.Table, table: pa.Table, rows: Counter[str]) -> None:
    """Count the rows of a day by what replacing `existing` by `table` does to them."""
    old, new = times(existing), times(table)
    _, at_old, at_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    same = np.ones(len(at_new), dtype=bool)
    for name in table.column_names:
        if name not in existing.column_names:
            continue
        before, after = (t[name].to_numpy() for t in (existing, table))
        before, after = before[at_old], after[at_new]
        same &= (before == after) | ((before != before) & (after != after))
    rows["same"] += int(same.sum())
    rows["different"] += int((~same).sum())
    rows["new"] += len(new) - len(at_new)
    rows["gone"] += len(old) - len(at_old)


def _iso(us: int) -> str:
    return datetime.fromtimestamp(us // 1_000_000, UTC).isoformat()
