"""Month files and day parts: what readers see between every two steps."""

from datetime import date, datetime
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from publish.bar_files import Fold
from publish.layout import Part, Series, month_key, part_key
from publish.merging import Position
from publish.partitions import (
    add_to_month,
    discard,
    month_days,
    read_month,
    read_series,
    served_files,
    write_month,
    write_part,
)
from publish.store import NotFound, Store, StoreError
from tests.publish.bars import at
from tests.publish.part_rows import DAY, S, fold, rows, shown, table


def test_parts_grow_and_are_what_readers_see(store: Store) -> None:
    assert write_part(store, S, Part(DAY), rows(["20 00:00", "20 00:01"])) == 2
    assert write_part(store, S, Part(DAY), rows(["20 00:01", "20 00:02"], [7, 8], offset=1)) == 2
    assert write_part(store, S, Part(DAY), rows(["20 00:02"], [99], offset=1)) == 0
    expected = [("20 00:00", 0.0), ("20 00:01", 7.0), ("20 00:02", 8.0)]
    assert shown(read_series(store, S, 2026, 11)) == expected
    assert read_series(store, S, 2026, 10).num_rows == 0


def test_fold_shows_every_row_once_between_every_two_steps(store: Store) -> None:
    write_part(store, S, Part(date(2026, 11, 19)), rows(["19 23:59"]))
    write_part(store, S, Part(DAY), rows(["20 00:00", "20 00:01"], offset=4))
    expected = [("19 23:59", 0.0), ("20 00:00", 0.0), ("20 00:01", 1.0)]
    # The later day first: days may close in any order.
    month = fold(store, S, DAY, now=100.0)
    assert month.days == {DAY}
    assert month.folds[DAY] == Fold(Position(0, 5), 100.0)
    assert shown(read_series(store, S, 2026, 11)) == expected
    assert fold(store, S, DAY, now=200.0).folds[DAY].at == 100.0
    fold(store, S, date(2026, 11, 19), now=200.0)
    assert shown(read_series(store, S, 2026, 11)) == expected
    assert store.exists(part_key(S, DAY))
    for day in (DAY, date(2026, 11, 19)):
        discard(store, S, day, before=300.0)
        assert shown(read_series(store, S, 2026, 11)) == expected
    assert store.list("metrics_open") == []
    assert month_days(store, S, "2026-11") == ["2026-11-19", "2026-11-20"]
    assert month_days(store, S, "2026-12") == []


def test_fold_without_a_part_does_nothing(store: Store) -> None:
    assert fold(store, S, DAY, now=1.0).days == frozenset()
    assert store.list("metrics") == []


def test_files_that_were_listed_before_a_fold_show_every_row_once_after_it(store: Store) -> None:
    def listed() -> list[str]:
        return [file.key for file in served_files(store, S)]

    def read(keys: list[str]) -> list[str]:
        tables = [pq.read_table(pa.BufferReader(store.get(key))) for key in keys]
        return [time for table in tables for time, _ in shown(table)]

    days = [date(2026, 11, day) for day in (18, 19, 20, 21)]
    for day in days:
        write_part(store, S, Part(day), rows([f"{day.day} 00:00"]))
    whole = [f"{day.day} 00:00" for day in days]
    given = [listed()]
    for number, day in enumerate(days[:3]):
        fold(store, S, day, now=100.0 * number)
        given.append(listed())
        assert [read(keys) for keys in given] == [whole] * len(given)
    discard(store, S, days[0], before=50.0)
    assert [read(keys) for keys in given[1:]] == [whole] * 3
    for day in days[1:3]:
        discard(store, S, day, before=200.0)
    assert read(given[3]) == read(listed()) == whole
    assert len(store.list("metrics_fixed")) == 1, "what others have followed is gone"
    fold(store, S, days[3], now=300.0)
    assert listed() == [month_key(S, 2026, 11)]
    assert read(given[3]) == whole
    discard(store, S, days[3], before=300.0)
    assert store.list("") == [month_key(S, 2026, 11)]


def test_late_rows_go_into_the_month_file_once(store: Store) -> None:
    write_part(store, S, Part(DAY), rows(["20 00:00"], offset=4))
    fold(store, S, DAY, now=1.0)
    late = rows(["20 00:00", "20 00:05"], [99, 5], offset=4, read=9)
    for new in (1, 0):
        count, month = add_to_month(store, S, DAY, late, now=2.0)
        assert (count, month.folds[DAY]) == (new, Fold(Position(0, 9), 1.0))
    assert shown(read_series(store, S, 2026, 11)) == [("20 00:00", 0.0), ("20 00:05", 5.0)]


def test_write_month_replaces_its_days_and_keeps_the_others(store: Store) -> None:
    write_month(store, S, table(["18 00:00", "19 00:00"]), ["2026-11-18", "2026-11-19"])
    write_month(store, S, table(["19 12:00"], [7]), ["2026-11-19", "2026-11-17"])
    assert shown(read_series(store, S, 2026, 11)) == [("18 00:00", 0.0), ("19 12:00", 7.0)]
    assert month_days(store, S, "2026-11") == ["2026-11-17", "2026-11-18", "2026-11-19"]


