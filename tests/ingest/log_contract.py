"""What the tests of the log's contract share: a log of every implementation, and its records."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from zlib import crc32

import pytest

from ingest.log import Log, NewRecord
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.log.sqlite import SqliteLog

Open = Callable[[], Awaitable[Log]]
DEADLINE_S = 30.0
TOPICS = {"ticks": 2, "bars": 2}


def open_log(kind: str, place: Path) -> Log:
    """A log of that implementation; the same `place` is the same log, in any process."""
    if kind == "sqlite":
        return SqliteLog(place / "log.db")
    # Every test has topics of its own on one broker.
    prefix = f"contract-{crc32(bytes(place)):08x}."
    return KafkaLog(KafkaOptions(kind.removeprefix("kafka "), prefix))


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.xdist_group("kafka"))])
def kind(request: pytest.FixtureRequest) -> str:
    """ "sqlite", or "kafka" and the broker's address."""
    if request.param == "sqlite":
        return "sqlite"
    return f"kafka {request.getfixturevalue('kafka').servers}"


@pytest.fixture
async def another(kind: str, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one more client of the same log."""
    opened: list[Log] = []

    async def open_one() -> Log:
        log = open_log(kind, tmp_path)
        opened.append(log)
        return log

    yield open_one
    for log in opened:
        await log.close()


@pytest.fixture
async def log(another: Open) -> Log:
    log = await another()
    await log.create(TOPICS)
    return log


def record(value: bytes | str, topic: str = "ticks", partition: int = 0) -> NewRecord:
    value = value.encode() if isinstance(value, str) else value
    return NewRecord(topic, partition, value, {"type": "test", "seq": "7"})


async def values(log: Log, topic: str = "ticks", partition: int = 0, offset: int = 0) -> list[str]:
    found = []
    while batch := await log.read(topic, partition, offset):
        found += [r.value.decode() for r in batch]
        offset = batch[-1].offset + 1
    return found
