"""The log on Kafka: what users grow into, over many machines; see `Log` for the contract.

What Kafka gives, and where it differs from the embedded log:

- `append` is idempotent with acks=all: a record is on every in-sync replica when it returns, once,
  also if the broker was away in between (it then waits). What one append brings to one partition,
  up to 1 MB, is all or nothing; over several partitions it is not: a producer that dies in the
  middle leaves some of them. Records that can't be meant (unknown topic or partition) are refused
  before anything is sent. After a refusal by the broker an append may be repeated: readers of the
  tick topics leave out record numbers they have seen.
- Offsets rise and are never reused, but they have holes: the end of a transaction takes one in
  each partition that it wrote.
- `commit` is one transaction: records, state and offsets together. It is visible to this `KafkaLog`
  when it returns, to others a moment later. Readers see committed records only, and none after
  the first record of a transaction that is still open.
- An ownership is good for the `KafkaLog` that acquired it. One transactional id per (group,
  partition): acquiring fences the one before, ends its open transaction, and then reads the state
  topic's partition to its end (DESIGN decision 6).
- `appended_ns` has the resolution of Kafka, a millisecond.
- `retain` deletes up to an offset (DeleteRecords), and counts transaction ends as records.
  `max_bytes` has to read every record once for its size: on large topics use Kafka's
  `retention.bytes`. Kafka's own retention, unlike this, doesn't wait for readers.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import ConsumerRecord
from aiokafka.structs import TopicPartition as KafkaPartition

from ingest.log import (
    Log,
    LogError,
    NewRecord,
    OffsetTrimmed,
    Ownership,
    Record,
    TopicPartition,
    kafka_owner,
    kafka_state,
    kafka_topics,
)
from ingest.log.kafka_client import At, KafkaClient
from ingest.log.kafka_options import KafkaOptions
from ingest.log.kafka_owner import SETTLE_S
from ingest.log.kafka_producer import Producer
from ingest.log.kafka_reasons import explained, seen
from ingest.log.kafka_sizes import RecordSizes
from ingest.log.kafka_state import Offsets, Raw

READ_BYTES = 8 << 20
WAIT_BYTES = 1 << 20
"""Fetched of each partition that `wait` finds records in; `read` starts with them."""
LONG_POLL_S = 5.0
BEYOND_S = 0.05
POLLED_S = 0.01
"""What was waited for and is read later than that is read with what has come since."""
LAST_COMMITS_S = 0.5


@dataclass(slots=True)
class _Held:
    """Fetched and not yet read. `asked`: the reader's next offset; `next`: the one to fetch."""

    asked: int
    records: Sequence[ConsumerRecord]
    next: int
    polled: float = 0.0
    """When (monotonic seconds) `wait` got them: others may have come since."""


