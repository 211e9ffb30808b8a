"""One set of columns for all files of a series, so that whoever loads several can join them.

A column that an upgrade adds is first given to the files there are, null in all rows; one that an
upgrade drops stays, null in new rows. The oldest file is changed first and the newest last: so the
newest file's columns are those of all, after a crash too.
"""

from contextlib import suppress

import pyarrow as pa

from publish.bar_files import month_file, put_part, read_part, rewrite_month
from publish.layout import CLOSED, OPEN, Series
from publish.store import NotFound, Store


class Columns:
    """What columns each series has, learnt from the store. One thread per series at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Series, pa.Schema] = {}
        self._shared: dict[tuple[str, ...], pa.Schema] = {}

    def fit(self, series: Series, table: pa.Table) -> pa.Table:
        """`table` with the series' columns; what is new in it the files have when this returns.

        Raises `StoreError`; then ask again.
        """
        wanted = table.schema.remove_metadata()
        known = self._known.get(series)
        if known is not None and known.equals(wanted):
            return table
        keys = self._keys(series) if known is None else []
        if keys:
            known = _schema(self._store, keys[-1])
        if known is None:
            known = wanted
        if not set(wanted.names) <= set(known.names):
            known = pa.unify_schemas([wanted, known], promote_options="default")
            for key in self._keys(series):
                with suppress(NotFound):  # a part whose time is over
                    _widen(self._store, key, known)
        self._known[series] = self._shared.setdefault(tuple(known.names), known)
        return pa.concat_tables([known.empty_table(), table], promote_options="default")

    def _keys(self, series: Series) -> list[str]:
        """The series' files, oldest first."""
        return self._store.list(f"{CLOSED}/{series.path}") + self._store.list(
            f"{OPEN}/{series.path}"
        )


def _schema(store: Store, key: str) -> pa.Schema | None:
    try:
        if key.startswith(f"{OPEN}/"):
            return read_part(store, key)[0].schema
        with month_file(store, key) as file:
            return file.schema
    except NotFound:
        return None


def _widen(store: Store, key: str, schema: pa.Schema) -> None:
    if key.startswith(f"{OPEN}/"):
        table, read = read_part(store, key)
        if not table.schema.equals(schema):
            wider = pa.concat_tables([schema.empty_table(), table], promote_options="default")
            put_part(store, key, wider, read)
        return
    with month_file(store, key) as file:
        same = file.schema.equals(schema)
    if not same:
        rewrite_month(store, key, schema)
