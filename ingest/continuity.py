"""What is missing: sequence checks of trades, per symbol (EXCHANGES §1.2, §2.2, §3.1). Pure.

    Binance @trade      t rises by one: the rows that are no market prints (NA, insurance fund,
                        ADL) use up ids too, and are ticks as well
    Binance @aggTrade   a rises by one. Ids do not: the rows that are no market prints are in no
                        aggregate, so f may be above the previous l + 1
    OKX                 tradeId − count is the previous tradeId
    Hyperliquid         no sequence: see `ingest.fills`

A hole in the ids that copies or late rows fill within `REORDER_NS` of arrival time is no gap.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ingest.codes import Codes
from ingest.ended import Ended
from ingest.fills import FillContinuity
from ingest.gaps import (
    DISCONNECT,
    IDS,
    RESTART,
    SEQUENCE,
    SKIPPED,
    STRADDLE,
    Gap,
    fills_between,
    last_trades,
    without,
)
from ingest.instruments import HYPERLIQUID
from ingest.ticks import HEALED, I64, Trades
from ingest.untraded import Untraded

Mask = npt.NDArray[np.bool_]

REORDER_NS = 500_000_000
"""Arrival time within which rows may come out of order before a hole counts as a gap."""
LAST_NS = 10_000_000_000
"""From a delisting, in arrival time, until its last trades are here or missing: longer than its
streams are still listened to."""
_REASONS = (SEQUENCE, DISCONNECT, RESTART, SKIPPED)
_UNKNOWN = -1
_NOBODY: I64 = np.empty(0, np.int64)


class Continuity(Protocol):
    """Checks the trades of one exchange, in the order in which they arrive."""

    def check(self, trades: Trades, aggregates: I64 | None = None) -> Mask | None:
        """Take a batch into account; returns the rows to keep, None for all of them.

        `aggregates` is each row's aggregate id `a`, 0 for a row that is none.
        """
        ...

    def due(self, now: int | None = None) -> list[Gap]:
        """Gaps that are certain at arrival time `now` (ns), each once; None: all that are open."""
        ...

    def covered(self, symbols: Collection[str], since: int) -> None:
        """These are collected from arrival time `since` (ns) on."""
        ...

    def interrupted(self, reason: str) -> None:
        """The next gap of each symbol is for this reason: a disconnect or a restart."""
        ...

    def silent(self, symbol: str) -> None:
        """The stream of one symbol was dead."""
        ...

    def ended(self, symbol: str, until: int) -> None:
        """It is delisted, and its streams are left by `until` (arrival, ns)."""
        ...

    def settled(self, symbol: str, first: int, last: int) -> None:
        """What can be done about these ids has been done: they are in no gap any more."""
        ...

    def reopen(self, gaps: Sequence[Gap]) -> None:
        """Gaps of kind `fills` of an earlier session whose healing did not end."""
        ...


def continuity(exchange: str) -> Continuity:
    """The check that suits the venue's trade ids."""
    return FillContinuity() if exchange == HYPERLIQUID else IdContinuity()


def aggregates_of(numbers: I64, trades: Trades) -> I64 | None:
    """The aggregate number of each row, from (row, number) pairs in order of row; 0: none."""
    if not len(numbers):
        return None
    at = np.minimum(np.searchsorted(numbers[:, 0], trades.row), len(numbers) - 1)
    return np.where(numbers[at, 0] == trades.row, numbers[at, 1], 0)


