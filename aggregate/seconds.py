"""Hold → seal → compute: ticks of open seconds are held; a sealed second becomes partial rows.

Nothing is accumulated tick by tick. When seconds seal, their ticks are put in canonical order,
copies are dropped, and each dataset's partial columns are computed in one vectorised pass over
all instruments. So the rows depend on the set of ticks alone, not on batching or arrival order.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from aggregate.datasets.base import Dataset
from aggregate.groups import Array, Groups, Rows, order_by_code
from aggregate.intervals import EXCHANGE, NS
from aggregate.seen import Mask, QuoteCopies, RecentKeys, RisingIds, first_of_each, mix
from ingest.ticks import FUTURE_NS, I64, LIVE, Quotes, Trades

Ticks = Trades | Quotes

UNORDERED_IDS = frozenset({"hyperliquid-perps"})
"""Venues whose trade ids say nothing about order: Hyperliquid's tid is a hash."""


@dataclass(slots=True)
class Chunk:
    """Ticks of one collector held for one clock; `offset` is their record's on the log."""

    offset: int
    collector: str
    ticks: Ticks
    low: int
    high: int


class Ordered:
    """The rows `index` of held chunks, joined (all of them in turn if None), column by column.

    A column is joined and gathered when it is first used. Joining reads each chunk in sequence,
    which is several times as fast as gathering from what is not in the cache.
    """

    def __init__(
        self, chunks: Sequence[Chunk], index: Array | None = None, **columns: Array
    ) -> None:
        self.chunks = chunks
        self.index = index
        self.__dict__ |= columns

    def __len__(self) -> int:
        return len(self.code)

    def __getattr__(self, name: str) -> Array:
        column = np.concatenate([getattr(chunk.ticks, name) for chunk in self.chunks])
        if self.index is not None:
            column = np.take(column, self.index)
        self.__dict__[name] = column
        return column

    def rank(self) -> Array | None:
        """Each row's place among the collectors, None if there is one."""
        names = sorted({chunk.collector for chunk in self.chunks})
        if len(names) == 1:
            return None
        ranks = [names.index(chunk.collector) for chunk in self.chunks]
        rank = np.repeat(ranks, [len(chunk.ticks) for chunk in self.chunks])
        return rank if self.index is None else rank[self.index]

    def where(self, keep: Mask) -> "Ordered":
        index = np.flatnonzero(keep) if self.index is None else self.index[keep]
        return Ordered(self.chunks, index)


class Seen(Protocol):
    def changes(self) -> dict[str, bytes | None]: ...

    def restore(self, state: Mapping[str, bytes]) -> None: ...


