"""Days of bars for tests that interrupt a publisher: what is on the log, round by round, what the
files must hold in the end, and a reader that looks at them all the while."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ingest.log import NewRecord
from publish.layout import Series
from publish.partitions import ServedFile, served_files
from publish.store import Store
from tests.publish.bars import BTC, ETH, at, bars, closed, series

FIRST = date(2026, 11, 28)
"""So that four days reach into the next month."""
SYMBOLS = (BTC, ETH)
KINDS = (("ohlcv", "1m", 0), ("flow", "1s", 1))
WIDER_FROM = 2
"""From that day on the bars have one more column."""


def all_series() -> list[Series]:
    return [
        series(symbol, dataset, interval) for symbol in SYMBOLS for dataset, interval, _ in KINDS
    ]


def day_of(number: int) -> date:
    return FIRST + timedelta(days=number)


def round_of(number: int) -> list[NewRecord]:
    """The bars of a day, a late one of the day before, and the mark that the day is over."""
    start = at(f"{day_of(number)} 00:00")
    more = ("trades",) if number >= WIDER_FROM else ()
    out = []
    for dataset, interval, partition in KINDS:
        step = 1 if interval == "1s" else 60
        for first in (0, 3598, 7200):
            starts = [start + first + step * i for i in range(4)]
            options = {"dataset": dataset, "interval": interval, "partition": partition}
            out.append(bars(starts, SYMBOLS, more=more, **options))
        if number:
            out.append(bars([start - 60], SYMBOLS, more=more, **options))
        out.append(closed(str(day_of(number)), SYMBOLS, partition=partition))
    return out


def contents(store: Store) -> dict[str, Any]:
    """Every file by its key: its columns and rows."""
    found = {}
    for key in store.list(""):
        table = pq.read_table(pa.BufferReader(store.get(key)))
        found[key] = (table.schema.names, table.to_pylist())
    return found


def served_times(store: Store, files: Sequence[ServedFile]) -> np.ndarray:
    """`time` of all rows of the files, as they are found (µs)."""
    times = [pq.read_table(pa.BufferReader(store.get(file.key)))["time"] for file in files]
    return np.concatenate([np.empty(0, np.int64), *(t.cast(pa.int64()).to_numpy() for t in times)])


def served(store: Store, of: Series) -> list[ServedFile]:
    """Where readers of the series are sent to."""
    return served_files(store, of)


@contextmanager
def polled(store: Store, of: Sequence[Series]) -> Iterator[list[int]]:
    """Read the series over and over while in the block; the list counts the looks.

    Fails if a file that was listed is torn or gone, or a row is no longer there, or there twice.
    """
    done = threading.Event()
    looks, problems = [0], []

    def look() -> None:
        before = {one: np.empty(0, np.int64) for one in of}
        try:
            while not done.is_set():
                for one in of:
                    files = served(store, one)
                    times = served_times(store, files)
                    assert len(set(times.tolist())) == len(times), f"{one}: a row twice"
                    assert np.isin(before[one], times).all(), f"{one}: rows went"
                    before[one] = times
                looks[0] += 1
                done.wait(0.05)  # leave the publisher some of the machine
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield looks
    finally:
        done.set()
        thread.join()
    if problems:
        raise problems[0]
