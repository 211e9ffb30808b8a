"""The topics of a pipeline on Kafka: made as they should be, or checked and refused.

    <prefix>ticks.trades, <prefix>ticks.quotes, <prefix>bars    deleted by age
    <prefix>state    compacted; as many partitions as the largest of the others

Kafka's own retention doesn't wait for readers: `retention_hours` has to be longer than the
longest time an aggregator or a publisher may be down.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import TopicAlreadyExistsError, for_code
from aiokafka.structs import TopicPartition as KafkaPartition

from ingest.log import LogError, TopicMismatch
from ingest.log.kafka_client import KafkaClient
from ingest.log.kafka_options import KafkaOptions

STATE = "state"
DEFAULT_REPLICATION = 3
READY_S = 30.0
MAX_RECORD_BYTES = 4 << 20
"""`max.message.bytes` of topics made here."""
MIN_RECORD_BYTES = 1_048_588
"""Kafka's default, and what a full batch takes: less than that of a topic is refused."""


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic as it should be; `name` is the one in Kafka."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicFound:
    """A topic as it is: `replicas` is the smallest number a partition has."""

    name: str
    partitions: int
    replicas: int
    config: Mapping[str, str]


def plans(topics: Mapping[str, int], options: KafkaOptions, brokers: int) -> list[TopicPlan]:
    """What to make for those topics (their partition counts), the state topic among them."""
    replicas = replication(options, brokers)
    common = {
        "max.message.bytes": str(MAX_RECORD_BYTES),
        # One broker may be down, and an acknowledged record is on all others.
        "min.insync.replicas": str(max(1, replicas - 1)),
    }
    stream = {
        **common,
        "cleanup.policy": "delete",
        "retention.ms": str(round(options.retention_hours * 3_600_000)),
    }
    # Small segments: compaction leaves the newest alone, and a new owner reads all of it.
    state = {
        **common,
        "cleanup.policy": "compact",
        "segment.bytes": str(16 << 20),
        "segment.ms": str(3_600_000),
        "min.cleanable.dirty.ratio": "0.2",
    }
    return [
        *(TopicPlan(options.prefix + name, n, stream) for name, n in topics.items()),
        TopicPlan(options.prefix + STATE, max(topics.values()), state),
    ]


def replication(options: KafkaOptions, brokers: int) -> int:
    return options.replication or min(DEFAULT_REPLICATION, brokers)


@dataclass(frozen=True, slots=True)
class Look:
    """The topics as they should be and, by name in Kafka, those that exist."""

    planned: list[TopicPlan]
    found: dict[str, TopicFound]
    replicas: int

    def missing(self) -> list[TopicPlan]:
        return [topic for topic in self.planned if topic.name not in self.found]

    def wrong(self) -> list[str]:
        """What would lose or misplace data, a line a topic."""
        return [
            f"topic {topic.name} {problem}"
            for topic in self.planned
            if topic.name in self.found and (problem := mismatch(topic, self.found[topic.name]))
        ]


async def look(
    admin: AIOKafkaAdminClient,
    client: KafkaClient,
    topics: Mapping[str, int],
    options: KafkaOptions,
) -> Look:
    metadata = await client.metadata()
    brokers = len(metadata.brokers())
    planned = plans(topics, options, brokers)
    found = await _find(admin, metadata, [topic.name for topic in planned])
    return Look(planned, found, replication(options, brokers))


async def ensure(
    admin: AIOKafkaAdminClient,
    client: KafkaClient,
    topics: Mapping[str, int],
    options: KafkaOptions,
) -> list[str]:
    """Make what is missing, if nothing that exists is wrong; the names of those made.

    Raises `TopicMismatch`.
    """
    before = await look(admin, client, topics, options)
    _refuse(before)
    missing = before.missing()
    if not missing:
        return []
    existed = await _make(admin, missing, before.replicas)
    if hidden := await client.forbidden(existed):
        raise LogError(f"topic {', '.join(sorted(hidden))} exists, but may not be described")
    deadline = time.monotonic() + READY_S
    while not await _ready(client, [topic.name for topic in missing]):
        if time.monotonic() > deadline:
            raise LogError(f"{missing[0].name} has no leaders {READY_S:.0f} s after it was made")
        await asyncio.sleep(0.02)
    _refuse(await look(admin, client, topics, options))  # another may have made it otherwise
    return [topic.name for topic in missing]


