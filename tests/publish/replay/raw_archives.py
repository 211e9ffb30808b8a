"""Seeded raw archives: what collectors could have left, with all that makes replay hard."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from aggregate.intervals import DAY, NS
from ingest.ticks import BACKLOG, BUY, HEALED, I64, LIVE, SELL, Quotes, Trades
from publish import raw_chunks
from publish.merging import EPOCH
from publish.raw_chunks import DAY_NS, QUOTES, SCHEMAS, SESSIONS, TRADES
from publish.raw_days import Instrument, write_day
from publish.raw_rows import quotes as quote_rows
from publish.raw_rows import sessions as session_rows
from publish.raw_rows import trade_rows
from publish.store import Store

Ticks = Trades | Quotes


@dataclass
class Seeded:
    """Ticks of one instrument by (kind, collector), as live had them; every stamp in ns."""

    exchange: str
    symbol: str
    ticks: dict[tuple[str, str], Ticks]
    covered_from: int


def day_start(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def seeded(
    seed: int,
    exchange: str,
    symbol: str,
    days: Sequence[date],
    ticks_a_day: int,
    *,
    collectors: Sequence[str] = ("c1", "c2"),
    stragglers: int = 20,
    behind_ns: int = 0,
) -> Seeded:
    """Ticks of those days, in bursts; collectors see most of them, some only by healing.

    Trades: ids that rise, some off the book; of the collectors each misses a tenth. `stragglers` a
    day come an hour, or a day and an hour, late and are healed. The collectors' clocks are
    `behind_ns` behind the venue's.
    """
    rng = np.random.default_rng([seed, *symbol.encode()])
    low, high = day_start(days[0]), day_start(days[-1]) + DAY
    wanted = np.array([day_start(day) for day in days])
    ticks: dict[tuple[str, str], Ticks] = {}
    for kind in (TRADES, QUOTES):
        n = ticks_a_day * len(days)
        day = np.sort(rng.integers(0, len(days), n))
        # Bursts at midnight too: the edges are where it is hard.
        within = np.where(
            rng.random(n) < 0.1, rng.choice([0, DAY * 1000 - 1], n), rng.integers(0, DAY * 1000, n)
        )
        ms = np.sort(wanted[day] * 1000 + within)
        exchange_ts = ms * 1_000_000
        number = np.arange(1, n + 1, dtype=np.int64)
        price = np.round(100 * np.exp(np.cumsum(rng.normal(0, 1e-4, n))), 2)
        qty = np.round(rng.lognormal(0, 1, n), 3) + 0.001
        other = np.round(rng.lognormal(0, 1, n), 3) + 0.001
        side = rng.choice([BUY, SELL], n)
        off_book = (rng.random(n) < 0.01).astype(np.int8)
        late = rng.permutation(n)[: stragglers * len(days)]
        for place, collector in enumerate(collectors):
            delay = rng.exponential(20e6, n).astype(np.int64) + 1_000_000
            delay[rng.random(n) < 0.002] += 7 * NS  # late for live
            origin = np.full(n, LIVE, np.int8)
            if kind == TRADES:
                delay[late] = rng.choice([3600 * NS, (DAY + 3600) * NS], len(late))
                origin[late] = rng.choice([HEALED, BACKLOG], len(late))
            local_ts = exchange_ts + delay - behind_ns
            seen = (rng.random(n) > 0.1) | (origin != LIVE)
            seen &= local_ts < high * NS
            if place == 0:
                seen &= local_ts >= low * NS
            order = np.flatnonzero(seen)[np.argsort(local_ts[seen], kind="stable")]
            row = np.arange(len(order))
            at = (exchange_ts[order], local_ts[order])
            code = np.zeros(len(order), np.int32)
            if kind == TRADES:
                made: Ticks = Trades(
                    [symbol],
                    *(code, *at, number[order], np.ones(len(order), np.int32)),
                    *(side[order].astype(np.int8), price[order], qty[order]),
                    *(price[order] * qty[order], origin[order], off_book[order], row),
                )
            else:
                bid = np.where(rng.random(len(order)) < 0.01, np.nan, price[order])
                made = Quotes(
                    [symbol],
                    *(code, *at, number[order], bid, np.where(np.isnan(bid), np.nan, qty[order])),
                    *(price[order] + 0.01, other[order], np.zeros(len(order), np.int8), row),
                )
            ticks[kind, collector] = made
    return Seeded(exchange, symbol, ticks, low * NS)


def write_archive(
    store: Store,
    made: Sequence[Seeded],
    *,
    leave_out: Sequence[date] = (),
    opened: date | None = None,
) -> None:
    """As the archive leaves it: day files; from the day `opened` on as chunks of days not over."""
    coverage: dict[str, list[dict[str, object]]] = {}
    for of in made:
        for kind in (TRADES, QUOTES):
            table = _chunk_table(of, kind)
            for day, rows in _by_day(table):
                if day in leave_out:
                    continue
                if opened is not None and day >= opened:
                    raw_chunks.write_chunks(store, kind, rows, 0, (0, len(table)), 1)
                    continue
                instrument = Instrument(kind, of.exchange, of.symbol)
                if kind == TRADES:
                    none = np.where(rows["off_book"].to_numpy() != 0, 1, 0).astype(np.int8)
                    rows = trade_rows(rows, {"exchange": none, "true": none})
                else:
                    rows = quote_rows(rows)
                write_day(store, instrument, day, iter([rows]), {"0": 1})
        coverage.setdefault(of.exchange, []).append(
            {
                "exchange": of.exchange,
                "symbol": of.symbol,
                "local_ts": of.covered_from,
                "event": "covered",
                "collector": "c1",
                "shard": of.exchange,
                "session": "1",
                "local_from": of.covered_from,
                "exchange_from": of.covered_from,
                "anew": False,
            }
        )
    for exchange, events in coverage.items():
        table = pa.Table.from_pylist(events, SCHEMAS[SESSIONS])
        day = EPOCH + timedelta(days=events[0]["local_ts"] // DAY_NS)  # type: ignore[operator]
        write_day(store, Instrument(SESSIONS, exchange, ""), day, iter([session_rows(table)]), {})


def _chunk_table(of: Seeded, kind: str) -> pa.Table:
    tables = []
    for (which, collector), ticks in of.ticks.items():
        if which != kind:
            continue
        n = len(ticks)
        columns = {
            **dict(zip(ticks.names(), ticks.columns(), strict=True)),
            "exchange": pa.array([of.exchange] * n, pa.utf8()).dictionary_encode(),
            "symbol": pa.array([of.symbol] * n, pa.utf8()).dictionary_encode(),
            "collector": pa.array([collector] * n, pa.utf8()).dictionary_encode(),
        }
        schema = SCHEMAS[kind]
        tables.append(pa.table([columns[name] for name in schema.names], schema=schema))
    table = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
    names = np.array(table["collector"].cast(pa.utf8()).to_pylist())
    order = np.lexsort((table["row"].to_numpy(), names, table["local_ts"].to_numpy()))
    return table.take(order)


def _by_day(table: pa.Table) -> list[tuple[date, pa.Table]]:
    days: I64 = table["local_ts"].to_numpy() // DAY_NS
    return [
        (EPOCH + timedelta(days=int(day)), table.filter(pa.array(days == day)))
        for day in np.unique(days)
    ]
