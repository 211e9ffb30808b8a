"""`replay` of real recordings against SQL over their lines, and the exchange's own klines."""

import csv
import functools
import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import active_children
from pathlib import Path

import pyarrow.compute as pc
import pytest

from ingest.errors import UserError
from ingest.recorded import recorded_ticks
from publish.replay.command import ReplayOptions, ReplaySummary, replay
from tests.end_to_end.oracle import CLOCKS, SECONDS, Oracle
from tests.end_to_end.recordings import (
    DATASETS,
    SeriesPath,
    assert_bars,
    lines_of,
    recording,
    series,
)

BINANCE, HYPERLIQUID = "binance-futures", "hyperliquid-perps"
BTC, ETH = "perpetual-BTC-USDT:USDT", "perpetual-ETH-USDT:USDT"
NATIVE = {BTC: "BTCUSDT", ETH: "ETHUSDT", "perpetual-BTC-USDC:USDC": "BTC"}
INSURANCE_FUND_ID = 3535191080


@dataclass(frozen=True, slots=True)
class Replayed:
    """Published bars of recordings, what replay said, and the oracle over the same lines."""

    out: Path
    summary: ReplaySummary
    oracle: Oracle

    def assert_dataset(self, exchange: str, symbol: str, dataset: str) -> None:
        """Every interval and clock as the oracle has it."""
        for of in series(exchange, [symbol], dataset):
            rows = of.read(self.out)
            assert rows.num_columns == 1 + DATASETS[dataset]
            expected = self.oracle.bars(dataset, NATIVE[symbol], of.interval, of.clock)
            assert_bars(rows, expected, of)


def publish_bars(
    out: Path, exchange: str, recordings: Sequence[Path], *, partial: bool = True
) -> ReplaySummary:
    return replay(ReplayOptions(recordings, exchange, f"file://{out}", partial=partial))


def replayed(out: Path, exchange: str, recordings: Sequence[Path]) -> Replayed:
    """`recordings` in the order of their first stamps."""
    summary = publish_bars(out, exchange, recordings)
    return Replayed(out, summary, Oracle(exchange, recordings))


def binance(*names: str) -> list[Path]:
    return [recording(f"binance/usdm_ws_{name}") for name in names]