def test_a_replayed_day_wins_over_its_live_part_but_loses_none_of_its_rows(store: Store) -> None:
    write_part(store, S, Part(DAY), rows(["20 00:00", "20 00:01"], [1, 2]))
    write_month(store, S, table(["20 00:01"], [7]), ["2026-11-20"])
    assert shown(read_series(store, S, 2026, 11)) == [("20 00:01", 7.0)]
    fold(store, S, DAY, now=1.0)
    assert shown(read_series(store, S, 2026, 11)) == [("20 00:00", 1.0), ("20 00:01", 7.0)]


@pytest.mark.parametrize(
    ("times", "days", "message"),
    [
        (["20 00:00"], [], "days of one month"),
        (["20 00:00"], ["2026-11-20", "2026-12-01"], "days of one month"),
        (["20 00:00"], ["2026-11-19"], "rows of .*2026-11-20.*not among the days"),
        (["20 00:01", "20 00:00"], ["2026-11-20"], "`time` must come first and rise"),
        (["20 00:00", "20 00:00"], ["2026-11-20"], "`time` must come first and rise"),
    ],
)
def test_write_month_refuses(
    tmp_path: Path, times: list[str], days: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_month(Store(f"file://{tmp_path}"), S, table(times), days)


def test_files_are_what_the_datasets_say(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    write_part(store, S, Part(DAY), rows(["20 00:01", "20 00:00"]))
    fold(store, S, DAY, now=1.0)
    for key in (part_key(S, DAY), month_key(S, 2026, 11)):
        file = pq.ParquetFile(tmp_path / key)
        assert file.schema_arrow.names == ["time", "open"]
        assert file.schema_arrow.field("time").type == pa.timestamp("us")
        assert file.metadata.row_group(0).column(1).compression == "ZSTD"
        assert file.read()["time"].to_pylist() == [
            datetime(2026, 11, 20, 0, 0),
            datetime(2026, 11, 20, 0, 1),
        ]
    metadata = pq.read_schema(tmp_path / month_key(S, 2026, 11)).metadata
    assert metadata[b"perpflow.days"] == b'["2026-11-20"]'
    assert pq.read_schema(tmp_path / part_key(S, DAY)).metadata[b"perpflow.offset"] == b"0:1"


def test_duckdb_and_polars_read_the_hive_tree(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    write_month(store, S, table(["20 00:00"], [7]), ["2026-11-20"])
    odd = Series("ohlcv", "e", "a/b", "1m", "true")
    write_month(store, odd, table(["20 00:00"], [8]), ["2026-11-20"])
    glob = f"{tmp_path}/metrics/ohlcv/**/*.parquet"
    query = f"SELECT symbol, open FROM read_parquet('{glob}', hive_partitioning=true) ORDER BY open"
    expected = [(S.symbol, 7.0), ("a/b", 8.0)]
    assert duckdb.connect().execute(query).fetchall() == expected
    frame = pl.read_parquet(glob, hive_partitioning=True).sort("open")
    assert frame.select("symbol", "open").rows() == expected


def test_a_month_of_many_row_groups_keeps_its_order(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    start = at("2026-11-01 00:00")
    days = [f"2026-11-{day:02}" for day in range(1, 5)]
    write_month(store, S, table(list(range(start, start + 4 * 86_400, 2))), days)
    third = date(2026, 11, 3)
    late = rows(list(range(start + 2 * 86_400, start + 3 * 86_400)), offset=3)
    count, month = add_to_month(store, S, third, late, now=1.0)
    assert count == 43_200
    assert len(month.days) == 4
    times = read_series(store, S, 2026, 11)["time"].cast(pa.int64()).to_numpy() // 1_000_000
    day = np.arange(start, start + 4 * 86_400)
    expected = day[(day % 2 == 0) | ((day - start) // 86_400 == 2)]
    assert np.array_equal(times, expected)
    groups = pq.ParquetFile(tmp_path / month_key(S, 2026, 11)).metadata
    assert groups.num_row_groups > 1


def test_a_file_of_another_program_is_named_and_kept(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}")
    store.put(part_key(S, DAY), b"not parquet")
    with pytest.raises(StoreError, match=r"day=20/data\.parquet is not parquet"):
        write_part(store, S, Part(DAY), rows(["20 00:00"]))
    pq.write_table(table(["20 00:00"]), tmp_path / part_key(S, DAY))
    with pytest.raises(StoreError, match=r"day=20/data\.parquet was not written by perpflow"):
        write_part(store, S, Part(DAY), rows(["20 00:00"]))
    store.put(month_key(S, 2026, 11), b"PAR1")
    with pytest.raises(StoreError, match=r"month=11/data\.parquet is not parquet"):
        read_month(store, S, 2026, 11)
    pq.write_table(table(["20 00:00"]), tmp_path / month_key(S, 2026, 11))
    with pytest.raises(StoreError, match=r"month=11/data\.parquet was not written by perpflow"):
        read_month(store, S, 2026, 11)
    with pytest.raises(NotFound):
        store.get(month_key(S, 2026, 12))
