"""One shard's instruments in one partition: held seconds, ladders, coverage, what was emitted."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import orjson

from aggregate import snapshot
from aggregate.bars import BarBatch, Closed
from aggregate.datasets import Dataset, Memory, datasets
from aggregate.groups import Rows, concat_rows
from aggregate.intervals import CLOCKS, DAY, EXCHANGE, LADDER, NS, TRUE, Interval
from aggregate.rollup import Ladder
from aggregate.seconds import Seconds, Ticks, admit
from ingest.ticks import I64, Trades

KINDS = ("trades", "quotes")
END = 1 << 40
"""A second after every tick: sealing up to it closes all windows."""
PASS_TICKS = 1 << 16
"""About how many ticks one seal takes, so that its columns stay in the cache."""
PASS_ROWS = 1 << 16
"""Partial rows that are rolled up in one go: enough to spread the cost of the calls."""
_NEVER = np.iinfo(np.int64).max

Emitted = BarBatch | Closed


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide which tick is in which bar.

    `hold_ns`: how long after its end a second waits for its shard's time to pass. `lateness_ns`:
    a tick that arrives this long after its exchange second ended is late; None is no limit.
    `partial`: also emit the windows that the data covers only in part.
    """

    hold_ns: int = NS // 4
    lateness_ns: int | None = 5 * NS
    partial: bool = False
    toxicity_reset: str = "month"


