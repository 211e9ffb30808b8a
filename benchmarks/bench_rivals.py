"""flow's 36 columns at 1 s beside polars and DuckDB, in one run on the same trades in memory.

A day of 200 instruments mixed in time order, then the busiest of them alone. The rivals use every
core and take the rows as they are; ours includes the canonical order and the search for copies, and
runs on one core, then on all as production does: a process each, with a part of the instruments, as
the log's partitions have them. Each rival is written in every form known to be good, all are timed
and the best counts: polars `group_by` (in-memory and streaming engine; filters, masked columns, a
single packed key) and `group_by_dynamic`, DuckDB with a window for the returns. Every result is
compared with ours. Seconds are wall time; the three best forms and ours run five more rounds in
turns, and the best round counts. One line compares the work itself, in CPU seconds of all threads.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from aggregate.datasets.flow import SIDES, SIZES
from aggregate.intervals import NS
from benchmarks import market
from benchmarks.flow_table import Workers, flow_table
from benchmarks.result import Result
from ingest.ticks import Trades

ROUNDS, CONTENDERS = 5, 3
MIXED_TARGET, ALONE_TARGET = 5.0, 1.5
_KEY_SHIFT = 1 << 40
ONE, ALL = "ours, one core", "ours, all cores"


def run() -> list[Result]:
    trades = market.day_of_trades()
    workers = Workers(trades, os.cpu_count() or 1)
    try:
        mixed = _compare("flow at 1s, 200 instruments mixed", trades, MIXED_TARGET, workers)
    finally:
        workers.close()
    alone = trades.take(trades.code == 0)
    return [*mixed, *_compare("flow at 1s, one instrument alone", alone, ALONE_TARGET)]


def _compare(
    what: str, trades: Trades, target: float, workers: Workers | None = None
) -> list[Result]:
    table = _table(trades)
    want = flow_table(trades).sorted()
    rivals = {**_polars_forms(pl.from_arrow(table)), **_duckdb_forms(table)}
    wall, cpu = {}, {}
    for name, compute in rivals.items():
        wall[name], cpu[name], result = _time(compute)
        _check(name, result, want)
    contenders = sorted(wall, key=lambda name: wall[name])[:CONTENDERS]
    if workers is not None:
        workers.run()
        workers.check(want)
        wall[ALL] = math.inf
    wall[ONE] = cpu[ONE] = math.inf
    for _ in range(ROUNDS):  # in turns, so that all meet the same machine
        for name in (ONE, *contenders):
            compute = rivals[name] if name != ONE else lambda: flow_table(trades)
            seconds = _time(compute)
            wall[name], cpu[name] = min(wall[name], seconds[0]), min(cpu[name], seconds[1])
        if workers is not None:
            wall[ALL] = min(wall[ALL], workers.run())
    best = min(rivals, key=lambda name: wall[name])
    thrifty = min(rivals, key=lambda name: cpu[name])
    detail: dict[str, object] = {
        "trades": len(trades),
        "groups": len(want["time"]),
        "cores": os.cpu_count(),
        "polars": pl.__version__,
        "duckdb": duckdb.__version__,
        **{f"{name}, trades/s": round(len(trades) / s) for name, s in wall.items()},
        **{f"{name}, trades/CPU-s": round(len(trades) / s) for name, s in cpu.items()},
    }
    speeds = [Result(f"{what}: {name}", len(trades) / s, "trades/s") for name, s in wall.items()]
    ratios = [
        Result(f"{what}: {name} / {best}", wall[best] / wall[name], "×", target, detail)
        for name in (ONE, ALL)
        if name in wall
    ]
    core = Result(f"{what}: ours / {thrifty}, a CPU second each", cpu[thrifty] / cpu[ONE], "×")
    return [*speeds, *ratios, core]


def _time(compute: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds of all threads, and what came of it."""
    begun, busy = time.perf_counter(), time.process_time()
    result = compute()
    return time.perf_counter() - begun, time.process_time() - busy, result


