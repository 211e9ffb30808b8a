"""A store that fails between publisher and readers: what is in it in the end, and meanwhile."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC
from publish.publisher import Publisher
from publish.store import Store, StoreError
from tests.publish.conftest import *  # noqa: F403 (the S3 server)
from tests.publish.faulty_proxy import KINDS, FaultyProxy
from tests.publish.rounds import all_series, contents, polled, round_of, served
from tests.publish.waiting import until

ROUNDS = 4
SEEDS = [(20261121, 2), *(pytest.param(n, ROUNDS, marks=pytest.mark.nightly) for n in range(1, 11))]
"""And how many rounds: four take some minutes."""


async def publish_rounds(log: SqliteLog, store: Store, rounds: int = ROUNDS) -> None:
    """Days of bars appended one after the other and published, each before the next."""
    await log.create({BARS_TOPIC: 2})
    publisher = Publisher(log, store, flush_s=0.02, grace_s=60)
    running = asyncio.create_task(publisher.run())
    for number in range(rounds):
        await log.append(round_of(number))
        ends = {(BARS_TOPIC, p): (await log.bounds(BARS_TOPIC, p))[1] for p in (0, 1)}
        while await log.committed("publisher") != ends:
            assert not running.done(), running.exception()
            await asyncio.sleep(0.01)
    publisher.stop()
    await running


async def discard_parts(log: SqliteLog, store: Store, direct: Store) -> None:
    """Let a next publisher, which leaves no grace, delete the parts of what was folded."""
    publisher = Publisher(log, store, flush_s=0.02, grace_s=0)
    running = asyncio.create_task(publisher.run())
    await until(lambda: not direct.list("metrics_open"))
    publisher.stop()
    await running


async def publish_whole(place: Path, rounds: int = ROUNDS) -> Store:
    """What is published without a fault."""
    store = Store(f"file://{place}/whole")
    log = SqliteLog(place / "whole.db")
    await publish_rounds(log, store, rounds)
    await discard_parts(log, store, store)
    await log.close()
    return store


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    await log.close()


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publish.retries.RETRY_S", (0.02, 0.1))
    config = {"connect_timeout": 1, "read_timeout": 1, "retries": {"total_max_attempts": 1}}
    monkeypatch.setattr("publish.store._S3_CONFIG", config)


@pytest.mark.parametrize(("seed", "rounds"), SEEDS)
@pytest.mark.usefixtures("quick_retries")
async def test_s3_that_fails_in_every_way_ends_with_the_same_files(
    tmp_path: Path, log: SqliteLog, s3_bucket: str, s3_endpoint: str, seed: int, rounds: int
) -> None:
    print(f"seed {seed}")
    whole = await publish_whole(tmp_path, rounds)
    direct = Store(f"{s3_bucket}/out", endpoint_url=s3_endpoint)
    with FaultyProxy(s3_endpoint, seed=seed, share=0.12) as proxy:
        store = Store(f"{s3_bucket}/out", endpoint_url=proxy.url)
        with polled(direct, all_series()) as looks:
            await publish_rounds(log, store, rounds)
        await discard_parts(log, store, direct)
    assert set(proxy.injected) == set(KINDS), proxy.injected
    assert sum(proxy.injected.values()) > 30
    assert looks[0] > 3
    assert contents(direct) == contents(whole)


def columns_of(store: Store) -> dict[str, set[tuple[str, ...]]]:
    """The columns that each series' files have."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for key, (names, _) in contents(store).items():
        of = key.partition("/year=")[0].replace("metrics_open/", "metrics/")
        found.setdefault(of, set()).add(tuple(names))
    return found


async def test_a_series_files_have_one_set_of_columns_once_a_column_was_added(
    tmp_path: Path,
) -> None:
    every = columns_of(await publish_whole(tmp_path))
    assert len(every) == 4
    for of, columns in every.items():
        assert columns == {("time", "open", "volume", "trades")}, of


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.usefixtures("quick_retries")
async def test_a_full_disk_is_told_and_waited_for(
    tmp_path: Path, log: SqliteLog, small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = await publish_whole(tmp_path)
    store = Store(f"file://{small_disk}/out")
    ballast = small_disk / "ballast"
    fill(ballast)
    with pytest.raises(StoreError, match=r"can't write a/b: .*No space left on device"):
        store.put("a/b", bytes(1 << 16))
    with polled(store, all_series()):
        publishing = asyncio.create_task(publish_rounds(log, store))
        seen = ""

        def told() -> bool:
            nonlocal seen
            seen += "".join(capfd.readouterr())
            return "No space left on device" in seen

        await until(told)
        assert not publishing.done()
        assert all(served(store, of) == [] for of in all_series())
        ballast.unlink()
        await publishing
    await discard_parts(log, store, store)
    assert contents(store) == contents(whole)


def fill(path: Path) -> None:
    """Leave no room on the file system."""
    with path.open("wb", buffering=0) as sink, suppress(OSError):
        while True:
            sink.write(bytes(1 << 12))
