"""The raw archive: every tick on the log is in a day's file once, whatever happened on the way."""

import asyncio
import multiprocessing
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aggregate.bars import BarBatch
from aggregate.shard import END, Rules, ShardAggregator
from ingest import records
from ingest.log import Fenced, Log, NewRecord
from ingest.log.sqlite import SqliteLog
from ingest.ticks import BACKLOG, BUY, HEALED, LIVE, SELL, Trades
from publish import archive, raw_chunks, raw_days
from publish.archive import GROUP, Archive
from publish.exclusions import REASONS, Exclusions
from publish.raw_days import Instrument, day_key
from publish.store import Store, StoreError
from tests.publish.bars import at
from tests.publish.ticks_on_log import BTC, ETH, EXCHANGE, NS, Collector
from tests.publish.waiting import until

MIDNIGHT = at("2026-11-21 00:00")
DAY, NEXT = date(2026, 11, 20), date(2026, 11, 21)
LATER = MIDNIGHT + 3 * 86_400.0
"""Unix seconds: both days are over."""
LATENESS = 5 * NS
SOL = "perpetual-SOL-USDT:USDT"
_SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[Log]:
    log = SqliteLog(tmp_path / "log.db")
    await log.create(dict.fromkeys(records.TICK_TOPICS, 2))
    yield log
    await log.close()


@pytest.fixture
def files(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'out'}")


async def run(log: Log, store: Store, now: float = LATER, **options: Any) -> None:
    """Archive what is on the log, make the files of days that are over, and stop."""
    made = Archive(log, store, lateness_ns=LATENESS, settle_s=0, now=lambda: now, **options)
    made.stop()
    await made.run()


def day(store: Store, kind: str = "trades", of: date = DAY, symbol: str = BTC) -> pa.Table:
    where = Instrument(kind, EXCHANGE, "" if kind == "sessions" else symbol)
    return pq.read_table(pa.BufferReader(store.get(day_key(where, of))))


def ids(store: Store, of: date = DAY, symbol: str = BTC) -> list[int]:
    return [int(i) for i in day(store, "trades", of, symbol)["id"].to_pylist()]


def ns(seconds: float) -> int:
    return round((MIDNIGHT + seconds) * NS)


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
        }
        for s in (70, None)
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


class Crash(Exception):
    """The process ends here."""


class CrashingStore(Store):
    """Ends the process before or after the n-th change."""

    def __init__(self, url: str, number: int, after: bool) -> None:
        super().__init__(url)
        self._left, self._after = number, after
        self.operations = 0

    def _step(self, done: bool) -> None:
        self.operations += not done
        if self.operations == self._left and done == self._after:
            raise Crash

    @contextmanager
    def replacing(self, key: str) -> Iterator[IO[bytes]]:
        self._step(False)
        with super().replacing(key) as sink:
            yield sink
        self._step(True)

    def delete(self, key: str) -> None:
        self._step(False)
        super().delete(key)
        self._step(True)


def contents(store: Store) -> dict[str, list[Any]]:
    return {
        key: pq.read_table(pa.BufferReader(store.get(key))).to_pylist() for key in store.list("raw")
    }


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.nightly)])
async def test_a_crash_between_any_two_steps(tmp_path: Path, every: int) -> None:
    """Before and after every change of the store; then a new process reads more and less."""

    async def attempt(name: str, number: int, after: bool) -> tuple[int, dict[str, list[Any]]]:
        log = SqliteLog(tmp_path / f"{name}.db")
        store = CrashingStore(f"file://{tmp_path / name}", number, after)
        try:
            await log.create(dict.fromkeys(records.TICK_TOPICS, 1))
            c = Collector()
            await log.append([c.trades([ns(-60), ns(60)], [1, 2]), c.quotes([ns(-60)], [10])])
            await log.append([c.trades([ns(61)], [3], ETH), c.gap(ns(62), 7, 9)])
            more = [c.trades([ns(70)], [4]), c.trades([ns(-10)], [5], ETH)]
            crashed = False
            for then in (more, []):
                try:
                    await run(log, Store(store.url) if crashed else store, workers=1)
                except Crash:
                    crashed = True
                # After a crash the next process finds more on the log.
                await log.append(then)
            await run(log, Store(store.url))
            assert crashed == bool(number)
            return store.operations, contents(store)
        finally:
            await log.close()

    steps, whole = await attempt("whole", 0, False)
    assert steps >= 18
    assert len(whole) == 6
    for number in range(1, steps + 1, every):
        for after in (False, True):
            _, found = await attempt(f"crash-{number}-{after}", number, after)
            assert found == whole, (number, after)


