"""The pipeline on Kafka gives the bars of the embedded log, over the death of an aggregator."""

import asyncio
import sys
import uuid

import pytest

from aggregate.aggregator import Aggregator
from aggregate.intervals import NS
from aggregate.shard import Rules
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.log import Log
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, TICK_TOPICS
from ingest.simulator import DEFAULT_NATIVES, Simulator, recording_feed
from ingest.simulator.spans import record_span
from ingest.universe import fetch_instruments
from publish.settings import KafkaSettings, LogSettings
from publish.topics import topics
from tests.end_to_end.kafka_runs import bars_of, to_the_end

pytestmark = pytest.mark.xdist_group("kafka")
RULES = Rules(lateness_ns=120 * NS)
PARTITIONS = 2
EXCHANGE = "binance-futures"
SECONDS = 120


class _OnBoth:
    """The collector's log: what it appends is on Kafka and on the embedded log, alike."""

    def __init__(self, *logs: Log) -> None:
        self._logs = logs

    async def create(self, topics):
        for log in self._logs:
            await log.create(topics)

    def __getattr__(self, name):
        return getattr(self._logs[0], name)  # what only reads

    async def append(self, records):
        for log in self._logs:
            await log.append(records)


async def _collect(log, path) -> None:
    collector = None
    beyond = 0
    async with Simulator(
        {EXCHANGE: recording_feed(EXCHANGE, [path])},
        speed=20.0,
        not_before_ns=1,
        wall=lambda: int(collector is not None and collector.subscribed),
    ) as simulator:

        def arrival() -> int:
            return simulator.market_ns + beyond

        natives = list(DEFAULT_NATIVES[EXCHANGE])
        instruments = await fetch_instruments(EXCHANGE, simulator.rest_url, natives)
        settings = CollectorSettings(EXCHANGE, ws_url=simulator.ws_url)
        clock = ArrivalClock(wall=arrival, monotonic=arrival)
        collector = Collector(settings, instruments, log, PARTITIONS, clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(collector.run())
            await asyncio.wait_for(simulator.finished.wait(), 60)
            # Time goes on without ticks until every window of the recording has closed.
            beyond = 200 * NS
            await asyncio.sleep(0.6)
            await collector.stop()


async def test_bars_on_kafka_are_those_of_the_embedded_log(kafka, tmp_path, capsys) -> None:
    path = tmp_path / "recording.gz"
    record_span(path, EXCHANGE, seed=3, start_ns=1_709_251_180 * NS, seconds=SECONDS)
    options = KafkaOptions(kafka.servers, f"{uuid.uuid4().hex[:8]}.")
    embedded = SqliteLog(tmp_path / "perpflow.db")
    log, dying, heir = (KafkaLog(options) for _ in range(3))
    topics_of = dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS)
    for each in (embedded, log):
        await each.create(topics_of)

    killed = asyncio.create_task(Aggregator(dying, range(PARTITIONS), RULES).run())
    collecting = asyncio.create_task(_collect(_OnBoth(log, embedded), path))
    async with asyncio.timeout(60):
        while (await log.bounds(BARS_TOPIC, 0))[1] < 2:
            assert not killed.done()
            assert not collecting.done()
            await asyncio.sleep(0.02)
    # The process is gone in the middle of what it did: nothing is committed, nothing closed.
    killed.cancel()
    running = asyncio.create_task(Aggregator(heir, range(PARTITIONS), RULES).run())
    await collecting
    assert not running.done()
    running.cancel()
    await asyncio.wait({killed, running})

    await to_the_end(log, range(PARTITIONS), RULES)
    await to_the_end(embedded, range(PARTITIONS), RULES)
    expected = await bars_of(embedded, range(PARTITIONS))
    assert len(expected) > 1000
    assert await bars_of(log, range(PARTITIONS)) == expected

    settings = LogSettings(
        partitions=PARTITIONS, kafka=KafkaSettings(servers=options.servers, prefix=options.prefix)
    )
    await topics(settings, "check", sys.stdout)
    await topics(settings, "describe", sys.stdout)
    shown = capsys.readouterr().out
    assert f"{options.prefix}state: fine" in shown
    assert f"{options.prefix}bars: partitions=2 replicas=1 cleanup.policy=delete" in shown
    assert "ticks.trades/1: first=0 end=" in shown
    assert "aggregator lag=0" in shown
    for each in (embedded, log, dying, heir):
        await each.close()
