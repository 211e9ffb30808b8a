"""The contract of `ingest.log.Log` about records and readers, on every implementation.

Names say the failure that a test guards against.
"""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.log import Log, LogError, OffsetTrimmed, TopicMismatch
from tests.ingest import log_contract
from tests.ingest.log_contract import DEADLINE_S, TOPICS, Open, open_log, record, values

_SPAWN = multiprocessing.get_context("spawn")
kind, another, log = log_contract.kind, log_contract.another, log_contract.log


async def test_append_keeps_order_headers_and_bytes(log: Log) -> None:
    before = time.time_ns() // 1_000_000 * 1_000_000  # Kafka's clock has milliseconds
    await log.append([record("a"), record("x", partition=1), record("b"), record(b"\x00\xff")])
    read = await log.read("ticks", 0, 0)
    assert [r.value for r in read] == [b"a", b"b", b"\x00\xff"]
    assert [r.offset for r in read] == [0, 1, 2]
    assert {(r.topic, r.partition) for r in read} == {("ticks", 0)}
    assert read[0].headers == {"type": "test", "seq": "7"}
    assert before <= read[0].appended_ns <= time.time_ns()
    assert await values(log, partition=1) == ["x"]
    assert await log.bounds("ticks", 0) == (0, 3)
    assert await log.bounds("bars", 0) == (0, 0)


async def test_append_is_all_or_nothing(log: Log) -> None:
    with pytest.raises(LogError, match=r"no topic '.*nowhere'"):
        await log.append([record("a"), record("b", topic="nowhere")])
    with pytest.raises(LogError, match=r"no partition 2.*0\.\.1"):
        await log.append([record("a"), record("b", partition=2)])
    assert await values(log) == []
    await log.append([record("c")])
    assert [r.offset for r in await log.read("ticks", 0, 0)] == [0]


async def test_read_from_an_offset_and_at_the_end(log: Log) -> None:
    await log.append([record(str(i)) for i in range(10)])
    assert await values(log, offset=7) == ["7", "8", "9"]
    assert await log.read("ticks", 0, 10) == []
    assert await log.read("ticks", 1, 0) == []


async def test_an_offset_by_time_leaves_out_nothing_that_came_later(log: Log) -> None:
    assert await log.offset_at("ticks", 0, 0) == 0
    await log.append([record("a"), record("b")])
    await asyncio.sleep(0.002)  # Kafka's clock has milliseconds
    later = time.time_ns()
    assert await values(log, offset=await log.offset_at("ticks", 0, later)) == []
    await log.append([record("c"), record("d")])
    assert await values(log, offset=await log.offset_at("ticks", 0, later)) == ["c", "d"]
    first, *_ = await log.read("ticks", 0, 0)
    at = await log.offset_at("ticks", 0, first.appended_ns)
    assert await values(log, offset=at) == ["a", "b", "c", "d"]
    assert await log.offset_at("ticks", 1, 0) == 0
    with pytest.raises(LogError, match="other"):
        await log.offset_at("other", 0, 0)


async def test_read_stops_near_max_bytes_but_returns_one(log: Log) -> None:
    await log.append([record(b"x" * 1000) for _ in range(10)])
    assert len(await log.read("ticks", 0, 0, max_bytes=10)) == 1
    assert 2 <= len(await log.read("ticks", 0, 0, max_bytes=4000)) <= 4
    assert len(await log.read("ticks", 0, 0)) == 10


async def test_create_twice_is_harmless_and_another_count_is_refused(
    log: Log, another: Open
) -> None:
    await log.append([record("a")])
    await (await another()).create(TOPICS)
    assert await values(log) == ["a"]
    assert await log.partitions("ticks") == 2
    with pytest.raises(TopicMismatch, match="ticks has 2 partitions, not 3"):
        await log.create({"ticks": 3})
    with pytest.raises(LogError, match=r"no topic '.*nowhere'"):
        await log.partitions("nowhere")


