"""State on the log: partial rows as Arrow, the rest as JSON, with a version."""

from typing import Any

import orjson
import pyarrow as pa

from aggregate.groups import Partial, Rows
from ingest.errors import UserError
from ingest.ticks import ipc_stream

VERSION = 3


class StateVersionError(UserError):
    """The state was written by a version with another layout."""


def encode_rows(rows: Rows) -> bytes:
    """An Arrow IPC stream: code, start, then `<dataset>.<partial column>`."""
    columns: dict[str, Any] = {"code": rows.code, "start": rows.start}
    for name, part in rows.parts.items():
        columns |= {f"{name}.{column}": values for column, values in part.items()}
    batch = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
    return ipc_stream(batch)


def decode_rows(value: bytes) -> Rows:
    table = pa.ipc.open_stream(value).read_all()
    parts: dict[str, Partial] = {}
    columns = {
        name: column.combine_chunks().to_numpy(zero_copy_only=False)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    for name, values in columns.items():
        dataset, dot, column = name.partition(".")
        if dot:
            parts.setdefault(dataset, {})[column] = values
    return Rows(columns["code"], columns["start"], parts)


def read_meta(value: bytes) -> Any:
    """The JSON of a shard or a partition. Raises `StateVersionError` for another version."""
    meta = orjson.loads(value)
    if meta.get("version") != VERSION:
        raise StateVersionError(
            f"aggregation state has layout version {meta.get('version')}, this program reads "
            f"{VERSION}: finish the old log with the program that wrote it, or start a new log"
        )
    return meta
