"""Gaps over real websockets and REST: what was dropped is on the log, or a gap record says so."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import orjson
import pytest

from ingest import healing as module
from ingest import rest
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.gaps import IDS, SEQUENCE, Gap, last_trades
from ingest.healing import Healer
from ingest.history import Print
from ingest.instruments import BINANCE, OKX
from ingest.log.sqlite import SqliteLog
from ingest.records import GAP, TRADES, TRADES_TOPIC, GapRecord
from ingest.rest import Budget
from ingest.resume import resume
from ingest.simulator import Simulator
from ingest.simulator.data_faults import DataFaults, Fault, Throttle
from ingest.tasks import cancelled
from ingest.ticks import HEALED, Trades, decode
from ingest.universe import fetch_instruments
from tests.ingest.collecting import collected, until
from tests.ingest.simulating import feed
from tests.ingest.test_keeper import free_port

NATIVES = {BINANCE: "BTCUSDT", OKX: "BTC-USDT-SWAP"}
KEYS = {BINANCE: "btcusdt@trade", OKX: "trades-all:BTC-USDT-SWAP"}
STREAMS = {BINANCE: "*@trade", OKX: "trades-all:*"}
PARTITIONS = 2


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteLog]:
    log = SqliteLog(str(tmp_path / "log.db"))
    yield log
    await log.close()


@asynccontextmanager
async def collecting(
    log: SqliteLog, simulator: Simulator, exchange: str, *, rest_url: str | None = ""
) -> AsyncIterator[Collector]:
    """`rest_url`: the simulator's if empty."""
    instruments = await fetch_instruments(exchange, simulator.rest_url, [NATIVES[exchange]])
    url = simulator.rest_url if rest_url == "" else rest_url
    settings = CollectorSettings(exchange, ws_url=simulator.ws_url, rest_url=url)
    collector = Collector(settings, instruments, log, PARTITIONS, ArrivalClock())
    running = asyncio.create_task(collector.run())
    try:
        yield collector
    finally:
        await collector.stop()
        await running


