"""What an interruption may have cost a symbol of which no trade was seen before it. Pure.

Sequence checks start from a symbol's first trade. One that is collected but has not traded yet has
nothing to start from: if the connection is lost, or the collector restarted, and then it trades,
nobody knows what it traded meanwhile. That is a gap of unknown size.
"""

from collections.abc import Collection

import numpy as np

from ingest.ticks import Trades

Doubt = tuple[str, int, int, int]
"""(symbol, exchange_ts of the last trade of any symbol before, of its own first, its arrival): ns.
"""


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
        """Trades of these (None: of any) may have been missed, until each symbol's next."""
        for symbol in list(self._quiet if symbols is None else self._quiet.keys() & symbols):
            since = self._quiet.pop(symbol)
            self._doubtful.setdefault(symbol, self._newest or since)

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
