"""Appends that Kafka refuses: the reason in a line, nothing lost, and in order once it can be."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from structlog.testing import capture_logs

from ingest.appender import Appender
from ingest.log import LogError, NewRecord, kafka_producer, kafka_reasons
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.spool import Spool
from tests.ingest.log_contract import record, values
from tests.kafka.broker import ApacheKafka, Broker

pytestmark = pytest.mark.xdist_group("kafka")
TOPICS = {"ticks": 1, "bars": 1}
DEADLINE_S = 60.0


@pytest.fixture
def options(kafka: Broker) -> KafkaOptions:
    return KafkaOptions(kafka.servers, f"{uuid.uuid4().hex[:8]}.")


@asynccontextmanager
async def _admin(options: KafkaOptions) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=options.servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _set(options: KafkaOptions, topic: str, **config: str) -> None:
    wanted = {name.replace("_", "."): value for name, value in config.items()}
    async with _admin(options) as admin:
        topic = ConfigResource(ConfigResourceType.TOPIC, options.prefix + topic, wanted)
        await admin.alter_configs([topic])


async def _too_large(options: KafkaOptions) -> None:
    await _set(options, "ticks", max_message_bytes="300")


async def _as_before(options: KafkaOptions) -> None:
    await _set(options, "ticks", max_message_bytes="4194304")


async def _deleted(options: KafkaOptions) -> None:
    async with _admin(options) as admin:
        await admin.delete_topics([f"{options.prefix}ticks"])


async def _made_again(options: KafkaOptions) -> None:
    other = KafkaLog(options)
    await other.create(TOPICS)
    await other.close()


def _incompressible(n: int) -> NewRecord:
    return record(f"{n}:" + uuid.uuid4().hex * 20)


@pytest.mark.parametrize(
    ("refuse", "mend", "reason"),
    [
        (_too_large, _as_before, "MessageSizeTooLarge: "),
        (_deleted, _made_again, "no topic "),
    ],
)
async def test_what_kafka_refuses_waits_in_the_spool_and_says_why(
    options: KafkaOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refuse: Callable[[KafkaOptions], Awaitable[None]],
    mend: Callable[[KafkaOptions], Awaitable[None]],
    reason: str,
) -> None:
    monkeypatch.setattr(kafka_reasons, "SAY_S", 0.3)
    log = KafkaLog(options)
    await log.create(TOPICS)
    sent = [record(f"{n}:" + uuid.uuid4().hex * 20) for n in range(20)]
    async with _spooling(log, tmp_path) as appender:
        appender.put(sent[:1])
        await appender.drain()
        await refuse(options)
        await _waits_and_says(appender, sent[1:], reason)
        await mend(options)
        async with asyncio.timeout(DEADLINE_S):
            await appender.drain()
    kept = sent[1:] if refuse is _deleted else sent  # the topic took its records with it
    assert await values(log) == [one.value.decode() for one in kept]
    await log.close()


@pytest.fixture
def pair(kafka_broker: Broker, tmp_path: Path) -> Iterator[list[ApacheKafka]]:
    """Two brokers of one cluster; the first is its controller."""
    if not isinstance(kafka_broker, ApacheKafka):
        pytest.skip("needs two Apache Kafkas: the stand-in is always alone")
    brokers: list[ApacheKafka] = []
    try:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            brokers.append(ApacheKafka(tmp_path / name, beside=brokers[0] if brokers else None))
            brokers[-1].start()
        yield brokers
    finally:
        for broker in reversed(brokers):
            broker.kill()


@pytest.mark.nightly
async def test_too_few_replicas_in_sync_are_waited_for_and_named(
    pair: list[ApacheKafka], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_reasons, "SAY_S", 0.3)
    options = KafkaOptions(pair[0].servers, replication=2)
    log = KafkaLog(options)
    await log.create(TOPICS)
    await _set(options, "ticks", min_insync_replicas="2")
    sent = [record(str(n)) for n in range(20)]
    async with _spooling(log, tmp_path) as appender:
        appender.put(sent[:1])
        await appender.drain()
        await asyncio.to_thread(pair[1].stop)
        await _waits_and_says(appender, sent[1:], "NotEnoughReplicas: ")
        await asyncio.to_thread(pair[1].start)
        async with asyncio.timeout(DEADLINE_S):
            await appender.drain()
    assert await values(log) == [one.value.decode() for one in sent]
    await log.close()


@asynccontextmanager
async def _spooling(log: KafkaLog, folder: Path) -> AsyncIterator[Appender]:
    spool = Spool(folder / "spool", 1 << 20)
    appender = Appender(log, "okx-perps", pause=_unwanted, resume=_unwanted, spool=spool)
    running = asyncio.create_task(appender.run())
    try:
        yield appender
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})
        spool.close()


async def _waits_and_says(appender: Appender, records: list[NewRecord], reason: str) -> None:
    """Put them one by one, until all wait on disk and a log line has given the reason."""
    with capture_logs() as logged:
        for one in records:
            appender.put([one])
        async with asyncio.timeout(DEADLINE_S):
            while True:
                said = any(reason in str(line) for line in logged)
                if said and appender.spooled == len(records):
                    return
                await asyncio.sleep(0.05)


def _unwanted() -> None:
    raise AssertionError("memory never fills up here")


async def test_a_topic_that_is_not_there_is_named_and_not_made(options: KafkaOptions) -> None:
    log = KafkaLog(options)
    await log.create(TOPICS)
    begun = asyncio.get_running_loop().time()
    with pytest.raises(
        LogError, match=rf"^Kafka \S+: no topic '{options.prefix}other', or [^\n]+$"
    ):
        await log.append([record("x", "other")])
    assert asyncio.get_running_loop().time() - begun < 5.0
    assert set((await log.look({**TOPICS, "other": 1})).found) == {
        options.prefix + name for name in (*TOPICS, "state")
    }
    await log.close()


async def test_a_producer_whose_commit_does_not_end_is_closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As aiokafka's does while the transaction's coordinator is away."""
    monkeypatch.setattr(kafka_producer, "STOP_S", 0.05)
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1")
    closed: list[str] = []

    async def never() -> None:
        await asyncio.Event().wait()

    async def close() -> None:
        closed.append("client")

    monkeypatch.setattr(producer, "stop", never)
    monkeypatch.setattr(producer.client, "close", close)
    async with asyncio.timeout(5):
        await kafka_producer._stopped(producer)
    assert closed == ["client"]
