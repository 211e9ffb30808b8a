"""Members of a group on a real broker: shares, take-overs, signs of life."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from ingest.log import LogError
from ingest.log import kafka_group as module
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_group import KafkaMembership
from ingest.log.kafka_options import KafkaOptions
from tests.kafka.broker import Broker

pytestmark = pytest.mark.xdist_group("kafka")
COUNT = 5
DEADLINE_S = 30.0
Make = Callable[[], KafkaMembership]


@pytest.fixture
async def options(kafka: Broker) -> AsyncIterator[KafkaOptions]:
    options = KafkaOptions(kafka.servers, f"{uuid.uuid4().hex[:8]}.")
    log = KafkaLog(options)
    await log.create({"ticks": COUNT})
    yield options
    await log.close()


@pytest.fixture
async def member(options: KafkaOptions) -> AsyncIterator[Make]:
    """Makes one more member, not joined yet."""
    made: list[KafkaMembership] = []

    def make() -> KafkaMembership:
        made.append(KafkaMembership(options, "g", "ticks", session_s=3.0))
        return made[-1]

    yield make
    for each in made:
        await each.leave()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def whole(*members: KafkaMembership) -> bool:
    shares = [member.share() for member in members]
    return sorted(p for share in shares for p in share) == list(range(COUNT)) and all(shares)


async def test_shares_are_even_and_only_what_must_moves(member: Make) -> None:
    first, second, third = member(), member(), member()
    await first.join()
    await until(lambda: whole(first))
    await second.join()
    await until(lambda: whole(first, second))
    assert (len(first.share()), len(second.share())) == (3, 2)
    before = first.share(), second.share()
    await third.join()
    await until(lambda: whole(first, second, third))
    assert first.share() < before[0]
    assert second.share() <= before[1]
    held = first.share(), third.share()
    await second.leave()
    begun = asyncio.get_running_loop().time()
    await until(lambda: whole(first, third))
    assert asyncio.get_running_loop().time() - begun < 3  # it isn't waited for
    assert held[0] <= first.share()
    assert held[1] <= third.share()


async def test_a_silent_member_loses_its_share_and_gets_one_when_back(
    member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = member(), member()
    await first.join()
    await second.join()
    await until(lambda: whole(first, second))
    ask, back = first._ask, asyncio.Event()

    async def held_up(request: object) -> object:
        await back.wait()
        return await ask(request)

    monkeypatch.setattr(first, "_ask", held_up)
    await until(lambda: second.share() == frozenset(range(COUNT)))
    back.set()
    await until(lambda: whole(first, second))


async def test_what_was_fenced_comes_back_when_the_group_confirms_it(member: Make) -> None:
    first = member()
    await first.join()
    await until(lambda: whole(first))
    first.fenced(2)
    assert first.share() == {0, 1, 3, 4}
    await until(lambda: first.share() == {0, 1, 2, 3, 4})


async def test_a_stuck_process_leaves_and_joins_when_it_moves_again(
    member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_POLL_S", 1.5)
    first, second = member(), member()
    await first.join()
    await second.join()
    await until(lambda: whole(first, second))
    await until(lambda: second.share() == frozenset(range(COUNT)))  # the first is not asked
    await until(lambda: whole(first, second))


async def test_a_group_of_an_unknown_topic_is_refused_by_name(options: KafkaOptions) -> None:
    lost = KafkaMembership(options, "g", "no-such-topic")
    with pytest.raises(LogError, match="no topic"):
        await lost.join()
    await lost.leave()


async def test_a_session_that_the_broker_forbids_is_one_line(options: KafkaOptions) -> None:
    hasty = KafkaMembership(options, "g", "ticks", session_s=0.5)
    await hasty.join()
    with pytest.raises(LogError, match=r"^Kafka [^\n]*forbids log.kafka.session = 0.5s[^\n]*$"):
        await until(hasty.share)
    await hasty.leave()
