"""Which symbols are silent while others flow: last arrivals and deadlines by symbol. Pure.

A venue may drop one stream of a connection and keep it confirmed. The watchdog of the channel
doesn't notice; here each symbol has a deadline from its own rate, as `ingest.watchdog` has one for
a channel. A quiet market looks the same, so who is overdue is only suspected: for trades the venue
is asked (`ingest.symbol_checks`); quotes are missing if trades of the symbol go on without them.

Everything is an array with one value a symbol, and one pass a flush: about 30 µs whatever its size.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ingest.records import TRADES
from ingest.ticks import F64, I64, LIVE, Quotes, Trades
from ingest.watchdog import GAP_SPAN_S, GAPS, MISSED, RATE_SPAN_S

FLOOR_S = 20.0
CEILING_S = 1800.0
FIRST_S = 120.0
"""Silence allowed to a symbol of which nothing has been heard yet."""
TRADES_WITHOUT_QUOTE = 20
"""Trades of a symbol without one quote between them that prove its quotes missing."""
_NS = 1_000_000_000


class _Kind:
    """The silence of each symbol in one kind of tick. Times are arrival stamps in ns."""

    def __init__(self) -> None:
        self.heard_at: I64 = np.empty(0, np.int64)
        self.known: npt.NDArray[np.bool_] = np.empty(0, np.bool_)
        self.patience: F64 = np.empty(0)
        self._rate: F64 = np.empty(0)
        self._gap: F64 = np.empty(0)

    def grow(self, more: int) -> None:
        self.heard_at = np.append(self.heard_at, np.zeros(more, np.int64))
        self.known = np.append(self.known, np.zeros(more, np.bool_))
        self.patience = np.append(self.patience, np.ones(more))
        self._rate = np.append(self._rate, np.zeros(more))
        self._gap = np.append(self._gap, np.zeros(more))

    def heard(self, now: int, counts: I64) -> None:
        """So many ticks of each code have come since the last call."""
        who = np.flatnonzero(counts)
        known = self.known[who]
        pause = np.where(known, np.maximum(now - self.heard_at[who], 0) / _NS, 0.0)
        fresh = counts[who] / RATE_SPAN_S
        self._rate[who] = self._rate[who] * np.exp(-pause / RATE_SPAN_S) + fresh
        self._gap[who] = np.maximum(pause, self._gap[who] * np.exp(-pause / GAP_SPAN_S))
        self.heard_at[who] = now
        self.known[who] = True
        self.patience[who] = 1.0

    def overdue(self, now: int) -> F64:
        """How many times its deadline each symbol has been silent for."""
        expected = MISSED / np.maximum(self._rate, MISSED / CEILING_S)
        due = np.where(self.known, np.maximum(expected, GAPS * self._gap), FIRST_S)
        deadline = np.minimum(np.maximum(due, FLOOR_S) * self.patience, CEILING_S)
        silence: F64 = (now - self.heard_at) / _NS / deadline
        return silence

    def give_up(self, code: int, now: int) -> None:
        self.heard_at[code] = now
        self.patience[code] = min(2 * self.patience[code], CEILING_S / FLOOR_S)


class SymbolWatch:
    """Of one session's instruments, by code; `start` those that were subscribed."""

    def __init__(self) -> None:
        self._trades, self._quotes = _Kind(), _Kind()
        self._newest: I64 = np.empty(0, np.int64)
        self._unquoted: I64 = np.empty(0, np.int64)

    def start(self, codes: Sequence[int], now: int) -> None:
        """These were subscribed (again): their silence counts from `now` (arrival, ns)."""
        self._grow(max(codes, default=-1) + 1)
        who = np.array(codes, np.int64)
        for kind in (self._trades, self._quotes):
            kind.heard_at[who] = np.maximum(kind.heard_at[who], now)
        self._newest[who] = np.maximum(self._newest[who], now)
        self._unquoted[who] = 0

    def heard(self, trades: Sequence[Trades], quotes: Sequence[Quotes]) -> None:
        """What one flush brought."""
        if trades:
            code = np.concatenate([t.code[t.origin == LIVE] for t in trades])
            counts = self._counted(self._trades, code, trades)
            np.add(self._unquoted, counts, out=self._unquoted)
            every = np.concatenate([t.code for t in trades])
            stamps = np.concatenate([t.exchange_ts for t in trades])
            np.maximum.at(self._newest, every, stamps)
        if quotes:
            counts = self._counted(self._quotes, np.concatenate([q.code for q in quotes]), quotes)
            self._unquoted[counts > 0] = 0

    def _counted(
        self, kind: _Kind, code: npt.NDArray[np.int32], batches: Sequence[Trades | Quotes]
    ) -> I64:
        self._grow(len(batches[0].symbols))
        counts = np.bincount(code, minlength=len(kind.heard_at))
        kind.heard(max(int(b.local_ts[-1]) for b in batches), counts)
        return counts

    def newest(self, code: int) -> int:
        """Exchange stamp (ns) of the symbol's newest trade, or when it was subscribed."""
        return int(self._newest[code])

    def suspects(self, now: int) -> list[int]:
        """Codes whose trades are overdue, the longest first: quiet, or silent."""
        overdue = self._trades.overdue(now)
        order = np.argsort(-overdue, kind="stable")
        return [int(code) for code in order[overdue[order] > 1.0]]

    def unquoted(self, now: int) -> list[int]:
        """Codes whose quotes are overdue while their trades go on."""
        late = self._quotes.overdue(now) > 1.0
        return [int(c) for c in np.flatnonzero(late & (self._unquoted >= TRADES_WITHOUT_QUOTE))]

    def alive(self, code: int, kind: str) -> bool:
        """Whether something was heard of it since it was given up."""
        return bool((self._trades if kind == TRADES else self._quotes).patience[code] == 1.0)

    def give_up(self, code: int, now: int) -> None:
        """It was looked into, and is subscribed anew if it was silent: next time it may take twice
        as long."""
        for kind in (self._trades, self._quotes):
            kind.give_up(code, now)
        self._unquoted[code] = 0

    def _grow(self, codes: int) -> None:
        more = codes - len(self._newest)
        if more > 0:
            self._trades.grow(more)
            self._quotes.grow(more)
            self._newest = np.append(self._newest, np.zeros(more, np.int64))
            self._unquoted = np.append(self._unquoted, np.zeros(more, np.int64))
