"""A month of one instrument from raw ticks to bars: the unit of work of replay and audit.

The unit is a plain value; any process that reaches the area makes the same bars of it.

    row groups by arrival ──▶ shard: true clock sealed up to the next group's first arrival,
                              exchange clock some lag behind it ──▶ whole days of bars

What came later than that lag, healed ticks for instance, is looked for in the files' statistics
and held from the beginning. Sealing doesn't depend on order, so the bits are those of one pass over
everything.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from aggregate.bars import BarBatch
from aggregate.intervals import CLOCKS, DAY, EXCHANGE, NS, TRUE
from aggregate.shard import Emitted, Rules, ShardAggregator
from ingest.ticks import FUTURE_NS, I64
from publish.exclusions import MEMORY_NS
from publish.layout import Series
from publish.merging import EPOCH
from publish.raw_chunks import DAY_NS, QUOTES, TRADES
from publish.raw_pieces import Piece, Ticks, read_stamps, read_ticks
from publish.replay.ticks_in import LOOK_AHEAD_NS, Area, Covered, Lagging, RawTicks

LAG_NS = 60 * NS
"""How far behind its file's usual delay a tick may be and still wait its turn."""
TAIL_NS = 5 * NS
"""Before the end of what was collected, windows of the exchange clock may still lack ticks."""
OUTAGE_NS = 3600 * NS
"""A shorter time that no source covers is an outage: its windows are published, as live does."""
BEFORE_NS = MEMORY_NS + FUTURE_NS
"""What came so long before the month is read too: a venue's clock may be ahead of arrival, and
copies are known by what was seen."""
EVER = 1 << 62
"""A stamp (ns) after all others."""
KEPT_ROWS = 4096
"""Of what came before even that, for the last ids and update numbers of a quiet instrument."""


@dataclass(frozen=True, slots=True)
class MonthUnit:
    """One instrument's calendar month (UTC).

    `rules.lateness_ns` None: the complete truth; else what live did, by sessions and evictions too.
    `spans`: the times of arrival [from, to) (ns) of which an own archive has the exchange's ticks;
    () is all time. An import says that itself.
    """

    area: Area
    exchange: str
    symbol: str
    year: int
    month: int
    rules: Rules
    clocks: tuple[str, ...] = CLOCKS
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def begin(self) -> int:
        """Its first second (since the epoch)."""
        return int(datetime(self.year, self.month, 1, tzinfo=UTC).timestamp())

    @property
    def end(self) -> int:
        """The second after its last."""
        year, month = divmod(self.year * 12 + self.month, 12)
        return int(datetime(year, month + 1, 1, tzinfo=UTC).timestamp())


@dataclass(slots=True)
class Account:
    """What became of a unit's ticks; filled while `month_bars` is read."""

    read: Counter[str] = field(default_factory=Counter)
    """Ticks that arrived in the month, by kind."""
    dropped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Ticks left out and windows withheld, by (clock, kind, reason)."""
    gaps: int = 0
    """Gaps that were noticed in the month."""
    first_ns: int | None = None
    last_ns: int | None = None
    """Arrival stamps (ns) of the first and last tick that arrived in the month."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a unit will be made of; `sources`: digests by name, `facts`: what else decides it."""

    rows: int
    sources: dict[str, str]
    facts: list[Any]
    days: tuple[date, ...]
    """The days of the month of which there are ticks, by arrival."""


