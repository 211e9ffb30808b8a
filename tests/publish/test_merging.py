"""Rows put together: each time once, by the log's offsets."""

import numpy as np
import pyarrow as pa

from publish.merging import Position, Rows, merge
from tests.publish.part_rows import rows, shown, table


def test_sorts_and_keeps_the_last_record_of_a_time() -> None:
    new = Rows(table(["20 00:02", "20 00:01", "20 00:02"]), np.array([5, 5, 4]), Position(0, 6))
    merged, count = merge(None, None, new)
    assert (shown(merged), count) == ([("20 00:01", 1.0), ("20 00:02", 0.0)], 2)


def test_a_record_read_again_changes_nothing() -> None:
    old = table(["20 00:01", "20 00:02"], [1, 2])
    merged, count = merge(old, Position(0, 8), rows(["20 00:02"], [9], offset=7, read=20))
    assert (merged, count) == (old, 0)


def test_a_later_record_corrects() -> None:
    old = table(["20 00:01", "20 00:02"], [1, 2])
    merged, count = merge(old, Position(0, 8), rows(["20 00:02"], [9], offset=8))
    assert (shown(merged), count) == ([("20 00:01", 1.0), ("20 00:02", 9.0)], 1)


def test_a_row_the_file_lacks_comes_in_whatever_its_offset() -> None:
    """The log was replaced by a new one, or lost its tail in a power cut."""
    old = table(["20 00:01"], [1])
    merged, count = merge(old, Position(0, 1000), rows(["20 00:02"], [2], offset=3))
    assert (shown(merged), count) == ([("20 00:01", 1.0), ("20 00:02", 2.0)], 1)


def test_another_partition_never_overrides() -> None:
    old = table(["20 00:01"], [1])
    merged, count = merge(old, Position(0, 1), rows(["20 00:01"], [9], offset=50, partition=1))
    assert (merged, count) == (old, 0)


def test_a_column_added_by_an_upgrade_is_null_before() -> None:
    new = rows(["20 00:02"], offset=9)
    wider = new.table.append_column("volume", pa.array([5.0]))
    merged, _ = merge(table(["20 00:01"]), Position(0, 1), Rows(wider, new.offsets, new.read))
    assert merged.column_names == ["time", "open", "volume"]
    assert merged["volume"].to_pylist() == [None, 5.0]
