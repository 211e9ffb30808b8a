"""The daemon on the embedded log: failures, other owners, and a share that moves."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregate import aggregator as module
from aggregate import metrics
from aggregate.aggregator import Aggregator
from aggregate.intervals import NS
from aggregate.partition import PartitionAggregator
from ingest import records
from ingest.log import LogError, NewRecord, Ownership
from ingest.log.membership import Membership
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


class Shifting(Membership):
    """A share that the test moves."""

    def __init__(self, share: set[int]) -> None:
        self.now = frozenset(share)
        self.was_fenced: list[int] = []
        self.left = False

    async def join(self) -> None:
        """Nobody to tell."""

    def share(self) -> frozenset[int]:
        return self.now

    def fenced(self, partition: int) -> None:
        self.was_fenced.append(partition)
        self.now -= {partition}

    @property
    def over(self) -> bool:
        return False

    async def leave(self) -> None:
        self.left = True


class Counting(SqliteLog):
    """A log that keeps who acquired and committed which partition."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.acquired: list[int] = []
        self.commits: list[int] = []

    async def acquire(self, group: str, partition: int) -> Ownership:
        self.acquired.append(partition)
        return await super().acquire(group, partition)

    async def commit(self, owner: Ownership, *arguments, **more):  # type: ignore[no-untyped-def]
        self.commits.append(owner.partition)
        await super().commit(owner, *arguments, **more)


async def on_all(log: SqliteLog, count: int) -> None:
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), count))
    await log.append(
        [
            NewRecord(r.topic, partition, r.value, r.headers)
            for of in topics().values()
            for r in of
            for partition in range(count)
        ]
    )


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_stays_of_a_share_is_kept_and_what_goes_is_let_go(tmp_path: Path) -> None:
    log = Counting(tmp_path / "log.db")
    await on_all(log, 3)
    members = Shifting({0, 1})
    aggregator = Aggregator(log, members)
    running = asyncio.create_task(aggregator.run())
    await until(lambda: {0, 1} <= set(log.commits))
    members.now = frozenset({1, 2})
    await until(lambda: 2 in log.commits)
    assert log.acquired == [0, 1, 2]  # 1 was not acquired again
    heir = await log.acquire("aggregator", 0)  # what it held there was committed before
    assert heir.offsets["ticks.trades", 0] > 0
    log.commits.clear()
    aggregator.stop()
    await running
    assert set(log.commits) == {1, 2}
    assert members.left
    await log.close()


async def test_what_was_fenced_is_acquired_again_only_when_the_group_says_so(
    tmp_path: Path,
) -> None:
    log = Counting(tmp_path / "log.db")
    await on_all(log, 1)
    members = Shifting({0})
    aggregator = Aggregator(log, members)
    running = asyncio.create_task(aggregator.run())
    await until(lambda: log.commits)
    other = await SqliteLog.acquire(log, "aggregator", 0)
    w = TopicWriter(session="2", log={t: [] for t in TICK_TOPICS})
    w.control(records.SESSION_START, 205 * NS)
    for second in range(206, 300):
        w.control(records.PUNCTUATION, second * NS)
        await log.append(
            [NewRecord(r.topic, 0, r.value, r.headers) for of in w.log.values() for r in of]
        )
        w.log.update({t: [] for t in TICK_TOPICS})
        if members.was_fenced:
            break
        await asyncio.sleep(0.1)
    assert members.was_fenced
    await asyncio.sleep(0.5)
    assert log.acquired == [0]
    await log.commit(other, state={"theirs": b"1"})
    await log.commit(other, state={"theirs": None})
    members.now = frozenset({0})
    await until(lambda: log.acquired == [0, 0])
    aggregator.stop()
    await running
    assert await bars_on(log) == bits(Run(topics(), Rules()).finish())
    await log.close()


async def test_a_stop_without_draining_reads_nothing_more(tmp_path: Path) -> None:
    log = await filled(SqliteLog(tmp_path / "log.db"))
    aggregator = Aggregator(log, [0])
    aggregator.stop(drain_s=0.0)
    await aggregator.run()
    assert await bars_on(log) == {}
    await log.close()


async def test_a_long_seal_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or signs of life would be missing, and others take a partition that is well kept."""
    advance = PartitionAggregator.advance
    sealing = threading.Event()

    def slow(self: PartitionAggregator) -> list[NewRecord]:
        sealing.set()
        time.sleep(1.0)
        return advance(self)

    monkeypatch.setattr(PartitionAggregator, "advance", slow)
    log = await filled(SqliteLog(tmp_path / "log.db"))
    aggregator = Aggregator(log, [0])
    running = asyncio.create_task(aggregator.run())
    await until(sealing.is_set)
    beats = 0
    while not await bars_on(log):
        await asyncio.sleep(0.01)
        beats += 1
    assert beats > 10
    aggregator.stop()
    await running
    await log.close()


async def test_ticks_lost_to_retention_are_counted_and_passed_over(tmp_path: Path) -> None:
    log = await filled(SqliteLog(tmp_path / "log.db"))
    trimmed = metrics.TRIMMED.labels("ticks.trades")
    before = trimmed._value.get()
    assert await log.retain("ticks.trades", max_bytes=0) > 0
    aggregator = Aggregator(log, [0])
    aggregator.stop()
    await aggregator.run()
    assert trimmed._value.get() == before + (await log.bounds("ticks.trades", 0))[0]
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


async def test_ready_is_who_has_all_of_its_share_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAG_EVERY_S", 0.02)
    monkeypatch.setattr(module, "FIRST_LAG_EVERY_S", 0.02)

    class Refusing(SqliteLog):
        refuses = True

        async def acquire(self, group: str, partition: int) -> Ownership:
            if self.refuses and partition == 1:
                raise LogError("not now")
            return await super().acquire(group, partition)

    log = Refusing(tmp_path / "log.db")
    await on_all(log, 2)
    members = Shifting(set())
    aggregator = Aggregator(log, members)
    running = asyncio.create_task(aggregator.run())
    await until(lambda: aggregator.caught_up)  # in reserve
    members.now = frozenset({0, 1})
    await until(lambda: not aggregator.caught_up)
    await until(lambda: aggregator._failures)
    await until(lambda: aggregator._workers)
    assert not aggregator.caught_up, "one of two is at work"
    log.refuses = False
    await until(lambda: aggregator.caught_up)
    aggregator.stop()
    await running
    await log.close()
