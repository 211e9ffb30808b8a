"""The publisher: every bar on the log is in the files once, whatever happened on the way."""

import asyncio
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from statistics import median
from typing import IO, Any

import pyarrow.parquet as pq
import pytest

from ingest.log import Fenced, Log, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC
from publish.layout import Series, part_key
from publish.partitions import month_days, read_series, write_month
from publish.publisher import Publisher
from publish.store import Store, StoreError
from tests.publish.bars import BTC, ETH, at, bars, closed, series, value_of
from tests.publish.waiting import DEADLINE_S, until

KILLS = 8
DAY = date(2026, 11, 20)
MIDNIGHT = at("2026-11-21 00:00")
_SPAWN = multiprocessing.get_context("spawn")


class Crash(Exception):
    """The process ends here."""


class FailingStore(Store):
    """Counts operations that change the store, and lets `fail(n, done)` raise around the n-th."""

    def __init__(self, url: str, fail: Callable[[int, bool], None]) -> None:
        super().__init__(url)
        self._fail = fail
        self._lock = threading.Lock()
        self.operations = 0

    @contextmanager
    def _around(self) -> Iterator[None]:
        with self._lock:
            self.operations += 1
            number = self.operations
        self._fail(number, False)
        yield
        self._fail(number, True)

    @contextmanager
    def replacing(self, key: str) -> Iterator[IO[bytes]]:
        with self._around(), super().replacing(key) as sink:
            yield sink

    def delete(self, key: str) -> None:
        with self._around():
            super().delete(key)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create({BARS_TOPIC: 2})
    yield log
    await log.close()


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'out'}")


async def publish(log: Log, store: Store, **options: Any) -> Publisher:
    """Publish what is on the log, and stop."""
    publisher = Publisher(log, store, **{"flush_s": 0.05, **options})
    publisher.stop()
    await publisher.run()
    return publisher


def starts(store: Store, of: Series, month: int = 11) -> list[int]:
    """Bar starts (seconds) of a month in the files, each with the value it must have."""
    table = read_series(store, of, 2026, month)
    found = [int((t - t.__class__(1970, 1, 1)).total_seconds()) for t in table["time"].to_pylist()]
    if found:
        assert table["open"].to_pylist() == [value_of(start, of.symbol) for start in found]
    return found


async def test_bars_become_parts_of_their_utc_day(log: Log, files: Store) -> None:
    edge = [MIDNIGHT - 120, MIDNIGHT - 60, MIDNIGHT, MIDNIGHT + 60]
    await log.append([bars(edge, [BTC, ETH]), bars(edge[:2], dataset="flow", partition=1)])
    publisher = await publish(log, files)
    assert publisher.caught_up
    assert starts(files, series()) == starts(files, series(ETH)) == edge
    assert starts(files, series(dataset="flow")) == edge[:2]
    assert files.list("metrics") == []
    days = [part_key(series(), date(2026, 11, day)) for day in (20, 21)]
    assert files.list(f"metrics_open/ohlcv/exchange=binance-futures/symbol={BTC}") == days
    for key, expected in zip(days, (edge[:2], edge[2:]), strict=True):
        times = pq.read_table(Path(files.url.removeprefix("file://")) / key)["time"].to_pylist()
        assert len(times) == len(expected)
    committed = await log.committed("publisher")
    assert committed == {(BARS_TOPIC, 0): 1, (BARS_TOPIC, 1): 1}


async def test_it_flushes_while_it_runs_and_on_stop(log: Log, files: Store) -> None:
    publisher = Publisher(log, files, flush_s=0.05)
    running = asyncio.create_task(publisher.run())
    await log.append([bars([MIDNIGHT])])
    await until(lambda: starts(files, series()) == [MIDNIGHT])
    await log.append([bars([MIDNIGHT + 60])])
    await until(lambda: starts(files, series()) == [MIDNIGHT, MIDNIGHT + 60])
    publisher.stop()
    await asyncio.wait_for(running, DEADLINE_S)

    slow = Publisher(log, files, flush_s=3600)
    running = asyncio.create_task(slow.run())
    await log.append([bars([MIDNIGHT + 120])])
    await until(lambda: slow.caught_up)
    slow.stop()
    begun = time.monotonic()
    await asyncio.wait_for(running, DEADLINE_S)
    assert time.monotonic() - begun < 5
    assert starts(files, series()) == [MIDNIGHT, MIDNIGHT + 60, MIDNIGHT + 120]


