"""l1_price: best prices and amounts, mid and micro-price, time- and quantity-weighted quotes."""

from typing import ClassVar

import numpy as np

from aggregate.datasets.base import Column, Dataset, Memory, Merge, ratio
from aggregate.datasets.quotes import last_defined, last_two_sided, own_side, sum_and_count
from aggregate.groups import Array, Groups, Partial
from aggregate.intervals import NS, Interval
from ingest.ticks import F64, I32, I64, Quotes

SIDES = ("bid", "ask")


class L1Price(Dataset):
    """A time-weighted price weighs each price by how long (ns) it stood, to the window's end.

    While a side is empty nothing stands there: that time counts in neither sum. `*_standing` is
    the price of the window's very last update, NaN when that side was empty in it.
    """

    name = "l1_price"
    kind = "quotes"
    about = "Best prices and quantities, midprice and micro-price, average quotes, quote activity."
    partial: ClassVar = {
        **{f"{side}_{of}": Merge.LAST_VALID for side in SIDES for of in ("price", "qty")},
        **{f"{side}_own_{of}": Merge.LAST_VALID for side in SIDES for of in ("price", "qty")},
        **{f"{side}_notional_sum": Merge.SUM for side in SIDES},
        **{f"{side}_qty_sum": Merge.SUM for side in SIDES},
        **{f"{side}_standing": Merge.LAST for side in SIDES},
        **{f"{side}_price_ns": Merge.SUM for side in SIDES},
        **{f"{side}_ns": Merge.TOTAL for side in SIDES},
        "first_ns": Merge.FIRST,
        "last_ns": Merge.LAST,
        "updates": Merge.TOTAL,
    }
    columns: ClassVar = {
        "bid_price": Column("Best bid price at the last update, quote units."),
        "bid_amount": Column("Quantity at the best bid at the last update, base units."),
        "ask_price": Column("Best ask price at the last update, quote units."),
        "ask_amount": Column("Quantity at the best ask at the last update, base units."),
        "midprice": Column("(bid + ask) / 2 at the last update."),
        "weighted_midprice": Column(
            "Micro-price at the last update: each price weighted by the other side's quantity."
        ),
        "bid_price_twap": Column("Best bid price, weighted by how long it stood."),
        "ask_price_twap": Column("Best ask price, weighted by how long it stood."),
        "bid_price_vwap": Column("Best bid price, weighted by the quantity at each update."),
        "ask_price_vwap": Column("Best ask price, weighted by the quantity at each update."),
        "quote_update_frequency": Column("Quote updates per second."),
        "avg_update_interval": Column("Seconds of the window per quote update."),
    }

    def from_ticks(self, ticks: Quotes, groups: Groups) -> Partial:
        assert groups.ts is not None
        out = last_two_sided(ticks, groups)
        stood = np.empty(len(groups.ts), dtype=np.int64)
        np.subtract(groups.ts[1:], groups.ts[:-1], out=stood[:-1])
        stood[groups.ends - 1] = 0
        for side in SIDES:
            price, qty = getattr(ticks, f"{side}_price"), getattr(ticks, f"{side}_qty")
            present = ~np.isnan(qty)
            own = last_defined(groups, present, price, qty)
            out[f"{side}_own_price"], out[f"{side}_own_qty"] = own
            out[f"{side}_notional_sum"], _ = sum_and_count(groups, price * qty)
            out[f"{side}_qty_sum"], _ = sum_and_count(groups, qty)
            out[f"{side}_standing"] = groups.last(price)
            out[f"{side}_price_ns"], out[f"{side}_ns"] = _stood(groups, price, stood)
        out["first_ns"], out["last_ns"] = groups.first(groups.ts), groups.last(groups.ts)
        out["updates"] = groups.ends - groups.starts
        return {name: out[name] for name in self.partial}

    def merge(self, partial: Partial, groups: Groups) -> Partial:
        """The last price of a child stands until the first update of the next; then they add."""
        gap = np.empty(len(groups.id), dtype=np.int64)
        np.subtract(partial["first_ns"][1:], partial["last_ns"][:-1], out=gap[:-1])
        gap[groups.ends - 1] = 0
        more = dict(partial)
        for side in SIDES:
            _extend(more, side, gap)
        return super().merge(more, groups)

    def finish(
        self, code: I32, start: I64, partial: Partial, interval: Interval, memory: Memory | None
    ) -> Partial:
        whole = dict(partial)
        left = (start + interval.seconds) * NS - partial["last_ns"]
        for side in SIDES:
            _extend(whole, side, left)
        bid, bid_qty, ask, ask_qty = (
            partial[f"{s}_{of}"] for s in SIDES for of in ("price", "qty")
        )
        updates = partial["updates"]
        return {
            "bid_price": own_side(bid, partial["bid_own_price"]),
            "bid_amount": own_side(bid_qty, partial["bid_own_qty"]),
            "ask_price": own_side(ask, partial["ask_own_price"]),
            "ask_amount": own_side(ask_qty, partial["ask_own_qty"]),
            "midprice": (bid + ask) / 2,
            "weighted_midprice": ratio(bid * ask_qty + ask * bid_qty, bid_qty + ask_qty),
            "bid_price_twap": ratio(whole["bid_price_ns"], whole["bid_ns"]),
            "ask_price_twap": ratio(whole["ask_price_ns"], whole["ask_ns"]),
            "bid_price_vwap": ratio(partial["bid_notional_sum"], partial["bid_qty_sum"]),
            "ask_price_vwap": ratio(partial["ask_notional_sum"], partial["ask_qty_sum"]),
            "quote_update_frequency": updates / interval.seconds,
            "avg_update_interval": interval.seconds / updates,
        }


def _stood(groups: Groups, price: F64, ns: I64) -> tuple[F64, I64]:
    """Σ price·ns and Σ ns (m,) of the prices (n,) that stood for `ns` (n,); NaN is no price."""
    absent = np.isnan(price)
    if absent.any():
        price, ns = np.where(absent, 0.0, price), np.where(absent, 0, ns)
    return groups.sum(price * ns), groups.total(ns)


def _extend(partial: Partial, side: str, ns: Array) -> None:
    """The standing price of a side stands for `ns` (n,) more."""
    price = partial[f"{side}_standing"]
    present = ~np.isnan(price)
    partial[f"{side}_price_ns"] = partial[f"{side}_price_ns"] + np.where(present, price * ns, 0.0)
    partial[f"{side}_ns"] = partial[f"{side}_ns"] + np.where(present, ns, 0)
