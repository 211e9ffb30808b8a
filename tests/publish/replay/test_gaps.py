"""What sources lack is recorded as gaps: in tables, between files, in recordings."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from publish.layout import Series, month_key
from publish.partitions import read_series
from publish.replay.command import ReplayOptions, ReplaySummary, replay
from publish.replay.imported import ROOT, Imported
from publish.replay.importing import ImportOptions
from publish.replay.manifest import read_manifest
from publish.store import Store
from tests.end_to_end.recordings import recording
from tests.publish.replay.archives import (
    AGG_HEADER,
    DAY_MS,
    OKX_NEW,
    TARDIS_TRADES,
    TRADES_HEADER,
    gzipped,
    imported,
    rows_of,
    text_of,
    zipped,
)

BTC = "perpetual-BTC-USDT:USDT"
USDC = "perpetual-USDC-USDT:USDT"
DAY, MS = 86_400_000, 1_000_000
PER_DAY = 1440
OKX_DAY = DAY_MS - 8 * 3_600_000
"""The day of UTC+8."""


def vision(directory: Path, day: int, ids: Iterable[int], kind: str = "trades") -> str:
    """2024-01-`day`: a trade a minute; `ids` counted from the first of 2024-01-01."""
    directory.mkdir(parents=True, exist_ok=True)
    start, rows = DAY_MS, []
    for n in ids:
        of_trade = f"{n},100.5,1,100.5,{start + n * 60_000},true"
        of_aggregate = f"{n},100.5,1,{2 * n},{2 * n},{start + n * 60_000},true"
        rows.append(of_trade if kind == "trades" else of_aggregate)
    header = TRADES_HEADER if kind == "trades" else AGG_HEADER
    return zipped(directory / f"BTCUSDT-{kind}-2024-01-{day:02}.zip", text_of(header, rows))


def okx(directory: Path, ids: Iterable[int]) -> str:
    rows = [f"USDC-USDT-SWAP,{n},buy,1.5,2,{OKX_DAY + n * 60_000},0" for n in ids]
    return zipped(directory / "USDC-USDT-SWAP-trades-2024-01-01.zip", text_of(OKX_NEW, rows))


def tardis(directory: Path, ids: Iterable[int], exchange: str, symbol: str, day: str) -> str:
    """`day` is of the name alone."""
    rows = [f"{exchange},{symbol},{DAY_MS + n}000,{DAY_MS + n}500,{n},buy,1.5,2" for n in ids]
    path = directory / f"{exchange}_trades_{day}_{symbol}.csv.gz"
    return gzipped(path, text_of(TARDIS_TRADES, rows))


def listed() -> ImportOptions:
    return ImportOptions(instruments=(str(recording("okx/swap_USDC-USDT-SWAP.json")),))


def gaps_of(
    directory: Path, *given: str, options: ImportOptions | None = None
) -> list[tuple[Any, ...]]:
    """(first missing, last missing, reason) of each, in order; counted as the imports say."""
    found, store = imported(directory, *given, options=options)
    rows = rows_of(store, found, "gaps").to_pylist()
    counted: dict[str, tuple[int, int]] = {}
    for row in rows:
        n, missing = counted.get(row["reason"], (0, 0))
        counted[row["reason"]] = n + 1, missing + (row["missing"] or 0)
        if row["kind"] == "ids":
            assert row["missing"] == row["last_missing"] - row["first_missing"] + 1
    said: dict[str, tuple[int, int]] = {}
    for of in found:
        for reason, (n, missing) in of.gaps.items():
            before = said.get(reason, (0, 0))
            said[reason] = before[0] + n, before[1] + missing
    assert said == counted
    return sorted((row["first_missing"], row["last_missing"], row["reason"]) for row in rows)


def without(ids: Sequence[int], *holes: range) -> list[int]:
    return [n for n in ids if not any(n in hole for hole in holes)]


HOLES = range(100, 107), range(300, 301)


def test_single_trades_of_vision_may_lack_what_is_no_market_print(tmp_path: Path) -> None:
    path = vision(tmp_path, 1, without(range(PER_DAY), *HOLES))
    assert gaps_of(tmp_path, path) == [(100, 106, "unlisted"), (300, 300, "unlisted")]


def test_a_gap_has_the_stamps_around_it(tmp_path: Path) -> None:
    path = vision(tmp_path, 1, without(range(PER_DAY), HOLES[0]))
    options = ImportOptions(assume_latency_ns=5)
    found, store = imported(tmp_path, path, options=options)
    [gap] = rows_of(store, found, "gaps").to_pylist()
    assert gap == {
        "exchange": "binance-futures",
        "symbol": BTC,
        "kind": "ids",
        "reason": "unlisted",
        "first_missing": 100,
        "last_missing": 106,
        "missing": 7,
        "healed": 0,
        "exchange_ts": (DAY_MS + 99 * 60_000) * MS,
        "local_ts": (DAY_MS + 107 * 60_000) * MS + 5,
    }


def test_aggregates_are_numbered(tmp_path: Path) -> None:
    """Every second trade id is in none of them: those are no prints. What numbers lack is."""
    whole = vision(tmp_path / "whole", 1, range(PER_DAY), "aggTrades")
    assert gaps_of(tmp_path / "a", whole) == []
    path = vision(tmp_path, 1, without(range(PER_DAY), *HOLES), "aggTrades")
    # Of trades at most those between the last seen and the next.
    assert gaps_of(tmp_path, path) == [(199, 213, "sequence"), (599, 601, "sequence")]


def test_okx_archives(tmp_path: Path) -> None:
    path = okx(tmp_path, without(range(1, PER_DAY), *HOLES))
    expected = [(100, 106, "sequence"), (300, 300, "sequence")]
    assert gaps_of(tmp_path, path, options=listed()) == expected


@pytest.mark.parametrize(
    ("exchange", "symbol", "day", "reason"),
    [
        ("binance-futures", "BTCUSDT", "2024-01-01", "unlisted"),
        ("okex-swap", "USDC-USDT-SWAP", "2024-01-01", "sequence"),
        # Aggregated trades, whose counts are not in the file.
        ("okex-swap", "USDC-USDT-SWAP", "2023-10-19", None),
        ("hyperliquid", "BTC", "2024-01-01", None),
    ],
)
def test_tardis_csv(
    exchange: str, symbol: str, day: str, reason: str | None, tmp_path: Path
) -> None:
    path = tardis(tmp_path, without(range(1, 1000), *HOLES), exchange, symbol, day)
    expected = [(100, 106, reason), (300, 300, reason)] if reason else []
    assert gaps_of(tmp_path, path, options=listed()) == expected


def test_rows_out_of_order_are_not_missing(tmp_path: Path) -> None:
    ids = [*range(100), *range(110, 120), *range(100, 108), *range(120, PER_DAY)]
    assert gaps_of(tmp_path, vision(tmp_path, 1, ids)) == [(108, 109, "unlisted")]


def test_between_the_files_of_days_in_a_row(tmp_path: Path) -> None:
    first = vision(tmp_path, 1, range(PER_DAY - 5))
    second = vision(tmp_path, 2, range(PER_DAY + 3, 2 * PER_DAY))
    gap = PER_DAY - 5, PER_DAY + 2, "unlisted"
    assert gaps_of(tmp_path / "a", first, second) == [gap]
    assert gaps_of(tmp_path / "b", second, first) == [gap]
    assert gaps_of(tmp_path / "a", first, second) == [gap]  # with what is imported already
    assert gaps_of(tmp_path / "a", first) == gaps_of(tmp_path / "a", second) == []
    fourth = vision(tmp_path, 4, range(3 * PER_DAY, 4 * PER_DAY))
    assert gaps_of(tmp_path / "c", second, fourth) == []


def test_aggregates_of_days_in_a_row(tmp_path: Path) -> None:
    first = vision(tmp_path, 1, range(PER_DAY), "aggTrades")
    second = vision(tmp_path, 2, range(PER_DAY, 2 * PER_DAY), "aggTrades")
    assert gaps_of(tmp_path / "a", first, second) == []
    later = vision(tmp_path / "later", 2, range(PER_DAY + 2, 2 * PER_DAY), "aggTrades")
    last, next_ = 2 * (PER_DAY - 1), 2 * (PER_DAY + 2)
    assert gaps_of(tmp_path / "b", first, later) == [(last + 1, next_ - 1, "sequence")]
    single = vision(tmp_path / "single", 2, range(2 * PER_DAY + 4, 4 * PER_DAY))
    assert gaps_of(tmp_path / "c", first, single) == [(last + 1, 2 * PER_DAY + 3, "unlisted")]


@pytest.mark.parametrize("broken", ["lots", "", "nan"])
def test_what_was_skipped_is_a_gap_of_ours(broken: str, tmp_path: Path) -> None:
    """In a file, and at its end; a hole of the venue's elsewhere stays one."""
    ids = without(range(1, PER_DAY), range(700, 705))
    rows = [f"USDC-USDT-SWAP,{n},buy,1.5,2,{OKX_DAY + n * 60_000},0" for n in ids]
    for at in (100, 101, 400, len(rows) - 1):
        rows[at] = rows[at].replace("1.5", broken)
    first = zipped(tmp_path / "USDC-USDT-SWAP-trades-2024-01-01.zip", text_of(OKX_NEW, rows))
    rows = [f"USDC-USDT-SWAP,{PER_DAY},buy,1.5,2,{OKX_DAY + DAY},0"]
    second = zipped(tmp_path / "USDC-USDT-SWAP-trades-2024-01-02.zip", text_of(OKX_NEW, rows))
    inside = [(101, 102, "skipped"), (401, 401, "skipped"), (700, 704, "sequence")]
    assert gaps_of(tmp_path / "a", first, options=listed()) == inside
    edge = PER_DAY - 1, PER_DAY - 1, "skipped"
    assert gaps_of(tmp_path / "b", first, second, options=listed()) == [*inside, edge]