async def test_a_closed_day_is_folded_and_its_part_goes_after_the_grace(
    log: Log, files: Store
) -> None:
    now = 1000.0
    await log.append([bars([MIDNIGHT - 86_460]), bars([MIDNIGHT - 60]), bars([MIDNIGHT])])
    await log.append([bars([MIDNIGHT - 60], clock="exchange"), bars([MIDNIGHT - 60], [ETH])])
    await log.append([closed("2026-11-20")])
    await publish(log, files, grace_s=600, now=lambda: now)
    expected = [MIDNIGHT - 86_460, MIDNIGHT - 60, MIDNIGHT]
    assert month_days(files, series(), "2026-11") == ["2026-11-19", "2026-11-20"]
    assert month_days(files, series(ETH), "2026-11") == []
    assert month_days(files, series(clock="exchange"), "2026-11") == []
    assert starts(files, series()) == expected
    assert files.exists(part_key(series(), DAY))

    now = 1599.0  # another process, and not yet
    await publish(log, files, grace_s=600, now=lambda: now)
    assert files.exists(part_key(series(), DAY))
    now = 1600.0
    await publish(log, files, grace_s=600, now=lambda: now)
    assert not files.exists(part_key(series(), DAY))
    assert files.exists(part_key(series(), date(2026, 11, 21)))
    assert starts(files, series()) == expected


async def test_late_bars_of_a_folded_day(log: Log, files: Store) -> None:
    await log.append([bars([MIDNIGHT - 120]), closed("2026-11-20"), bars([MIDNIGHT - 60])])
    await publish(log, files)
    assert starts(files, series()) == [MIDNIGHT - 120, MIDNIGHT - 60]
    for grace_s in (600, 0):
        await log.append([bars([MIDNIGHT - 120, MIDNIGHT - 180 - int(grace_s)])])
        await publish(log, files, grace_s=grace_s)
    expected = sorted(MIDNIGHT - s for s in (60, 120, 180, 780))
    assert starts(files, series()) == expected
    assert files.list("metrics_open") == []


async def test_everything_read_again_from_the_start_changes_nothing(log: Log, files: Store) -> None:
    await log.append([bars([MIDNIGHT - 60, MIDNIGHT], [BTC, ETH]), closed("2026-11-20")])
    await publish(log, files)
    before = {key: files.get(key) for key in files.list("")}
    for group in ("other", "third"):
        await publish(log, files, group=group)
    assert {key: files.get(key) for key in files.list("")} == before


async def test_a_day_that_a_replay_listed_under_a_running_publisher_loses_no_live_bar(
    log: Log, files: Store
) -> None:
    publisher = Publisher(log, files, flush_s=0.05, grace_s=0)
    running = asyncio.create_task(publisher.run())
    await log.append([bars([MIDNIGHT - 120])])
    await until(lambda: starts(files, series()) == [MIDNIGHT - 120])
    empty = read_series(files, series(), 2026, 11).slice(0, 0)
    write_month(files, series(), empty, ["2026-11-20"])
    await log.append([bars([MIDNIGHT - 60]), closed("2026-11-20")])
    await until(lambda: starts(files, series()) == [MIDNIGHT - 120, MIDNIGHT - 60])
    publisher.stop()
    await running


async def test_a_part_that_a_replay_shadowed_is_folded_by_the_next_start(
    log: Log, files: Store
) -> None:
    await log.append([bars([MIDNIGHT - 120])])
    await publish(log, files)
    empty = read_series(files, series(), 2026, 11).slice(0, 0)
    write_month(files, series(), empty, ["2026-11-20"])
    await log.append([bars([MIDNIGHT - 60])])
    await publish(log, files, grace_s=0)
    assert starts(files, series()) == [MIDNIGHT - 120, MIDNIGHT - 60]
    assert files.list("metrics_open") == []


async def test_records_that_cannot_be_read_cost_only_themselves(log: Log, files: Store) -> None:
    good = bars([MIDNIGHT])
    headers = dict(good.headers)
    bad = [
        NewRecord(BARS_TOPIC, 0, b"not arrow", headers),
        NewRecord(BARS_TOPIC, 0, good.value, {**headers, "type": "unheard-of"}),
        NewRecord(BARS_TOPIC, 0, good.value, {"type": "bars"}),
        NewRecord(BARS_TOPIC, 0, b"{}", dict(closed("2026-11-20").headers)),
        NewRecord(BARS_TOPIC, 0, good.value[:200], headers),
    ]
    await log.append([*bad, good])
    await publish(log, files)
    assert starts(files, series()) == [MIDNIGHT]
    assert await log.committed("publisher") == {(BARS_TOPIC, 0): 6, (BARS_TOPIC, 1): 0}


