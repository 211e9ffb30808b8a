"""Tick lists to batches and records, and bars to comparable tables."""

from collections import defaultdict

import numpy as np

from aggregate.bars import BarBatch, read_table
from ingest import records
from ingest.log import Ownership, Record
from ingest.ticks import Quotes, Trades, encode

TRADE_COLUMNS = Trades.names()[1:]
QUOTE_COLUMNS = Quotes.names()[1:]


def batch(kind, ticks):
    """`Trades` or `Quotes` of a list of dicts."""
    cls = Trades if kind == "trades" else Quotes
    symbols = sorted({t["symbol"] for t in ticks})
    names = cls.names()[1:]
    code = [symbols.index(t["symbol"]) for t in ticks]
    return cls.from_columns(symbols, [code, *([t[n] for t in ticks] for n in names)])


def collect(emitted):
    """{(dataset, symbol, interval, clock): {start_s: {column: bits}}} of emitted bar batches."""
    out = defaultdict(dict)
    for bars in emitted:
        if not isinstance(bars, BarBatch):
            continue
        for i in range(len(bars)):
            key = (bars.dataset, bars.symbols[bars.code[i]], bars.interval, bars.clock)
            start = int(bars.start[i])
            assert start not in out[key], f"{key} {start} twice"
            out[key][start] = {name: values[i].item() for name, values in bars.columns.items()}
    return dict(out)


def collect_records(new_records):
    """The same from records of the bars topic."""
    out = defaultdict(dict)
    for record in new_records:
        h = record.headers
        if h["type"] != records.BARS:
            continue
        for row in read_table(record.value).to_pylist():
            key = (h["dataset"], row.pop("symbol"), h["interval"], h["clock"])
            start = int(np.datetime64(row.pop("time"), "s").astype(int))
            assert start not in out[key], f"{key} {start} twice"
            out[key][start] = {
                name: float("nan") if value is None else value for name, value in row.items()
            }
    return dict(out)


def bits(tables):
    """Comparable to the last bit: NaN equals NaN, 0.0 differs from -0.0 by its repr."""
    return {
        key: {start: {n: repr(v) for n, v in row.items()} for start, row in rows.items()}
        for key, rows in tables.items()
        if rows
    }


def no_owner(partition=0, state=None, offsets=None):
    return Ownership("g", partition, 1, state or {}, offsets or {})


class TopicWriter:
    """Writes one collector's records for both topics of one partition, as a collector does."""

    def __init__(self, exchange="binance-futures", collector="c1", session="1", log=None):
        self.source = records.Source(exchange, exchange, collector, session)
        self.log = log if log is not None else {t: [] for t in records.TICK_TOPICS}
        self._seq = dict.fromkeys(records.TICK_TOPICS, 0)

    def _append(self, topic, kind, value=b"", **more):
        headers = self.source.headers(kind, self._seq[topic], **more)
        self._seq[topic] += 1
        self.log[topic].append(Record(topic, 0, len(self.log[topic]), 0, headers, value))

    def control(self, kind, local_ts):
        for topic in records.TICK_TOPICS:
            self._append(topic, kind, local_ts=str(local_ts))

    def cover(self, symbols, local_from, exchange_from):
        value = records.Coverage(symbols, local_from, exchange_from).encode()
        for topic in records.TICK_TOPICS:
            self._append(topic, records.COVERAGE, value)

    def ticks(self, kind, ticks):
        topic = records.TRADES_TOPIC if kind == "trades" else records.QUOTES_TOPIC
        self._append(topic, kind, encode(batch(kind, ticks)))
