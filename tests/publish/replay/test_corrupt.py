"""Damaged and wrong archives: each is named with file and line, and skipped or refused as
docs/replay.md says."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from publish.replay.sources.base import SourceError
from tests.publish.replay.archives import (
    AGG_HEADER,
    DAY_MS,
    TARDIS_QUOTES,
    TARDIS_TRADES,
    gzipped,
    imported,
    rows_of,
    text_of,
    zipped,
)

US = DAY_MS * 1_000
AGG_NAME = "BTCUSDT-aggTrades-2024-01-01.zip"
TARDIS_NAME = "binance-futures_trades_2024-01-01_BTCUSDT.csv.gz"
MANY = 3_000


def agg_row(i: int) -> str:
    return f"{i},42313.9,0.020,{i},{i},{DAY_MS + i},true"


def tardis_row(i: int) -> str:
    return f"binance-futures,BTCUSDT,{US + i},{US + i + 9},{i},buy,42313.9,0.02"


def vision(directory: Path, rows: list[str]) -> str:
    return zipped(directory / AGG_NAME, text_of(AGG_HEADER, rows))


def tardis(directory: Path, rows: list[str]) -> str:
    return gzipped(directory / TARDIS_NAME, text_of(TARDIS_TRADES, rows))


MAKERS = pytest.mark.parametrize(
    ("make", "row"), [(vision, agg_row), (tardis, tardis_row)], ids=["zip", "gzip"]
)
Make = Callable[[Path, list[str]], str]
Row = Callable[[int], str]


def assert_nothing_imported(directory: Path) -> None:
    assert not list((directory / "scratch").rglob("done/*.json"))


@MAKERS
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(make: Make, row: Row, share: float, tmp_path: Path) -> None:
    path = Path(make(tmp_path, [row(i) for i in range(MANY)]))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SourceError, match=rf"^{path}(:\d+)?: truncated"):
        imported(tmp_path, str(path))
    assert_nothing_imported(tmp_path)


@MAKERS
def test_flipped_bytes(make: Make, row: Row, tmp_path: Path) -> None:
    path = Path(make(tmp_path, [row(i) for i in range(MANY)]))
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(SourceError, match=rf"^{path}(:\d+)?: (damaged|more|truncated)"):
        imported(tmp_path, str(path))
    assert_nothing_imported(tmp_path)


def test_damage_is_told_with_the_line_that_was_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publish.replay.sources.tables.BLOCK_BYTES", 1 << 12)
    path = Path(tardis(tmp_path, [tardis_row(i) for i in range(MANY)]))
    text = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(text[: len(text) // 2]) + gzip.compress(text)[:100])
    with pytest.raises(SourceError) as caught:
        imported(tmp_path, str(path))
    line = int(str(caught.value).removeprefix(f"{path}:").partition(":")[0])
    assert MANY * 0.45 < line < MANY * 0.55


@MAKERS
@pytest.mark.parametrize(
    ("break_row", "reason"),
    [
        (lambda row: row.replace("42313.9", "lots"), "a value that is no number"),
        (lambda row: row.replace("42313.9", '"42313.9"'), "a value that is no number"),
        (lambda row: row.replace("42313.9", "42_313"), "a value that is no number"),
        (lambda row: row.replace("42313.9", ""), "an empty value"),
        (lambda row: row.replace("42313.9", "nan"), "a value out of range"),
        (lambda row: row.replace("42313.9", "1e999"), "a value out of range"),
        (lambda row: row.replace(str(DAY_MS)[:6], "1.5"), "a value that is no whole number"),
        (lambda row: row.replace(str(DAY_MS)[:6], "9" * 15), "a value that is no whole number"),
        (lambda row: row.replace(str(DAY_MS)[:6], "9"), "a value out of range"),
        (lambda row: row.rpartition(",")[0], "another number of columns"),
        (lambda row: row + ",1", "another number of columns"),
        (lambda row: row.replace("true", "perhaps").replace("buy", "hold"), None),
        (lambda row: "\xff\xfe\x00", "another number of columns"),
    ],
)
def test_a_row_that_cant_be_read(
    make: Make, row: Row, break_row: Callable[[str], str], reason: str | None, tmp_path: Path
) -> None:
    rows = [row(i) for i in range(100)]
    for at in (40, 70):
        rows[at] = break_row(rows[at])
    path = make(tmp_path, rows)
    found, store = imported(tmp_path, path)
    ids = [i for i in range(100) if i not in (40, 70)]
    assert rows_of(store, found, "trades")["id"].to_pylist() == ids
    [of] = found
    assert of.gaps == {"skipped": (2, 2)}
    if reason is None:
        reason = "a value that is no true or false" if make is vision else "a value out of range"
    assert of.skipped == {reason: 2}
    assert of.problems == [f"{path}:42: {reason}, skipped"]


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    rows = [tardis_row(1), "", tardis_row(2), "", tardis_row(3).replace("buy", "?"), ""]
    path = tardis(tmp_path, rows)
    found, _ = imported(tmp_path, path)
    assert found[0].read["trades"] == 2
    assert found[0].problems == [f"{path}:6: a value out of range, skipped"]


@MAKERS
def test_too_many_bad_rows_are_another_format(make: Make, row: Row, tmp_path: Path) -> None:
    rows = [row(i) for i in range(MANY)]
    rows[500:2_000] = [of.replace("42313.9", "x") for of in rows[500:2_000]]
    path = make(tmp_path, rows)
    with pytest.raises(SourceError, match=rf"^{path}:\d+: .*; more than 1,000 rows can't be read"):
        imported(tmp_path, path)
    assert_nothing_imported(tmp_path)


@pytest.mark.parametrize("column", ["price", "transact_time", "last_trade_id", "is_buyer_maker"])
def test_a_missing_column(column: str, tmp_path: Path) -> None:
    header = AGG_HEADER.replace(column, "x")
    path = zipped(tmp_path / AGG_NAME, text_of(header, [agg_row(1)]))
    with pytest.raises(SourceError, match=f"^{path}:1: the column {column} is missing"):
        imported(tmp_path, path)


def test_a_column_less_where_there_is_no_header(tmp_path: Path) -> None:
    path = zipped(tmp_path / AGG_NAME, text_of(None, [agg_row(1).rpartition(",")[0]]))
    with pytest.raises(SourceError, match=f"^{path}:1: 6 columns, where aggTrades has 7"):
        imported(tmp_path, path)


@MAKERS
def test_rows_out_of_order_are_kept_and_told(make: Make, row: Row, tmp_path: Path) -> None:
    order = [1, 2, 5, 3, 4, 6]
    path = make(tmp_path, [row(i) for i in order])
    found, store = imported(tmp_path, path)
    assert rows_of(store, found, "trades")["id"].to_pylist() == order
    assert found[0].problems == [f"{path}:5: 2 rows from here on are out of order, kept"]


def test_rows_of_another_day_are_kept_and_told(tmp_path: Path) -> None:
    rows = [agg_row(-5), agg_row(1), agg_row(86_400_000)]
    path = vision(tmp_path, [rows[0].replace("-5,", "5,"), *rows[1:]])
    found, _ = imported(tmp_path, path)
    told = f"{path}:2: 2 rows from here on are outside of the file's day, kept"
    assert found[0].problems == [told]


def test_two_files_in_a_zip(tmp_path: Path) -> None:
    path = tmp_path / AGG_NAME
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", text_of(AGG_HEADER, [agg_row(1)]))
        archive.writestr("b.csv", text_of(AGG_HEADER, [agg_row(2)]))
    with pytest.raises(SourceError, match=f"^{path} holds 2 files, where one is expected"):
        imported(tmp_path, str(path))


def test_rows_of_another_exchange_among_the_first_ones(tmp_path: Path) -> None:
    path = tardis(tmp_path, [tardis_row(1), tardis_row(2).replace("binance-futures", "okex-swap")])
    with pytest.raises(SourceError, match="rows of 'okex-swap' among those of binance-futures"):
        imported(tmp_path, path)


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("binance-futures_quotes_2024-01-01_BTCUSDT.csv.gz", TARDIS_QUOTES),
        ("BTCUSDT-aggTrades-2024-01-01.csv.gz", AGG_HEADER),
    ],
)
def test_a_day_without_a_row(name: str, header: str, tmp_path: Path) -> None:
    found, _ = imported(tmp_path, gzipped(tmp_path / name, text_of(header, [])))
    assert (found[0].exchange, found[0].read, found[0].coverage) == ("binance-futures", {}, [])