async def test_a_second_publisher_fences_the_first(log: Log, files: Store) -> None:
    first = Publisher(log, files, flush_s=0.05)
    running = asyncio.create_task(first.run())
    await log.append([bars([MIDNIGHT])])
    await until(lambda: starts(files, series()) == [MIDNIGHT])
    await publish(log, files)
    await log.append([bars([MIDNIGHT + 60])])
    with pytest.raises(Fenced):
        await asyncio.wait_for(running, DEADLINE_S)
    await publish(log, files)
    assert starts(files, series()) == [MIDNIGHT, MIDNIGHT + 60]


async def test_bars_lost_to_retention_are_passed_over(log: Log, files: Store) -> None:
    publisher = Publisher(log, files, flush_s=3600)
    await log.append([bars([MIDNIGHT]), bars([MIDNIGHT + 60])])
    await log.retain(BARS_TOPIC, max_bytes=len(bars([MIDNIGHT]).value))
    publisher.stop()
    await publisher.run()
    assert starts(files, series()) == [MIDNIGHT + 60]


async def test_retention_spares_what_is_not_yet_in_files(log: Log, files: Store) -> None:
    publisher = Publisher(log, files, flush_s=3600)
    running = asyncio.create_task(publisher.run())
    await log.append([bars([MIDNIGHT])])
    await until(lambda: publisher.caught_up)
    assert await log.retain(BARS_TOPIC, max_bytes=0) == 0
    publisher.stop()
    await running
    assert await log.retain(BARS_TOPIC, max_bytes=0) == 1


async def test_a_store_that_fails_for_a_while_loses_nothing(log: Log, tmp_path: Path) -> None:
    failures = iter(range(6))

    def fail(_: int, done: bool) -> None:
        if not done and next(failures, None) is not None:
            raise StoreError("s3 is away")

    store = FailingStore(f"file://{tmp_path / 'out'}", fail)
    await log.append([bars([MIDNIGHT - 60, MIDNIGHT], [BTC, ETH]), closed("2026-11-20")])
    publisher = Publisher(log, store, flush_s=0.05)
    running = asyncio.create_task(publisher.run())
    await until(lambda: month_days(store, series(), "2026-11") == ["2026-11-20"])
    publisher.stop()
    await running
    assert starts(store, series()) == starts(store, series(ETH)) == [MIDNIGHT - 60, MIDNIGHT]


async def test_a_stop_while_the_store_fails_says_so_and_the_next_start_catches_up(
    log: Log, files: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publish.publisher.STOP_S", 1.0)

    def fail(_: int, __: bool) -> None:
        raise StoreError("s3 is away")

    await log.append([bars([MIDNIGHT])])
    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"s3 is away .*the next start does them"):
        await publish(log, FailingStore(f"file://{tmp_path / 'out'}", fail))
    assert time.monotonic() - begun < 5
    assert (await log.committed("publisher"))[(BARS_TOPIC, 0)] == 0
    await publish(log, files)
    assert starts(files, series()) == [MIDNIGHT]


async def test_a_crash_between_any_two_steps(log: Log, tmp_path: Path) -> None:
    """Before and after each change of the store: write, fold, discard; then a new process."""
    edge = [MIDNIGHT - 60, MIDNIGHT]
    await log.append([bars([MIDNIGHT - 120], [BTC, ETH]), closed("2026-11-19", [BTC, ETH])])
    script = [bars(edge, [BTC, ETH]), closed("2026-11-20", [BTC, ETH]), bars([MIDNIGHT - 30])]
    expected = {BTC: sorted([MIDNIGHT - 120, MIDNIGHT - 30, *edge]), ETH: [MIDNIGHT - 120, *edge]}
    await log.append(script)

    async def attempt(out: Path, group: str, crash_at: int, after: bool) -> int:
        def fail(number: int, done: bool) -> None:
            if number == crash_at and done == after:
                raise Crash

        store = FailingStore(f"file://{out}", fail)
        # Two flushes: what is folded by one is discarded by the next.
        for _ in range(2):
            await publish(log, store, group=group, grace_s=0, workers=1)
        return store.operations

    steps = await attempt(tmp_path / "whole", "whole", 0, False)
    assert steps == 8  # four parts, two folds, two deletions
    whole = Store(f"file://{tmp_path / 'whole'}")
    for number in range(1, steps + 1):
        for after in (False, True):
            name = f"crash-{number}-{after}"
            store = Store(f"file://{tmp_path / name}")
            with pytest.raises(Crash):
                await attempt(tmp_path / name, name, number, after)
            for symbol in (BTC, ETH):
                seen = starts(store, series(symbol))
                assert len(seen) == len(set(seen))
            await publish(log, store, group=name, grace_s=0)
            for symbol in (BTC, ETH):
                assert starts(store, series(symbol)) == expected[symbol], name
            assert store.list("") == whole.list(""), name


