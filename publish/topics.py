"""`perpflow topics`: make, check and describe the topics of a pipeline on Kafka."""

from collections.abc import Iterator
from typing import Literal, TextIO

from ingest.errors import UserError
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_topics import Look
from ingest.records import BARS_TOPIC, TICK_TOPICS
from publish.log import kafka_options
from publish.settings import LogSettings

Action = Literal["create", "check", "describe"]
GROUPS = ("aggregator", "publisher", "archive")
_SHOWN = ("cleanup.policy", "retention.ms", "min.insync.replicas", "max.message.bytes")


async def topics(settings: LogSettings, action: Action, out: TextIO) -> None:
    """Do it, and write what there is to say, a line a topic or partition.

    Raises `UserError` without `[log.kafka]`, and where a check finds a topic missing or wrong.
    """
    if settings.kafka is None:
        raise UserError("log.kafka.servers is not set, and the embedded log makes its own topics")
    counts = dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), settings.partitions)
    log = KafkaLog(kafka_options(settings))
    try:
        before = await log.look(counts)
        if action == "create":
            await log.create(counts)
            made = {topic.name for topic in before.missing()}
            for topic in before.planned:
                print(f"{topic.name}: {'made' if topic.name in made else 'exists'}", file=out)
        elif action == "check":
            _check(before, out)
        else:
            for line in _described(before):
                print(line, file=out)
            if not before.missing():
                await _positions(log, out)
    finally:
        await log.close()


def _check(seen: Look, out: TextIO) -> None:
    problems = [f"topic {topic.name} is missing" for topic in seen.missing()] + seen.wrong()
    if problems:
        raise UserError("\n".join(problems))
    for topic in seen.planned:
        print(f"{topic.name}: fine", file=out)


def _described(seen: Look) -> Iterator[str]:
    for topic in seen.planned:
        found = seen.found.get(topic.name)
        if found is None:
            yield f"{topic.name}: missing"
        else:
            config = " ".join(f"{name}={found.config.get(name)}" for name in _SHOWN)
            yield (
                f"{topic.name}: partitions={found.partitions} replicas={found.replicas} {config}"
            )


async def _positions(log: KafkaLog, out: TextIO) -> None:
    """First and next offset of each partition, and how far each group has to go."""
    committed = {group: await log.committed(group) for group in GROUPS}
    for topic in (*TICK_TOPICS, BARS_TOPIC):
        for partition in range(await log.partitions(topic)):
            first, end = await log.bounds(topic, partition)
            lags = [
                # Never negative: an archive that is no longer wanted is far beyond the end.
                f"{group} lag={max(0, end - offsets[topic, partition])}"
                for group, offsets in committed.items()
                if (topic, partition) in offsets
            ]
            print(f"{topic}/{partition}: first={first} end={end}", *lags, file=out)
