"""Repair: only the days that differ for known reasons, whatever live does meanwhile."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from publish.audit import repair as repairing
from publish.audit.causes import CAUSES, Cause, Explained
from publish.audit.published import read_day
from publish.audit.repair import repair
from publish.audit.spool import Spool
from publish.columns import Columns
from publish.layout import Part, Series
from publish.lease import LeaseHeld, Place, leased
from publish.merging import Position, Rows
from publish.partitions import fold, read_month, read_series, write_month, write_part
from publish.store import Store
from tests.publish.bars import BTC, EXCHANGE, at, series

DAYS = [date(2026, 11, n) for n in (18, 19, 20)]
ONE, TWO = series(dataset="flow", interval="1s"), series(dataset="ohlcv")


def bars(day: date, value: float, n: int = 3) -> pa.Table:
    start = at(f"{day} 12:00:00")
    time = pa.array((start + 60 * np.arange(n)) * 1_000_000).view(pa.timestamp("us"))
    return pa.table({"time": time, "open": np.full(n, value)})


def values(store: Store, of: Series) -> list[float]:
    return [v for day in DAYS for v in read_day(store, of, day)["open"].to_pylist()]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(f"file://{tmp_path / 'bars'}")
    for of in (ONE, TWO):
        for day in DAYS:
            write_month(store, of, bars(day, 1.0), [str(day)])
    return store


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """The truth of two days of each."""
    (tmp_path / "spool").mkdir()
    spool = Spool(tmp_path / "spool")
    for of in (ONE, TWO):
        for day in (DAYS[2], DAYS[0]):
            spool.put(of, day, bars(day, 2.0, 4))
    return spool


def because(*causes: Cause) -> Explained:
    codes = np.array([CAUSES.index(cause) for cause in causes], np.int8)
    return Explained(np.arange(len(causes)), codes)


def test_days_that_differ_are_replaced_and_no_others(store: Store, spool: Spool) -> None:
    late, defect = because(Cause.LATE, Cause.TOXICITY), because(Cause.LATE, Cause.OTHER)
    found = [(ONE, DAYS[2], late), (ONE, DAYS[0], late), (TWO, DAYS[0], defect)]
    assert repair(store, [*found, (TWO, DAYS[2], late)], spool) == [
        (ONE, DAYS[2]),
        (ONE, DAYS[0]),
        (TWO, DAYS[2]),
    ]
    assert values(store, ONE) == [2.0] * 4 + [1.0] * 3 + [2.0] * 4
    assert values(store, TWO) == [1.0] * 6 + [2.0] * 4  # a defect stays to be looked at
    for of in (ONE, TWO):
        month = read_month(store, of, 2026, 11)
        assert month.days == set(DAYS)
        assert month.arrival == "recorded"
    assert not store.list("leases")


def test_a_day_without_rows_is_emptied(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    spool = Spool(tmp_path / "empty")
    spool.put(ONE, DAYS[1], bars(DAYS[1], 1.0, 0))
    repair(store, [(ONE, DAYS[1], because(Cause.LATE))], spool)
    assert values(store, ONE) == [1.0] * 6


def test_another_holder_of_the_lease_is_waited_for_not_overruled(
    store: Store, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "PATIENCE_S", 0.0)
    with (
        leased(store, Place("ohlcv", EXCHANGE, BTC, 2026, 11), "fold"),
        pytest.raises(LeaseHeld, match="fold"),
    ):
        repair(store, [(of, DAYS[0], because(Cause.LATE)) for of in (ONE, TWO)], spool)
    assert values(store, ONE)[:4] == [2.0] * 4  # what was done stays done
    assert values(store, TWO) == [1.0] * 9


def test_live_folds_its_next_day_beside_the_repaired_ones(store: Store, spool: Spool) -> None:
    next_day = date(2026, 11, 21)
    rows = bars(next_day, 5.0)
    new = Rows(rows, np.zeros(len(rows), np.int64), Position(0, 1))
    write_part(store, TWO, Part(next_day), new)
    repair(store, [(TWO, DAYS[0], because(Cause.LATE))], spool)
    assert read_day(store, TWO, next_day)["open"].to_pylist() == [5.0] * 3  # still a part
    fold(store, Columns(store), TWO, next_day, now=1e9)
    found = read_series(store, TWO, 2026, 11)["open"].to_pylist()
    assert found == [2.0] * 4 + [1.0] * 6 + [5.0] * 3
