"""l1_imbalance: best bid against best ask quantity, at the last two-sided update and on average."""

from typing import ClassVar

from aggregate.datasets.base import Dataset, Memory, Merge, ratio
from aggregate.datasets.quotes import last_two_sided, sum_and_count, with_averages
from aggregate.groups import Array, Groups, Partial
from aggregate.intervals import Interval
from ingest.ticks import I32, I64, Quotes

COLUMNS = {
    "imbalance": "Best bid quantity − best ask quantity, base units",
    "imbalance_ratio": "(bid − ask) / (bid + ask) of the best quantities, from −1 to 1",
    "bid_ask_ratio": "Best bid quantity / best ask quantity",
    "bid_percentage": "Best bid quantity's share of both, from 0 to 1",
    "ask_percentage": "Best ask quantity's share of both, from 0 to 1",
}


def _figures(bid: Array, ask: Array) -> Partial:
    """The five figures of quantities (n,); NaN where a side is missing or a denominator is 0."""
    depth = bid + ask
    return {
        "imbalance": bid - ask,
        "imbalance_ratio": ratio(bid - ask, depth),
        "bid_ask_ratio": ratio(bid, ask),
        "bid_percentage": ratio(bid, depth),
        "ask_percentage": ratio(ask, depth),
    }


class L1Imbalance(Dataset):
    """Averages are plain means over the updates for which the figure is defined."""

    name = "l1_imbalance"
    kind = "quotes"
    about = "Best bid quantity against best ask quantity."
    partial: ClassVar = {
        "bid_qty": Merge.LAST_VALID,
        "ask_qty": Merge.LAST_VALID,
        **{f"{name}_sum": Merge.SUM for name in COLUMNS},
        **{f"{name}_n": Merge.TOTAL for name in COLUMNS},
    }
    columns = with_averages(COLUMNS)

    def from_ticks(self, ticks: Quotes, groups: Groups) -> Partial:
        out = last_two_sided(ticks, groups)
        for name, values in _figures(ticks.bid_qty, ticks.ask_qty).items():
            out[f"{name}_sum"], out[f"{name}_n"] = sum_and_count(groups, values)
        return {name: out[name] for name in self.partial}

    def finish(
        self, code: I32, start: I64, partial: Partial, interval: Interval, memory: Memory | None
    ) -> Partial:
        out = _figures(partial["bid_qty"], partial["ask_qty"])
        for name in COLUMNS:
            out[f"{name}_avg"] = ratio(partial[f"{name}_sum"], partial[f"{name}_n"])
        return out
