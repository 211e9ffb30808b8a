"""Owners on Kafka: one transactional producer each, and the state topic they start from."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from ingest.log import Fenced, Ownership, TopicPartition, kafka_state
from ingest.log.kafka_client import At, KafkaClient
from ingest.log.kafka_options import KafkaOptions
from ingest.log.kafka_producer import TransactionalProducer
from ingest.log.kafka_state import BadState, Offsets, Raw

STATE_BYTES = 8 << 20
"""Fetched of the state topic at once."""
SETTLE_S = 0.005
"""Between looks whether our own commit, or an open transaction before it, is there to read."""


@dataclass(slots=True)
class _Owner:
    """`parts`: of how many each state key's value is."""

    epoch: int
    producer: TransactionalProducer
    offsets: Offsets
    parts: dict[str, int]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Owners:
    """What one `KafkaLog` owns. `name`: the log's, for messages."""

    def __init__(self, options: KafkaOptions, name: str) -> None:
        self._options = options
        self._name = name
        self._owners: dict[tuple[str, int], _Owner] = {}
        self._acquiring: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def acquire(self, client: KafkaClient, group: str, partition: int, at: At) -> Ownership:
        """Fence the owner before, then read its state in the partition `at` of the state topic."""
        key = (group, partition)
        async with self._acquiring[key]:
            if key in self._owners:
                await self._owners.pop(key).producer.close()
            producer = await TransactionalProducer.open(
                self._options,
                f"{self._options.prefix}{group}-{partition}",
                f"{self._name}: {group}/{partition}",
            )
            try:
                # To the end of what is replicated: others' open transactions are waited for,
                # or what was committed behind them would be missed.
                end = (await client.offsets([at], -1, committed=False))[at]
                records = [raw async for _, raw in read_state(client, at, 0, end)]
                state = kafka_state.fold(records, group)
            except BaseException:
                await producer.close()
                raise
            parts = kafka_state.part_counts(state.values)
            self._owners[key] = _Owner(producer.epoch, producer, dict(state.offsets), parts)
            return Ownership(group, partition, producer.epoch, state.values, state.offsets)

    async def commit(
        self,
        owner: Ownership,
        records: Mapping[At, list[Raw]],
        at: At,
        state: Mapping[str, bytes | None],
        offsets: Mapping[TopicPartition, int],
    ) -> dict[At, int]:
        """Commit in one transaction; returns the offset after the last record of each partition."""
        own = self._current(owner)
        if own is None:
            raise Fenced(f"{self._name}: {owner.group}/{owner.partition} has a newer owner")
        async with own.lock:
            after = {**own.offsets, **offsets}
            changes = kafka_state.encode(owner.group, state, own.parts, after)
            try:
                ends = await own.producer.commit({**records, at: changes})
            finally:
                if own.producer.lost:
                    self._forget(owner)
                    await own.producer.close()
            own.offsets = after
            own.parts |= kafka_state.part_counts(state)
            return ends

    def _current(self, owner: Ownership) -> _Owner | None:
        own = self._owners.get((owner.group, owner.partition))
        return own if own is not None and own.epoch == owner.epoch else None

    def _forget(self, owner: Ownership) -> None:
        if self._current(owner) is not None:
            del self._owners[owner.group, owner.partition]

    async def release(self, owner: Ownership) -> None:
        own = self._current(owner)
        if own is not None:
            self._forget(owner)
            async with own.lock:  # a commit under way comes to its end
                await own.producer.close()

    async def close(self) -> None:
        owners = list(self._owners.values())
        self._owners.clear()
        await asyncio.gather(*(own.producer.close() for own in owners))


async def read_state(
    client: KafkaClient, at: At, offset: int, end: int
) -> AsyncIterator[tuple[int, Raw]]:
    """(next offset, record) of a state partition from `offset` to `end` and what follows it.

    Raises `BadState` if something before `end` has been removed: compaction removes no offset.
    """
    while True:
        got = (await client.fetch({at: offset}, STATE_BYTES))[at]
        if got.out_of_range and offset < end:
            raise BadState(f"{at[0]}/{at[1]} has no offset {offset}: a part of the state is gone")
        for record in got.records:
            yield record.offset + 1, (record.key, record.value, record.headers)
        if got.next == offset:
            if offset >= end:
                return
            await asyncio.sleep(SETTLE_S)
        offset = got.next