def _publish_forever(place: Path) -> None:
    async def main() -> None:
        log = SqliteLog(place / "log.db")
        store = Store(f"file://{place / 'out'}")
        (place / "started").touch()
        await Publisher(log, store, flush_s=0.02, grace_s=0.05).run()

    asyncio.run(main())


def _minutes(day: int, count: int) -> Sequence[int]:
    return range(at(f"2026-11-{day:02} 00:00"), at(f"2026-11-{day:02} 00:00") + 60 * count, 60)


async def test_kill_9_at_random_moments(log: Log, tmp_path: Path) -> None:
    seed = int(os.environ.get("PERPFLOW_SEED", "7"))
    chance = random.Random(seed)
    store = Store(f"file://{tmp_path / 'out'}")
    symbols = [BTC, ETH]
    expected: list[int] = []
    kills = days = 0

    async def feed() -> None:
        nonlocal days
        while kills < KILLS and days < 28:
            days += 1
            for start in _minutes(days, 8):
                expected.append(start)
                for dataset, partition in (("ohlcv", 0), ("flow", 1)):
                    await log.append([bars([start], symbols, dataset=dataset, partition=partition)])
                await asyncio.sleep(0.03)  # the load's pace, not a condition
            await log.append([closed(f"2026-11-{days:02}", symbols, partition=p) for p in (0, 1)])

    feeding = asyncio.create_task(feed())
    while kills < KILLS:
        process = _SPAWN.Process(target=_publish_forever, args=(tmp_path,), daemon=True)
        process.start()
        await until((tmp_path / "started").exists)
        (tmp_path / "started").unlink()
        await asyncio.sleep(chance.uniform(0, 0.8))  # the random moment, not a condition
        assert process.exitcode is None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.join)
        kills += 1
        for dataset in ("ohlcv", "flow"):
            seen = starts(store, series(dataset=dataset))
            assert len(seen) == len(set(seen))
    await feeding
    await publish(log, store, grace_s=0)
    for symbol in symbols:
        for dataset in ("ohlcv", "flow"):
            of = series(symbol, dataset)
            assert starts(store, of) == expected, f"seed {seed}"
            assert len(month_days(store, of, "2026-11")) == days
    assert store.list("metrics_open") == []


async def test_many_files_in_a_flush_leave_the_loop_free(log: Log, files: Store) -> None:
    symbols = [f"perpetual-{chr(65 + i % 26)}{i}-USDT:USDT" for i in range(175)]
    await log.append(
        [
            bars([MIDNIGHT], symbols, dataset=dataset, clock=clock)
            for dataset in ("ohlcv", "flow")
            for clock in ("true", "exchange")
        ]
    )
    gaps: list[float] = []

    async def watch() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - begun)

    watching = asyncio.create_task(watch())
    await publish(log, files)
    watching.cancel()
    assert len(files.list("metrics_open")) == 700
    # A median, because a busy machine may stop the whole process for a while.
    assert len(gaps) > 10
    assert median(gaps) < 0.1


async def test_write_fold_and_discard_on_every_store(log: Log, store: Store) -> None:
    await log.append([bars([MIDNIGHT - 60, MIDNIGHT], [BTC, ETH]), closed("2026-11-20")])
    for _ in range(2):
        await publish(log, store, grace_s=0)
        for symbol in (BTC, ETH):
            assert starts(store, series(symbol)) == [MIDNIGHT - 60, MIDNIGHT]
    days = [(BTC, 21), (ETH, 20), (ETH, 21)]
    assert store.list("metrics_open") == [
        part_key(series(symbol), date(2026, 11, day)) for symbol, day in days
    ]
