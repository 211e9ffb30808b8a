"""Columns that come and go: all files of a series have the same, whatever happened on the way."""

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from publish import columns
from publish.columns import Columns
from publish.layout import FIXED, Part
from publish.merging import Rows
from publish.partitions import month_days, read_series, write_month, write_part
from publish.store import Store, StoreError
from tests.publish.part_rows import S, fold, rows, table

OCTOBER = 1_759_276_800
"""2025-10-01, seconds since the epoch."""


def names(store: Store) -> dict[str, list[str]]:
    """The columns of every file that may yet be given out, by the end of its key."""
    return {
        key.partition("/year=")[2]: pq.read_schema(pa.BufferReader(store.get(key))).names
        for key in store.list("")
        if not key.startswith(f"{FIXED}/")
    }


def wider(of: Rows, *more: str) -> Rows:
    bigger = of.table
    for name in more:
        bigger = bigger.append_column(name, pa.array([1.0] * len(bigger)))
    return Rows(bigger, of.offsets, of.read)


@pytest.fixture
def files(tmp_path) -> Store:
    """Two months' files, a folded day's part that is still there, and an open part."""
    store = Store(f"file://{tmp_path}")
    write_month(store, S, table([OCTOBER]), ["2025-10-01"])
    for day in (19, 20):
        write_part(store, S, Part(date(2026, 11, day)), rows([f"{day} 00:00"]))
    fold(store, S, date(2026, 11, 19), 1.0)
    return store


def test_a_new_column_comes_into_every_file_as_null(files: Store) -> None:
    new = wider(rows(["20 00:01"], offset=5), "volume")
    fitted = Columns(files).fit(S, new.table)
    write_part(files, S, Part(date(2026, 11, 20)), Rows(fitted, new.offsets, new.read))
    found = names(files)
    assert len(found) == 4
    assert set(map(tuple, found.values())) == {("time", "open", "volume")}
    assert read_series(files, S, 2026, 11)["volume"].to_pylist() == [None, None, 1.0]
    assert read_series(files, S, 2025, 10)["volume"].to_pylist() == [None]
    assert month_days(files, S, "2026-11") == ["2026-11-19"]


def test_a_column_that_was_dropped_stays_null_in_new_rows(files: Store) -> None:
    one = Columns(files)
    one.fit(S, wider(rows(["20 00:01"]), "volume").table)
    for of in (one, Columns(files)):
        fitted = of.fit(S, rows(["20 00:02"]).table)
        assert fitted.column_names == ["time", "open", "volume"]
        assert fitted["volume"].to_pylist() == [None]


def test_columns_in_another_order_are_put_in_the_files_order(files: Store) -> None:
    one = Columns(files)
    one.fit(S, wider(rows(["20 00:01"]), "a", "b").table)
    again = wider(rows(["20 00:02"]), "b", "a").table
    assert one.fit(S, again).column_names == ["time", "open", "a", "b"]


@pytest.mark.parametrize("number", range(4))
def test_what_a_failure_left_half_done_is_finished(
    files: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Before each file in turn; then another process sees the column for the first time."""
    widen, left = columns._widen, number

    def failing(*arguments: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise StoreError("s3 is away")
        widen(*arguments)

    new = wider(rows(["20 00:01"], offset=5), "volume")
    monkeypatch.setattr(columns, "_widen", failing)
    with pytest.raises(StoreError):
        Columns(files).fit(S, new.table)
    monkeypatch.undo()
    Columns(files).fit(S, new.table)
    assert set(map(tuple, names(files).values())) == {("time", "open", "volume")}


def test_a_replayed_month_has_the_series_columns(files: Store) -> None:
    Columns(files).fit(S, wider(rows(["20 00:01"]), "volume").table)
    write_month(files, S, table(["18 00:00"]), ["2026-11-18"])
    write_month(files, S, wider(rows(["17 00:00"]), "trades").table, ["2026-11-17"])
    assert set(map(tuple, names(files).values())) == {("time", "open", "trades", "volume")}
