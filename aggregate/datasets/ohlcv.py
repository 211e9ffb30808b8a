"""ohlcv: open, high, low, close in canonical order; volume in base and quote units."""

from typing import ClassVar

from aggregate.datasets.base import Column, Dataset, Memory, Merge
from aggregate.groups import Groups, Partial
from aggregate.intervals import Interval
from ingest.ticks import I32, I64, Trades


class Ohlcv(Dataset):
    name = "ohlcv"
    kind = "trades"
    about = "Candles: first, highest, lowest and last trade price, and the volume traded."
    partial: ClassVar = {
        "open": Merge.FIRST,
        "high": Merge.MAX,
        "low": Merge.MIN,
        "close": Merge.LAST,
        "volume": Merge.SUM,
        "volume_notional": Merge.SUM,
    }
    columns: ClassVar = {
        "open": Column("Price of the window's first trade, quote units."),
        "high": Column("Highest trade price, quote units."),
        "low": Column("Lowest trade price, quote units."),
        "close": Column("Price of the window's last trade, quote units."),
        "volume": Column("Quantity traded, base units."),
        "volume_notional": Column("Value traded, price times quantity, quote units."),
    }

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
