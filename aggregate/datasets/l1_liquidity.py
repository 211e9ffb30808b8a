"""l1_liquidity: spread and depth at the best prices, last and on average over quote updates."""

from typing import ClassVar

import numpy as np

from aggregate.datasets.base import Dataset, Memory, Merge, ratio
from aggregate.datasets.quotes import (
    last_defined,
    last_two_sided,
    own_side,
    sum_and_count,
    with_averages,
)
from aggregate.groups import Array, Groups, Partial
from aggregate.intervals import Interval
from ingest.ticks import I32, I64, Quotes

COLUMNS = {
    "spread": "Best ask price − best bid price, quote units",
    "spread_bps": "Spread in basis points of the midprice",
    "spread_depth_ratio": "Spread / total depth",
    "total_depth": "Best bid quantity + best ask quantity, base units",
    "dollar_depth_bid": "Best bid price times its quantity, quote units",
    "dollar_depth_ask": "Best ask price times its quantity, quote units",
    "total_dollar_depth": "Dollar depth of both sides, quote units",
}
OF_ONE_SIDE = ("dollar_depth_bid", "dollar_depth_ask")


def _figures(bid_price: Array, bid: Array, ask_price: Array, ask: Array) -> Partial:
    """The seven figures of quotes (n,); NaN where a side is missing or a denominator is 0."""
    spread, depth = ask_price - bid_price, bid + ask
    dollar_bid, dollar_ask = bid_price * bid, ask_price * ask
    return {
        "spread": spread,
        "spread_bps": ratio(spread, (bid_price + ask_price) / 2) * 1e4,
        "spread_depth_ratio": ratio(spread, depth),
        "total_depth": depth,
        "dollar_depth_bid": dollar_bid,
        "dollar_depth_ask": dollar_ask,
        "total_dollar_depth": dollar_bid + dollar_ask,
    }


class L1Liquidity(Dataset):
    """Spread in quote units and in bps of the mid; depth in base units, dollar depth in quote."""

    name = "l1_liquidity"
    kind = "quotes"
    about = "Spread and depth at the best bid and ask."
    partial: ClassVar = {
        **{f"{side}_{of}": Merge.LAST_VALID for side in ("bid", "ask") for of in ("price", "qty")},
        **dict.fromkeys(OF_ONE_SIDE, Merge.LAST_VALID),
        **{f"{name}_sum": Merge.SUM for name in COLUMNS},
        **{f"{name}_n": Merge.TOTAL for name in COLUMNS},
    }
    columns = with_averages(COLUMNS)

    def from_ticks(self, ticks: Quotes, groups: Groups) -> Partial:
        out = last_two_sided(ticks, groups)
        each = _figures(ticks.bid_price, ticks.bid_qty, ticks.ask_price, ticks.ask_qty)
        for name in OF_ONE_SIDE:
            [out[name]] = last_defined(groups, ~np.isnan(each[name]), each[name])
        for name, values in each.items():
            out[f"{name}_sum"], out[f"{name}_n"] = sum_and_count(groups, values)
        return {name: out[name] for name in self.partial}

    def finish(
        self, code: I32, start: I64, partial: Partial, interval: Interval, memory: Memory | None
    ) -> Partial:
        out = _figures(*(partial[f"{s}_{of}"] for s in ("bid", "ask") for of in ("price", "qty")))
        for name in OF_ONE_SIDE:
            out[name] = own_side(out[name], partial[name])
        for name in COLUMNS:
            out[f"{name}_avg"] = ratio(partial[f"{name}_sum"], partial[f"{name}_n"])
        return out
