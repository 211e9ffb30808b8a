"""Which months of which instruments there are in a raw area: the units of a replay or an audit."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

from aggregate.shard import Rules
from publish import raw_chunks, raw_days
from publish.merging import EPOCH
from publish.raw_chunks import DAY_NS, QUOTES, SESSIONS, TRADES, read_chunk
from publish.raw_days import Instrument, existing_day, parse_day_key
from publish.raw_pieces import Piece, pieces_of_chunk
from publish.replay.month import MonthUnit
from publish.replay.ticks_in import Area
from publish.store import Store

Months = set[tuple[int, int]]


@dataclass(slots=True)
class _Exchange:
    """What an own archive has of an exchange."""

    months: dict[str, Months] = field(default_factory=lambda: defaultdict(set))
    days: set[date] = field(default_factory=set)
    last_keys: list[tuple[Instrument, date]] = field(default_factory=list)
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
    for of, piece in _open_pieces(store):
        found[of.exchange].add(of, EPOCH + timedelta(days=piece.low // DAY_NS))
    for exchange, has in found.items():
        last = max(has.days)
        highs = [
            piece.high
            for of, day in files
            if of.exchange == exchange and day == last
            for piece in existing_day(store, raw_days.day_key(of, day))[0]
        ]
        highs += [piece.high for of, piece in _open_pieces(store) if of.exchange == exchange]
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
    for group in chunk.groups:
        [piece] = pieces_of_chunk(chunk, lambda of, group=group: of is group)
        yield Instrument(kind, group.exchange, group.symbol), piece
