"""ohlcv: open, high, low, close in canonical order; volume in base and quote units."""

from typing import ClassVar

from aggregate.datasets.base import Dataset, Memory, Merge
from aggregate.groups import Groups, Partial
from aggregate.intervals import Interval
from ingest.ticks import I32, I64, Trades


class Ohlcv(Dataset):
    name = "ohlcv"
    kind = "trades"
    partial: ClassVar = {
        "open": Merge.FIRST,
        "high": Merge.MAX,
        "low": Merge.MIN,
        "close": Merge.LAST,
        "volume": Merge.SUM,
        "volume_notional": Merge.SUM,
    }
    columns = tuple(partial)

    def from_ticks(self, ticks: Trades, groups: Groups) -> Partial:
        return {
            "open": groups.first(ticks.price),
            "high": groups.max(ticks.price),
            "low": groups.min(ticks.price),
            "close": groups.last(ticks.price),
            "volume": groups.sum(ticks.qty),
            "volume_notional": groups.sum(ticks.notional),
        }

    def finish(
        self, code: I32, start: I64, partial: Partial, interval: Interval, memory: Memory | None
    ) -> Partial:
        return partial
