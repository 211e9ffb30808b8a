"""Aggregators in a group: 1, 2 and 4 processes over the same backlog of 16 partitions on Kafka.

The backlog is made as that of `bench_log_to_log` (200 instruments at 50 times the market's rate)
and is twice as long, 25 M ticks, since each process's start is counted too. Each instrument is in
its own partition, and every group starts from the beginning. Each process's CPU seconds count from
its joining until the whole backlog is committed: taking over, reading, aggregating and committing,
and waiting for the others. On one machine more processes than cores share them, so what is claimed
is the work a CPU second does, and that the work divides. Rounds of all three follow each other,
since the machine is faster at one time than at another; the figures are the rounds' medians.
"""

import asyncio
import multiprocessing
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from aggregate.aggregator import Aggregator
from aggregate.shard import Rules
from benchmarks.bench_log_to_log import burst, collect
from benchmarks.result import Result, cpu_time
from ingest import records
from ingest.log import TopicPartition
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_group import KafkaMembership
from ingest.log.kafka_options import KafkaOptions
from tests.kafka.broker import ApacheKafka

PARTITIONS = 16
PROCESSES = (1, 2, 4)
ROUNDS = 3
BURSTS = 2
ENDS_S = 300.0
TARGET = 0.85
_SPAWN = multiprocessing.get_context("spawn")


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as place:
        # Who starts together is given its share together.
        broker = ApacheKafka(Path(place), {"group.initial.rebalance.delay.ms": "2000"})
        broker.start()
        try:
            ticks, ends = asyncio.run(_fill(broker.servers))
            rounds = [
                {n: asyncio.run(_measured(broker.servers, n, round_, ends)) for n in PROCESSES}
                for round_ in range(ROUNDS)
            ]
        finally:
            broker.stop()
    results = []
    for n in PROCESSES:
        rates = [ticks / sum(spent[n]) for spent in rounds]
        against = [sum(spent[1]) / sum(spent[n]) for spent in rounds]
        parts = [max(spent[n]) / sum(spent[n]) for spent in rounds]
        detail: dict[str, object] = {
            "ticks": ticks,
            "cpu_seconds": [[round(s, 2) for s in spent[n]] for spent in rounds],
        }
        name = f"16 partitions on Kafka, {n} aggregating processes"
        results.append(Result(name, median(rates), "ticks/CPU-s", None, detail))
        if n > 1:
            results += [
                Result(f"{name}: against one", median(against), "of its ticks/CPU-s", TARGET),
                Result(f"{name}: the busiest one's part", median(parts), "of the work"),
            ]
    return results


async def _fill(servers: str) -> tuple[int, dict[TopicPartition, int]]:
    """Put the backlog on the log; returns its ticks and the end of each partition."""
    log = KafkaLog(KafkaOptions(servers))
    seconds, ticks_s = burst()
    ticks = await collect(log, BURSTS * seconds, ticks_s, PARTITIONS)
    ends = {
        (topic, partition): (await log.bounds(topic, partition))[1]
        for topic in records.TICK_TOPICS
        for partition in range(PARTITIONS)
    }
    await log.close()
    return ticks, ends


async def _measured(
    servers: str, processes: int, round_: int, ends: dict[TopicPartition, int]
) -> list[float]:
    """Each process's CPU seconds until everything is committed."""
    group = f"scale-{processes}-{round_}"
    pipes = [_SPAWN.Pipe() for _ in range(processes)]
    children = [_SPAWN.Process(target=_child, args=(servers, group, theirs)) for _, theirs in pipes]
    for child in children:
        child.start()
    ours = [pipe for pipe, _ in pipes]
    await _each(ours)  # it has imported what it needs
    for pipe in ours:
        pipe.send("go")
    log = KafkaLog(KafkaOptions(servers))
    async with asyncio.timeout(ENDS_S):
        while await log.committed(group) != ends:
            assert all(child.is_alive() for child in children)
            await asyncio.sleep(0.2)
    await log.close()
    for pipe in ours:
        pipe.send("stop")
    cpu = await _each(ours)
    for child in children:
        child.join()
    return cpu


async def _each(pipes: Sequence[Connection]) -> list[float]:
    return [await asyncio.to_thread(pipe.recv) for pipe in pipes]


def _child(servers: str, group: str, parent: Connection) -> None:
    parent.send(0.0)
    parent.recv()
    asyncio.run(_aggregate(servers, group, parent))


async def _aggregate(servers: str, group: str, parent: Connection) -> None:
    options = KafkaOptions(servers)
    log = KafkaLog(options)
    members = KafkaMembership(options, group, records.TRADES_TOPIC)
    aggregator = Aggregator(log, members, Rules(), group=group)
    with cpu_time() as cpu:
        running = asyncio.create_task(aggregator.run())
        await asyncio.to_thread(parent.recv)
    aggregator.stop(drain_s=0.0)
    await running
    await log.close()
    parent.send(cpu.seconds)