def _check(name: str, got: pa.Table, want: dict[str, Any]) -> None:
    """The same bars: counts exactly, the rest at 1e-9 of the column's size (the score 1e-6)."""
    order = np.lexsort((got["time"].to_numpy(), got["code"].to_numpy()))
    for column, values in want.items():
        rival = got[column].to_numpy().astype(np.float64)[order]
        size = float(np.nanmax(np.abs(values), initial=1.0))
        near = 1e-6 if column == "flow_toxicity_score" else 1e-9
        if not np.allclose(rival, values, rtol=near, atol=near * size, equal_nan=True):
            raise RuntimeError(f"{name}: {column} differs from ours")


def _table(trades: Trades) -> pa.Table:
    return pa.table(
        {
            "code": trades.code,
            "ts": trades.exchange_ts,
            "id": trades.id,
            "buy": trades.side > 0,
            "count": trades.count,
            "price": trades.price,
            "qty": trades.qty,
            "notional": trades.notional,
        }
    )


def _buckets() -> Iterator[tuple[str, str]]:
    for side in SIDES:
        for size in SIZES:
            yield side, size


# polars ---------------------------------------------------------------------------------------


def _side(side: str) -> pl.Expr:
    return pl.col("buy") if side == "buy" else ~pl.col("buy")


def _size(size: str) -> pl.Expr:
    small, large = pl.col("notional") < 100, pl.col("notional") >= 1000
    return {"small": small, "medium": ~small & ~large, "large": large}[size]


def _filters() -> list[pl.Expr]:
    out = [pl.col("qty").filter(_side(side)).sum().alias(f"{side}_qty") for side in SIDES]
    for side, size in _buckets():
        chosen = _side(side) & _size(size)
        out.append(pl.col("notional").filter(chosen).sum().alias(f"{side}_{size}_notional"))
        out.append(pl.col("count").filter(chosen).sum().alias(f"{side}_{size}_count"))
    return out


def masked_columns() -> list[pl.Expr]:
    """The columns that `_filters` picks, zero where they don't apply."""
    zero = pl.lit(0)
    out = []
    for side in SIDES:
        chosen = pl.when(_side(side))
        out.append(chosen.then(pl.col("qty")).otherwise(zero).alias(f"{side}_qty"))
    for side, size in _buckets():
        chosen = pl.when(_side(side) & _size(size))
        for of in ("notional", "count"):
            out.append(chosen.then(pl.col(of)).otherwise(zero).alias(f"{side}_{size}_{of}"))
    return out


