"""One instrument's month: recomputed from the raw archive, held against what is published."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aggregate.datasets import datasets
from aggregate.intervals import INTERVALS, LADDER
from publish.audit.accounts import Completeness, TickAccount
from publish.audit.causes import Cause, Explained, explain
from publish.audit.compare import Differences, compare
from publish.audit.published import read_day
from publish.audit.repair import repair
from publish.audit.spool import Spool
from publish.exclusions import MEMORY_NS
from publish.layout import Series
from publish.merging import EPOCH
from publish.partitions import read_month
from publish.raw_chunks import DAY_NS, GAPS, QUOTES, SCHEMAS, TRADES
from publish.raw_pieces import read_piece, read_ticks
from publish.raw_rows import gaps
from publish.replay.month import Account, MonthUnit, month_bars
from publish.replay.ticks_in import LOOK_AHEAD_NS, RawTicks
from publish.store import Store

KINDS = {of.name: of.kind for of in datasets()}
Place = tuple[Series, date]


@dataclass(frozen=True, slots=True)
class AuditUnit:
    """What to audit: `days` of a month. A plain value, for any process.

    `live` is the month by the rules that live ran under.
    """

    live: MonthUnit
    days: tuple[date, ...]
    repair: bool = False

    @property
    def truth(self) -> MonthUnit:
        """The same with nothing too late."""
        return replace(self.live, rules=replace(self.live.rules, lateness_ns=None))


@dataclass(slots=True)
class UnitReport:
    """What was found."""

    unit: AuditUnit
    ticks: TickAccount
    completeness: Completeness
    gaps: list[dict[str, Any]]
    """As the raw archive has them, in order of arrival; stamps in ns."""
    read: Counter[str] = field(default_factory=Counter)
    """Ticks that came in the whole month, whatever days are audited, by kind."""
    duplicates: Counter[str] = field(default_factory=Counter)
    """Copies among these."""
    bars: int = 0
    """Compared: those that the ticks give."""
    differences: list[tuple[Series, date, Explained]] = field(default_factory=list)
    repaired: list[tuple[Series, date]] = field(default_factory=list)

    def causes(self) -> Counter[Cause]:
        """Bars that differ (and have been repaired, if that was asked for), by cause."""
        found: Counter[Cause] = Counter()
        for _, _, explained in self.differences:
            found.update(explained.count())
        return found


def audit_unit(unit: AuditUnit) -> UnitReport:
    """Compare, explain and, if that is wanted, repair. Raises `StoreError`."""
    store = unit.live.area.open()
    report = _account(unit)
    with TemporaryDirectory(prefix="perpflow-audit-") as directory:
        spool = Spool(Path(directory))
        found = _compared(unit, store, report, spool)
        if found:
            report.differences = list(_explained(unit, store, report, found))
            if unit.repair:
                report.repaired = repair(store, report.differences, spool)
    return report


def _account(unit: AuditUnit) -> UnitReport:
    live = unit.live
    start = (min(unit.days) - EPOCH).days * DAY_NS
    end = ((max(unit.days) - EPOCH).days + 1) * DAY_NS
    assert live.rules.lateness_ns is not None
    account = TickAccount(live.exchange, start, end, live.rules.lateness_ns)
    within = start - MEMORY_NS, end + LOOK_AHEAD_NS
    ticks = RawTicks(live.area, live.exchange, live.symbol, *within)
    for kind in (TRADES, QUOTES):
        for piece in ticks.pieces(kind):
            if piece.high >= start - MEMORY_NS and piece.earliest < end + MEMORY_NS:
                for _, batch in read_ticks(ticks.store, kind, piece, [live.symbol]):
                    account.add(batch)
    found = _gaps(ticks)
    complete = account.completeness(found)
    for i, name in enumerate(("exchange_timestamp", "local_timestamp")):
        found = found.set_column(i, name, found[name].cast(pa.int64()))
    during = pc.and_(
        pc.less(found["exchange_timestamp"], end),
        pc.greater_equal(found["local_timestamp"], start),
    )
    return UnitReport(unit, account, complete, found.filter(during).to_pylist())


def _gaps(ticks: RawTicks) -> pa.Table:
    """As the archive's day files have them, each once."""
    tables = [read_piece(ticks.store, GAPS, piece) for piece in ticks.pieces(GAPS)]
    return gaps(pa.concat_tables([SCHEMAS[GAPS].empty_table(), *tables]).unify_dictionaries())


def _compared(
    unit: AuditUnit, store: Store, report: UnitReport, spool: Spool
) -> dict[Place, Differences]:
    """The days that differ from the truth; of what is to be repaired the truth is spooled."""
    found = {}
    seen: set[Place] = set()
    account = Account()
    for series, day, truth in month_bars(unit.truth, account):
        if day in unit.days:
            seen.add((series, day))
            report.bars += len(truth)
            differences = compare(truth, read_day(store, series, day))
            if len(differences):
                found[series, day] = differences
                if unit.repair:
                    spool.put(series, day, truth)
    for series, day in _places(unit):
        if (series, day) not in seen:
            published = read_day(store, series, day)
            if len(published):
                nothing = published.slice(0, 0)
                found[series, day] = compare(nothing, published)
                if unit.repair:
                    spool.put(series, day, nothing)
    for kind in (TRADES, QUOTES):
        report.read[kind] = account.read[kind]
        report.duplicates[kind] = account.dropped["exchange", kind, "duplicate"]
    return found


def _places(unit: AuditUnit) -> Iterator[Place]:
    live = unit.live
    for dataset, interval, clock, day in product(KINDS, LADDER, live.clocks, unit.days):
        yield Series(dataset, live.exchange, live.symbol, interval.name, clock), day


def _explained(
    unit: AuditUnit, store: Store, report: UnitReport, found: Mapping[Place, Differences]
) -> Iterator[tuple[Series, date, Explained]]:
    """Why, by what the rules of live give."""
    as_live = {}
    rewritten: dict[Series, bool] = {}
    account = Account()
    for series, day, made in month_bars(unit.live, account):
        if (series, day) in found:
            as_live[series, day] = compare(made, read_day(store, series, day)).start
    lagging = any(n for (_, _, why), n in account.dropped.items() if why == "source_lagging")
    for (series, day), differences in found.items():
        unlike = as_live.get((series, day), differences.start)
        if series not in rewritten:
            rewritten[series] = bool(read_month(store, series, day.year, day.month).arrival)
        explained = explain(
            differences,
            ~np.isin(differences.start, unlike) | rewritten[series],
            INTERVALS[series.interval].seconds,
            series.clock,
            KINDS[series.dataset],
            report.ticks,
            lagging=lagging,
        )
        yield series, day, explained
