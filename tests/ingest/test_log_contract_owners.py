"""The contract of `ingest.log.Log` about owners: commits, state, fencing; on every implementation.

Names say the failure that a test guards against.
"""

import asyncio
import os
import time

import pytest

from ingest.log import Fenced, Log, LogError
from tests.ingest import log_contract
from tests.ingest.log_contract import Open, record, values

kind, another, log = log_contract.kind, log_contract.another, log_contract.log


async def test_commit_is_one_step(log: Log) -> None:
    owner = await log.acquire("g", 1)
    assert (owner.group, owner.partition, owner.state, owner.offsets) == ("g", 1, {}, {})
    await log.commit(owner, [record("bar", "bars", 1)], {"a": b"1", "b": b"2"}, {("ticks", 1): 5})
    with pytest.raises(LogError):
        await log.commit(owner, [record("x", "nowhere")], {"a": None}, {("ticks", 1): 9})
    owner = await log.acquire("g", 1)
    assert owner.state == {"a": b"1", "b": b"2"}
    assert owner.offsets == {("ticks", 1): 5}
    assert await values(log, "bars", 1) == ["bar"]


async def test_state_is_upserted_and_deleted_and_apart_per_owner(log: Log) -> None:
    owner = await log.acquire("g", 0)
    other = await log.acquire("g", 1)
    await log.commit(owner, state={"a": b"1", "b": b"2"})
    await log.commit(other, state={"a": b"other"})
    await log.commit(owner, state={"a": b"3", "b": None, "never": None})
    assert (await log.acquire("g", 0)).state == {"a": b"3"}
    assert (await log.acquire("g", 1)).state == {"a": b"other"}
    assert (await log.acquire("h", 0)).state == {}


async def test_large_state_values_grow_and_shrink(log: Log, another: Open) -> None:
    owner = await log.acquire("g", 0)
    big = os.urandom(1_500_000)
    await log.commit(owner, state={"big": big, "a|0": b"small", "empty": b""})
    taker = await another()
    owner = await taker.acquire("g", 0)
    assert owner.state == {"big": big, "a|0": b"small", "empty": b""}
    await taker.commit(owner, state={"big": big[:600_000]})
    owner = await log.acquire("g", 0)
    assert owner.state == {"big": big[:600_000], "a|0": b"small", "empty": b""}
    await log.commit(owner, state={"big": None, "empty": None})
    assert (await taker.acquire("g", 0)).state == {"a|0": b"small"}


async def test_committed_records_are_read_in_order_among_others(log: Log, another: Open) -> None:
    """Transactions take offsets: readers must neither stop nor spin at them."""
    owner = await log.acquire("g", 0)
    other = await another()
    for i in range(5):
        await log.commit(owner, [record(f"c{i}"), record(f"b{i}", "bars")], offsets={("x", 0): i})
        await other.append([record(f"a{i}")])
    assert await values(log) == [f"{kind}{i}" for i in range(5) for kind in "ca"]
    assert await values(log, "bars") == [f"b{i}" for i in range(5)]
    read = await log.read("bars", 0, 0)
    offsets = [r.offset for r in read]
    assert offsets == sorted(set(offsets))
    for r in read:
        assert (await log.read("bars", 0, r.offset))[0].value == r.value
    begun = time.process_time()
    assert not await log.wait({("bars", 0): offsets[-1] + 1}, 0.3)
    assert time.process_time() - begun < 0.2
    assert await log.read("bars", 0, offsets[-1] + 1) == []


async def test_a_commit_is_cancelled_whole_or_not_at_all(log: Log) -> None:
    owner = await log.acquire("g", 0)
    for i in range(8):
        task = asyncio.create_task(
            log.commit(owner, [record(str(i), "bars")], {"k": str(i).encode()}, {("x", 0): i})
        )
        await asyncio.sleep(i / 1000)
        task.cancel()
        await asyncio.wait({task})
    await log.commit(owner, [record("last", "bars")])
    found = await values(log, "bars")
    assert found == sorted(set(found), key=found.index)
    done = found[-2] if len(found) > 1 else None
    owner = await log.acquire("g", 0)
    assert owner.state == ({} if done is None else {"k": done.encode()})
    assert owner.offsets == ({} if done is None else {("x", 0): int(done)})


async def test_committed_is_per_group(log: Log) -> None:
    for partition in (0, 1):
        owner = await log.acquire("g", partition)
        await log.commit(
            owner, offsets={("ticks", partition): 3 + partition, ("bars", partition): 1}
        )
    assert await log.committed("g") == {
        ("ticks", 0): 3,
        ("ticks", 1): 4,
        ("bars", 0): 1,
        ("bars", 1): 1,
    }
    assert await log.committed("h") == {}


async def test_a_fenced_owner_changes_nothing(log: Log, another: Open) -> None:
    old = await log.acquire("g", 0)
    await log.commit(old, state={"k": b"old"}, offsets={("ticks", 0): 1})
    taker = await another()
    new = await taker.acquire("g", 0)
    assert new.epoch > old.epoch
    assert (new.state, new.offsets) == ({"k": b"old"}, {("ticks", 0): 1})
    with pytest.raises(Fenced, match="g/0"):
        await log.commit(old, [record("zombie", "bars")], {"k": b"zombie"}, {("ticks", 0): 9})
    assert await values(log, "bars") == []
    await taker.commit(new, [record("bar", "bars")])
    assert await values(taker, "bars") == ["bar"]
    assert (await log.acquire("g", 0)).state == {"k": b"old"}
    assert await values(log, "bars") == ["bar"]


async def test_fencing_one_partition_leaves_the_others(log: Log) -> None:
    owners = [await log.acquire("g", partition) for partition in (0, 1)]
    await log.acquire("g", 0)
    await log.commit(owners[1], [record("ok")])
    assert await values(log) == ["ok"]


async def test_an_owner_that_released_commits_nothing_more(log: Log, another: Open) -> None:
    owner, other = await log.acquire("g", 0), await log.acquire("g", 1)
    await log.commit(owner, [record("before", "bars")], {"k": b"1"})
    await log.release(owner)
    await log.release(owner)
    with pytest.raises(Fenced):
        await log.commit(owner, [record("after", "bars")], {"k": b"2"})
    await log.commit(other, [record("other", "bars", 1)])
    heir = await (await another()).acquire("g", 0)
    await log.release(owner)  # of an owner that was replaced: changes nothing
    assert heir.state == {"k": b"1"}
    assert await values(log, "bars") == ["before"]
