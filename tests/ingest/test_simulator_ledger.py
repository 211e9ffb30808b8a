"""The simulated venues' REST history, asked through the walks that fill gaps with it."""

from dataclasses import replace
from math import inf

import httpx
import orjson
import pytest

from ingest.continuity import IDS, SEQUENCE, Gap
from ingest.history import Print, walk
from ingest.simulator import EXCHANGES, Simulator
from ingest.simulator.data_faults import DataFaults, Throttle
from ingest.simulator.ledger import RECENT_FILLS, Ledger
from ingest.simulator.listings import BINANCE, DEFAULT_NATIVES, HYPERLIQUID, OKX, many_natives
from tests.ingest.simulating import START, events, eventually, feed, market

KEYS = {
    BINANCE: "btcusdt@trade",
    OKX: "trades-all:BTC-USDT-SWAP",
    HYPERLIQUID: "trades:BTC",
}


def ledger(exchange: str, seconds: float = 60) -> Ledger:
    book = Ledger(exchange)
    keys = [KEYS[exchange], "btcusdt@aggTrade"]
    for event in events(exchange, seconds, keys):
        book.add(event)
    return book


def gap(first: int, last: int, aggregates: tuple[int, int] | None = None) -> Gap:
    ends = (START, START + 60 * 10**9)
    return Gap("s", IDS, first, last, last - first + 1, SEQUENCE, *ends, START, aggregates)


def walked(
    book: Ledger, exchange: str, missing: Gap, *, trades: bool = True
) -> tuple[list[Print], str]:
    steps = walk(exchange, DEFAULT_NATIVES[exchange][0], missing, trades=trades)
    found: list[Print] = []
    while (request := steps.next()) is not None:
        answer = book.answer(request.path, {**request.params, **(request.body or {})})
        assert answer is not None
        found += steps.take(orjson.loads(answer[1]))
        if steps.behind:
            break
    return found, steps.why()


def test_binance_trades_of_a_gap_over_pages() -> None:
    book = ledger(BINANCE, 400)
    rows = book.trades(KEYS[BINANCE])
    missing = rows[100:1_800]
    found, why = walked(book, BINANCE, gap(missing[0]["t"], missing[-1]["t"]))
    assert why == ""
    market_trades = [r for r in missing if r["X"] == "MARKET"]
    assert [(p.id, p.price, p.size) for p in found] == [
        (r["t"], float(r["p"]), float(r["q"])) for r in market_trades
    ]
    assert {p.count for p in found} == {1}


def test_binance_aggregates_of_a_gap() -> None:
    book = ledger(BINANCE)
    missing = book.trades("btcusdt@aggTrade")[3:20]
    ends = (missing[0]["a"], missing[-1]["a"])
    found, why = walked(book, BINANCE, gap(missing[0]["f"], missing[-1]["l"], ends))
    assert why == ""
    assert [(p.id, p.count) for p in found] == [(r["l"], r["l"] - r["f"] + 1) for r in missing]


@pytest.mark.parametrize("seconds", [60, 600])
def test_binance_trades_of_a_gap_by_time_as_aggregates(seconds: float) -> None:
    book = ledger(BINANCE, seconds)
    known = book.trades("btcusdt@aggTrade")
    missing = known[20:-20]
    ends = (known[19]["T"] * 10**6, known[-20]["T"] * 10**6)
    first, last = missing[0]["f"], missing[-1]["l"]
    whole = replace(gap(first, last), exchange_ts=ends[0], exchange_to=ends[1])
    found, why = walked(book, BINANCE, whole, trades=False)
    assert why == ""
    assert [(p.id, p.count) for p in found] == [(r["l"], r["l"] - r["f"] + 1) for r in missing]
    # Of an aggregate that is only in part inside, nothing can be had.
    split = next(i for i, r in enumerate(missing) if r["f"] < r["l"])
    part = replace(whole, first_missing=missing[split]["l"])
    found, why = walked(book, BINANCE, part, trades=False)
    assert "part of an aggregate" in why
    assert [p.id for p in found] == [r["l"] for r in missing[split + 1 :]]


def test_okx_fills_of_a_gap_over_pages() -> None:
    book = ledger(OKX, 200)
    missing = book.trades(KEYS[OKX])[5:340]
    found, why = walked(book, OKX, gap(int(missing[0]["tradeId"]), int(missing[-1]["tradeId"])))
    assert why == ""
    assert sorted(p.id for p in found) == [int(r["tradeId"]) for r in missing]


def test_hyperliquid_lists_the_last_fills_newest_first() -> None:
    book = ledger(HYPERLIQUID)
    rows = book.trades(KEYS[HYPERLIQUID])
    answer = book.answer("/info", {"type": "recentTrades", "coin": "BTC"})
    assert answer is not None
    assert [r["tid"] for r in orjson.loads(answer[1])] == [
        r["tid"] for r in rows[: -RECENT_FILLS - 1 : -1]
    ]


@pytest.mark.parametrize("exchange", [BINANCE, OKX])
def test_what_the_market_has_not_made_yet_is_not_listed(exchange: str) -> None:
    book = ledger(exchange)
    name = "t" if exchange == BINANCE else "tradeId"
    last = int(book.trades(KEYS[exchange])[-1][name])
    found, why = walked(book, exchange, gap(last + 3, last + 9))
    assert found == []
    assert "ends" in why


async def test_history_over_http_knows_what_was_dropped_and_refuses_now_and_then() -> None:
    faults = DataFaults(1, [], [Throttle(429, 0.5, 0.25)])
    async with (
        Simulator({e: feed(e, 30) for e in EXCHANGES}, speed=inf, faults=faults) as simulator,
        httpx.AsyncClient(base_url=simulator.rest_url) as client,
    ):
        await eventually(simulator.finished.is_set)
        seen: set[int] = set()
        while seen != {200, 429}:
            found = await client.get("/fapi/v1/historicalTrades", params={"symbol": "BTCUSDT"})
            seen.add(found.status_code)
            if found.status_code == 429:
                assert float(found.headers["Retry-After"]) == 0.25
            else:
                rows = simulator.ledgers[BINANCE].trades(KEYS[BINANCE])
                listed = [r["t"] for r in rows if r["X"] == "MARKET"]
                assert [r["id"] for r in found.json()] == listed[-100:]
        bad = await client.get("/fapi/v1/historicalTrades")
        while bad.status_code == 429:
            bad = await client.get("/fapi/v1/historicalTrades")
        assert bad.status_code == 400


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_made_up_instruments_trade_too(exchange: str) -> None:
    natives = many_natives(exchange, 3)
    made = market(exchange, natives=natives)
    assert [item.native for item in made.listings] == natives
    keys = {key for _, key, _ in next(iter(made.events()))}
    assert len({key[:10] for key in keys}) >= 1
    with pytest.raises(ValueError, match="SIM1"):
        market(exchange, natives=["SIM1"])
