"""Raw rows as a chunk has them and as a day's file has them, and the one from the other. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ingest.ticks import BACKLOG, BUY, HEALED, I8, LIVE, Trades
from publish.exclusions import REASONS
from publish.raw_chunks import GAPS, QUOTES, SCHEMAS, SESSIONS, TRADES

ORIGINS = {LIVE: "live", BACKLOG: "backlog", HEALED: "healed"}
STAMP = pa.timestamp("ns", tz="UTC")
_STAMPS = [("exchange_timestamp", STAMP), ("local_timestamp", STAMP)]
SCHEMAS_OF_DAYS: Mapping[str, pa.Schema] = {
    TRADES: pa.schema(
        [
            *_STAMPS,
            ("id", pa.utf8()),
            ("side", pa.utf8()),
            ("price", pa.float64()),
            ("amount", pa.float64()),
            ("notional", pa.float64()),
            ("count", pa.int32()),
            ("origin", pa.utf8()),
            ("collector", pa.utf8()),
            ("row", pa.int64()),
            ("excluded_exchange", pa.utf8()),
            ("excluded_true", pa.utf8()),
        ]
    ),
    QUOTES: pa.schema(
        [
            *_STAMPS,
            *((f"{s}_{of}", pa.float64()) for s in ("bid", "ask") for of in ("price", "amount")),
            ("sequence", pa.int64()),
            ("collector", pa.utf8()),
            ("row", pa.int64()),
        ]
    ),
    GAPS: pa.schema(
        [
            *_STAMPS,
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
            ("local_timestamp", STAMP),
            ("event", pa.utf8()),
            ("symbol", pa.utf8()),
            ("collector", pa.utf8()),
            ("shard", pa.utf8()),
            ("session", pa.utf8()),
            ("local_from", STAMP),
            ("exchange_from", STAMP),
            ("anew", pa.bool_()),
            ("kind", pa.utf8()),
            ("local_to", STAMP),
            ("row_from", pa.int64()),
            ("row_to", pa.int64()),
            ("sealed_exchange", pa.int64()),
            ("sealed_true", pa.int64()),
        ]
    ),
}


def as_chunk(kind: str, table: pa.Table, before: int = 0) -> pa.Table:
    """Rows of a day's file as they were in its chunks; what isn't there is empty.

    `before`: how many rows of the file come before these.
    """
    n = len(table)
    columns = {name: table[name] for name in table.column_names}
    columns["local_ts"] = table["local_timestamp"].cast(pa.int64())
    if "exchange_timestamp" in columns:
        columns["exchange_ts"] = table["exchange_timestamp"].cast(pa.int64())
    if kind == TRADES:
        columns["qty"] = table["amount"]
        columns["id"] = table["id"].cast(pa.int64())
        columns["side"] = pc.if_else(pc.equal(table["side"], "buy"), 1, -1).cast(pa.int8())
        origins = pa.array(ORIGINS.values(), pa.utf8())
        columns["origin"] = pc.index_in(table["origin"], origins).cast(pa.int8())
        no_trade = pc.equal(table["excluded_exchange"], "not_a_trade").fill_null(False)
        columns["off_book"] = no_trade.cast(pa.int8())
    if kind == QUOTES:
        columns |= {f"{side}_qty": table[f"{side}_amount"] for side in ("bid", "ask")}
        columns["sequence"] = table["sequence"].fill_null(0)
        # Files from before they were kept: their rows are in order.
        columns.setdefault("row", pa.array(np.arange(before, before + n)))
    if kind == SESSIONS:
        columns["symbol"] = table["symbol"].fill_null("")
        for name in {"local_from", "exchange_from", "local_to"} & columns.keys():
            columns[name] = table[name].cast(pa.int64())
    return completed(kind, columns, n)


def completed(kind: str, columns: Mapping[str, Any], n: int) -> pa.Table:
    """n rows as a chunk of this version has them; what an earlier one didn't have is null."""
    return pa.table(
        [_chunk_column(columns.get(field.name), field.type, n) for field in SCHEMAS[kind]],
        schema=SCHEMAS[kind],
    )


def _chunk_column(column: Any, wanted: pa.DataType, n: int) -> Any:
    if not pa.types.is_dictionary(wanted):
        return pa.nulls(n, wanted) if column is None else column.cast(wanted)
    texts = pa.array([""] * n, pa.utf8()) if column is None else column.cast(pa.utf8())
    return texts.dictionary_encode().cast(wanted)


def as_ticks(table: pa.Table) -> Trades:
    n = len(table)
    names = [name for name in Trades.names() if name != "code"]
    columns = [table[name].to_numpy().copy() for name in names]
    return Trades.from_columns([""], [np.zeros(n, np.int32), *columns])


def trade_rows(table: pa.Table, codes: Mapping[str, I8]) -> pa.Table:
    return _table(
        TRADES,
        table,
        id=table["id"].cast(pa.utf8()),
        side=pc.if_else(pc.equal(table["side"], BUY), "buy", "sell"),
        amount=table["qty"],
        origin=pa.array(list(ORIGINS.values()), pa.utf8()).take(table["origin"]),
        collector=table["collector"].cast(pa.utf8()),
        excluded_exchange=_reasons(codes["exchange"]),
        excluded_true=_reasons(codes["true"]),
    )


def _reasons(codes: I8) -> pa.Array:
    return pa.array([None, *REASONS[1:]], pa.utf8()).take(pa.array(codes))


def quotes(table: pa.Table) -> pa.Table:
    number = table["sequence"].to_numpy()
    return _table(
        QUOTES,
        table,
        sequence=pa.array(number, mask=number == 0),
        collector=table["collector"].cast(pa.utf8()),
        **{f"{side}_price": _or_null(table[f"{side}_price"]) for side in ("bid", "ask")},
        **{f"{side}_amount": _or_null(table[f"{side}_qty"]) for side in ("bid", "ask")},
    )


def _or_null(column: pa.ChunkedArray) -> pa.Array:
    """NaN, the mark of an empty side, as null."""
    return pa.array(column.to_numpy(), from_pandas=True)


def gaps(table: pa.Table) -> pa.Table:
    """Each gap once, as it was last recorded."""
    same = ("kind", "first_missing", "last_missing", "exchange_ts", "local_ts")
    return _table(GAPS, _last_of_each(table, same))


def sessions(table: pa.Table) -> pa.Table:
    """Each event once: it is recorded in every partition."""
    same = ("event", "symbol", "collector", "session", "local_from", "kind", "row_from")
    table = _last_of_each(table, same)
    symbol = table["symbol"].cast(pa.utf8())
    return _table(
        SESSIONS,
        table,
        symbol=pc.if_else(pc.equal(symbol, ""), pa.scalar(None, pa.utf8()), symbol),
    )


def _last_of_each(table: pa.Table, names: Sequence[str]) -> pa.Table:
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    last = {row: i for i, row in enumerate(rows)}
    return table.take(pa.array(sorted(last.values()), pa.int64()))


def _table(kind: str, table: pa.Table, **columns: Any) -> pa.Table:
    """The day file's columns: as given, or of a chunk's column of that name."""
    chunk_names = {"exchange_timestamp": "exchange_ts", "local_timestamp": "local_ts"}
    schema = SCHEMAS_OF_DAYS[kind]
    arrays = []
    for field in schema:
        array = columns.get(field.name)
        if array is None:
            array = table[chunk_names.get(field.name, field.name)]
        arrays.append(array.cast(field.type))
    return pa.table(arrays, schema=schema)