class KafkaLog(Log):
    """The log on the cluster of `options`; it connects at first use, on the loop that uses it."""

    def __init__(self, options: KafkaOptions) -> None:
        self.options = options
        self._client: KafkaClient | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._producer = Producer(options)
        self._owners = kafka_owner.Owners(options, self._name)
        self._commits: set[asyncio.Future[None]] = set()
        self._counts: dict[str, int] = {}
        self._held: dict[At, _Held] = {}
        self._written: dict[At, int] = {}  # the offset after the last record written here
        self._offsets: dict[int, tuple[int, dict[str, Offsets]]] = {}
        self._sizes: defaultdict[At, RecordSizes] = defaultdict(RecordSizes)

    async def create(self, topics: Mapping[str, int]) -> None:
        for topic, count in topics.items():
            if count < 1:
                raise LogError(f"{self._name}: topic {topic} needs a partition, not {count}")
        client = await self._connected()
        async with explained(self._name), self._admin() as admin:
            await kafka_topics.ensure(admin, client, topics, self.options)

    async def look(self, topics: Mapping[str, int]) -> kafka_topics.Look:
        """How those topics are and should be; changes nothing."""
        client = await self._connected()
        async with explained(self._name), self._admin() as admin:
            return await kafka_topics.look(admin, client, topics, self.options)

    async def partitions(self, topic: str) -> int:
        if topic not in self._counts:
            client = await self._connected()
            name = self.options.prefix + topic
            async with explained(self._name):
                numbers = (await client.metadata()).partitions_for_topic(name)
                if not numbers:
                    raise LogError(f"{self._name}: no topic {name!r}, or it may not be described")
                await client.follow(name)
            self._counts[topic] = len(numbers)
        return self._counts[topic]

    async def append(self, records: Sequence[NewRecord]) -> None:
        raw = await self._raw(records)
        async with explained(self._name):
            self._written.update(await self._producer.send(raw))

    async def read(
        self, topic: str, partition: int, offset: int, *, max_bytes: int = READ_BYTES
    ) -> list[Record]:
        at = await self._at(topic, partition)
        async with explained(self._name):
            held = self._held_at(at, offset)
            if not held.records:
                held = await self._fetched(at, held, max_bytes)
            elif held.polled and time.monotonic() - held.polled > POLLED_S:
                since = await self._fetched(at, held, max_bytes)
                held = _Held(offset, [*held.records, *since.records], since.next)
        found: list[Record] = []
        size = 0
        for record in held.records:
            size += len(record.value or b"")
            if found and size > max_bytes:
                break
            found.append(_record(topic, partition, record))
        following = found[-1].offset + 1 if found else offset
        self._held[at] = _Held(following, held.records[len(found) :], held.next)
        return found

    async def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        at = await self._at(topic, partition)
        client = await self._connected()
        async with explained(self._name):
            while True:
                # The start first: the end never falls below it.
                first = (await client.offsets([at], -2))[at]
                end = (await client.offsets([at], -1))[at]
                if end >= self._written.get(at, 0):
                    return first, end
                await asyncio.sleep(SETTLE_S)

    async def offset_at(self, topic: str, partition: int, time_ns: int) -> int:
        at = await self._at(topic, partition)
        client = await self._connected()
        _, end = await self.bounds(topic, partition)
        async with explained(self._name):
            found = (await client.offsets([at], -(-time_ns // 1_000_000)))[at]
        return end if found < 0 else found

    async def wait(self, positions: Mapping[TopicPartition, int], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        wanted = {await self._at(*place): offset for place, offset in positions.items()}
        if not wanted:
            await asyncio.sleep(timeout)
            return False
        client = await self._connected()
        async with explained(self._name):
            while True:
                held = {at: self._held_at(at, offset) for at, offset in wanted.items()}
                before = {at: self._held.get(at) for at in wanted}
                if any(of.records for of in held.values()):
                    return True
                left = max(deadline - time.monotonic(), 0.0)
                behind = any(of.next < self._written.get(at, 0) for at, of in held.items())
                fetched = await client.poll(
                    {at: of.next for at, of in held.items()},
                    WAIT_BYTES,
                    min(max(left, SETTLE_S if behind else 0.0), LONG_POLL_S),
                )
                moved = False
                for at, got in fetched.items():
                    if got.out_of_range:
                        if (await client.offsets([at], -1))[at] > wanted[at]:
                            return True  # what was there is gone: reading says so
                        await asyncio.sleep(min(left, BEYOND_S))  # such a poll doesn't wait
                    if got.next > held[at].next:
                        moved = True
                        if self._held.get(at) is before[at]:  # nobody has read in between
                            polled = time.monotonic()
                            self._held[at] = _Held(wanted[at], got.records, got.next, polled)
                if left == 0 and not moved and not behind:
                    return False

    async def acquire(self, group: str, partition: int) -> Ownership:
        at = await self._at(kafka_topics.STATE, partition)
        client = await self._connected()
        async with explained(self._name):
            return await self._owners.acquire(client, group, partition, at)

    async def commit(
        self,
        owner: Ownership,
        records: Sequence[NewRecord] = (),
        state: Mapping[str, bytes | None] | None = None,
        offsets: Mapping[TopicPartition, int] | None = None,
    ) -> None:
        raw = await self._raw(records)
        at = await self._at(kafka_topics.STATE, owner.partition)
        # A transaction that has begun is ended, also if the caller is cancelled.
        work = asyncio.ensure_future(self._commit(owner, raw, at, state or {}, offsets or {}))
        work.add_done_callback(seen)
        self._commits.add(work)
        work.add_done_callback(self._commits.discard)
        await asyncio.shield(work)

    async def _commit(
        self,
        owner: Ownership,
        raw: dict[At, list[Raw]],
        at: At,
        state: Mapping[str, bytes | None],
        offsets: Mapping[TopicPartition, int],
    ) -> None:
        async with explained(self._name):
            self._written.update(await self._owners.commit(owner, raw, at, state, offsets))

    async def release(self, owner: Ownership) -> None:
        await self._owners.release(owner)
        # What was fetched for it and not read takes memory.
        for at in [at for at in self._held if at[1] == owner.partition]:
            del self._held[at]

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        found: Offsets = {}
        for groups in await self._all_offsets():
            for place, offset in groups.get(group, {}).items():
                found[place] = min(offset, found.get(place, offset))
        return found

    async def retain(
        self, topic: str, *, max_age_s: float | None = None, max_bytes: int | None = None
    ) -> int:
        oldest_ms = None if max_age_s is None else int((time.time() - max_age_s) * 1000)
        ats = [await self._at(topic, n) for n in range(await self.partitions(topic))]
        client = await self._connected()
        async with explained(self._name):
            first = await client.offsets(ats, -2)
            end = await client.offsets(ats, -1)
            keep = dict(first)
            if oldest_ms is not None:
                found = await client.offsets(ats, oldest_ms)
                keep = {at: end[at] if found[at] < 0 else found[at] for at in ats}
            if max_bytes is not None:
                for at in ats:
                    fits = await self._sizes[at].keep_from(client, at, first[at], max_bytes)
                    keep[at] = max(keep[at], fits)
            for groups in await self._all_offsets():
                for offsets in groups.values():
                    for at in ats:
                        keep[at] = min(keep[at], offsets.get((topic, at[1]), keep[at]))
            keep = {at: min(keep[at], end[at]) for at in ats if keep[at] > first[at]}
            if keep:
                async with self._admin() as admin:
                    await admin.delete_records(
                        {KafkaPartition(*at): RecordsToDelete(to) for at, to in keep.items()}
                    )
            return sum(to - first[at] for at, to in keep.items())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._commits:  # of callers that were cancelled
            await asyncio.wait(self._commits, timeout=LAST_COMMITS_S)
        for work in self._commits:
            work.cancel()
        # Side by side: where no broker answers each of them takes some seconds.
        await asyncio.gather(self._producer.close(), self._owners.close())
        await asyncio.gather(*self._commits, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    @property
    def _name(self) -> str:
        return f"Kafka {self.options.servers}"

    async def _connected(self) -> KafkaClient:
        async with self._connecting:
            if self._closed:
                raise LogError(f"{self._name}: closed")
            if self._client is None:
                client = KafkaClient(self.options)
                async with explained(self._name):
                    try:
                        await client.start()
                    except BaseException:
                        await client.close()
                        raise
                self._client = client
            return self._client

    @contextlib.asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**self.options.arguments())
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    async def _at(self, topic: str, partition: int) -> At:
        """The partition by its topic's name in Kafka. Raises `LogError` if there is none."""
        if self._closed:
            raise LogError(f"{self._name}: closed")
        count = await self.partitions(topic)
        if not 0 <= partition < count:
            raise LogError(
                f"{self._name}: no partition {partition}: {topic!r} has partitions 0..{count - 1}"
            )
        return self.options.prefix + topic, partition

    async def _raw(self, records: Sequence[NewRecord]) -> dict[At, list[Raw]]:
        raw: dict[At, list[Raw]] = {}
        for record in records:
            at = await self._at(record.topic, record.partition)
            headers = [(name, value.encode()) for name, value in record.headers.items()]
            raw.setdefault(at, []).append((None, record.value, headers))
        return raw

    def _held_at(self, at: At, offset: int) -> _Held:
        held = self._held.get(at)
        return held if held and held.asked == offset else _Held(offset, [], offset)

    async def _fetched(self, at: At, held: _Held, max_bytes: int) -> _Held:
        """The records from `held.next` on; none at the end."""
        client = await self._connected()
        following = held.next
        while True:
            got = (await client.fetch({at: following}, max_bytes))[at]
            if got.out_of_range:
                first = (await client.offsets([at], -2))[at]
                if following < first:
                    raise OffsetTrimmed(
                        f"{self._name}: {at[0]}/{at[1]} begins at offset {first},"
                        f" retention removed {held.asked}"
                    )
                return _Held(held.asked, [], following)
            if got.records:
                return _Held(held.asked, got.records, got.next)
            if got.next == following:
                if following >= self._written.get(at, 0):
                    return _Held(held.asked, [], following)
                await asyncio.sleep(SETTLE_S)
            following = got.next

    async def _all_offsets(self) -> list[dict[str, Offsets]]:
        """The committed offsets of every group, by partition of the state topic."""
        count = await self.partitions(kafka_topics.STATE)
        async with explained(self._name):
            return list(await asyncio.gather(*(self._follow(n) for n in range(count))))

    async def _follow(self, partition: int) -> dict[str, Offsets]:
        at = (self.options.prefix + kafka_topics.STATE, partition)
        following, groups = self._offsets.get(partition, (0, {}))
        groups = dict(groups)
        client = await self._connected()
        end = self._written.get(at, 0)
        async for after, (key, value, _) in kafka_owner.read_state(client, at, following, end):
            following = after
            group = kafka_state.group_of_offsets(key)
            if group is not None:
                groups[group] = kafka_state.read_offsets(value)
        self._offsets[partition] = following, groups
        return groups


def _record(topic: str, partition: int, record: ConsumerRecord) -> Record:
    headers = {name: value.decode() for name, value in record.headers}
    return Record(
        topic, partition, record.offset, record.timestamp * 1_000_000, headers, record.value or b""
    )