async def test_reopened_log_has_everything(log: Log, another: Open) -> None:
    await log.append([record("a")])
    owner = await log.acquire("g", 0)
    await log.commit(owner, [record("b")], {"k": b"v"}, {("ticks", 0): 1})
    await log.close()
    again = await another()
    assert await values(again) == ["a", "b"]
    owner = await again.acquire("g", 0)
    assert (owner.state, owner.offsets) == ({"k": b"v"}, {("ticks", 0): 1})


async def test_retain_by_size_removes_from_the_front_only(log: Log) -> None:
    await log.append([record(b"%03d" % i + b"x" * 997) for i in range(10)])
    await log.append([record("kept", partition=1)])
    assert await log.retain("ticks", max_bytes=3500) == 7
    assert await log.bounds("ticks", 0) == (7, 10)
    assert [r.offset for r in await log.read("ticks", 0, 7)] == [7, 8, 9]
    assert await values(log, partition=1) == ["kept"]
    assert await log.retain("ticks", max_bytes=3500) == 0


async def test_retain_by_age(log: Log) -> None:
    await log.append([record("old")])
    await log.append([record("old too")])
    assert await log.retain("ticks", max_age_s=60) == 0
    assert await log.retain("ticks") == 0
    age_s = (time.time_ns() - (await log.read("ticks", 0, 1))[0].appended_ns) / 1e9
    assert await log.retain("ticks", max_age_s=age_s / 2) == 2
    assert await log.bounds("ticks", 0) == (2, 2)


async def test_offsets_are_not_reused_after_everything_was_removed(log: Log) -> None:
    await log.append([record("a"), record("b")])
    assert await log.retain("ticks", max_bytes=0) == 2
    await log.append([record("c")])
    assert [(r.offset, r.value) for r in await log.read("ticks", 0, 2)] == [(2, b"c")]
    with pytest.raises(OffsetTrimmed, match="ticks/0 begins at offset 2"):
        await log.read("ticks", 0, 1)


async def test_retain_spares_what_a_group_has_not_read(log: Log) -> None:
    await log.append([record(str(i)) for i in range(10)])
    slow, fast = await log.acquire("slow", 0), await log.acquire("fast", 0)
    await log.commit(slow, offsets={("ticks", 0): 4})
    await log.commit(fast, offsets={("ticks", 0): 9})
    assert await log.retain("ticks", max_bytes=0) == 4
    assert await log.bounds("ticks", 0) == (4, 10)
    await log.commit(slow, offsets={("ticks", 0): 10})
    assert await log.retain("ticks", max_age_s=0) == 5
    assert await values(log, offset=9) == ["9"]


async def test_retain_removes_more_than_one_step_holds(log: Log) -> None:
    await log.append([record("x") for _ in range(4500)])
    assert await log.retain("ticks", max_bytes=100) == 4400
    assert await log.bounds("ticks", 0) == (4400, 4500)


async def test_wait_returns_at_once_and_after_a_timeout(log: Log) -> None:
    await log.append([record("a")])
    assert await log.wait({("ticks", 0): 0, ("ticks", 1): 0}, 5)
    begun = time.monotonic()
    assert not await log.wait({("ticks", 0): 1}, 0.05)
    assert time.monotonic() - begun >= 0.05


async def test_wait_at_one_place_after_another(log: Log) -> None:
    assert not await log.wait({("ticks", 0): 0}, 0.01)
    await log.append([record("a"), record("b"), record("c")])
    for offset in (0, 2, 1):
        assert await log.wait({("ticks", 0): offset}, 5)
    assert not await log.wait({("ticks", 0): 3}, 0.01)
    assert not await log.wait({("ticks", 0): 9}, 0.01)
    assert await values(log, offset=1) == ["b", "c"]


async def test_what_comes_after_a_wait_is_read_with_what_was_waited_for(log: Log) -> None:
    waiting = asyncio.create_task(log.wait({("ticks", 0): 0}, DEADLINE_S))
    await log.append([record("a")])
    assert await waiting
    await log.append([record("b")])
    await asyncio.sleep(0.02)  # who waits for more asks again (`ingest.log.kafka.POLLED_S`)
    assert [r.value for r in await log.read("ticks", 0, 0)] == [b"a", b"b"]
    assert not await log.wait({("ticks", 0): 2}, 0.01)


