"""vtwap: volume-weighted price, and the plain mean of trade prices with each fill counted."""

from typing import ClassVar

from aggregate.datasets.base import Column, Dataset, Memory, Merge, ratio
from aggregate.groups import Groups, Partial
from aggregate.intervals import Interval
from ingest.ticks import I32, I64, Trades


class Vtwap(Dataset):
    name = "vtwap"
    kind = "trades"
    about = "Average trade prices: weighted by volume, and each trade alike."
    partial: ClassVar = {
        "notional": Merge.SUM,
        "qty": Merge.SUM,
        "price": Merge.SUM,
        "fills": Merge.TOTAL,
    }
    columns: ClassVar = {
        "vwap": Column("Volume-weighted average price: value traded / quantity traded."),
        "twap": Column("Plain mean of the trade prices, each fill counted once."),
    }

    def from_ticks(self, ticks: Trades, groups: Groups) -> Partial:
        single = bool((ticks.count == 1).all())
        return {
            "notional": groups.sum(ticks.notional),
            "qty": groups.sum(ticks.qty),
            "price": groups.sum(ticks.price if single else ticks.price * ticks.count),
            "fills": groups.ends - groups.starts if single else groups.total(ticks.count),
        }

    def finish(
        self, code: I32, start: I64, partial: Partial, interval: Interval, memory: Memory | None
    ) -> Partial:
        return {
            "vwap": ratio(partial["notional"], partial["qty"]),
            "twap": ratio(partial["price"], partial["fills"]),
        }