def test_many_gaps_are_written_as_they_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publish.replay.imported.CHUNK_GAPS", 50)
    monkeypatch.setattr("publish.replay.sources.tables.BLOCK_BYTES", 2_000)
    path = vision(tmp_path, 1, range(0, PER_DAY, 2))
    assert gaps_of(tmp_path, path) == [(n, n, "unlisted") for n in range(1, PER_DAY - 1, 2)]
    store = Store(f"file://{tmp_path}/scratch")
    assert len(store.list(f"{ROOT}/gaps")) > 3


def test_real_okx_archives_are_whole_and_say_what_is_cut_out(tmp_path: Path) -> None:
    """1,652 trades of three days with consecutive ids (MANIFEST.md)."""
    names = [f"USDC-USDT-SWAP-trades-2026-09-{day}.zip" for day in (26, 27, 28)]
    days = [str(recording(f"okx/{name}")) for name in names]
    assert gaps_of(tmp_path / "whole", *days, options=listed()) == []
    # The last ten of the 26th and the first three of the 27th; 20 in the middle of the 28th.
    cuts = slice(266, 276), slice(0, 3), slice(500, 520)
    cut = [_cut(Path(path), tmp_path / "cut", of) for path, of in zip(days, cuts, strict=True)]
    first = 3031489
    middle = first + 276 + 242 + 500
    assert gaps_of(tmp_path, *cut, options=listed()) == [
        (first + 266, first + 278, "sequence"),
        (middle, middle + 19, "sequence"),
    ]
    assert gaps_of(tmp_path / "apart", days[0], days[2], options=listed()) == []


