"""A month's bars are those of one pass over all ticks there are, whatever came when."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from aggregate.bars import BarBatch
from aggregate.intervals import CLOCKS, INTERVALS, NS
from aggregate.shard import END, Rules, ShardAggregator
from publish import raw_days
from publish.layout import Series
from publish.replay import month as month_module
from publish.replay.month import Account, MonthUnit, inputs, month_bars
from publish.replay.plan import archived_units
from publish.replay.ticks_in import Area
from publish.settings import PublishSettings
from publish.store import Store
from tests.publish.replay.raw_archives import Seeded, day_start, seeded, write_archive

SEED = 11
BTC = "perpetual-BTC-USDT:USDT"
DAYS = [date(2026, 9, 29) + timedelta(days=i) for i in range(5)]
"""Over the end of a month."""
TRUTH = Rules(lateness_ns=None)


def one_pass(of: Seeded, rules: Rules) -> dict[Series, pa.Table]:
    """All bars of all ticks at once."""
    shard = ShardAggregator(of.exchange, rules)
    shard.cover([of.symbol], of.covered_from, of.covered_from)
    for (_, collector), ticks in of.ticks.items():
        shard.add(ticks, collector)
    found: dict[Series, list[pa.Table]] = {}
    for clock in CLOCKS:
        for batch in shard.seal(clock, END):
            if isinstance(batch, BarBatch):
                series = Series(batch.dataset, of.exchange, of.symbol, batch.interval, clock)
                found.setdefault(series, []).append(batch.table().drop_columns("symbol"))
    return {series: pa.concat_tables(tables) for series, tables in found.items()}


def of_month(tables: dict[Series, pa.Table], year: int, month: int) -> dict[Series, pa.Table]:
    begin = datetime(year, month, 1, tzinfo=UTC).timestamp()
    end = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
    out = {}
    for series, table in tables.items():
        starts = table["time"].cast(pa.int64()).to_numpy() / 1e6
        rows = table.filter(pa.array((starts >= begin) & (starts < end)))
        if len(rows):
            out[series] = rows.combine_chunks()
    return out


def replayed(unit: MonthUnit, account: Account | None = None) -> dict[Series, pa.Table]:
    found: dict[Series, list[pa.Table]] = {}
    for series, day, table in month_bars(unit, account or Account()):
        starts = table["time"].cast(pa.int64()).to_numpy() // 10**6
        assert (day_start(day) <= starts).all()
        assert (starts < day_start(day + timedelta(days=1))).all()
        found.setdefault(series, []).append(table)
    return {series: pa.concat_tables(t).combine_chunks() for series, t in found.items()}


def unit_of(store: Store, of: Seeded, month: int, rules: Rules = TRUTH, **more) -> MonthUnit:
    area = Area(PublishSettings(url=store.url))
    return MonthUnit(area, of.exchange, of.symbol, 2026, month, rules, **more)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path}")


@pytest.mark.parametrize("exchange", ["binance-futures", "hyperliquid-perps"])
@pytest.mark.parametrize("lateness", [None, 5 * NS])
def test_every_bar_of_every_month(
    store: Store, exchange: str, lateness: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_days, "ROW_GROUP", 500)
    of = seeded(SEED, exchange, BTC, DAYS, 4000)
    write_archive(store, [of])
    rules = Rules(lateness_ns=lateness)
    want = one_pass(of, rules)
    rows = 0
    for month in (9, 10):
        got = replayed(unit_of(store, of, month, rules))
        expected = of_month(want, 2026, month)
        assert got.keys() == expected.keys()
        for series, table in got.items():
            assert table.equals(expected[series]), (series, f"seed {SEED}")
            rows += len(table)
    assert rows > 10_000


def test_days_that_are_not_over_are_read_from_chunks(store: Store) -> None:
    of = seeded(SEED, "okx-perps", BTC, DAYS, 2000)
    write_archive(store, [of], opened=DAYS[3])
    expected = of_month(one_pass(of, TRUTH), 2026, 10)
    got = replayed(unit_of(store, of, 10))
    assert got.keys() == expected.keys()
    for series, table in got.items():
        assert table.equals(expected[series]), series


def test_windows_over_a_missing_day_are_withheld(store: Store) -> None:
    of = seeded(SEED, "binance-futures", BTC, DAYS, 4000)
    missing = DAYS[1]
    write_archive(store, [of], leave_out=[missing])
    [september, _] = archived_units(Area(PublishSettings(url=store.url)), TRUTH)
    low, high = day_start(missing), day_start(DAYS[2])
    assert september.spans[0][1] == low * NS
    assert september.spans[1][0] == high * NS
    account = Account()
    got = replayed(september, account)
    for series, table in got.items():
        starts = table["time"].cast(pa.int64()).to_numpy() // 10**6
        length = INTERVALS[series.interval].seconds
        # On the exchange's clock the last ticks of the day before would have come on that day.
        end = low if series.clock == "true" else low - 5
        assert ((starts + length <= end) | (starts >= high)).all(), series
    assert Series("flow", of.exchange, of.symbol, "1d", "true") in got
    assert account.dropped["exchange", "trades", "withheld"] > 0
    partial = replayed(replace(september, rules=replace(TRUTH, partial=True)))
    assert len(partial) > len(got)


def test_ticks_are_counted_in_the_month_they_came_in(store: Store) -> None:
    of = seeded(SEED, "binance-futures", BTC, DAYS, 2000)
    write_archive(store, [of])
    accounts = []
    for month in (9, 10):
        accounts.append(Account())
        replayed(unit_of(store, of, month), accounts[-1])
    edge = day_start(date(2026, 10, 1)) * NS
    for kind in ("trades", "quotes"):
        stamps = [t.local_ts for (which, _), t in of.ticks.items() if which == kind]
        before = sum(int((at < edge).sum()) for at in stamps)
        assert accounts[0].read[kind] == before
        assert accounts[1].read[kind] == sum(map(len, stamps)) - before
    off_book = sum(int(t.off_book.sum()) for (k, _), t in of.ticks.items() if k == "trades")
    counted = sum(a.dropped["both", "trades", "not_a_trade"] for a in accounts)
    assert counted == off_book


def test_what_is_held_is_bounded_by_row_groups(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_days, "ROW_GROUP", 1000)
    of = seeded(SEED, "binance-futures", BTC, DAYS[2:], 30_000, stragglers=3)
    write_archive(store, [of])
    most = 0
    seal = ShardAggregator.seal

    def watched(shard: ShardAggregator, clock: str, cut: int) -> list[Any]:
        nonlocal most
        held = sum(seconds.count_below(END * NS) for seconds in shard._seconds.values())
        most = max(most, held)
        return seal(shard, clock, cut)

    monkeypatch.setattr(ShardAggregator, "seal", watched)
    account = Account()
    replayed(unit_of(store, of, 10), account)
    assert account.read.total() > 300_000
    # Of each kind and clock a row group, what overlaps it, and the few that come first; a tenth of
    # the ticks is in the bursts at midnight, which lie in one second.
    assert most < 80_000


def test_a_clock_far_behind_the_venues_loses_nothing_at_the_edge(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ticks of the new month came in the old one, more of them than are kept for their ids."""
    monkeypatch.setattr(month_module, "KEPT_ROWS", 10)
    of = seeded(SEED, "binance-futures", BTC, DAYS[:4], 4000, behind_ns=40 * NS)
    write_archive(store, [of])
    want = one_pass(of, TRUTH)
    for month in (9, 10):
        got, expected = replayed(unit_of(store, of, month)), of_month(want, 2026, month)
        assert got.keys() == expected.keys()
        for series, table in got.items():
            assert table.equals(expected[series]), (series, f"seed {SEED}")


def test_what_an_archive_gets_later_leaves_a_month_that_is_over_as_it_is(store: Store) -> None:
    of = seeded(SEED, "binance-futures", BTC, DAYS, 300, stragglers=0)
    write_archive(store, [of], leave_out=DAYS[4:])
    [september, _] = archived_units(Area(PublishSettings(url=store.url)), TRUTH)
    before = inputs(september)
    write_archive(store, [of])
    [september, _] = archived_units(Area(PublishSettings(url=store.url)), TRUTH)
    assert inputs(september) == before
