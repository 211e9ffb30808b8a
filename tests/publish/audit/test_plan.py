"""What can be audited: days that are over, archived and folded."""

from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aggregate.shard import Rules
from ingest import records
from ingest.log import Log
from ingest.log.sqlite import SqliteLog
from publish.audit.plan import NothingToAudit, Wanted, plan
from publish.layout import Part
from publish.merging import Position, Rows
from publish.partitions import write_part
from publish.replay.ticks_in import Area
from publish.settings import PublishSettings
from publish.store import Store
from tests.publish.archiving import DAY, MIDNIGHT, NEXT, SOL, ns, run
from tests.publish.bars import at, series
from tests.publish.ticks_on_log import BTC, EXCHANGE, Collector

AFTER = date(2026, 11, 22)
WANTED = Wanted(2026, 11)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys(records.TICK_TOPICS, 1))
    one = Collector()
    await log.append(
        [
            one.trades([ns(-60)], [1]),
            one.quotes([ns(-50)], [1], SOL),
            one.trades([ns(60)], [2]),
        ]
    )
    yield log
    await log.close()


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(PublishSettings(url=f"file://{tmp_path}/out"))


def days(area: Area, wanted: Wanted = WANTED, today: date = AFTER) -> dict[str, tuple[date, ...]]:
    found = plan(area, Rules(), wanted, today)
    return {unit.live.symbol: unit.days for unit in found.units}


async def test_days_with_their_raw_files(log: Log, area: Area) -> None:
    await run(log, area.open())
    assert days(area) == {BTC: (DAY, NEXT), SOL: (DAY,)}
    assert days(area, Wanted(2026, 11, 20)) == {BTC: (DAY,), SOL: (DAY,)}
    assert days(area, Wanted(2026, 11, symbols=(SOL,))) == {SOL: (DAY,)}
    assert days(area, Wanted(2026, 11, exchange=EXCHANGE, symbols=(BTC,))) == {BTC: (DAY, NEXT)}
    assert days(area, today=NEXT) == {BTC: (DAY,), SOL: (DAY,)}
    unit = plan(area, Rules(), WANTED, AFTER).units[0]
    assert (unit.live.exchange, unit.live.year, unit.live.month) == (EXCHANGE, 2026, 11)
    assert (unit.live.rules.lateness_ns, unit.truth.rules.lateness_ns) == (5_000_000_000, None)


async def test_a_day_whose_files_are_not_made_waits(log: Log, area: Area) -> None:
    await run(log, area.open(), now=MIDNIGHT + 100)  # the next day is still chunks
    assert days(area, today=NEXT) == {BTC: (DAY,), SOL: (DAY,)}
    with pytest.raises(NothingToAudit, match="2026-11-21 is not over"):
        plan(area, Rules(), Wanted(2026, 11, 21), NEXT)
    found = plan(area, Rules(), WANTED, AFTER)
    assert {unit.live.symbol: unit.days for unit in found.units} == {BTC: (DAY,), SOL: (DAY,)}
    assert found.waiting == {"has no raw files yet": {NEXT}}


async def test_a_day_that_is_not_folded_waits(log: Log, area: Area) -> None:
    store = area.open()
    await run(log, store)
    open_part(store, DAY)
    found = plan(area, Rules(), WANTED, AFTER)
    assert {unit.live.symbol: unit.days for unit in found.units} == {BTC: (NEXT,), SOL: (DAY,)}
    assert found.waiting == {"is in no month file yet": {DAY}}
    open_part(store, NEXT)
    with pytest.raises(NothingToAudit, match="2026-11-20, 2026-11-21 is in no month file yet"):
        plan(area, Rules(), Wanted(2026, 11, symbols=(BTC,)), AFTER)


def open_part(store: Store, day: date) -> None:
    time = pa.array([at(f"{day} 12:00:00") * 1_000_000]).view(pa.timestamp("us"))
    rows = pa.table({"time": time, "open": [1.0]})
    write_part(store, series(BTC), Part(day), Rows(rows, np.zeros(1, np.int64), Position(0, 1)))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Wanted(2026, 10), "no raw ticks of 2026-10: "),
        (Wanted(2026, 11, 3), "no raw ticks of 2026-11-03: "),
        (Wanted(2026, 11, exchange="okx-perps"), "no raw ticks of 2026-11 of okx-perps: "),
        (Wanted(2026, 11, symbols=("X", "Y")), "no raw ticks of 2026-11 of X, Y: "),
    ],
)
async def test_what_is_not_there_is_named(log: Log, area: Area, wanted: Wanted, told: str) -> None:
    await run(log, area.open())
    with pytest.raises(NothingToAudit) as caught:
        plan(area, Rules(), wanted, AFTER)
    assert told in str(caught.value)
    assert "publish.raw = true" in str(caught.value)
