"""Which months of which instruments there are in a raw area: the units of a replay or an audit."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from aggregate.intervals import CLOCKS, EXCHANGE, NS
from aggregate.shard import Rules
from publish import raw_chunks, raw_days
from publish.merging import EPOCH
from publish.raw_chunks import DAY_NS, GAPS, QUOTES, SESSIONS, TRADES, read_chunk, read_groups
from publish.raw_days import Instrument, existing_day, parse_day_key
from publish.raw_pieces import Piece, pieces_of_chunk
from publish.replay.imported import Imported
from publish.replay.month import MonthUnit
from publish.replay.ticks_in import Area
from publish.settings import PublishSettings
from publish.store import Store, open_store

NONE, RECORDED = "none", "recorded"
END_NS = 1 << 62
Months = set[tuple[int, int]]


@dataclass(slots=True)
class _Exchange:
    """What an own archive has of an exchange."""

    months: dict[str, Months] = field(default_factory=lambda: defaultdict(set))
    days: set[date] = field(default_factory=set)
    high: int = 0

    def add(self, of: Instrument, day: date) -> None:
        self.days.add(day)
        if of.kind in (TRADES, QUOTES):
            self.months[of.symbol].add((day.year, day.month))

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Days in a row, as arrival stamps; the last day ends with its last tick."""
        found: list[tuple[int, int]] = []
        for day in sorted(self.days):
            start = (day - EPOCH).days * DAY_NS
            if found and found[-1][1] == start:
                found[-1] = found[-1][0], start + DAY_NS
            else:
                found.append((start, start + DAY_NS))
        if found:
            found[-1] = found[-1][0], min(found[-1][1], self.high)
        return tuple(found)


def archived_units(area: Area, rules: Rules) -> list[MonthUnit]:
    """Every month of every instrument of an own archive. Raises `StoreError`."""
    store = area.open()
    found: dict[str, _Exchange] = defaultdict(_Exchange)
    files = list(_day_files(store))
    for of, day in files:
        found[of.exchange].add(of, day)
    open_pieces = list(_open_pieces(store))
    for of, piece in open_pieces:
        found[of.exchange].add(of, EPOCH + timedelta(days=piece.low // DAY_NS))
    for exchange, has in found.items():
        last = max(has.days)
        highs = [
            piece.high
            for of, day in files
            if of.exchange == exchange and day == last
            for piece in existing_day(store, raw_days.day_key(of, day))[0]
        ]
        highs += [piece.high for of, piece in open_pieces if of.exchange == exchange]
        has.high = max(highs, default=0)
    return [
        MonthUnit(area, exchange, symbol, *month, rules, spans=has.spans)
        for exchange, has in sorted(found.items())
        for symbol, months in sorted(has.months.items())
        for month in sorted(months)
    ]


def _day_files(store: Store) -> Iterator[tuple[Instrument, date]]:
    for kind in (TRADES, QUOTES, SESSIONS):
        for key in store.list(f"{raw_days.ROOT}/{kind}"):
            try:
                yield parse_day_key(key)
            except ValueError:
                continue


def _open_pieces(store: Store) -> Iterator[tuple[Instrument, Piece]]:
    for kind in (TRADES, QUOTES, SESSIONS):
        for key in store.list(f"{raw_chunks.ROOT}/{kind}"):
            yield from _pieces(store, kind, key)


def _pieces(store: Store, kind: str, key: str) -> Iterator[tuple[Instrument, Piece]]:
    chunk = read_chunk(store, key)
    places = zip(chunk.groups, pieces_of_chunk(chunk, lambda group: True), strict=True)
    for group, piece in places:
        yield Instrument(kind, group.exchange, group.symbol), piece


@dataclass(slots=True)
class _Imports:
    """What imports have of an instrument."""

    names: dict[str, None] = field(default_factory=dict)
    """In the order of the imports, each once."""
    arrivals: set[str] = field(default_factory=set)
    low: int = END_NS
    high: int = 0

    @property
    def arrival(self) -> str:
        """That of all of it: what one part lacks the whole can't have."""
        if NONE in self.arrivals:
            return NONE
        return next((of for of in sorted(self.arrivals) if of != RECORDED), RECORDED)


def imported_units(
    place: PublishSettings, imports: Sequence[Imported], rules: Rules
) -> list[tuple[MonthUnit, str]]:
    """Every month of every instrument of the imports, with how its arrival times are known.

    Without arrival times there is no true clock. Raises `StoreError`.
    """
    store = open_store(place)
    found: dict[tuple[str, str], _Imports] = defaultdict(_Imports)
    for imported in imports:
        for kind in (TRADES, QUOTES):
            for key in imported.keys(kind):
                chunk = read_groups(store, key)
                pieces = pieces_of_chunk(chunk, lambda group: True)
                for group, piece in zip(chunk.groups, pieces, strict=True):
                    has = found[group.exchange, group.symbol]
                    has.names[imported.digest] = None
                    has.arrivals.add(imported.arrival)
                    has.low, has.high = min(has.low, piece.earliest), max(has.high, piece.high)
        for key in imported.keys(GAPS):
            for group in read_groups(store, key).groups:
                found[group.exchange, group.symbol].names[imported.digest] = None
        for symbol, _, _, _, exchange_to, _ in imported.coverage:
            has = found[imported.exchange, symbol]
            has.high = max(has.high, exchange_to - 1)
    return [
        (
            MonthUnit(
                Area(place, tuple(has.names)),
                exchange,
                symbol,
                *month,
                rules,
                (EXCHANGE,) if has.arrival == NONE else CLOCKS,
            ),
            has.arrival,
        )
        for (exchange, symbol), has in sorted(found.items())
        if has.names
        for month in _months(has.low, has.high)
    ]


def _months(low: int, high: int) -> Iterator[tuple[int, int]]:
    """The calendar months from one stamp (ns) to another."""
    first, last = (datetime.fromtimestamp(ns // NS, UTC) for ns in (low, high))
    for number in range(first.year * 12 + first.month - 1, last.year * 12 + last.month):
        yield number // 12, number % 12 + 1
