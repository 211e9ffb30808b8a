"""Bars records as an aggregator writes them, for tests of what reads them."""

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from aggregate.bars import BarBatch, Closed, record
from ingest.log import NewRecord
from publish.layout import Series

BTC, ETH = "perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT"
EXCHANGE = "binance-futures"
COLUMNS = ("open", "volume")


def at(text: str) -> int:
    """Seconds since the epoch of "2026-11-20 23:59:00", UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def series(
    symbol: str = BTC, dataset: str = "ohlcv", interval: str = "1m", clock: str = "true"
) -> Series:
    return Series(dataset, EXCHANGE, symbol, interval, clock)


def value_of(start: int, symbol: str) -> float:
    """What the `open` of that bar is in these tests, so that a swapped row shows."""
    return start % 100_003 + len(symbol) / 7 + ord(symbol[10]) / 1000


def bars(
    starts: Sequence[int],
    symbols: Sequence[str] = (BTC,),
    *,
    partition: int = 0,
    dataset: str = "ohlcv",
    interval: str = "1m",
    clock: str = "true",
    more: Sequence[str] = (),
) -> NewRecord:
    """One record: a bar of each symbol at each start (seconds); `more` columns are all 1."""
    code = np.repeat(np.arange(len(symbols), dtype=np.int32), len(starts))
    start = np.tile(np.asarray(starts, np.int64), len(symbols))
    opens = np.array(
        [value_of(int(s), symbols[int(c)]) for s, c in zip(start, code, strict=True)], np.float64
    )
    columns = {"open": opens, "volume": np.where(start % 3 == 0, np.nan, start.astype(float))}
    columns |= {name: np.ones(len(start)) for name in more}
    batch = BarBatch(dataset, interval, clock, symbols, code, start, columns)
    return record(batch, partition, EXCHANGE, EXCHANGE)


def closed(
    day: str, symbols: Sequence[str] = (BTC,), *, partition: int = 0, clock: str = "true"
) -> NewRecord:
    return record(Closed(day, clock, symbols), partition, EXCHANGE, EXCHANGE)
