"""Raw ticks of one instrument out of a raw area, a row group after the other, memory bounded.

An area is a store with the own archive (`raw/`, and `raw_open/` of days not over), or with what
sources were imported to (`imported.py`).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import pyarrow as pa

from publish import raw_chunks
from publish.merging import EPOCH
from publish.raw_chunks import (
    DAY_NS,
    GAPS,
    QUOTES,
    SESSIONS,
    TRADES,
    Group,
    read_chunk,
    read_groups,
    valid,
)
from publish.raw_days import Instrument, day_key, existing_day, parse_day_key, series_prefix
from publish.raw_pieces import Piece, pieces_of_chunk, read_piece
from publish.replay.imported import ROOT as IMPORTS
from publish.replay.imported import Imported, find
from publish.retries import threads_for
from publish.settings import PublishSettings
from publish.store import Store, StoreError, open_store

LOOK_AHEAD_NS = 31 * DAY_NS
"""How much later than its month's end a healed tick may have come and still be found."""


@dataclass(frozen=True, slots=True)
class Area:
    """Where raw ticks are: the own archive of a store, or of its imports those named (digests)."""

    place: PublishSettings
    imports: tuple[str, ...] | None = None

    def open(self) -> Store:
        return open_store(self.place)


@dataclass(frozen=True, slots=True)
class Covered:
    """From when, and in an import until when, an instrument's ticks are complete (ns)."""

    local_from: int
    exchange_from: int
    anew: bool
    local_to: int | None = None
    exchange_to: int | None = None
    kinds: tuple[str, ...] = (TRADES, QUOTES)


@dataclass(frozen=True, slots=True)
class Lagging:
    """Rows of an evicted session that live read when it had sealed these seconds (see records)."""

    kind: str
    collector: str
    local_from: int
    local_to: int
    row_from: int
    row_to: int
    sealed: dict[str, int]


class RawTicks:
    """What an area has of one instrument. `first`, `last`: arrival stamps (ns) of interest.

    Of the own archive only the files of these days are looked at, and the last day before them.
    Raises `StoreError`.
    """

    def __init__(self, area: Area, exchange: str, symbol: str, first: int, last: int) -> None:
        self.store = area.open()
        self.exchange = exchange
        self.symbol = symbol
        self._area = area
        self._days = _day(first), _day(last)

    def pieces(self, kind: str) -> list[Piece]:
        """The row groups of a kind, by the first arrival in them."""
        of = Instrument(kind, self.exchange, "" if kind == SESSIONS else self.symbol)
        found = list(self._imported(of) if self._area.imports is not None else self._own(of))
        return sorted(found, key=lambda piece: (piece.low, piece.key, piece.group))

    def _own(self, of: Instrument) -> Iterator[Piece]:
        first, last = self._days
        days = [parse_day_key(key)[1] for key in self.store.list(series_prefix(of))]
        wanted = {day for day in days if first <= day <= last}
        earlier = [day for day in days if day < first]
        # Coverage holds from whenever it began; of ticks the last are what copies are known by.
        wanted.update(earlier if of.kind == SESSIONS else sorted(earlier)[-1:])
        in_order = sorted(wanted)
        with ThreadPoolExecutor(threads_for(self.store)) as threads:
            found = threads.map(lambda day: existing_day(self.store, day_key(of, day)), in_order)
            files = dict(zip(in_order, found, strict=True))
        for pieces, _ in files.values():
            yield from pieces
        chunks: dict[int, list[raw_chunks.Chunk]] = {}
        for key in self.store.list(f"{raw_chunks.ROOT}/{of.kind}"):
            _, partition, day, begin, _ = raw_chunks.parse_key(key)
            _, folded = files.get(day, ([], {}))
            fresh = begin >= folded.get(str(partition), 0)
            if fresh and (of.kind == SESSIONS or first <= day <= last):
                chunks.setdefault(partition, []).append(read_chunk(self.store, key))
        for some in chunks.values():
            for chunk in valid(some):
                yield from pieces_of_chunk(chunk, lambda group: self._is(of, group))

    def _imported(self, of: Instrument) -> Iterator[Piece]:
        for name in self._area.imports or ():
            for key in self.store.list(f"{IMPORTS}/{of.kind}/{name}"):
                chunk = read_groups(self.store, key)
                yield from pieces_of_chunk(chunk, lambda group: self._is(of, group))

    def _is(self, of: Instrument, group: Group) -> bool:
        return group.exchange == of.exchange and (not of.symbol or group.symbol == of.symbol)

    def coverage(self) -> list[Covered]:
        """From when the instrument is complete; [] if nothing says so."""
        if self._area.imports is not None:
            return [
                Covered(local_from, exchange_from, anew, local_to, exchange_to, tuple(of.kinds))
                for of in map(self._imported_as, self._area.imports)
                for symbol, local_from, local_to, exchange_from, exchange_to, anew in of.coverage
                if symbol == self.symbol
            ]
        return [
            Covered(row["local_from"], row["exchange_from"], bool(row["anew"]))
            for row in self._sessions
            if row["event"] == "covered" and row["symbol"] == self.symbol
        ]

    def named(self, keys: set[str]) -> dict[str, str]:
        """The digests of files by what users know them by; an import's are its sources'."""
        if self._area.imports is None:
            in_order = sorted(keys)
            with ThreadPoolExecutor(threads_for(self.store)) as threads:
                return dict(zip(in_order, threads.map(self.store.digest, in_order), strict=True))
        used = {key.split("/")[2] for key in keys}
        found = (of for name in sorted(used) for of in self._imported_as(name).sources)
        return {of["url"]: of["sha256"] for of in found}

    def _imported_as(self, name: str) -> Imported:
        done = find(self.store, name)
        if done is None:
            raise StoreError(f"{self.store.url}: the import {name} is not there (any more)")
        return done

    def lagging(self) -> list[Lagging]:
        """What live left out because it came when its seconds were sealed."""
        return [
            Lagging(
                kind=row["kind"],
                collector=row["collector"],
                local_from=row["local_from"],
                local_to=row["local_to"],
                row_from=row["row_from"],
                row_to=row["row_to"],
                sealed={"exchange": row["sealed_exchange"], "true": row["sealed_true"]},
            )
            for row in self._sessions
            if row["event"] == "lagging" and row["symbol"] == self.symbol
        ]

    @cached_property
    def _sessions(self) -> list[dict[str, Any]]:
        tables = [read_piece(self.store, SESSIONS, piece) for piece in self.pieces(SESSIONS)]
        return pa.concat_tables(tables).to_pylist() if tables else []

    def gaps(self, first: int, last: int) -> int:
        """How many gaps were noticed in [first, last) (ns)."""
        found = set()
        for piece in self.pieces(GAPS):
            if piece.low < last and piece.high >= first:
                rows = read_piece(self.store, GAPS, piece).to_pylist()
                names = ("kind", "first_missing", "last_missing", "exchange_ts", "local_ts")
                found |= {
                    tuple(row[name] for name in names)
                    for row in rows
                    if row["symbol"] in (self.symbol, "") and first <= row["local_ts"] < last
                }
        return len(found)


def _day(ns: int) -> date:
    return EPOCH + timedelta(days=ns // DAY_NS)
