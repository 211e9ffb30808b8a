"""Why a trade is in no bar of a clock, found out as the aggregator does; pure.

By its own stamps: `not_a_trade`, `backlog`, `healed` (true clock), `late`, `future` (exchange
clock). Among the others of its instrument: `duplicate`.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregate.intervals import CLOCKS, EXCHANGE, NS
from aggregate.seconds import UNORDERED_IDS, Seconds
from ingest.ticks import BACKLOG, FUTURE_NS, HEALED, I8, I64, Trades

REASONS = ("", "not_a_trade", "backlog", "healed", "late", "future", "duplicate")
"""By code; 0: it is in a bar."""
_COUNTED, _NOT_A_TRADE, _BACKLOG, _HEALED, _LATE, _FUTURE, _DUPLICATE = range(len(REASONS))
MEMORY_NS = 120 * NS
"""How much of the day before has to be shown first: copies come within that time."""
_STEP_S = 60
"""Hashed ids are forgotten as time goes on, so time has to go on in small steps."""


@dataclass(slots=True)
class _Slice:
    first: int
    end_ns: int
    codes: dict[str, I8]


class Exclusions:
    """Of one instrument's trades, given in order of arrival, a slice of time after the other.

    A slice's codes are known once the slices after it have gone far enough.
    """

    def __init__(self, exchange: str, lateness_ns: int) -> None:
        self._lateness = lateness_ns
        self._seconds = {clock: Seconds(exchange, clock, "trades", []) for clock in CLOCKS}
        self._stepwise = exchange in UNORDERED_IDS
        self._open: deque[_Slice] = deque()
        self._next = 0

    def remember(self, trades: Trades) -> None:
        """Trades before the first slice, which later ones may be copies of."""
        for clock, held in self._admitted(trades).items():
            ticks = trades.take(held == _DUPLICATE)
            ticks.row[:] = -1
            if len(ticks):
                self._seconds[clock].add(ticks, "")

    def add(self, trades: Trades, end_ns: int) -> list[dict[str, I8]]:
        """A slice of all trades that arrived before `end_ns`; codes of the slices known by now.

        Codes are by clock, in the order of the rows given.
        """
        trades = trades.take(slice(None))
        trades.row = np.arange(self._next, self._next + len(trades))
        codes = self._admitted(trades)
        for clock, held in codes.items():
            ticks = trades.take(held == _DUPLICATE)
            if len(ticks):
                self._seconds[clock].add(ticks, "")
        self._open.append(_Slice(self._next, end_ns, codes))
        self._next += len(trades)
        exchange_ns = end_ns - self._lateness
        self._seal("true", end_ns // NS)
        self._seal(EXCHANGE, exchange_ns // NS)
        known = []
        while self._open and self._open[0].end_ns + FUTURE_NS + NS <= exchange_ns:
            known.append(self._open.popleft().codes)
        return known

    def close(self) -> list[dict[str, I8]]:
        """The codes of the slices that are left: nothing follows."""
        for clock in CLOCKS:
            high = self._seconds[clock].high_ns()
            if high is not None:
                self._seal(clock, high // NS + 1)
        return [self._open.popleft().codes for _ in range(len(self._open))]

    def _admitted(self, trades: Trades) -> dict[str, I8]:
        """Codes by the trades' own stamps; the others are duplicates until they are accepted."""
        no_print = (trades.off_book != 0) | ~(trades.price > 0) | ~(trades.qty > 0)
        future = trades.exchange_ts > trades.local_ts + FUTURE_NS
        late = trades.local_ts >= (trades.exchange_ts // NS + 1) * NS + self._lateness
        not_live = [trades.origin == BACKLOG, trades.origin == HEALED]
        exchange = [no_print, future, late], [_NOT_A_TRADE, _FUTURE, _LATE]
        true = [no_print, *not_live], [_NOT_A_TRADE, _BACKLOG, _HEALED]
        return {
            clock: np.select(*why, _DUPLICATE).astype(np.int8)
            for clock, why in ((EXCHANGE, exchange), ("true", true))
        }

    def _seal(self, clock: str, cut: int) -> None:
        low = self._seconds[clock].low_ns()
        if low is None or low // NS >= cut:
            return
        steps = [*range(low // NS + _STEP_S, cut, _STEP_S), cut] if self._stepwise else [cut]
        for step in steps:
            accepted = self._seconds[clock].accepted(step)
            if accepted is not None:
                self._count(clock, np.sort(accepted.row))

    def _count(self, clock: str, rows: I64) -> None:
        for part in self._open:
            codes = part.codes[clock]
            at: npt.NDArray[np.int64] = rows[
                np.searchsorted(rows, part.first) : np.searchsorted(rows, part.first + len(codes))
            ]
            codes[at - part.first] = _COUNTED
