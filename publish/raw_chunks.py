"""Raw ticks of days that are not over: chunks, each what one flush read of a partition.

    raw_open/{kind}/partition=PPP/day=YYYY-MM-DD/{first offset}-{epoch}.parquet

A chunk holds the rows of one UTC day (of arrival), one row group an instrument, in the log's order.
Its name is the offset it begins at, where the commit before it ended, and the epoch of the owner
that wrote it. So a chunk that was written and not committed is known by its name: the next start
removes it, and of a zombie's that comes later still the newer owner's is taken. Readers are not
sent here.

Metadata: `perpflow.offsets`, "partition:from:to"; `perpflow.groups`, JSON [[exchange, symbol,
lowest local_ts, highest, rows], …].
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from ingest import records
from ingest.log import Record
from ingest.ticks import MalformedBatch, Quotes, Trades, decode
from publish.merging import EPOCH
from publish.store import Store, StoreError

ROOT = "raw_open"
TRADES, QUOTES, GAPS, SESSIONS = "trades", "quotes", "gaps", "sessions"
DAY_NS = 86_400_000_000_000

_NAME = pa.dictionary(pa.int32(), pa.utf8())
_WHERE = [("exchange", _NAME), ("symbol", _NAME), ("local_ts", pa.int64())]
_TICK = [("exchange_ts", pa.int64()), ("collector", _NAME), ("row", pa.int64())]
SCHEMAS: Mapping[str, pa.Schema] = {
    TRADES: pa.schema(
        [
            *_WHERE,
            *_TICK,
            ("origin", pa.int8()),
            ("id", pa.int64()),
            ("count", pa.int32()),
            ("side", pa.int8()),
            ("price", pa.float64()),
            ("qty", pa.float64()),
            ("notional", pa.float64()),
            ("off_book", pa.int8()),
        ]
    ),
    QUOTES: pa.schema(
        [
            *_WHERE,
            *_TICK,
            ("sequence", pa.int64()),
            ("bid_price", pa.float64()),
            ("bid_qty", pa.float64()),
            ("ask_price", pa.float64()),
            ("ask_qty", pa.float64()),
        ]
    ),
    GAPS: pa.schema(
        [
            *_WHERE,
            ("exchange_ts", pa.int64()),
            ("kind", pa.utf8()),
            ("first_missing", pa.int64()),
            ("last_missing", pa.int64()),
            ("missing", pa.int64()),
            ("healed", pa.int64()),
            ("reason", pa.utf8()),
        ]
    ),
    SESSIONS: pa.schema(
        [
            *_WHERE,
            ("event", pa.utf8()),
            ("collector", pa.utf8()),
            ("shard", pa.utf8()),
            ("session", pa.utf8()),
            ("local_from", pa.int64()),
            ("exchange_from", pa.int64()),
            ("anew", pa.bool_()),
            ("kind", pa.utf8()),
            ("local_to", pa.int64()),
            ("row_from", pa.int64()),
            ("row_to", pa.int64()),
            ("sealed_exchange", pa.int64()),
            ("sealed_true", pa.int64()),
        ]
    ),
}
"""The columns of each kind's chunks; stamps are ns since the epoch. A session's event that is about
all instruments has the symbol "". Of the event `lagging` (records.Lagging) the last six columns are
what came too late, the last two in seconds."""

_HEADERS = ("exchange", "collector")
_EVENTS = {
    records.SESSION_START: "start",
    records.SESSION_END: "end",
    records.EVICTION: "evicted",
    records.COVERAGE: "covered",
    records.LAGGING: "lagging",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Where an instrument's rows are in a chunk, and between which arrival stamps (ns)."""

    index: int
    exchange: str
    symbol: str
    low: int
    high: int
    rows: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk's key, the log's records that are in it, and its instruments."""

    key: str
    partition: int
    first: int
    next: int
    epoch: int
    groups: tuple[Group, ...]
    file: pq.FileMetaData


def prefix(kind: str, partition: int) -> str:
    return f"{ROOT}/{kind}/partition={partition:03}"


def key_of(kind: str, partition: int, day: date, first: int, epoch: int) -> str:
    return f"{prefix(kind, partition)}/day={day}/{first:020}-{epoch:06}.parquet"


def parse_key(key: str) -> tuple[str, int, date, int, int]:
    """Kind, partition, day, first offset and epoch. Raises ValueError for another key."""
    try:
        root, kind, partition, day, name = key.split("/")
        if root != ROOT or kind not in SCHEMAS:
            raise ValueError
        number = int(partition.removeprefix("partition="))
        first, epoch = map(int, name.removesuffix(".parquet").split("-"))
        return kind, number, date.fromisoformat(day.removeprefix("day=")), first, epoch
    except ValueError:
        raise ValueError(f"{key} is not the key of a chunk") from None


def tables_of(found: Sequence[Record]) -> tuple[dict[str, pa.Table], list[str]]:
    """The rows of records of one partition by kind, in the log's order; and what is malformed."""
    batches: dict[str, list[tuple[Record, Trades | Quotes]]] = {TRADES: [], QUOTES: []}
    others: dict[str, list[pa.Table]] = {GAPS: [], SESSIONS: []}
    malformed = []
    for record in found:
        try:
            kind = record.headers["type"]
            if kind == records.TRADES:
                batches[TRADES].append((record, decode(Trades, record.value)))
            elif kind == records.QUOTES:
                batches[QUOTES].append((record, decode(Quotes, record.value)))
            elif kind == records.GAP:
                others[GAPS].append(gap_rows([records.GapRecord.decode(record.value)]))
            elif kind in _EVENTS and record.topic == records.TRADES_TOPIC:
                others[SESSIONS].append(_event(record, _EVENTS[kind]))
        except (MalformedBatch, KeyError, TypeError, ValueError) as error:
            where = f"{record.topic}/{record.partition} offset {record.offset}"
            malformed.append(f"{where}: {error or type(error).__name__}")
    tables = {kind: _ticks(kind, of) for kind, of in batches.items() if of}
    return tables | {kind: pa.concat_tables(of) for kind, of in others.items() if of}, malformed