def inputs(unit: MonthUnit) -> Inputs:
    """Found without reading ticks. Raises `StoreError`."""
    ticks = _ticks(unit)
    feed = _Feed(unit, ticks)
    begin, end = unit.begin * NS, unit.end * NS
    used = {piece.key for _, piece in feed.pieces}
    # What is added to an archive later must not make a month that is over another.
    near, far = begin - DAY_NS, end + DAY_NS
    spans = [(max(at, near), min(to, far)) for at, to in unit.spans if at < far and to > near]
    coverage = [astuple(of) for of in ticks.coverage() if of.local_from < far]
    lagging = [asdict(of) for of in feed.lagging if of.local_from < far and of.local_to > near]
    within = [piece for _, piece in feed.pieces if piece.low < end and piece.high >= begin]
    days = {
        EPOCH + timedelta(days=day)
        for piece in within
        for day in range(max(piece.low, begin) // DAY_NS, min(piece.high, end - 1) // DAY_NS + 1)
    }
    return Inputs(
        sum(piece.rows for piece in within),
        ticks.named(used),
        [coverage, spans, lagging],
        tuple(sorted(days)),
    )


def _ticks(unit: MonthUnit) -> RawTicks:
    first, last = unit.begin * NS - DAY_NS, unit.end * NS + LOOK_AHEAD_NS
    return RawTicks(unit.area, unit.exchange, unit.symbol, first, last)


def month_bars(unit: MonthUnit, account: Account) -> Iterator[tuple[Series, date, pa.Table]]:
    """Whole UTC days of bars: per series in time order, `time` first, then the dataset's columns.

    Raises `StoreError`.
    """
    ticks = _ticks(unit)
    shard = ShardAggregator(unit.exchange, unit.rules, unit.clocks)
    cuts = _cover(shard, unit, ticks)
    feed = _Feed(unit, ticks)
    days = _Days(unit)
    first = dict.fromkeys(unit.clocks, True)
    for reached in feed.into(shard, account):
        for clock in unit.clocks:
            cut = min(reached[clock] // NS, cuts[clock])
            if first[clock] and cut > unit.begin:
                _forget_what_was_before(shard, clock, unit.begin)
                first[clock] = False
            if not first[clock]:
                days.add(clock, shard.seal(clock, cut))
                yield from days.over(clock, cut if cut < unit.end else unit.end)
    for clock in unit.clocks:
        yield from days.over(clock, unit.end)
    account.dropped.update(shard.dropped)
    account.gaps = ticks.gaps(unit.begin * NS, unit.end * NS)


def _forget_what_was_before(shard: ShardAggregator, clock: str, begin: int) -> None:
    """Seal up to the month and let it go: only what was seen is remembered."""
    dropped = Counter(shard.dropped)
    shard.seal(clock, begin)
    shard.dropped = dropped


def _cover(shard: ShardAggregator, unit: MonthUnit, ticks: RawTicks) -> dict[str, int]:
    """Tell the shard what the area covers; up to which second each clock is to be sealed."""
    cuts = dict.fromkeys(unit.clocks, unit.end)
    coverage = ticks.coverage()
    for of in coverage:
        shard.cover([unit.symbol], of.local_from, of.exchange_from, anew=of.anew)
    if unit.area.imports is not None:
        for kind in (TRADES, QUOTES):
            _leave_out(shard, kind, _imported_spans([of for of in coverage if kind in of.kinds]))
        return cuts
    rules, live = unit.rules, unit.rules.lateness_ns is not None and not unit.rules.partial
    spans = {
        TRUE: list(unit.spans),
        EXCHANGE: [(start, stop - TAIL_NS) for start, stop in unit.spans],
    }
    if unit.spans and live:
        # Exactly what live has sealed by the time that it came to.
        now = unit.spans[-1][1] - rules.hold_ns
        sealed = {TRUE: now // NS, EXCHANGE: (now - (rules.lateness_ns or 0)) // NS}
        cuts = {clock: min(cut, sealed[clock]) for clock, cut in cuts.items()}
        spans = {clock: [*of[:-1], (of[-1][0], EVER)] for clock, of in spans.items()}
    for kind in (TRADES, QUOTES):
        _leave_out(shard, kind, spans)
    return cuts


def _leave_out(
    shard: ShardAggregator, kind: str, spans: Mapping[str, Sequence[tuple[int, int]]]
) -> None:
    """What lies between the spans, before and after them; without any, nothing."""
    for clock, of_clock in spans.items():
        edges = [(0, 0), *of_clock, (EVER, EVER)]
        for (_, stop), (start, _) in pairwise(edges if of_clock else ()):
            shard.leave_out(clock, kind, stop, start)


def _imported_spans(coverage: list[Covered]) -> dict[str, list[tuple[int, int]]]:
    """What sources cover together, by clock, an outage or less apart."""
    local: list[tuple[int, int]] = []
    exchange: list[tuple[int, int]] = []
    for of in sorted(coverage, key=lambda of: of.local_from):
        assert of.local_to is not None
        assert of.exchange_to is not None
        if local and of.local_from <= local[-1][1] + OUTAGE_NS:
            local[-1] = local[-1][0], max(local[-1][1], of.local_to)
            exchange[-1] = exchange[-1][0], max(exchange[-1][1], of.exchange_to)
        else:
            local.append((of.local_from, of.local_to))
            exchange.append((of.exchange_from, of.exchange_to))
    return {TRUE: local, EXCHANGE: exchange}


class _Feed:
    """The row groups that a unit is made of, and how they come to a shard."""

    def __init__(self, unit: MonthUnit, ticks: RawTicks) -> None:
        self._unit = unit
        self._ticks = ticks
        self._symbols = [unit.symbol]
        self._begin, self._end = unit.begin * NS, unit.end * NS
        live = unit.rules.lateness_ns is not None
        self.lagging = ticks.lagging() if live else []
        pieces = sorted(
            (self._dated(kind, piece) for kind in (TRADES, QUOTES) for piece in self._wanted(kind)),
            key=lambda item: item[1].low,
        )
        self._lag = (unit.rules.lateness_ns or 0) + NS if live else _usual_lag(pieces)
        self.pieces = [(kind, piece) for kind, piece in pieces if self._counts(piece)]
        # Later than that they come first; live has left them out as late.
        self._late = set() if live else {p for p in self.pieces if self._stragglers(p[1])}

    def _wanted(self, kind: str) -> list[Piece]:
        """Those that may matter, and the last one before."""
        found = self._ticks.pieces(kind)
        since = self._begin - BEFORE_NS
        earlier = [piece for piece in found if piece.high < since]
        return [*earlier[-1:], *(piece for piece in found if piece.high >= since)]

    def _dated(self, kind: str, piece: Piece) -> tuple[str, Piece]:
        if piece.oldest is None:
            oldest = int(read_stamps(self._ticks.store, piece).min())
            piece = replace(piece, oldest=oldest)
        return kind, piece

    def _counts(self, piece: Piece) -> bool:
        """Whether it has ticks of the month, by either clock."""
        if self._unit.rules.lateness_ns is not None:
            return piece.low < self._end + self._lag
        return piece.earliest < self._end

    def _stragglers(self, piece: Piece) -> bool:
        assert piece.oldest is not None
        return piece.oldest < piece.low - self._lag

    def into(self, shard: ShardAggregator, account: Account) -> Iterator[Mapping[str, int]]:
        """Add all, one after the other; how far each clock has come: to before what stamp (ns)."""
        self._shard, self._account = shard, account
        for kind, piece in (of for of in self.pieces if of in self._late):
            for collector, ticks in self._read(kind, piece):
                late = ticks.exchange_ts < piece.low - self._lag
                self._give(kind, collector, ticks.take(late))
        lows = [piece.low for _, piece in self.pieces[1:]]
        for of, low in zip(self.pieces, [*lows, self._end + self._lag], strict=True):
            kind, piece = of
            for collector, ticks in self._read(kind, piece):
                if of in self._late:
                    in_time = ticks.exchange_ts >= piece.low - self._lag
                    self._give(kind, collector, ticks.take(in_time))
                else:
                    self._give(kind, collector, ticks)
            yield {TRUE: low, EXCHANGE: low - self._lag}

    def _read(self, kind: str, piece: Piece) -> list[tuple[str, Ticks]]:
        return read_ticks(self._ticks.store, kind, piece, self._symbols)

    def _give(self, kind: str, collector: str, ticks: Ticks) -> None:
        """In three parts: what arrived before the month, in it and after it."""
        low, high = _range(ticks.local_ts)
        if self._begin <= low and high < self._end:
            self._take(kind, collector, ticks)
            return
        before, after = ticks.local_ts < self._begin, ticks.local_ts >= self._end
        self._take(kind, collector, ticks.take(~(before | after)))
        dropped = Counter(self._shard.dropped)  # each tick is counted in the month that it came in
        recent = np.flatnonzero(before & (ticks.local_ts >= self._begin - BEFORE_NS))
        kept = np.union1d(recent, np.flatnonzero(before)[-KEPT_ROWS:])
        self._add(kind, collector, ticks.take(kept))
        self._add(kind, collector, ticks.take(after & (ticks.exchange_ts < self._end)))
        self._shard.dropped = dropped

    def _take(self, kind: str, collector: str, ticks: Ticks) -> None:
        if not len(ticks):
            return
        account, (low, high) = self._account, _range(ticks.local_ts)
        account.read[kind] += len(ticks)
        account.first_ns = low if account.first_ns is None else min(account.first_ns, low)
        account.last_ns = high if account.last_ns is None else max(account.last_ns, high)
        self._add(kind, collector, ticks)

    def _add(self, kind: str, collector: str, ticks: Ticks) -> None:
        low, high = _range(ticks.local_ts)
        for of in self.lagging:
            if (of.kind, of.collector) == (kind, collector) and _overlaps(of, low, high):
                late = (ticks.row >= of.row_from) & (ticks.row <= of.row_to)
                late &= (ticks.local_ts >= of.local_from) & (ticks.local_ts <= of.local_to)
                self._shard.add(ticks.take(late), collector, sealed=of.sealed)
                ticks = ticks.take(~late)
        self._shard.add(ticks, collector)


def _range(stamps: I64) -> tuple[int, int]:
    return (int(stamps.min()), int(stamps.max())) if len(stamps) else (0, 0)


def _overlaps(of: Lagging, low: int, high: int) -> bool:
    return of.local_from <= high and of.local_to >= low


def _usual_lag(pieces: list[tuple[str, Piece]]) -> int:
    behind = [piece.low - piece.oldest for _, piece in pieces if piece.oldest is not None]
    return LAG_NS + max(0, int(median(behind))) if behind else LAG_NS


class _Days:
    """Bars of days that are not over, by series."""

    def __init__(self, unit: MonthUnit) -> None:
        self._unit = unit
        self._held: dict[str, dict[tuple[str, str], dict[int, list[BarBatch]]]] = {
            clock: {} for clock in unit.clocks
        }

    def add(self, clock: str, emitted: list[Emitted]) -> None:
        for batch in emitted:
            if isinstance(batch, BarBatch):
                of = self._held[clock].setdefault((batch.dataset, batch.interval), {})
                for day, rows in _by_day(batch):
                    of.setdefault(day, []).append(rows)

    def over(self, clock: str, cut: int) -> Iterator[tuple[Series, date, pa.Table]]:
        """The days that end by second `cut`."""
        unit = self._unit
        for (dataset, interval), days in self._held[clock].items():
            for day in sorted(day for day in days if (day + 1) * DAY <= cut):
                series = Series(dataset, unit.exchange, unit.symbol, interval, clock)
                yield series, EPOCH + timedelta(days=day), _table(days.pop(day))


def _by_day(batch: BarBatch) -> Iterator[tuple[int, BarBatch]]:
    days = batch.start // DAY
    edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
    for start, stop in pairwise(edges):
        rows = slice(start, stop)
        columns = {name: values[rows] for name, values in batch.columns.items()}
        part = replace(batch, code=batch.code[rows], start=batch.start[rows], columns=columns)
        yield int(days[start]), part


def _table(batches: list[BarBatch]) -> pa.Table:
    first = batches[0]
    whole = replace(
        first,
        code=np.concatenate([batch.code for batch in batches]),
        start=np.concatenate([batch.start for batch in batches]),
        columns={
            name: np.concatenate([batch.columns[name] for batch in batches])
            for name in first.columns
        },
    )
    return whole.table().drop_columns("symbol")
