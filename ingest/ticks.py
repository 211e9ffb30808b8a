"""The two tick kinds, as columns: their Arrow schemas and the batch codec.

The unit on the log is a batch: an Arrow IPC stream of up to a few thousand ticks of one exchange,
which any Arrow implementation reads. Inside the process a batch is `Trades` or `Quotes`: plain
numpy columns of equal length n and a list of the symbols that `code` indexes.

Trades                                       Quotes (top-of-book updates)
  code         int32   index into symbols      code         int32
  exchange_ts  int64   ns, the venue's clock   exchange_ts  int64
  local_ts     int64   ns, arrival             local_ts     int64
  id           int64   last trade id covered   sequence     int64   rising per symbol; 0: none
  count        int32   fills in the print      bid_price    float64 NaN: side is empty
  side         int8    taker: +1 buy, -1 sell  bid_qty      float64 base units
  price        float64 quote units             ask_price    float64
  qty          float64 base units              ask_qty      float64
  notional     float64 quote units             origin       int8
  origin       int8    0 live 1 backlog 2 heal row          int64
  off_book     int8    1: not a market print
  row          int64   arrival index within the session
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.words import shown

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I8 = npt.NDArray[np.int8]
F64 = npt.NDArray[np.float64]

LIVE, BACKLOG, HEALED = 0, 1, 2
BUY, SELL = 1, -1
FUTURE_NS = 60_000_000_000
"""An exchange stamp this far ahead of the arrival stamp puts a tick in no exchange bar."""

_NS = pa.timestamp("ns", tz="UTC")
_NS_NUMPY = np.dtype("datetime64[ns]")
_SYMBOL = pa.dictionary(pa.int32(), pa.utf8())
_META = {b"perpflow.schema": b"1"}
TRADES_SCHEMA = pa.schema(
    [
        ("symbol", _SYMBOL),
        ("exchange_ts", _NS),
        ("local_ts", _NS),
        ("id", pa.int64()),
        ("count", pa.int32()),
        ("side", pa.int8()),
        ("price", pa.float64()),
        ("qty", pa.float64()),
        ("notional", pa.float64()),
        ("origin", pa.int8()),
        ("off_book", pa.int8()),
        ("row", pa.int64()),
    ],
    metadata=_META,
)
QUOTES_SCHEMA = pa.schema(
    [
        ("symbol", _SYMBOL),
        ("exchange_ts", _NS),
        ("local_ts", _NS),
        ("sequence", pa.int64()),
        ("bid_price", pa.float64()),
        ("bid_qty", pa.float64()),
        ("ask_price", pa.float64()),
        ("ask_qty", pa.float64()),
        ("origin", pa.int8()),
        ("row", pa.int64()),
    ],
    metadata=_META,
)
_DTYPES: dict[pa.DataType, Any] = {
    _NS: np.int64,
    pa.int64(): np.int64,
    pa.int32(): np.int32,
    pa.int8(): np.int8,
    pa.float64(): np.float64,
    _SYMBOL: np.int32,
}


_LARGE = 8192
"""From this many rows on, an encoding is measured before its memory is taken."""


class MalformedBatch(ValueError):
    """A record's value is not a tick batch of a schema this version reads."""


@dataclass(slots=True)
class Columns:
    """Numpy columns of equal length; the shared part of `Trades` and `Quotes`."""

    schema: ClassVar[pa.Schema]

    symbols: Sequence[str]
    code: I32
    exchange_ts: I64
    local_ts: I64

    def __len__(self) -> int:
        return len(self.code)

    @classmethod
    def names(cls) -> list[str]:
        """The column fields, `code` first, in schema order."""
        return [f.name for f in fields(cls)][1:]

    def columns(self) -> list[npt.NDArray[Any]]:
        return [getattr(self, name) for name in self.names()]

    def take(self, index: npt.NDArray[Any] | slice) -> Self:
        """The rows of an index array, boolean mask or slice."""
        return type(self)(self.symbols, *(c[index] for c in self.columns()))

    @classmethod
    def from_columns(cls, symbols: Sequence[str], columns: Sequence[Any]) -> Self:
        """From one sequence per column, in the order of `names()`."""
        arrays = [
            np.asarray(values, dtype=_DTYPES[field.type])
            for values, field in zip(columns, cls.schema, strict=True)
        ]
        return cls(symbols, *arrays)

    @classmethod
    def empty(cls, symbols: Sequence[str] = ()) -> Self:
        return cls.from_columns(symbols, [()] * len(cls.schema))


