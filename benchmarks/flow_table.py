"""flow's 36 columns at 1 s as production computes them, on one core or a process a core.

Passes of `PASS_TICKS`, as the aggregator seals a backlog: canonical order, the search for copies,
partial columns, finished columns. The result is a table in memory, like a rival's.
"""

import multiprocessing
import time
import zlib
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from aggregate.datasets.flow import Flow
from aggregate.intervals import EXCHANGE, INTERVALS, NS
from aggregate.seconds import Seconds
from aggregate.shard import PASS_TICKS
from ingest.ticks import Trades

BLOCK_ROWS = 1 << 16
Columns = dict[str, Any]


class Table:
    """Result columns, in blocks that are added as they fill."""

    def __init__(self) -> None:
        self._blocks: list[Columns] = []
        self._used = BLOCK_ROWS

    def append(self, columns: Columns) -> None:
        n, at = len(columns["time"]), 0
        while at < n:
            if self._used == BLOCK_ROWS:
                self._blocks.append(_block(columns))
                self._used = 0
            low, some = self._used, min(n - at, BLOCK_ROWS - self._used)
            for name, values in columns.items():
                self._blocks[-1][name][low : low + some] = values[at : at + some]
            self._used, at = low + some, at + some

    def sorted(self) -> Columns:
        """One set of columns, sorted by code, then time."""
        used = [BLOCK_ROWS] * (len(self._blocks) - 1) + [self._used]
        blocks = list(zip(self._blocks, used, strict=True))
        whole = {
            name: np.concatenate([block[name][:n] for block, n in blocks])
            for name in self._blocks[0]
        }
        order = np.lexsort((whole["time"], whole["code"]))
        return {name: values[order] for name, values in whole.items()}


def _block(like: Columns) -> Columns:
    """Empty columns in one allocation: numpy asks for huge pages from 4 MB on."""
    memory = np.empty((len(like), BLOCK_ROWS))
    return {
        name: own if values.dtype.kind == "f" else own.view(np.int64)
        for (name, values), own in zip(like.items(), memory, strict=True)
    }


def flow_table(trades: Trades) -> Table:
    """Columns code, time (s) and flow's 36 of trades in time order."""
    flow, interval = Flow(), INTERVALS["1s"]
    seconds, memory = Seconds("binance-futures", EXCHANGE, "trades", [flow]), flow.memory()
    table = Table()
    for cut, part in _passes(trades):
        seconds.add(part, "c1")
        rows = seconds.seal(cut)
        assert rows is not None
        columns = flow.finish(rows.code, rows.start, rows.parts["flow"], interval, memory)
        table.append({"code": rows.code, "time": rows.start, **columns})
    return table


def _passes(trades: Trades) -> list[tuple[int, Trades]]:
    """(second to seal up to, the trades before it), each of about `PASS_TICKS`."""
    low, high = (int(t) // NS for t in (trades.exchange_ts[0], trades.exchange_ts[-1]))
    step = max(1, (high - low) * PASS_TICKS // len(trades))
    cuts = np.arange(low + step, high + step + 1, step)
    edges = [0, *np.searchsorted(trades.exchange_ts, cuts * NS).tolist()]
    parts = zip(cuts.tolist(), pairwise(edges), strict=True)
    return [(cut, trades.take(slice(*edge))) for cut, edge in parts if edge[1] > edge[0]]


class Workers:
    """A process per core, each with every n-th instrument: its partitions of the topic."""

    def __init__(self, trades: Trades, n: int) -> None:
        # Forked before the rivals start their threads; each takes its share before it is timed.
        fork = multiprocessing.get_context("fork")
        self._pipes: list[Connection] = []
        for i in range(n):
            here, there = fork.Pipe()
            fork.Process(target=_work, args=(there, trades, i, n), daemon=True).start()
            self._pipes.append(here)
        for pipe in self._pipes:
            pipe.recv()

    def run(self) -> float:
        """Wall seconds from the start until the last is done."""
        begun = time.perf_counter()
        for pipe in self._pipes:
            pipe.send("run")
        for pipe in self._pipes:
            pipe.recv()
        return time.perf_counter() - begun

    def check(self, want: Columns) -> None:
        """Raises unless each process's last result is its share of `want`, to the last bit."""
        for i, pipe in enumerate(self._pipes):
            pipe.send("digest")
            mine = want["code"] % len(self._pipes) == i
            if pipe.recv() != _digest({name: values[mine] for name, values in want.items()}):
                raise RuntimeError(f"process {i}: its columns differ from one core's")

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send("end")


def _work(pipe: Connection, trades: Trades, i: int, n: int) -> None:
    mine = trades.take(trades.code % n == i)
    pipe.send("ready")
    table = None
    while (order := pipe.recv()) != "end":
        if order == "run":
            del table
            table = flow_table(mine)
            pipe.send("done")
        else:
            assert table is not None
            pipe.send(_digest(table.sorted()))


def _digest(columns: Columns) -> Sequence[int]:
    return [zlib.crc32(values.tobytes()) for values in columns.values()]
