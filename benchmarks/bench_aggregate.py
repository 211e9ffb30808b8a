"""Columnar trades to the bars of all ten intervals: seal, roll up, finish, on one clock.

A seeded day of ten instruments, arriving interleaved in time as the log gives them. "On a core" is
per CPU second of all threads. The figure is for both trade datasets (flow and ohlcv) at once.
"""

import numpy as np

from aggregate.bars import BarBatch
from aggregate.intervals import DAY, EXCHANGE, NS
from aggregate.shard import END, Rules, ShardAggregator
from benchmarks.result import Result, cpu_time
from ingest.ticks import BUY, LIVE, SELL, Trades

SEED = 1
TRADES, INSTRUMENTS, BATCH = 10_000_000, 10, 100_000
START = 1_709_164_800  # 2024-02-29 00:00 UTC
ROUNDS = 3


def day_of_trades(n: int, instruments: int, seed: int = SEED) -> Trades:
    """n trades of one day in time order, busier instruments first."""
    rng = np.random.default_rng(seed)
    exchange_ts = np.sort(rng.integers(0, DAY * 1000, n)) * 1_000_000 + START * NS
    code = (instruments * rng.random(n) ** 2).astype(np.int32)
    ids = np.empty(n, dtype=np.int64)
    for i in range(instruments):
        mine = code == i
        ids[mine] = np.arange(mine.sum())
    price = 60_000 * np.exp(np.cumsum(rng.normal(0, 1e-6, n)))
    qty = np.round(rng.lognormal(-6, 2, n), 3) + 0.001
    return Trades(
        symbols=[f"perpetual-C{i}-USDT:USDT" for i in range(instruments)],
        code=code,
        exchange_ts=exchange_ts,
        local_ts=exchange_ts + 5_000_000,
        id=ids,
        count=np.ones(n, dtype=np.int32),
        side=np.where(rng.random(n) < 0.5, BUY, SELL).astype(np.int8),
        price=price,
        qty=qty,
        notional=price * qty,
        origin=np.full(n, LIVE, dtype=np.int8),
        off_book=np.zeros(n, dtype=np.int8),
        row=np.arange(n),
    )


def aggregate(trades: Trades) -> tuple[int, float]:
    """(bars made, CPU seconds) of one pass over the trades."""
    shard = ShardAggregator("binance-futures", Rules(lateness_ns=None, partial=True))
    batches = [trades.take(slice(i, i + BATCH)) for i in range(0, len(trades), BATCH)]
    with cpu_time() as cpu:
        for batch in batches:
            shard.add(batch, "c1")
        bars = [bar for bar in shard.seal(EXCHANGE, END) if isinstance(bar, BarBatch)]
    return sum(map(len, bars)), cpu.seconds


def run() -> list[Result]:
    trades = day_of_trades(TRADES, INSTRUMENTS)
    rounds = [aggregate(trades) for _ in range(ROUNDS)]
    seconds = float(np.median([cpu for _, cpu in rounds]))
    return [
        Result(
            "aggregate.trades_to_ten_intervals",
            TRADES / seconds,
            "trades/s",
            10_000_000,
            {"trades": TRADES, "instruments": INSTRUMENTS, "bars": rounds[0][0]},
        )
    ]


if __name__ == "__main__":
    print(run())
