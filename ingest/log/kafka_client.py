"""One connection to a Kafka cluster: metadata, fetches and offsets, without consumer state.

aiokafka's consumer keeps a position and a buffer a partition, and answers a seek only after its
long poll is over. The log reads from any offset and has to know the end, so requests are made
here, with aiokafka's client (connections, versions, metadata, TLS, SASL) and record parser.
"""

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.cluster import ClusterMetadata
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord
from aiokafka.structs import TopicPartition as KafkaPartition

from ingest.log import kafka_reasons
from ingest.log.kafka_options import KafkaOptions
from ingest.log.kafka_reasons import bootstrapped, cause

RETRY_S = 600.0
"""How long reading outlives a broker that is down or a partition without a leader."""
BACKOFF_S = 0.1
FETCH_BYTES = 32 << 20
"""Of one answer over all of its partitions."""

_log = structlog.get_logger(__name__)

At = tuple[str, int]
"""A topic, by its name in Kafka, and a partition."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one partition answered: its records, and the offset to ask for next."""

    records: Sequence[ConsumerRecord]
    next: int
    out_of_range: bool = False


class KafkaClient:
    """Reads from a cluster. Not started until `start`; one event loop's."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._client = AIOKafkaClient(**options.arguments())
        # A broker answers one connection's requests in order: a long poll needs its own.
        self._idle: list[int] = []
        self._groups = itertools.count(max(ConnectionGroup) + 1)

    async def start(self) -> None:
        """Raises `LogError` with the reason if no broker can be used."""

        if self._options.sasl == "PLAIN" and not self._options.tls:
            _log.warning("log.kafka.password goes in the clear: set log.kafka.tls, or use SCRAM")
        await bootstrapped(self._client.bootstrap(), self._options)

    async def close(self) -> None:
        await self._client.close()

    async def metadata(self) -> ClusterMetadata:
        """Topics, partitions and brokers as they are now; asks for all topics, so makes none."""
        return await self._client.fetch_all_metadata()

    async def forbidden(self, topics: Collection[str]) -> set[str]:
        """Which of those topics, that exist, we may not describe: `metadata` leaves them out."""
        cluster = ClusterMetadata()
        if not topics or await self._client._metadata_update(cluster, topics):
            return set(cluster.unauthorized_topics)
        raise errors.NodeNotReadyError("no broker answers")

    async def follow(self, topic: str) -> None:
        """Keep the leaders of that existing topic's partitions up to date."""
        await self._client.add_topic(topic)

    async def offsets(
        self, wanted: Iterable[At], when: int, *, committed: bool = True
    ) -> dict[At, int]:
        """Offsets by time in ms: of the first record at or after it, -1 if there is none.

        `when` -2: the first offset kept; -1: the end, before the first transaction that is still
        open (`committed`), or of all that is replicated.
        """
        level = READ_COMMITTED if committed else READ_UNCOMMITTED
        topics = dict.fromkeys(wanted, when)

        async def ask(node: int, part: Mapping[At, int]) -> dict[At, int]:
            request = OffsetRequest(-1, level, _by_topic((at, (when,)) for at in part))
            response = await self._client.send(node, request)
            found = {}
            for topic, partitions in response.topics:
                for partition, code, _, offset in partitions:
                    if code:
                        raise errors.for_code(code)(f"{topic}/{partition}")
                    found[topic, partition] = offset
            return found

        return await self._retried(topics, ask)

    async def fetch(self, wanted: Mapping[At, int], max_bytes: int) -> dict[At, Fetched]:
        """What committed records lie at those offsets now, about `max_bytes` a partition."""
        return await self._retried(
            wanted,
            lambda node, part: self._fetch(node, part, max_bytes, 0, ConnectionGroup.DEFAULT),
        )

    async def poll(
        self, wanted: Mapping[At, int], max_bytes: int, wait_s: float
    ) -> dict[At, Fetched]:
        """Like `fetch`, but if there is nothing, for up to `wait_s` until there is."""
        wait_ms = max(0, round(wait_s * 1000))
        group = self._idle.pop() if self._idle else next(self._groups)
        found = await self._retried(
            wanted, lambda node, part: self._fetch(node, part, max_bytes, wait_ms, group)
        )
        # One that was cancelled is still busy: it isn't used again.
        self._idle.append(group)
        return found

    async def _fetch(
        self, node: int, part: Mapping[At, int], max_bytes: int, wait_ms: int, group: int
    ) -> dict[At, Fetched]:
        asked = _by_topic((at, (offset, max_bytes)) for at, offset in part.items())
        total = max(max_bytes, FETCH_BYTES)
        request = FetchRequest(wait_ms, 1, total, READ_COMMITTED, asked)
        response = await self._client.send(node, request, group=group)
        found = {}
        for topic, partitions in response.topics:
            for partition, code, _, *rest in partitions:
                at, offset = (topic, partition), part[topic, partition]
                if code == errors.OffsetOutOfRangeError.errno:
                    found[at] = Fetched([], offset, out_of_range=True)
                elif code:
                    raise errors.for_code(code)(f"{topic}/{partition}")
                else:
                    aborted = rest[2] if response.API_VERSION >= 11 else rest[-2]
                    found[at] = _parse(at, offset, aborted, rest[-1])
        return found

    async def _retried(self, wanted: Mapping[At, int], ask: Any) -> dict[At, Any]:
        begun = said = time.monotonic()
        while True:
            try:
                parts = self._by_leader(wanted)
                answers = await asyncio.gather(*(ask(node, part) for node, part in parts.items()))
                return {at: found for answer in answers for at, found in answer.items()}
            except errors.KafkaError as error:
                now = time.monotonic()
                if not error.retriable or now > begun + RETRY_S:
                    raise
                if now > said + kafka_reasons.SAY_S:
                    said = now
                    reason = await kafka_reasons.unreachable(self._options)
                    topics = ", ".join(sorted({topic for topic, _ in wanted}))
                    kafka_reasons.say(f"read {topics}", now - begun, reason or cause(error))
            await asyncio.sleep(BACKOFF_S)
            await self._client.force_metadata_update()

    def _by_leader(self, wanted: Mapping[At, int]) -> dict[int, dict[At, int]]:
        parts: dict[int, dict[At, int]] = defaultdict(dict)
        for at, offset in wanted.items():
            node = self._client.cluster.leader_for_partition(KafkaPartition(*at))
            if node is None or node == -1:
                raise errors.LeaderNotAvailableError(f"{at[0]}/{at[1]} has no leader")
            parts[node][at] = offset
        return parts


def _by_topic(
    asked: Iterable[tuple[At, tuple[int, ...]]],
) -> list[tuple[str, list[tuple[int, ...]]]]:
    topics = defaultdict(list)
    for (topic, partition), what in asked:
        topics[topic].append((partition, *what))
    return list(topics.items())


def _parse(at: At, offset: int, aborted: Any, data: bytes) -> Fetched:
    # Offsets of transaction markers and aborted records are passed over, not returned.
    records = PartitionRecords(
        KafkaPartition(*at), MemoryRecords(data), aborted, offset, None, None, True, READ_COMMITTED
    )
    found = list(records)
    return Fetched(found, records.next_fetch_offset)
