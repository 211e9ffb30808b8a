"""From the bars topic to subscribers: what is there already for snapshots, the rest live."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest.log import Log, LogError, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC
from publish.stream import feed as feeds
from publish.stream.feed import Feed
from publish.stream.hub import Hub, Row
from tests.publish.bars import BTC, ETH, bars, closed, value_of

CHANNEL = "ohlcv.binance-futures.1m"
DEADLINE_S = 30.0


class Seen(Hub):
    """What was published to it, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool, dict[str, Any]]] = []

    def publish(self, channel: str, rows: Any, *, live: bool = True) -> None:
        self.seen += [(channel, live, json.loads(row.data)) for row in rows]
        super().publish(channel, rows, live=live)


@asynccontextmanager
async def feeding(log: Log) -> AsyncIterator[Seen]:
    hub = Seen()
    task = asyncio.create_task(Feed(log, hub).run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield hub
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (polled with a deadline)
        await asyncio.sleep(0.005)


async def _log(tmp_path: Path, *records: NewRecord) -> SqliteLog:
    log = SqliteLog(tmp_path / "log.db")
    await log.create({BARS_TOPIC: 2})
    await log.append(records)
    return log


async def test_rows_of_the_true_clock_as_they_are_committed(tmp_path: Path) -> None:
    log = await _log(tmp_path, bars([0]))
    async with feeding(log) as hub:
        await until(lambda: len(hub.seen) == 1)
        await log.append(
            [
                bars([60], clock="exchange"),
                closed("1970-01-01"),
                bars([60, 120], [BTC, ETH], partition=1),
            ]
        )
        await until(lambda: len(hub.seen) == 5)
    assert [(c, live, row["symbol"], row["time"]) for c, live, row in hub.seen] == [
        (CHANNEL, False, BTC, 0),
        (CHANNEL, True, BTC, 60_000_000),
        (CHANNEL, True, BTC, 120_000_000),
        (CHANNEL, True, ETH, 60_000_000),
        (CHANNEL, True, ETH, 120_000_000),
    ]
    last = hub.seen[-1][2]
    assert last == {
        "symbol": ETH,
        "interval": "1m",
        "time": 120_000_000,
        "open": value_of(120, ETH),
        "volume": None,
    }
    await log.close()


async def test_a_record_that_cant_be_read_is_left_out(tmp_path: Path) -> None:
    log = await _log(tmp_path)
    async with feeding(log) as hub:
        good = bars([0])
        no_dataset = {name: of for name, of in good.headers.items() if name != "dataset"}
        broken = [(b"?", good.headers), (good.value, no_dataset)]
        await log.append([*(NewRecord(BARS_TOPIC, 0, *of) for of in broken), bars([60])])
        await until(lambda: len(hub.seen) == 1)
    await log.close()


async def test_a_log_that_fails_is_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = await _log(tmp_path, bars([0]))
    reading, failures = log.read, iter([True, True])

    async def failing(*args: Any, **more: Any) -> Any:
        if next(failures, False):
            raise LogError("not now")
        return await reading(*args, **more)

    monkeypatch.setattr(feeds, "_RETRY_S", 0.01)
    monkeypatch.setattr(log, "read", failing)
    async with feeding(log) as hub:
        await until(lambda: len(hub.seen) == 1)
    await log.close()


def test_a_hub_remembers_only_the_latest_row_of_a_symbol() -> None:
    hub = Hub()
    for time in range(100):
        hub.publish(CHANNEL, [Row(BTC, b"%d" % time)])
    assert hub._latest == {CHANNEL: {BTC: b"99"}}
