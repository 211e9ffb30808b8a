"""The publisher: every bar on the log is in the files once, whatever happened on the way."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from ingest.log import Fenced, Log, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC
from publish import partitions
from publish.layout import fixed_prefix, month_key, part_key
from publish.partitions import month_days, read_series, served_files, write_month
from publish.publisher import Publisher
from publish.store import Store, StoreError
from tests.publish.bars import BTC, ETH, bars, closed, series
from tests.publish.publishing import DAY, MIDNIGHT, FailingStore, publish, starts
from tests.publish.waiting import DEADLINE_S, until


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create({BARS_TOPIC: 2})
    yield log
    await log.close()


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'out'}")


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
    monkeypatch.setattr("publish.retries.STOP_S", 1.0)

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


async def test_1s_bars_are_kept_by_the_hour_until_their_day_is_over(log: Log, files: Store) -> None:
    of = series(interval="1s")
    edge = [MIDNIGHT - 3601, MIDNIGHT - 3600, MIDNIGHT - 1, MIDNIGHT]
    await log.append([bars(edge, interval="1s")])
    await publish(log, files)
    hours = [part_key(of, DAY, 22), part_key(of, DAY, 23), part_key(of, date(2026, 11, 21), 0)]
    assert files.list("metrics_open") == hours
    assert [file.key for file in served_files(files, of)] == hours
    await log.append([bars([MIDNIGHT - 2], interval="1s"), closed("2026-11-20")])
    await publish(log, files)
    [fixed] = files.list(fixed_prefix(of, 2026, 11))
    assert [file.key for file in served_files(files, of)] == [fixed, hours[2]]
    assert files.get(fixed) == files.get(month_key(of, 2026, 11))
    await publish(log, files, grace_s=0)
    assert files.list("metrics_open") == hours[2:]
    assert starts(files, of) == sorted([*edge, MIDNIGHT - 2])


async def test_intervals_that_are_flushed_less_often_are_lost_by_no_kill(
    log: Log, files: Store
) -> None:
    options = {"flush_s": 0.05, "flush_by_interval": {"1s": 3600.0}}
    running = asyncio.create_task(Publisher(log, files, **options).run())
    second, minute = series(interval="1s"), series()
    await log.append([bars([MIDNIGHT], interval="1s"), bars([MIDNIGHT])])
    await until(lambda: starts(files, second) == [MIDNIGHT])  # the first of all is due at once
    await log.append([bars([MIDNIGHT + 1], interval="1s"), bars([MIDNIGHT + 60])])
    await log.append([bars([MIDNIGHT + 120]), bars([MIDNIGHT + 120], partition=1)])
    await until(lambda: starts(files, minute) == [MIDNIGHT, MIDNIGHT + 60, MIDNIGHT + 120])
    assert starts(files, second) == [MIDNIGHT]
    committed = await log.committed("publisher")
    assert committed[BARS_TOPIC, 0] == 2  # where the unwritten second is
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await publish(log, files)
    assert starts(files, second) == [MIDNIGHT, MIDNIGHT + 1]
    assert starts(files, minute) == [MIDNIGHT, MIDNIGHT + 60, MIDNIGHT + 120]


async def test_a_day_that_is_over_writes_every_interval(log: Log, files: Store) -> None:
    publisher = Publisher(log, files, flush_s=0.05, flush_by_interval={"1s": 3600.0})
    running = asyncio.create_task(publisher.run())
    await log.append([bars([MIDNIGHT - 2], interval="1s")])
    await until(lambda: starts(files, series(interval="1s")) == [MIDNIGHT - 2])
    await log.append([bars([MIDNIGHT - 1], interval="1s"), closed("2026-11-20")])
    month = ["2026-11-20"]
    await until(lambda: month_days(files, series(interval="1s"), "2026-11") == month)
    assert starts(files, series(interval="1s")) == [MIDNIGHT - 2, MIDNIGHT - 1]
    publisher.stop()
    await running


async def test_new_bars_do_not_wait_for_folds_and_a_kill_forgets_none(
    log: Log, files: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publish.retries.RETRY_S", (0.01, 0.01))
    symbols = [f"perpetual-{i}-USDT:USDT" for i in range(4)]
    fold, folded = partitions.fold, []

    def slow(*arguments: Any) -> Any:
        if len(folded) < 2:
            time.sleep(0.3)
            folded.append(arguments[2])
            return fold(*arguments)
        raise StoreError("s3 is away")  # the rest never get done here

    monkeypatch.setattr("publish.open_days.fold", slow)
    running = asyncio.create_task(Publisher(log, files, flush_s=0.2, workers=1).run())
    await log.append([bars([MIDNIGHT - 60], symbols), closed("2026-11-20", symbols)])
    await until(lambda: len(folded) == 1)
    await log.append([bars([MIDNIGHT], symbols)])
    await until(lambda: starts(files, series(symbols[3])) == [MIDNIGHT - 60, MIDNIGHT])
    assert (await log.committed("publisher"))[BARS_TOPIC, 0] == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    monkeypatch.undo()
    await publish(log, files)
    for symbol in symbols:
        assert month_days(files, series(symbol), "2026-11") == ["2026-11-20"]
        assert starts(files, series(symbol)) == [MIDNIGHT - 60, MIDNIGHT]
    assert (await log.committed("publisher"))[BARS_TOPIC, 0] == 3


async def test_a_stop_leaves_to_the_next_start_what_takes_too_long(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow store and many files: the stop is in time, and no bar is lost or twice."""
    monkeypatch.setattr("publish.retries.STOP_S", 0.3)
    url = f"file://{tmp_path / 'out'}"
    symbols = [BTC.replace("BTC", f"S{i:02}") for i in range(40)]
    await log.append([bars([MIDNIGHT, MIDNIGHT + 60], symbols)])

    def slow(number: int, done: bool) -> None:
        time.sleep(0 if done else 0.05)  # what a store takes

    with capture_logs() as said:
        await publish(log, FailingStore(url, slow), workers=2)
    assert [line["event"] for line in said] == ["stopped before all bars were in files"]
    files = Store(url)
    assert len(files.list("metrics_open")) < len(symbols)
    monkeypatch.setattr("publish.retries.STOP_S", 120.0)
    await publish(log, files)
    for symbol in symbols:
        assert starts(files, series(symbol)) == [MIDNIGHT, MIDNIGHT + 60]
