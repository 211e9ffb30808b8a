"""What Kafka adds to the contract of the log: brokers that stop or refuse, and others' topics."""

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ingest.log import Fenced, LogError, NewRecord, TopicMismatch
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.log.kafka_topics import TopicFound, mismatch, plans
from tests.ingest.log_contract import record, values
from tests.kafka.broker import ApacheKafka, Broker, NoBroker, free_port

pytestmark = pytest.mark.xdist_group("kafka")
TOPICS = {"ticks": 2, "bars": 2}
DEADLINE_S = 60.0


@pytest.fixture
def options(kafka: Broker) -> KafkaOptions:
    return KafkaOptions(kafka.servers, f"{uuid.uuid4().hex[:8]}.")


@pytest.fixture
async def log(options: KafkaOptions) -> AsyncIterator[KafkaLog]:
    opened = KafkaLog(options)
    await opened.create(TOPICS)
    yield opened
    await opened.close()


async def _make(options: KafkaOptions, name: str, partitions: int, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=options.servers)
    await admin.start()
    try:
        topic = NewTopic(
            options.prefix + name,
            partitions,
            1,
            topic_configs={key.replace("_", "."): value for key, value in config.items()},
        )
        await admin.create_topics([topic])
    finally:
        await admin.close()


@pytest.mark.parametrize(
    ("name", "partitions", "config", "message"),
    [
        ("ticks", 3, {}, "ticks has 3 partitions, not 2"),
        ("ticks", 2, {"cleanup_policy": "compact"}, "cleanup.policy=compact, not delete"),
        ("ticks", 2, {"retention_ms": "1000"}, "retention.ms=1000, less than 86400000"),
        ("ticks", 2, {"max_message_bytes": "1000"}, "max.message.bytes=1000, less than 1048588"),
        ("bars", 2, {"unclean_leader_election_enable": "true"}, "may lose what was acknowledged"),
        ("ticks", 2, {"min_insync_replicas": "2"}, "min.insync.replicas=2 of 1 replicas"),
        ("state", 2, {}, "state has cleanup.policy=delete, not compact"),
        ("state", 1, {"cleanup_policy": "compact"}, "state has 1 partitions, fewer than 2"),
    ],
)
async def test_a_topic_that_would_lose_data_is_refused_and_nothing_made(
    options: KafkaOptions, name: str, partitions: int, config: dict[str, str], message: str
) -> None:
    await _make(options, name, partitions, **config)
    log = KafkaLog(options)
    try:
        with pytest.raises(TopicMismatch, match=message):
            await log.create(TOPICS)
        seen = await log.look(TOPICS)
        assert {topic.name for topic in seen.missing()} == {
            options.prefix + other for other in (*TOPICS, "state") if other != name
        }
    finally:
        await log.close()


def test_one_copy_is_not_enough_where_there_are_three() -> None:
    (plan, _) = plans({"ticks": 2}, KafkaOptions("localhost:9092"), brokers=3)
    assert plan.config["min.insync.replicas"] == "2"
    found = TopicFound("ticks", 2, 3, {**plan.config, "min.insync.replicas": "1"})
    assert mismatch(plan, found) == "has min.insync.replicas=1 of 3 replicas: set it to 2 or more"
    assert mismatch(plan, TopicFound("ticks", 2, 3, plan.config)) is None


async def test_topics_are_made_as_documented(log: KafkaLog, options: KafkaOptions) -> None:
    found = (await log.look(TOPICS)).found
    assert {name: topic.partitions for name, topic in found.items()} == {
        options.prefix + name: 2 for name in ("ticks", "bars", "state")
    }
    assert found[options.prefix + "state"].config["cleanup.policy"] == "compact"
    assert found[options.prefix + "bars"].config["cleanup.policy"] == "delete"
    assert found[options.prefix + "bars"].config["retention.ms"] == "86400000"


async def test_what_an_owner_left_open_is_not_read_and_ends_with_the_next(
    log: KafkaLog, options: KafkaOptions
) -> None:
    """A process that dies in a transaction: as if it had not begun it."""
    dying = AIOKafkaProducer(
        bootstrap_servers=options.servers, transactional_id=f"{options.prefix}g-0"
    )
    await dying.start()
    await dying.begin_transaction()
    await dying.send_and_wait(f"{options.prefix}bars", b"half", partition=0)
    await dying.send_and_wait(f"{options.prefix}state", b"{}", b'["g","k",0]', partition=0)
    await dying.client.close()
    dying._closed = True  # or its finaliser complains, in the middle of another test

    assert await log.read("bars", 0, 0) == []
    assert not await log.wait({("bars", 0): 0}, 0.05)
    owner = await log.acquire("g", 0)
    assert owner.state == {}
    await log.commit(owner, [record("whole", "bars")], {"k": b"1"})
    assert await values(log, "bars") == ["whole"]