async def test_a_store_that_fails_for_a_while_loses_nothing(log: Log, tmp_path: Path) -> None:
    class Failing(Store):
        left = 5

        def put(self, key: str, data: bytes) -> None:
            Failing.left -= 1
            if Failing.left >= 0:
                raise StoreError("s3 is away")
            super().put(key, data)

    store = Failing(f"file://{tmp_path / 'out'}")
    c = Collector()
    await log.append([c.trades([ns(-60)], [1]), c.quotes([ns(-60)], [1])])
    running = Archive(log, store, lateness_ns=LATENESS, flush_s=0.05, settle_s=0, now=lambda: LATER)
    task = asyncio.create_task(running.run())
    await until(lambda: bool(store.list("raw/trades")))
    running.stop()
    await task
    assert ids(store) == [1]


async def test_memory_is_bounded_by_slices_that_change_nothing(
    log: Log, files: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, d = Collector("a"), Collector("b")
    seed = 5
    chance = np.random.default_rng(seed)
    start = ns(-86_400)
    numbers = np.arange(1, 1001)
    for collector in (c, d):
        stamps = start + np.sort(chance.integers(0, 86_400 * NS, 1000))
        for i in range(0, 1000, 100):
            some = stamps[i : i + 100], numbers[i : i + 100]
            await log.append([collector.trades(*some), collector.quotes(*some)])
    await run(log, files)
    whole = contents(files)
    assert {len(rows) for rows in whole.values()} == {2000}
    small = Store(files.url.replace("out", "small"))
    monkeypatch.setattr(raw_days, "SLICE_ROWS", 40)
    monkeypatch.setattr(raw_days, "ROW_GROUP", 150)
    await archive.release(log)
    again = SqliteLog(Path(log.path).with_name("again.db"))  # type: ignore[attr-defined]
    await again.create(dict.fromkeys(records.TICK_TOPICS, 2))
    for topic in records.TICK_TOPICS:
        found = await log.read(topic, 0, 0, max_bytes=1 << 30)
        await again.append([NewRecord(topic, 0, r.value, r.headers) for r in found])
    await run(again, small)
    await again.close()
    assert contents(small) == whole, f"seed {seed}"
    key = day_key(Instrument("trades", EXCHANGE, BTC), DAY)
    metadata = pq.ParquetFile(pa.BufferReader(small.get(key))).metadata
    assert metadata.num_row_groups > 10


@pytest.mark.parametrize("exchange", ["binance-futures", "hyperliquid-perps"])
@pytest.mark.parametrize("seed", range(4))
def test_exactly_the_trades_that_are_not_excluded_are_in_the_bars(exchange: str, seed: int) -> None:
    """Against the aggregator itself: the trades counted in each 1s bar of both clocks."""
    chance = np.random.default_rng(seed)
    n = 3000
    local = MIDNIGHT * NS + np.sort(chance.integers(0, 600 * NS, n))
    delay = chance.choice([3e6, 2e9, 6e9, -70e9, 400e9], n, p=[0.8, 0.1, 0.05, 0.02, 0.03])
    number = np.arange(n) + 1
    again = chance.random(n) < 0.1
    number[again] = np.maximum(1, number[again] - chance.integers(1, 40, again.sum()))
    exchange_ts = (local - delay.astype(np.int64)) // 1_000_000 * 1_000_000
    seen: dict[int, int] = {}
    for i in range(n):  # copies carry the venue's stamp of the first
        exchange_ts[i] = seen.setdefault(int(number[i]), int(exchange_ts[i]))
    columns = [
        *(np.zeros(n), exchange_ts, local, number, np.ones(n)),
        *(chance.choice([BUY, SELL], n), np.full(n, 10.0), np.full(n, 1.0), np.full(n, 10.0)),
        *(chance.choice([LIVE, BACKLOG, HEALED], n, p=[0.9, 0.05, 0.05]),),
        *(chance.random(n) < 0.02, np.arange(n)),
    ]
    trades = Trades.from_columns([BTC], columns)
    shard = ShardAggregator(exchange, Rules(partial=True, lateness_ns=LATENESS))
    shard.add(trades, "c1")
    bars = {clock: shard.seal(clock, END) for clock in ("exchange", "true")}
    why = Exclusions(exchange, LATENESS)
    codes = []
    for start in range(0, 600, 50):
        end = (MIDNIGHT + start + 50) * NS
        inside = (local >= end - 50 * NS) & (local < end)
        codes += why.add(trades.take(inside), end)
    codes += why.close()
    for clock, stamps in (("exchange", exchange_ts), ("true", local)):
        counted: dict[int, int] = {}
        for batch in bars[clock]:
            if isinstance(batch, BarBatch) and (batch.dataset, batch.interval) == ("flow", "1s"):
                both = batch.columns["taker_buy_count"] + batch.columns["taker_sell_count"]
                counted |= dict(zip(batch.start.tolist(), both.tolist(), strict=True))
        code = np.concatenate([c[clock] for c in codes])
        assert len(code) == n
        seconds, counts = np.unique(stamps[code == 0] // NS, return_counts=True)
        assert dict(zip(seconds.tolist(), counts.tolist(), strict=True)) == counted, f"seed {seed}"
        assert {"duplicate", "not_a_trade"} <= {REASONS[c] for c in code}


def _archive_forever(place: Path) -> None:
    async def main() -> None:
        log = SqliteLog(place / "log.db")
        store = Store(f"file://{place / 'out'}")
        (place / "started").touch()
        options = {"flush_s": 0.02, "settle_s": 0.0, "now": lambda: LATER}
        await Archive(log, store, lateness_ns=LATENESS, **options).run()

    asyncio.run(main())


async def test_kill_9_at_random_moments(log: Log, files: Store, tmp_path: Path) -> None:
    seed = int(os.environ.get("PERPFLOW_SEED", "11"))
    chance = random.Random(seed)
    c = Collector()
    kills, number = 0, 0
    trades = (records.TRADES_TOPIC, 0)
    done = asyncio.Event()

    async def feed() -> None:
        nonlocal number
        while not done.is_set():
            number += 3
            stamps = [ns(-86_000 + number + i) for i in range(3)]
            numbers = [number - 2, number - 1, number]
            both: Sequence[Callable[..., NewRecord]] = (c.trades, c.quotes)
            await log.append([make(stamps, numbers) for make in both])
            await asyncio.sleep(0.01)  # the load's pace, not a condition

    feeding = asyncio.create_task(feed())
    while kills < 4:
        process = _SPAWN.Process(target=_archive_forever, args=(tmp_path,), daemon=True)
        process.start()
        await until((tmp_path / "started").exists)
        (tmp_path / "started").unlink()
        if kills % 2:
            before = (await log.committed(GROUP)).get(trades, 0)
            while (await log.committed(GROUP)).get(trades, 0) <= before:
                assert process.exitcode is None
                await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, 0.4))  # the random moment, not a condition
        assert process.exitcode is None
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.to_thread(process.join)
        kills += 1
    done.set()
    await feeding
    assert (await log.committed(GROUP))[trades] > 0
    await run(log, files)
    assert ids(files) == list(range(1, number + 1)), f"seed {seed}"
    assert day(files, "quotes")["sequence"].to_pylist() == list(range(1, number + 1))
    assert files.list(raw_chunks.ROOT) == []