@asynccontextmanager
async def forwarding(port: int, to: int) -> AsyncIterator[None]:
    """Connections to the port go on to another."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", port):
        yield


async def trades_on(log: SqliteLog) -> tuple[dict[int, int], list[GapRecord]]:
    """(id → origin of its first copy, gap records in their order) of one instrument."""
    ids: dict[int, int] = {}
    gaps: list[GapRecord] = []
    for (topic, _), part in (await collected(log, PARTITIONS)).items():
        for record in part if topic == TRADES_TOPIC else ():
            if record.headers["type"] == TRADES:
                batch = decode(Trades, record.value)
                for last, n, origin in zip(batch.id, batch.count, batch.origin, strict=True):
                    for i in range(int(last) - int(n) + 1, int(last) + 1):
                        ids.setdefault(i, int(origin))
            elif record.headers["type"] == GAP:
                gaps.append(GapRecord.decode(record.value))
    return ids, gaps


def ledger_ids(simulator: Simulator, exchange: str) -> list[int]:
    return simulator.ledgers[exchange].trades(KEYS[exchange]).id.tolist()


KEY_WANTED = Throttle(401, 1.0, 0.0, "/fapi/v1/historicalTrades")


@pytest.mark.parametrize(
    ("exchange", "throttles"), [(BINANCE, []), (BINANCE, [KEY_WANTED]), (OKX, [])]
)
async def test_dropped_trades_are_healed(
    log: SqliteLog, exchange: str, throttles: list[Throttle]
) -> None:
    faults = DataFaults(3, [Fault("drop", STREAMS[exchange], chance=0.01, n=4)], throttles)
    async with Simulator(
        {exchange: feed(exchange, 60)}, speed=20, streams=2, faults=faults
    ) as simulator:
        async with collecting(log, simulator, exchange) as collector:
            await until(simulator.finished.is_set)
            await asyncio.sleep(0.7)  # the bound of reordering, after which a hole is a gap
            await until(lambda: not collector.healing)
        expected = ledger_ids(simulator, exchange)
    ids, gaps = await trades_on(log)
    assert faults.struck["drop"] > 5
    closed = [g for g in gaps if g.state != "open"]
    assert len(closed) == len(gaps) / 2
    unlisted = {
        i
        for g in closed
        for i in range(g.first_missing or 0, (g.last_missing or 0) + 1)
        if i not in ids
    }
    assert {g.state for g in closed} <= {"healed", "partly", "unhealable"}
    # A stream's very last frames may be dropped with nothing behind them to tell.
    known = [i for i in expected if i <= max(ids)]
    assert set(known) <= set(ids) | unlisted
    # Binance's fillers are in no history, and of an aggregate no part can be had.
    assert len(unlisted) <= (sum(g.missing or 0 for g in closed) if throttles else 1)
    assert sum(origin == HEALED for origin in ids.values()) >= sum(g.healed for g in closed) > 3


async def test_a_collector_that_was_gone_heals_from_its_last_id_on_the_log(log: SqliteLog) -> None:
    async with Simulator({BINANCE: feed(BINANCE, 90)}, speed=20) as simulator:
        async with collecting(log, simulator, BINANCE) as first:
            await until(lambda: first.ticks > 300)
        seen, _ = await trades_on(log)
        await until(lambda: ledger_ids(simulator, BINANCE)[-1] > max(seen) + 20)
        async with collecting(log, simulator, BINANCE) as second:
            await until(simulator.finished.is_set)
            await until(lambda: second.ticks > 0 and not second.healing)
            await asyncio.sleep(0.7)  # the bound of reordering
            await until(lambda: not second.healing)
        expected = ledger_ids(simulator, BINANCE)
    ids, gaps = await trades_on(log)
    assert [i for i in expected if min(ids) <= i <= max(ids)] == sorted(ids)
    (done,) = [g for g in gaps if g.state != "open"]
    assert (done.state, done.reason, done.missing) == ("healed", "restart", 0)
    assert done.first_missing == max(seen) + 1


async def test_without_rest_a_gap_is_recorded_as_open_and_found_again(log: SqliteLog) -> None:
    faults = DataFaults(3, [Fault("drop", "*@trade", between=(10, 14))])
    async with Simulator(
        {BINANCE: feed(BINANCE, 30)}, speed=20, streams=2, faults=faults
    ) as simulator:
        async with collecting(log, simulator, BINANCE, rest_url=None):
            await until(simulator.finished.is_set)
            await until(lambda: faults.struck["drop"] > 0)
        _, gaps = await trades_on(log)
        (gap,) = gaps
        assert (gap.state, gap.healed, gap.reason) == ("open", 0, SEQUENCE)
        symbols = [gap.symbol]
        checks = await resume(log, BINANCE, symbols, PARTITIONS, aggregated=False)
        (again,) = checks.due()
        assert (again.first_missing, again.last_missing) == (gap.first_missing, gap.last_missing)
        # A later session heals it, and then it is settled.
        async with collecting(log, simulator, BINANCE) as collector:
            await until(lambda: collector.healing > 0)
            await until(lambda: not collector.healing)
        expected = ledger_ids(simulator, BINANCE)
    ids, _ = await trades_on(log)
    assert [i for i in expected if min(ids) <= i <= max(ids)] == sorted(ids)
    checks = await resume(log, BINANCE, symbols, PARTITIONS, aggregated=False)
    assert checks.due() == []


def gap(first: int, last: int) -> Gap:
    return Gap("s", IDS, first, last, last - first + 1, SEQUENCE, 0, 10**9, time.time_ns())


def answering(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[httpx.Response]
) -> list[httpx.Request]:
    """The venue answers so, the last answer again and again; what it was asked, as it is."""
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers[min(len(asked), len(answers)) - 1]

    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.001)
    real = httpx.AsyncClient
    monkeypatch.setattr(
        module.httpx,
        "AsyncClient",
        lambda **options: real(transport=httpx.MockTransport(answer), **options),
    )
    return asked


async def healed(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[httpx.Response], missing: Gap
) -> tuple[list[Print], GapRecord, list[httpx.Request]]:
    """What a Binance gap comes to when the venue answers so."""
    asked = answering(monkeypatch, answers)
    prints: list[Print] = []
    closed: list[GapRecord] = []
    healer = made(closed, prints)
    running = asyncio.create_task(healer.run())
    healer.add(missing)
    await until(lambda: not healer.waiting)
    await cancelled(running)
    (record,) = closed
    return prints, record, asked


def made(closed: list[GapRecord], prints: list[Print]) -> Healer:
    natives = {"s": "BTCUSDT"}
    return Healer(
        BINANCE,
        "http://venue",
        natives,
        ArrivalClock(),
        lambda symbol, page: prints.extend(page),
        closed.append,
    )


def listed(*ids: int) -> httpx.Response:
    fields = {"price": "1.5", "qty": "2", "time": 1_791_269_849_801, "isBuyerMaker": True}
    return httpx.Response(200, content=orjson.dumps([{"id": i, **fields} for i in ids]))


async def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(0)

    refused = [httpx.Response(s, headers={"Retry-After": w}) for s, w in ((429, "7"), (418, "31"))]
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    prints, record, asked = await healed(monkeypatch, [*refused, listed(5, 6, 7)], gap(5, 6))
    assert [s for s in slept if s in (7.0, 31.0)] == [7.0, 31.0]
    assert len(asked) == 3
    assert asked[0].url.params["fromId"] == "5"
    assert [p.id for p in prints] == [5, 6]
    assert (record.state, record.healed, record.missing) == ("healed", 2, 0)


@pytest.mark.parametrize(
    ("answers", "state", "healed_count", "missing", "why"),
    [
        ([listed(6, 9)], "healed", 1, 0, ""),
        ([listed(9)], "unhealable", 0, 4, "lists no market trade"),
        ([listed(5), listed()], "partly", 1, 3, "ends inside"),
        ([httpx.Response(401, text="API-key")], "unhealable", 0, 4, "aggTrades answered 401"),
        ([httpx.Response(404, text="none")], "unhealable", 0, 4, "answered 404: none"),
        ([httpx.Response(500)] * 9 + [listed(5, 6, 7, 8)], "healed", 4, 0, ""),
        ([httpx.Response(451)] * 3 + [listed(5, 6, 7, 8)], "healed", 4, 0, ""),
        ([listed(5), httpx.Response(503), listed(6, 7, 8)], "healed", 4, 0, ""),
        ([httpx.Response(200, text="<html>")], "unhealable", 0, 4, "not JSON"),
        ([httpx.Response(200, text='{"code":1}')], "unhealable", 0, 4, "not a list"),
        ([httpx.Response(200, text='[{"id":"x"}]')], "unhealable", 0, 4, "bad answer"),
        ([listed(), listed(5, 6, 7, 8, 9)], "healed", 4, 0, ""),
    ],
)
async def test_what_healing_comes_to(
    monkeypatch: pytest.MonkeyPatch,
    answers: Sequence[httpx.Response],
    state: str,
    healed_count: int,
    missing: int,
    why: str,
) -> None:
    _, record, _ = await healed(monkeypatch, answers, gap(5, 8))
    assert (record.state, record.healed, record.missing) == (state, healed_count, missing)
    assert why in record.why


async def test_a_gap_stays_open_while_the_venue_does_not_answer_and_is_healed_when_it_does(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(module, "MAX_RETRY_S", 0.02)
    faults = DataFaults(3, [Fault("drop", "*@trade", chance=0.01, n=4)])
    async with Simulator(
        {BINANCE: feed(BINANCE, 60)}, speed=20, streams=2, faults=faults
    ) as simulator:
        refused = rest.metrics.REST_REQUESTS.labels(BINANCE, "failed")._value
        before, port = refused.get(), free_port()
        away = f"http://127.0.0.1:{port}"
        async with collecting(log, simulator, BINANCE, rest_url=away) as collector:
            await until(simulator.finished.is_set)
            await asyncio.sleep(0.7)  # the bound of reordering, after which a hole is a gap
            await until(lambda: refused.get() > before + 20)
            _, gaps = await trades_on(log)
            assert collector.healing == len(gaps) > 0
            assert {g.state for g in gaps} == {"open"}
            async with forwarding(port, simulator.port):
                await until(lambda: not collector.healing)
        expected = ledger_ids(simulator, BINANCE)
    ids, gaps = await trades_on(log)
    assert Counter(g.state for g in gaps)["open"] == len(gaps) / 2
    healed_count = sum(g.healed for g in gaps)
    assert len({i for i in expected if min(ids) <= i <= max(ids)} - set(ids)) <= 1
    assert healed_count > 3


async def test_a_gap_that_would_take_all_of_the_budget_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, record, asked = await healed(monkeypatch, [listed()], gap(1, module.MAX_MISSING + 1))
    assert asked == []
    assert record.state == "unhealable"


async def test_more_gaps_than_can_wait_are_told_the_longest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    answering(monkeypatch, [listed(5, 6, 7, 8)])
    closed: list[GapRecord] = []
    healer = made(closed, [])
    for last in (7, 6, 8, 5):
        healer.add(gap(5, last))
    assert closed == []  # what found them has to record them first
    running = asyncio.create_task(healer.run())
    await until(lambda: not healer.waiting)
    await cancelled(running)
    states = {record.last_missing: record.state for record in closed}
    assert states == {5: "healed", 6: "healed", 7: "unhealable", 8: "unhealable"}
    assert {r.why for r in closed if r.missing} == {"more than 2 gaps wait"}


async def test_a_gap_older_than_the_venues_history_is_asked_for_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = replace(gap(5, 8), local_ts=time.time_ns() - module.HISTORY_NS[BINANCE] - 1)
    _, record, asked = await healed(monkeypatch, [httpx.Response(503)], old)
    assert len(asked) == 1
    assert record.state == "unhealable"
    assert "503" in record.why


@pytest.mark.parametrize(
    ("answers", "state", "healed_count", "why"),
    [
        ([listed(4)], "healed", 0, ""),
        ([listed(7), listed(5, 7)], "healed", 2, ""),
        ([listed(7), listed(5), listed()], "partly", 1, "ends inside"),
        ([listed()], "unhealable", 0, "ends inside"),
        ([listed(5 + module.MAX_MISSING)], "unhealable", 0, "more than"),
        ([httpx.Response(400, text="Invalid symbol")], "unhealable", 0, "Invalid symbol"),
    ],
)
async def test_the_last_trade_of_a_delisted_symbol_says_where_its_gap_ends(
    monkeypatch: pytest.MonkeyPatch,
    answers: Sequence[httpx.Response],
    state: str,
    healed_count: int,
    why: str,
) -> None:
    now = time.time_ns()
    _, record, asked = await healed(monkeypatch, answers, last_trades("s", 5, now - 9, now))
    assert (record.state, record.healed) == (state, healed_count)
    assert (record.first_missing, record.last_missing) == (5, None)
    assert record.missing == (0 if state == "healed" else None)
    assert why in record.why
    assert asked[0].url.path == "/fapi/v1/trades"


async def test_an_earlier_sessions_gap_of_a_symbol_not_collected_any_more_ends_the_gap_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, record, asked = await healed(monkeypatch, [listed()], replace(gap(1, 4), symbol="gone"))
    assert asked == []
    assert (record.state, record.why) == ("unhealable", "the symbol is not collected any more")


async def test_the_budget_lets_a_burst_through_and_then_its_rate() -> None:
    loop = asyncio.get_running_loop()
    budget = Budget(rate=200.0, burst=20.0)
    began = loop.time()
    for _ in range(2):
        await budget.take(10)
    assert loop.time() - began < 0.05
    for _ in range(2):
        await budget.take(10)
    assert loop.time() - began >= 0.1
