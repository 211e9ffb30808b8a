"""The raw archive, ended at any moment: every tick is in a day's file once."""

import asyncio
import multiprocessing
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from ingest import records
from ingest.log import Log, NewRecord
from ingest.log.sqlite import SqliteLog
from publish import raw_chunks
from publish.archive import GROUP, Archive
from publish.store import Store, StoreError
from tests.publish.archiving import LATENESS, LATER, contents, day, ids, ns, run
from tests.publish.ticks_on_log import ETH, Collector
from tests.publish.waiting import until

_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys(records.TICK_TOPICS, 2))
    yield log
    await log.close()


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'out'}")


class Crash(Exception):
    """The process ends here."""


class CrashingStore(Store):
    """Ends the process before or after the n-th change."""

    def __init__(self, url: str, number: int, after: bool) -> None:
        super().__init__(url)
        self._left, self._after = number, after
        self.operations = 0

    def _step(self, done: bool) -> None:
        self.operations += not done
        if self.operations == self._left and done == self._after:
            raise Crash

    @contextmanager
    def replacing(self, key: str) -> Iterator[IO[bytes]]:
        self._step(False)
        with super().replacing(key) as sink:
            yield sink
        self._step(True)

    def delete(self, key: str) -> None:
        self._step(False)
        super().delete(key)
        self._step(True)


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.nightly)])
async def test_a_crash_between_any_two_steps(tmp_path: Path, every: int) -> None:
    """Before and after every change of the store; then a new process reads more and less."""

    async def attempt(name: str, number: int, after: bool) -> tuple[int, dict[str, list[Any]]]:
        log = SqliteLog(tmp_path / f"{name}.db")
        store = CrashingStore(f"file://{tmp_path / name}", number, after)
        try:
            await log.create(dict.fromkeys(records.TICK_TOPICS, 1))
            c = Collector()
            await log.append([c.trades([ns(-60), ns(60)], [1, 2]), c.quotes([ns(-60)], [10])])
            await log.append([c.trades([ns(61)], [3], ETH), c.gap(ns(62), 7, 9)])
            more = [c.trades([ns(70)], [4]), c.trades([ns(-10)], [5], ETH)]
            crashed = False
            for then in (more, []):
                try:
                    await run(log, Store(store.url) if crashed else store, workers=1)
                except Crash:
                    crashed = True
                # After a crash the next process finds more on the log.
                await log.append(then)
            await run(log, Store(store.url))
            assert crashed == bool(number)
            return store.operations, contents(store)
        finally:
            await log.close()

    steps, whole = await attempt("whole", 0, False)
    assert steps >= 18
    assert len(whole) == 6
    for number in range(1, steps + 1, every):
        for after in (False, True):
            _, found = await attempt(f"crash-{number}-{after}", number, after)
            assert found == whole, (number, after)


async def test_a_store_that_fails_for_a_while_loses_nothing(log: Log, tmp_path: Path) -> None:
    class Failing(Store):
        left = 5

        def put(self, key: str, data: bytes) -> None:
            Failing.left -= 1
            if Failing.left >= 0:
                raise StoreError("s3 is away")
            super().put(key, data)

    store = Failing(f"file://{tmp_path / 'out'}")
    c = Collector()
    await log.append([c.trades([ns(-60)], [1]), c.quotes([ns(-60)], [1])])
    running = Archive(log, store, lateness_ns=LATENESS, flush_s=0.05, settle_s=0, now=lambda: LATER)
    task = asyncio.create_task(running.run())
    await until(lambda: bool(store.list("raw/trades")))
    running.stop()
    await task
    assert ids(store) == [1]


def _archive_forever(place: Path) -> None:
    async def main() -> None:
        log = SqliteLog(place / "log.db")
        store = Store(f"file://{place / 'out'}")
        (place / "started").touch()
        options = {"flush_s": 0.02, "settle_s": 0.0, "now": lambda: LATER}
        await Archive(log, store, lateness_ns=LATENESS, **options).run()

    asyncio.run(main())


async def test_kill_9_at_random_moments(log: Log, files: Store, tmp_path: Path) -> None:
    seed = int(os.environ.get("PERPFLOW_SEED", "11"))
    chance = random.Random(seed)
    c = Collector()
    kills, number = 0, 0
    trades = (records.TRADES_TOPIC, 0)
    done = asyncio.Event()

    async def feed() -> None:
        nonlocal number
        while not done.is_set():
            number += 3
            stamps = [ns(-86_000 + number + i) for i in range(3)]
            numbers = [number - 2, number - 1, number]
            both: Sequence[Callable[..., NewRecord]] = (c.trades, c.quotes)
            await log.append([make(stamps, numbers) for make in both])
            await asyncio.sleep(0.01)  # the load's pace, not a condition

    feeding = asyncio.create_task(feed())
    while kills < 4:
        process = _SPAWN.Process(target=_archive_forever, args=(tmp_path,), daemon=True)
        process.start()
        await until((tmp_path / "started").exists)
        (tmp_path / "started").unlink()
        if kills % 2:
            before = (await log.committed(GROUP)).get(trades, 0)
            while (await log.committed(GROUP)).get(trades, 0) <= before:
                assert process.exitcode is None
                await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, 0.4))  # the random moment, not a condition
        assert process.exitcode is None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.join)
        kills += 1
    done.set()
    await feeding
    assert (await log.committed(GROUP))[trades] > 0
    await run(log, files)
    assert ids(files) == list(range(1, number + 1)), f"seed {seed}"
    assert day(files, "quotes")["sequence"].to_pylist() == list(range(1, number + 1))
    assert files.list(raw_chunks.ROOT) == []
