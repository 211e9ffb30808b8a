"""Live = replay: what the raw archive gives by live's rules is what live published, bit for bit.

And the audit says by how much both are from the truth, why, and makes live's files the truth. The
run (audited_run.py): three simulated venues, two redundant collectors, everything that goes wrong.
"""

import re
from collections import Counter
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from aggregate.datasets import datasets
from aggregate.intervals import CLOCKS, INTERVALS, NS
from ingest.simulator import EXCHANGES
from publish.audit import command
from publish.audit.causes import CAUSES, Cause
from publish.audit.compare import compare
from publish.audit.plan import Wanted
from publish.audit.published import read_day
from publish.audit.report import EQUAL, AuditReport
from publish.audit.unit import KINDS
from publish.layout import Series
from publish.merging import times
from publish.replay.month import Account, MonthUnit, month_bars
from publish.replay.ticks_in import Area
from publish.settings import PublishSettings, Settings
from publish.store import Store
from tests.end_to_end.audited_run import LATENESS_NS, MIDNIGHT, RULES, SYMBOLS, Run, collect

SEED = 20261121
LAST, NEXT = date(2025, 10, 31), date(2025, 11, 1)
TRADE_ID = re.compile(rb'"(?:t|tradeId|tid)":"?(\d+)')


@pytest.mark.parametrize("seconds", [120.0, pytest.param(600.0, marks=pytest.mark.nightly)])
async def test_the_archive_gives_what_live_published_and_the_audit_makes_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    print(f"seed {SEED}")
    found = await collect(tmp_path, SEED, seconds, speed=5.0)
    symbols = {e: found.store.children(f"raw/trades/exchange={e}") for e in EXCHANGES}
    assert {e: len(of) for e, of in symbols.items()} == {e: len(of) for e, of in SYMBOLS.items()}
    area = Area(PublishSettings(url=found.store.url))
    units = [
        MonthUnit(area, exchange, name.removeprefix("symbol="), day.year, day.month, RULES)
        for exchange, names in symbols.items()
        for name in names
        for day in (LAST, NEXT)
    ]
    assert_replay_gives_what_live_published(found, units)

    monkeypatch.setattr(command, "rules_of", lambda _: RULES)
    settings = Settings(publish=area.place)
    first = command.audit(settings, Wanted(LAST.year, LAST.month, repair=True), 2)
    assert_only_what_was_injected_differs(first, found)
    again = command.audit(settings, Wanted(LAST.year, LAST.month), 2)
    assert again.exit_code == EQUAL
    assert again.causes().total() == 0
    assert again.bars == first.bars > 1000
    # Live's next day is as it was.
    assert_replay_gives_what_live_published(found, [u for u in units if u.month == NEXT.month])


def assert_replay_gives_what_live_published(found: Run, units: list[MonthUnit]) -> None:
    """To the last bit, of every window that live has closed."""
    bars: Counter[tuple[str, str, str]] = Counter()
    for unit in units:
        given = set()
        for series, day, table in month_bars(unit, Account()):
            given.add((series, day))
            until = found.sealed[series.exchange, series.clock]
            made = closed(table, series, until)
            published = closed(read_day(found.store, series, day), series, until)
            assert made.column_names == published.column_names or not len(published)
            differing = compare(made, published)
            assert not len(differing), (series, day, differing.start, differing.how)
            bars[series.dataset, series.interval, series.clock] += len(made)
        day = LAST if unit.month == LAST.month else NEXT
        for series in set(all_series(unit)) - {series for series, of in given if of == day}:
            assert not len(read_day(found.store, series, day)), (series, day)
    of_month = units[0].month == LAST.month
    wanted = {(d.name, i, c) for d in datasets() for i in INTERVALS for c in CLOCKS}
    assert not of_month or set(bars) == wanted
    assert min(n for key, n in bars.items() if key[1] == "1s") > 100, bars


