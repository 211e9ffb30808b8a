"""The daemon on the embedded log: a log that fails for a while, and another owner."""

import asyncio
from pathlib import Path

import pytest

from aggregate.aggregator import Aggregator
from aggregate.intervals import NS
from ingest import records
from ingest.log import LogError, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, TICK_TOPICS
from tests.aggregate.helpers import TopicWriter, bits, collect_records
from tests.aggregate.test_partition import SYMBOL, Rules, Run
from tests.aggregate.test_shard import tick


class Failing(SqliteLog):
    """A log whose first `failures` commits are refused, as a full disk refuses them."""

    failures = 3

    async def commit(self, *arguments, **more):  # type: ignore[no-untyped-def]
        if self.failures:
            self.failures -= 1
            raise LogError("disk full")
        await super().commit(*arguments, **more)


def topics() -> dict:
    written = {t: [] for t in TICK_TOPICS}
    w = TopicWriter(log=written)
    w.control(records.SESSION_START, 90 * NS)
    w.cover([SYMBOL], 90 * NS, 90 * NS)
    w.ticks("trades", [tick(100 + i / 2, 100.1 + i / 2, id=i, price=100.0 + i) for i in range(90)])
    w.control(records.PUNCTUATION, 200 * NS)
    return written


async def filled(log: SqliteLog) -> SqliteLog:
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), 1))
    await log.append(
        [NewRecord(r.topic, 0, r.value, r.headers) for of in topics().values() for r in of]
    )
    return log


async def bars_on(log: SqliteLog) -> dict:
    return bits(collect_records(await log.read(BARS_TOPIC, 0, 0, max_bytes=1 << 30)))


async def test_commits_that_fail_are_tried_again_and_bars_are_there_once(tmp_path: Path) -> None:
    log = await filled(Failing(tmp_path / "log.db"))
    aggregator = Aggregator(log, [0])
    running = asyncio.create_task(aggregator.run())
    assert await log.wait({(BARS_TOPIC, 0): 0}, 20)
    aggregator.stop()
    await running
    assert log.failures == 0
    assert await bars_on(log) == bits(Run(topics(), Rules()).finish())
    await log.close()


async def test_an_owner_that_was_replaced_ends_and_writes_nothing_more(tmp_path: Path) -> None:
    log = await filled(SqliteLog(tmp_path / "log.db"))
    first, second = Aggregator(log, [0]), Aggregator(log, [0])
    one = asyncio.create_task(first.run())
    async with asyncio.timeout(20):
        assert await log.wait({(BARS_TOPIC, 0): 0}, 20)
        two = asyncio.create_task(second.run())
        await asyncio.sleep(0)
        w = TopicWriter(session="2", log={t: [] for t in TICK_TOPICS})
        w.control(records.SESSION_START, 205 * NS)
        w.ticks("trades", [tick(206, 206.1, id=1000)])
        w.control(records.PUNCTUATION, 230 * NS)
        while not one.done():  # it is fenced at its next commit
            late = [NewRecord(r.topic, 0, r.value, r.headers) for of in w.log.values() for r in of]
            await log.append(late)
            w.log = {t: [] for t in TICK_TOPICS}
            await asyncio.sleep(0.1)
            w.control(records.PUNCTUATION, (231 + len(late)) * NS)
    await one
    second.stop()
    await two
    rows = (await bars_on(log))["ohlcv", SYMBOL, "1s", "true"]  # asserts that none is there twice
    assert list(rows)[-1] == 206
    await log.close()


async def test_a_log_that_fails_at_a_stop_ends_with_its_error(tmp_path: Path) -> None:
    log = await filled(Failing(tmp_path / "log.db"))
    log.failures = 10**6
    aggregator = Aggregator(log, [0])
    running = asyncio.create_task(aggregator.run())
    await asyncio.sleep(0)
    aggregator.stop()
    with pytest.raises(LogError, match="disk full"):
        await asyncio.wait_for(running, 10)
    await log.close()
