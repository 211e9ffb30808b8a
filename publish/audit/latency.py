"""Quantiles of durations in bounded memory: counts in bins of equal width relative to the value.

A bin is 1/64 of an octave's lower end wide, so a quantile is within 0.8 % of the value. Pure.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ingest.ticks import I64

_PER_OCTAVE = 64
_OCTAVES = 63
_HALF = _PER_OCTAVE * _OCTAVES


def _empty() -> I64:
    return np.zeros(2 * _HALF + 1, np.int64)


@dataclass(slots=True)
class Latencies:
    """Durations in ns, negative ones too."""

    _counts: I64 = field(default_factory=_empty)

    def add(self, ns: I64) -> None:
        if len(ns):
            self._counts += np.bincount(_bin(ns), minlength=len(self._counts))

    def merge(self, other: "Latencies") -> None:
        self._counts += other._counts

    def quantile(self, q: float) -> float | None:
        """In ns, the lowest value with a share `q` at or below it; None of nothing."""
        upto = np.cumsum(self._counts)
        if not upto[-1]:
            return None
        return _middle(int(np.searchsorted(upto, max(q * float(upto[-1]), 1.0))))


def _bin(ns: I64) -> npt.NDArray[np.intp]:
    """0 is in the middle one; the others are by octave (frexp) and place in it."""
    fraction, octave = np.frexp(np.abs(ns).astype(np.float64))
    inside = ((fraction - 0.5) * 2 * _PER_OCTAVE).astype(np.int64)
    place = np.minimum((octave.astype(np.int64) - 1) * _PER_OCTAVE + inside + 1, _HALF)
    found: npt.NDArray[np.intp] = np.where(ns == 0, 0, np.sign(ns) * place) + _HALF
    return found


def _middle(at: int) -> float:
    place = abs(at - _HALF)
    if not place:
        return 0.0
    octave, inside = divmod(place - 1, _PER_OCTAVE)
    value = (1 + (inside + 0.5) / _PER_OCTAVE) * 2.0**octave
    return value if at > _HALF else -value
