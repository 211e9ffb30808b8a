"""The publisher, ended at any moment: every bar is in the files once."""

import asyncio
import multiprocessing
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ingest.log import Log
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC
from publish.partitions import month_days
from publish.publisher import Publisher
from publish.store import Store
from tests.publish.bars import BTC, ETH, at, bars, closed, series
from tests.publish.publishing import MIDNIGHT, FailingStore, publish, starts
from tests.publish.waiting import until

KILLS = 8
_SPAWN = multiprocessing.get_context("spawn")


class Crash(Exception):
    """The process ends here."""


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create({BARS_TOPIC: 2})
    yield log
    await log.close()


async def test_a_crash_between_any_two_steps(log: Log, tmp_path: Path) -> None:
    """Before and after each change of the store: write, fold, discard; then a new process."""
    edge = [MIDNIGHT - 60, MIDNIGHT]
    await log.append([bars([MIDNIGHT - 120], [BTC, ETH]), closed("2026-11-19", [BTC, ETH])])
    script = [bars(edge, [BTC, ETH]), closed("2026-11-20", [BTC, ETH]), bars([MIDNIGHT - 30])]
    expected = {BTC: sorted([MIDNIGHT - 120, MIDNIGHT - 30, *edge]), ETH: [MIDNIGHT - 120, *edge]}
    await log.append(script)

    # A clock that stands, as fixed files are named by it.
    options: Any = {"grace_s": 0, "workers": 1, "now": lambda: 1000.0}

    async def attempt(out: Path, group: str, crash_at: int, after: bool) -> int:
        def fail(number: int, done: bool) -> None:
            if number == crash_at and done == after:
                raise Crash

        store = FailingStore(f"file://{out}", fail)
        # Two flushes: what is folded by one is discarded by the next.
        for _ in range(2):
            await publish(log, store, group=group, **options)
        return store.operations

    steps = await attempt(tmp_path / "whole", "whole", 0, False)
    # Four parts, two folds of two steps, two leases let go, two deletions.
    assert steps == 12
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
            await publish(log, store, group=name, **options)
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
