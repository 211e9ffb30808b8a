"""The raw archive: every tick on the log is in a day's file once, whatever happened on the way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow as pa
import pytest

from ingest import records
from ingest.log import Fenced, Log, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.ticks import BACKLOG, HEALED
from publish import archive, raw_chunks
from publish.archive import Archive
from publish.catalog import RAW
from publish.raw_days import Instrument, day_key
from publish.raw_rows import SCHEMAS_OF_DAYS
from publish.store import Store
from tests.publish.archiving import DAY, LATENESS, LATER, MIDNIGHT, NEXT, SOL, day, ids, ns, run
from tests.publish.ticks_on_log import BTC, ETH, EXCHANGE, Collector
from tests.publish.waiting import until


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys(records.TICK_TOPICS, 2))
    yield log
    await log.close()


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'out'}")


async def test_a_day_file_is_what_the_datasets_say(log: Log, files: Store) -> None:
    c = Collector()
    arrivals = [ns(-30), ns(-20), ns(-20)]
    await log.append(
        [
            *c.mark(records.SESSION_START, ns(-60)),
            *c.covered(ns(-50)),
            c.trades(arrivals, [7, 8, 9]),
            c.quotes(arrivals[:2], [70, 0], bid=float("nan")),
            *c.mark(records.PUNCTUATION, ns(-10)),
            *c.mark(records.SESSION_END, ns(-5)),
        ]
    )
    await run(log, files)
    trades = day(files)
    assert [f"{f.name} {f.type}" for f in trades.schema] == [
        "exchange_timestamp timestamp[ns, tz=UTC]",
        "local_timestamp timestamp[ns, tz=UTC]",
        *("id string", "side string", "price double", "amount double", "notional double"),
        *("count int32", "origin string", "collector string", "row int64"),
        *("excluded_exchange string", "excluded_true string"),
    ]
    assert trades["local_timestamp"].cast(pa.int64()).to_pylist() == arrivals
    assert trades["exchange_timestamp"].cast(pa.int64()).to_pylist() == [
        stamp - 5_000_000 for stamp in arrivals
    ]
    first = trades.drop_columns(["exchange_timestamp", "local_timestamp"]).to_pylist()[0]
    assert first == {
        "id": "7",
        "side": "buy",
        "price": 100.0,
        "amount": 0.5,
        "notional": 50.0,
        "count": 1,
        "origin": "live",
        "collector": "c1",
        "row": 0,
        "excluded_exchange": None,
        "excluded_true": None,
    }
    assert trades["side"].to_pylist() == ["buy", "sell", "buy"]
    quotes = day(files, "quotes")
    assert quotes.drop_columns(["exchange_timestamp", "local_timestamp"]).to_pylist() == [
        {
            "bid_price": None,
            "bid_amount": None,
            "ask_price": 101.0,
            "ask_amount": 3.0,
            "sequence": s,
            "collector": "c1",
            "row": row,
        }
        for row, s in ((3, 70), (4, None))
    ]
    sessions = day(files, "sessions").select(["event", "symbol", "collector", "shard"])
    assert [tuple(row.values()) for row in sessions.to_pylist()] == [
        ("start", None, "c1", EXCHANGE),
        ("covered", BTC, "c1", EXCHANGE),
        ("end", None, "c1", EXCHANGE),
    ]
    assert day_key(Instrument("trades", EXCHANGE, BTC), DAY) == (
        "raw/trades/exchange=binance-futures/symbol=perpetual-BTC-USDT:USDT"
        "/year=2026/month=11/day=20/data.parquet"
    )
    assert files.list(raw_chunks.ROOT) == []


@pytest.mark.parametrize("kind", ["trades", "quotes"])
def test_the_catalog_describes_the_columns_of_the_files(kind: str) -> None:
    names = {"timestamp[ns, tz=UTC]": "timestamp[ns, UTC]", "double": "float64"}
    assert [(f.name, f.type) for f in RAW[kind].fields] == [
        (f.name, names.get(str(f.type), str(f.type))) for f in SCHEMAS_OF_DAYS[kind]
    ]


async def test_the_day_is_that_of_arrival_and_only_whole_days_are_shown(
    log: Log, files: Store
) -> None:
    c = Collector()
    late = [ns(-1), ns(0) - 1, ns(0), ns(1)]
    await log.append([c.trades(late, [1, 2, 3, 4], exchange_ts=[ns(-2)] * 4)])
    await run(log, files, now=MIDNIGHT + 60.0)
    assert ids(files) == [1, 2]
    assert not files.exists(day_key(Instrument("trades", EXCHANGE, BTC), NEXT))
    await run(log, files, now=MIDNIGHT + 86_400.0 - 1)
    assert not files.exists(day_key(Instrument("trades", EXCHANGE, BTC), NEXT))
    await run(log, files, now=MIDNIGHT + 86_400.0)
    assert (ids(files), ids(files, NEXT)) == ([1, 2], [3, 4])


async def test_rows_are_in_order_of_arrival_whatever_the_log_s(log: Log, files: Store) -> None:
    """Two collectors, one of which was held up; instruments and partitions keep apart."""
    a, b, other = Collector("a"), Collector("b"), Collector("a", partition=1)
    await log.append([b.trades([ns(-50), ns(-48)], [1, 3]), b.trades([ns(-40)], [5])])
    await run(log, files, now=MIDNIGHT - 10.0)  # the slow one comes in a later chunk
    await log.append(
        [
            a.trades([ns(-50), ns(-49), ns(-48), ns(-45)], [1, 2, 3, 4]),
            a.trades([ns(-44)], [100], ETH),
            other.trades([ns(-43)], [200], SOL),
        ]
    )
    await run(log, files)
    table = day(files).select(["id", "collector", "excluded_true"])
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        *(("1", "a", None), ("1", "b", "duplicate"), ("2", "a", None)),
        *(("3", "a", None), ("3", "b", "duplicate"), ("4", "a", None), ("5", "b", None)),
    ]
    assert ids(files, symbol=ETH) == [100]
    assert ids(files, symbol=SOL) == [200]


async def test_why_a_trade_is_in_no_bar(log: Log, files: Store) -> None:
    c = Collector()
    when = [ns(-60)]
    await log.append(
        [
            c.trades(when, [1]),
            c.trades([ns(-59)], [1]),
            c.trades([ns(-58)], [2], off_book=1),
            c.trades([ns(-57)], [3], price=0.0),
            c.trades([ns(-56)], [4], exchange_ts=[ns(-62.5)]),
            c.trades([ns(-55)], [5], exchange_ts=[ns(6)]),
            c.trades([ns(-54)], [6], origin=BACKLOG),
            c.trades([ns(-53)], [7], origin=HEALED),
            c.trades([ns(-52)], [8], exchange_ts=[ns(-110)], origin=HEALED),
        ]
    )
    await run(log, files)
    table = day(files)
    shown = {
        int(i): (e, t, o)
        for i, e, t, o in zip(
            *(
                table[name].to_pylist()
                for name in ("id", "excluded_exchange", "excluded_true", "origin")
            ),
            strict=True,
        )
        if int(i) > 1
    }
    assert table["excluded_true"].to_pylist()[:2] == [None, "duplicate"]
    assert table["excluded_exchange"].to_pylist()[:2] == [None, "duplicate"]
    assert shown == {
        2: ("not_a_trade", "not_a_trade", "live"),
        3: ("not_a_trade", "not_a_trade", "live"),
        4: ("late", None, "live"),
        5: ("future", None, "live"),
        6: (None, "backlog", "backlog"),
        7: (None, "healed", "healed"),
        8: ("late", "healed", "healed"),
    }


async def test_a_copy_after_midnight_of_a_trade_before_it(log: Log, files: Store) -> None:
    c, other = Collector(), Collector("c2")
    await log.append([c.trades([ns(-1)], [5]), c.trades([ns(2)], [6])])
    await log.append([other.trades([ns(1)], [5])])
    await run(log, files)
    assert day(files, of=NEXT)["excluded_true"].to_pylist() == ["duplicate", None]


async def test_ticks_that_come_for_a_finished_day_are_added(log: Log, files: Store) -> None:
    c = Collector()
    await log.append([c.trades([ns(-60), ns(-30)], [1, 3], price=0.0), c.quotes([ns(-30)], [30])])
    await run(log, files)
    await log.append([c.trades([ns(-45), ns(-20)], [2, 4]), c.quotes([ns(-20)], [0])])
    for _ in range(2):
        await run(log, files)
        assert ids(files) == [1, 2, 3, 4]
        assert day(files)["excluded_true"].to_pylist() == ["not_a_trade", None] * 2
        assert day(files)["row"].to_pylist() == [0, 3, 1, 4]
        assert day(files, "quotes")["sequence"].to_pylist() == [30, None]


async def test_a_gap_is_there_once_as_it_ended(log: Log, files: Store) -> None:
    c = Collector()
    await log.append([c.gap(ns(-60), 5, 9), c.gap(ns(-50), 20, 22)])
    await run(log, files)
    await log.append([c.gap(ns(-60), 5, 9, healed=3)])
    await run(log, files)
    names = ["kind", "first_missing", "last_missing", "missing", "healed", "reason"]
    assert [tuple(row.values()) for row in day(files, "gaps").select(names).to_pylist()] == [
        ("ids", 5, 9, 2, 3, "disconnect"),
        ("ids", 20, 22, 3, 0, "disconnect"),
    ]


async def test_a_record_that_was_sent_twice_is_archived_once(log: Log, files: Store) -> None:
    """Also where the copy comes after a restart."""
    c = Collector()
    one, two = c.trades([ns(-60)], [1]), c.trades([ns(-59)], [2])
    await log.append([one, two, one])
    await run(log, files, now=MIDNIGHT - 1.0)
    await log.append([two, c.trades([ns(-58)], [3])])
    await run(log, files)
    assert ids(files) == [1, 2, 3]


async def test_records_that_cannot_be_read_cost_only_themselves(log: Log, files: Store) -> None:
    c = Collector()
    await log.append(
        [
            c.record(records.TRADES_TOPIC, records.TRADES, b"not arrow"),
            c.record(records.TRADES_TOPIC, records.GAP, b"{}"),
            NewRecord(records.QUOTES_TOPIC, 0, b"", {}),
            c.trades([ns(-60)], [1]),
        ]
    )
    await run(log, files)
    assert ids(files) == [1]


async def test_retention_leaves_what_is_not_archived_and_no_more(log: Log, files: Store) -> None:
    c = Collector()
    await log.append([c.trades([ns(-60)], [1])])
    running = Archive(log, files, lateness_ns=LATENESS, flush_s=3600)
    task = asyncio.create_task(running.run())
    await until(lambda: running.caught_up)
    assert await log.retain(records.TRADES_TOPIC, max_bytes=0) == 0
    running.stop()
    await task
    assert await log.retain(records.TRADES_TOPIC, max_bytes=0) == 1
    await log.append([c.trades([ns(-50)], [2])])
    await archive.release(log)
    assert await log.retain(records.TRADES_TOPIC, max_bytes=0) == 1
    await log.append([c.trades([ns(-40)], [3])])
    await run(log, files)  # wanted again: from now on
    await log.append([c.trades([ns(-30)], [4])])
    await run(log, files)
    assert ids(files) == [1, 4]


async def test_what_an_owner_that_was_replaced_still_writes_is_not_taken(
    log: Log, files: Store
) -> None:
    c = Collector()
    old = Archive(log, files, lateness_ns=LATENESS, flush_s=3600)
    task = asyncio.create_task(old.run())
    await log.append([c.trades([ns(-60)], [1])])
    await until(lambda: old.caught_up)
    await run(log, files, now=MIDNIGHT - 30.0)
    await log.append([c.trades([ns(-50)], [2])])
    await run(log, files, now=MIDNIGHT - 30.0)
    old.stop()  # it reads both, writes them as its own chunk, and is told at the commit
    with pytest.raises(Fenced):
        await task
    assert len(files.list(f"{raw_chunks.ROOT}/trades")) == 3
    make = Archive(log, files, lateness_ns=LATENESS, settle_s=0, now=lambda: LATER)
    make.stop()
    await make.run()
    assert ids(files) == [1, 2]
