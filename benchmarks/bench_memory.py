"""Memory of an aggregator that holds 1,000 instruments: its process's peak RSS, all datasets.

A process of its own first fills the ladder of every instrument and clock, from midnight on,
then takes the last 15 seconds live, 50,000 ticks each, sealing every 250 ms and encoding its state
each time as a commit does. At the day's last second almost all of the 41 rows are held.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np

from aggregate.intervals import NS
from aggregate.shard import Rules, ShardAggregator
from benchmarks import market
from benchmarks.result import Result

INSTRUMENTS, TICKS_S, LIVE_S = 1000, 50_000, 15
FILL = [3600] * 23 + [900] * 3 + [300] * 2 + [60] * 4 + [15] * 2 + [14]
"""Seconds a step takes until 15 s before midnight."""
TARGET = 600.0
STEP_NS = NS // 4


def run() -> list[Result]:
    measure = [sys.executable, "-m", "benchmarks.bench_memory"]
    out = subprocess.run(measure, check=True, capture_output=True, text=True).stdout
    peak, rows = map(int, out.split())
    detail: dict[str, object] = {"instruments": INSTRUMENTS, "rows held": rows}
    name = "peak RSS with 1,000 instruments, all datasets"
    return [Result(name, peak / 1024, "MB", TARGET, detail, better="lower")]


def _hold_and_seal() -> tuple[int, int]:
    shard = ShardAggregator("binance-futures", Rules())
    shard.cover(market.symbols(INSTRUMENTS), 0, 0)
    end = market.START
    for seconds in FILL:
        # Sparse, so that what is held at once is no larger than live's few seconds.
        for ticks in market.part(end, seconds, 20 * INSTRUMENTS, INSTRUMENTS, even=True):
            shard.add(ticks, "c1")
        end += seconds
        shard.advance(end * NS)
        shard.changes()
    for second in range(end, end + LIVE_S):
        parts = market.part(second, 1, TICKS_S, INSTRUMENTS, even=True)
        for now in range(second * NS + STEP_NS, (second + 1) * NS + 1, STEP_NS):
            for ticks in parts:
                low, high = np.searchsorted(ticks.local_ts, (now - STEP_NS, now))
                if high > low:
                    shard.add(ticks.take(slice(low, high)), "c1")
            shard.advance(now)
            shard.changes()
    held = sum(ladder.rows_held() for ladder in shard._ladders.values())
    return _peak_kb(), held


def _peak_kb() -> int:
    """Of this program: getrusage's peak is handed on by the process that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM: this benchmark needs Linux")


if __name__ == "__main__":
    print(*_hold_and_seal())
