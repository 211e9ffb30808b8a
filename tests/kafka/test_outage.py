"""The broker goes away under load and comes back: the bars are those of a broker that never did.

A simulated market is collected onto Kafka and aggregated there all the while. What the collector
has for the log waits in its spool, promises of time too, so nothing is sealed before it is there.
"""

import asyncio
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from aggregate.aggregator import GROUP, Aggregator
from aggregate.intervals import NS
from aggregate.shard import Rules
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.log import Log, NewRecord, kafka_reasons
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, TICK_TOPICS
from ingest.simulator import DEFAULT_NATIVES, Simulator, recording_feed
from ingest.simulator.spans import record_span
from ingest.universe import fetch_instruments
from publish.publisher import Publisher
from publish.replay.command import ReplayOptions, replay
from publish.store import Store
from tests.end_to_end.processes import (
    logged_ticks,
    published,
    simulator,
    wait_until,
    write_settings,
)
from tests.end_to_end.test_daemons import daemon
from tests.end_to_end.test_live_equals_replay import assert_replay_bars_are_there
from tests.kafka.broker import ApacheKafka, Broker

pytestmark = pytest.mark.xdist_group("kafka")
RULES = Rules(lateness_ns=120 * NS)
PARTITIONS = 2
EXCHANGE = "binance-futures"
START_S = 1_709_207_980
"""Twenty seconds before a noon: windows of four hours close in it, and no day."""
SPEED = 8.0
BEFORE_S, AFTER_S = 3.0, 3.0
DEADLINE_S = 90.0
LAST = 10
"""Records behind its last bars that a partition may have read and not committed: a second's."""


@pytest.mark.parametrize(
    ("how", "outage_s"),
    [
        ("kill", 6.0),
        pytest.param("kill", 60.0, marks=pytest.mark.nightly),
        pytest.param("stop", 60.0, marks=pytest.mark.nightly),
    ],
)
async def test_what_was_collected_while_the_broker_was_away_is_in_the_bars(
    kafka_broker: Broker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    outage_s: float,
) -> None:
    if not isinstance(kafka_broker, ApacheKafka):
        pytest.skip("needs Apache Kafka of its own: the stand-in keeps its records in memory")
    monkeypatch.setattr(kafka_reasons, "SAY_S", 2.0)
    (tmp_path / "broker").mkdir()
    broker = ApacheKafka(tmp_path / "broker")
    await asyncio.to_thread(broker.start)
    path = tmp_path / "recording.gz"
    market_s = round((BEFORE_S + outage_s + AFTER_S) * SPEED)
    record_span(path, EXCHANGE, seed=5, start_ns=START_S * NS, seconds=market_s, intensity=5.0)
    replay(ReplayOptions([path], EXCHANGE, f"file://{tmp_path}/replayed"))
    logs = [KafkaLog(KafkaOptions(broker.servers)) for _ in range(2)]
    try:
        await logs[0].create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), PARTITIONS))
        aggregator = Aggregator(logs[1], range(PARTITIONS), RULES)
        aggregating = asyncio.create_task(aggregator.run())
        with capture_logs() as said:
            await _collect(logs[0], path, tmp_path, broker, how, outage_s)
        await _aggregated(logs[0])
        assert not aggregating.done()
        aggregator.stop()
        await aggregating
        await _publish(logs[0], tmp_path)
        await _copy(logs[0], tmp_path / "copy.db")
    finally:
        for log in logs:
            await log.close()
        broker.kill()

    why = [line for line in said if "refused" in str(line)]
    whats = {str(line.get("what", line["event"])).split()[0] for line in why}
    assert "append" in whats, said
    assert whats & {"commit", "read"}, said
    natives = len(DEFAULT_NATIVES[EXCHANGE])
    assert_replay_bars_are_there(tmp_path / "bars", tmp_path / "replayed", symbols=natives)
    await _assert_every_tick_in_its_second(tmp_path)


async def _collect(
    log: Log, path: Path, folder: Path, broker: ApacheKafka, how: str, outage_s: float
) -> None:
    """Collect the market from start to end, without a broker for `outage_s` of it."""
    collector: Collector | None = None
    beyond = 0
    async with Simulator(
        {EXCHANGE: recording_feed(EXCHANGE, [path])},
        speed=SPEED,
        not_before_ns=1,
        wall=lambda: int(collector is not None and collector.subscribed),
    ) as simulator:

        def arrival() -> int:
            return simulator.market_ns + beyond

        natives = list(DEFAULT_NATIVES[EXCHANGE])
        instruments = await fetch_instruments(EXCHANGE, simulator.rest_url, natives)
        settings = CollectorSettings(
            EXCHANGE, ws_url=simulator.ws_url, spool_dir=folder / "spool", batch_ms=10.0
        )
        clock = ArrivalClock(wall=arrival, monotonic=arrival)
        collector = Collector(settings, instruments, log, PARTITIONS, clock)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(collector.run())
            async with asyncio.timeout(DEADLINE_S):
                while (await log.bounds(BARS_TOPIC, 0))[1] < 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(broker.kill if how == "kill" else broker.stop)
            await asyncio.sleep(outage_s)
            spooled = collector._appender.spooled
            assert spooled > outage_s / 0.25, "what was collected is not in the spool"
            assert not collector.paused
            await asyncio.to_thread(broker.start)
            await asyncio.wait_for(simulator.finished.wait(), DEADLINE_S)
            async with asyncio.timeout(DEADLINE_S):
                while collector._appender.spooled:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            # Time goes on without ticks until every window of the recording has closed.
            beyond = 200 * NS
            await asyncio.sleep(1.0)
            await collector.stop()


