"""What was seen: the memory by which a copy of a tick is known, per (shard, clock, kind).

Each memory gives its state as named pieces: `changes` those that are new since it was last called
(None: gone), `restore` takes all that are left.

Three venues' worth of identity, one rule each, none of which looks at log order:

- `RisingIds`: trades whose ids rise (Binance, OKX): merged ranges of ids, so that a healed id below
  the highest is not mistaken for a copy. A print of several ids (an aggregate) of which one was
  seen can't be counted in part: it is a copy, and its other ids are prints of their own.
- `HighWater`: quotes with a rising update number (Binance u, OKX seqId): what does not rise is a
  copy or older than what was shown, unless the venue has restarted its numbering.
- `RecentKeys`: Hyperliquid, whose trade ids are hashes and whose quotes have none, and quotes of
  OKX from before it numbered them: 64-bit hashes of (instrument, time, id or content), kept for a
  bounded window.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import orjson

from ingest.ticks import I32, I64

Mask = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]

MAX_RANGES = 256
"""Ranges remembered per instrument; beyond it the two oldest become one, gap included."""
RESTART_AFTER_NS = 5_000_000_000
"""A lower update number this much later in exchange time is a restarted numbering, not a copy."""
KEY_WINDOW_NS = 120_000_000_000
"""How long, in the clock's time, a hashed key is remembered."""


class RisingIds:
    """Merged id ranges per code. Rows passed in are sorted by code."""

    def __init__(self) -> None:
        # The newest range of each code, [low, top], in columns; the ones before it by code.
        self._low: I64 = np.empty(0, dtype=np.int64)
        self._top: I64 = np.empty(0, dtype=np.int64)
        self._older: dict[int, list[list[int]]] = {}

    def fresh(self, code: I32, first: I64, last: I64) -> Mask:
        """Which rows have no id that was seen, also in a row before; those are remembered."""
        self._grow(int(code[-1]) + 1)
        other = code[1:] != code[:-1]
        heads = np.append(0, np.flatnonzero(other) + 1)
        behind = first[1:] <= last[:-1]
        behind &= ~other
        disordered = behind.any()
        # In order, a code's first row is its lowest: the rows after it needn't be looked up.
        if not disordered and (first[heads] > self._top[code[heads]]).all():
            self._add(code, first, last)
            return np.ones(len(code), dtype=bool)
        new: Mask = first > self._top[code]
        for i in np.flatnonzero(~new).tolist():
            new[i] = not self._holds(int(code[i]), int(first[i]), int(last[i]))
        if disordered:
            for who in np.unique(code[1:][behind]).tolist():
                low, high = np.searchsorted(code, [who, who + 1])
                _leave_out_overlaps(first[low:high], last[low:high], new[low:high])
        self._add(code[new], first[new], last[new])
        return new

    def _holds(self, code: int, first: int, last: int) -> bool:
        if first <= self._top[code] and last >= self._low[code]:
            return True
        return _touches(self._older.get(code, []), first, last)

    def _add(self, code: I32, first: I64, last: I64) -> None:
        if not len(code):
            return
        other = code[1:] != code[:-1]
        if not (other | (last[1:] > last[:-1])).all():
            order = np.lexsort((last, code))
            code, first, last = code[order], first[order], last[order]
        starts = np.flatnonzero(np.append(True, other | (first[1:] > last[:-1] + 1)))
        ends = np.append(starts[1:], len(code)) - 1
        who, low, high = code[starts], first[starts], last[ends]
        # Of a code whose one run goes on where its newest range ended, only the top moves.
        single = np.append(True, who[1:] != who[:-1]) & np.append(who[1:] != who[:-1], True)
        simple = single & (low == self._top[who] + 1)
        self._top[who[simple]] = high[simple]
        rest = np.flatnonzero(~simple)
        for code_, low_, high_ in zip(
            who[rest].tolist(), low[rest].tolist(), high[rest].tolist(), strict=True
        ):
            self._insert(code_, low_, high_)

    def _insert(self, code: int, low: int, high: int) -> None:
        ranges = self.ranges(code)
        left = bisect_right(ranges, low, key=lambda r: r[0])
        if left and ranges[left - 1][1] >= low - 1:
            left -= 1
        right = left
        while right < len(ranges) and ranges[right][0] <= high + 1:
            low, high = min(low, ranges[right][0]), max(high, ranges[right][1])
            right += 1
        ranges[left:right] = [[low, high]]
        if len(ranges) > MAX_RANGES:
            ranges[:2] = [[ranges[0][0], ranges[1][1]]]
        self._set(code, ranges)

    def ranges(self, code: int) -> list[list[int]]:
        """The [first, last] ids seen of a code, rising and apart."""
        if self._low[code] > self._top[code]:
            return []
        return [*self._older.get(code, []), [int(self._low[code]), int(self._top[code])]]

    def _set(self, code: int, ranges: list[list[int]]) -> None:
        self._low[code], self._top[code] = ranges[-1]
        if ranges[:-1] or code in self._older:
            self._older[code] = ranges[:-1]

    def _grow(self, codes: int) -> None:
        more = codes - len(self._top)
        if more > 0:
            limits = np.iinfo(np.int64)
            # An empty range: nothing is below its low, nothing is seen up to its top.
            self._low = np.append(self._low, np.full(more, limits.max))
            self._top = np.append(self._top, np.full(more, limits.min))

    def changes(self) -> dict[str, bytes | None]:
        codes = range(len(self._top))
        return {"": orjson.dumps([[code, found] for code in codes if (found := self.ranges(code))])}

    def restore(self, state: Mapping[str, bytes]) -> None:
        ranges = dict(orjson.loads(state[""]))
        self._grow(max(ranges, default=-1) + 1)
        for code, found in ranges.items():
            self._set(code, found)