@pytest.fixture(scope="module")
def july(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """BTC and ETH over midnight, stamped in ns by a clock 1.5 s behind, two files each."""
    files = binance(*(f"{coin}usdt_202407{day}.gz" for day in (18, 19) for coin in ("btc", "eth")))
    return replayed(tmp_path_factory.mktemp("july"), BINANCE, files)


@pytest.fixture(scope="module")
def april(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """BTC of 2023, stamped in µs, with a print of the insurance fund."""
    files = binance("btcusdt_20230404.dat.gz", "btcusdt_20230405.dat.gz")
    return replayed(tmp_path_factory.mktemp("april"), BINANCE, files)


@pytest.fixture(scope="module")
def month_end(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """The ETH recording moved 13 days on, so that its midnight is that of 2024-08-01."""
    directory = tmp_path_factory.mktemp("month_end")
    moved = []
    for path in binance("ethusdt_20240718.gz", "ethusdt_20240719.gz"):
        moved.append(directory / path.name)
        with gzip.open(moved[-1], "wb", compresslevel=1) as file:
            file.writelines(moved_on(line, days=13) for line in lines_of(path))
    return replayed(directory / "out", BINANCE, moved)


def moved_on(line: bytes, days: int) -> bytes:
    """A line of a recording as if it had happened days later."""
    stamp, _, frame = line.partition(b" ")
    frame = re.sub(
        rb'"([ET])":(\d{13})\b',
        lambda found: b'"%b":%d' % (found[1], int(found[2]) + days * 86_400_000),
        frame,
    )
    return b"%d %b" % (int(stamp) + days * 86_400_000_000_000, frame)


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("symbol", [BTC, ETH])
def test_two_symbols_over_midnight(july: Replayed, symbol: str, dataset: str) -> None:
    july.assert_dataset(BINANCE, symbol, dataset)


@pytest.mark.parametrize("dataset", DATASETS)
def test_microsecond_stamps(april: Replayed, dataset: str) -> None:
    april.assert_dataset(BINANCE, BTC, dataset)


@pytest.mark.parametrize("dataset", DATASETS)
def test_scores_and_files_over_the_end_of_a_month(month_end: Replayed, dataset: str) -> None:
    month_end.assert_dataset(BINANCE, ETH, dataset)
    for of in series(BINANCE, [ETH], dataset):
        assert of.months(month_end.out) == ["2024-07", "2024-08"], of


def test_every_frame_is_accounted_for(july: Replayed, april: Replayed) -> None:
    for run in (july, april):
        assert run.summary.frames == run.oracle.value("SELECT count(*) FROM frames")
        assert run.summary.trades == run.oracle.value("SELECT count(*) FROM trades")
        assert run.summary.quotes == run.oracle.value("SELECT count(*) FROM quotes")
        parsed = run.summary.trades + run.summary.quotes + run.summary.ignored
        assert run.summary.frames == parsed
        assert not run.summary.malformed
        assert not run.summary.unknown
        assert not run.summary.problems


def test_the_insurance_funds_print_is_in_no_bar_and_counted(april: Replayed) -> None:
    oracle = april.oracle
    assert oracle.value(f"SELECT price FROM trades WHERE sequence = {INSURANCE_FUND_ID}") == 28722.5
    assert oracle.value("SELECT count(*) FROM trades WHERE NOT is_trade") == 1
    assert april.summary.dropped == {("both", "trades", "not_a_trade"): 1}
    assert "left out 1 trades, not a trade (both clocks)" in str(april.summary)
    for of in series(BINANCE, [BTC], "ohlcv"):
        assert pc.max(of.read(april.out).column("high")).as_py() < 28300, of


def test_every_series_has_its_bars_and_no_other_is_there(july: Replayed) -> None:
    expected = {of.directory(july.out) for of in series(BINANCE, [BTC, ETH])}
    found = list(july.out.rglob("*.parquet"))
    assert {path.parents[2] for path in found} == expected
    assert july.summary.files == len(found) == len(DATASETS) * len(SECONDS) * len(CLOCKS) * 2
    assert july.summary.symbols == [BTC, ETH]
    rows = sum(of.read(july.out).num_rows for of in series(BINANCE, [BTC, ETH]))
    assert july.summary.bars == rows


def covered(oracle: Oracle, native: str, clock: str) -> tuple[int, int]:
    """From when to when (ns) the recordings hold all of an instrument: its frames' arrival, and on
    the exchange's clock the first tick's stamp, if it is later, to the highest."""
    frames = f"FROM frames WHERE payload->>'$.data.s' = '{native}'"
    local_from = oracle.value(f"SELECT min(local_ns) {frames}")
    if clock == "true":
        return local_from, oracle.value(f"SELECT max(local_ns) {frames}")
    both = " UNION ALL ".join(
        f"SELECT exchange_ns, seq FROM {kind} WHERE native = '{native}'"
        for kind in ("trades", "quotes")
    )
    first = oracle.value(f"SELECT arg_min(exchange_ns, seq) FROM ({both})")
    return max(local_from, first), oracle.value(f"SELECT max(exchange_ns) FROM ({both})")


def test_without_partial_only_covered_windows_are_there(july: Replayed, tmp_path: Path) -> None:
    files = binance(*(f"{coin}usdt_202407{day}.gz" for day in (18, 19) for coin in ("btc", "eth")))
    publish_bars(tmp_path, BINANCE, files, partial=False)
    oracle = july.oracle
    span = {(s, c): covered(oracle, NATIVE[s], c) for s in (BTC, ETH) for c in CLOCKS}
    for of in series(BINANCE, [BTC, ETH], "ohlcv", "l1_imbalance"):
        low, high = span[of.symbol, of.clock]
        every = oracle.bars(of.dataset, NATIVE[of.symbol], of.interval, of.clock)
        start = [time.replace(tzinfo=UTC).timestamp() for time in every.column("time").to_pylist()]
        length = SECONDS[of.interval]
        whole = every.filter([s * 1e9 >= low and (s + length) * 1e9 <= high for s in start])
        if whole.num_rows:
            assert_bars(of.read(tmp_path), whole, of)
        else:
            assert not of.months(tmp_path), of


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReplaySummary]:
    """Only the windows that the recording covers, and its frames of trades."""
    files = [recording(f"binance/spot_ws_btcusdt_2024080{day}.gz") for day in (8, 9)]
    out = tmp_path_factory.mktemp("spot")
    return out, publish_bars(out, BINANCE, files, partial=False)


def klines(starts: Sequence[datetime]) -> Iterator[list[float]]:
    """Binance's own 5m rows: open, high, low, close, volume, _, quote volume, count, taker …"""
    wanted = {str(int(start.timestamp() * 1000)) for start in starts}
    path = recording("binance/spot_klines_BTCUSDT-5m-2024-08.csv.gz")
    with gzip.open(path, "rt") as file:
        yield from (list(map(float, row[1:])) for row in csv.reader(file) if row[0] in wanted)


def test_whole_bars_equal_the_exchanges_klines(spot: tuple[Path, ReplaySummary]) -> None:
    out, _ = spot
    of = SeriesPath("ohlcv", BINANCE, BTC, "5m", "exchange")
    bars = of.read(out).to_pylist()
    flows = SeriesPath("flow", BINANCE, BTC, "5m", "exchange").read(out).to_pylist()
    starts = [bar["time"].replace(tzinfo=UTC) for bar in bars]
    assert [start.timestamp() for start in starts] == [1723161300, 1723161600]
    exchange = list(klines(starts))
    assert len(exchange) == 2
    for bar, flow, kline in zip(bars, flows, exchange, strict=True):
        open_, high, low, close, volume, _, quote_volume, count, taker, taker_quote, _ = kline
        prices = [bar[name] for name in ("open", "high", "low", "close")]
        assert prices == [open_, high, low, close]
        assert flow["taker_buy_count"] + flow["taker_sell_count"] == count
        buckets = [flow[f"taker_buy_{size}_order_volume"] for size in ("small", "medium", "large")]
        assert bar["volume"] == pytest.approx(volume, rel=1e-12)
        assert bar["volume_notional"] == pytest.approx(quote_volume, rel=1e-12)
        assert flow["taker_buy_volume"] == pytest.approx(taker, rel=1e-12)
        assert sum(buckets) == pytest.approx(taker_quote, rel=1e-12)


def test_windows_covered_in_part_are_withheld_and_counted(
    spot: tuple[Path, ReplaySummary],
) -> None:
    out, summary = spot
    for clock in CLOCKS:
        assert SeriesPath("ohlcv", BINANCE, BTC, "5m", clock).read(out).num_rows == 2
        assert summary.dropped[clock, "trades", "withheld"] > 0
        for interval in ("15m", "1h", "1d"):
            assert not SeriesPath("ohlcv", BINANCE, BTC, interval, clock).months(out)


def test_quotes_without_an_exchange_time_are_malformed_and_counted(
    spot: tuple[Path, ReplaySummary],
) -> None:
    out, summary = spot
    assert summary.quotes == 0
    assert summary.malformed["bookTicker without E"] == 28040 + 45134
    assert "73,174 malformed, bookTicker without E; the first at 1723161254087891268" in str(
        summary
    )
    assert not (out / "metrics" / "l1_imbalance").exists()


@pytest.fixture(scope="module")
def hyperliquid(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """25 s of BTC without `bbo`; the first frame of trades is what was before the subscription."""
    files = [recording("hyperliquid/ws_raw_btc_20250126.gz")]
    return replayed(tmp_path_factory.mktemp("hyperliquid"), HYPERLIQUID, files)


def test_hyperliquids_backlog_is_in_exchange_bars_only(hyperliquid: Replayed) -> None:
    symbol = "perpetual-BTC-USDC:USDC"
    oracle = hyperliquid.oracle
    assert oracle.value("SELECT count(*) FROM trades") == hyperliquid.summary.trades == 64
    assert oracle.value("SELECT count(*) FROM trades WHERE NOT live") == 30
    for dataset in ("flow", "ohlcv", "vtwap"):
        hyperliquid.assert_dataset(HYPERLIQUID, symbol, dataset)
    for clock, count in (("exchange", 64), ("true", 34)):
        flow = SeriesPath("flow", HYPERLIQUID, symbol, "1s", clock).read(hyperliquid.out)
        counted = [flow.column(f"taker_{side}_count") for side in ("buy", "sell")]
        assert sum(pc.sum(column).as_py() for column in counted) == count
    assert not (hyperliquid.out / "metrics" / "l1_imbalance").exists()


def test_late_ticks_are_in_no_exchange_bar_and_counted(tmp_path: Path) -> None:
    """With a limit of 5 s most of the backlog is late; the true clock knows no lateness."""
    files = [recording("hyperliquid/ws_raw_btc_20250126.gz")]
    five_s = 5_000_000_000
    out = f"file://{tmp_path}"
    summary = replay(ReplayOptions(files, HYPERLIQUID, out, partial=True, lateness_ns=five_s))
    oracle = Oracle(HYPERLIQUID, files, lateness_ns=five_s)
    late = oracle.value(
        "SELECT count(*) FROM trades WHERE local_ns - exchange_ns // 1000000000 * 1000000000 >= 6e9"
    )
    assert summary.dropped == {("exchange", "trades", "late"): late}
    run = Replayed(tmp_path, summary, oracle)
    for dataset in ("flow", "ohlcv", "vtwap"):
        run.assert_dataset(HYPERLIQUID, "perpetual-BTC-USDC:USDC", dataset)


def test_scores_that_start_anew_each_day(tmp_path: Path) -> None:
    files = binance("btcusdt_20230404.dat.gz", "btcusdt_20230405.dat.gz")
    out = f"file://{tmp_path}"
    summary = replay(ReplayOptions(files, BINANCE, out, partial=True, toxicity_reset="day"))
    oracle = Oracle(BINANCE, files, reset="day")
    Replayed(tmp_path, summary, oracle).assert_dataset(BINANCE, BTC, "flow")


def contents(out: Path) -> dict[str, bytes]:
    """The bytes of every file under `out`."""
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))
    }