class IdContinuity:
    """Ids that rise by one: every hole in them is a gap unless it is filled in time."""

    def __init__(self) -> None:
        self._codes = Codes()
        self._top: I64 = np.empty(0, np.int64)
        self._top_aggregate: I64 = np.empty(0, np.int64)
        self._top_ts: I64 = np.empty(0, np.int64)
        self._reason: I64 = np.empty(0, np.int64)
        self._holes: dict[int, list[Gap]] = {}
        self._untraded = Untraded()
        self._ended = Ended()
        self._why = SEQUENCE
        self._unknown: list[Gap] = []

    def top(self, symbol: str) -> int | None:
        """The highest id seen of a symbol, None before the first."""
        known = symbol in self._codes.symbols
        top = int(self._top[self._codes.symbols.index(symbol)]) if known else _UNKNOWN
        return None if top == _UNKNOWN else top

    def check(self, trades: Trades, aggregates: I64 | None = None) -> Mask | None:
        code = self._codes.of(trades)
        self._grow(len(self._codes.symbols))
        for doubt in self._untraded.check(trades):
            self._unknown.append(fills_between(*doubt, self._why))
        if aggregates is None:
            aggregates = np.zeros(len(trades), np.int64)
        order = np.argsort(code, kind="stable")
        suspect = self._suspects(trades, code[order], aggregates[order], order)
        if not len(suspect):
            return None
        keep = np.ones(len(trades), bool)
        for who in suspect.tolist():
            self._walk(who, trades, aggregates, np.flatnonzero(code == who), keep)
        return None if keep.all() else keep

    def _suspects(self, trades: Trades, code: I64, aggregate: I64, order: I64) -> I64:
        """Codes with a row that is not above the one before; the others move on, over holes too.

        `code` and `aggregate` are sorted by code through `order`, arrival order within a code.
        """
        last = trades.id[order]
        first = last - trades.count[order] + 1
        starts = np.flatnonzero(np.append(True, code[1:] != code[:-1]))
        ends = np.append(starts[1:], len(code)) - 1
        before = np.append(np.int64(_UNKNOWN), last[:-1])
        before[starts] = self._top[code[starts]]
        ok = first == before + 1
        ok[starts] |= before[starts] == _UNKNOWN
        aggregated = aggregate > 0
        if aggregated.any():
            chain = np.append(np.int64(0), aggregate[:-1])
            chain[starts] = self._top_aggregate[code[starts]]
            ok |= aggregated & (chain > 0) & (aggregate == chain + 1) & (first > before)
        walked = (first <= before) | (trades.origin[order] == HEALED)
        if aggregated.any() and not aggregated.all():  # both streams at once, during a switch
            walked[:] = True
        suspect, good = _NOBODY, ends
        if walked.any():
            suspect = np.unique(code[walked])
            good = ends[~np.isin(code[ends], suspect)]
        holes = np.flatnonzero(~ok)
        for at in holes[~np.isin(code[holes], suspect)].tolist():
            who, top = int(code[at]), int(before[at])
            if top != self._top[who]:  # rows of this batch have led up to it
                self._top[who], self._reason[who] = top, 0
                self._top_ts[who] = trades.exchange_ts[order[at - 1]]
                if aggregated.any():
                    self._top_aggregate[who] = aggregate[at - 1]
            hole = top + 1, int(first[at]) - 1, int(aggregate[at])
            self._hole(who, trades, int(order[at]), *hole)
        who = code[good]
        self._top[who] = last[good]
        self._top_ts[who] = trades.exchange_ts[order][good]
        if aggregated.any():
            self._top_aggregate[who] = aggregate[good]
        self._reason[who] = 0
        return suspect

    def _walk(
        self, who: int, trades: Trades, aggregates: I64, rows: npt.NDArray[np.intp], keep: Mask
    ) -> None:
        """The rows of one code, one by one, in arrival order."""
        for i in rows.tolist():
            last = int(trades.id[i])
            first = last - int(trades.count[i]) + 1
            top, aggregate = int(self._top[who]), int(aggregates[i])
            chained = 0 < aggregate == int(self._top_aggregate[who]) + 1 > 1
            if trades.origin[i] == HEALED:
                self._fill(who, first, last)
                continue
            if top == _UNKNOWN or first > top:
                if top != _UNKNOWN and first > top + 1 and not chained:
                    self._hole(who, trades, i, top + 1, first - 1, aggregate)
            else:
                keep[i] = self._again(who, trades, i, first, last, aggregate)
            if last > top:
                self._top[who], self._top_ts[who] = last, trades.exchange_ts[i]
            self._top_aggregate[who] = max(int(self._top_aggregate[who]), aggregate)
            self._reason[who] = 0

    def _again(
        self, who: int, trades: Trades, i: int, first: int, last: int, aggregate: int
    ) -> bool:
        """A row not above the highest id: whether it is of use. What it fills is no hole any more.

        An aggregate of which a part was seen can't be counted: its other part stays missing.
        """
        top = int(self._top[who])
        if last > top:
            self._add(who, trades, i, top + 1, last, STRADDLE)
            return False
        touched = self._holes.get(who, [])[self._touched(who, first, last)]
        inside = any(
            hole.first_missing <= first and last <= hole.last_missing  # type: ignore[operator]
            for hole in touched
        )
        if first == last or inside:
            self._fill(who, first, last, aggregate)
            return True
        return not touched

    def _touched(self, who: int, first: int, last: int) -> slice:
        """Which of its holes, found in rising order of ids, have ids from `first` to `last`."""
        holes = self._holes.get(who, ())
        start = bisect_left(holes, first, key=lambda hole: hole.last_missing)
        stop = bisect_right(holes, last, lo=start, key=lambda hole: hole.first_missing)
        return slice(start, stop)

    def _hole(
        self, who: int, trades: Trades, i: int, first: int, last: int, aggregate: int
    ) -> None:
        before = int(self._top_aggregate[who])
        between = (before + 1, aggregate - 1) if 0 < before < aggregate - 1 else None
        self._add(who, trades, i, first, last, _REASONS[int(self._reason[who])], between)

    def _add(
        self,
        who: int,
        trades: Trades,
        i: int,
        first: int,
        last: int,
        reason: str,
        aggregates: tuple[int, int] | None = None,
    ) -> None:
        gap = Gap(
            symbol=self._codes.symbols[who],
            kind=IDS,
            first_missing=first,
            last_missing=last,
            missing=last - first + 1,
            reason=reason,
            exchange_ts=int(self._top_ts[who]),
            exchange_to=int(trades.exchange_ts[i]),
            local_ts=int(trades.local_ts[i]),
            aggregates=aggregates,
        )
        self._holes.setdefault(who, []).append(gap)

    def _fill(self, who: int, first: int, last: int, aggregate: int = 0) -> None:
        """Ids that came late are not missing."""
        if who in self._holes:
            holes, touched = self._holes[who], self._touched(who, first, last)
            holes[touched] = [
                part for hole in holes[touched] for part in without(hole, first, last, aggregate)
            ]
            if not holes:
                del self._holes[who]

    def due(self, now: int | None = None) -> list[Gap]:
        found, self._unknown = self._unknown, []
        found += [gap for over in self._ended.due(now) if (gap := self._last_trades(*over))]
        if not self._holes:
            return found
        waiting: dict[int, list[Gap]] = {}
        for who, holes in self._holes.items():
            for hole in holes:
                if now is None or hole.local_ts + REORDER_NS <= now:
                    found.append(hole)
                else:
                    waiting.setdefault(who, []).append(hole)
        self._holes = waiting
        return found

    def _last_trades(self, symbol: str, until: int) -> Gap | None:
        doubted = self._untraded.ended(symbol)
        top = self.top(symbol)
        if top is not None:
            since = int(self._top_ts[self._codes.symbols.index(symbol)])
            return last_trades(symbol, top + 1, min(since, until), until)
        return None if doubted is None else last_trades(symbol, None, min(doubted, until), until)

    def covered(self, symbols: Collection[str], since: int) -> None:
        self._untraded.covered([s for s in symbols if self.top(s) is None], since)

    def interrupted(self, reason: str) -> None:
        self._reason[:] = _REASONS.index(reason)
        self._why = reason
        self._untraded.interrupted()

    def silent(self, symbol: str) -> None:
        self._untraded.interrupted([symbol])

    def ended(self, symbol: str, until: int) -> None:
        self._ended.add(symbol, until)

    def settled(self, symbol: str, first: int, last: int) -> None:
        if symbol in self._codes.symbols:
            self._fill(self._codes.symbols.index(symbol), first, last)

    def reopen(self, gaps: Sequence[Gap]) -> None:
        self._unknown += gaps

    def _grow(self, codes: int) -> None:
        more = codes - len(self._top)
        if more > 0:
            self._top = np.append(self._top, np.full(more, _UNKNOWN))
            zeros = np.zeros(more, np.int64)
            self._top_aggregate = np.append(self._top_aggregate, zeros)
            self._top_ts = np.append(self._top_ts, zeros)
            self._reason = np.append(self._reason, zeros)
