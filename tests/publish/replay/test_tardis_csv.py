"""Tardis' daily CSV files, made in the layouts of docs.tardis.dev."""

from pathlib import Path

import numpy as np
import pytest

from aggregate.seen import QuoteCopies
from publish.replay.importing import ImportOptions
from publish.replay.sources.base import SourceError
from tests.publish.replay.archives import (
    DAY_MS,
    DAY_NS,
    TARDIS_BOOK,
    TARDIS_QUOTES,
    TARDIS_TRADES,
    gzipped,
    imported,
    rows_of,
    text_of,
)

US = DAY_MS * 1_000
BTC = "perpetual-BTC-USDT:USDT"
DAY = 86_400_000_000_000
FILE = "binance-futures_{}_2024-01-01_{}.csv.gz"


def of(name: str, *values: object) -> str:
    exchange, symbol = name.split("/")
    return ",".join([exchange, symbol, *map(str, values)])


def test_trades(tmp_path: Path) -> None:
    rows = [
        of("binance-futures/BTCUSDT", US + 1_000, US + 3_500, 7, "buy", 42313.9, 0.02),
        of("binance-futures/ETHUSDT", US + 2_000, US + 3_600, 9, "sell", 2300.5, 3),
        of("binance-futures/BTCUSDT", US + 9_000, US + 12_000, 8, "sell", 42313.8, 1),
        of("binance-futures/BTCUSDT", US + 9_000, US + 12_000, 9, "unknown", 42313.8, 1),
    ]
    path = gzipped(tmp_path / FILE.format("trades", "PERPETUALS"), text_of(TARDIS_TRADES, rows))
    found, store = imported(tmp_path, path)
    trades = rows_of(store, found, "trades")
    assert trades["symbol"].to_pylist() == [BTC, BTC, "perpetual-ETH-USDT:USDT"]
    assert trades["id"].to_pylist() == [7, 8, 9]
    assert trades["side"].to_pylist() == [1, -1, -1]
    assert trades["exchange_ts"].to_pylist() == [DAY_NS + n for n in (10**6, 9 * 10**6, 2 * 10**6)]
    assert trades["local_ts"].to_pylist() == [DAY_NS + n * 100_000 for n in (35, 120, 36)]
    assert trades["row"].to_pylist() == [0, 2, 1]
    [one] = found
    assert one.arrival == "recorded"
    # The day is cut by arrival; what happened at its end may arrive in the next.
    assert one.coverage[0] == (BTC, DAY_NS, DAY_NS + DAY, DAY_NS, DAY_NS + 9 * 10**6 + 1, False)
    assert one.skipped == {"a value out of range": 1}
    assert one.problems == [f"{path}:5: a value out of range, skipped"]


def test_quotes(tmp_path: Path) -> None:
    rows = [
        of("binance-futures/BTCUSDT", US, US + 10, 2.5, 101, 100, 1.5),
        of("binance-futures/BTCUSDT", US, US + 10, "", "", 100, 1.5),
        of("binance-futures/BTCUSDT", US, US + 11, 2.5, 101, 100, 1.5),
    ]
    path = gzipped(tmp_path / FILE.format("quotes", "BTCUSDT"), text_of(TARDIS_QUOTES, rows))
    found, store = imported(tmp_path, path)
    quotes = rows_of(store, found, "quotes")
    first, second, third = quotes.to_pylist()
    assert [first[f"{s}_{v}"] for s in ("bid", "ask") for v in ("price", "qty")] == [
        *(100.0, 1.5),
        *(101.0, 2.5),
    ]
    assert np.isnan([second["ask_price"], second["ask_qty"]]).all()
    assert second["bid_price"] == 100.0
    # The third is as the first was, in the same millisecond: no copy.
    columns = [quotes[name].to_numpy() for name in ("sequence", "exchange_ts")]
    none = lambda: np.zeros(3, np.uint64)  # noqa: E731
    assert QuoteCopies().fresh(np.zeros(3, np.int32), *columns, none, 0).all()
    assert first["sequence"] < second["sequence"] < third["sequence"]


