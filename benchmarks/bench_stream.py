"""The live stream's fan-out: rows handed to 200 connections, per CPU-second of the server.

Records of bars of 100 instruments (flow, 36 columns) go through decoding, JSON, frames and sockets.
Half of the connections take every symbol, half take ten. The clients are another process; every row
they should get is counted there.
"""

import asyncio
import multiprocessing
import socket
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import orjson
import uvloop
from websockets.asyncio.client import connect

from aggregate.bars import BarBatch, record
from aggregate.datasets.flow import Flow
from benchmarks.result import Result, cpu_time
from ingest.log import NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.records import BARS_TOPIC
from publish.keys import KeyFile
from publish.stream import server as servers
from publish.stream.feed import Feed
from publish.stream.hub import Hub
from publish.stream.server import StreamServer

CONNECTIONS = 200
SYMBOLS = [f"perpetual-COIN{n}-USDT:USDT" for n in range(100)]
CHOSEN = SYMBOLS[:10]
RECORDS = 60
TARGET = 50_000.0
EXCHANGE = "binance-futures"
CHANNEL = {"dataset": "flow", "exchange": EXCHANGE, "interval": "1s"}
_SPAWN = multiprocessing.get_context("spawn")


def run() -> list[Result]:
    """Rows delivered per CPU-second."""
    with (
        tempfile.TemporaryDirectory() as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return [runner.run(_run(Path(directory)))]


async def _run(directory: Path) -> Result:
    servers.MAX_CONNECTIONS = CONNECTIONS
    keys = KeyFile(directory / "keys.json")
    key = keys.add("bench", "prime")
    log = SqliteLog(directory / "log.db")
    await log.create({BARS_TOPIC: 1})
    hub = Hub()
    feeding = asyncio.create_task(Feed(log, hub).run())
    here, there = _SPAWN.Pipe()
    expected = RECORDS * CONNECTIONS // 2 * (len(SYMBOLS) + len(CHOSEN))
    server = StreamServer(hub, keys, [EXCHANGE])
    bound = socket.create_server(("127.0.0.1", 0))
    try:
        async with server.listening(bound):
            port = bound.getsockname()[1]
            readers = _SPAWN.Process(target=_readers, args=(there, port, key), daemon=True)
            readers.start()
            await asyncio.to_thread(here.recv)
            with cpu_time() as cpu:
                for n in range(RECORDS):
                    await log.append([_bars(n)])
                    await asyncio.sleep(0.02)
                got = await asyncio.to_thread(here.recv)
            readers.join()
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await log.close()
    if got != expected:
        raise RuntimeError(f"{expected} rows for the connections, {got} arrived")
    detail: dict[str, object] = {"rows": got, "cpu_seconds": round(cpu.seconds, 3)}
    name = f"live rows to {CONNECTIONS} connections"
    return Result(name, got / cpu.seconds, "rows/CPU-s", TARGET, detail)


def _bars(n: int) -> NewRecord:
    code = np.arange(len(SYMBOLS), dtype=np.int32)
    start = np.full(len(SYMBOLS), 1_800_000_000 + n, np.int64)
    columns = dict.fromkeys(Flow().columns, code * 1.37 + n)
    batch = BarBatch("flow", "1s", "true", SYMBOLS, code, start, columns)
    return record(batch, 0, EXCHANGE, EXCHANGE)


def _readers(parent: Connection, port: int, key: str) -> None:
    """The other process: 200 clients, which count rows until each has all of its own."""
    asyncio.run(_read_all(parent, port, key))


async def _read_all(parent: Connection, port: int, key: str) -> None:
    url, headers = f"ws://127.0.0.1:{port}/v1/stream", {"X-API-KEY": key}
    async with AsyncExitStack() as stack:
        reads = []
        for n in range(CONNECTIONS):
            client = await stack.enter_async_context(connect(url, additional_headers=headers))
            wanted: Sequence[str] = SYMBOLS if n % 2 else CHOSEN
            channel = CHANNEL | ({} if n % 2 else {"symbols": list(wanted)})
            await client.send(orjson.dumps({"op": "subscribe", "channels": [channel]}).decode())
            assert orjson.loads(await client.recv())["op"] == "subscribed"
            reads.append((client, RECORDS * len(wanted)))
        parent.send("subscribed")

        async def read(client: object, rows: int) -> int:
            for _ in range(rows):
                await client.recv(decode=False)  # type: ignore[attr-defined]
            return rows

        parent.send(sum(await asyncio.gather(*(read(*one) for one in reads))))
