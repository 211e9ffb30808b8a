"""publish/tail.py: JSON lines of every kind of record, from where and for how long was asked."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from ingest.errors import UserError
from ingest.log import LogError, NewRecord, Record
from ingest.log.sqlite import SqliteLog
from ingest.records import (
    BARS,
    BARS_TOPIC,
    GAP,
    OPEN,
    QUOTES,
    QUOTES_TOPIC,
    TRADES,
    TRADES_TOPIC,
    GapRecord,
    Source,
)
from ingest.ticks import BUY, SELL, Quotes, Trades, encode
from publish.tail import Since, Start, TailOptions, lines, parse_start, tail

SOURCE = Source("okx-perps", "okx-perps", "c1", "1")
NS = 1_721_300_000_123_456_789
STAMP = "2024-07-18T10:53:20.123456789Z"


def trades(ids: list[int]) -> bytes:
    n = len(ids)
    side = [BUY if i % 2 else SELL for i in ids]
    stamps = [NS] * n
    ones = [1.0] * n
    columns = [[0] * n, stamps, stamps, ids, [1] * n, side, ones, ones, ones, [0] * n, [0] * n, ids]
    return encode(Trades.from_columns(["perpetual-BTC-USDT:USDT"], columns))


def new_trades(partition: int, seq: int, ids: list[int]) -> NewRecord:
    return NewRecord(TRADES_TOPIC, partition, trades(ids), SOURCE.headers(TRADES, seq))


def parsed(record: Record) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in lines(record)]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create({TRADES_TOPIC: 2})
    await log.append(
        [new_trades(0, 0, [1, 2]), new_trades(1, 0, [10]), new_trades(0, 1, [3, 4, 5])]
    )
    yield log
    await log.close()


async def tailed(log: SqliteLog, **options: Any) -> list[int]:
    """The ids of the trades that `tail` prints."""
    out = io.BytesIO()
    await tail(log, TailOptions(TRADES_TOPIC, **options), out)
    return [orjson.loads(line)["id"] for line in out.getvalue().splitlines()]


async def test_the_whole_topic_or_a_part_of_it(log: SqliteLog) -> None:
    assert sorted(await tailed(log)) == [1, 2, 3, 4, 5, 10]
    assert await tailed(log, partition=0) == [1, 2, 3, 4, 5]
    assert await tailed(log, partition=0, start=1) == [3, 4, 5]
    assert await tailed(log, partition=0, limit=3) == [1, 2, 3]
    assert await tailed(log, start="end") == []


async def test_from_a_time_on(log: SqliteLog) -> None:
    later = time.time_ns()
    assert await tailed(log, start=Since(later)) == []
    await log.append([new_trades(0, 2, [6]), new_trades(1, 1, [11])])
    assert sorted(await tailed(log, start=Since(later))) == [6, 11]
    assert sorted(await tailed(log, start=Since(0))) == [1, 2, 3, 4, 5, 6, 10, 11]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("start", "start"),
        ("end", "end"),
        ("17", 17),
        ("-10m", Since(NS - 600_000_000_000)),
        ("-1.5s", Since(NS - 1_500_000_000)),
        ("2024-07-18T10:53:20Z", Since(NS - 123_456_789)),
        ("2024-07-18T12:53:20.123456+02:00", Since(NS - 789)),
    ],
)
def test_where_to_start_may_be_said_so(text: str, start: Start) -> None:
    assert parse_start(text, NS) == start


@pytest.mark.parametrize("text", ["yesterday", "-10", "-x", "2024-07-18T10:53:20", "", "1.5"])
def test_where_to_start_is_not_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="should be start, end, an offset, a time"):
        parse_start(text, NS)


async def test_follow_prints_what_comes_later(log: SqliteLog) -> None:
    following = asyncio.create_task(tailed(log, start="end", follow=True, limit=2))
    for seq in range(1, 200):
        await log.append([new_trades(1, seq, [100 + seq])])
        await asyncio.wait([following], timeout=0.05)
        if following.done():
            break
    first, second = await following
    assert second == first + 1


async def test_what_does_not_exist_is_named(log: SqliteLog) -> None:
    with pytest.raises(UserError, match="no partition 2: they are 0 to 1"):
        await tailed(log, partition=2)
    with pytest.raises(LogError, match=r"ticks\.nothing"):
        await tail(log, TailOptions("ticks.nothing"), io.BytesIO())


def test_a_trade_keeps_its_nanoseconds() -> None:
    headers = SOURCE.headers(TRADES, 7)
    (row,) = parsed(Record(TRADES_TOPIC, 1, 5, 0, headers, trades([3])))
    assert row == {
        "topic": "ticks.trades",
        "partition": 1,
        "offset": 5,
        "type": "trades",
        "exchange": "okx-perps",
        "shard": "okx-perps",
        "collector": "c1",
        "session": "1",
        "seq": "7",
        "symbol": "perpetual-BTC-USDT:USDT",
        "exchange_ts": STAMP,
        "local_ts": STAMP,
        "id": 3,
        "count": 1,
        "side": 1,
        "price": 1.0,
        "qty": 1.0,
        "notional": 1.0,
        "origin": 0,
        "off_book": 0,
        "row": 3,
    }


def test_an_empty_side_of_a_quote_is_null() -> None:
    columns = [[0], [NS], [NS], [9], [np.nan], [np.nan], [2.0], [3.0], [0], [0]]
    value = encode(Quotes.from_columns(["perpetual-BTC-USDC:USDC"], columns))
    (row,) = parsed(Record(QUOTES_TOPIC, 0, 0, 0, SOURCE.headers(QUOTES, 0), value))
    assert row["bid_price"] is None
    assert row["ask_price"] == 2.0


def test_bars() -> None:
    table = pa.table(
        {
            "symbol": pa.array(["a"]).dictionary_encode(),
            "time": pa.array([1_721_300_000_000_000], pa.timestamp("us")),
            "flow_toxicity_score": pa.array([None], pa.float64()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    headers = {"type": BARS, "dataset": "flow", "interval": "1s", "clock": "true", "schema": "1"}
    (row,) = parsed(Record(BARS_TOPIC, 0, 0, 0, headers, sink.getvalue().to_pybytes()))
    assert (row["dataset"], row["time"]) == ("flow", "2024-07-18T10:53:20.000000Z")
    assert row["flow_toxicity_score"] is None


def test_control_records() -> None:
    headers = SOURCE.headers("punctuation", 0, local_ts=str(NS))
    (row,) = parsed(Record(TRADES_TOPIC, 0, 0, 0, headers, b""))
    assert row["local_ts"] == STAMP
    (row,) = parsed(Record(TRADES_TOPIC, 0, 0, 0, SOURCE.headers("event", 0), b'{"kind":"x"}'))
    assert row["value"] == {"kind": "x"}


@pytest.mark.parametrize("kind", [TRADES, "event"])
def test_a_malformed_value_is_a_line_too(kind: str) -> None:
    (row,) = parsed(Record(TRADES_TOPIC, 0, 0, 0, SOURCE.headers(kind, 0), b"\x01rubbish"))
    assert row["malformed"].startswith("8 bytes: ")


def test_a_gap_is_one_line_that_says_what_is_missing() -> None:
    symbol = "perpetual-BTC-USDT:USDT"
    gap = GapRecord("okx-perps", symbol, "ids", 5, 9, 5, 0, OPEN, "disconnect", "", NS, NS, NS)
    headers = SOURCE.headers(GAP, 3)
    (line,) = parsed(Record(TRADES_TOPIC, 1, 7, NS, headers, gap.encode()))
    assert line["type"] == "gap"
    assert line["value"]["symbol"] == symbol
    assert (line["value"]["first_missing"], line["value"]["last_missing"]) == (5, 9)
    assert (line["value"]["missing"], line["value"]["reason"]) == (5, "disconnect")