async def test_a_state_behind_another_groups_open_transaction_is_waited_for(
    log: KafkaLog, options: KafkaOptions
) -> None:
    other = AIOKafkaProducer(bootstrap_servers=options.servers, transactional_id=uuid.uuid4().hex)
    await other.start()
    await other.begin_transaction()
    await other.send_and_wait(f"{options.prefix}state", b"[]", b'["other"]', partition=0)
    owner = await log.acquire("g", 1)
    await log.commit(owner, state={"k": b"not in the way"})

    ours = AIOKafkaProducer(
        bootstrap_servers=options.servers, transactional_id=f"{options.prefix}g-0"
    )
    await ours.start()
    async with ours.transaction():
        await ours.send_and_wait(
            f"{options.prefix}state",
            b"left",
            b'["g","k",0]',
            partition=0,
            headers=[("parts", b"1")],
        )
    await ours.stop()
    acquiring = asyncio.create_task(log.acquire("g", 0))
    done, _ = await asyncio.wait({acquiring}, timeout=0.3)
    assert not done
    await other.abort_transaction()
    await other.stop()
    assert (await acquiring).state == {"k": b"left"}


async def test_a_record_too_large_is_refused_by_name_and_the_log_goes_on(log: KafkaLog) -> None:

    with pytest.raises(LogError, match=r"^Kafka 127.*MessageSizeTooLarge[^\n]*$"):
        await log.append([record(os.urandom(5 << 20))])
    owner = await log.acquire("g", 0)
    with pytest.raises(LogError, match="MessageSizeTooLarge"):
        await log.commit(owner, [record(os.urandom(5 << 20), "bars")], {"k": b"no"})
    with pytest.raises(Fenced):
        await log.commit(owner, [record("bar", "bars")])
    owner = await log.acquire("g", 0)
    assert owner.state == {}
    await log.commit(owner, [record("bar", "bars")], {"k": b"yes"})
    await log.append([record("tick")])
    assert (await values(log), await values(log, "bars")) == (["tick"], ["bar"])
    assert (await log.acquire("g", 0)).state == {"k": b"yes"}


async def test_an_append_larger_than_a_batch_keeps_its_order(log: KafkaLog) -> None:
    noise = random.Random(1)
    sent = [noise.randbytes(300_000) for _ in range(20)]
    await log.append([record(value) for value in sent])
    found = []
    while batch := await log.read("ticks", 0, len(found), max_bytes=2_000_000):
        found += [r.value for r in batch]
    assert found == sent


async def test_nobody_at_the_address_is_one_line() -> None:
    log = KafkaLog(KafkaOptions(f"127.0.0.1:{free_port()}"))
    with pytest.raises(LogError, match=r"^Kafka 127\.0\.0\.1:\d+: [^\n]*$"):
        await log.create(TOPICS)
    await log.close()


# A broker of their own, which stops.


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, kafka_broker: Broker) -> Iterator[ApacheKafka]:
    if not isinstance(kafka_broker, ApacheKafka):
        pytest.skip("needs Apache Kafka: the stand-in keeps its records in memory")
    folder: Path = tmp_path_factory.mktemp("mortal")
    try:
        broker = ApacheKafka(folder)
        broker.start()
    except NoBroker as error:
        pytest.fail(str(error))
    yield broker
    broker.kill()


@pytest.fixture
async def two(mortal: ApacheKafka) -> AsyncIterator[tuple[KafkaLog, KafkaLog]]:
    """Two clients, closed also where a test fails: what is left open breaks pytest's own end."""
    options = KafkaOptions(mortal.servers, "killed.")
    logs = KafkaLog(options), KafkaLog(options)
    yield logs
    for log in logs:
        await log.close()


@pytest.mark.nightly
async def test_a_broker_killed_9_keeps_what_it_acknowledged_and_nothing_comes_twice(
    mortal: ApacheKafka, two: tuple[KafkaLog, KafkaLog]
) -> None:
    """Appends, commits, a reader and a waiter over two deaths of the broker."""
    log, reader = two
    await log.create(TOPICS)
    owner = await log.acquire("g", 0)
    assert await reader.bounds("ticks", 0) == (0, 0)
    stopping = asyncio.Event()
    sent = committed = 0

    async def append() -> None:
        nonlocal sent
        while not stopping.is_set():
            await log.append([NewRecord("ticks", 0, str(sent).encode(), {})])
            sent += 1

    async def commit() -> None:
        nonlocal committed
        while not stopping.is_set():
            value = str(committed).encode()
            await log.commit(owner, [NewRecord("bars", 0, value, {})], {"k": value})
            committed += 1

    async def progress(more: int) -> None:
        """Until so many more were acknowledged of both kinds."""
        goal = sent + more, committed + more
        async with asyncio.timeout(DEADLINE_S):
            while sent < goal[0] or committed < goal[1]:
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(append()), asyncio.create_task(commit())]
    for _ in range(2):
        await progress(10)
        await asyncio.to_thread(mortal.kill)
        waiting = asyncio.create_task(reader.wait({("ticks", 0): sent + 5}, DEADLINE_S))
        await asyncio.to_thread(mortal.start)
        await progress(10)
        assert await waiting
    stopping.set()
    await asyncio.gather(*tasks)
    assert await values(reader) == [str(i) for i in range(sent)]
    assert await values(log, "bars") == [str(i) for i in range(committed)]
    taken = await reader.acquire("g", 0)
    assert taken.state == {"k": str(committed - 1).encode()}
    with pytest.raises(Fenced):
        await log.commit(owner, state={"k": b"zombie"})
