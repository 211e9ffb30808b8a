"""Publisher and archive together, as `perpflow publish` and `run` have them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from ingest import records
from ingest.log import Fenced, Log, LogError
from ingest.log.sqlite import SqliteLog
from publish import publishing
from publish.archive import GROUP
from publish.publishing import Publishing
from publish.settings import Settings
from publish.store import Store
from tests.publish.bars import bars, series
from tests.publish.publishing import MIDNIGHT, starts
from tests.publish.ticks_on_log import NS, Collector
from tests.publish.waiting import DEADLINE_S, until


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys((*records.TICK_TOPICS, records.BARS_TOPIC), 2))
    await log.append([bars([MIDNIGHT]), Collector().trades([MIDNIGHT * NS], [1])])
    yield log
    await log.close()


def made(log: Log, tmp_path: Path, **publish: object) -> Publishing:
    settings = Settings.model_validate({"publish": {"flush": "100ms", **publish}})
    return Publishing(settings, log, Store(f"file://{tmp_path}/out"))


async def run_once(part: Publishing) -> None:
    """Until it has caught up with the log."""
    running = asyncio.create_task(part.run())
    await until(lambda: part.caught_up)
    part.stop()
    await asyncio.wait_for(running, DEADLINE_S)


async def test_bars_and_ticks_are_in_files_after_a_stop(log: Log, tmp_path: Path) -> None:
    await run_once(made(log, tmp_path))
    store = Store(f"file://{tmp_path}/out")
    assert starts(store, series()) == [MIDNIGHT]
    assert len(store.list("raw_open/trades")) == 1
    assert (await log.committed(GROUP))[records.TRADES_TOPIC, 0] == 1
    for topic in (*records.TICK_TOPICS, records.BARS_TOPIC):
        for unit in ("records", "seconds"):
            assert REGISTRY.get_sample_value(f"perpflow_publish_lag_{unit}", {"topic": topic}) == 0


async def test_without_the_archive_ticks_are_neither_kept_nor_held_on_the_log(
    log: Log, tmp_path: Path
) -> None:
    await run_once(made(log, tmp_path))  # its place on the log would hold retention
    await log.append([Collector(session="2").trades([MIDNIGHT * NS], [2])])
    await run_once(made(log, tmp_path, raw=False))
    await log.append([Collector(session="3").trades([MIDNIGHT * NS], [3])])
    assert await log.retain(records.TRADES_TOPIC, max_bytes=0) == 3
    assert len(Store(f"file://{tmp_path}/out").list("raw_open")) == 1


async def test_where_one_half_is_replaced_both_stop(log: Log, tmp_path: Path) -> None:
    first = made(log, tmp_path)
    running = asyncio.create_task(first.run())
    await until(lambda: first.caught_up)
    await log.acquire("publisher", 0)
    await log.append([bars([MIDNIGHT + 60])])
    with pytest.raises(Fenced):
        await asyncio.wait_for(running, DEADLINE_S)


async def test_a_log_that_fails_is_published_from_anew(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RETRY_S", (0.01, 0.05))
    committing, reading = log.commit, log.read
    failures = [False, True, False, True, True]  # of what is asked of it, the last one first

    async def commit(*args: object, **more: object) -> None:
        if failures and failures.pop():
            raise LogError("not now")
        await committing(*args, **more)  # type: ignore[arg-type]

    async def read(*args: object, **more: object) -> object:
        if failures and failures.pop():
            raise LogError("not now")
        return await reading(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(log, "commit", commit)
    monkeypatch.setattr(log, "read", read)
    part = made(log, tmp_path)
    running = asyncio.create_task(part.run())
    await until(lambda: not failures and part.caught_up)
    await log.append([bars([MIDNIGHT + 60])])
    store = Store(f"file://{tmp_path}/out")
    await until(lambda: starts(store, series()) == [MIDNIGHT, MIDNIGHT + 60])
    part.stop()
    await asyncio.wait_for(running, DEADLINE_S)
    assert len(store.list("raw_open/trades")) == 1
