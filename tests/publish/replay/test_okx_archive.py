"""OKX's own archives: real files of ../shared/data against the venue's candles, and made ones."""

import json
from pathlib import Path

import duckdb
import pytest

from publish.replay.importing import ImportOptions
from publish.replay.sources.base import SourceError
from tests.end_to_end.recordings import DATA, recording
from tests.publish.replay.archives import (
    DAY_MS,
    DAY_NS,
    OKX_NEW,
    OKX_OLD,
    imported,
    rows_of,
    text_of,
    zipped,
)

USDC = "perpetual-USDC-USDT:USDT"
NAME = "USDC-USDT-SWAP-trades-{}.zip"
DAY = 86_400_000_000_000
EIGHT_HOURS = DAY // 3
ROW = f"USDC-USDT-SWAP,3031489,sell,0.5,2.0,{DAY_MS}"


def listed() -> ImportOptions:
    return ImportOptions(instruments=(str(recording("okx/swap_USDC-USDT-SWAP.json")),))


def test_real_archives_against_the_venues_candles(tmp_path: Path) -> None:
    """215 minutes with trades, in contracts (10 USDC each), of pair 3 in MANIFEST.md."""
    days = [str(recording(f"okx/{NAME.format(f'2026-09-{day}')}")) for day in (26, 27, 28)]
    found, store = imported(tmp_path, *days, options=listed())
    trades = rows_of(store, found, "trades")
    assert trades.num_rows == 276 + 242 + 1134
    ids = trades["id"].to_numpy()
    assert (ids[1:] == ids[:-1] + 1).all()
    minutes = {
        minute: bar
        for minute, *bar in duckdb.sql(
            "select exchange_ts // 60000000000 * 60000, arg_min(price, id), max(price), "
            "min(price), arg_max(price, id), round(sum(qty) / 10) from trades group by 1"
        ).fetchall()
    }
    candles = [
        [float(value) for value in candle]
        for page in DATA.glob("okx/history-candles__after*.json")
        for candle in json.loads(page.read_bytes())["data"]
    ]
    compared = 0
    for minute, *ohlc, volume, _, _, _ in candles:
        if volume:
            assert minutes[int(minute)] == [*ohlc, volume]
            compared += 1
        else:
            assert int(minute) not in minutes
    assert compared == 215
    # The day is that of UTC+8.
    for n, of in enumerate(found):
        start = 1_790_352_000_000_000_000 + n * DAY
        assert of.coverage == [(USDC, *(start, start + DAY) * 2, False)]
        assert of.problems == []


@pytest.mark.parametrize(("header", "row"), [(OKX_OLD, ROW), (OKX_NEW, f"{ROW},0")])
def test_old_and_new_columns(header: str, row: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME.format("2024-01-01"), text_of(header, [row], "\r\n"))
    found, store = imported(tmp_path, path, options=listed())
    [trade] = rows_of(store, found, "trades").to_pylist()
    assert (trade["symbol"], trade["id"], trade["side"]) == (USDC, 3031489, -1)
    assert (trade["qty"], trade["notional"]) == (20.0, 10.0)
    assert trade["exchange_ts"] == DAY_NS
    start = DAY_NS - EIGHT_HOURS
    assert found[0].coverage == [(USDC, *(start, start + DAY) * 2, False)]


def test_a_month(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME.format("2024-02"), text_of(OKX_OLD, [ROW]))
    found, _ = imported(tmp_path, path, options=listed())
    start = DAY_NS + 31 * DAY - EIGHT_HOURS
    assert found[0].coverage == [(USDC, *(start, start + 29 * DAY) * 2, False)]
    assert found[0].problems == [
        f"{path}:2: 1 rows from here on are outside of the file's day, kept"
    ]


def test_sizes_are_never_guessed(tmp_path: Path) -> None:
    path = zipped(tmp_path / NAME.format("2024-01-01"), text_of(OKX_OLD, [ROW]))
    with pytest.raises(SourceError, match=r"USDC-USDT-SWAP: contract sizes .*--instruments"):
        imported(tmp_path, path)


def test_aggregated_trades_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "X-USDT-SWAP-aggtrades-2024-01-01.zip", text_of(OKX_OLD, [ROW]))
    with pytest.raises(SourceError, match="the trades are read, not the aggtrades"):
        imported(tmp_path, path, options=listed())