def _touches(ranges: list[list[int]], first: int, last: int) -> bool:
    """Whether an id from `first` to `last` is in the ranges, which rise and are apart."""
    at = bisect_right(ranges, last, key=lambda r: r[0]) - 1
    return at >= 0 and first <= ranges[at][1]


def _leave_out_overlaps(first: I64, last: I64, new: Mask) -> None:
    """Of one code's rows that are `new`, in their order: one that overlaps an earlier is a copy."""
    taken: list[list[int]] = []
    for i in np.flatnonzero(new).tolist():
        span = [int(first[i]), int(last[i])]
        if _touches(taken, *span):
            new[i] = False
        else:
            insort(taken, span)


class HighWater:
    """The highest update number per code and its exchange stamp. Rows are sorted by code."""

    def __init__(self) -> None:
        self._sequence: I64 = np.empty(0, dtype=np.int64)
        self._stamp: I64 = np.empty(0, dtype=np.int64)

    def fresh(self, code: I32, sequence: I64, exchange_ts: I64) -> Mask:
        """Which rows rise above all before them of their code, in row order; remembered."""
        self._grow(int(code.max()) + 1)
        new = np.append(True, code[1:] != code[:-1])
        before = np.append(np.int64(0), sequence[:-1])
        before[new] = self._sequence[code[new]]
        keep: Mask = sequence > before
        ends = np.append(np.flatnonzero(new)[1:], len(code)) - 1
        if keep.all():
            self._sequence[code[ends]] = sequence[ends]
            self._stamp[code[ends]] = exchange_ts[ends]
            return keep
        for who in np.unique(code[~keep]).tolist():
            low, high = np.searchsorted(code, [who, who + 1])
            self._walk(who, sequence[low:high], exchange_ts[low:high], keep[low:high])
        last = np.maximum.reduceat(np.where(keep, np.arange(len(code)), -1), np.flatnonzero(new))
        last = last[last >= 0]
        self._sequence[code[last]] = sequence[last]
        self._stamp[code[last]] = exchange_ts[last]
        return keep

    def _walk(self, code: int, sequence: I64, exchange_ts: I64, keep: Mask) -> None:
        high, stamp = int(self._sequence[code]), int(self._stamp[code])
        pairs = zip(sequence.tolist(), exchange_ts.tolist(), strict=True)
        for i, (number, ts) in enumerate(pairs):
            keep[i] = number > high or ts > stamp + RESTART_AFTER_NS
            if keep[i]:
                high, stamp = number, ts

    def _grow(self, codes: int) -> None:
        more = codes - len(self._sequence)
        if more > 0:
            self._sequence = np.append(self._sequence, np.full(more, np.iinfo(np.int64).min))
            self._stamp = np.append(self._stamp, np.zeros(more, dtype=np.int64))

    def changes(self) -> dict[str, bytes | None]:
        return {"": orjson.dumps([self._sequence.tolist(), self._stamp.tolist()])}

    def restore(self, state: Mapping[str, bytes]) -> None:
        sequence, stamp = orjson.loads(state[""])
        self._sequence = np.array(sequence, dtype=np.int64)
        self._stamp = np.array(stamp, dtype=np.int64)


