"""The scratch area of imported ticks: its keys, its chunks, what is said of each import.

raw_import/{trades|quotes|gaps}/{digest}/{chunk:06}.parquet   columns of `publish.raw_chunks`, row
                                                         groups of one instrument each
raw_import/done/{digest}.json                            an `Imported`, written last
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa

from ingest.gaps import Gap, gap_record
from ingest.ticks import I64, Quotes, Trades
from publish.raw_chunks import GAPS, QUOTES, SCHEMAS, TRADES, gap_rows, write_groups
from publish.replay.missing import Edge
from publish.store import NotFound, Store

ROOT = "raw_import"
CHUNK_ROWS = 1 << 19
"""About how many rows of a kind are in memory, and in a chunk."""
GROUP_ROWS = 262_144
CHUNK_GAPS = 1 << 16
_FEW = ("exchange", "symbol", "collector", "origin", "side", "count", "off_book")
_RISING = ("local_ts", "exchange_ts", "row", "id", "sequence")


def _parquet(schema: pa.Schema) -> dict[str, Any]:
    """How a chunk is written: what is quick to write and to read, and small without compression.

    Of a Tardis day (524,288 trades): 64 ns a row to write and 31 B, with lz4 and Arrow's own
    choice 108 ns and 35 B.
    """
    return {
        "compression": "none",
        "use_dictionary": [name for name in schema.names if name in _FEW],
        "column_encoding": {
            name: "DELTA_BINARY_PACKED" for name in schema.names if name in _RISING
        },
    }


Coverage = tuple[str, int, int, int, int, bool]
"""(symbol, local from, local to, exchange from, exchange to, anew), stamps in ns."""


@dataclass(slots=True)
class Imported:
    """What an import was made of, and what came of it.

    `sources`: {"url", "sha256", "format", "size"} of each file (of several: recordings that were
    read together). `arrival`: "recorded", "assumed:<ns>" after the exchange stamps, or "none":
    then `local_ts` is the exchange stamp. `coverage` is of the `kinds` of ticks it may have: from
    when to when, on either clock, a symbol is complete. `read` counts what was read, `skipped` what
    was left out by reason, `unknown` rows of instruments that are not known; `examples` is
    [arrival, payload] of the first frame of a reason; `problems` name file and line. `chunks`: how
    many there are of each kind. `gaps`: [how many, ids missing] by reason. `edges`: of each symbol
    whose ids say what is missing.
    """

    digest: str
    sources: list[dict[str, Any]]
    exchange: str
    kinds: list[str]
    arrival: str
    coverage: list[Coverage] = field(default_factory=list)
    read: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    chunks: dict[str, int] = field(default_factory=dict)
    gaps: dict[str, tuple[int, int]] = field(default_factory=dict)
    edges: dict[str, Edge] = field(default_factory=dict)

    def keys(self, kind: str) -> list[str]:
        """The chunks of a kind, in the order they were written."""
        return [chunk_key(kind, self.digest, n) for n in range(self.chunks.get(kind, 0))]

    def encode(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        body = orjson.loads(value)
        body["coverage"] = [tuple(of) for of in body["coverage"]]
        for name in ("examples", "gaps"):
            body[name] = {reason: tuple(of) for reason, of in body[name].items()}
        body["edges"] = {symbol: Edge(**of) for symbol, of in body["edges"].items()}
        return cls(**body)


def chunk_key(kind: str, digest: str, number: int) -> str:
    return f"{ROOT}/{kind}/{digest}/{number:06}.parquet"


def _done_key(digest: str) -> str:
    return f"{ROOT}/done/{digest}.json"


def find(store: Store, digest: str) -> Imported | None:
    """What was imported under that digest, None if it wasn't, or not to its end."""
    try:
        return Imported.decode(store.get(_done_key(digest)))
    except NotFound:
        return None


def finish(store: Store, imported: Imported) -> None:
    """Say that an import is whole."""
    store.put(_done_key(imported.digest), imported.encode())


def sweep(store: Store) -> None:
    """Remove chunks of imports that were cut off."""
    done = {key.rpartition("/")[2].removesuffix(".json") for key in store.list(f"{ROOT}/done")}
    for kind in (TRADES, QUOTES, GAPS):
        for digest in store.children(f"{ROOT}/{kind}"):
            if digest not in done:
                for key in store.list(f"{ROOT}/{kind}/{digest}"):
                    store.delete(key)