def cut_up(monkeypatch: pytest.MonkeyPatch, chunk_frames: int) -> None:
    cut = functools.partial(recorded_ticks, chunk_frames=chunk_frames)
    monkeypatch.setattr("publish.replay.import_frames.recorded_ticks", cut)


@pytest.mark.parametrize(("processes", "chunk_frames"), [(2, 20_000), (1, 997), (2, 4096)])
def test_files_do_not_depend_on_how_the_work_is_cut(
    july: Replayed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    chunk_frames: int,
) -> None:
    """Other processes, other batches, files in another order: the same bytes."""
    cut_up(monkeypatch, chunk_frames)
    files = binance(*(f"{coin}usdt_202407{day}.gz" for coin in ("eth", "btc") for day in (19, 18)))
    replay(ReplayOptions(files, BINANCE, f"file://{tmp_path}", partial=True, processes=processes))
    assert contents(tmp_path) == contents(july.out)


@pytest.mark.parametrize("processes", [1, 2])
def test_backlog_is_told_apart_however_the_work_is_cut(
    hyperliquid: Replayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    cut_up(monkeypatch, 1)
    files = [recording("hyperliquid/ws_raw_btc_20250126.gz")]
    out = f"file://{tmp_path}"
    replay(ReplayOptions(files, HYPERLIQUID, out, partial=True, processes=processes))
    assert contents(tmp_path) == contents(hyperliquid.out)


def test_a_killed_process_is_told(tmp_path: Path) -> None:
    files = binance("ethusdt_20240719.gz", "btcusdt_20240719.gz")
    options = ReplayOptions(files, BINANCE, f"file://{tmp_path}", partial=True, processes=2)

    def kill(stage: str, done: int, total: int) -> None:
        for child in active_children():
            child.kill()

    with pytest.raises(UserError, match="was killed, perhaps for want of memory"):
        replay(options, kill)
    assert not list(tmp_path.rglob("*.parquet"))
