"""Expanding z-scores per series, restarted each calendar month (or day), bit-exact when resumed.

z(x) = (x − mean) / std over the series' bars from the period's start up to and including this
one, std with ddof = 1; NaN where n < 2 or std = 0 (DATASETS.md, flow_toxicity_score). The sums are
shifted by the period's first value and extended one bar after the other, so cutting the bars into
passes differently gives the same bits.
"""

import numpy as np
import orjson

from aggregate.groups import Array
from ingest.ticks import F64, I32, I64

_UNIT = {"month": "datetime64[M]", "day": "datetime64[D]"}
_FEW = 8
"""Steps that this many segments or fewer still take are summed one segment after the other."""


class ExpandingZ:
    """`width` values a bar. State (codes, 3, width): shift, Σd, Σd² with d = x − shift."""

    def __init__(self, width: int, reset: str) -> None:
        if reset not in _UNIT:
            raise ValueError(f"toxicity_reset is 'month' or 'day', not {reset!r}")
        self._unit = _UNIT[reset]
        self._width = width
        self._period: I64 = np.empty(0, dtype=np.int64)
        self._n: I64 = np.empty(0, dtype=np.int64)
        self._sums: F64 = np.empty((0, 3, width))

    def score(self, code: I32, start: I64, values: F64) -> F64:
        """z (width, n) of values (width, n), rows sorted by code, then start (s); remembers."""
        self._grow(int(code[-1]) + 1)
        period = self._periods(start)
        new = np.empty(len(code), dtype=bool)
        new[0] = True
        np.not_equal(code[1:], code[:-1], out=new[1:])
        new[1:] |= period[1:] != period[:-1]
        starts = np.flatnonzero(new)
        ends = np.append(starts[1:], len(code))
        out = np.empty_like(values)
        # A code that crosses into a new period has several segments: they go in order.
        while len(starts):
            first = np.append(True, code[starts[1:]] != code[starts[:-1]])
            self._segments(starts[first], ends[first], code, period, values, out)
            starts, ends = starts[~first], ends[~first]
        return out

    def _periods(self, start: I64) -> I64:
        """The number (n,) of each start's period."""
        seconds = np.array([start.min(), start.max()]).astype("datetime64[s]")
        first, last = seconds.astype(self._unit).astype(np.int64)
        if first == last:  # the calendar is slow
            return np.full(len(start), first)
        return start.astype("datetime64[s]").astype(self._unit).astype(np.int64)

    def _segments(
        self, starts: I64, ends: I64, code: I32, period: I64, values: F64, out: F64
    ) -> None:
        """Scores the rows [start, end) of segments that are all of different codes."""
        longest = np.argsort(starts - ends, kind="stable")
        starts, lengths = starts[longest], (ends - starts)[longest]
        who = code[starts]
        self._restart(who, period[starts], values[:, starts])
        segment, step, edges = _step_by_step(lengths)
        at = starts[segment] + step
        n = (self._n[who] + 1.0)[segment] + step
        of, width = self._sums[who], self._width
        d = [values[i][at] - of[segment, 0, i] for i in range(width)]
        running = np.stack([*d, *(x * x for x in d)], axis=1)
        running[: len(who)] += of[:, 1:].reshape(-1, 2 * width)
        _extend(running, lengths, edges)
        last = edges[lengths - 1] + np.arange(len(who))
        self._sums[who, 1:] = running[last].reshape(-1, 2, width)
        self._n[who] += lengths
        sums = np.ascontiguousarray(running.T)
        for i in range(width):
            out[i][at] = _z(d[i], sums[i], sums[width + i], n)

    def _restart(self, who: I32, period: I64, values: F64) -> None:
        """Codes that were last in another period begin anew, at the first of their values."""
        fresh = self._period[who] != period
        restarted = who[fresh]
        self._n[restarted] = 0
        self._sums[restarted] = 0.0
        self._sums[restarted, 0] = values[:, fresh].T
        self._period[who] = period

    def _grow(self, codes: int) -> None:
        more = codes - len(self._n)
        if more > 0:
            none = np.full(more, np.iinfo(np.int64).min)
            self._period = np.append(self._period, none)
            self._n = np.append(self._n, np.zeros(more, dtype=np.int64))
            self._sums = np.concatenate([self._sums, np.zeros((more, 3, self._width))])

    def encode(self) -> bytes:
        return orjson.dumps(
            {"period": self._period.tolist(), "n": self._n.tolist(), "sums": self._sums.tolist()}
        )

    def restore(self, value: bytes) -> None:
        state = orjson.loads(value)
        self._period = np.array(state["period"], dtype=np.int64)
        self._n = np.array(state["n"], dtype=np.int64)
        self._sums = np.array(state["sums"], dtype=np.float64).reshape(-1, 3, self._width)


def _step_by_step(lengths: I64) -> tuple[I64, I64, I64]:
    """All segments' first rows, then their second ones, …: (segment (n,), step (n,), edges).

    `lengths` fall, so the segments that take step r are the first ones; their rows are at
    edges[r] and on.
    """
    steps = np.arange(lengths[0])
    taking = np.searchsorted(-lengths, -steps)
    edges = np.append(0, np.cumsum(taking))
    step = np.repeat(steps, taking)
    return np.arange(edges[-1]) - np.repeat(edges[:-1], taking), step, edges


def _extend(sums: F64, lengths: I64, edges: I64) -> None:
    """Makes rows of values (n, k), step by step, each segment's running sums; in place."""
    width, flat = sums.shape[1], sums.reshape(-1)
    together = int(np.searchsorted(-np.diff(edges), -_FEW)) or 1
    ends = (edges[: together + 1] * width).tolist()
    for before, low, high in zip(ends, ends[1:], ends[2:], strict=False):
        row = flat[low:high]
        np.add(row, flat[before : before + high - low], row)
    for segment in np.flatnonzero(lengths > together).tolist():
        own = edges[together - 1 : lengths[segment]] + segment
        sums[own] = np.cumsum(sums[own], axis=0)


def _z(d: F64, s1: F64, s2: F64, n: Array) -> F64:
    """(x − mean)/std from shifted sums; NaN where n < 2 or the variance is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = s1 / n
        variance = (s2 - s1 * mean) / (n - 1)
        z: F64 = (d - mean) / np.sqrt(variance)
    z[~(variance > 0)] = np.nan
    return z