def write_chunks(
    store: Store, kind: str, table: pa.Table, partition: int, span: tuple[int, int], epoch: int
) -> list[date]:
    """Write a partition's rows of one flush, a chunk a day; returns the days.

    `span`: the offsets [from, to) of the records that were read.
    """
    table = table.unify_dictionaries().combine_chunks()
    stamps = table["local_ts"].to_numpy()
    days = stamps // DAY_NS
    exchange, symbol = (table[name].chunk(0) for name in ("exchange", "symbol"))
    order = np.lexsort((symbol.indices.to_numpy(), exchange.indices.to_numpy(), days))
    table = table.take(order)
    days = days[order]
    written = []
    for start, stop in _runs(days):
        day = EPOCH + timedelta(days=int(days[start]))
        key = key_of(kind, partition, day, span[0], epoch)
        _write(store, key, table.slice(start, stop - start), f"{partition}:{span[0]}:{span[1]}")
        written.append(day)
    return written


def _write(store: Store, key: str, table: pa.Table, offsets: str) -> None:
    sink = pa.BufferOutputStream()
    write_groups(sink, table, {"perpflow.offsets": offsets}, compression="zstd")
    store.put(key, sink.getvalue().to_pybytes())


def write_groups(
    sink: Any,
    table: pa.Table,
    metadata: Mapping[str, str],
    most_rows: int | None = None,
    **options: Any,
) -> None:
    """Write rows that are in order of exchange and symbol, a row group an instrument.

    Of more than `most_rows` several. `perpflow.groups` is added to the metadata; `options` are the
    parquet writer's.
    """
    exchange, symbol = (table[name].combine_chunks() for name in ("exchange", "symbol"))
    codes = np.stack([exchange.indices.to_numpy(), symbol.indices.to_numpy()])
    stamps = table["local_ts"].to_numpy()
    names = exchange.dictionary.to_pylist(), symbol.dictionary.to_pylist()
    spans = [
        (at, min(at + (most_rows or stop), stop))
        for start, stop in _runs(*codes)
        for at in range(start, stop, most_rows or stop)
    ]
    groups = [
        [names[0][codes[0, a]], names[1][codes[1, a]], *_range(stamps[a:b]), b - a]
        for a, b in spans
    ]
    schema = table.schema.with_metadata({**metadata, "perpflow.groups": orjson.dumps(groups)})
    dated = [name for name in ("exchange_ts", "local_ts") if name in schema.names]
    options |= {"write_statistics": dated, "write_page_checksum": True}
    with pq.ParquetWriter(sink, schema, **options) as writer:
        for start, stop in spans:
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)


def _range(stamps: npt.NDArray[np.int64]) -> tuple[int, int]:
    return int(stamps.min()), int(stamps.max())