def _refuse(seen: Look) -> None:
    if wrong := seen.wrong():
        raise TopicMismatch("\n".join(wrong))


async def _ready(client: KafkaClient, names: list[str]) -> bool:
    metadata = await client.metadata()
    parts = [(name, metadata.partitions_for_topic(name)) for name in names]
    return all(
        numbers
        and all((metadata.leader_for_partition(KafkaPartition(name, n)) or 0) > -1 for n in numbers)
        for name, numbers in parts
    )


async def _make(admin: AIOKafkaAdminClient, plan: list[TopicPlan], replicas: int) -> list[str]:
    """Create them, and return those that exist already: the check comes after."""
    new = [
        NewTopic(topic.name, topic.partitions, replicas, topic_configs=dict(topic.config))
        for topic in plan
    ]
    response = await admin.create_topics(new)
    existed = []
    for name, code, *message in response.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            existed.append(name)
        elif code:
            raise LogError(f"topic {name} was not made: {(message or [None])[0] or for_code(code)}")
    return existed


async def _find(
    admin: AIOKafkaAdminClient, metadata: ClusterMetadata, names: list[str]
) -> dict[str, TopicFound]:
    """Those of the topics that exist, with their configuration."""
    existing = [name for name in names if metadata.partitions_for_topic(name)]
    if not existing:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in existing]
    found = {}
    for response in await admin.describe_configs(resources):
        for code, message, _, name, entries, *_ in response.resources:
            if code:
                raise LogError(f"topic {name} can't be described: {message or for_code(code)}")
            numbers = metadata.partitions_for_topic(name) or set()
            found[name] = TopicFound(
                name,
                len(numbers),
                min(len(metadata._partitions[name][n].replicas) for n in numbers),
                {entry[0]: entry[1] for entry in entries},
            )
    return found


def mismatch(plan: TopicPlan, found: TopicFound) -> str | None:
    """What is wrong with the topic found, None if it will do."""
    compacted = plan.config["cleanup.policy"] == "compact"
    if compacted and found.partitions < plan.partitions:
        return f"has {found.partitions} partitions, fewer than {plan.partitions}"
    if not compacted and found.partitions != plan.partitions:
        return (
            f"has {found.partitions} partitions, not {plan.partitions};"
            " use that number, or another prefix"
        )
    policy = found.config.get("cleanup.policy", "")
    if policy != plan.config["cleanup.policy"]:
        return f"has cleanup.policy={policy}, not {plan.config['cleanup.policy']}"
    kept, wanted = (int(of.config.get("retention.ms", -1)) for of in (found, plan))
    if not compacted and 0 <= kept < wanted:
        return f"has retention.ms={kept}, less than {wanted}"
    largest = int(found.config.get("max.message.bytes", MIN_RECORD_BYTES))
    if largest < MIN_RECORD_BYTES:
        return f"has max.message.bytes={largest}, less than {MIN_RECORD_BYTES}"
    return _in_doubt(found)


def _in_doubt(found: TopicFound) -> str | None:
    """Why an acknowledged record might be lost with one broker, or none acknowledged."""
    in_sync = int(found.config.get("min.insync.replicas", 1))
    if in_sync > found.replicas:
        return f"has min.insync.replicas={in_sync} of {found.replicas} replicas: no write can pass"
    if in_sync < 2 < found.replicas:
        return f"has min.insync.replicas=1 of {found.replicas} replicas: set it to 2 or more"
    if found.config.get("unclean.leader.election.enable") == "true":
        return "has unclean.leader.election.enable=true: it may lose what was acknowledged"
    return None
