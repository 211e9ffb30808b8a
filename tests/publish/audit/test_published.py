"""What is published of a day: the month file if it lists the day, else the open parts."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from publish.audit.published import read_day
from publish.layout import Part
from publish.merging import Position, Rows
from publish.partitions import write_month, write_part
from publish.store import Store
from tests.publish.bars import at, series

DAY, NEXT = date(2026, 11, 20), date(2026, 11, 21)


def table(*starts: str, value: float = 1.0) -> pa.Table:
    time = pa.array(np.array([at(s) for s in starts]) * 1_000_000).view(pa.timestamp("us"))
    return pa.table({"time": time, "open": np.full(len(starts), value)})


def part(store: Store, hour: int, *starts: str) -> None:
    rows = table(*starts, value=2.0)
    new = Rows(rows, np.zeros(len(rows), np.int64), Position(0, 1))
    write_part(store, series(interval="1s"), Part(DAY, hour), new)


def starts(found: pa.Table) -> list[str]:
    return [str(t.time()) for t in found["time"].to_pylist()]


def test_open_parts_in_order_of_time_until_the_month_lists_the_day(tmp_path: Path) -> None:
    store, of = Store(f"file://{tmp_path}"), series(interval="1s")
    assert len(read_day(store, of, DAY)) == 0
    part(store, 11, "2026-11-20 11:00:00")
    part(store, 3, "2026-11-20 03:00:00", "2026-11-20 03:00:01")
    assert starts(read_day(store, of, DAY)) == ["03:00:00", "03:00:01", "11:00:00"]
    write_month(store, of, table("2026-11-21 00:00:00"), [str(NEXT)])
    assert len(read_day(store, of, DAY)) == 3  # the month does not list it
    write_month(store, of, table("2026-11-20 05:00:00"), [str(DAY)])
    found = read_day(store, of, DAY)
    assert starts(found) == ["05:00:00"]  # parts of a day that it lists are dead
    assert found["open"].to_pylist() == [1.0]
    assert starts(read_day(store, of, NEXT)) == ["00:00:00"]
