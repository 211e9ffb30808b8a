"""Live = replay: what the raw archive gives by live's rules is what live published, bit for bit.

And the audit says by how much both are from the truth, why, and makes live's files the truth. The
run (audited_run.py): three simulated venues, two redundant collectors, everything that goes wrong.
"""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import date
from itertools import product
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
from publish.layout import CLOSED, OPEN, Series, parse_part_key
from publish.merging import times
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
    replayed = await replay_of(found.store, tmp_path / "replayed")
    assert_same_bars(found, replayed, (LAST, NEXT))

    monkeypatch.setattr(command, "rules_of", lambda _: RULES)
    settings = Settings(publish=PublishSettings(url=found.store.url))
    first = command.audit(settings, Wanted(LAST.year, LAST.month, repair=True), 2)
    assert_only_what_was_injected_differs(first, found)
    again = command.audit(settings, Wanted(LAST.year, LAST.month), 2)
    assert again.exit_code == EQUAL
    assert again.causes().total() == 0
    assert again.bars == first.bars > 1000
    assert_same_bars(found, replayed, (NEXT,))  # live's own goes on as it was


async def replay_of(archive: Store, out: Path) -> Store:
    """What `perpflow replay` makes of the archive, by the rules of live."""
    rules = ("--lateness", "5s", "--partial")
    command = [sys.executable, "-m", "perpflow", "replay", archive.url, *rules]
    process = await asyncio.create_subprocess_exec(*command, "--out", f"file://{out}")
    assert await asyncio.wait_for(process.wait(), 120) == 0
    return Store(f"file://{out}")


def assert_same_bars(found: Run, replayed: Store, days: Sequence[date]) -> None:
    """To the last bit, of every window that live has closed, and of every series."""
    series = all_series(found.store)
    assert series == all_series(replayed)
    symbols = sum(map(len, SYMBOLS.values()))
    assert len(series) == symbols * len(datasets()) * len(INTERVALS) * len(CLOCKS)
    bars: Counter[tuple[str, str, str]] = Counter()
    for one, day in product(sorted(series), days):
        until = found.sealed[one.exchange, one.clock]
        live, again = (
            closed(read_day(store, one, day), one, until) for store in (found.store, replayed)
        )
        differing = compare(again, live)
        assert not len(differing), (one, day, differing.start, differing.how)
        assert live.column_names == again.column_names or not len(live)
        bars[one.dataset, one.interval, one.clock] += len(live)
    assert min(n for (_, interval, _), n in bars.items() if interval == "1s") > 100, bars
    if LAST in days:
        assert min(bars.values()) >= symbols


def all_series(store: Store) -> set[Series]:
    parts = [parse_part_key(key)[0] for key in store.list(OPEN)]
    return {*parts, *(series_of(key) for key in store.list(CLOSED))}


def series_of(key: str) -> Series:
    """Of a month file."""
    _, dataset, *pairs, _ = key.split("/")
    of = dict(pair.split("=", 1) for pair in pairs)
    return Series(dataset, of["exchange"], of["symbol"], of["interval"], of["timestamp"])


def closed(table: pa.Table, series: Series, until: int) -> pa.Table:
    """The windows that end by then (s since the epoch)."""
    ends = times(table) // 1_000_000 + INTERVALS[series.interval].seconds
    return table.filter(pa.array(ends <= until))


def assert_only_what_was_injected_differs(report: AuditReport, found: Run) -> None:
    causes = report.causes()
    print({cause.value: n for cause, n in causes.items()})
    # Late ticks of the one that was stopped may be in every window that healed ones are in.
    assert set(causes) - {Cause.HEALED} == {Cause.LATE, Cause.LAGGING, Cause.TOXICITY}
    assert sum(unit.ticks.late["trades", "healed"] for unit in report.units) > 0
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
