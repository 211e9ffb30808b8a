"""The real CSV recordings of ../shared/data against DuckDB's own reading of them."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from tests.end_to_end.recordings import recording
from tests.publish.replay.archives import gzipped, imported, rows_of, text_of

PRICES = "timestamp,price,size,side,exchange_timestamp"
NS = 1_000_000_000


@pytest.mark.parametrize("coin", ["BTC", "SOL", "WLFI"])
def test_trades(coin: str, tmp_path: Path) -> None:
    path = recording(f"hyperliquid/20250904_trades_{coin}.csv.gz")
    found, store = imported(tmp_path, str(path))
    trades = rows_of(store, found, "trades").to_pandas()
    expected = duckdb.sql(f"select * from read_csv('{path}')").df()
    assert len(trades) == len(expected) == found[0].read["trades"]
    assert (trades["id"].to_numpy() == expected["trade_id"].to_numpy()).all()
    assert (trades["price"].to_numpy() == expected["price"].to_numpy()).all()
    assert (trades["qty"].to_numpy() == expected["size"].to_numpy()).all()
    assert ((trades["side"] == 1).to_numpy() == (expected["side"] == "buy").to_numpy()).all()
    stamps = expected["exchange_timestamp"].to_numpy() * 1_000_000
    assert (trades["exchange_ts"].to_numpy() == stamps).all()
    apart = trades["local_ts"].to_numpy() / NS - expected["timestamp"].to_numpy()
    assert np.abs(apart).max() < 1e-6
    assert set(trades["symbol"]) == {f"perpetual-{coin}-USDC:USDC"}
    assert found[0].arrival == "recorded"


@pytest.mark.parametrize("name", ["20250904_prices_BTC", "20250903_prices_ETH"])
def test_prices(name: str, tmp_path: Path) -> None:
    """One quote a message: its bid row and its ask row."""
    path = recording(f"hyperliquid/{name}.csv.gz")
    found, store = imported(tmp_path, str(path))
    quotes = rows_of(store, found, "quotes").to_pandas()
    rows = duckdb.sql(f"select * from read_csv('{path}')").df()
    bids, asks = rows[rows["side"] == "bid"], rows[rows["side"] == "ask"]
    assert len(quotes) == len(bids) == len(asks)
    for side, of in (("bid", bids), ("ask", asks)):
        assert (quotes[f"{side}_price"].to_numpy() == of["price"].to_numpy()).all()
        assert (quotes[f"{side}_qty"].to_numpy() == of["size"].to_numpy()).all()
    assert (quotes["exchange_ts"].to_numpy() == bids["exchange_timestamp"] * 1_000_000).all()


ROWS = [
    "1757015216.5,100,1,bid,1757015216253",
    "1757015216.5,101,2,ask,1757015216253",
    "1757015217.5,100,3,bid,1757015217253",
    "1757015218.5,102,4,ask,1757015218253",
    "1757015219.5,100,5,bid,1757015219253",
]


def test_messages_of_one_side(tmp_path: Path) -> None:
    path = gzipped(tmp_path / "20250904_prices_SOL.csv.gz", text_of(PRICES, ROWS))
    found, store = imported(tmp_path, path)
    quotes = rows_of(store, found, "quotes").to_pydict()
    assert quotes["bid_qty"][:2] + quotes["bid_qty"][3:] == [1.0, 3.0, 5.0]
    assert quotes["ask_qty"][::2] == [2.0, 4.0]
    assert [q != q for q in quotes["ask_qty"]] == [False, True, False, True]


def test_blocks_that_end_between_the_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gzipped(tmp_path / "20250904_prices_SOL.csv.gz", text_of(PRICES, ROWS * 3))
    whole = rows_of(*reversed(imported(tmp_path / "a", path)), "quotes")
    monkeypatch.setattr("publish.replay.sources.tables.BLOCK_BYTES", 50)
    parts = rows_of(*reversed(imported(tmp_path / "b", path)), "quotes")
    assert parts.to_pandas().equals(whole.to_pandas())
