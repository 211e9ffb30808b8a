"""The simulated venues' REST history, asked through the walks that fill gaps with it."""

from dataclasses import replace
from math import inf

import httpx
import numpy as np
import orjson
import pytest

from ingest.gaps import IDS, SEQUENCE, Gap
from ingest.history import Print, walk
from ingest.simulator import EXCHANGES, Simulator
from ingest.simulator.data_faults import DataFaults, Throttle
from ingest.simulator.ledger import RECENT_FILLS, Ledger, Trades
from ingest.simulator.listings import BINANCE, DEFAULT_NATIVES, HYPERLIQUID, OKX, many_natives
from ingest.ticks import BUY, SELL
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


def ids_and_counts(made: Trades, rows: slice) -> list[tuple[int, int]]:
    counts = made.id - made.first + 1
    return list(zip(made.id[rows].tolist(), counts[rows].tolist(), strict=True))


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
    made = book.trades(KEYS[BINANCE])
    ids = made.id[100:1_800]
    found, why = walked(book, BINANCE, gap(int(ids[0]), int(ids[-1])))
    assert why == ""
    listed = np.isin(made.id, ids) & made.market
    columns = (made.id, made.price, made.size, made.ms, np.where(made.buy, BUY, SELL))
    assert [(p.id, p.price, p.size, p.exchange_ms, p.side) for p in found] == list(
        zip(*(column[listed].tolist() for column in columns), strict=True)
    )
    assert {p.count for p in found} == {1}


def test_binance_aggregates_of_a_gap() -> None:
    book = ledger(BINANCE)
    made = book.trades("btcusdt@aggTrade")
    ends = int(made.number[3]), int(made.number[19])
    found, why = walked(book, BINANCE, gap(int(made.first[3]), int(made.id[19]), ends))
    assert why == ""
    assert [(p.id, p.count) for p in found] == ids_and_counts(made, slice(3, 20))


@pytest.mark.parametrize("seconds", [60, 600])
def test_binance_trades_of_a_gap_by_time_as_aggregates(seconds: float) -> None:
    book = ledger(BINANCE, seconds)
    made = book.trades("btcusdt@aggTrade")
    ends = (int(made.ms[19]) * 10**6, int(made.ms[-20]) * 10**6)
    whole = replace(
        gap(int(made.first[20]), int(made.id[-21])), exchange_ts=ends[0], exchange_to=ends[1]
    )
    found, why = walked(book, BINANCE, whole, trades=False)
    assert why == ""
    assert [(p.id, p.count) for p in found] == ids_and_counts(made, slice(20, -20))
    # Of an aggregate that is only in part inside, nothing can be had.
    split = next(i for i in range(20, len(made)) if made.first[i] < made.id[i])
    part = replace(whole, first_missing=int(made.id[split]))
    found, why = walked(book, BINANCE, part, trades=False)
    assert "part of an aggregate" in why
    assert [p.id for p in found] == made.id[split + 1 : -20].tolist()


def test_okx_fills_of_a_gap_over_pages() -> None:
    book = ledger(OKX, 200)
    missing = book.trades(KEYS[OKX]).id[5:340].tolist()
    found, why = walked(book, OKX, gap(missing[0], missing[-1]))
    assert why == ""
    assert sorted(p.id for p in found) == missing


def test_hyperliquid_lists_the_last_fills_newest_first() -> None:
    book = ledger(HYPERLIQUID)
    ids = book.trades(KEYS[HYPERLIQUID]).id.tolist()
    answer = book.answer("/info", {"type": "recentTrades", "coin": "BTC"})
    assert answer is not None
    assert [r["tid"] for r in orjson.loads(answer[1])] == ids[: -RECENT_FILLS - 1 : -1]


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_every_trade_is_kept_from_the_first_on(exchange: str) -> None:
    """As many as an hour's: what is read again from the frames is what the columns hold."""
    made = ledger(exchange, 900).trades(KEYS[exchange])
    pushed = [orjson.loads(event[2])["data"] for event in events(exchange, 900, [KEYS[exchange]])]
    rows = [r for data in pushed for r in (data if isinstance(data, list) else [data])]
    assert len(made) == len(rows) > 5_000
    id_name, price, size, ms = {
        BINANCE: ("t", "p", "q", "T"),
        OKX: ("tradeId", "px", "sz", "ts"),
        HYPERLIQUID: ("tid", "px", "sz", "time"),
    }[exchange]
    assert made.id.tolist() == [int(r[id_name]) for r in rows]
    assert made.ms.tolist() == [int(r[ms]) for r in rows]
    assert made.price.tolist() == [float(r[price]) for r in rows]
    assert made.size.tolist() == [float(r[size]) for r in rows]
    buys = [r["m"] is False if exchange == BINANCE else r["side"] in ("buy", "B") for r in rows]
    assert made.buy.tolist() == buys
    assert made.market.tolist() == [r.get("X", "MARKET") == "MARKET" for r in rows]


@pytest.mark.parametrize("exchange", [BINANCE, OKX])
def test_what_the_market_has_not_made_yet_is_not_listed(exchange: str) -> None:
    book = ledger(exchange)
    last = int(book.trades(KEYS[exchange]).id[-1])
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
                made = simulator.ledgers[BINANCE].trades(KEYS[BINANCE])
                assert [r["id"] for r in found.json()] == made.id[made.market][-100:].tolist()
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
