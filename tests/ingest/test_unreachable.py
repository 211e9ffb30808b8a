"""Collectors whose venue or log can't be reached: one readable line, and they keep trying."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection

from ingest import feed as feeds
from ingest import line as lines
from ingest import log_wait
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE
from ingest.log import LogError, TopicMismatch
from ingest.log.sqlite import SqliteLog
from ingest.records import GapRecord
from tests.ingest.collecting import (
    acknowledge,
    collected,
    instruments,
    trade,
    trade_ids,
    until,
    venue_server,
)

PARTITIONS = 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(feeds, "MAX_DELAY_S", 0.05)
    monkeypatch.setattr(feeds, "STABLE_S", 0.2)
    monkeypatch.setattr(lines, "CHECK_S", 0.02)
    monkeypatch.setattr(lines, "OPEN_S", 0.1)
    monkeypatch.setattr(log_wait, "FIRST_DELAY_S", 0.02)
    monkeypatch.setattr(log_wait, "MAX_DELAY_S", 0.05)


class Down(SqliteLog):
    """A log that can't be reached while `down`."""

    down = True
    asked = 0

    async def create(self, topics: "dict[str, int]") -> None:  # type: ignore[override]
        self.asked += 1
        if self.down:
            raise LogError("log: connection refused")
        await super().create(topics)


@contextmanager
def refusing() -> Iterator[int]:
    with socket.socket() as taken:  # bound and not listening
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def hanging() -> Iterator[int]:
    """Connections are taken by the kernel, and nobody ever answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(128)
        yield taken.getsockname()[1]


@contextmanager
def timing_out() -> Iterator[int]:
    """A full backlog: not even the connection comes about."""
    with socket.socket() as taken, socket.socket() as first, socket.socket() as second:
        taken.bind(("127.0.0.1", 0))
        taken.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(taken.getsockname())
        yield taken.getsockname()[1]


@asynccontextmanager
async def collecting(log: SqliteLog, port: int) -> AsyncIterator[Collector]:
    settings = CollectorSettings(BINANCE, ws_url=f"ws://127.0.0.1:{port}")
    collector = Collector(settings, instruments(), log, PARTITIONS, ArrivalClock())
    running = asyncio.create_task(collector.run())
    try:
        yield collector
    finally:
        await collector.stop()
        await running


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (refusing, "Connection refused"),
        (hanging, "no answer in 0.1 s"),
        (timing_out, "no answer in 0.1 s"),
    ],
)
async def test_a_venue_that_cant_be_reached_is_told_once_and_tried_again(
    address: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(tmp_path / "log.db")
    tried = 0
    connecting = lines.Limiter.connecting

    async def counted(limiter: lines.Limiter) -> None:
        nonlocal tried
        tried += 1
        await connecting(limiter)

    monkeypatch.setattr(lines.Limiter, "connecting", counted)
    with address() as port, capture_logs() as told:  # type: ignore[operator]
        async with collecting(log, port) as collector:
            await until(lambda: tried > 5)
            assert not collector.subscribed
    await log.close()
    (line,) = [e for e in told if e["log_level"] != "info"]
    assert line["event"] == "not connected, trying again"
    assert line["exchange"] == BINANCE
    assert line["reason"] == f"can't connect to ws://127.0.0.1:{port}: {reason}"


async def test_it_is_told_when_the_venue_is_there_again(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")

    async def handler(connection: ServerConnection) -> None:
        await acknowledge(connection)
        await connection.wait_closed()

    with refusing() as port:
        pass
    with capture_logs() as told:
        async with collecting(log, port) as collector:
            await until(lambda: bool(told))
            async with venue_server(handler, port):
                await until(lambda: collector.subscribed)
                await until(lambda: any(e["event"] == "connected again" for e in told))
                events = [e["event"] for e in told]
    await log.close()
    assert events.count("not connected, trying again") == 1
    assert events.index("subscribed") < events.index("connected again")


async def test_a_connection_that_keeps_falling_over_is_one_trouble(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    connections = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await acknowledge(connection)
        connection.transport.abort()

    with capture_logs() as told:
        async with venue_server(handler) as port, collecting(log, port):
            await until(lambda: connections > 8)
    await log.close()
    assert sum(e["event"] == "not connected, trying again" for e in told) <= 2  # both ways it ends
    assert not any(e["event"] == "connected again" for e in told)


async def test_a_log_that_is_down_at_the_start_is_waited_for_and_what_is_missed_is_a_gap(
    tmp_path: Path,
) -> None:
    sent = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal sent
        await acknowledge(connection)
        for _ in range(20):
            sent += 1
            await connection.send(trade(sent), text=True)
        await connection.wait_closed()

    async with venue_server(handler) as port:
        log = Down(tmp_path / "log.db")
        log.down = False
        async with collecting(log, port) as first:
            await until(lambda: first.ticks == 20)
        sent += 30  # trades while no collector can write
        log.down = True
        log.asked = 0
        with capture_logs() as told:
            async with collecting(log, port) as second:
                await until(lambda: log.asked > 5)
                assert second.ticks == 0
                log.down = False
                await until(lambda: second.ticks == 20)
        (said,) = (e for e in told if "the log can't be reached" in e["event"])
        assert said["reason"] == "log: connection refused"
        assert any(e["event"] == "the log is there again" for e in told)
        records = await collected(log, PARTITIONS)
        gaps = [
            GapRecord.decode(r.value)
            for part in records.values()
            for r in part
            if r.headers["type"] == "gap"
        ]
        await log.close()
    assert sorted(trade_ids(records)) == [*range(1, 21), *range(51, 71)]
    assert [(g.first_missing, g.last_missing, g.reason) for g in gaps] == [(21, 50, "restart")]


async def test_a_stop_while_the_log_is_waited_for_is_immediate(tmp_path: Path) -> None:
    log = Down(tmp_path / "log.db")
    async with collecting(log, 9):
        await until(lambda: log.asked > 0)
    await log.close()


async def test_a_log_with_other_partitions_is_refused(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    await log.create({"ticks.trades": PARTITIONS + 1})
    settings = CollectorSettings(BINANCE, ws_url="ws://127.0.0.1:9")
    with pytest.raises(TopicMismatch):
        await Collector(settings, instruments(), log, PARTITIONS, ArrivalClock()).run()
    await log.close()
