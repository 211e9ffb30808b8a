import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ingest import appender as module
from ingest.appender import RECORD_OVERHEAD, Appender
from ingest.log import NewRecord
from tests.ingest.collecting import BadLog, until

TOPIC = "t"


def record(number: int, size: int = 0) -> NewRecord:
    return NewRecord(TOPIC, 0, bytes(size), {"type": "trades", "n": str(number)})


class Gate:
    def __init__(self) -> None:
        self.calls: list[str] = []


@asynccontextmanager
async def appending(log: BadLog, gate: Gate, **marks: int) -> AsyncIterator[Appender]:
    appender = Appender(
        log,
        "binance-futures",
        pause=lambda: gate.calls.append("pause"),
        resume=lambda: gate.calls.append("resume"),
        **marks,
    )
    task = asyncio.create_task(appender.run())
    yield appender
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[BadLog]:
    log = BadLog(str(tmp_path / "log.db"))
    await log.create({TOPIC: 1})
    yield log
    log.open.set()
    await log.close()


async def numbers(log: BadLog) -> list[int]:
    return [int(r.headers["n"]) for r in await log.read(TOPIC, 0, 0)]


async def test_failed_appends_are_retried_in_order(
    log: BadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.001)
    log.failures = 3
    async with appending(log, Gate()) as appender:
        appender.put([record(0), record(1)])
        await until(lambda: log.failures < 3)
        appender.put([record(2)])
        await appender.drain()
    assert await numbers(log) == [0, 1, 2]
    assert (appender.waiting, appender.waiting_bytes) == (0, 0)


async def test_a_slow_log_pauses_reading_above_high_water_and_resumes_below_low(
    log: BadLog,
) -> None:
    gate = Gate()
    size = 1_000
    each = size + RECORD_OVERHEAD
    log.open.clear()
    async with appending(log, gate, high_water=5 * each, low_water=2 * each) as appender:
        appender.put([record(n, size) for n in range(5)])
        assert gate.calls == []
        appender.put([record(5, size)])
        appender.put([record(6, size)])  # nothing put is refused or dropped
        assert gate.calls == ["pause"]
        log.open.set()
        await appender.drain()
    assert gate.calls == ["pause", "resume"]
    assert await numbers(log) == list(range(7))


async def test_a_backlog_goes_in_bounded_appends(
    log: BadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_APPEND", 3 * RECORD_OVERHEAD)
    sizes: list[int] = []
    append = BadLog.append

    async def counted(self: BadLog, records: list[NewRecord]) -> None:
        sizes.append(len(records))
        await append(self, records)

    monkeypatch.setattr(BadLog, "append", counted)
    async with appending(log, Gate()) as appender:
        appender.put([record(n) for n in range(7)])
        appender.put([record(7, 100 * RECORD_OVERHEAD)])  # larger than an append: alone
        await appender.drain()
    assert sizes == [3, 3, 1, 1]
    assert await numbers(log) == list(range(8))


async def test_a_defect_of_the_log_ends_the_run(
    log: BadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: BadLog, records: list[NewRecord]) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(BadLog, "append", broken)
    appender = Appender(log, "binance-futures", pause=lambda: None, resume=lambda: None)
    appender.put([record(0)])
    with pytest.raises(ZeroDivisionError):
        await appender.run()
    assert appender.waiting == 1
