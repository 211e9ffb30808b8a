"""What the raw archive says of an instrument: how much arrived, how late, what is missing. Pure.

Ticks count by the venue's own stamp: those of the audited days, whenever they arrived.

    Binance, OKX    trade ids rise by one, so those between the first and the last are expected
                    (ingest/continuity.py). Ids inside a gap that was healed whole, and still not
                    there, are no trades: history has all there are. Binance's rows that are no
                    market prints are in no aggregate, so beside aggregates (a row of several ids)
                    an id that is missing outside every recorded gap is no trade either.
    Hyperliquid     ids are hashes: what is expected is unknown
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from aggregate.intervals import NS
from aggregate.seconds import UNORDERED_IDS
from ingest.gaps import IDS
from ingest.instruments import BINANCE
from ingest.ticks import FUTURE_NS, I64, LIVE, Quotes, Trades
from publish.audit.idranges import IdRanges
from publish.audit.latency import Latencies

LATE, HEALED = "late", "healed"
"""Why a tick is in no exchange bar of live's: it came too late by itself, or by healing."""
_NO_SECONDS: I64 = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Completeness:
    """Of the trade ids from the first to the last received: those that are trades.

    `expected` = `received` + `healed` + `missing`; None where ids say nothing. `unrecorded`: those
    among the missing that no gap record names. `unknown_gaps`: of which nobody knows how many.
    """

    expected: int | None
    received: int
    healed: int
    missing: int
    unrecorded: int
    unknown_gaps: int

    @property
    def share(self) -> float | None:
        if not self.expected:
            return None
        return (self.received + self.healed) / self.expected


@dataclass(slots=True)
class TickAccount:
    """Of one instrument, over exchange stamps in [`start`, `end`) (ns); `lateness_ns`: live's."""

    exchange: str
    start: int
    end: int
    lateness_ns: int
    rows: Counter[str] = field(default_factory=Counter)
    """By kind."""
    late: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Ticks that are in no exchange bar of live's, by (kind, why)."""
    future: Counter[str] = field(default_factory=Counter)
    off_book: int = 0
    latencies: dict[str, Latencies] = field(default_factory=dict)
    """Arrival minus exchange stamp of live ticks, by kind."""
    aggregates: bool = False
    _late_seconds: dict[tuple[str, str], I64] = field(default_factory=dict)
    _live: IdRanges = field(default_factory=IdRanges)
    _others: IdRanges = field(default_factory=IdRanges)
    _lowest: int | None = None
    _highest: int | None = None

    def add(self, ticks: Trades | Quotes) -> None:
        """Ticks of the instrument, in any order; those that are stamped outside too.

        Their ids show what is not missing at the edges.
        """
        inside = (ticks.exchange_ts >= self.start) & (ticks.exchange_ts < self.end)
        if isinstance(ticks, Trades) and self.exchange not in UNORDERED_IDS:
            self._add_ids(ticks, inside)
        some = ticks if inside.all() else ticks.take(inside)
        if len(some):
            self._add_stamps(some)

    def _add_stamps(self, ticks: Trades | Quotes) -> None:
        kind = "trades" if isinstance(ticks, Trades) else "quotes"
        self.rows[kind] += len(ticks)
        live = ticks.origin == LIVE
        latency = ticks.local_ts - ticks.exchange_ts
        self.latencies.setdefault(kind, Latencies()).add(latency[live])
        future = latency < -FUTURE_NS
        self.future[kind] += int(future.sum())
        prints = ~future
        if isinstance(ticks, Trades):
            off_book = ticks.off_book != 0
            self.off_book += int(off_book.sum())
            prints &= ~off_book
        second = ticks.exchange_ts // NS
        late = prints & (ticks.local_ts >= (second + 1) * NS + self.lateness_ns)
        if late.any():
            for why, rows in ((LATE, late & live), (HEALED, late & ~live)):
                self.late[kind, why] += int(rows.sum())
                known = self._late_seconds.get((kind, why), _NO_SECONDS)
                self._late_seconds[kind, why] = np.union1d(known, second[rows])

    def _add_ids(self, trades: Trades, inside: np.ndarray) -> None:
        first = trades.id - trades.count + 1
        self.aggregates |= bool((trades.count > 1).any())
        live = trades.origin == LIVE
        self._live.add(first[live], trades.id[live])
        self._others.add(first[~live], trades.id[~live])
        mine = inside & live
        if mine.any():
            lowest, highest = int(first[mine].min()), int(trades.id[mine].max())
            self._lowest = lowest if self._lowest is None else min(lowest, self._lowest)
            self._highest = highest if self._highest is None else max(highest, self._highest)

    def late_seconds(self, kind: str, why: str) -> I64:
        """Exchange seconds (s since the epoch, rising) that such ticks belong in."""
        return self._late_seconds.get((kind, why), _NO_SECONDS)

    def completeness(self, gaps: pa.Table) -> Completeness:
        """`gaps`: the instrument's, as the raw archive has them, each as last recorded."""
        unknown = sum(kind != IDS for kind in gaps["kind"].to_pylist())
        if self.exchange in UNORDERED_IDS or self._lowest is None or self._highest is None:
            return Completeness(None, 0, 0, 0, 0, unknown)
        low, high = self._lowest, self._highest
        size = high - low + 1
        not_live = self._live.holes(low, high)
        healed = not_live.both(self._others)
        everything = IdRanges()
        for seen in (self._live, self._others):
            everything.add(seen.ranges[:, 0], seen.ranges[:, 1])
        holes = everything.holes(low, high)
        whole, partly = _recorded(gaps, whole=True), _recorded(gaps, whole=False)
        no_trades = holes.both(whole)
        recorded = holes.both(partly).count() - no_trades.both(partly).count()
        rest = holes.count() - no_trades.count() - recorded
        unrecorded = 0 if self.exchange == BINANCE and self.aggregates else rest
        received = size - not_live.count()
        missing = recorded + unrecorded
        expected = received + healed.count() + missing
        return Completeness(expected, received, healed.count(), missing, unrecorded, unknown)


def _recorded(gaps: pa.Table, *, whole: bool) -> IdRanges:
    """The ids inside gaps that were healed whole, or inside the others."""
    found = [
        (first, last)
        for kind, first, last, missing in zip(
            *(gaps[n].to_pylist() for n in ("kind", "first_missing", "last_missing", "missing")),
            strict=True,
        )
        if kind == IDS and (missing == 0) is whole
    ]
    spans = np.array(found, np.int64).reshape(-1, 2)
    return IdRanges.of(spans[:, 0], spans[:, 1])