class ShardAggregator:
    """Ticks of one exchange in, bars of every dataset, interval and clock out. Pure."""

    def __init__(self, exchange: str, rules: Rules, clocks: Sequence[str] = CLOCKS) -> None:
        """`clocks`: those to make bars of: history without arrival times has but one."""
        self.exchange = exchange
        self.rules = rules
        self._clocks = clocks
        self.dropped: Counter[tuple[str, str, str]] = Counter()
        """Ticks left out and windows withheld, by (clock, kind, reason)."""
        self.symbols: list[str] = []
        self._codes: dict[str, int] = {}
        self._from: dict[str, I64] = {c: np.empty(0, dtype=np.int64) for c in CLOCKS}
        self._earlier: dict[str, I64] = {c: np.empty(0, dtype=np.int64) for c in CLOCKS}
        """From when instruments were covered that have been delisted and listed again since."""
        self._anew: I64 = np.empty(0, dtype=np.int64)
        """Arrival stamps (ns) of those that are covered anew."""
        self._holes: dict[tuple[str, str], list[tuple[int, int]]] = {
            (c, k): [] for c in CLOCKS for k in KINDS
        }
        self.sealed = dict.fromkeys(CLOCKS, 0)
        """Per clock, the second before which everything is sealed."""
        self._datasets: dict[str, Dataset] = {d.name: d for d in datasets(rules.toxicity_reset)}
        every = list(self._datasets.values())
        self._seconds = {(c, k): Seconds(exchange, c, k, every) for c in CLOCKS for k in KINDS}
        self._ladders = {
            (c, k): Ladder([d for d in every if d.kind == k]) for c in CLOCKS for k in KINDS
        }
        self._memories: dict[tuple[str, str, str], Memory | None] = {
            (d.name, c, i.name): d.memory() for d in every for c in CLOCKS for i in LADDER
        }
        self._touched: set[tuple[str, ...]] = set()

    def cover(
        self, symbols: Sequence[str], local_from: int, exchange_from: int, *, anew: bool = False
    ) -> None:
        """The data of these symbols is complete from these stamps (ns) on; the earliest counts.

        With `anew` none before does (see `Coverage`), but for windows that end before these.
        The order in which coverages come doesn't matter: two topics bring them.
        """
        codes = self._lookup(symbols)
        if anew:
            later = codes[self._anew[codes] < local_from]
            self._anew[later] = local_from
            over = later[self._from[TRUE][later] < local_from]
            for clock in CLOCKS:
                ended = np.minimum(self._earlier[clock][over], self._from[clock][over])
                self._earlier[clock][over] = ended
                self._from[clock][over] = _NEVER
        now = self._anew[codes] <= local_from
        for clock, stamp in ((TRUE, local_from), (EXCHANGE, exchange_from)):
            for bounds, which in ((self._from, codes[now]), (self._earlier, codes[~now])):
                bounds[clock][which] = np.minimum(bounds[clock][which], stamp)

    def leave_out(self, clock: str, kind: str, start: int, end: int) -> None:
        """There is no data of [start, end) (ns), of any symbol: what replay knows of its input."""
        self._holes[clock, kind].append((start, end))

    def _lookup(self, symbols: Sequence[str]) -> I64:
        for symbol in symbols:
            if symbol not in self._codes:
                self._codes[symbol] = len(self.symbols)
                self.symbols.append(symbol)
        more = len(self.symbols) - len(self._from[TRUE])
        if more:
            for bounds in (self._from, self._earlier):
                for clock in CLOCKS:
                    bounds[clock] = np.append(bounds[clock], np.full(more, _NEVER))
            self._anew = np.append(self._anew, np.zeros(more, dtype=np.int64))
        return np.array([self._codes[s] for s in symbols], dtype=np.int64)

    def add(
        self,
        ticks: Ticks,
        collector: str,
        offset: int = 0,
        *,
        reread: bool = False,
        sealed: Mapping[str, int] | None = None,
    ) -> int:
        """Hold the ticks of a record at `offset`; of a `reread` one nothing is counted again.

        `sealed`: what else counts as sealed, per clock: what live had sealed when it got these.
        Returns how many (tick, clock) came too late for that (`source_lagging`).
        """
        if not len(ticks):
            return 0
        kind = "trades" if isinstance(ticks, Trades) else "quotes"
        count = Counter[tuple[str, str, str]]() if reread else self.dropped
        code = self._lookup(ticks.symbols)[ticks.code].astype(np.int32)
        ticks = type(ticks)(self.symbols, code, *ticks.columns()[1:])
        if isinstance(ticks, Trades):
            print_ = (ticks.off_book == 0) & (ticks.price > 0) & (ticks.qty > 0)
            if not print_.all():
                count["both", kind, "not_a_trade"] += int((~print_).sum())
                ticks = ticks.take(print_)
        lagging = 0
        for clock in self._clocks:
            cut = max(self.sealed[clock], sealed[clock] if sealed else 0)
            lagging += self._hold(ticks, clock, kind, collector, offset, count, cut, reread)
        return lagging

    def _hold(
        self,
        ticks: Ticks,
        clock: str,
        kind: str,
        collector: str,
        offset: int,
        count: Counter[tuple[str, str, str]],
        cut: int,
        reread: bool,
    ) -> int:
        reasons = Counter[str]()
        keep = admit(ticks, clock, self.rules.lateness_ns, reasons)
        for reason, n in reasons.items():
            count[clock, kind, reason] += n
        held = ticks if keep is None else ticks.take(keep)
        stamps = held.exchange_ts if clock == EXCHANGE else held.local_ts
        sealed = stamps < cut * NS
        lagging = int(sealed.sum())
        if lagging:
            if not reread:
                count[clock, kind, "source_lagging"] += lagging
            held = held.take(~sealed)
        if len(held):
            self._seconds[clock, kind].add(held, collector, offset)
        return lagging

    def advance(self, now: int) -> list[Emitted]:
        """Seal what the shard's time `now` (ns) allows; returns bars and close marks in order."""
        hold = self.rules.hold_ns
        # Without a lateness limit the exchange clock only seals at the end of its input.
        out = self.seal(TRUE, (now - hold) // NS)
        if self.rules.lateness_ns is not None:
            out += self.seal(EXCHANGE, (now - hold - self.rules.lateness_ns) // NS)
        return out

    def seal(self, clock: str, cut: int) -> list[Emitted]:
        """Seal every second of a clock before `cut` (s since the epoch)."""
        before = self.sealed[clock]
        if cut <= before:
            return []
        out: list[Emitted] = []
        waiting: dict[str, list[Rows]] = {kind: [] for kind in KINDS}
        whole = cut - cut % LADDER[1].seconds
        for slice_ in self._slices(clock, cut):
            for kind in KINDS:
                sealed = self._sealed(clock, kind, slice_)
                if sealed is not None:
                    waiting[kind].append(sealed)
            rows = sum(len(r) for of in waiting.values() for r in of)
            if rows > PASS_ROWS or slice_ in (cut, whole):
                for kind in KINDS:
                    out += self._rolled(clock, kind, waiting[kind], slice_)
                    waiting[kind] = []
        self.sealed[clock] = cut
        day = cut // DAY
        if before and cut < END and day > before // DAY:
            name = datetime.fromtimestamp((day - 1) * DAY, UTC).date().isoformat()
            out.append(Closed(name, clock, tuple(self.symbols)))
        return out

    def _slices(self, clock: str, cut: int) -> Iterator[int]:
        """Seconds to seal up to, one after the other, the last being `cut`."""
        held = [self._seconds[clock, kind] for kind in KINDS]
        rows = sum(s.count_below(cut * NS) for s in held)
        lows = [low for s in held if (low := s.low_ns()) is not None]
        highs = [high for s in held if (high := s.high_ns()) is not None]
        if rows > PASS_TICKS:
            low, high = min(lows) // NS, min(max(highs) // NS + 1, cut)
            step = max(1, (high - low) * PASS_TICKS // rows)
            # Windows that end with the pass close as they are, without rows to part and hold.
            whole = next((i.seconds for i in reversed(LADDER) if i.seconds <= step), 1)
            step -= step % whole
            last = cut - cut % LADDER[1].seconds
            yield from range(low - low % whole + step, min(high, last), step)
            if last > low:
                yield last
        yield cut

    def _sealed(self, clock: str, kind: str, cut: int) -> Rows | None:
        seconds = self._seconds[clock, kind]
        rows = seconds.seal(cut)
        for reason, n in seconds.dropped.items():
            self.dropped[clock, kind, reason] += n
        seconds.dropped.clear()
        if rows is not None:
            self._touched.add((clock, kind, "seen"))
        return rows

    def _rolled(
        self, clock: str, kind: str, sealed: Sequence[Rows], cut: int
    ) -> Iterator[BarBatch]:
        rows = concat_rows(sealed) if sealed else None
        for interval, closed in self._ladders[clock, kind].advance(rows, cut):
            yield from self._finish(clock, kind, interval, closed)

    def _finish(self, clock: str, kind: str, interval: Interval, rows: Rows) -> Iterator[BarBatch]:
        if not self.rules.partial:
            start, end = rows.start * NS, (rows.start + interval.seconds) * NS
            since = self._from[clock][rows.code]
            covered = (start >= since) | (
                (start >= self._earlier[clock][rows.code]) & (end <= since)
            )
            for hole_from, hole_to in self._holes[clock, kind]:
                covered &= (end <= hole_from) | (start >= hole_to)
            if not covered.all():
                self.dropped[clock, kind, "withheld"] += int((~covered).sum())
                rows = rows.take(covered)
                if not len(rows):
                    return
        for name, part in rows.parts.items():
            memory = self._memories[name, clock, interval.name]
            columns = self._datasets[name].finish(rows.code, rows.start, part, interval, memory)
            if memory is not None:
                self._touched.add((clock, name, interval.name, "memory"))
            yield BarBatch(name, interval.name, clock, self.symbols, rows.code, rows.start, columns)

    def held(self) -> tuple[int, int]:
        """(ticks of seconds that are open, rows of windows that are)."""
        ticks = sum(seconds.ticks_held() for seconds in self._seconds.values())
        return ticks, sum(ladder.rows_held() for ladder in self._ladders.values())

    def low_offset(self, kind: str) -> int | None:
        """The first record of a kind that holds an open tick for either clock."""
        lows = (self._seconds[clock, kind].low_offset() for clock in CLOCKS)
        return min((low for low in lows if low is not None), default=None)

    def changes(self) -> dict[str, bytes | None]:
        """State keys that changed since the last call (None: gone). See `restore`."""
        out: dict[str, bytes | None] = {"shard": self._meta()}
        for touched in self._touched:
            clock, middle, *_ = touched
            if touched[-1] == "seen":
                for name, value in self._seconds[clock, middle].seen.changes().items():
                    out[f"{clock}|{middle}|{name}|seen"] = value
            else:
                memory = self._memories[middle, clock, touched[2]]
                assert memory is not None
                out["|".join(touched)] = memory.encode()
        self._touched.clear()
        for (clock, kind), ladder in self._ladders.items():
            for slot, rows in ladder.changed.items():
                value = None if rows is None else snapshot.encode_rows(rows)
                out[f"{clock}|{kind}|{slot}|rows"] = value
            ladder.changed.clear()
        return out

    def _meta(self) -> bytes:
        return orjson.dumps(
            {
                "version": snapshot.VERSION,
                "exchange": self.exchange,
                "symbols": self.symbols,
                "from": {c: v.tolist() for c, v in self._from.items()},
                "earlier": {c: v.tolist() for c, v in self._earlier.items()},
                "anew": self._anew.tolist(),
                "sealed": self.sealed,
                "closed": {f"{c}|{k}": v.closed() for (c, k), v in self._ladders.items()},
            }
        )

    @classmethod
    def restore(cls, state: Mapping[str, bytes], rules: Rules) -> "ShardAggregator":
        """From all keys that `changes` ever gave, each at its last value."""
        meta = snapshot.read_meta(state["shard"])
        shard = cls(meta["exchange"], rules)
        shard._lookup(meta["symbols"])
        shard._from = {c: np.array(v, dtype=np.int64) for c, v in meta["from"].items()}
        shard._earlier = {c: np.array(v, dtype=np.int64) for c, v in meta["earlier"].items()}
        shard._anew = np.array(meta["anew"], dtype=np.int64)
        shard.sealed = meta["sealed"]
        slots: dict[tuple[str, str], dict[str, Rows]] = {key: {} for key in shard._ladders}
        seen: dict[tuple[str, str], dict[str, bytes]] = {}
        for key, value in state.items():
            match key.split("|"):
                case [clock, kind, piece, "seen"]:
                    seen.setdefault((clock, kind), {})[piece] = value
                case [clock, kind, slot, "rows"]:
                    slots[clock, kind][slot] = snapshot.decode_rows(value)
                case [clock, name, interval, "memory"]:
                    memory = shard._memories[name, clock, interval]
                    assert memory is not None
                    memory.restore(value)
                case ["shard"]:
                    pass
                case _:
                    raise snapshot.StateVersionError(f"unknown piece of aggregation state: {key}")
        for (clock, kind), pieces in seen.items():
            shard._seconds[clock, kind].seen.restore(pieces)
        for (clock, kind), ladder in shard._ladders.items():
            ladder.restore(slots[clock, kind], meta["closed"][f"{clock}|{kind}"])
        return shard
