"""flow: taker order flow by side and size, its entropy and its toxicity score."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from aggregate.datasets.base import Column, Dataset, Memory, Merge, ratio, share
from aggregate.expanding import ExpandingZ
from aggregate.groups import Array, Groups, Partial
from aggregate.intervals import Interval
from ingest.ticks import F64, I32, I64, Trades

SIDES = ("buy", "sell")
SIZES = ("small", "medium", "large")
MEDIUM_FROM, LARGE_FROM = 100.0, 1000.0
"""Size classes by a print's notional, in quote units."""


def _buckets() -> Iterator[tuple[str, str]]:
    for side in SIDES:
        for size in SIZES:
            yield side, size


HEAD = {
    "taker_buy_volume": Column("Quantity bought by takers, base units."),
    "taker_sell_volume": Column("Quantity sold by takers, base units."),
    "taker_buy_count": Column("Number of trades whose taker bought.", "int64"),
    "taker_sell_count": Column("Number of trades whose taker sold.", "int64"),
    "volume_delta": Column("Taker buy volume − taker sell volume, base units."),
    "volume_delta_notional": Column("Value bought − value sold by takers, quote units."),
    "flow_entropy": Column(
        "Entropy (nats, at most ln 2) of the buy share of volume: 0 is one-sided, ln 2 balanced."
    ),
    "flow_toxicity_score": Column(
        "Product of the z-scores of volume_delta_notional and of realised volatility, both over "
        "the bars of the month so far; null for the month's first bar."
    ),
    "taker_buy_sell_ratio": Column("Buy volume / sell volume; null without sells."),
    "taker_buy_sell_count_ratio": Column("Buy count / sell count; null without sells."),
    "taker_buy_sell_percentage": Column("Buy volume's share of the volume, from 0 to 1."),
    "taker_buy_sell_count_percentage": Column("Buys' share of the trades, from 0 to 1."),
}
SIZE_CLASSES = {
    "small": "small (notional below 100)",
    "medium": "medium (notional from 100, below 1000)",
    "large": "large (notional of 1000 or more)",
}


def _columns() -> dict[str, Column]:
    """DATASETS.md's order: 12 figures, then by side and size, then the shares."""
    columns = dict(HEAD)
    for side, size in _buckets():
        label, trades = f"taker_{side}_{size}_order", f"{SIZE_CLASSES[size]} taker {side}s"
        columns[f"{label}_volume"] = Column(f"Value of {trades}, quote units.")
        columns[f"{label}_count"] = Column(f"Number of {trades}.", "int64")
    for side in SIDES:
        for size, which in SIZE_CLASSES.items():
            columns[f"taker_{side}_{size}_order_percentage"] = Column(
                f"Value of {which} taker {side}s / quantity of all taker {side}s: unbounded, the "
                "three sizes sum to the side's VWAP; null without trades of the side."
            )
        for size, which in SIZE_CLASSES.items():
            columns[f"taker_{side}_{size}_order_count_percentage"] = Column(
                f"Share of {which} trades among the taker {side}s, from 0 to 1; null without any."
            )
    return columns


def squared_returns(price: Array, groups: Groups) -> F64:
    """Σ (pᵢ/pᵢ₋₁ − 1)² over the consecutive prices of each group; 0 for one price."""
    squares = np.empty(len(price))
    squares[:1] = 0.0
    np.divide(price[1:], price[:-1], out=squares[1:])
    squares -= 1.0
    squares *= squares
    squares[groups.starts] = 0.0
    return groups.sum(squares)


def entropy(p: F64) -> F64:
    """−(p·ln p + (1−p)·ln(1−p)) in nats, 0·ln 0 = 0; NaN stays NaN."""
    q = 1.0 - p
    out = p * np.log(np.where(p == 0, 1.0, p))
    out += q * np.log(np.where(q == 0, 1.0, q))
    # 0 − x, not −x: a window of one side has entropy 0, not −0.
    return np.subtract(0.0, out)


