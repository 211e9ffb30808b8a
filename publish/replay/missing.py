"""What a table's trades lack, by the venue's ids; and where they begin and end, for what follows.

The check is the collectors' (`ingest.continuity`). Where a hole may be something else than trades
that the venue's archive lost, its reason says so (`ingest.gaps`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ingest.continuity import IdContinuity
from ingest.gaps import SEQUENCE, SKIPPED, STRADDLE, Gap
from ingest.ticks import I64, Trades

AT_ONCE = 1 << 14
"""Rows that are looked at together: what they need stays in the processor's cache."""
HELD_NS = 3_600_000_000_000
"""Rows may be out of order by so much and still fill the hole that they left."""


@dataclass(slots=True)
class Edge:
    """Where a symbol's trades begin and end.

    Trade ids, and numbers of Binance's aggregates (0: none); stamps (ns) of the first and the last
    of them. `reason`: of holes in its ids. `lost_before`, `lost_after`: rows were skipped there.
    """

    first: int
    last: int
    first_aggregate: int
    last_aggregate: int
    local_from: int
    exchange_from: int
    exchange_to: int
    reason: str
    lost_before: bool = False
    lost_after: bool = False

    def extend(self, more: "Edge") -> None:
        """Take rows in that come later in the file."""
        if more.first < self.first:
            self.first, self.first_aggregate = more.first, more.first_aggregate
            self.local_from, self.exchange_from = more.local_from, more.exchange_from
        if more.last > self.last:
            self.last, self.last_aggregate = more.last, more.last_aggregate
            self.exchange_to = more.exchange_to
        self.lost_after = False


class Edges:
    """The edges of an import's trades, by symbol. `reason`: of holes in its ids."""

    def __init__(self, reason: str = SEQUENCE) -> None:
        self.of: dict[str, Edge] = {}
        self._reason = reason
        self._lost = False

    def add(self, trades: Trades, aggregates: I64 | None = None) -> None:
        """The next trades, and each one's aggregate id."""
        for code in np.flatnonzero(np.bincount(trades.code)).tolist():
            symbol, rows = trades.symbols[code], np.flatnonzero(trades.code == code)
            first, last = (trades.id - trades.count + 1)[rows], trades.id[rows]
            low, high = int(rows[first.argmin()]), int(rows[last.argmax()])
            edge = Edge(
                int(first.min()),
                int(last.max()),
                0 if aggregates is None else int(aggregates[low]),
                0 if aggregates is None else int(aggregates[high]),
                int(trades.local_ts[low]),
                int(trades.exchange_ts[low]),
                int(trades.exchange_ts[high]),
                self._reason,
                lost_before=self._lost,
            )
            if symbol in self.of:
                self.of[symbol].extend(edge)
            else:
                self.of[symbol] = edge

    def skipped(self) -> None:
        """Rows were left out here, of whatever symbol."""
        self._lost = True
        for edge in self.of.values():
            edge.lost_after = True


class Missing:
    """Gaps in the trades of one table. `reason`: of the holes in their ids."""

    def __init__(self, reason: str) -> None:
        self.edges = Edges(reason)
        self._reason = reason
        self._checks = IdContinuity()
        self._told = 0
        self._newest = 0

    def add(self, trades: Trades, aggregates: I64 | None, lost: Sequence[int]) -> None:
        """The next rows, and each one's aggregate id.

        `lost`: the numbers of rows so far that were skipped, or behind which some were.
        """
        places = np.unique(np.array(lost[self._told :], np.int64))
        self._told = len(lost)
        start = 0
        for place in np.searchsorted(trades.row, places, side="right").tolist():
            self._check(trades, aggregates, start, place)
            self._checks.interrupted(SKIPPED)
            self.edges.skipped()
            start = place
        self._check(trades, aggregates, start, len(trades))

    def _check(self, trades: Trades, aggregates: I64 | None, start: int, stop: int) -> None:
        for at in range(start, stop, AT_ONCE):
            rows = slice(at, min(at + AT_ONCE, stop))
            some = trades.take(rows)
            numbers = None if aggregates is None else aggregates[rows]
            self._checks.check(some, numbers)
            self.edges.add(some, numbers)
            self._newest = max(self._newest, int(some.local_ts.max()))

    def end(self, lost: Sequence[int]) -> None:
        """No more rows; `lost` as before."""
        if len(lost) > self._told:
            self.edges.skipped()

    def due(self, *, final: bool = False) -> list[Gap]:
        """Gaps that no row out of order fills any more, each once; at the end all."""
        # An aggregate that overlaps with what was before it is kept.
        return [
            replace(gap, reason=self._reason) if gap.reason == SEQUENCE else gap
            for gap in self._checks.due(None if final else self._newest - HELD_NS)
            if gap.reason != STRADDLE
        ]
