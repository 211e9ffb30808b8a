"""One process an identity: a collector is refused while another goes on under its id."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingest.identity import IdentityInUse, nobody_else
from ingest.log import Log, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import LOCAL_TS, PUNCTUATION, SESSION_END, TICK_TOPICS, TRADES_TOPIC, Source

EVERY_MS = 50.0
MINE = Source("okx-perps", "okx-perps", "c1", "2")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys(TICK_TOPICS, 1))
    yield log
    await log.close()


def record(kind: str, **other: str) -> NewRecord:
    of = {"exchange": "okx-perps", "shard": "okx-perps", "collector": "c1", "session": "1", **other}
    headers = Source(**of).headers(kind, 0, **{LOCAL_TS: "100"})
    return NewRecord(TRADES_TOPIC, 0, b"", headers)


async def promising(log: Log, **other: str) -> None:
    while True:
        await log.append([record(PUNCTUATION, **other)])
        await asyncio.sleep(EVERY_MS / 1e3)


async def test_who_is_alive_is_not_replaced(log: Log) -> None:
    await log.append([record(PUNCTUATION)])
    other = asyncio.create_task(promising(log))
    with pytest.raises(IdentityInUse, match="another process collects okx-perps as 'c1'"):
        await nobody_else(log, MINE, EVERY_MS)
    other.cancel()
    began = time.monotonic()
    await nobody_else(log, MINE, EVERY_MS)  # it was killed: nothing follows
    assert time.monotonic() - began >= 5 * EVERY_MS / 1e3


async def test_nobody_is_waited_for_without_need(log: Log) -> None:
    an_hour = 3_600_000.0  # so long a promise of a living session would be waited for
    async with asyncio.timeout(30):
        await nobody_else(log, MINE, an_hour)
        await log.append([record(PUNCTUATION), record(SESSION_END)])
        await nobody_else(log, MINE, an_hour)
        await log.append([record(PUNCTUATION, collector="c2")])
        await log.append([record(PUNCTUATION, exchange="binance-futures")])
        await nobody_else(log, MINE, an_hour)


async def test_another_collector_beside_it_says_nothing_of_this_one(log: Log) -> None:
    await log.append([record(PUNCTUATION)])
    other = asyncio.create_task(promising(log, collector="c2"))
    await nobody_else(log, MINE, EVERY_MS)
    other.cancel()