class ChunkWriter:
    """Writes the ticks of one import, in the order they are given; counts and bounds them."""

    def __init__(self, store: Store, digest: str, exchange: str, collector: str) -> None:
        self.chunks: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.gaps: dict[str, tuple[int, int]] = {}
        """[how many, ids missing] by reason."""
        self._store = store
        self._digest = digest
        self._names = exchange, collector
        self._waiting: dict[str, list[Trades | Quotes]] = {TRADES: [], QUOTES: []}
        self._waiting_rows: Counter[str] = Counter()
        self._gaps: list[Gap] = []

    def add(self, ticks: Trades | Quotes) -> None:
        if not len(ticks):
            return
        kind = TRADES if isinstance(ticks, Trades) else QUOTES
        self._waiting[kind].append(ticks)
        self.rows[kind] += len(ticks)
        self._waiting_rows[kind] += len(ticks)
        if self._waiting_rows[kind] >= CHUNK_ROWS:
            self._flush(kind)

    def add_gaps(self, gaps: Sequence[Gap]) -> None:
        for gap in gaps:
            n, missing = self.gaps.get(gap.reason, (0, 0))
            self.gaps[gap.reason] = n + 1, missing + (gap.missing or 0)
        self._gaps += gaps
        if len(self._gaps) >= CHUNK_GAPS:
            self._flush_gaps()

    def close(self) -> None:
        """Write what is left."""
        for kind in self._waiting:
            self._flush(kind)
        self._flush_gaps()

    def _flush(self, kind: str) -> None:
        if not self._waiting[kind]:
            return
        self._write(kind, self._table(kind, self._waiting[kind]))
        self._waiting[kind] = []
        self._waiting_rows[kind] = 0

    def _flush_gaps(self) -> None:
        if self._gaps:
            in_order = sorted(self._gaps, key=lambda gap: gap.symbol)
            exchange, _ = self._names
            self._write(GAPS, gap_rows([gap_record(exchange, gap) for gap in in_order]))
            self._gaps = []

    def _write(self, kind: str, table: pa.Table) -> None:
        key = chunk_key(kind, self._digest, self.chunks[kind])
        with self._store.replacing(key) as sink:
            write_groups(sink, table, {}, GROUP_ROWS, **_parquet(table.schema))
        self.chunks[kind] += 1

    def _table(self, kind: str, batches: list[Trades | Quotes]) -> pa.Table:
        """The ticks by symbol, each symbol's in the order they came."""
        names: dict[str, int] = {}
        codes = [
            np.array([names.setdefault(s, len(names)) for s in ticks.symbols], np.int32)[ticks.code]
            for ticks in batches
        ]
        code = np.concatenate(codes)
        order = np.argsort(code, kind="stable") if (np.diff(code) < 0).any() else None
        columns: dict[str, Any] = {"symbol": _coded(code if order is None else code[order], names)}
        exchange, collector = self._names
        for column, name in (("exchange", exchange), ("collector", collector)):
            columns[column] = _coded(np.zeros(len(code), np.int32), {name: 0})
        for name in SCHEMAS[kind].names:
            if name not in columns:
                values = np.concatenate([getattr(ticks, name) for ticks in batches])
                columns[name] = values if order is None else values[order]
        return pa.table([columns[name] for name in SCHEMAS[kind].names], schema=SCHEMAS[kind])


def _coded(codes: Any, names: dict[str, int]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.utf8()))


class Extent:
    """From when to when each symbol's ticks go."""

    def __init__(self) -> None:
        self.first: dict[str, tuple[int, int]] = {}
        """(local, exchange) stamps of each symbol's first tick to arrive."""
        self.last: dict[str, tuple[int, int]] = {}
        """The highest of each."""

    def add(self, ticks: Trades | Quotes) -> None:
        for code in np.unique(ticks.code).tolist():
            at = ticks.code == code
            local_ts, exchange_ts = ticks.local_ts[at], ticks.exchange_ts[at]
            symbol = ticks.symbols[code]
            i = int(local_ts.argmin())
            first = int(local_ts[i]), int(exchange_ts[i])
            self.first[symbol] = min(self.first.get(symbol, first), first)
            before = self.last.get(symbol, (0, 0))
            high = int(local_ts.max()), int(exchange_ts.max())
            self.last[symbol] = max(before[0], high[0]), max(before[1], high[1])


def behind(stamps: I64, high: int) -> Any:
    """Which stamps (n,) are below one before them, or below `high`."""
    return stamps < np.maximum.accumulate(np.maximum(stamps, high))
