"""What a replay made a month file of: a small JSON beside it, by which a finished part is known.

    metrics_manifest/{dataset}/exchange=…/…/year=YYYY/month=MM.json

It is removed before its file changes and written after it did: one that is there is true. It holds
no time and no place, so whoever makes the same of the same writes the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa

from publish.layout import Series, manifest_key, month_key
from publish.store import NotFound, Store, StoreError

VERSION = 1
_ENGINE = (
    *("aggregate/*.py", "aggregate/datasets/*.py", "ingest/ticks.py"),
    *("publish/raw_pieces.py", "publish/replay/ticks_in.py", "publish/replay/month.py"),
)
"""The sources that decide what a bar is."""
_ROOT = Path(__file__).parents[2]
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Manifest:
    """`replay`: the identity of sources, settings and code together. `sources`: digests by name.

    `days`: the digest of each day's rows; `kept`: those of them that were there before.
    `digest`: of all of them, of the values and not of the file. `first`, `last`: bar starts.
    `series`: every series that this replay made of the month ("flow/1s/exchange").
    """

    replay: str
    code: str
    settings: Mapping[str, Any]
    arrival: str
    sources: Mapping[str, str]
    rows: int
    first: str
    last: str
    gaps: int
    digest: str
    days: Mapping[str, str]
    kept: Sequence[str]
    series: Sequence[str]
    version: int = VERSION

    def encode(self) -> bytes:
        return orjson.dumps(self, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Raises ValueError for another version's, or another program's."""
        try:
            made = cls(**orjson.loads(value))
        except TypeError as error:
            raise ValueError(str(error)) from None
        if made.version != VERSION:
            raise ValueError(f"version {made.version}")
        return made


def read_manifest(store: Store, series: Series, year: int, month: int) -> Manifest | None:
    """None if there is none that this version can read."""
    try:
        return Manifest.decode(store.get(manifest_key(month_key(series, year, month))))
    except (NotFound, ValueError):
        return None


def write_manifest(store: Store, series: Series, year: int, month: int, made: Manifest) -> None:
    store.put(manifest_key(month_key(series, year, month)), made.encode())


@cache
def code_version() -> str:
    """Of the code that makes bars: the digest of its sources."""
    digest = hashlib.sha256()
    found = sorted(path for pattern in _ENGINE for path in _ROOT.glob(pattern))
    if not found:
        raise StoreError(f"the program's own sources are not in {_ROOT}")
    for path in found:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def identity(*facts: Any) -> str:
    """A short digest of plain values."""
    value = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(value).hexdigest()[:_DIGITS]


def day_digest(table: pa.Table) -> str:
    """Of a day's rows: names and values, whatever file they are in; a null is one kind of NaN."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
        values = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(values.to_numpy()).data)
    return digest.hexdigest()


def whole_digest(days: Mapping[date, str]) -> str:
    """Of all days together."""
    return identity([[str(day), digest] for day, digest in sorted(days.items())])
