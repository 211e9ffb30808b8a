"""One partition at work: both topics are read together by the time of their records."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from aggregate.intervals import NS
from aggregate.shard import Rules
from aggregate.worker import PartitionWorker
from ingest import records
from ingest.log import NewRecord, Record
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC, QUOTES_TOPIC, TICK_TOPICS, TRADES_TOPIC
from tests.aggregate.helpers import TopicWriter
from tests.aggregate.test_partition import SYMBOL
from tests.aggregate.test_shard import tick

CHUNK = 4096
SECONDS = 400


class InChunks(SqliteLog):
    """A log of which a read takes little, and that keeps how far each topic was read (s)."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reached = dict.fromkeys(TICK_TOPICS, 0)
        self.lead = 0

    async def read(
        self, topic: str, partition: int, offset: int, *, max_bytes: int = CHUNK
    ) -> list[Record]:
        found = await super().read(topic, partition, offset, max_bytes=CHUNK)
        for record in found:
            if record.headers["type"] == records.PUNCTUATION:
                self.reached[topic] = int(record.headers["local_ts"]) // NS
        self.lead = max(self.lead, abs(self.reached[TRADES_TOPIC] - self.reached[QUOTES_TOPIC]))
        return found


async def test_in_a_backlog_no_topic_is_read_far_ahead_of_the_other(tmp_path: Path) -> None:
    w = TopicWriter(log={t: [] for t in TICK_TOPICS})
    w.control(records.SESSION_START, 0)
    w.cover([SYMBOL], 0, 0)
    for second in range(1, SECONDS):  # many trades, no quotes: a read is of 2 seconds, or of 20
        at = second - 0.5
        w.ticks("trades", [tick(at, at + 0.1, id=second * 50 + i) for i in range(20)])
        w.control(records.PUNCTUATION, second * NS)
    log = InChunks(tmp_path / "log.db")
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), 1))
    await log.append(
        [NewRecord(r.topic, 0, r.value, r.headers) for of in w.log.values() for r in of]
    )
    log.reached = dict.fromkeys(TICK_TOPICS, 1)
    with ThreadPoolExecutor(1) as thread:
        worker = await PartitionWorker.take_over(log, "g", 0, Rules(), 30 * NS, thread)
        steps = 0
        while log.reached[TRADES_TOPIC] < SECONDS - 1 or log.reached[QUOTES_TOPIC] < SECONDS - 1:
            await worker.step()
            steps += 1
            assert steps < SECONDS
    # One read of quotes is some 25 seconds; the end of the backlog would be 370 ahead.
    assert 1 < log.lead < 40
    await log.close()


async def test_lag_and_watermark_are_told_until_it_is_given_up(tmp_path: Path) -> None:
    partition = 7
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), partition + 1))

    async def append(kind: str, second: int) -> None:
        w = TopicWriter(log={t: [] for t in TICK_TOPICS})
        w.control(kind, second * NS)
        await log.append(
            [NewRecord(r.topic, partition, r.value, r.headers) for of in w.log.values() for r in of]
        )

    def told(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"partition": str(partition), **labels})

    await append(records.SESSION_START, 90)
    await append(records.PUNCTUATION, 100)
    with ThreadPoolExecutor(1) as thread:
        worker = await PartitionWorker.take_over(log, "g", partition, Rules(), 30 * NS, thread)
        assert await worker.lag() == math.inf  # nothing of what is there has been read
        await worker.step()
        assert await worker.lag() == 0.0
        assert told("perpflow_aggregate_lag_records", topic=TRADES_TOPIC) == 0
        assert told("perpflow_watermark_timestamp_seconds", shard="binance-futures") == 100
        await worker.commit()
        held = dict.fromkeys(("perpflow_aggregate_held_ticks", "perpflow_open_windows"), 0)
        assert {name: told(name) for name in held} == held
        kept = sum(map(len, (await log.acquire("g", partition)).state.values()))
        assert told("perpflow_aggregate_state_bytes") == kept > 0
        await append(records.PUNCTUATION, 101)
        assert await worker.lag() > 0.0
        assert told("perpflow_aggregate_lag_records", topic=TRADES_TOPIC) == 1
        await worker.release()
        assert told("perpflow_aggregate_lag_records", topic=TRADES_TOPIC) is None
        assert told("perpflow_watermark_timestamp_seconds", shard="binance-futures") is None
        assert told("perpflow_aggregate_state_bytes") is None
    await log.close()


async def test_a_topic_that_ends_before_what_was_read_is_said(tmp_path: Path) -> None:
    """It was deleted and made anew, and the state was not."""
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), 1))
    before = await log.acquire("g", 0)
    await log.commit(before, offsets={(TRADES_TOPIC, 0): 5, (QUOTES_TOPIC, 0): 0})
    with ThreadPoolExecutor(1) as thread, capture_logs() as said:
        worker = await PartitionWorker.take_over(log, "g", 0, Rules(), 30 * NS, thread)
        assert await worker.lag() == math.inf
    assert [(line["topic"], line["read_to"]) for line in said] == [(TRADES_TOPIC, 5)]
    await log.close()
