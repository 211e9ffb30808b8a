"""Sets of trade ids as ranges: what was seen of a sequence, and what is missing in it. Pure."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from ingest.ticks import I64

_NONE: I64 = np.empty((0, 2), np.int64)
_PENDING = 1 << 18


@dataclass(slots=True)
class IdRanges:
    """Ids as disjoint ranges [first, last] that don't touch, rising: an array (n, 2)."""

    _ranges: I64 = field(default_factory=lambda: _NONE)
    _pending: list[I64] = field(default_factory=list)
    _waiting: int = 0

    @classmethod
    def of(cls, first: I64, last: I64) -> Self:
        ranges = cls()
        ranges.add(first, last)
        return ranges

    def add(self, first: I64, last: I64) -> None:
        """All ids from `first` to `last` (n,), both included; in any order, any of them again."""
        if len(first):
            self._pending.append(np.stack([first, last], axis=1))
            self._waiting += len(first)
            if self._waiting > _PENDING:
                self._settle()

    @property
    def ranges(self) -> I64:
        self._settle()
        return self._ranges

    def count(self) -> int:
        """How many ids there are."""
        ranges = self.ranges
        return int((ranges[:, 1] - ranges[:, 0] + 1).sum())

    def holes(self, first: int, last: int) -> "IdRanges":
        """The ids from `first` to `last` that are not here."""
        inside = self.ranges[(self.ranges[:, 1] >= first) & (self.ranges[:, 0] <= last)]
        starts = np.append(np.int64(first), inside[:, 1] + 1)
        ends = np.append(inside[:, 0] - 1, np.int64(last))
        some = starts <= ends
        return IdRanges.of(starts[some], ends[some])

    def both(self, other: "IdRanges") -> "IdRanges":
        """The ids that are in both."""
        if not len(self.ranges):
            return IdRanges()
        first, last = int(self.ranges[0, 0]), int(self.ranges[-1, 1])
        outside = self.holes(first, last)
        missing = other.holes(first, last)
        outside.add(missing.ranges[:, 0], missing.ranges[:, 1])
        return outside.holes(first, last)

    def _settle(self) -> None:
        if not self._pending:
            return
        every = np.concatenate([self._ranges, *self._pending])
        self._pending, self._waiting = [], 0
        every = every[np.argsort(every[:, 0], kind="stable")]
        reach = np.maximum.accumulate(every[:, 1])
        starts = np.append(True, every[1:, 0] > reach[:-1] + 1)
        ends = np.append(np.flatnonzero(starts)[1:] - 1, len(every) - 1)
        self._ranges = np.stack([every[starts, 0], reach[ends]], axis=1)