def all_series(unit: MonthUnit) -> list[Series]:
    return [
        Series(dataset, unit.exchange, unit.symbol, interval, clock)
        for dataset in KINDS
        for interval in INTERVALS
        for clock in CLOCKS
    ]


def closed(table: pa.Table, series: Series, until: int) -> pa.Table:
    """The windows that end by then (s since the epoch)."""
    ends = times(table) // 1_000_000 + INTERVALS[series.interval].seconds
    return table.filter(pa.array(ends <= until))


def assert_only_what_was_injected_differs(report: AuditReport, found: Run) -> None:
    causes = report.causes()
    print({cause.value: n for cause, n in causes.items()})
    assert set(causes) == {Cause.LATE, Cause.HEALED, Cause.LAGGING, Cause.TOXICITY}
    assert report.exit_code == EQUAL  # all of it was repaired
    assert not report.waiting
    late = late_ticks(found.store)
    for unit in report.units:
        assert unit.completeness.missing == 0
        own = (unit.unit.live.exchange, unit.unit.live.symbol)
        for kind in ("trades", "quotes"):
            told = {why: unit.ticks.late[kind, why] for why in ("late", "healed")}
            assert told == {why: len(late[*own, kind, why]) for why in ("late", "healed")}
        for series, _, explained in unit.differences:
            for cause, why in ((Cause.LATE, "late"), (Cause.HEALED, "healed")):
                start = explained.start[explained.cause == CAUSES.index(cause)] // 1_000_000
                seconds = np.sort(late[*own, KINDS[series.dataset], why])
                inside = np.searchsorted(seconds, start)
                after = np.searchsorted(seconds, start + INTERVALS[series.interval].seconds)
                assert (after > inside).all(), series
    assert_injected_were_late(found)


def late_ticks(store: Store) -> dict[tuple[str, str, str, str], np.ndarray]:
    """By (exchange, symbol, kind, why): the exchange second (s) of each late tick, by SQL."""
    out = {}
    for kind in ("trades", "quotes"):
        healed = "origin <> 'live'" if kind == "trades" else "false"
        rows = duckdb.sql(f"""
            SELECT exchange, symbol, epoch_ns(exchange_timestamp) // {NS} AS second,
                CASE WHEN {healed} THEN 'healed' ELSE 'late' END AS why,
                epoch_ns(local_timestamp) - {NS} * (second + 1) >= {LATENESS_NS} AS late
            FROM read_parquet('{store.path("raw")}/{kind}/**/*.parquet', hive_partitioning = true)
            WHERE epoch_ns(exchange_timestamp) < {MIDNIGHT * NS}
        """).fetchnumpy()
        names = zip(*(rows[n].tolist() for n in ("exchange", "symbol", "why")), strict=True)
        keys = np.array(["|".join(of) for of in names])
        for key in np.unique(keys).tolist():
            of = key.split("|")
            for why in ("late", "healed"):
                out.setdefault((of[0], of[1], kind, why), np.empty(0, np.int64))
            out[of[0], of[1], kind, of[2]] = rows["second"][(keys == key) & rows["late"]]
    return out


def assert_injected_were_late(found: Run) -> None:
    """Trades that the simulator held back for longer than the limit, as far as they came live."""
    rows = duckdb.sql(f"""
        SELECT exchange, CAST(id AS BIGINT) AS id,
            epoch_ns(local_timestamp) - epoch_ns(exchange_timestamp) AS latency
        FROM read_parquet('{found.store.path("raw")}/trades/**/*.parquet', hive_partitioning = true)
        WHERE origin = 'live'
    """).fetchnumpy()
    for exchange in EXCHANGES:
        held = [
            int(n) for _, _, frame in found.faults.late[exchange] for n in TRADE_ID.findall(frame)
        ]
        mine = (rows["exchange"] == exchange) & np.isin(rows["id"], held)
        assert (rows["latency"][mine] >= LATENESS_NS).all()
        print(exchange, len(held), "trades held back,", int(mine.sum()), "came")