def _runs(*columns: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """[start, stop) of each run of equal rows of the columns (n,)."""
    change = np.logical_or.reduce([np.diff(column) != 0 for column in columns])
    starts = np.append(0, np.flatnonzero(change) + 1)
    yield from zip(starts.tolist(), np.append(starts[1:], len(columns[0])).tolist(), strict=True)


def read_chunk(store: Store, key: str) -> Chunk:
    """What a chunk holds, without its rows. Raises `StoreError`."""
    with _understood(key):
        file, groups = _read_metadata(store, key)
        partition, first, end = map(int, file.metadata[b"perpflow.offsets"].split(b":"))
        return Chunk(key, partition, first, end, parse_key(key)[4], groups, file)


def read_groups(store: Store, key: str) -> Chunk:
    """`read_chunk` of a file of another's rows: no log's records are in it. Raises `StoreError`."""
    with _understood(key):
        file, groups = _read_metadata(store, key)
        return Chunk(key, 0, 0, 0, 0, groups, file)


def _read_metadata(store: Store, key: str) -> tuple[pq.FileMetaData, tuple[Group, ...]]:
    with store.reading(key) as source:
        file = pq.ParquetFile(source).metadata
    groups = orjson.loads(file.metadata[b"perpflow.groups"])
    return file, tuple(Group(i, *of) for i, of in enumerate(groups))


@contextmanager
def _understood(key: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{key} is not a chunk of perpflow: move it away") from error


def valid(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Without those that a fenced owner wrote of records that a newer one has in its own."""
    return [
        chunk
        for chunk in chunks
        if not any(
            other.epoch > chunk.epoch and other.first < chunk.next and chunk.first < other.next
            for other in chunks
        )
    ]


def _ticks(kind: str, batches: Sequence[tuple[Record, Trades | Quotes]]) -> pa.Table:
    """All batches as one table; columns are put together once, a record has about 100 rows."""
    sizes = [len(ticks) for _, ticks in batches]
    names: dict[str, int] = {}
    codes = [
        np.array([names.setdefault(s, len(names)) for s in ticks.symbols], np.int32)[ticks.code]
        for _, ticks in batches
    ]
    columns = {
        "symbol": _coded(np.concatenate(codes), names),
        **{of: _repeated([r.headers[of] for r, _ in batches], sizes) for of in _HEADERS},
    }
    for name in SCHEMAS[kind].names:
        if name not in columns:
            columns[name] = np.concatenate([getattr(ticks, name) for _, ticks in batches])
    return pa.table([columns[name] for name in SCHEMAS[kind].names], schema=SCHEMAS[kind])


def _repeated(values: Sequence[str], sizes: Sequence[int]) -> pa.DictionaryArray:
    names: dict[str, int] = {}
    codes = [names.setdefault(value, len(names)) for value in values]
    return _coded(np.repeat(np.array(codes, np.int32), sizes), names)


def _coded(codes: npt.NDArray[np.int32], names: Mapping[str, int]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.utf8()))


def gap_rows(gaps: Sequence[records.GapRecord]) -> pa.Table:
    """Gaps as a chunk has them."""
    names = SCHEMAS[GAPS].names
    rows = [{name: getattr(gap, name) for name in names} for gap in gaps]
    return pa.Table.from_pylist(rows, SCHEMAS[GAPS])


def _event(record: Record, event: str) -> pa.Table:
    of = record.headers
    about = {
        "exchange": of["exchange"],
        "symbol": "",
        "local_ts": int(of.get(records.LOCAL_TS, record.appended_ns)),
        "event": event,
        "collector": of["collector"],
        "shard": of["shard"],
        "session": of["session"],
    }
    if event == "lagging":
        return _lagging(about, records.Lagging.decode(record.value))
    if event != "covered":
        return pa.Table.from_pylist([about], SCHEMAS[SESSIONS])
    covered = records.Coverage.decode(record.value)
    stamps = {name: getattr(covered, name) for name in ("local_from", "exchange_from", "anew")}
    return pa.Table.from_pylist(
        [
            about | {"symbol": symbol, "local_ts": covered.local_from} | stamps
            for symbol in covered.symbols
        ],
        SCHEMAS[SESSIONS],
    )


def _lagging(about: Mapping[str, Any], late: records.Lagging) -> pa.Table:
    stamps = {name: getattr(late, name) for name in ("kind", "sealed_exchange", "sealed_true")}
    names = ("symbol", "local_from", "local_to", "row_from", "row_to")
    columns = (late.symbols, late.local_from, late.local_to, late.row_from, late.row_to)
    rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
    return pa.Table.from_pylist(
        [{**about, **stamps, **row, "local_ts": row["local_from"]} for row in rows],
        SCHEMAS[SESSIONS],
    )
