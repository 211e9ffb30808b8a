"""Tick records as a collector writes them, for tests of what reads them."""

from collections.abc import Sequence

import numpy as np

from ingest import records
from ingest.log import NewRecord
from ingest.ticks import BUY, LIVE, SELL, Quotes, Trades, encode

NS = 10**9
BTC, ETH = "perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT"
EXCHANGE = "binance-futures"


class Collector:
    """One session of a collector, in one partition: numbers its records as it makes them."""

    def __init__(
        self,
        name: str = "c1",
        session: str = "1",
        *,
        partition: int = 0,
        exchange: str = EXCHANGE,
    ) -> None:
        self.source = records.Source(exchange, exchange, name, session)
        self.partition = partition
        self._seq = dict.fromkeys(records.TICK_TOPICS, 0)
        self._row = 0

    def record(self, topic: str, kind: str, value: bytes = b"", **more: str) -> NewRecord:
        number = self._seq[topic]
        self._seq[topic] = number + 1
        return NewRecord(topic, self.partition, value, self.source.headers(kind, number, **more))

    def trades(
        self,
        at: Sequence[int],
        ids: Sequence[int],
        symbol: str = BTC,
        *,
        exchange_ts: Sequence[int] | None = None,
        origin: int = LIVE,
        off_book: int = 0,
        price: float = 100.0,
    ) -> NewRecord:
        """A batch; `at` and `exchange_ts` in ns, the latter 5 ms before by default."""
        n = len(at)
        stamps = np.asarray(at, np.int64)
        sides = [BUY if i % 2 else SELL for i in ids]
        prices = np.full(n, price)
        columns = [
            np.zeros(n),
            stamps - 5_000_000 if exchange_ts is None else exchange_ts,
            stamps,
            ids,
            np.ones(n),
            sides,
            prices,
            np.full(n, 0.5),
            prices * 0.5,
            np.full(n, origin),
            np.full(n, off_book),
            self._rows(n),
        ]
        batch = Trades.from_columns([symbol], columns)
        return self.record(records.TRADES_TOPIC, records.TRADES, encode(batch))

    def quotes(
        self, at: Sequence[int], sequences: Sequence[int], symbol: str = BTC, *, bid: float = 99.0
    ) -> NewRecord:
        """A batch; `bid` NaN: that side is empty."""
        n = len(at)
        stamps = np.asarray(at, np.int64)
        figures = [np.full(n, value) for value in (bid, bid * 0 + 2.0, 101.0, 3.0)]
        columns = [np.zeros(n), stamps - 5_000_000, stamps, sequences, *figures, np.zeros(n)]
        batch = Quotes.from_columns([symbol], [*columns, self._rows(n)])
        return self.record(records.QUOTES_TOPIC, records.QUOTES, encode(batch))

    def gap(self, at: int, first: int, last: int, *, healed: int = 0) -> NewRecord:
        missing = last - first + 1 - healed
        state = records.WHOLE if healed else records.OPEN
        of = records.GapRecord(
            *(self.source.exchange, BTC, "ids", first, last, missing, healed, state),
            *("disconnect", "", at - NS, at, at),
        )
        return self.record(records.TRADES_TOPIC, records.GAP, of.encode())

    def covered(self, at: int, *symbols: str) -> list[NewRecord]:
        value = records.Coverage(symbols or (BTC,), at, at).encode()
        return [self.record(t, records.COVERAGE, value) for t in records.TICK_TOPICS]

    def mark(self, kind: str, at: int) -> list[NewRecord]:
        stamp = {records.LOCAL_TS: str(at)}
        return [self.record(topic, kind, b"", **stamp) for topic in records.TICK_TOPICS]

    def _rows(self, n: int) -> np.ndarray:
        self._row += n
        return np.arange(self._row - n, self._row)
