"""The recordings beside the repository, what replay makes of them, and how bars are compared."""

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.end_to_end.oracle import CLOCKS, SECONDS

DATA = Path(__file__).parents[2].parent / "shared" / "data"
DATASETS = {
    "flow": 36,
    "l1_imbalance": 10,
    "l1_liquidity": 14,
    "l1_price": 12,
    "ohlcv": 6,
    "vtwap": 2,
}
"""Datasets and their number of columns, `time` not counted."""

_EXACT = {"open", "high", "low", "close"}
_EXACT |= {"bid_price", "bid_amount", "ask_price", "ask_amount", "midprice", "spread"}
_EXACT |= {"imbalance", "imbalance_ratio", "bid_ask_ratio", "bid_percentage", "ask_percentage"}
_SUMS = {"volume", "volume_notional", "taker_buy_volume", "taker_sell_volume"}
_OF_SUM = 1e-12
_RELATIVE = 1e-9


def recording(name: str) -> Path:
    """A file of ../shared/data by its name there; skips the test without it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no ../shared/data/{name} beside the repository")
    return path


def lines_of(path: Path) -> list[bytes]:
    """The lines of a gzip recording, with their line ends."""
    with gzip.open(path) as file:
        return file.readlines()


@dataclass(frozen=True, slots=True)
class SeriesPath:
    """One series of the store, by the parts of its path."""

    dataset: str
    exchange: str
    symbol: str
    interval: str
    clock: str

    def directory(self, out: Path) -> Path:
        return (
            out
            / "metrics"
            / self.dataset
            / f"exchange={self.exchange}"
            / f"symbol={self.symbol}"
            / f"interval={self.interval}"
            / f"timestamp={self.clock}"
        )

    def months(self, out: Path) -> list[str]:
        """Its month files, as "2024-07"."""
        found = sorted(self.directory(out).glob("year=*/month=*/data.parquet"))
        return [f"{p.parts[-3][5:]}-{p.parts[-2][6:]}" for p in found]

    def read(self, out: Path) -> pa.Table:
        """All its rows, month after month; each file by itself, as its schema is checked too."""
        tables = []
        for month in self.months(out):
            year, number = month.split("-")
            path = self.directory(out) / f"year={year}" / f"month={number}" / "data.parquet"
            tables.append(pq.ParquetFile(path).read())
        return pa.concat_tables(tables)


def series(exchange: str, symbols: Sequence[str], *datasets: str) -> Iterator[SeriesPath]:
    """Every interval and clock of the datasets (all, if none is named) of the symbols."""
    for dataset in datasets or DATASETS:
        for symbol in symbols:
            for interval in SECONDS:
                for clock in CLOCKS:
                    yield SeriesPath(dataset, exchange, symbol, interval, clock)


def assert_bars(actual: pa.Table, expected: pa.Table, where: object) -> None:
    """The same rows and columns as the oracle's.

    Counts, first, last, minimum and maximum exactly; sums and means within 1e-12 of Σ|x|; ratios,
    entropy and toxicity within 1e-9 of their value. `expected` has, after the dataset's columns,
    one named `Σ|x|` for each signed sum `x`.
    """
    names = [name for name in expected.column_names if not name.startswith("Σ")]
    assert actual.column_names == names, where
    assert actual.schema.field("time").type == pa.timestamp("us"), where
    assert actual.column("time").equals(expected.column("time")), where
    for name in names[1:]:
        column, oracle = actual.column(name), expected.column(name)
        counts = name.endswith("_count")
        assert column.type == (pa.int64() if counts else pa.float64()), (where, name)
        assert column.is_null().equals(oracle.is_null()), (where, name)
        got, want = _numbers(column), _numbers(oracle)
        assert np.isfinite(got).all(), (where, name)
        scale = f"Σ|{name}|"
        if counts or name in _EXACT:
            allowed = np.zeros(len(want))
        elif scale in expected.column_names:
            allowed = _OF_SUM * _numbers(expected.column(scale).filter(oracle.is_valid()))
        elif name in _SUMS or name.endswith("_order_volume"):
            allowed = _OF_SUM * np.abs(want)
        else:
            allowed = _RELATIVE * np.abs(want)
        wrong = np.flatnonzero(np.abs(got - want) > allowed)
        assert not len(wrong), (
            f"{where} {name}: {len(wrong)} of {len(want)} rows differ, the first at "
            f"{expected.column('time').filter(oracle.is_valid())[int(wrong[0])]}: "
            f"{got[wrong[0]]!r}, the oracle has {want[wrong[0]]!r}"
        )


def _numbers(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """The values that are not null."""
    return np.asarray(column.drop_null().to_numpy(), dtype=np.float64)
