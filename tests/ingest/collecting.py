"""What the tests of the collector share: frames, a venue that is a plain websocket server, a log
that can be slow or fail, and reading back what was collected."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import orjson
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ingest.instruments import BINANCE, Instrument, instrument_by_name
from ingest.log import Log, LogError, NewRecord, Record
from ingest.log.sqlite import SqliteLog
from ingest.records import QUOTES, TICK_TOPICS, TRADES
from ingest.ticks import Quotes, Trades, decode

DEADLINE_S = 20.0
NATIVES = ("BTCUSDT", "ETHUSDT", "1000PEPEUSDT")


def instruments(natives: Sequence[str] = NATIVES) -> list[Instrument]:
    found = [instrument_by_name(BINANCE, native) for native in natives]
    return [instrument for instrument in found if instrument is not None]


def trade(trade_id: int, native: str = "BTCUSDT", ms: int = 1_792_000_000_000) -> bytes:
    data = {"e": "trade", "E": ms, "T": ms, "s": native, "t": trade_id, "p": "60000.10"}
    data |= {"q": "0.010", "X": "MARKET", "m": trade_id % 2 == 0, "st": 1}
    return orjson.dumps({"stream": f"{native.lower()}@trade", "data": data})


def quote(update: int, native: str = "BTCUSDT", ms: int = 1_792_000_000_000) -> bytes:
    data = {"e": "bookTicker", "u": update, "s": native, "b": "60000.1", "B": "1", "a": "60000.2"}
    data |= {"A": "2", "T": ms, "E": ms, "st": 1}
    return orjson.dumps({"stream": f"{native.lower()}@bookTicker", "data": data})


async def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Poll until it holds; fail after a deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, f"{what} not reached in {DEADLINE_S} s"
        await asyncio.sleep(0.005)


Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def venue_server(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """A websocket server on a free port; yields the port."""

    async def guarded(connection: ServerConnection) -> None:
        try:
            await handler(connection)
        except ConnectionClosed:
            return

    async with serve(guarded, "127.0.0.1", port, compression=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]


async def acknowledge(connection: ServerConnection) -> None:
    """Answer one Binance request."""
    request = orjson.loads(await connection.recv())
    await connection.send(orjson.dumps({"result": None, "id": request["id"]}), text=True)


class BadLog(SqliteLog):
    """An embedded log whose appends wait while `open` is cleared, and fail `failures` times."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.open = asyncio.Event()
        self.open.set()
        self.failures = 0

    async def append(self, records: Sequence[NewRecord]) -> None:
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise LogError("disk full, says the test")
        await super().append(records)


async def collected(log: Log, partitions: int) -> dict[tuple[str, int], list[Record]]:
    """Every record of the tick topics by (topic, partition)."""
    found: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for topic in TICK_TOPICS:
        for partition in range(partitions):
            offset = 0
            while records := await log.read(topic, partition, offset):
                found[topic, partition] += records
                offset = records[-1].offset + 1
    return found


def ticks_of(record: Record | NewRecord) -> Trades | Quotes | None:
    """The record's ticks, None for a control record."""
    match record.headers["type"]:
        case "trades":
            return decode(Trades, record.value)
        case "quotes":
            return decode(Quotes, record.value)
    return None


def trade_ids(records: dict[tuple[str, int], list[Record]]) -> list[int]:
    """All trade ids in arrival order (their `row`)."""
    rows: list[tuple[int, int]] = []
    for record in (r for part in records.values() for r in part if r.headers["type"] == TRADES):
        batch = decode(Trades, record.value)
        rows += zip(batch.row.tolist(), batch.id.tolist(), strict=True)
    return [trade_id for _, trade_id in sorted(rows)]


def assert_sessions_keep_their_promises(
    records: Sequence[Record] | Sequence[NewRecord],
) -> None:
    """Of one session in one partition: first and last records, sequence, promises, stamps."""
    kinds = [record.headers["type"] for record in records]
    assert kinds[0] == "session-start"
    assert kinds[-1] == "session-end"
    assert {"session-start", "session-end"}.isdisjoint(kinds[1:-1])
    assert [int(record.headers["seq"]) for record in records] == list(range(len(records)))
    promise = 0
    last_row = -1
    for record in records:
        if "local_ts" in record.headers:
            assert int(record.headers["local_ts"]) >= promise
            promise = int(record.headers["local_ts"])
        ticks = ticks_of(record)
        if ticks is not None:
            assert len(ticks) > 0
            assert ticks.local_ts.min() >= promise
            assert (ticks.local_ts[1:] >= ticks.local_ts[:-1]).all()
            assert (ticks.row[1:] > ticks.row[:-1]).all()
            assert ticks.row[0] > last_row
            last_row = int(ticks.row[-1])
            assert record.headers["type"] in (TRADES, QUOTES)
