"""A real recording, and the same ticks in the archives' layouts: the bars are the same."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aggregate.intervals import EXCHANGE
from aggregate.shard import Rules
from ingest.recorded import parse_chunk
from ingest.ticks import BUY, Quotes, Trades
from publish.layout import Series
from publish.replay.importing import ImportOptions, import_all
from publish.replay.month import Account, month_bars
from publish.replay.plan import imported_units
from publish.settings import PublishSettings
from publish.store import open_store
from tests.end_to_end.recordings import lines_of, recording
from tests.publish.replay.archives import (
    AGG_HEADER,
    BOOK_HEADER,
    TARDIS_QUOTES,
    TARDIS_TRADES,
    TRADES_HEADER,
    gzipped,
    text_of,
    zipped,
)

RULES = Rules(lateness_ns=None, partial=True)
DAY = "2024-07-18"
TARDIS = "binance-futures,BTCUSDT"
Bars = dict[Series, pa.Table]


def of(directory: Path, *paths: str) -> Bars:
    """All bars, the incomplete ones too, of what the files have."""
    place = PublishSettings(url=f"file://{directory}/scratch")
    found = import_all(paths, ImportOptions("binance-futures"), open_store(place))
    tables: dict[Series, list[pa.Table]] = {}
    for unit, _ in imported_units(place, found, RULES):
        for series, _, table in month_bars(unit, Account()):
            tables.setdefault(series, []).append(table)
    return {series: pa.concat_tables(some) for series, some in tables.items()}


@pytest.fixture(scope="module")
def ticks() -> tuple[Trades, Quotes]:
    """Three minutes of BTC, with arrival stamps of whole µs, as Tardis has them."""
    frames = []
    for line in lines_of(recording("binance/usdm_ws_btcusdt_20240718.gz")):
        stamp, _, frame = line.strip().partition(b" ")
        frames.append((int(stamp) // 1_000 * 1_000, frame))
    parsed = parse_chunk("binance-futures", (), frames, 0)
    return parsed.trades, parsed.quotes


@pytest.fixture(scope="module")
def expected(ticks: tuple[Trades, Quotes], tmp_path_factory: pytest.TempPathFactory) -> Bars:
    directory = tmp_path_factory.mktemp("recording")
    lines = lines_of(recording("binance/usdm_ws_btcusdt_20240718.gz"))
    cut = [line[:16] + b"000" + line[19:] for line in lines]
    bars = of(directory, gzipped(directory / "frames.gz", b"".join(cut)))
    assert sum(map(len, bars.values())) > 2_000
    return bars


def numbers(*columns: object) -> list[str]:
    """Rows of CSV; floats with all their digits, NaN as nothing."""
    return [
        ",".join("" if value != value else repr(value).strip("'") for value in row)
        for row in zip(*(np.asarray(of).tolist() for of in columns), strict=True)
    ]


def tardis(directory: Path, trades: Trades, quotes: Quotes) -> list[str]:
    us = [(of.exchange_ts // 1_000, of.local_ts // 1_000) for of in (trades, quotes)]
    side = np.where(trades.side == BUY, "buy", "sell")
    rows = numbers(*us[0], trades.id, side, trades.price, trades.qty)
    sides = quotes.ask_qty, quotes.ask_price, quotes.bid_price, quotes.bid_qty
    name = f"binance-futures_{{}}_{DAY}_BTCUSDT.csv.gz"
    return [
        gzipped(directory / name.format(kind), text_of(header, [f"{TARDIS},{row}" for row in of]))
        for kind, header, of in (
            ("trades", TARDIS_TRADES, rows),
            ("quotes", TARDIS_QUOTES, numbers(*us[1], *sides)),
        )
    ]


def assert_same(found: Bars, expected: Bars, clocks: Sequence[str]) -> None:
    wanted = {series: table for series, table in expected.items() if series.clock in clocks}
    assert found.keys() == wanted.keys()
    for series, table in wanted.items():
        assert found[series].equals(table), series


def test_tardis_csv(ticks: tuple[Trades, Quotes], expected: Bars, tmp_path: Path) -> None:
    found = of(tmp_path, *tardis(tmp_path, *ticks))
    assert_same(found, expected, [EXCHANGE, "true"])


@pytest.mark.parametrize("aggregated", [False, True])
def test_vision(
    aggregated: bool, ticks: tuple[Trades, Quotes], expected: Bars, tmp_path: Path
) -> None:
    """Without an arrival time: the exchange clock alone. The aggTrades here hold one trade each."""
    trades, quotes = ticks
    ms = trades.exchange_ts // 1_000_000
    maker = np.where(trades.side == BUY, "false", "true")
    if aggregated:
        columns = trades.row, trades.price, trades.qty, trades.id, trades.id, ms, maker
    else:
        columns = trades.id, trades.price, trades.qty, trades.notional, ms, maker
    kind, header = ("aggTrades", AGG_HEADER) if aggregated else ("trades", TRADES_HEADER)
    book_ms = quotes.exchange_ts // 1_000_000
    sides = quotes.bid_price, quotes.bid_qty, quotes.ask_price, quotes.ask_qty
    book = numbers(quotes.sequence, *sides, book_ms, book_ms)
    paths = [
        zipped(tmp_path / f"BTCUSDT-{kind}-{DAY}.zip", text_of(header, numbers(*columns))),
        zipped(tmp_path / f"BTCUSDT-bookTicker-{DAY}.zip", text_of(BOOK_HEADER, book)),
    ]
    assert_same(of(tmp_path, *paths), expected, [EXCHANGE])
