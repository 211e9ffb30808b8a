"""Archives of others from file to month file: which clocks, which days, what is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from publish.bar_files import month_file
from publish.layout import Series, month_key
from publish.partitions import read_series
from publish.replay.command import ReplayError, ReplayOptions, ReplaySummary, replay
from publish.replay.manifest import read_manifest
from publish.store import Store
from tests.publish.replay.archives import AGG_HEADER, DAY_MS, text_of, zipped

DAILY = Series("flow", "binance-futures", "perpetual-BTC-USDT:USDT", "1d", "exchange")
JANUARY = (2024, 1)
DAY = 86_400_000


def day_of_trades(directory: Path, day: int) -> str:
    """2024-01-`day` as Binance publishes it: a trade a minute."""
    start = DAY_MS + (day - 1) * DAY
    rows = [
        f"{n},100.{n % 10},1,{n},{n},{start + i * 60_000},{'true' if i % 2 else 'false'}"
        for i, n in enumerate(range(day * 1440, (day + 1) * 1440))
    ]
    return zipped(directory / f"BTCUSDT-aggTrades-2024-01-{day:02}.zip", text_of(AGG_HEADER, rows))


def run(directory: Path, *sources: str, **options: Any) -> tuple[ReplaySummary, Store]:
    out = Store(f"file://{directory}/out")
    return replay(ReplayOptions(sources, None, out.url, **options)), out


def days(out: Store, series: Series = DAILY) -> list[int]:
    return [time.day for time in read_series(out, series, *JANUARY)["time"].to_pylist()]


def test_without_times_of_arrival_there_is_no_true_clock(tmp_path: Path) -> None:
    summary, out = run(tmp_path, day_of_trades(tmp_path, 2))
    assert summary.trades == 1440
    assert {key.split("timestamp=")[1].split("/")[0] for key in out.list("metrics")} == {"exchange"}
    manifest = read_manifest(out, DAILY, *JANUARY)
    assert manifest is not None
    assert manifest.arrival == "none"
    [(name, digest)] = manifest.sources.items()
    assert name.endswith("BTCUSDT-aggTrades-2024-01-02.zip")
    assert len(digest) == 64
    with month_file(out, month_key(DAILY, *JANUARY)) as file:
        assert file.month.arrival == "none"


def test_an_assumed_latency_is_told(tmp_path: Path) -> None:
    source = day_of_trades(tmp_path, 2)
    summary, out = run(tmp_path, source, assume_latency_ns=5_000_000)
    true = replace(DAILY, interval="1m", clock="true")
    assert len(read_series(out, true, *JANUARY)) > 1400
    with month_file(out, month_key(true, *JANUARY)) as file:
        assert file.month.arrival == "assumed:5000000"
    assert summary.bars > 0


def test_a_day_that_is_missing_between_others_is_withheld(tmp_path: Path) -> None:
    whole = [day_of_trades(tmp_path, day) for day in (2, 3, 5, 6)]
    _, out = run(tmp_path, *whole)
    assert days(out) == [2, 3, 5, 6]
    hours = Series(
        *(*(getattr(DAILY, n) for n in ("dataset", "exchange", "symbol")), "1h", "exchange")
    )
    assert sorted(set(days(out, hours))) == [2, 3, 5, 6]


def test_a_scratch_area_is_kept_and_a_rerun_has_nothing_to_do(tmp_path: Path) -> None:
    source, kept = day_of_trades(tmp_path, 2), tmp_path / "scratch"
    run(tmp_path, source, scratch=kept)
    chunks = {path: path.stat().st_mtime_ns for path in kept.rglob("*.parquet")}
    assert chunks
    again, _ = run(tmp_path, source, scratch=kept)
    assert [of.skipped for of in again.results] == [True]
    assert {path: path.stat().st_mtime_ns for path in kept.rglob("*.parquet")} == chunks


def test_an_archive_is_replayed_by_itself(tmp_path: Path) -> None:
    (tmp_path / "archive/raw/trades").mkdir(parents=True)
    source = day_of_trades(tmp_path, 2)
    with pytest.raises(ReplayError, match="archive is an archive: replay it by itself"):
        run(tmp_path, source, str(tmp_path / "archive"))
