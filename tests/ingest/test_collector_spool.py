"""A collector whose log is down when it stops or is killed: the next start appends what waited."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection

from ingest import collector as module
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE
from ingest.log import Record
from tests.ingest.collecting import (
    BadLog,
    acknowledge,
    assert_sessions_keep_their_promises,
    collected,
    instruments,
    trade,
    trade_ids,
    until,
    venue_server,
)

PARTITIONS = 2
DOWN = 1 << 30


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[BadLog]:
    log = BadLog(str(tmp_path / "log.db"))
    yield log
    log.open.set()
    await log.close()


def by_session(part: list[Record]) -> list[list[Record]]:
    """A partition's records by session, which must follow one another."""
    order = [record.headers["session"] for record in part]
    assert order == sorted(order)
    return [[r for r in part if r.headers["session"] == s] for s in dict.fromkeys(order)]


async def test_stop_with_the_log_down_leaves_everything_to_the_next_start(
    log: BadLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_S", 600.0)  # it must not wait for that
    sent = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal sent
        await acknowledge(connection)
        for _ in range(500):
            sent += 1
            await connection.send(trade(sent), text=True)
        await connection.wait_closed()

    spool_dir = tmp_path / "spool"
    async with venue_server(handler) as port:
        settings = CollectorSettings(BINANCE, ws_url=f"ws://127.0.0.1:{port}", spool_dir=spool_dir)
        with capture_logs() as told:
            first = Collector(settings, instruments(), log, PARTITIONS, ArrivalClock())
            running = asyncio.create_task(first.run())
            await until(lambda: first.subscribed)
            log.failures = DOWN
            await until(lambda: first.ticks == 500)
            await until(lambda: first._appender.failing)
            await first.stop()
            await running
        (left,) = (e for e in told if "the next start appends the rest" in e["event"])
        assert left["records"] == first._appender.spooled > 0
        assert left["spool"] == str(spool_dir / f"{BINANCE}.c1")
        assert not any("records_lost" in e for e in told)
        log.failures = 0
        second = Collector(settings, instruments(), log, PARTITIONS, ArrivalClock())
        running = asyncio.create_task(second.run())
        await until(lambda: second.ticks == 500)
        await second.stop()
        await running
    records = await collected(log, PARTITIONS)
    # Of the first session all ids, then of the second: `row` starts anew in each.
    first_part = [r for part in records.values() for r in by_session(part)[0]]
    assert trade_ids({("", 0): first_part}) == list(range(1, 501))
    for part in records.values():
        sessions = by_session(part)
        assert len(sessions) == 2
        for mine in sessions:
            assert_sessions_keep_their_promises(mine)
