"""Expanding z-scores per series, restarted each calendar month (or day), bit-exact when resumed.

z(x) = (x − mean) / std over the series' bars from the period's start up to and including this
one, std with ddof = 1; NaN where n < 2 or std = 0 (DATASETS.md, flow_toxicity_score). The sums are
shifted by the period's first value and extended one bar after the other, so cutting the bars into
passes differently gives the same bits.
"""

import numpy as np
import numpy.typing as npt
import orjson

from ingest.ticks import F64, I32, I64

_UNIT = {"month": "datetime64[M]", "day": "datetime64[D]"}
_PADDING = 8
"""A pass uses one padded matrix while that has at most this many cells per row of input."""
_WIDE = 8
"""With more segments than this, sums run across all of them at once."""


class ExpandingZ:
    """`width` values a bar. State (codes, 3·width): shift, Σd, Σd² with d = x − shift."""

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
        self._grow(int(code.max()) + 1)
        period = start.astype("datetime64[s]").astype(self._unit).astype(np.int64)
        new = np.empty(len(code), dtype=bool)
        new[0] = True
        new[1:] = (code[1:] != code[:-1]) | (period[1:] != period[:-1])
        starts = np.flatnonzero(new)
        lengths = np.diff(np.append(starts, len(code)))
        out = np.empty_like(values)
        # A code that crosses into a new period has several segments: they go in order.
        first = np.append(True, code[starts][1:] != code[starts][:-1])
        while len(starts):
            self._pass(starts[first], lengths[first], code, period, values, out)
            starts, lengths = starts[~first], lengths[~first]
            first = np.append(True, code[starts][1:] != code[starts][:-1])[: len(starts)]
        return out

    def _pass(
        self, starts: I64, lengths: I64, code: I32, period: I64, values: F64, out: F64
    ) -> None:
        """Segments of distinct codes, in groups of like length to bound the padding."""
        order = np.argsort(lengths, kind="stable")
        low = 0
        while low < len(order):
            size = int(lengths[order[low]])
            high = int(np.searchsorted(lengths[order], size * _PADDING, side="right"))
            picked = order[low:high]
            self._block(starts[picked], lengths[picked], code, period, values, out)
            low = high

    def _block(
        self, starts: I64, lengths: I64, code: I32, period: I64, values: F64, out: F64
    ) -> None:
        who, when = code[starts], period[starts]
        fresh = self._period[who] != when
        restarted = who[fresh]
        self._n[restarted] = 0
        self._sums[restarted] = 0.0
        self._sums[restarted, 0] = values[:, starts[fresh]].T
        self._period[who] = when

        # Row r of segment s is cell (r, s) of a matrix whose columns are summed downwards.
        segments = len(starts)
        segment = np.repeat(np.arange(segments), lengths)
        ends = np.cumsum(lengths)
        step = np.arange(len(segment)) - np.repeat(ends - lengths, lengths)
        cell = step * segments + segment
        at = starts[segment] + step
        n = self._n[who][segment] + step + 1
        shape = (int(lengths.max()), segments)
        for i in range(self._width):
            d = values[i][at] - self._sums[who, 0, i][segment]
            s1 = _running(self._sums[who, 1, i], d, cell, shape)
            s2 = _running(self._sums[who, 2, i], d * d, cell, shape)
            out[i][at] = _z(d, s1, s2, n)
            self._sums[who, 1, i] = s1[ends - 1]
            self._sums[who, 2, i] = s2[ends - 1]
        self._n[who] += lengths

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


def _running(seed: F64, values: F64, cell: I64, shape: tuple[int, int]) -> F64:
    """Running sums of `values` (n,) in the cells of a matrix, down each column from its seed."""
    longest, segments = shape
    matrix = np.zeros((longest + 1, segments))
    matrix[0] = seed
    matrix[1:].ravel()[cell] = values
    if segments > _WIDE:
        np.cumsum(matrix, axis=0, out=matrix)
    else:
        for column in matrix.T:
            np.cumsum(column, out=column)
    return matrix[1:].ravel()[cell]


def _z(d: F64, s1: F64, s2: F64, n: npt.NDArray[np.int64]) -> F64:
    """(x − mean)/std from shifted sums; NaN where n < 2 or the variance is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = s1 / n
        variance = (s2 - s1 * mean) / (n - 1)
        z: F64 = (d - mean) / np.sqrt(variance)
    z[~(variance > 0)] = np.nan
    return z