@pytest.mark.parametrize("path", ["quotes/2024/01/02/X.csv.gz", "sub/x_2024-01-02_y.csv.gz"])
def test_the_day_is_in_the_name_or_in_the_path(path: str, tmp_path: Path) -> None:
    rows = [of("hyperliquid/KPEPE", US + DAY // 1_000 + 7, US + DAY // 1_000 + 9, 2, 3, 1, 2)]
    found, _ = imported(tmp_path, gzipped(tmp_path / path, text_of(TARDIS_QUOTES, rows)))
    symbol, *stamps, _ = found[0].coverage[0]
    assert symbol == "perpetual-KPEPE-USDC:USDC"
    assert stamps[:3] == [DAY_NS + DAY, DAY_NS + 2 * DAY, DAY_NS + DAY]


def test_a_file_that_says_no_day_covers_what_it_has(tmp_path: Path) -> None:
    rows = [
        of("binance-futures/BTCUSDT", US, US + 10, 2.5, 101, 100, 1.5),
        of("binance-futures/BTCUSDT", US + 50, US + 60, 2.5, 101, 100, 1.6),
    ]
    found, _ = imported(tmp_path, gzipped(tmp_path / "x.csv.gz", text_of(TARDIS_QUOTES, rows)))
    stamps = DAY_NS + 10_000, DAY_NS + 60_001, DAY_NS + 10_000, DAY_NS + 50_001
    assert found[0].coverage == [(BTC, *stamps, False)]


def test_book_snapshots_give_a_quote_where_the_best_level_changed(tmp_path: Path) -> None:
    def book(at: int, ask: float, ask_size: float, second_bid: float) -> str:
        levels = [ask, ask_size, 100, 7, ask + 1, 1, second_bid, 1, *[""] * 12]
        return of("binance-futures/BTCUSDT", US + at, US + at + 5, *levels)

    rows = [book(1, 101, 2, 99), book(2, 101, 2, 98), book(3, 101, 3, 98), book(4, 101, 3, 97)]
    path = gzipped(tmp_path / FILE.format("book_snapshot_5", "BTCUSDT"), text_of(TARDIS_BOOK, rows))
    found, store = imported(tmp_path, path)
    quotes = rows_of(store, found, "quotes").to_pydict()
    assert quotes["row"] == [0, 2]
    assert quotes["ask_qty"] == [2.0, 3.0]
    assert quotes["bid_price"] == [100.0, 100.0]
    assert found[0].read == {"rows": 4, "quotes": 2}


def test_contract_sizes_as_of_the_ticks_time(tmp_path: Path) -> None:
    """OKX counts contracts; their size on the day is that of the newest list until then."""

    def listing(size: str) -> str:
        return (
            '{"code":"0","data":[{"instType":"SWAP","instId":"PEPE-USDT-SWAP","ctType":"linear",'
            f'"settleCcy":"USDT","ctVal":"{size}","ctMult":"1","state":"live"}}]}}'
        )

    (tmp_path / "old.json").write_text(listing("10"))
    (tmp_path / "new.json").write_text(listing("1000"))
    noon = US + 43_200 * 10**6
    rows = [
        of("okex-swap/PEPE-USDT-SWAP", at, at + 9, i, "buy", 2, 3)
        for i, at in enumerate([US - 1, US, noon, US + 86_400 * 10**6])
    ]
    path = gzipped(tmp_path / "pepe.csv.gz", text_of(TARDIS_TRADES, rows))
    lists = tuple(
        f"{day}={tmp_path}/{n}.json" for day, n in (("2023-12-01", "old"), ("2024-01-01", "new"))
    )
    found, store = imported(tmp_path, path, options=ImportOptions(instruments=lists))
    assert rows_of(store, found, "trades")["qty"].to_pylist() == [30.0, 3e3, 3e3, 3e3]
    with pytest.raises(SourceError, match="contract sizes are in no name: pass --instruments"):
        imported(tmp_path, path)


@pytest.mark.parametrize(
    ("name", "header", "row", "reason"),
    [
        ("x_liquidations_2024-01-01_B.csv.gz", TARDIS_TRADES, "", "not this one"),
        (
            "x.csv.gz",
            "exchange,symbol,timestamp,local_timestamp,is_snapshot,side,price,amount",
            "",
            "not this one",
        ),
        ("x.csv.gz", TARDIS_TRADES.replace(",price", ""), "", "the column price is missing"),
        ("x.csv.gz", TARDIS_TRADES, of("deribit/BTC", US, US, 1, "buy", 1, 1), "'deribit' is no"),
    ],
)
def test_what_is_refused(name: str, header: str, row: str, reason: str, tmp_path: Path) -> None:
    path = gzipped(tmp_path / name, text_of(header, [row] if row else []))
    with pytest.raises(SourceError, match=reason):
        imported(tmp_path, path)


def test_another_exchange_than_the_one_asked_for(tmp_path: Path) -> None:
    rows = [of("hyperliquid/BTC", US, US + 5, 1, "buy", 1, 1)]
    path = gzipped(tmp_path / "x.csv.gz", text_of(TARDIS_TRADES, rows))
    with pytest.raises(SourceError, match="is of hyperliquid-perps, not okx-perps: leave --venue"):
        imported(tmp_path, path, options=ImportOptions(exchange="okx-perps"))
