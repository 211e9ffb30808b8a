"""The ticks of many instruments of a raw area together, by arrival, a slice of time after another.

Memory is bounded by a slice's rows, whatever is in the area: a slice is as short as the row groups
that overlap it say. Decoded row groups that go on beyond it are kept as long as there is room, and
read again where there is none.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingest.ticks import Quotes, Trades
from publish.raw_chunks import QUOTES, TRADES
from publish.raw_pieces import Piece, Ticks, read_ticks
from publish.replay.ticks_in import RawTicks

SLICE_ROWS = 200_000
"""About how many rows a slice has."""
KEPT_ROWS = 4_000_000
LONGEST_NS = 600_000_000_000
SHORTEST_NS = 250_000_000


@dataclass(frozen=True, slots=True)
class Slice:
    """All that arrived in [start, end) (ns): the ticks of each exchange, in order of arrival."""

    start: int
    end: int
    ticks: dict[str, tuple[Trades, Quotes]]


@dataclass(frozen=True, slots=True)
class _Part:
    """A row group and whose it is."""

    of: RawTicks
    kind: str
    piece: Piece


class InOrder:
    """Iterates over the slices. `rows`: how many ticks there are; `first`: the first stamp (ns).

    At one stamp ticks come by collector and in its own order; `row` numbers them anew.
    """

    def __init__(self, instruments: Sequence[RawTicks]) -> None:
        self._parts = sorted(
            (
                _Part(of, kind, piece)
                for of in instruments
                for kind in (TRADES, QUOTES)
                for piece in of.pieces(kind)
            ),
            key=lambda part: part.piece.low,
        )
        self.instruments = instruments
        self.rows = sum(part.piece.rows for part in self._parts)
        self.first = self._parts[0].piece.low if self._parts else 0
        self._symbols: dict[str, list[str]] = {}
        for of in instruments:
            self._symbols.setdefault(of.exchange, []).append(of.symbol)
        self._kept: dict[int, list[tuple[str, Ticks]]] = {}
        self._kept_rows = 0
        self._next_row: Counter[tuple[str, Any]] = Counter()

    def last(self, exchange: str) -> int:
        """The last stamp of an exchange (ns)."""
        highs = (part.piece.high for part in self._parts if part.of.exchange == exchange)
        return max(highs, default=0)

    def __iter__(self) -> Iterator[Slice]:
        ahead = list(enumerate(self._parts))
        active: list[tuple[int, _Part]] = []
        at = self.first
        while active or ahead:
            if not active:
                at = max(at, ahead[0][1].piece.low)
            while ahead and ahead[0][1].piece.low < at + LONGEST_NS:
                active.append(ahead.pop(0))
            end = self._end(at, [part.piece for _, part in active])
            yield Slice(at, end, self._ticks(active, at, end))
            for number, part in active:
                if part.piece.high < end:
                    self._forget(number, part)
            active = [(number, part) for number, part in active if part.piece.high >= end]
            at = end

    def _end(self, at: int, pieces: Sequence[Piece]) -> int:
        """As far as there are rows for a slice, if a group's rows are evenly spread."""
        length = LONGEST_NS
        while length > SHORTEST_NS and _expected(pieces, at, at + length) > SLICE_ROWS:
            length //= 2
        return at + length

    def _ticks(
        self, active: Sequence[tuple[int, _Part]], start: int, end: int
    ) -> dict[str, tuple[Trades, Quotes]]:
        found: dict[tuple[str, str], list[tuple[str, Ticks]]] = {}
        for number, part in active:
            if part.piece.low < end:
                key = part.of.exchange, part.kind
                for collector, ticks in self._read(number, part, end):
                    inside = (ticks.local_ts >= start) & (ticks.local_ts < end)
                    if inside.any():
                        found.setdefault(key, []).append((collector, ticks.take(inside)))
        out = {}
        for exchange in {exchange for exchange, _ in found}:
            trades, quotes = (found.get((exchange, kind), []) for kind in (TRADES, QUOTES))
            out[exchange] = (
                self._joined(exchange, Trades, trades),
                self._joined(exchange, Quotes, quotes),
            )
        return out

    def _read(self, number: int, part: _Part, end: int) -> list[tuple[str, Ticks]]:
        kept = self._kept.get(number)
        if kept is not None:
            return kept
        ticks = read_ticks(part.of.store, part.kind, part.piece, [part.of.symbol])
        if part.piece.high >= end and self._kept_rows + part.piece.rows <= KEPT_ROWS:
            self._kept[number] = ticks
            self._kept_rows += part.piece.rows
        return ticks

    def _forget(self, number: int, part: _Part) -> None:
        if self._kept.pop(number, None) is not None:
            self._kept_rows -= part.piece.rows

    def _joined(self, exchange: str, kind: Any, found: Sequence[tuple[str, Ticks]]) -> Any:
        """One batch of all, in order; its symbols are the exchange's."""
        symbols = self._symbols[exchange]
        if not found:
            return kind.empty(symbols)
        code = {symbol: i for i, symbol in enumerate(symbols)}
        names = sorted({collector for collector, _ in found})
        sizes = [len(ticks) for _, ticks in found]
        columns = {
            name: np.concatenate([getattr(ticks, name) for _, ticks in found])
            for name in kind.names()
            if name != "code"
        }
        codes = np.repeat([code[ticks.symbols[0]] for _, ticks in found], sizes).astype(np.int32)
        rank = np.repeat([names.index(collector) for collector, _ in found], sizes)
        order = np.lexsort((columns["row"], rank, columns["local_ts"]))
        columns = {name: values[order] for name, values in columns.items()}
        first = self._next_row[exchange, kind]
        self._next_row[exchange, kind] += len(order)
        columns["row"] = np.arange(first, first + len(order))
        return kind(symbols, codes[order], **columns)


def _expected(pieces: Sequence[Piece], start: int, end: int) -> float:
    """How many rows of the groups are in [start, end), if they are evenly spread."""
    return sum(
        piece.rows
        * (min(end, piece.high + 1) - max(start, piece.low))
        / (piece.high + 1 - piece.low)
        for piece in pieces
        if piece.low < end and piece.high >= start
    )
