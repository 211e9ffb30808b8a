"""kill -9 of the publisher at named points: its files are those of an uninterrupted run."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC
from publish.publisher import Publisher
from publish.store import Store
from tests.publish.conftest import *  # noqa: F403 (the S3 server)
from tests.publish.killed_publisher import DISCARD_POINTS, POINTS, publish_until_killed
from tests.publish.rounds import WIDER_FROM, all_series, contents, polled, round_of
from tests.publish.waiting import until

CASES = [
    ("file", 7),
    *(
        pytest.param(kind, seed, marks=pytest.mark.nightly)
        for kind in ("file", "s3")
        for seed in range(1, 11)
    ),
]
FILE_ONLY = "after a file is renamed"
WIDEN = "while files are given a new column"


async def publish_to_the_end(log: SqliteLog, store: Store, grace_s: float) -> None:
    publisher = Publisher(log, store, flush_s=0.02, grace_s=grace_s)
    running = asyncio.create_task(publisher.run())
    ends = {(BARS_TOPIC, p): (await log.bounds(BARS_TOPIC, p))[1] for p in (0, 1)}
    while await log.committed("publisher") != ends:
        assert not running.done(), running.exception()
        await asyncio.sleep(0.01)
    if not grace_s:
        await until(lambda: not store.list("metrics_open"))
    publisher.stop()
    await running


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create({BARS_TOPIC: 2})
    yield log
    await log.close()


def points_of(seed: int, on_s3: bool) -> list[tuple[str, int]]:
    """The named points in an order that the seed gives, and which time they are reached."""
    chance = random.Random(seed)
    names = [name for name in POINTS if name != WIDEN and not (on_s3 and name == FILE_ONLY)]
    chance.shuffle(names)
    names.insert(WIDER_FROM, WIDEN)  # there is a new column that day
    return [(name, chance.randint(1, 3)) for name in names]


@pytest.mark.parametrize(("kind", "seed"), CASES)
async def test_killed_at_named_points(
    tmp_path: Path, log: SqliteLog, request: pytest.FixtureRequest, kind: str, seed: int
) -> None:
    print(f"seed {seed}")
    url, endpoint = f"file://{tmp_path}/out", None
    if kind == "s3":
        url = f"{request.getfixturevalue('s3_bucket')}/out"
        endpoint = request.getfixturevalue("s3_endpoint")
    store = Store(url, endpoint_url=endpoint)
    points = points_of(seed, kind == "s3")
    with polled(store, all_series()) as looks:
        for day, (point, number) in enumerate(points):
            if point == WIDEN:  # of the days before there must be files
                await publish_to_the_end(log, store, 60)
            await log.append(round_of(day))
            code = await asyncio.to_thread(
                publish_until_killed, log.path, url, endpoint, point, number, 60.0
            )
            assert code == -signal.SIGKILL, f"not killed {point} ({number})"
        await publish_to_the_end(log, store, 60)
    assert looks[0] > 3
    for point in DISCARD_POINTS:
        code = await asyncio.to_thread(publish_until_killed, log.path, url, endpoint, point, 2, 0.0)
        assert code == -signal.SIGKILL, f"not killed {point}"
    await publish_to_the_end(log, store, 0)

    whole = Store(f"file://{tmp_path}/whole")
    other = SqliteLog(tmp_path / "whole.db")
    await other.create({BARS_TOPIC: 2})
    for day in range(len(points)):
        await other.append(round_of(day))
    await publish_to_the_end(other, whole, 0)
    await other.close()
    assert contents(store) == contents(whole)
