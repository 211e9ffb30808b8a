"""The log on Kafka: producing and consuming ticks, and ticks → all bars, on a real broker.

The broker is the tests' (Apache Kafka, KRaft, one node on this machine). Trades are produced and
consumed twice in the same run: as perpflow does, 100 a record of columns, and as aiokafka is
mostly used, a record of JSON a tick; both idempotent, acks=all, zstd, pipelined. What is measured
are the client's CPU seconds, from ticks to the broker's answer and from the broker to ticks.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from benchmarks import market
from benchmarks.bench_log_to_log import aggregated, burst
from benchmarks.result import Result, cpu_time
from ingest import records
from ingest.log import NewRecord
from ingest.log.kafka import KafkaLog
from ingest.log.kafka_options import KafkaOptions
from ingest.log.kafka_producer import BATCH_BYTES, COMPRESSION
from ingest.ticks import Trades, decode, encode
from tests.kafka.broker import running

TICKS = 400_000
A_RECORD = 100
"""Ticks: what a busy partition's collector has in 50 ms."""
AN_APPEND = 50
"""Records."""
TARGET = 700_000.0
SINGLE = "single"
_COLUMNS = ("exchange_ts", "local_ts", "id", "side", "price", "qty", "notional")


def run() -> list[Result]:
    n = max(TICKS // 2, round(TICKS * market.scale()))
    trades = market.trades(n, market.INSTRUMENTS, max(1, n // 5000))
    with (
        tempfile.TemporaryDirectory() as place,
        running(Path(place)) as broker,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_measured(broker.servers, trades))


async def _measured(servers: str, trades: Trades) -> list[Result]:
    log = KafkaLog(KafkaOptions(servers))
    await log.create(dict.fromkeys((*records.TICK_TOPICS, records.BARS_TOPIC, SINGLE), 1))
    decode(Trades, encode(trades.take(slice(0, A_RECORD))))  # imports what it needs
    produced = await _rate(len(trades), _produce(log, trades))
    produced_single = await _rate(len(trades), _produce_single(servers, trades))
    consumed = await _rate(len(trades), _consume(log, len(trades)))
    consumed_single = await _rate(len(trades), _consume_single(servers, len(trades)))
    await log.close()

    whole = KafkaLog(KafkaOptions(servers, "whole."))
    name = "ticks on Kafka → bars on Kafka, all datasets, intervals and clocks"
    result = await aggregated(whole, *burst(), name, TARGET)
    await whole.close()
    return [
        *_compared("ticks produced to Kafka", produced, produced_single),
        *_compared("ticks consumed from Kafka", consumed, consumed_single),
        result,
    ]


async def _rate(ticks: int, work: Awaitable[None]) -> dict[str, float]:
    begun = time.perf_counter()
    with cpu_time() as cpu:
        await work
    return {"a CPU-s": ticks / cpu.seconds, "a second": ticks / (time.perf_counter() - begun)}


def _compared(name: str, ours: dict[str, float], single: dict[str, float]) -> list[Result]:
    detail: dict[str, object] = {
        f"{who} {rate}": round(value)
        for who, rates in (("batches", ours), ("single", single))
        for rate, value in rates.items()
    }
    return [
        Result(f"{name}, {A_RECORD} a record", ours["a CPU-s"], "ticks/CPU-s", None, detail),
        Result(f"{name}, gain over a record a tick", ours["a CPU-s"] / single["a CPU-s"], "times"),
    ]


async def _produce(log: KafkaLog, trades: Trades) -> None:
    source = records.Source("binance-futures", "binance-futures", "c1", "1")
    step = A_RECORD * AN_APPEND
    for begin in range(0, len(trades), step):
        await log.append(
            [
                NewRecord(
                    records.TRADES_TOPIC,
                    0,
                    encode(trades.take(slice(at, at + A_RECORD))),
                    source.headers(records.TRADES, at // A_RECORD),
                )
                for at in range(begin, min(begin + step, len(trades)), A_RECORD)
            ]
        )


async def _consume(log: KafkaLog, count: int) -> None:
    seen, offset = 0, 0
    while found := await log.read(records.TRADES_TOPIC, 0, offset):
        seen += sum(len(decode(Trades, record.value)) for record in found)
        offset = found[-1].offset + 1
    assert seen == count


async def _produce_single(servers: str, trades: Trades) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=servers,
        acks="all",
        enable_idempotence=True,
        compression_type=COMPRESSION,
        max_batch_size=BATCH_BYTES,
        linger_ms=5,
    )
    await producer.start()
    columns = [getattr(trades, name).tolist() for name in _COLUMNS]
    symbols = [trades.symbols[code] for code in trades.code.tolist()]
    sent = []
    for symbol, *row in zip(symbols, *columns, strict=True):
        value = orjson.dumps({"symbol": symbol, **dict(zip(_COLUMNS, row, strict=True))})
        sent.append(await producer.send(SINGLE, value, partition=0))
    await asyncio.gather(*sent)
    await producer.stop()


async def _consume_single(servers: str, count: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed")
    at = TopicPartition(SINGLE, 0)
    consumer.assign([at])
    await consumer.start()
    await consumer.seek_to_beginning(at)
    seen = 0
    while seen < count:
        for found in (await consumer.getmany(timeout_ms=1000)).values():
            seen += len([orjson.loads(record.value) for record in found])
    await consumer.stop()
