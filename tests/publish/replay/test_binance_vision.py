"""Binance Vision's zips, made in the layouts of binance-public-data."""

from pathlib import Path

import pytest

from publish.replay.importing import ImportOptions
from publish.replay.sources.base import SourceError
from tests.publish.replay.archives import (
    AGG_HEADER,
    AGG_TRADES,
    BOOK_HEADER,
    DAY_MS,
    DAY_NS,
    TRADES_HEADER,
    imported,
    rows_of,
    text_of,
    zipped,
)

BTC = "perpetual-BTC-USDT:USDT"
NAME = "BTCUSDT-aggTrades-2024-01-01.zip"
MS = 1_000_000
DAY = 86_400_000_000_000


@pytest.mark.parametrize("header", [AGG_HEADER, None])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_agg_trades(header: str | None, end: str, tmp_path: Path) -> None:
    """As the venue's own stream: id of the last fill, count l − f + 1, the maker's side turned."""
    path = zipped(tmp_path / NAME, text_of(header, AGG_TRADES, end), checksum=True)
    found, store = imported(tmp_path, path)
    rows = rows_of(store, found, "trades").to_pydict()
    assert rows["exchange"] == ["binance-futures"] * 3
    assert rows["symbol"] == [BTC] * 3
    assert rows["id"] == [4426132970, 4426132973, 4426132974]
    assert rows["count"] == [1, 3, 1]
    assert rows["side"] == [-1, 1, 1]
    assert rows["price"] == [42313.9, 42314.0, 42314.0]
    assert rows["qty"] == [0.020, 0.117, 1.0]
    assert rows["notional"] == [42313.9 * 0.020, 42314.0 * 0.117, 42314.0]
    assert rows["exchange_ts"] == [DAY_NS + n * MS for n in (3, 125, 86_399_999)]
    assert rows["local_ts"] == rows["exchange_ts"]
    assert rows["origin"] == rows["off_book"] == [0, 0, 0]
    assert rows["collector"] == ["binance-vision"] * 3
    assert rows["row"] == [0, 1, 2]
    [of] = found
    assert of.arrival == "none"
    assert of.kinds == ["trades"]
    # A file is the whole of its day, whenever the first trade was.
    assert of.coverage == [(BTC, DAY_NS, DAY_NS + DAY, DAY_NS, DAY_NS + DAY, False)]
    assert of.problems == []


def test_trades(tmp_path: Path) -> None:
    row = f"4426132970,42313.9,0.020,846.278,{DAY_MS + 3},True"
    path = zipped(tmp_path / "ETHUSDC-trades-2024-01-01.zip", text_of(TRADES_HEADER, [row]))
    found, store = imported(tmp_path, path)
    [trade] = rows_of(store, found, "trades").to_pylist()
    assert (trade["symbol"], trade["id"], trade["count"]) == (
        "perpetual-ETH-USDC:USDC",
        4426132970,
        1,
    )
    assert (trade["side"], trade["notional"]) == (-1, 42313.9 * 0.020)


def test_book_ticker(tmp_path: Path) -> None:
    """The event time, as live; the number of the update; an empty side has no price."""
    rows = [
        f"3713130124012,42313.8,9.1,42313.9,2.5,{DAY_MS + 5},{DAY_MS + 9}",
        f"3713130124013,0,0,42313.9,2.5,{DAY_MS + 5},{DAY_MS + 10}",
    ]
    path = zipped(tmp_path / "BTCUSDT-bookTicker-2024-01.zip", text_of(BOOK_HEADER, rows))
    found, store = imported(tmp_path, path)
    first, second = rows_of(store, found, "quotes").to_pylist()
    assert first["exchange_ts"] == DAY_NS + 9 * MS
    assert first["sequence"] == 3713130124012
    quote = [first[f"{side}_{of}"] for side in ("bid", "ask") for of in ("price", "qty")]
    assert quote == [42313.8, 9.1, 42313.9, 2.5]
    assert second["bid_price"] != second["bid_price"]
    assert found[0].coverage == [(BTC, *(DAY_NS, DAY_NS + 31 * DAY) * 2, False)]


def test_microseconds(tmp_path: Path) -> None:
    """As the spot archives have them since 2025: told apart by their digits."""
    row = f"1,42313.9,0.020,7,8,{DAY_MS}123,true"
    path = zipped(tmp_path / NAME, text_of(AGG_HEADER, [row]))
    found, store = imported(tmp_path, path)
    assert rows_of(store, found, "trades")["exchange_ts"].to_pylist() == [DAY_NS + 123_000]


def test_an_assumed_latency(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME, text_of(AGG_HEADER, AGG_TRADES))
    found, store = imported(tmp_path, path, options=ImportOptions(assume_latency_ns=5 * MS))
    rows = rows_of(store, found, "trades")
    assert rows["local_ts"].to_numpy().tolist() == [
        ts + 5 * MS for ts in rows["exchange_ts"].to_pylist()
    ]
    assert found[0].arrival == "assumed:5000000"
    late = DAY_NS + 5 * MS
    assert found[0].coverage == [(BTC, late, late + DAY, DAY_NS, DAY_NS + DAY, False)]


def test_coin_margined_needs_the_contract_size(tmp_path: Path) -> None:
    name = "BTCUSD_PERP-aggTrades-2024-01-01.zip"
    path = zipped(tmp_path / name, text_of(AGG_HEADER, AGG_TRADES))
    with pytest.raises(SourceError, match="BTCUSD_PERP: pass --instruments"):
        imported(tmp_path, path)
    listed = tmp_path / "exchangeInfo.json"
    listed.write_text(
        '{"symbols":[{"symbol":"BTCUSD_PERP","contractType":"PERPETUAL","baseAsset":"BTC",'
        '"quoteAsset":"USD","marginAsset":"BTC","contractSize":100,"status":"TRADING"}]}'
    )
    found, store = imported(tmp_path, path, options=ImportOptions(instruments=(str(listed),)))
    last = rows_of(store, found, "trades").to_pylist()[-1]
    assert (last["symbol"], last["notional"]) == ("perpetual-BTC-USD:BTC", 100.0)
    assert last["qty"] == 100.0 / 42314.0


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("BTCUSDT-aggTrades-2024-01-01.zip", f"{AGG_TRADES[0]},true"),
        ("BTCUSDT-trades-2024-01-01.zip", f"1,42313.9,0.020,846.278,{DAY_MS},true,true"),
    ],
)
def test_spot_is_refused(name: str, row: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{name} is of the spot market"):
        imported(tmp_path, zipped(tmp_path / name, text_of(None, [row])))


def test_a_checksum_that_differs(tmp_path: Path) -> None:
    path = Path(zipped(tmp_path / NAME, text_of(AGG_HEADER, AGG_TRADES), checksum=True))
    path.with_name(f"{NAME}.CHECKSUM").write_text(f"{'0' * 64}  {NAME}\n")
    with pytest.raises(SourceError, match=rf"{NAME}: its sha256 is \w+, {NAME}.CHECKSUM says 000"):
        imported(tmp_path, str(path))
