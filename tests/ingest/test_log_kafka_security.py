"""TLS, SASL and access lists of a real broker: who may, does; who may not is told why in a line."""

import asyncio
import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Iterator
from dataclasses import replace

import pytest

from ingest.log import Log, LogError
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_group import KafkaMembership
from ingest.log.kafka_options import KafkaOptions
from ingest.log.kafka_reasons import TRY_S
from tests.ingest.log_contract import record, values
from tests.kafka.broker import ApacheKafka, Broker
from tests.kafka.secured import (
    CREATE,
    DESCRIBE,
    DESCRIBE_CONFIGS,
    GROUP,
    MECHANISMS,
    PASSWORD,
    READ,
    TOPIC,
    TRANSACTIONAL_ID,
    USER,
    WRITE,
    SecuredKafka,
)

pytestmark = pytest.mark.xdist_group("kafka")
TOPICS = {"ticks": 1, "bars": 1}
REFUSED_S = 2 * TRY_S + 5.0
"""Long enough for any refusal: one try by the client, one to find the reason, and slack."""


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, kafka_broker: Broker
) -> Iterator[SecuredKafka]:
    if not isinstance(kafka_broker, ApacheKafka):
        pytest.skip("needs Apache Kafka of its own: the stand-in knows no TLS, SASL or access list")
    broker = SecuredKafka(tmp_path_factory.mktemp("secured"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def right(secured: SecuredKafka) -> KafkaOptions:
    """As the user, over TLS and SCRAM."""
    return KafkaOptions(
        secured.at["SASL_TLS"],
        f"{uuid.uuid4().hex[:8]}.",
        tls=True,
        ca_file=str(secured.ca),
        sasl="SCRAM-SHA-512",
        username=USER,
        password=PASSWORD,
    )


async def _used(log: Log) -> None:
    """All that a pipeline does with a log."""
    await log.create(TOPICS)
    await log.append([record("tick")])
    owner = await log.acquire("g", 0)
    await log.commit(owner, [record("bar", "bars")], {"k": b"1"}, {("ticks", 0): 1})
    assert (await values(log), await values(log, "bars")) == (["tick"], ["bar"])
    assert (await log.committed("g")) == {("ticks", 0): 1}


@pytest.mark.parametrize("listener", ["SASL", "SASL_TLS"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
async def test_who_has_the_password_uses_the_log(
    secured: SecuredKafka, right: KafkaOptions, mechanism: str, listener: str
) -> None:
    tls = listener == "SASL_TLS"
    options = replace(
        right,
        servers=secured.at[listener],
        sasl=mechanism,
        tls=tls,
        ca_file=right.ca_file if tls else None,
    )
    log = KafkaLog(options)
    await _used(log)
    await log.close()


async def test_tls_alone_is_enough_where_nobody_is_asked_for_a_name(
    secured: SecuredKafka, right: KafkaOptions
) -> None:
    log = KafkaLog(replace(right, servers=secured.at["TLS"], sasl=None, username=None))
    await _used(log)
    await log.close()


WRONG: dict[str, tuple[dict[str, object], str]] = {
    **{
        f"password, {mechanism}": (
            {"sasl": mechanism, "password": "wr0ng-secret"},
            "username or password refused: Authentication failed",
        )
        for mechanism in MECHANISMS
    },
    "user": ({"username": "nobody"}, "username or password refused"),
    "CA": ({"ca_file": "other"}, "its certificate is refused: self-signed certificate"),
    "no CA": ({"ca_file": None}, "its certificate is refused: self-signed certificate"),
    "host name": ({"servers": "localhost"}, "Hostname mismatch"),
    "plaintext to TLS": ({"tls": False, "sasl": None}, "closed: does this port want log.kafka.tls"),
    "SASL in plaintext to TLS": ({"tls": False}, "closed: does this port want log.kafka.tls"),
    "TLS to plaintext": ({"servers": "SASL"}, "is log.kafka.tls right for this port"),
    "no SASL": ({"sasl": None}, "closed: does this port want log.kafka.tls or sasl"),
    "SASL to none": ({"servers": "TLS"}, "this port takes no SASL"),
}


def _wrong(secured: SecuredKafka, right: KafkaOptions, case: str) -> KafkaOptions:
    changes = dict(WRONG[case][0])
    if changes.get("ca_file") == "other":
        changes["ca_file"] = str(secured.other_ca)
    if changes.get("servers") == "localhost":
        changes["servers"] = right.servers.replace("127.0.0.1", "localhost")
    elif "servers" in changes:
        changes["servers"] = secured.at[str(changes["servers"])]
    return replace(right, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", WRONG)
async def test_what_is_wrong_is_said_in_one_line_and_soon(
    secured: SecuredKafka,
    right: KafkaOptions,
    case: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = _wrong(secured, right, case)
    caplog.set_level(logging.DEBUG)
    log = KafkaLog(options)
    begun = time.monotonic()
    with pytest.raises(LogError) as refused:
        await log.create(TOPICS)
    assert time.monotonic() - begun < REFUSED_S
    await log.close()
    said = str(refused.value)
    assert said.startswith(f"Kafka {options.servers}: ")
    assert WRONG[case][1] in said
    assert "\n" not in said
    for secret in (PASSWORD, "wr0ng-secret"):
        assert secret not in said + repr(options) + caplog.text


async def test_a_right_that_is_missing_is_named(secured: SecuredKafka, right: KafkaOptions) -> None:
    log = KafkaLog(right)
    await log.create(TOPICS)
    prefix = right.prefix

    async def refused(doing: Awaitable[object], reason: str) -> None:
        with pytest.raises(LogError) as error:
            async with asyncio.timeout(REFUSED_S):
                await doing
        assert str(error.value).removeprefix(f"Kafka {right.servers}: ") == reason

    await secured.deny(TOPIC, f"{prefix}ticks", WRITE)
    await refused(log.append([record("tick")]), f"TopicAuthorizationFailed: {prefix}ticks")
    owner = await log.acquire("g", 0)
    await secured.deny(TOPIC, f"{prefix}bars", WRITE)
    await refused(
        log.commit(owner, [record("bar", "bars")], {"k": b"1"}),
        f"TopicAuthorizationFailed: {prefix}bars",
    )
    await secured.deny(TRANSACTIONAL_ID, f"{prefix}g-0", WRITE)
    await refused(log.acquire("g", 0), f"TransactionalIdAuthorizationFailed: {prefix}g-0")
    await secured.deny(TOPIC, f"{prefix}ticks", DESCRIBE)
    await refused(log.create(TOPICS), f"topic {prefix}ticks exists, but may not be described")
    assert await values(log, "bars") == []
    await log.close()


ALL_TOPICS = ("ticks.trades", "ticks.quotes", "bars", "state")
LOOK = [(TOPIC, topic, right) for topic in ALL_TOPICS for right in (DESCRIBE, DESCRIBE_CONFIGS)]
ROLES = {
    "ingest": [
        *((TOPIC, topic, right) for topic in ALL_TOPICS[:2] for right in (READ, WRITE)),
        (TOPIC, "state", READ),
    ],
    "aggregate": [
        *((TOPIC, topic, READ) for topic in ALL_TOPICS),
        *((TOPIC, topic, WRITE) for topic in ("bars", "state")),
        *((TRANSACTIONAL_ID, "aggregator-0", right) for right in (WRITE, DESCRIBE)),
        (GROUP, "aggregator", READ),
    ],
    "publish": [
        *((TOPIC, topic, READ) for topic in ALL_TOPICS),
        (TOPIC, "state", WRITE),
        *(
            (TRANSACTIONAL_ID, name, right)
            for name in ("publisher-0", "archive-0")
            for right in (WRITE, DESCRIBE)
        ),
    ],
    "topics create": [(TOPIC, topic, CREATE) for topic in ALL_TOPICS],
}
"""What docs/kafka.md says a user needs, beside LOOK."""


@pytest.mark.parametrize("role", ROLES)
async def test_the_documented_rights_are_enough(
    secured: SecuredKafka, right: KafkaOptions, role: str
) -> None:
    topics = dict.fromkeys(ALL_TOPICS[:3], 1)
    if role != "topics create":
        maker = KafkaLog(KafkaOptions(secured.servers, right.prefix))
        await maker.create(topics)
        await maker.close()
    await secured.allow_only(right.prefix, [*LOOK, *ROLES[role]])
    log = KafkaLog(right)
    await log.create(topics)
    if role == "ingest":
        await log.append([record("t", "ticks.trades"), record("q", "ticks.quotes")])
        assert await values(log, "ticks.trades") == ["t"]
        assert await log.committed("aggregator") == {}
    elif role == "aggregate":
        member = KafkaMembership(right, "aggregator", "ticks.trades")
        await member.join()
        async with asyncio.timeout(30):
            while not member.share():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await values(log, "ticks.trades") == []
        owner = await log.acquire("aggregator", 0)
        await log.commit(owner, [record("b", "bars")], {"k": b"1"})
        await member.leave()
    elif role == "publish":
        for group, topic in (("publisher", "bars"), ("archive", "ticks.trades")):
            assert await values(log, topic) == []
            owner = await log.acquire(group, 0)
            await log.commit(owner, offsets={(topic, 0): 0})
    await log.close()


@pytest.mark.parametrize(
    ("case", "message"), [("password, PLAIN", "password refused"), ("CA", "certificate is refused")]
)
def test_the_command_line_says_so_and_keeps_the_secret(
    secured: SecuredKafka, right: KafkaOptions, case: str, message: str
) -> None:
    options = _wrong(secured, right, case)
    settings = {
        "servers": options.servers,
        "tls": "true",
        "ca_file": options.ca_file,
        "sasl": options.sasl,
        "username": options.username,
        "password": options.password,
    }
    flags = [
        word for name, value in settings.items() for word in ("--set", f"log.kafka.{name}={value}")
    ]
    for command in (["topics", "check"], ["check-config"]):
        done = subprocess.run(
            [sys.executable, "-m", "perpflow", *command, *flags],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert str(options.password) not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        if command == ["topics", "check"]:
            assert done.returncode == 1
            last = done.stderr.splitlines()[-1]
            assert last.startswith(f"perpflow: Kafka {options.servers}: ")
            assert message in last
