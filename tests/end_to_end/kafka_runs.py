"""What runs on Kafka leave on the log, and the same ticks through an embedded run."""

from collections.abc import Collection

from aggregate.aggregator import Aggregator
from aggregate.bars import read_table
from aggregate.shard import Rules
from ingest.log import Log, NewRecord
from ingest.log.membership import Fixed
from ingest.records import BARS, BARS_TOPIC, TICK_TOPICS

DRAIN_S = 60.0


async def bars_of(log: Log, partitions: Collection[int]) -> dict:
    """Every row by what identifies it, its values to the last bit; none of them twice."""
    rows: dict = {}
    for partition in partitions:
        offset = 0
        while records := await log.read(BARS_TOPIC, partition, offset):
            offset = records[-1].offset + 1
            for record in records:
                if record.headers["type"] != BARS:
                    continue
                kind = tuple(
                    record.headers[name] for name in ("exchange", "dataset", "interval", "clock")
                )
                for row in read_table(record.value).to_pylist():
                    key = (partition, *kind, row["symbol"], row["time"])
                    assert key not in rows, f"twice: {key}"
                    rows[key] = {name: repr(value) for name, value in row.items()}
    return rows


async def to_the_end(log: Log, partitions: Collection[int], rules: Rules) -> None:
    """Aggregate what is on the log and not aggregated yet."""
    aggregator = Aggregator(log, Fixed(partitions), rules)
    aggregator.stop(DRAIN_S)
    await aggregator.run()


async def copy_ticks(source: Log, to: Log, partitions: Collection[int]) -> int:
    """Every record of the tick topics, in order, onto an empty log; returns how many."""
    copied = 0
    for topic in TICK_TOPICS:
        for partition in partitions:
            offset = 0
            while records := await source.read(topic, partition, offset):
                offset = records[-1].offset + 1
                await to.append([NewRecord(topic, partition, r.value, r.headers) for r in records])
                copied += len(records)
    return copied
