"""l1_price and l1_liquidity by hand: one-sided books, empty sides, times that quotes stood."""

import math

import pytest

from aggregate.intervals import CLOCKS
from aggregate.shard import END, Rules, ShardAggregator
from tests.aggregate.helpers import batch, collect
from tests.aggregate.test_snapshot import quote

NO_BID = {"bid_price": math.nan, "bid_qty": math.nan}
NO_ASK = {"ask_price": math.nan, "ask_qty": math.nan}


def bars(*quotes, dataset, interval="15s", clock="exchange"):
    """{start_s: columns} of one symbol's quotes."""
    shard = ShardAggregator("binance-futures", Rules(lateness_ns=None, partial=True))
    shard.add(batch("quotes", quotes), "c1")
    made = collect(bar for c in CLOCKS for bar in shard.seal(c, END))
    return made[dataset, quotes[0]["symbol"], interval, clock]


def bar(*quotes, dataset, **more):
    [found] = bars(*quotes, dataset=dataset, **more).values()
    return found


def test_last_values_are_of_the_last_two_sided_update():
    quotes = (
        quote(60.0, bid_price=99.0, bid_qty=1.0, ask_price=101.0, ask_qty=3.0),
        quote(61.0, bid_price=98.0, **NO_ASK),
    )
    price = bar(*quotes, dataset="l1_price")
    assert [price[f"{s}_price"] for s in ("bid", "ask")] == [99.0, 101.0]
    assert [price[f"{s}_amount"] for s in ("bid", "ask")] == [1.0, 3.0]
    assert price["midprice"] == 100.0
    assert price["weighted_midprice"] == (99 * 3 + 101 * 1) / 4
    liquidity = bar(*quotes, dataset="l1_liquidity")
    assert liquidity["spread"] == 2.0
    assert liquidity["spread_bps"] == 200.0
    assert liquidity["spread_depth_ratio"] == 0.5
    assert liquidity["dollar_depth_bid"] == 99.0
    assert liquidity["total_dollar_depth"] == 99.0 + 303.0
    # The one-sided update counts in the averages of its own side.
    assert liquidity["dollar_depth_bid_avg"] == (99.0 + 98.0) / 2
    assert liquidity["dollar_depth_ask_avg"] == 303.0
    assert liquidity["spread_avg"] == 2.0


def test_without_a_two_sided_update_each_side_has_its_own_last():
    quotes = (quote(60.0, bid_price=98.0, bid_qty=2.0, **NO_ASK), quote(61.0, **NO_BID))
    price = bar(*quotes, dataset="l1_price")
    assert (price["bid_price"], price["bid_amount"]) == (98.0, 2.0)
    assert (price["ask_price"], price["ask_amount"]) == (101.0, 2.0)
    assert math.isnan(price["midprice"])
    assert math.isnan(price["weighted_midprice"])
    liquidity = bar(*quotes, dataset="l1_liquidity")
    assert liquidity["dollar_depth_bid"] == 196.0
    assert liquidity["dollar_depth_ask"] == 202.0
    both = ("spread", "spread_bps", "spread_depth_ratio", "total_depth", "total_dollar_depth")
    assert all(math.isnan(liquidity[name]) for name in both)
    assert all(math.isnan(liquidity[f"{name}_avg"]) for name in both)


def test_an_empty_book_has_updates_and_nothing_else():
    price = bar(quote(60.0, **NO_BID, **NO_ASK), dataset="l1_price", interval="1s")
    assert price.pop("quote_update_frequency") == price.pop("avg_update_interval") == 1.0
    assert all(math.isnan(value) for value in price.values())


def test_prices_are_weighted_by_how_long_they_stood_to_the_windows_end():
    quotes = (quote(63.0, bid_price=10.0), quote(64.0, bid_price=20.0), quote(67.0, bid_price=30.0))
    twap = bar(*quotes, dataset="l1_price")["bid_price_twap"]
    assert twap == pytest.approx((10 * 1 + 20 * 3 + 30 * 8) / 12, rel=1e-15)
    # What stood before the window's first update is not known to it: nothing is carried over.
    seconds = bars(*quotes, dataset="l1_price", interval="1s")
    assert {s: row["bid_price_twap"] for s, row in seconds.items()} == {
        63: 10.0,
        64: 20.0,
        67: 30.0,
    }


def test_the_time_an_empty_side_stood_counts_nowhere():
    quotes = (
        quote(60.0, bid_price=10.0),
        quote(61.0, **NO_BID),
        quote(70.0, bid_price=40.0, **NO_ASK),
        quote(73.0, **NO_BID, **NO_ASK),
    )
    price = bar(*quotes, dataset="l1_price")
    assert price["bid_price_twap"] == pytest.approx((10 * 1 + 40 * 3) / 4, rel=1e-15)
    assert price["ask_price_twap"] == 101.0


def test_of_updates_with_one_stamp_only_the_last_stands():
    quotes = [quote(60.5, bid_price=float(p), sequence=p) for p in (10, 20, 30)]
    price = bar(*quotes, dataset="l1_price")
    assert price["bid_price_twap"] == 30.0
    assert price["quote_update_frequency"] == 3 / 15
    assert price["avg_update_interval"] == 5.0


def test_no_amount_means_no_denominator():
    price = bar(quote(60.0, bid_qty=0.0, ask_qty=0.0), dataset="l1_price")
    assert price["midprice"] == 100.0
    for name in ("weighted_midprice", "bid_price_vwap", "ask_price_vwap"):
        assert math.isnan(price[name]), name
    liquidity = bar(quote(60.0, bid_qty=0.0, ask_qty=0.0), dataset="l1_liquidity")
    assert math.isnan(liquidity["spread_depth_ratio"])
    assert math.isnan(liquidity["spread_depth_ratio_avg"])
    assert liquidity["total_depth_avg"] == 0.0


def test_the_true_clock_weighs_by_arrival():
    quotes = (
        quote(60.0, bid_price=10.0, local_ts=60_500_000_000),
        quote(70.0, bid_price=20.0, local_ts=74_000_000_000),
    )
    twap = {c: bar(*quotes, dataset="l1_price", clock=c)["bid_price_twap"] for c in CLOCKS}
    assert twap["exchange"] == pytest.approx((10 * 10 + 20 * 5) / 15, rel=1e-15)
    assert twap["true"] == pytest.approx((10 * 13.5 + 20 * 1) / 14.5, rel=1e-15)
