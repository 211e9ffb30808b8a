"""The appender with a spool: whatever the log does and whoever is killed, once and in order."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ingest import appender as module
from ingest.appender import RECORD_OVERHEAD, Appender
from ingest.log import NewRecord
from ingest.spool import Spool
from tests.ingest.collecting import BadLog, until

TOPIC = "t"
MANY = 1 << 30


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(module, "MAX_RETRY_S", 0.02)
    monkeypatch.setattr(module, "SLOW_S", 0.01)


class Run:
    """One life of a collector's appender."""

    def __init__(self, log: BadLog, spool: Spool, session: int, **marks: int) -> None:
        self.calls: list[str] = []
        self.session = session
        self.sent = 0
        self.spool = spool
        self.appender = Appender(
            log,
            "binance-futures",
            pause=lambda: self.calls.append("pause"),
            resume=lambda: self.calls.append("resume"),
            spool=spool,
            **marks,
        )
        self.task = asyncio.create_task(self.appender.run())

    def put(self, count: int, size: int = 0) -> None:
        first, self.sent = self.sent, self.sent + count
        headers = ({"type": "trades", "n": f"{self.session} {n}"} for n in range(first, self.sent))
        self.appender.put([NewRecord(TOPIC, 0, bytes(size), h) for h in headers])

    async def kill(self) -> set[tuple[int, int]]:
        """End at once; returns what was in memory alone, and is lost."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        async with self.appender._order:  # what the disk was doing happens before or not at all
            lost = {_number(r) for r in self.appender._queue}
            self.spool.close()
        return lost


def _number(record: object) -> tuple[int, int]:
    session, n = record.headers["n"].split()  # type: ignore[attr-defined]
    return int(session), int(n)


async def logged(log: BadLog) -> list[tuple[int, int]]:
    """What is on the log, repeated batch numbers of a session skipped as the aggregator does."""
    out: list[tuple[int, int]] = []
    last: dict[int, int] = {}
    offset = 0
    while records := await log.read(TOPIC, 0, offset):
        offset = records[-1].offset + 1
        for session, n in map(_number, records):
            if n > last.get(session, -1):
                last[session] = n
                out.append((session, n))
    return out


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[BadLog]:
    log = BadLog(str(tmp_path / "log.db"))
    await log.create({TOPIC: 1})
    yield log
    log.open.set()
    await log.close()


step = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 12)),
    st.tuples(st.just("fail"), st.integers(1, 4)),
    st.tuples(st.just("stuck"), st.just(0)),
    st.tuples(st.just("open"), st.just(0)),
    st.tuples(st.just("wait"), st.integers(0, 30)),
    st.tuples(st.just("kill"), st.just(0)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(step, min_size=4, max_size=25))
def test_failures_and_kills_lose_only_what_was_in_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    asyncio.run(_lives(tmp_path_factory.mktemp("lives"), steps))


async def _lives(directory: Path, steps: list[tuple[str, int]]) -> None:
    log = BadLog(str(directory / "log.db"))
    await log.create({TOPIC: 1})

    def start(session: int) -> Run:
        return Run(log, Spool(directory / "spool", MANY, segment_bytes=2_000), session)

    run = start(1)
    sent: list[tuple[int, int]] = []
    lost: set[tuple[int, int]] = set()
    for what, n in steps:
        if what == "put":
            sent += [(run.session, run.sent + i) for i in range(n)]
            run.put(n, size=50)
        elif what == "fail":
            log.failures += n
        elif what == "stuck":
            log.open.clear()
        elif what == "open":
            log.open.set()
        elif what == "wait":
            await asyncio.sleep(n / 1000)
        else:
            lost |= await run.kill()
            run = start(run.session + 1)
    log.open.set()
    await asyncio.wait_for(run.appender.drain(), 20)
    await run.kill()
    found = await logged(log)
    await log.close()
    assert found == sorted(found)
    assert set(sent) - lost <= set(found) <= set(sent)


async def test_a_stuck_log_fills_the_spool_not_the_memory_and_drains_in_order(
    log: BadLog, tmp_path: Path
) -> None:
    run = Run(log, Spool(tmp_path / "s", MANY), 1, high_water=20 * RECORD_OVERHEAD, low_water=1)
    log.open.clear()
    for _ in range(20):
        run.put(10)
        await until(lambda: run.appender.waiting_bytes == 0)
    assert run.appender.spooled == 200
    assert run.calls == []
    log.open.set()
    await run.appender.drain()
    assert await logged(log) == [(1, n) for n in range(200)]
    run.put(5)
    await run.appender.drain()
    assert await logged(log) == [(1, n) for n in range(205)]
    assert run.appender.spooled == 0
    await run.kill()


async def test_a_full_spool_pauses_reading_and_drops_nothing(log: BadLog, tmp_path: Path) -> None:
    marks = {"high_water": 10 * RECORD_OVERHEAD, "low_water": 2 * RECORD_OVERHEAD}
    run = Run(log, Spool(tmp_path / "s", 3_000, segment_bytes=1_000), 1, **marks)
    log.open.clear()
    for _ in range(60):
        run.put(1, size=100)
        await asyncio.sleep(0.001)
    # Before the log was found slow reading may have paused once too.
    await until(lambda: run.spool.read(1) != [] and run.appender.paused)
    await until(lambda: run.calls[-1] == "pause")
    log.open.set()
    await run.appender.drain()
    assert run.calls in (["pause", "resume"], ["pause", "resume"] * 2)
    assert await logged(log) == [(1, n) for n in range(60)]
    await run.kill()


async def test_a_disk_that_refuses_is_told_once_and_memory_holds_the_rest(
    log: BadLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Spool, records: list[NewRecord]) -> int:
        raise OSError(28, "No space left on device")

    write = Spool.write
    monkeypatch.setattr(Spool, "write", refuse)
    run = Run(log, Spool(tmp_path / "s", MANY), 1)
    with capture_logs() as told:
        log.failures = 1
        log.open.clear()
        run.put(3)
        await until(lambda: any("can't spool" in e["event"] for e in told))
        run.put(3)
        monkeypatch.setattr(Spool, "write", write)
        log.open.set()
        await run.appender.drain()
    assert sum("can't spool" in e["event"] for e in told) == 1
    assert await logged(log) == [(1, n) for n in range(6)]
    await run.kill()


async def test_what_is_spooled_is_synced_about_once_a_second(
    log: BadLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYNC_S", 0.2)
    loop = asyncio.get_running_loop()
    synced: list[float] = []
    sync = Spool.sync

    def counted(self: Spool) -> None:
        sync(self)
        synced.append(loop.time())

    monkeypatch.setattr(Spool, "sync", counted)
    run = Run(log, Spool(tmp_path / "s", MANY), 1)
    log.open.clear()
    began = loop.time()
    spills = 0
    while loop.time() - began < 1.0:
        run.put(1)
        await until(lambda: run.appender.waiting_bytes == 0)
        spills += 1
        await asyncio.sleep(0.002)
    assert 2 <= len(synced) <= 1 + (loop.time() - began) / 0.2
    assert spills > 3 * len(synced)
    log.open.set()
    await run.appender.drain()
    await run.kill()
