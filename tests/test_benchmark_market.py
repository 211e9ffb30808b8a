"""The market of the benchmarks: seeded, in time order, and one day whatever its scale."""

import numpy as np
import pytest

from benchmarks import bench_rivals, flow_table, market
from ingest.ticks import Quotes, Trades


@pytest.mark.parametrize("make", [market.trades, market.quotes])
def test_a_seed_gives_one_market(make):
    one, same, other = (make(5000, 20, 60, seed=seed) for seed in (1, 1, 2))
    columns = zip(one.columns(), same.columns(), strict=True)
    assert all(np.array_equal(a, b) for a, b in columns)
    assert not np.array_equal(one.code, other.code)


@pytest.mark.parametrize("make", [market.trades, market.quotes])
def test_ticks_are_in_time_order_and_numbered_per_instrument(make):
    ticks = make(5000, 20, 60)
    assert len(ticks) == 5000
    assert (np.diff(ticks.exchange_ts) >= 0).all()
    assert ticks.exchange_ts.max() < (market.START + 60) * 10**9
    numbers = ticks.id if isinstance(ticks, Trades) else ticks.sequence
    for code in range(20):
        assert (np.diff(numbers[ticks.code == code]) == 1).all()
    if isinstance(ticks, Quotes):
        assert (ticks.bid_price < ticks.ask_price).all()


def test_the_scale_shortens_the_day_and_keeps_the_rate(monkeypatch):
    monkeypatch.setenv("PERPFLOW_BENCH_SCALE", "0.001")
    trades = market.day_of_trades()
    assert len(trades) == 20_000
    assert np.ptp(trades.exchange_ts) / 1e9 <= 86.4


def test_a_process_a_core_makes_the_table_of_one_core_to_the_last_bit():
    trades = market.trades(20_000, 30, 90)
    workers = flow_table.Workers(trades, 2)
    try:
        assert workers.run() > 0
        want = flow_table.flow_table(trades).sorted()
        workers.check(want)
        want["flow_entropy"][0] += 1e-16
        with pytest.raises(RuntimeError, match="process 0"):
            workers.check(want)
    finally:
        workers.close()


def test_parts_of_the_market_go_on_where_the_one_before_ended():
    first, second = (market.part(market.START + at, 60, 3000, 5) for at in (0, 60))
    for before, after in zip(first, second, strict=True):
        assert before.local_ts[-1] < after.local_ts[0]
    for code in range(5):
        assert first[0].id[first[0].code == code].max() < second[0].id[second[0].code == code].min()


def test_every_rival_form_computes_what_ours_does():
    """Polars and DuckDB as oracles of flow's 36 columns; raises for the first that differs."""
    results = bench_rivals._compare("flow", market.trades(20_000, 30, 90), 1.0)
    assert len(results) == 7 + 2 + 3