def _cut(path: Path, directory: Path, rows: slice) -> str:
    directory.mkdir(exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        header, *lines = archive.read(archive.namelist()[0]).splitlines(keepends=True)
    del lines[rows]
    return zipped(directory / path.name, b"".join([header, *lines]))


SERIES = Series("flow", "binance-futures", BTC, "1m", "exchange")


def _replayed(directory: Path, *sources: str, **options: Any) -> tuple[ReplaySummary, Store]:
    out = Store(f"file://{directory}/out")
    return replay(ReplayOptions(sources, None, out.url, **options)), out


def test_manifests_and_the_summary_have_them_in_their_month(tmp_path: Path) -> None:
    """One in January, one at the edge of the months, which its first trade in February shows."""
    january = vision(tmp_path, 31, without(range(30 * PER_DAY, 31 * PER_DAY - 4), *_in_january()))
    rows = [
        f"{n},100.5,1,100.5,{DAY_MS + n * 60_000},true" for n in range(31 * PER_DAY, 32 * PER_DAY)
    ]
    february = zipped(tmp_path / "BTCUSDT-trades-2024-02-01.zip", text_of(TRADES_HEADER, rows))
    summary, out = _replayed(tmp_path, january, february)
    manifests = [read_manifest(out, SERIES, 2024, month) for month in (1, 2)]
    assert [of.gaps for of in manifests if of is not None] == [2, 1]
    assert [of.account.gaps for of in summary.results] == [2, 1]
    shown = str(summary).splitlines()
    said = (
        "  3 gaps of 13 trades whose ids the source does not list, perhaps of prints off the book"
    )
    assert said in shown
    table = [line.split() for line in shown if BTC in line and "2024-0" in line]
    assert [row[6] for row in table] == ["2", "1"]


def test_gaps_of_unknown_size_are_told_as_such() -> None:
    known = Imported("a", [], "okx-perps", [], "recorded", gaps={"disconnect": (2, 1_234)})
    unknown = Imported("b", [], "okx-perps", [], "recorded", gaps={"restart": (1, 0)})
    summary = ReplaySummary("out")
    summary.import_([known, unknown])
    shown = str(summary)
    assert "  2 gaps of 1,234 trades over lost connections" in shown
    assert "  1 gaps of an unknown number of trades over restarts of the recorder" in shown


def _in_january() -> tuple[range, ...]:
    start = 30 * PER_DAY
    return range(start + 10, start + 18), range(start + 600, start + 601)


def test_bars_are_what_they_were(tmp_path: Path) -> None:
    """A gap is told; it neither adds nor takes a bar."""
    ids = without(range(PER_DAY), *HOLES)
    _, out = _replayed(tmp_path / "a", vision(tmp_path, 1, ids))
    minutes = [time.hour * 60 + time.minute for time in _times(out)]
    assert set(minutes) <= set(ids)
    assert len(minutes) >= len(ids) - 2  # the first and the last may be cut
    assert out.exists(month_key(SERIES, 2024, 1))


def _times(out: Store) -> list[Any]:
    return list(read_series(out, SERIES, 2024, 1)["time"].to_pylist())
