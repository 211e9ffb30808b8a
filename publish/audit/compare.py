"""Two versions of a series' day, bit for bit. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.ticks import I8, I64
from publish.merging import times

MISSING, EXTRA, VALUES, SCORES = range(4)
"""How a bar differs: it is not published; published, but not in the ticks; other values; or in no
value but the running ones."""
RUNNING = frozenset({"flow_toxicity_score"})
"""Columns that a bar has from those before it in the month, not from its own ticks alone."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Differences:
    """The bars of a day that differ: `start` (µs since the epoch, rising) and `how` (n,)."""

    start: I64
    how: I8

    def __len__(self) -> int:
        return len(self.start)


def compare(truth: pa.Table, published: pa.Table) -> Differences:
    """What differs between the bars that the ticks give and those that are published.

    Both have `time` first, rising, each value once. A column that only the truth has is null where
    it is not published; what only the published rows have is another version's, and left alone.
    """
    made, there = times(truth), times(published)
    in_truth, in_published = np.isin(made, there), np.isin(there, made)
    a, b = _only(truth, in_truth), _only(published, in_published)
    values, scores = np.zeros(len(a), bool), np.zeros(len(a), bool)
    for field in truth.schema:
        if field.name == "time":
            continue
        known = field.name in b.column_names
        unequal = _unequal(a[field.name], b[field.name] if known else _nulls(len(b), field.type))
        if field.name in RUNNING:
            scores |= unequal
        else:
            values |= unequal
    both = made[in_truth]
    parts = [
        (made[~in_truth], MISSING),
        (there[~in_published], EXTRA),
        (both[values], VALUES),
        (both[scores & ~values], SCORES),
    ]
    start = np.concatenate([stamps for stamps, _ in parts])
    how = np.concatenate([np.full(len(stamps), of, np.int8) for stamps, of in parts])
    order = np.argsort(start)
    return Differences(start[order], how[order])


def _nulls(n: int, of: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([pa.nulls(n, of)])


def _only(table: pa.Table, rows: Mask) -> pa.Table:
    return table if rows.all() else table.filter(pa.array(rows))


def _unequal(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Mask:
    unequal: Mask
    if not a.null_count and not b.null_count:
        unequal = _bits(a) != _bits(b)
        return unequal
    null, other_null = a.is_null().to_numpy(), b.is_null().to_numpy()
    unequal = (_bits(a.fill_null(0)) != _bits(b.fill_null(0))) & ~null
    unequal |= null != other_null
    return unequal


def _bits(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(column.to_numpy()).view(np.uint64)
