"""Websocket frames to the log: received over loopback from another process, stamped, parsed,
batched, appended to the embedded log. Frames per CPU-second of all the receiver's threads.

Counted is the CPU time of the receiving process, all its threads, from opening the log to closing
it: the kernel's part of reading and writing, the websocket, stamps, parsing, gap checks, watchdogs,
batches, and the log's own thread. Not counted: the sender and starting Python.

Three quotes to a trade, 20 instruments with rising trade ids, Binance's combined streams, 4
partitions; the sender writes as fast as it is read, so that reads are full (some 1,300 frames). The
log is then read back and every tick counted.
"""

import asyncio
import sys
import tempfile
import time
from asyncio import AbstractEventLoop
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from benchmarks.result import Result, cpu_time
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE, Instrument, instrument_by_name
from ingest.log import Record
from ingest.log.sqlite import SqliteLog
from ingest.records import QUOTES_TOPIC, TRADES_TOPIC
from ingest.ticks import Quotes, Trades, decode

FRAMES = 600_000
BLOCK = 20_000
PARTITIONS = 4
ROUNDS = 5
TARGET = 150_000.0
BASES = ("BTC", "ETH", "SOL", "XRP", "BNB", "DOGE", "ADA", "TRX", "LINK", "AVAX")
NATIVES = [base + quote for quote in ("USDT", "USDC") for base in BASES]


def run() -> list[Result]:
    """The median of `ROUNDS` rounds: machines are noisy."""
    rounds = sorted((received() for _ in range(ROUNDS)), key=lambda result: result.value)
    return [rounds[ROUNDS // 2]]


def received(loop: Callable[[], AbstractEventLoop] = uvloop.new_event_loop) -> Result:
    """One round, on that event loop."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log.db"
        with asyncio.Runner(loop_factory=loop) as runner:
            with cpu_time() as cpu:
                began = time.perf_counter()
                runner.run(_collect(path))
                elapsed = time.perf_counter() - began
            logged, records = runner.run(_count(path))
    if logged != FRAMES:
        raise RuntimeError(f"{FRAMES} frames sent, {logged} ticks on the log")
    detail: dict[str, object] = {
        "frames": FRAMES,
        "cpu_seconds": round(cpu.seconds, 3),
        "seconds": round(elapsed, 3),
        "records": records,
    }
    rate = FRAMES / cpu.seconds
    name = "websocket frames received, parsed, on the log"
    return Result(name, rate, "frames/CPU-s", TARGET, detail)


@asynccontextmanager
async def sender(rate: int = 0) -> AsyncIterator[int]:
    """The other process, which sends `rate` frames a second, or as fast as it is read; its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.bench_receive", str(rate), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def _collect(path: Path) -> None:
    log = SqliteLog(path)
    async with sender() as port:
        settings = CollectorSettings(BINANCE, ws_url=f"ws://127.0.0.1:{port}")
        collector = Collector(settings, instruments(), log, PARTITIONS, ArrivalClock())
        running = asyncio.create_task(collector.run())
        while collector.ticks < FRAMES and not running.done():  # noqa: ASYNC110 (a counter)
            await asyncio.sleep(0.05)
        await collector.stop()
        await running
    await log.close()


def instruments() -> list[Instrument]:
    found = [instrument_by_name(BINANCE, native) for native in NATIVES]
    return [instrument for instrument in found if instrument is not None]


async def _count(path: Path) -> tuple[int, int]:
    """(ticks, tick records) on the log."""
    log = SqliteLog(path)
    sizes = []
    for topic in (TRADES_TOPIC, QUOTES_TOPIC):
        for partition in range(PARTITIONS):
            offset = 0
            while chunk := await log.read(topic, partition, offset):
                offset = chunk[-1].offset + 1
                sizes += [_size(record) for record in chunk]
    await log.close()
    return sum(sizes), sum(size > 0 for size in sizes)


def _size(record: Record) -> int:
    """Ticks in the record, 0 for a control record."""
    match record.headers["type"]:
        case "trades":
            return len(decode(Trades, record.value))
        case "quotes":
            return len(decode(Quotes, record.value))
    return 0


def _payloads(n: int) -> Iterator[bytes]:
    """Frames as Binance sends them; prices and lengths differ, a symbol's trade ids rise by 1."""
    now = time.time_ns() // 1_000_000
    for i in range(n):
        quarter, kind = divmod(i, 4)
        round_, which = divmod(quarter, len(NATIVES))
        native = NATIVES[which]
        price = 60_000 + (i * 7919) % 10_007 / 10
        if kind == 0:
            stream, data = (
                "trade",
                (
                    f'{{"e":"trade","E":{now},"T":{now},"s":"{native}","t":{8097313955 + round_},'
                    f'"p":"{price:.2f}","q":"{i % 997 / 1000:.3f}","X":"MARKET",'
                    f'"m":{"true" if i % 3 else "false"},"st":1}}'
                ),
            )
        else:
            stream, data = (
                "bookTicker",
                (
                    f'{{"e":"bookTicker","u":{11331904350110 + i},"s":"{native}","ps":"{native}",'
                    f'"b":"{price:.2f}","B":"{i % 89 / 10:.3f}","a":"{price + 0.1:.2f}",'
                    f'"A":"{i % 83 / 10:.3f}","T":{now},"E":{now},"st":1}}'
                ),
            )
        yield f'{{"stream":"{native.lower()}@{stream}","data":{data}}}'.encode()


async def _send(rate: int) -> None:
    """The other process: answers the SUBSCRIBE and sends, and stays connected."""
    wire = (Frame(Opcode.TEXT, p).serialize(mask=False) for p in _payloads(sys.maxsize))
    # As fast as it is read: made before, so that making them isn't what is waited for.
    ready = iter([] if rate else [b"".join(islice(wire, BLOCK)) for _ in range(FRAMES // BLOCK)])
    every_s = 0.01
    paced = iter(lambda: b"".join(islice(wire, round(rate * every_s))), b"") if rate else ready

    async def handle(connection: ServerConnection) -> None:
        loop = asyncio.get_running_loop()
        await connection.recv()
        await connection.send('{"result":null,"id":1}')
        due = loop.time()
        try:
            for block in paced:
                connection.transport.write(block)
                await connection.drain()
                due += every_s
                if rate:
                    await asyncio.sleep(max(0.0, due - loop.time()))
            await connection.wait_closed()
        except ConnectionClosed:
            return

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.wait_closed()


if __name__ == "__main__":
    uvloop.run(_send(int(sys.argv[1])))
