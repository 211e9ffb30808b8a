"""The embedded log: appends of 4 kB records, and reading them back.

Appends are batches of 20 records over 4 partitions, as a collector makes them, one in flight. Reads
go through one partition from the start. Both include the hop to the log's thread and back. "On a
core" is per CPU second; the wall figure has the disk in it, and whatever else the machine does.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path

from benchmarks.result import Result, cpu_time
from ingest.log import NewRecord
from ingest.log.sqlite import SqliteLog

RECORDS, BATCH, PARTITIONS, SIZE = 60_000, 20, 4, 4096
UNIT = "records/s"
HEADERS = {
    "type": "trades",
    "exchange": "binance-futures",
    "shard": "binance-futures",
    "collector": "c1",
    "session": "1795266000000000000",
    "seq": "123456",
    "schema": "1",
}


async def _measure(path: Path) -> list[Result]:
    log = SqliteLog(path)
    await log.create({"ticks.trades": PARTITIONS})
    value = os.urandom(SIZE)
    batch = [NewRecord("ticks.trades", i % PARTITIONS, value, HEADERS) for i in range(BATCH)]
    begun = time.perf_counter()
    with cpu_time() as appending:
        for _ in range(RECORDS // BATCH):
            await log.append(batch)
    wall = time.perf_counter() - begun

    offset = 0
    with cpu_time() as reading:
        while records := await log.read("ticks.trades", 0, offset):
            offset = records[-1].offset + 1
    await log.close()
    of: dict[str, object] = {
        "records": RECORDS,
        "bytes": SIZE,
        "batch": BATCH,
        "partitions": PARTITIONS,
    }
    return [
        Result("log: 4 kB appended, a core", RECORDS / appending.seconds, UNIT, None, of),
        Result("log: 4 kB appended, wall", RECORDS / wall, UNIT, None, of),
        Result("log: 4 kB read, a core", offset / reading.seconds, UNIT, None, of),
    ]


def run() -> list[Result]:
    with tempfile.TemporaryDirectory() as place:
        return asyncio.run(_measure(Path(place) / "log.db"))
