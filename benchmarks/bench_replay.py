"""Raw archive → bars of all datasets, intervals and both clocks → month files, of one instrument.

The issue's month: 200 M ticks (a third trades), 77 a second, in the archive's own day files; at
`PERPFLOW_BENCH_SCALE` fewer days of it. "On a core" is per CPU second of all threads of the worker,
which is a process of its own, so that its memory is its own too. Beside it polars makes only `flow`
at 1 s of the same files into one parquet file, which is a part of one of 120 series.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from aggregate.intervals import DAY, NS
from aggregate.shard import Rules
from benchmarks import market
from benchmarks.bench_rivals import finished, masked_columns, with_returns
from benchmarks.result import Result
from ingest.ticks import Quotes, Trades
from publish.merging import EPOCH
from publish.raw_chunks import QUOTES, SCHEMAS, SESSIONS, TRADES
from publish.raw_days import ROOT, Instrument, write_day
from publish.raw_rows import quotes as quote_rows
from publish.raw_rows import sessions as session_rows
from publish.raw_rows import trade_rows
from publish.replay.plan import RECORDED, archived_units
from publish.replay.ticks_in import Area
from publish.replay.work import Job, examine, perform
from publish.settings import PublishSettings
from publish.store import Store

DAYS, TICKS_A_DAY = 30, 6_666_667
EXCHANGE, SYMBOL = "binance-futures", "perpetual-BTC-USDT:USDT"
FIRST = date(2024, 4, 1)


def write_archive(store: Store, days: int) -> None:
    """Day files as the archive leaves them."""
    for day in (FIRST + timedelta(days=n) for n in range(days)):
        at = (day - EPOCH).days * DAY
        trades, quotes = market.part(at, DAY, TICKS_A_DAY, 1)
        # A venue's numbers and prices: of a few digits, which files are smaller for.
        trades.price, trades.qty = np.round(trades.price, 2), np.round(trades.qty, 3) + 0.001
        trades.notional = trades.price * trades.qty
        none = np.zeros(len(trades), np.int8)
        rows = {
            TRADES: trade_rows(_as_chunk(TRADES, trades), {"exchange": none, "true": none}),
            QUOTES: quote_rows(_as_chunk(QUOTES, quotes)),
        }
        for kind, table in rows.items():
            write_day(store, Instrument(kind, EXCHANGE, SYMBOL), day, iter([table]), {"0": 1})
    start = (FIRST - EPOCH).days * DAY * NS
    of = {"exchange": EXCHANGE, "symbol": SYMBOL, "collector": "c1", "event": "covered"}
    of |= {"shard": EXCHANGE, "session": "1", "anew": False}
    event = {**of, "local_ts": start, "local_from": start, "exchange_from": start}
    table = session_rows(pa.Table.from_pylist([event], SCHEMAS[SESSIONS]))
    write_day(store, Instrument(SESSIONS, EXCHANGE, ""), FIRST, iter([table]), {})


def _as_chunk(kind: str, ticks: Trades | Quotes) -> pa.Table:
    names = {"exchange": EXCHANGE, "symbol": SYMBOL, "collector": "c1"}
    index = pa.array(np.zeros(len(ticks), np.int32))
    columns = dict(zip(ticks.names(), ticks.columns(), strict=True))
    columns |= {
        name: pa.DictionaryArray.from_arrays(index, pa.array([text]))
        for name, text in names.items()
    }
    return pa.table([columns[n] for n in SCHEMAS[kind].names], schema=SCHEMAS[kind])


def replay(archive: str, out: str) -> dict[str, float]:
    """The whole of a unit: found, computed, written, described."""
    area = Area(PublishSettings(url=archive))
    [unit] = archived_units(area, Rules(lateness_ns=None))
    result = perform(examine(Job(unit, PublishSettings(url=out), RECORDED)))
    assert len({*result.changes.days}) == 1, "every day is new"
    return {"ticks": result.account.read.total(), "bars": result.bars}


def flow_by_polars(archive: str, out: str) -> dict[str, float]:
    """Only flow, only at 1 s, only by the exchange's clock."""
    files = Path(archive.removeprefix("file://")) / ROOT / TRADES
    trades = pl.scan_parquet(files / "**/*.parquet", hive_partitioning=False).select(
        ts=pl.col("exchange_timestamp").dt.epoch("ns"),
        code=pl.lit(0, pl.Int32),
        buy=pl.col("side") == "buy",
        qty=pl.col("amount"),
        **{name: pl.col(name) for name in ("price", "notional", "count")},
    )
    by = with_returns(trades).with_columns(masked_columns()).group_by("code", "time")
    sums = [expression.meta.output_name() for expression in masked_columns()]
    table = finished(by.agg(pl.col(*sums, "rv2").sum())).collect(engine="streaming")
    table.write_parquet(out.removeprefix("file://") + "/flow.parquet")
    return {"bars": len(table)}


def measured(work: Callable[[str, str], dict[str, float]], *arguments: str) -> dict[str, float]:
    """What the work says, with its CPU and wall seconds and the process's peak memory (MB)."""
    begun, cpu = time.perf_counter(), time.process_time()
    found = work(*arguments)
    return {
        **found,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.perf_counter() - begun,
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    """Of this process; what getrusage says it has from the one that started it."""
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def _alone(*work: Any) -> dict[str, float]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measured, *work).result()


def run() -> list[Result]:
    days = max(1, round(DAYS * market.scale()))
    with tempfile.TemporaryDirectory() as directory:
        archive, out = f"file://{directory}/archive", f"file://{directory}/out"
        write_archive(Store(archive), days)
        Path(f"{directory}/rival").mkdir()
        ours = _alone(replay, archive, out)
        theirs = _alone(flow_by_polars, archive, f"file://{directory}/rival")
    detail = {"days": days, **ours}
    return [
        Result(
            "raw archive → month files, all datasets, intervals and clocks",
            *(ours["ticks"] / ours["cpu_s"], "ticks/CPU-s", 2_000_000, detail),
        ),
        Result(
            "peak memory of that worker",
            *(ours["peak_mb"], "MB", 1000, {"days": days}),
            better="lower",
        ),
        Result(
            "the same CPU seconds / polars' for flow at 1 s alone",
            *(ours["cpu_s"] / theirs["cpu_s"], "×", None, {"polars": pl.__version__, **theirs}),
            better="lower",
        ),
    ]


if __name__ == "__main__":
    for result in run():
        print(result)