class Flow(Dataset):
    """36 columns. `toxicity_reset` is "month" or "day": where the expanding z-scores restart."""

    name = "flow"
    kind = "trades"
    about = "Taker order flow by side and by size of trade: volume, counts, entropy, toxicity."
    partial: ClassVar = {
        "first": Merge.FIRST,
        "last": Merge.LAST,
        "rv2": Merge.SUM,
        **{f"{side}_qty": Merge.SUM for side in SIDES},
        **{f"{side}_{size}_notional": Merge.SUM for side, size in _buckets()},
        **{f"{side}_{size}_count": Merge.TOTAL for side, size in _buckets()},
    }
    columns = _columns()

    def __init__(self, toxicity_reset: str = "month") -> None:
        self.toxicity_reset = toxicity_reset

    def from_ticks(self, ticks: Trades, groups: Groups) -> Partial:
        place = (ticks.notional >= MEDIUM_FROM).view(np.uint8)
        place += (ticks.notional >= LARGE_FROM).view(np.uint8)
        place += (ticks.side < 0) * np.uint8(len(SIZES))
        # Bucket-major, so that each bucket's column is contiguous: (side, size, group).
        bucket = place.astype(np.int64)
        bucket *= groups.n
        bucket += groups.id

        def sums(values: Array | None) -> Array:
            return np.bincount(bucket, weights=values, minlength=groups.n * 6).reshape(6, groups.n)

        notional, qty = sums(ticks.notional), sums(ticks.qty)
        single = bool((ticks.count == 1).all())
        counts = sums(None if single else ticks.count).astype(np.int64, copy=False)
        out: Partial = {
            "first": groups.first(ticks.price),
            "last": groups.last(ticks.price),
            "rv2": squared_returns(ticks.price, groups),
            "buy_qty": qty[0] + qty[1] + qty[2],
            "sell_qty": qty[3] + qty[4] + qty[5],
        }
        for i, (side, size) in enumerate(_buckets()):
            out[f"{side}_{size}_notional"] = notional[i]
        for i, (side, size) in enumerate(_buckets()):
            out[f"{side}_{size}_count"] = counts[i]
        return out

    def merge(self, partial: Partial, groups: Groups) -> Partial:
        """rv²(a∪b) = rv²(a) + rv²(b) + (first_b/last_a − 1)²; the rest by the default rules."""
        link = np.empty(len(groups.id))
        np.divide(partial["first"][1:], partial["last"][:-1], out=link[1:])
        link -= 1.0
        link *= link
        link[groups.starts] = 0.0
        return super().merge({**partial, "rv2": partial["rv2"] + link}, groups)

    def memory(self) -> Memory:
        return ExpandingZ(2, self.toxicity_reset)

    def finish(
        self, code: I32, start: I64, partial: Partial, interval: Interval, memory: Memory | None
    ) -> Partial:
        assert isinstance(memory, ExpandingZ)
        notional, count, side_count = {}, {}, {}
        for side in SIDES:
            small, medium, large = (partial[f"{side}_{size}_notional"] for size in SIZES)
            notional[side] = small + medium + large
            counts = [partial[f"{side}_{size}_count"] for size in SIZES]
            count[side] = counts
            side_count[side] = counts[0] + counts[1] + counts[2]
        buy, sell = partial["buy_qty"], partial["sell_qty"]
        n_buy, n_sell = side_count["buy"], side_count["sell"]
        bought = share(buy, buy + sell)
        delta_notional = notional["buy"] - notional["sell"]
        z = memory.score(code, start, np.stack([delta_notional, np.sqrt(partial["rv2"])]))
        out: Partial = {
            "taker_buy_volume": buy,
            "taker_sell_volume": sell,
            "taker_buy_count": n_buy,
            "taker_sell_count": n_sell,
            "volume_delta": buy - sell,
            "volume_delta_notional": delta_notional,
            "flow_entropy": entropy(bought),
            "flow_toxicity_score": z[0] * z[1],
            "taker_buy_sell_ratio": ratio(buy, sell),
            "taker_buy_sell_count_ratio": ratio(n_buy, n_sell),
            "taker_buy_sell_percentage": bought,
            "taker_buy_sell_count_percentage": share(n_buy, n_buy + n_sell),
        }
        for side, qty in (("buy", buy), ("sell", sell)):
            for i, size in enumerate(SIZES):
                label = f"taker_{side}_{size}_order"
                out[f"{label}_volume"] = partial[f"{side}_{size}_notional"]
                out[f"{label}_count"] = count[side][i]
                out[f"{label}_percentage"] = share(out[f"{label}_volume"], qty)
                out[f"{label}_count_percentage"] = share(count[side][i], side_count[side])
        return {name: out[name] for name in self.columns}
