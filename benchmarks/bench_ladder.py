"""What the nine longer intervals cost over 1 s alone: the trade datasets, CPU seconds.

200 instruments of one rate, ten minutes at 50 trades a second and an hour at three, sealed as
replay seals: about 2**18 trades at a time. Both sides seal and finish the seconds; one of them
then also merges and finishes the rest of the ladder.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from aggregate.datasets import Dataset, Memory, datasets
from aggregate.groups import Rows
from aggregate.intervals import EXCHANGE, INTERVALS, LADDER, NS, Interval
from aggregate.rollup import Ladder
from aggregate.seconds import Seconds
from aggregate.shard import END, PASS_ROWS
from benchmarks import market
from benchmarks.result import Result, cpu_time
from ingest.ticks import Trades

INSTRUMENTS = 200
CASES = {50: (600, 1.25), 3: (3600, 2.5)}
"""Trades a second and instrument: (seconds of market, target)."""
ROUNDS = 3


def run() -> list[Result]:
    return [_case(rate, *of) for rate, of in CASES.items()]


def _case(rate: int, seconds: int, target: float) -> Result:
    n = rate * seconds * INSTRUMENTS
    trades = market.trades(n, INSTRUMENTS, seconds, even=True)
    step = max(1, PASS_ROWS // (rate * INSTRUMENTS))
    cuts = list(range(market.START + step, market.START + seconds + step, step))
    edges = [0, *np.searchsorted(trades.exchange_ts, [cut * NS for cut in cuts])]
    parts = [trades.take(slice(*edge)) for edge in pairwise(edges)]
    alone, every = (
        min(_cpu_seconds(cuts, parts, ladder) for _ in range(ROUNDS)) for ladder in (False, True)
    )
    detail: dict[str, object] = {
        "trades": n,
        "1s alone, trades/CPU-s": round(n / alone),
        "all intervals, trades/CPU-s": round(n / every),
    }
    name = f"all ten intervals / 1s alone, {rate} trades a second"
    return Result(name, every / alone, "×", target, detail, better="lower")


def _cpu_seconds(cuts: Sequence[int], parts: Sequence[Trades], with_ladder: bool) -> float:
    of = {d.name: d for d in datasets() if d.kind == "trades"}
    seconds = Seconds("binance-futures", EXCHANGE, "trades", list(of.values()))
    ladder = Ladder(list(of.values()))
    memory = {(d.name, i): d.memory() for d in of.values() for i in LADDER}
    with cpu_time() as cpu:
        for cut, part in zip(cuts, parts, strict=True):
            seconds.add(part, "c1")
            rows = seconds.seal(cut)
            assert rows is not None
            closed = ladder.advance(rows, cut) if with_ladder else [(INTERVALS["1s"], rows)]
            _finish(closed, of, memory)
        if with_ladder:
            _finish(ladder.advance(None, END), of, memory)
    return cpu.seconds


def _finish(
    closed: Sequence[tuple[Interval, Rows]],
    of: dict[str, Dataset],
    memory: dict[tuple[str, Interval], Memory | None],
) -> None:
    for interval, rows in closed:
        for name, part in rows.parts.items():
            of[name].finish(rows.code, rows.start, part, interval, memory[name, interval])
