"""What an interruption may have cost a symbol of which no trade was seen before it. Pure.

Sequence checks start from a symbol's first trade. One that is collected but has not traded yet has
nothing to start from: if the connection is lost, or the collector restarted, and then it trades,
nobody knows what it traded meanwhile. That is a gap of unknown size.
"""

from collections.abc import Collection

import numpy as np

from ingest.ticks import Trades
from ingest.watchdog import CEILING_S

Doubt = tuple[str, int, int, int]
"""(symbol, from when its trades may be missing, exchange_ts of its own first, its arrival): ns."""
NOTICED_NS = int(CEILING_S * 1e9)
"""A connection may be dead for so long, while others bring trades, before that is noticed."""


class Untraded:
    """The symbols that are collected and have not traded yet."""

    def __init__(self) -> None:
        self._quiet: dict[str, int] = {}
        self._doubtful: dict[str, int] = {}
        self._newest = 0

    def covered(self, symbols: Collection[str], since: int) -> None:
        """They are collected from `since` (ns, arrival) on, and have not traded before."""
        self._quiet |= dict.fromkeys(symbols, since)

    def interrupted(self, symbols: Collection[str] | None = None) -> None:
        """Trades of these may have been missed, until each symbol's next.

        None: of any, from `NOTICED_NS` before the newest trade on. A stream that is dead on its own
        is noticed any time later: from when it was subscribed.
        """
        lived_until = self._newest - NOTICED_NS
        for symbol in list(self._quiet if symbols is None else self._quiet.keys() & symbols):
            since = self._quiet.pop(symbol)
            if self._newest:  # the venue's clock, which arrival's may be ahead of
                since = lived_until if symbols is None else min(since, lived_until)
            self._doubtful.setdefault(symbol, since)

    def ended(self, symbol: str) -> int | None:
        """It is delisted: from when (ns) its trades may be missing, None if there were none."""
        self._quiet.pop(symbol, None)
        return self._doubtful.pop(symbol, None)

    def check(self, trades: Trades) -> list[Doubt]:
        """The doubts that the first trades among these end."""
        found: list[Doubt] = []
        if self._quiet or self._doubtful:
            traded, first = np.unique(trades.code, return_index=True)
            for code, at in zip(traded.tolist(), first.tolist(), strict=True):
                symbol = trades.symbols[code]
                self._quiet.pop(symbol, None)
                since = self._doubtful.pop(symbol, None)
                if since is not None:
                    own = int(trades.exchange_ts[at])
                    found.append((symbol, min(since, own), own, int(trades.local_ts[at])))
        # The venue's clock may step: of a batch the oldest stamp is the safe one.
        self._newest = int(trades.exchange_ts.min())
        return found
