"""A live second of 50,000 ticks over 500 instruments: how long its seal holds up the reader.

Every second of two minutes, all datasets, after the ladder has been running: `advance` seals,
rolls up and finishes one second of each clock, once a second, as its time passes. The median and
the 99th percentile, which has the minute's and the 5 minutes' ends in it.
"""

import time

import numpy as np

from aggregate.intervals import CLOCKS, NS
from aggregate.shard import Rules, ShardAggregator
from benchmarks import market
from benchmarks.result import Result, cpu_time

INSTRUMENTS, TICKS, SECONDS, WARM = 500, 50_000, 130, 10
TARGET = 25.0


def run() -> list[Result]:
    shard = ShardAggregator("binance-futures", Rules())
    shard.cover(market.symbols(INSTRUMENTS), 0, 0)
    ticks = [
        market.trades(TICKS * SECONDS // 3, INSTRUMENTS, SECONDS, even=True),
        market.quotes(TICKS * SECONDS * 2 // 3, INSTRUMENTS, SECONDS, even=True),
    ]
    took: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
    cpu: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
    low = [0, 0]
    for second in range(1, SECONDS + 1):
        now = (market.START + second) * NS
        for i, of in enumerate(ticks):
            high = int(np.searchsorted(of.local_ts, now))
            for at in range(low[i], high, market.BATCH):
                shard.add(of.take(slice(at, min(at + market.BATCH, high))), "c1")
            low[i] = high
        for clock, held in zip(CLOCKS, (6, 1), strict=True):
            begun = time.perf_counter()
            with cpu_time() as busy:
                shard.seal(clock, market.START + second - held)
            if second > WARM:
                took[clock].append(time.perf_counter() - begun)
                cpu[clock].append(busy.seconds)
        shard.changes()
    detail: dict[str, object] = {"ticks": TICKS, "instruments": INSTRUMENTS}
    for clock, seconds in cpu.items():
        detail |= {f"{clock} clock, {what}, CPU ms": ms for what, ms in _figures(seconds)}
    return [
        Result(f"a live second sealed, {clock} clock, {what}", ms, "ms", TARGET, detail, "lower")
        for clock, seconds in took.items()
        for what, ms in _figures(seconds)
    ]


def _figures(seconds: list[float]) -> list[tuple[str, float]]:
    """Milliseconds of the median and of the worst in a hundred."""
    worst = float(np.quantile(seconds, 0.99))
    return [("median", float(np.median(seconds)) * 1e3), ("99th percentile", worst * 1e3)]