def admit(ticks: Ticks, clock: str, lateness_ns: int | None, dropped: Counter[str]) -> Mask | None:
    """Rows that belong in a clock's bars by their own stamps and origin; None means all.

    What is left out is counted in `dropped` by reason: late, future (exchange clock), and nothing
    for backlog and healed ticks, which the true clock leaves out by definition.
    """
    if clock != EXCHANGE:
        live = ticks.origin == LIVE
        return None if live.all() else live
    ahead = ticks.exchange_ts > ticks.local_ts + FUTURE_NS
    keep = ~ahead
    if ahead.any():
        dropped["future"] += int(ahead.sum())
    if lateness_ns is not None:
        end = (ticks.exchange_ts // NS + 1) * NS
        late = ticks.local_ts >= end + lateness_ns
        late &= keep
        if late.any():
            dropped["late"] += int(late.sum())
            keep &= ~late
    return None if keep.all() else keep


class Seconds:
    """The held ticks of one (shard, clock, kind)."""

    def __init__(self, exchange: str, clock: str, kind: str, datasets: Sequence[Dataset]) -> None:
        self.clock = clock
        self.kind = kind
        self.dropped: Counter[str] = Counter()
        self._datasets = [d for d in datasets if d.kind == kind]
        self._ordered = exchange not in UNORDERED_IDS
        self._held: list[Chunk] = []
        rising: Seen = RisingIds() if kind == "trades" else QuoteCopies()
        self.seen: Seen = rising if self._ordered else RecentKeys()

    def add(self, ticks: Ticks, collector: str, offset: int = 0) -> None:
        """Hold ticks of one record; they share one symbols list with all others added."""
        ts = self._stamps(ticks)
        self._held.append(Chunk(offset, collector, ticks, int(ts.min()), int(ts.max())))

    def low_offset(self) -> int | None:
        """The first record that holds an open tick, None when nothing is held."""
        return min((chunk.offset for chunk in self._held), default=None)

    def low_ns(self) -> int | None:
        """The lowest stamp held."""
        return min((chunk.low for chunk in self._held), default=None)

    def high_ns(self) -> int | None:
        """The highest stamp held."""
        return max((chunk.high for chunk in self._held), default=None)

    def count_below(self, limit_ns: int) -> int:
        """Upper bound of how many held ticks are stamped before `limit_ns`."""
        return sum(len(chunk.ticks) for chunk in self._held if chunk.low < limit_ns)

    def ticks_held(self) -> int:
        return sum(len(chunk.ticks) for chunk in self._held)

    def seal(self, cut: int) -> Rows | None:
        """Rows of all held ticks before second `cut` (s since the epoch), None if none."""
        ticks = self.accepted(cut)
        if ticks is None:
            return None
        ts = self._stamps(ticks)
        second = ts // NS
        groups = Groups(ticks.code, second, ts)
        computed = {d.name: d.from_ticks(ticks, groups) for d in self._datasets}
        return Rows(groups.first(ticks.code), groups.first(second), computed)

    def accepted(self, cut: int) -> Ordered | None:
        """All held ticks before second `cut` that are no copies, in canonical order."""
        parts = self._release(cut * NS)
        if not parts:
            return None
        ticks = self._canonical(Ordered(parts))
        keep = self._fresh(ticks)
        if not keep.all():
            self.dropped["duplicate"] += int((~keep).sum())
            ticks = ticks.where(keep)
        return ticks if len(ticks) else None

    def _release(self, limit: int) -> list[Chunk]:
        """Take what is stamped before `limit` (ns) out of the hold."""
        out, rest = [], []
        for chunk in self._held:
            if chunk.low >= limit:
                rest.append(chunk)
            elif chunk.high < limit:
                out.append(chunk)
            else:
                ready, open_ = self._split(chunk.ticks, limit)
                out.append(Chunk(chunk.offset, chunk.collector, ready, chunk.low, limit - 1))
                low = int(self._stamps(open_).min())
                rest.append(Chunk(chunk.offset, chunk.collector, open_, low, chunk.high))
        self._held = rest
        return out

    def _split(self, ticks: Ticks, limit: int) -> tuple[Ticks, Ticks]:
        """Rows stamped before `limit` and the others; views where the stamps are in order."""
        stamps = self._stamps(ticks)
        if (stamps[1:] >= stamps[:-1]).all():
            at = int(np.searchsorted(stamps, limit))
            return ticks.take(slice(None, at)), ticks.take(slice(at, None))
        early = stamps < limit
        return ticks.take(early), ticks.take(~early)

    def _stamps(self, ticks: Ticks | Ordered) -> I64:
        return ticks.exchange_ts if self.clock == EXCHANGE else ticks.local_ts

    def _canonical(self, ticks: Ordered) -> Ordered:
        """The ticks by instrument and then in canonical order."""
        if (ticks.code[1:] < ticks.code[:-1]).any():
            by_code, code = order_by_code(ticks.code)
            ticks = Ordered(ticks.chunks, by_code, code=code)
        if _sorted(ticks.code, self._order_keys(ticks)):
            return ticks
        order = np.lexsort((*reversed([*self._order_keys(ticks)]), ticks.code))
        return Ordered(ticks.chunks, order if ticks.index is None else ticks.index[order])

    def _order_keys(self, ticks: Ordered) -> Iterator[Array]:
        """What canonical order goes by within an instrument."""
        if self.clock == EXCHANGE:
            yield ticks.exchange_ts
            if self._ordered:
                yield ticks.id if self.kind == "trades" else ticks.sequence
        yield ticks.local_ts
        rank = ticks.rank()
        if rank is not None:
            yield rank
        yield ticks.row

    def _fresh(self, ticks: Ordered) -> Mask:
        """Rows that are no copy of a row before them or of what an earlier seal has seen."""
        seen = self.seen
        if isinstance(seen, QuoteCopies):
            stamps, last = ticks.exchange_ts, int(self._stamps(ticks).max())
            return seen.fresh(ticks.code, ticks.sequence, stamps, lambda: self._keys(ticks), last)
        if isinstance(seen, RisingIds):
            keep = _first_of_id(ticks)
            if keep is None:
                return seen.fresh(ticks.code, _first_ids(ticks), ticks.id)
            some = ticks.where(keep)
            keep[keep] = seen.fresh(some.code, _first_ids(some), some.id)
            return keep
        assert isinstance(seen, RecentKeys)
        if self.clock == EXCHANGE:  # copies share their exchange stamp, so one seal sees them all
            return first_of_each(self._keys(ticks))
        return seen.fresh(self._keys(ticks), int(ticks.local_ts.max()))

    def _keys(self, ticks: Ordered) -> Array:
        if self.kind == "trades":
            return mix(ticks.code, ticks.exchange_ts, ticks.id)
        content = (ticks.bid_price, ticks.bid_qty, ticks.ask_price, ticks.ask_qty)
        return mix(ticks.code, ticks.exchange_ts, *content)


def _sorted(code: Array, keys: Iterable[Array]) -> bool:
    """Whether rows are in order of code, then of the keys in turn."""
    tie = code[1:] == code[:-1]
    for values in keys:
        before, after = values[:-1], values[1:]
        if (tie & (after < before)).any():
            return False
        tie &= after == before
        if not tie.any():
            return True
    return True


def _first_ids(trades: Ordered) -> Array:
    """The lowest of each print's ids."""
    single = bool((trades.count == 1).all())
    ids: Array = trades.id if single else trades.id - trades.count + 1
    return ids


def _first_of_id(trades: Ordered) -> Mask | None:
    """Mask of each print's copy with the smallest (local_ts, collector), None if ids are unique.

    Copies have the same last id and count: an aggregate is no copy of the last trade in it.

    Rows are in canonical order, in which that copy comes first among copies of one stamp; a
    stable sort by (id, local_ts) finds it where copies carry different exchange stamps too.
    """
    code, id_ = trades.code, trades.id
    rises = (id_[1:] > id_[:-1]) | (code[1:] != code[:-1])
    if rises.all():
        return None
    order = np.lexsort((trades.local_ts, trades.count, id_, code))
    columns = (code[order], id_[order], trades.count[order])
    again = np.logical_and.reduce([c[1:] == c[:-1] for c in columns])
    if not again.any():
        return None
    keep = np.ones(len(code), dtype=bool)
    keep[order[1:][again]] = False
    return keep
