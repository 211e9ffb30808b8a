"""State on the log: partial rows as Arrow, the rest as JSON, with a version."""

from typing import Any

import orjson
import pyarrow as pa

from aggregate.groups import Partial, Rows
from ingest.errors import UserError
from ingest.ticks import ipc_stream
from ingest.words import shown

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
    """Raises `StateVersionError` for what `encode_rows` did not write."""
    try:
        table = pa.ipc.open_stream(value).read_all()
        table.validate(full=True)
        if table.column_names[:2] != ["code", "start"]:
            raise StateVersionError(f"aggregation state has columns {shown(table.column_names)}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise StateVersionError(f"aggregation state can't be read: {shown(error)}") from error
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
    try:
        meta = orjson.loads(value)
    except ValueError as error:
        raise StateVersionError(f"aggregation state can't be read: {shown(error)}") from error
    version = meta.get("version") if isinstance(meta, dict) else None
    if version != VERSION:
        raise StateVersionError(
            f"aggregation state has layout version {shown(version)}, this program reads "
            f"{VERSION}: finish the old log with the program that wrote it, or start a new log"
        )
    return meta
