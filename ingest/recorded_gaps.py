"""What recordings lack: the checks of a session, told what a recording says. Pure."""

from collections.abc import Collection

import numpy as np

from ingest.continuity import continuity
from ingest.gaps import FILLS, STRADDLE, Gap
from ingest.ticks import I64, Quotes, Trades
from ingest.untraded import NOTICED_NS


class RecordedGaps:
    """Gaps in one exchange's recordings, read one after the other."""

    def __init__(self, exchange: str) -> None:
        self._checks = continuity(exchange)
        self._known: set[str] = set()
        self._reached = 0
        self._lost_from = 0

    def interrupted(self, reason: str) -> None:
        """The connection was lost here, or the recorder started anew."""
        if self._reached:
            self._lost_from = self._lost_from or self._reached - NOTICED_NS
        self._checks.interrupted(reason)

    def covered(self, symbols: Collection[str], since: int) -> None:
        """The recording says that these are in it from `since` (ns, arrival) on."""
        self._known.update(symbols)
        self._checks.covered(symbols, since)

    def add(
        self, trades: Trades, quotes: Quotes, aggregates: I64 | None, *, says_covered: bool
    ) -> None:
        """The next ticks, and each trade's aggregate id (`Continuity.check`).

        `says_covered`: the recording does; else whatever is in it was subscribed from its start.
        """
        stamps = [int(ticks.exchange_ts.min()) for ticks in (trades, quotes) if len(ticks)]
        if not stamps:
            return
        if not says_covered:
            self._cover_the_new(trades, quotes, min(stamps))
        if len(trades):
            self._checks.check(trades, aggregates)
        self._reached = min(stamps)

    def _cover_the_new(self, trades: Trades, quotes: Quotes, since: int) -> None:
        found = {t.symbols[code] for t in (trades, quotes) for code in np.unique(t.code).tolist()}
        for symbol in sorted(found - self._known):
            self.covered([symbol], self._lost_from or since)
            if self._lost_from:  # it may have traded while the connection was lost
                self._checks.silent(symbol)

    def found(self) -> list[Gap]:
        """All gaps, once everything is added.

        A recording keeps what a session leaves out for its other part (`STRADDLE`), and of
        recordings that overlap the later begins before the end of the earlier.
        """
        return [
            gap
            for gap in self._checks.due()
            if gap.reason != STRADDLE and (gap.kind != FILLS or gap.exchange_ts <= gap.exchange_to)
        ]
