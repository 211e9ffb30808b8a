"""Whose ticks they are and how large a contract was, as of the tick's time.

`--instruments FILE` gives a venue's own list (its REST answer, see `ingest.instruments`), and
`--instruments YYYY-MM-DD=FILE` one that holds from that day (UTC) on, for contracts whose size has
changed. Never guessed: what no list has is taken by its name where the name is enough.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import orjson

from ingest.batches import Universe
from ingest.instruments import (
    BINANCE,
    HYPERLIQUID,
    OKX,
    Instrument,
    instrument_by_name,
    instruments_from,
)
from ingest.ticks import F64, I32, LIVE, Quotes, Trades
from publish.replay.sources.base import (
    Bools,
    Report,
    Rows,
    SourceError,
    TradeRows,
    day_span,
    taken,
)

_DATED = re.compile(r"(\d{4}-\d\d-\d\d)=(.+)")
_KEYS = {"symbols": BINANCE, "data": OKX, "universe": HYPERLIQUID, "meta": HYPERLIQUID}
"""What a venue's list of instruments has, and no other's."""

Dated = tuple[int, Sequence[Instrument]]
"""Instruments, and from when (ns) they hold."""


class Contracts:
    """The contracts of an exchange as they were: lists of instruments, each from a date on.

    What no list has is taken by its name where the name is enough (not on OKX, whose contract
    sizes are in no name).
    """

    def __init__(self, exchange: str, dated: Iterable[Dated] = ()) -> None:
        self.exchange = exchange
        lists = sorted(dated, key=lambda of: of[0])
        self._from = [at for at, _ in lists]
        self._listed = [{i.native.upper(): i for i in of} for _, of in lists] or [{}]
        # Before the first list there is nothing better than the first.
        self._universes = [Universe([]) for _ in self._listed]
        self._codes: list[dict[str, int]] = [{} for _ in self._listed]

    def ticks(self, rows: Rows, report: Report) -> Iterator[Trades | Quotes]:
        """The rows in base and quote units, those of unknown instruments counted and left out."""
        era = np.searchsorted(self._from[1:], rows.exchange_ts, side="right")
        for number in np.unique(era).tolist() if len(self._from) > 1 else [0]:
            at = era == number
            part = rows if at.all() else taken(rows, at)
            codes = np.array([self._code(number, n) for n in part.native.dictionary.to_pylist()])
            code = codes.astype(np.int32)[part.native.indices.to_numpy()]
            known = code >= 0
            if not known.all():
                self._count_unknown(part, ~known, report)
                part, code = taken(part, known), code[known]
            if len(code):
                yield _converted(self._universes[number], part, code)

    def _code(self, number: int, native: str) -> int:
        """The instrument's code in that era, -1 if it is not known."""
        codes = self._codes[number]
        if native not in codes:
            listed = self._listed[number].get(native.upper())
            found = listed or instrument_by_name(self.exchange, native)
            universe = self._universes[number]
            if found is None:
                codes[native] = -1
            elif found.symbol in universe.symbols:  # another spelling of its name
                codes[native] = universe.symbols.index(found.symbol)
            else:
                codes[native] = len(universe.symbols)
                self._universes[number] = universe.changed([found])
        return codes[native]

    def _count_unknown(self, rows: Rows, unknown: Bools, report: Report) -> None:
        names = rows.native.dictionary.to_pylist()
        found, counts = np.unique(rows.native.indices.to_numpy()[unknown], return_counts=True)
        for index, n in zip(found.tolist(), counts.tolist(), strict=True):
            report.add_unknown(names[index], n)


def read_lists(given: Sequence[str]) -> dict[str, list[Dated]]:
    """The lists of `--instruments` by exchange, oldest first. Raises `SourceError`."""
    out: dict[str, list[Dated]] = {}
    for text in given:
        dated = _DATED.fullmatch(text)
        path = Path(dated[2] if dated else text)
        try:
            since = day_span(dated[1])[0] if dated else 0
            payload = orjson.loads(path.read_bytes())
            exchange = next((of for key, of in _KEYS.items() if key in payload), None)
            if exchange is None:
                raise ValueError("no venue's list of instruments")
            listed = instruments_from(exchange, payload)
        except OSError as error:
            raise SourceError(f"can't read {path}: {error.strerror}") from error
        except (TypeError, ValueError) as error:
            raise SourceError(f"--instruments {text}: {error}") from error
        out.setdefault(exchange, []).append((since, listed))
    return {exchange: sorted(lists, key=lambda of: of[0]) for exchange, lists in out.items()}


def _converted(universe: Universe, rows: Rows, code: I32) -> Trades | Quotes:
    symbols, origin = universe.symbols, np.full(len(code), LIVE, np.int8)
    if isinstance(rows, TradeRows):
        qty, notional = universe.amounts(code, rows.size, rows.price)
        return Trades(
            symbols,
            code,
            rows.exchange_ts,
            rows.local_ts,
            id=rows.id,
            count=rows.count.astype(np.int32),
            side=rows.side,
            price=rows.price,
            qty=qty,
            notional=notional,
            origin=origin,
            off_book=np.zeros(len(code), np.int8),
            row=rows.row,
        )
    bid, bid_size = _side(rows.bid_price, rows.bid_size)
    ask, ask_size = _side(rows.ask_price, rows.ask_size)
    return Quotes(
        symbols,
        code,
        rows.exchange_ts,
        rows.local_ts,
        sequence=rows.sequence,
        bid_price=bid,
        bid_qty=universe.amounts(code, bid_size, bid)[0],
        ask_price=ask,
        ask_qty=universe.amounts(code, ask_size, ask)[0],
        origin=origin,
        row=rows.row,
    )


def _side(price: F64, size: F64) -> tuple[F64, F64]:
    """A side without a price above 0, or without a size, is empty (NaN)."""
    there = (price > 0) & ~np.isnan(size)
    return np.where(there, price, np.nan), np.where(there, size, np.nan)
