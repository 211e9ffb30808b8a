"""Small batches of ticks, for the tests of the audit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ingest.ticks import LIVE, Quotes, Trades
from publish.raw_rows import SCHEMAS_OF_DAYS

NS = 10**9
MS = 10**6
START = 1_762_000_000 * NS


def trades(
    ids: Sequence[int],
    at: Sequence[float],
    *,
    count: Sequence[int] | int = 1,
    latency: Sequence[float] | float = 0.005,
    origin: int = LIVE,
    off_book: int = 0,
) -> Trades:
    """`at`: exchange seconds after START; `latency`: seconds until they arrive."""
    n = len(ids)
    exchange = START + np.round(np.array(at) * 1e9).astype(np.int64)
    local = exchange + np.round(np.broadcast_to(latency, n) * 1e9).astype(np.int64)
    columns: list[Any] = [np.zeros(n), exchange, local, ids, np.broadcast_to(count, n), np.ones(n)]
    figures = [np.full(n, 100.0), np.full(n, 0.5), np.full(n, 50.0)]
    marks = [np.full(n, origin), np.full(n, off_book), np.arange(n)]
    return Trades.from_columns(["s"], [*columns, *figures, *marks])


def quotes(at: Sequence[float], latency: float = 0.005) -> Quotes:
    n = len(at)
    exchange = START + np.round(np.array(at) * 1e9).astype(np.int64)
    sides = [np.full(n, value) for value in (99.0, 1.0, 101.0, 1.0)]
    stamps = [exchange, exchange + round(latency * 1e9)]
    return Quotes.from_columns(
        ["s"], [np.zeros(n), *stamps, np.arange(n), *sides, np.zeros(n), np.arange(n)]
    )


def gaps(*found: tuple[int, int, int | None], kind: str = "ids") -> pa.Table:
    """(first, last, missing) of each."""
    rows = [
        {"kind": kind, "first_missing": a, "last_missing": b, "missing": missing, "healed": 0}
        for a, b, missing in found
    ]
    return pa.Table.from_pylist(rows, SCHEMAS_OF_DAYS["gaps"])
