"""publish/topics.py: what `perpflow topics` says and does, on a real broker."""

import asyncio
import io
import uuid

import pytest

from ingest.errors import UserError
from ingest.log import NewRecord, TopicMismatch
from ingest.log.kafka import KafkaLog
from ingest.records import BARS_TOPIC, TRADES_TOPIC
from publish.log import kafka_options
from publish.settings import KafkaSettings, LogSettings
from publish.topics import Action, topics
from tests.kafka.broker import Broker

pytestmark = pytest.mark.xdist_group("kafka")
NAMES = ("ticks.trades", "ticks.quotes", "bars", "state")


@pytest.fixture
def settings(kafka: Broker) -> LogSettings:
    prefix = f"{uuid.uuid4().hex[:8]}."
    return LogSettings(partitions=2, kafka=KafkaSettings(servers=kafka.servers, prefix=prefix))


def done(settings: LogSettings, action: Action) -> list[str]:
    """The lines it writes, without the prefix of the topics."""
    out = io.StringIO()
    asyncio.run(topics(settings, action, out))
    assert settings.kafka is not None
    return out.getvalue().replace(settings.kafka.prefix, "").splitlines()


def test_missing_topics_are_named_made_and_then_fine(settings: LogSettings) -> None:
    assert done(settings, "describe") == [f"{name}: missing" for name in NAMES]
    with pytest.raises(UserError) as refused:
        done(settings, "check")
    assert str(refused.value).count(" is missing") == len(NAMES)
    assert done(settings, "create") == [f"{name}: made" for name in NAMES]
    assert done(settings, "create") == [f"{name}: exists" for name in NAMES]
    assert done(settings, "check") == [f"{name}: fine" for name in NAMES]


def test_another_number_of_partitions_is_refused_by_all_but_describe(
    settings: LogSettings,
) -> None:
    done(settings, "create")
    other = settings.model_copy(update={"partitions": 3})
    for action in ("create", "check"):
        with pytest.raises(UserError, match="has 2 partitions, not 3; use") as refused:
            done(other, action)
        assert isinstance(refused.value, TopicMismatch) == (action == "create")
    assert (
        "ticks.trades: partitions=2 replicas=1 cleanup.policy=delete" in done(other, "describe")[0]
    )


def test_describe_shows_offsets_and_how_far_behind_readers_are(settings: LogSettings) -> None:
    done(settings, "create")
    asyncio.run(_use(settings))
    lines = done(settings, "describe")
    assert lines[3].startswith("state: partitions=2 replicas=1 cleanup.policy=compact ")
    assert "ticks.trades/1: first=0 end=3 aggregator lag=2 archive lag=3" in lines
    assert "ticks.trades/0: first=0 end=0" in lines


async def _use(settings: LogSettings) -> None:
    log = KafkaLog(kafka_options(settings))
    await log.append([NewRecord(TRADES_TOPIC, 1, b"", {})] * 3)
    owner = await log.acquire("aggregator", 1)
    await log.commit(owner, [NewRecord(BARS_TOPIC, 1, b"", {})], offsets={(TRADES_TOPIC, 1): 1})
    archiving = await log.acquire("archive", 1)
    await log.commit(archiving, offsets={(TRADES_TOPIC, 1): 0})
    await log.close()


def test_without_kafka_there_is_nothing_to_make() -> None:
    with pytest.raises(UserError, match="servers is not set"):
        done(LogSettings(), "check")