@dataclass(slots=True)
class Trades(Columns):
    schema: ClassVar[pa.Schema] = TRADES_SCHEMA

    id: I64
    count: I32
    side: I8
    price: F64
    qty: F64
    notional: F64
    origin: I8
    off_book: I8
    row: I64


@dataclass(slots=True)
class Quotes(Columns):
    schema: ClassVar[pa.Schema] = QUOTES_SCHEMA

    sequence: I64
    bid_price: F64
    bid_qty: F64
    ask_price: F64
    ask_qty: F64
    origin: I8
    row: I64


C = TypeVar("C", Trades, Quotes)


def encode(ticks: Trades | Quotes) -> bytes:
    """An Arrow IPC stream of one record batch; only the symbols that occur are in it."""
    used, index = np.unique(ticks.code, return_inverse=True)
    symbol = pa.DictionaryArray.from_arrays(
        pa.array(index.astype(np.int32)), pa.array([ticks.symbols[i] for i in used], pa.utf8())
    )
    arrays = [symbol]
    for field, values in zip(list(ticks.schema)[1:], ticks.columns()[1:], strict=True):
        array = pa.array(values)
        arrays.append(array.view(_NS) if field.type == _NS else array)
    batch = pa.RecordBatch.from_arrays(arrays, schema=ticks.schema)
    return ipc_stream(batch)


def ipc_stream(rows: pa.RecordBatch | pa.Table) -> bytes:
    """An Arrow IPC stream of a record batch or a table."""
    if rows.num_rows < _LARGE:
        sink = pa.BufferOutputStream()
        _write(sink, rows)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
    # A sink that grows as it fills copies what it has each time: of many rows, measure first.
    counted = pa.MockOutputStream()
    _write(counted, rows)
    value = pa.allocate_buffer(counted.size())
    _write(pa.FixedSizeBufferWriter(value), rows)
    return value.to_pybytes()  # type: ignore[no-any-return]


def _write(sink: pa.NativeFile, rows: pa.RecordBatch | pa.Table) -> None:
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)


def _refuse_compression(value: bytes) -> None:
    """A compressed body may be of any size once inflated, and ours are never compressed.

    Arrow's Message.fbs: of a Message `header_type` is field 1 and `header` field 2; of a
    DictionaryBatch (2) `data`, a RecordBatch, is field 1; of a RecordBatch (3) `compression` is 3.
    """
    for message in pa.ipc.MessageReader.open_stream(value):
        table = message.metadata.to_pybytes()
        at = int.from_bytes(table[:4], "little")
        kind, header = _field(table, at, 1), _field(table, at, 2)
        if not kind or not header or table[kind] not in (2, 3):
            continue
        batch = _offset(table, header)
        if table[kind] == 2:
            inner = _field(table, batch, 1)
            batch = _offset(table, inner) if inner else batch
        if _field(table, batch, 3):
            raise MalformedBatch("a compressed batch")


def _field(table: bytes, at: int, number: int) -> int:
    """Where a field of the flatbuffers table at `at` is, 0 if it is not there."""
    vtable = at - struct.unpack_from("<i", table, at)[0]
    size = struct.unpack_from("<H", table, vtable)[0]
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", table, vtable + slot)[0] if slot < size else 0
    return at + offset if offset else 0


def _offset(table: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", table, at)[0])


def decode(kind: type[C], value: bytes) -> C:
    """The batch in a record's value. Raises `MalformedBatch`."""
    try:
        _refuse_compression(value)
        table = pa.ipc.open_stream(value).read_all()
        if table.schema != kind.schema:
            raise MalformedBatch(f"unexpected {kind.__name__} schema: {shown(table.schema.names)}")
        table.validate(full=True)  # before anything reads where only its metadata says values are
        batches = table.to_batches()
        if len(batches) > 1:
            batches = table.combine_chunks().to_batches()
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error) as error:
        raise MalformedBatch(f"not an Arrow IPC stream: {shown(error)}") from error
    if not batches or not batches[0].num_rows:
        return kind.empty()
    symbol, *others = batches[0].columns
    if any(column.null_count for column in (symbol, *others)):
        raise MalformedBatch(f"nulls in a {kind.__name__} batch")
    values = [column.to_numpy(zero_copy_only=False) for column in (symbol.indices, *others)]
    columns = [v.view(np.int64) if v.dtype == _NS_NUMPY else v for v in values]
    return kind(symbol.dictionary.to_pylist(), *columns)
