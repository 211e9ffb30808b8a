"""Day files of raw ticks: made in slices, which change nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ingest import records
from ingest.log import Log, NewRecord
from ingest.log.sqlite import SqliteLog
from publish import archive, raw_days
from publish.raw_days import Instrument, day_key
from publish.store import Store
from tests.publish.archiving import DAY, contents, ns, run
from tests.publish.ticks_on_log import BTC, EXCHANGE, NS, Collector


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys(records.TICK_TOPICS, 2))
    yield log
    await log.close()


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'out'}")


async def test_memory_is_bounded_by_slices_that_change_nothing(
    log: Log, files: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, d = Collector("a"), Collector("b")
    seed = 5
    chance = np.random.default_rng(seed)
    start = ns(-86_400)
    numbers = np.arange(1, 1001)
    for collector in (c, d):
        stamps = start + np.sort(chance.integers(0, 86_400 * NS, 1000))
        for i in range(0, 1000, 100):
            some = stamps[i : i + 100], numbers[i : i + 100]
            await log.append([collector.trades(*some), collector.quotes(*some)])
    await run(log, files)
    whole = contents(files)
    assert {len(rows) for rows in whole.values()} == {2000}
    small = Store(files.url.replace("out", "small"))
    monkeypatch.setattr(raw_days, "SLICE_ROWS", 40)
    monkeypatch.setattr(raw_days, "ROW_GROUP", 150)
    await archive.release(log)
    again = SqliteLog(Path(log.path).with_name("again.db"))  # type: ignore[attr-defined]
    await again.create(dict.fromkeys(records.TICK_TOPICS, 2))
    for topic in records.TICK_TOPICS:
        found = await log.read(topic, 0, 0, max_bytes=1 << 30)
        await again.append([NewRecord(topic, 0, r.value, r.headers) for r in found])
    await run(again, small)
    await again.close()
    assert contents(small) == whole, f"seed {seed}"
    key = day_key(Instrument("trades", EXCHANGE, BTC), DAY)
    metadata = pq.ParquetFile(pa.BufferReader(small.get(key))).metadata
    assert metadata.num_row_groups > 10
