"""Every dataset's columns, in the order in which DATASETS.md names them."""

import pytest

from aggregate.datasets import datasets

L1_IMBALANCE = ["imbalance", "imbalance_ratio", "bid_ask_ratio", "bid_percentage", "ask_percentage"]
L1_LIQUIDITY = [
    "spread",
    "spread_bps",
    "spread_depth_ratio",
    "total_depth",
    "dollar_depth_bid",
    "dollar_depth_ask",
    "total_dollar_depth",
]
COLUMNS = {
    "ohlcv": ["open", "high", "low", "close", "volume", "volume_notional"],
    "vtwap": ["vwap", "twap"],
    "l1_imbalance": L1_IMBALANCE + [f"{name}_avg" for name in L1_IMBALANCE],
    "l1_liquidity": L1_LIQUIDITY + [f"{name}_avg" for name in L1_LIQUIDITY],
    "l1_price": [
        "bid_price",
        "bid_amount",
        "ask_price",
        "ask_amount",
        "midprice",
        "weighted_midprice",
        "bid_price_twap",
        "ask_price_twap",
        "bid_price_vwap",
        "ask_price_vwap",
        "quote_update_frequency",
        "avg_update_interval",
    ],
}
NUMBER = {
    "flow": 36, "ohlcv": 6, "vtwap": 2, "l1_imbalance": 10, "l1_liquidity": 14, "l1_price": 12,
}  # fmt: skip


def test_the_registry_has_every_dataset_once():
    assert {d.name: len(d.columns) for d in datasets()} == NUMBER


@pytest.mark.parametrize("dataset", COLUMNS)
def test_columns_are_in_the_documented_order(dataset):
    [found] = [d for d in datasets() if d.name == dataset]
    assert list(found.columns) == COLUMNS[dataset]