def with_returns(frame: pl.DataFrame) -> pl.LazyFrame:
    """`time` (s) and the squared return from the trade before in the same second."""
    frames = frame.lazy().with_columns(time=pl.col("ts") // NS)
    before, then = (pl.col(name).shift(1).over("code") for name in ("price", "time"))
    step = (pl.col("price") / before - 1) ** 2
    return frames.with_columns(rv2=pl.when(then == pl.col("time")).then(step).otherwise(0.0))


def _z(x: pl.Expr) -> pl.Expr:
    d = x - x.first().over("code")
    n = pl.int_range(1, pl.len() + 1).over("code")
    s1, s2 = d.cum_sum().over("code"), (d * d).cum_sum().over("code")
    variance = (s2 - s1 * s1 / n) / (n - 1)
    return pl.when((n > 1) & (variance > 0)).then((d - s1 / n) / variance.sqrt())


def finished(sums: pl.LazyFrame) -> pl.LazyFrame:
    def ratio(a: pl.Expr, b: pl.Expr) -> pl.Expr:
        return pl.when(b != 0).then(a / b)

    def term(p: pl.Expr) -> pl.Expr:
        return pl.when(p > 0).then(p * p.log()).otherwise(0.0)

    qty = {side: pl.col(f"{side}_qty") for side in SIDES}
    sums = sums.sort("code", "time").with_columns(
        *(pl.sum_horizontal(f"{s}_{z}_count" for z in SIZES).alias(f"{s}_n") for s in SIDES),
        *(pl.sum_horizontal(f"{s}_{z}_notional" for z in SIZES).alias(f"{s}_value") for s in SIDES),
    )
    n = {side: pl.col(f"{side}_n") for side in SIDES}
    delta = pl.col("buy_value") - pl.col("sell_value")
    share = ratio(qty["buy"], qty["buy"] + qty["sell"])
    out = {
        "taker_buy_volume": qty["buy"],
        "taker_sell_volume": qty["sell"],
        "taker_buy_count": n["buy"],
        "taker_sell_count": n["sell"],
        "volume_delta": qty["buy"] - qty["sell"],
        "volume_delta_notional": delta,
        "flow_entropy": -(term(share) + term(1 - share)),
        "flow_toxicity_score": _z(delta) * _z(pl.col("rv2").sqrt()),
        "taker_buy_sell_ratio": ratio(qty["buy"], qty["sell"]),
        "taker_buy_sell_count_ratio": ratio(n["buy"], n["sell"]),
        "taker_buy_sell_percentage": share,
        "taker_buy_sell_count_percentage": ratio(n["buy"], n["buy"] + n["sell"]),
    }
    for side, size in _buckets():
        label, value = f"taker_{side}_{size}_order", pl.col(f"{side}_{size}_notional")
        out[f"{label}_volume"] = value
        out[f"{label}_count"] = pl.col(f"{side}_{size}_count")
        out[f"{label}_percentage"] = ratio(value, qty[side])
        out[f"{label}_count_percentage"] = ratio(pl.col(f"{side}_{size}_count"), n[side])
    return sums.select("code", "time", **out)


def _polars_forms(frame: Any) -> dict[str, Callable[[], pa.Table]]:
    sums = [expression.meta.output_name() for expression in masked_columns()]
    totals = [pl.col(*sums, "rv2").sum()]

    def filters(engine: Any) -> pa.Table:
        by = with_returns(frame).group_by("code", "time")
        return finished(by.agg(*_filters(), pl.col("rv2").sum())).collect(engine=engine).to_arrow()

    def masked(engine: Any) -> pa.Table:
        by = with_returns(frame).with_columns(masked_columns()).group_by("code", "time")
        return finished(by.agg(totals)).collect(engine=engine).to_arrow()

    def packed(engine: Any) -> pa.Table:
        key = pl.col("code").cast(pl.Int64) * _KEY_SHIFT + pl.col("time")
        by = with_returns(frame).with_columns(*masked_columns(), key=key).group_by("key")
        parts = {"code": pl.col("key") // _KEY_SHIFT, "time": pl.col("key") % _KEY_SHIFT}
        return finished(by.agg(totals).with_columns(**parts)).collect(engine=engine).to_arrow()

    def dynamic() -> pa.Table:
        frames = with_returns(frame).with_columns(*masked_columns(), at=pl.from_epoch("ts", "ns"))
        by = frames.group_by_dynamic("at", every="1s", group_by="code")
        seconds = pl.col("at").dt.epoch("s")
        return finished(by.agg(totals).with_columns(time=seconds)).collect().to_arrow()

    forms: dict[str, Callable[[], pa.Table]] = {"polars group_by_dynamic": dynamic}
    for engine in ("in-memory", "streaming"):
        for form in (filters, masked, packed):
            name = f"polars group_by, {form.__name__}, {engine}"
            forms[name] = lambda form=form, engine=engine: form(engine)
    return forms


# DuckDB ---------------------------------------------------------------------------------------


def _duckdb_sums() -> Iterator[str]:
    size = {
        "small": "notional < 100",
        "medium": "notional >= 100 AND notional < 1000",
        "large": "notional >= 1000",
    }
    side = {"buy": "buy", "sell": "NOT buy"}
    for s in SIDES:
        yield f"coalesce(sum(qty) FILTER ({side[s]}), 0) AS {s}_qty"
        for z in SIZES:
            chosen = f"FILTER ({side[s]} AND {size[z]})"
            yield f"coalesce(sum(notional) {chosen}, 0) AS {s}_{z}_notional"
            yield f"coalesce(sum(count) {chosen}, 0)::BIGINT AS {s}_{z}_count"


def _duckdb_buckets() -> Iterator[str]:
    for s, z in _buckets():
        label = f"taker_{s}_{z}_order"
        yield f"{s}_{z}_notional AS {label}_volume"
        yield f"{s}_{z}_count AS {label}_count"
        yield f"{s}_{z}_notional / nullif({s}_qty, 0) AS {label}_percentage"
        yield f"{s}_{z}_count / nullif({s}_n, 0) AS {label}_count_percentage"


def _total(side: str, of: str) -> str:
    return " + ".join(f"{side}_{size}_{of}" for size in SIZES)


def _duckdb_z(x: str) -> str:
    return f"(({x} - avg({x}) OVER so_far) / nullif(stddev_samp({x}) OVER so_far, 0))"


_STEPS = {
    "a window of each second": """
        SELECT *, ts // 1000000000 AS time, price / lag(price) OVER
            (PARTITION BY code, ts // 1000000000 ORDER BY ts, id) - 1 AS r FROM ticks""",
    "a window of each instrument": """
        SELECT * REPLACE (CASE WHEN before = time THEN r END AS r) FROM (
            SELECT *, ts // 1000000000 AS time, price / lag(price) OVER w - 1 AS r,
                   lag(ts // 1000000000) OVER w AS before
            FROM ticks WINDOW w AS (PARTITION BY code ORDER BY ts, id))""",
}


def _duckdb_forms(table: pa.Table) -> dict[str, Callable[[], pa.Table]]:
    db = duckdb.connect()
    db.register("arrow_ticks", table)
    db.execute("CREATE TABLE ticks AS SELECT * FROM arrow_ticks")
    forms: dict[str, Callable[[], pa.Table]] = {}
    for name, steps in _STEPS.items():
        query = f"""
WITH steps AS ({steps}), sums AS (
    SELECT code, time, sqrt(coalesce(sum(r * r), 0)) AS rv, {", ".join(_duckdb_sums())}
    FROM steps GROUP BY code, time
), shares AS (
    SELECT *, buy_qty / nullif(buy_qty + sell_qty, 0) AS p,
           {_total("buy", "count")} AS buy_n, {_total("sell", "count")} AS sell_n,
           {_total("buy", "notional")} - ({_total("sell", "notional")}) AS delta
    FROM sums
)
SELECT code, time, buy_qty AS taker_buy_volume, sell_qty AS taker_sell_volume,
       buy_n AS taker_buy_count, sell_n AS taker_sell_count,
       buy_qty - sell_qty AS volume_delta, delta AS volume_delta_notional,
       -(CASE WHEN p > 0 THEN p * ln(p) ELSE 0 END
         + CASE WHEN p < 1 THEN (1 - p) * ln(1 - p) ELSE 0 END) AS flow_entropy,
       {_duckdb_z("delta")} * {_duckdb_z("rv")} AS flow_toxicity_score,
       buy_qty / nullif(sell_qty, 0) AS taker_buy_sell_ratio,
       buy_n / nullif(sell_n, 0) AS taker_buy_sell_count_ratio,
       p AS taker_buy_sell_percentage,
       buy_n / nullif(buy_n + sell_n, 0) AS taker_buy_sell_count_percentage,
       {", ".join(_duckdb_buckets())}
FROM shares WINDOW so_far AS (PARTITION BY code ORDER BY time ROWS UNBOUNDED PRECEDING)"""
        forms[f"DuckDB, {name}"] = lambda query=query: db.sql(query).to_arrow_table()
    return forms


if __name__ == "__main__":
    for result in run():
        print(f"{result.name:80} {result.value:14,.2f} {result.unit}")
