"""Finished bars: batches of one (dataset, interval, clock), and their records on the log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import pyarrow as pa

from aggregate.groups import Array, Partial
from ingest.log import NewRecord
from ingest.records import BARS, BARS_TOPIC, CLOSED, SCHEMA_VERSION
from ingest.ticks import I32, I64, ipc_stream


@dataclass(frozen=True, slots=True)
class BarBatch:
    """Bars of several symbols: `code` indexes `symbols`, `start` is the bar's start in seconds.

    Rows are sorted by code, then start; NaN in `columns` stands for null.
    """

    dataset: str
    interval: str
    clock: str
    symbols: Sequence[str]
    code: I32
    start: I64
    columns: Partial

    def __len__(self) -> int:
        return len(self.code)

    def table(self) -> pa.Table:
        """Columns symbol (dictionary), time (timestamp[us], naive UTC), then the dataset's."""
        new = np.append(True, self.code[1:] != self.code[:-1])
        symbol = pa.DictionaryArray.from_arrays(
            pa.array(np.cumsum(new, dtype=np.int32) - np.int32(1)),
            pa.array([self.symbols[i] for i in self.code[new]], pa.utf8()),
        )
        time = pa.array(self.start * 1_000_000).view(pa.timestamp("us"))
        names = ["symbol", "time", *self.columns]
        values = [_nullable(column) for column in self.columns.values()]
        return pa.table([symbol, time, *values], names=names)


def _nullable(column: Array) -> pa.Array:
    """An Arrow array on the column's memory, NaN being null: pa.array goes value by value."""
    if column.dtype.kind != "f":
        return pa.array(column)
    missing = np.isnan(column)
    if not missing.any():
        return pa.array(column)
    valid = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    values = pa.py_buffer(np.ascontiguousarray(column))
    return pa.Array.from_buffers(pa.float64(), len(column), [valid, values])


@dataclass(frozen=True, slots=True)
class Closed:
    """Every bar of this UTC day and earlier, of these symbols and this clock, has been emitted."""

    day: str
    clock: str
    symbols: Sequence[str]


def record(emitted: BarBatch | Closed, partition: int, exchange: str, shard: str) -> NewRecord:
    """The `bars` record of a batch or of a day's close mark (ingest/records.py has the headers)."""
    headers: dict[str, str] = {
        "exchange": exchange,
        "shard": shard,
        "clock": emitted.clock,
        "schema": str(SCHEMA_VERSION),
    }
    if isinstance(emitted, Closed):
        headers["type"] = CLOSED
        value = orjson.dumps({"day": emitted.day, "symbols": list(emitted.symbols)})
    else:
        headers |= {"type": BARS, "dataset": emitted.dataset, "interval": emitted.interval}
        value = ipc_stream(emitted.table())
    return NewRecord(BARS_TOPIC, partition, value, headers)


def read_closed(headers: Mapping[str, str], value: bytes) -> Closed:
    body = orjson.loads(value)
    return Closed(body["day"], headers["clock"], body["symbols"])


def read_table(value: bytes) -> pa.Table:
    """The table of a `bars` record, as `BarBatch.table` makes it."""
    return pa.ipc.open_stream(value).read_all()