async def _aggregated(log: Log) -> None:
    """Until what is on the tick topics is in commits, but for the last records without a bar.

    A partition that has none commits as it reads, and may have read a whole spool at once.
    """
    traded = [p for p in range(PARTITIONS) if (await log.bounds(BARS_TOPIC, p))[1]]
    places = [(topic, partition) for topic in TICK_TOPICS for partition in traded]
    ends = {place: (await log.bounds(*place))[1] for place in places}
    deadline = time.monotonic() + DEADLINE_S
    while True:
        committed = await log.committed(GROUP)
        if all(ends[place] - committed.get(place, 0) <= LAST for place in places):
            return
        assert time.monotonic() < deadline, (committed, ends)
        await asyncio.sleep(0.1)


async def _publish(log: Log, folder: Path) -> None:
    publisher = Publisher(log, Store(f"file://{folder}/bars"), flush_s=1.0)
    publishing = asyncio.create_task(publisher.run())
    publisher.stop()
    await publishing


async def _copy(log: Log, path: Path) -> None:
    """The tick topics, as they are, on an embedded log."""
    copy = SqliteLog(path)
    await copy.create(dict.fromkeys(TICK_TOPICS, PARTITIONS))
    for topic in TICK_TOPICS:
        for partition in range(PARTITIONS):
            offset = 0
            while found := await log.read(topic, partition, offset):
                offset = found[-1].offset + 1
                await copy.append([NewRecord(topic, partition, r.value, r.headers) for r in found])
    await copy.close()


async def _assert_every_tick_in_its_second(folder: Path) -> None:
    """By the collector's clock each trade on the log is in its second's bar, once."""
    trades, _, covered = await logged_ticks(folder / "copy.db")
    assert len({trade["identity"] for trade in trades}) > 1000
    want = Counter(
        (trade["symbol"], trade["local_ts"] // NS)
        for trade in {trade["identity"]: trade for trade in reversed(trades)}.values()
        if trade["local_ts"] // NS * NS >= covered[trade["symbol"]] and not trade["off_book"]
    )
    got = {
        (symbol, at): int(row["taker_buy_count"]) + int(row["taker_sell_count"])
        for symbol, series in published(folder / "bars", "flow", "1s", "true").items()
        for at, row in series.items()
    }
    assert got == dict(want)


@pytest.mark.nightly
def test_daemons_stop_while_the_broker_is_away_and_go_on_when_it_is_back(
    kafka_broker: Broker, tmp_path: Path
) -> None:
    if not isinstance(kafka_broker, ApacheKafka):
        pytest.skip("needs Apache Kafka of its own: the stand-in keeps its records in memory")
    (tmp_path / "broker").mkdir()
    broker = ApacheKafka(tmp_path / "broker")
    broker.start()
    bars = tmp_path / "bars"
    running: dict[str, subprocess.Popen[bytes]] = {}

    def start() -> None:
        running.update({name: daemon(config, name) for name in ("ingest", "aggregate", "publish")})

    def rows() -> int:
        return sum(map(len, published(bars, "ohlcv", "1s", "true").values()))

    try:
        with simulator("--seed", 5) as (_, port):
            config = write_settings(
                tmp_path, port, more=f'[log.kafka]\nservers = "{broker.servers}"'
            )
            start()
            wait_until(rows, DEADLINE_S, "files")
            broker.kill()
            spool = tmp_path / "perpflow.db.spool"
            wait_until(lambda: any(spool.rglob("*.spool")), DEADLINE_S, "a spool")
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            # Within 10 s (publish.stopping.deadline), on a machine that has nothing else to do.
            codes = {name: process.wait(DEADLINE_S) for name, process in running.items()}
            said = {name: (tmp_path / f"{name}-1.log").read_text() for name in running}
            assert codes["ingest"] == 0, said["ingest"]
            assert not any("Traceback" in text for text in said.values()), said
            assert any(spool.rglob("*.spool"))
            broker.start()
            before = rows()
            start()
            wait_until(lambda: rows() > before, DEADLINE_S, "more files")
            wait_until(lambda: not any(spool.rglob("*.spool")), DEADLINE_S, "the spool's end")
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        broker.kill()
