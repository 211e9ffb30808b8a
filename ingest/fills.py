"""Continuity of Hyperliquid's fills, which have no sequence (EXCHANGES §3.1). Pure.

The fills replayed after each (re)subscription overlap with what was seen, or a gap of unknown size
lies between. What a standing connection leaves out cannot be noticed from the stream.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ingest.codes import Codes
from ingest.ended import Ended
from ingest.gaps import SEQUENCE, Gap, fills_between, last_trades
from ingest.ticks import BACKLOG, I64, Trades
from ingest.untraded import Untraded

BACKLOG_FILLS = 30
"""Fills of a backlog; with fewer there are no older ones."""
RECENT_FILLS = 64
"""Fills remembered per coin: a backlog is 30, and it overlaps with the last of these."""


class FillContinuity:
    """Hyperliquid: the overlap of a replayed backlog with what was seen."""

    def __init__(self) -> None:
        self._codes = Codes()
        self._recent: dict[int, I64] = {}
        self._last_ts: dict[int, int] = {}
        self._interrupted = SEQUENCE
        self._due: list[Gap] = []
        self._untraded = Untraded()
        self._ended = Ended()

    def check(self, trades: Trades, aggregates: I64 | None = None) -> None:
        code = self._codes.of(trades)
        doubts = {symbol: since for symbol, since, *_ in self._untraded.check(trades)}
        order = np.argsort(code, kind="stable")
        cuts = np.flatnonzero(np.diff(code[order])) + 1
        for rows in np.split(order, cuts):
            self._take(int(code[rows[0]]), trades, rows, doubts)

    def _take(
        self,
        who: int,
        trades: Trades,
        rows: npt.NDArray[np.intp],
        doubts: Mapping[str, int],
    ) -> None:
        """Rows of one code; `doubts` says from when (ns) trades of a symbol may be missing."""
        backlog = trades.origin[rows] == BACKLOG
        if backlog.any():
            # A frame's fills share its stamp; what came before it is what it must overlap with.
            for stamp in np.unique(trades.local_ts[rows[backlog]]).tolist():
                mine = backlog & (trades.local_ts[rows] == stamp)
                at = int(np.argmax(mine))
                self._remember(who, trades, rows[:at])
                self._compare(who, trades, rows[mine], doubts)
                self._remember(who, trades, rows[mine])
                rows, backlog = rows[at:][~mine[at:]], backlog[at:][~mine[at:]]
        self._remember(who, trades, rows)

    def _compare(
        self,
        who: int,
        trades: Trades,
        rows: npt.NDArray[np.intp],
        doubts: Mapping[str, int],
    ) -> None:
        recent = self._recent.get(who)
        symbol = self._codes.symbols[who]
        until = int(trades.exchange_ts[rows].min())
        if recent is None:
            if symbol not in doubts or len(rows) < BACKLOG_FILLS:
                return
            since = min(doubts[symbol], until)
        elif np.isin(trades.id[rows], recent).any():
            return
        else:
            since = self._last_ts[who]
        local_ts = int(trades.local_ts[rows[0]])
        self._due.append(fills_between(symbol, since, until, local_ts, self._interrupted))

    def _remember(self, who: int, trades: Trades, rows: npt.NDArray[np.intp]) -> None:
        if not len(rows):
            return
        recent = self._recent.get(who, np.empty(0, np.int64))
        self._recent[who] = np.append(recent, trades.id[rows])[-RECENT_FILLS:]
        newest = int(trades.exchange_ts[rows].max())
        self._last_ts[who] = max(newest, self._last_ts.get(who, 0))

    def due(self, now: int | None = None) -> list[Gap]:
        found, self._due = self._due, []
        return found + [gap for over in self._ended.due(now) if (gap := self._last_trades(*over))]

    def _last_trades(self, symbol: str, until: int) -> Gap | None:
        since = self._untraded.ended(symbol)
        known = symbol in self._codes.symbols
        if known and (who := self._codes.symbols.index(symbol)) in self._last_ts:
            since = self._last_ts[who]
        return None if since is None else last_trades(symbol, None, min(since, until), until)

    def covered(self, symbols: Collection[str], since: int) -> None:
        known = {self._codes.symbols[who] for who in self._recent}
        self._untraded.covered([s for s in symbols if s not in known], since)

    def interrupted(self, reason: str) -> None:
        self._interrupted = reason
        self._untraded.interrupted()

    def silent(self, symbol: str) -> None:
        self._untraded.interrupted([symbol])

    def ended(self, symbol: str, until: int) -> None:
        self._ended.add(symbol, until)

    def settled(self, symbol: str, first: int, last: int) -> None:
        """Nothing: these gaps have no ids, and are due once."""

    def reopen(self, gaps: Sequence[Gap]) -> None:
        self._due += gaps