class RecentKeys:
    """Hashed keys of the last `KEY_WINDOW_NS`, in slots of one seal each, named by their stamp."""

    def __init__(self) -> None:
        self._keys: set[int] = set()
        self._slots: dict[int, list[int]] = {}
        self._changed: dict[int, list[int] | None] = {}

    def fresh(self, keys: U64, ts: int) -> Mask:
        """Which rows' key is new, the first of copies; remembered under stamp `ts` (ns), rising."""
        slot: list[int] = []
        known = self._keys
        new = first_of_each(keys)
        for i in np.flatnonzero(new).tolist():
            key = int(keys[i])
            if key in known:
                new[i] = False
            else:
                slot.append(key)
        if slot:
            self._keys.update(slot)
            self._slots[ts] = self._changed[ts] = slot
        for old in [old for old in self._slots if old < ts - KEY_WINDOW_NS]:
            self._keys.difference_update(self._slots.pop(old))
            self._changed[old] = None
        return new

    def changes(self) -> dict[str, bytes | None]:
        changed, self._changed = self._changed, {}
        return {
            str(ts): None if slot is None else orjson.dumps(slot) for ts, slot in changed.items()
        }

    def restore(self, state: Mapping[str, bytes]) -> None:
        self._slots = {int(ts): orjson.loads(slot) for ts, slot in state.items()}
        self._keys = {key for slot in self._slots.values() for key in slot}


class QuoteCopies:
    """Quotes of venues that number them: by number, and by key where one came without (0)."""

    def __init__(self) -> None:
        self._numbered = HighWater()
        self._others = RecentKeys()

    def fresh(
        self, code: I32, sequence: I64, exchange_ts: I64, keys: Callable[[], U64], ts: int
    ) -> Mask:
        """Which rows are no copies, see `HighWater` and `RecentKeys`; rows are sorted by code."""
        numbered = sequence != 0
        if numbered.all():
            return self._numbered.fresh(code, sequence, exchange_ts)
        keep: Mask = np.zeros(len(code), dtype=bool)
        if numbered.any():
            of = code[numbered], sequence[numbered], exchange_ts[numbered]
            keep[numbered] = self._numbered.fresh(*of)
        keep[~numbered] = self._others.fresh(keys()[~numbered], ts)
        return keep

    def changes(self) -> dict[str, bytes | None]:
        return self._numbered.changes() | self._others.changes()

    def restore(self, state: Mapping[str, bytes]) -> None:
        rest = dict(state)
        if "" in rest:
            self._numbered.restore({"": rest.pop("")})
        self._others.restore(rest)


def first_of_each(keys: U64) -> Mask:
    """Mask of the first row of each key."""
    out = np.zeros(len(keys), dtype=bool)
    out[np.unique(keys, return_index=True)[1]] = True
    return out


def mix(*columns: npt.NDArray[np.generic]) -> U64:
    """A 64-bit hash per row of 64-bit columns (splitmix64's finaliser, chained)."""
    h = np.full(len(columns[0]), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for column in columns:
        wide = column if column.dtype.itemsize == 8 else column.astype(np.int64)
        h ^= wide.view(np.uint64)
        h += np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(30)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(27)
        h *= np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return h