async def test_wait_wakes_for_an_append_and_a_commit(log: Log) -> None:
    waiting = asyncio.create_task(log.wait({("ticks", 0): 0, ("bars", 1): 0}, DEADLINE_S))
    await log.append([record("elsewhere", partition=1)])
    await log.commit(await log.acquire("g", 0), [record("bar", "bars", 1)])
    assert await waiting


async def test_many_appends_at_once_lose_and_mix_nothing(log: Log) -> None:
    await asyncio.gather(
        *(log.append([record(f"{i}.{j}") for j in range(5)]) for i in range(50)),
    )
    found = await values(log)
    assert sorted(found) == sorted(f"{i}.{j}" for i in range(50) for j in range(5))
    for start in range(0, 250, 5):
        head = found[start].split(".")[0]
        assert found[start : start + 5] == [f"{head}.{j}" for j in range(5)]


async def test_close_twice_then_use(log: Log) -> None:
    await log.close()
    await log.close()
    with pytest.raises(LogError, match="closed"):
        await log.append([record("a")])


# Several processes on one log.


def _append_batches(kind: str, place: Path, name: str, batches: int) -> None:
    """In a process of its own: batches of three records, and a note on stdout for each."""

    async def main() -> None:
        log = open_log(kind, place)
        await log.create(TOPICS)
        for i in range(batches):
            await log.append([record(f"{name}.{i}.{j}", partition=i % 2) for j in range(3)])
            (place / f"{name}.acknowledged").write_text(str(i))

    asyncio.run(main())


def _writer(kind: str, place: Path, name: str, batches: int) -> multiprocessing.Process:
    process = _SPAWN.Process(target=_append_batches, args=(kind, place, name, batches), daemon=True)
    process.start()
    return process  # type: ignore[return-value]


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        await asyncio.sleep(0.005)


async def test_processes_that_create_and_append_at_once(
    kind: str, tmp_path: Path, another: Open
) -> None:
    writers = [_writer(kind, tmp_path, f"w{n}", 40) for n in range(3)]
    for writer in writers:
        await asyncio.to_thread(writer.join, DEADLINE_S)
        assert writer.exitcode == 0
    log = await another()
    for partition in (0, 1):
        found = await values(log, partition=partition)
        for n in range(3):
            own = [v for v in found if v.startswith(f"w{n}.")]
            assert own == [f"w{n}.{i}.{j}" for i in range(partition, 40, 2) for j in range(3)]


async def test_wait_wakes_for_another_process(kind: str, tmp_path: Path, log: Log) -> None:
    waiting = asyncio.create_task(log.wait({("ticks", 1): 0}, DEADLINE_S))
    writer = _writer(kind, tmp_path, "w", 2)
    assert await waiting
    await asyncio.to_thread(writer.join, DEADLINE_S)
    assert await values(log, partition=1) == ["w.1.0", "w.1.1", "w.1.2"]


async def test_kill_9_of_a_writer_keeps_what_was_acknowledged_and_whole_batches(
    kind: str, tmp_path: Path, log: Log
) -> None:
    for attempt, acknowledged in enumerate((3, 40, 120)):
        name = f"killed{attempt}"
        noted = tmp_path / f"{name}.acknowledged"
        writer = _writer(kind, tmp_path, name, 1_000_000)
        await _until(
            lambda noted=noted, enough=acknowledged: (  # type: ignore[misc]
                noted.exists() and int(noted.read_text() or 0) >= enough
            )
        )
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        await asyncio.to_thread(writer.join, DEADLINE_S)

        found = [v for p in (0, 1) for v in await values(log, partition=p) if v.startswith(name)]
        batches = len(found) // 3
        assert batches > acknowledged
        assert sorted(found) == sorted(f"{name}.{i}.{j}" for i in range(batches) for j in range(3))
    await log.append([record("alive")])
    assert (await values(log))[-1] == "alive"
