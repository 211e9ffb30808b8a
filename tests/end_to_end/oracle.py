"""Bars of every dataset, interval and clock by SQL, straight from the lines of recordings.

The oracle of the end-to-end tests. It shares no code with the pipeline: DuckDB reads the gzip lines
itself, takes the JSON apart and computes each column by the words of DATASETS.md.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

SECONDS = {
    "1s": 1,
    "15s": 15,
    "30s": 30,
    "1m": 60,
    "5m": 300,
    "15m": 900,
    "30m": 1800,
    "1h": 3600,
    "4h": 14400,
    "1d": 86400,
}
CLOCKS = ("exchange", "true")

# A line is one column: the delimiter is a byte that JSON can't hold.
_FRAMES = r"""
INSERT INTO frames
SELECT (SELECT count(*) FROM frames) + row_number() OVER (),
       stamp::BIGINT * CASE length(stamp) WHEN 19 THEN 1 WHEN 16 THEN 1000 END,
       substr(line, length(stamp) + 2)::JSON
FROM (SELECT line, split_part(line, ' ', 1) AS stamp
      FROM read_csv(?, columns = {'line': 'VARCHAR'}, header = false, auto_detect = false,
                    delim = '\x01', quote = '', escape = '', comment = ''))
"""

_TICKS = {
    "binance-futures": """
        CREATE TABLE trades AS
        SELECT data->>'s' AS native, (data->>'T')::BIGINT * 1000000 AS exchange_ns, local_ns, seq,
               (data->>'t')::BIGINT AS sequence, data->>'t' AS key, true AS live,
               (data->>'p')::DOUBLE AS price, (data->>'q')::DOUBLE AS qty,
               1 AS count, NOT (data->>'m')::BOOLEAN AS buy,
               coalesce(data->>'X', 'MARKET') = 'MARKET' AS is_trade
        FROM (SELECT seq, local_ns, payload->'data' AS data FROM frames)
        WHERE data->>'e' = 'trade';

        CREATE TABLE quotes AS
        SELECT data->>'s' AS native, (data->>'E')::BIGINT * 1000000 AS exchange_ns, local_ns, seq,
               (data->>'u')::BIGINT AS sequence, data->>'u' AS key, true AS live,
               (data->>'B')::DOUBLE AS b, (data->>'A')::DOUBLE AS a,
               (data->>'b')::DOUBLE AS bid, (data->>'a')::DOUBLE AS ask
        FROM (SELECT seq, local_ns, payload->'data' AS data FROM frames)
        WHERE data->>'e' = 'bookTicker' AND data->>'E' IS NOT NULL;
    """,
    "hyperliquid-perps": """
        CREATE TABLE trades AS
        WITH trades_frames AS (
            SELECT seq, local_ns, payload->'data' AS fills,
                   row_number() OVER (PARTITION BY payload->>'$.data[0].coin' ORDER BY seq) AS nth
            FROM frames WHERE payload->>'channel' = 'trades'
        ), fills AS (
            SELECT seq * 100000 + nth_fill AS seq, local_ns, nth, fills->(nth_fill - 1) AS fill
            FROM trades_frames, range(1, json_array_length(fills)::BIGINT + 1) AS list(nth_fill)
        )
        SELECT fill->>'coin' AS native, (fill->>'time')::BIGINT * 1000000 AS exchange_ns,
               local_ns, seq, NULL::BIGINT AS sequence, (fill->>'time') || (fill->>'tid') AS key,
               nth > 1 AS live,  -- the first frame is what happened before the subscription
               (fill->>'px')::DOUBLE AS price, (fill->>'sz')::DOUBLE AS qty,
               1 AS count, fill->>'side' = 'B' AS buy, true AS is_trade
        FROM fills;

        CREATE TABLE quotes AS
        SELECT NULL::VARCHAR AS native, 0::BIGINT AS exchange_ns, 0::BIGINT AS local_ns,
               0::BIGINT AS seq, 0::BIGINT AS sequence, '' AS key, true AS live,
               0::DOUBLE AS b, 0::DOUBLE AS a, 0::DOUBLE AS bid, 0::DOUBLE AS ask
        WHERE false;
    """,
}

# `ord` is the canonical order, of the earliest copy of each id.
_CLOCKED = """
CREATE TABLE {kind}_by_clock AS
WITH stamped AS (
    SELECT 'exchange' AS clock, exchange_ns AS ts, sequence AS tie, * FROM {kind}
    WHERE {wanted}
      AND local_ns - (exchange_ns // 1000000000 + 1) * 1000000000 < getvariable('lateness_ns')
    UNION ALL
    SELECT 'true', local_ns, NULL, * FROM {kind} WHERE live AND {wanted}
), once AS (
    SELECT * FROM stamped
    QUALIFY row_number() OVER (PARTITION BY clock, native, key ORDER BY local_ns, seq) = 1
), ordered AS (
    SELECT *, row_number() OVER (PARTITION BY clock, native ORDER BY ts, tie, local_ns, seq) AS ord
    FROM once
)
SELECT ordered.*, name AS interval, seconds, ts // (seconds * 1000000000) * seconds AS start
FROM ordered, ladder
"""

_BAR = "native, clock, interval, start"
_TIME = "make_timestamp(start * 1000000) AS time"
_SIDES = {"buy": "buy", "sell": "NOT buy"}
_SIZES = {
    "small": "notional < 100",
    "medium": "notional >= 100 AND notional < 1000",
    "large": "notional >= 1000",
}


def _flow_sums() -> Iterator[str]:
    for side, is_side in _SIDES.items():
        yield f"coalesce(fsum(qty) FILTER ({is_side}), 0) AS {side}"
        yield f"coalesce(fsum(notional) FILTER ({is_side}), 0) AS {side}_notional"
        yield f"coalesce(sum(count) FILTER ({is_side}), 0)::BIGINT AS {side}_count"
        for size, is_size in _SIZES.items():
            both = f"{is_side} AND {is_size}"
            yield f"coalesce(fsum(notional) FILTER ({both}), 0) AS {side}_{size}"
            yield f"coalesce(sum(count) FILTER ({both}), 0)::BIGINT AS {side}_{size}_count"


def _flow_buckets() -> Iterator[str]:
    for side in _SIDES:
        for size in _SIZES:
            yield f"{side}_{size} AS taker_{side}_{size}_order_volume"
            yield f"{side}_{size}_count AS taker_{side}_{size}_order_count"
    for side in _SIDES:
        for size in _SIZES:
            yield f"{side}_{size} / nullif({side}, 0) AS taker_{side}_{size}_order_percentage"
        for size in _SIZES:
            yield (
                f"{side}_{size}_count / nullif({side}_count, 0) "
                f"AS taker_{side}_{size}_order_count_percentage"
            )


def _z(column: str) -> str:
    return (
        f"(({column} - avg({column}) OVER so_far) / nullif(stddev_samp({column}) OVER so_far, 0))"
    )


_FLOW = f"""
WITH steps AS (
    SELECT *, price / lag(price) OVER (PARTITION BY {_BAR} ORDER BY ord) - 1 AS r
    FROM trades_by_clock
), sums AS (
    SELECT {_BAR}, sqrt(coalesce(fsum(r * r), 0)) AS rv, {", ".join(_flow_sums())}
    FROM steps GROUP BY ALL
), shares AS (
    SELECT *, buy / nullif(buy + sell, 0) AS p, buy_notional - sell_notional AS delta FROM sums
)
SELECT native, clock, interval, {_TIME},
       buy AS taker_buy_volume,
       sell AS taker_sell_volume,
       buy_count AS taker_buy_count,
       sell_count AS taker_sell_count,
       buy - sell AS volume_delta,
       delta AS volume_delta_notional,
       -(CASE WHEN p > 0 THEN p * ln(p) ELSE 0 END
         + CASE WHEN p < 1 THEN (1 - p) * ln(1 - p) ELSE 0 END) AS flow_entropy,
       {_z("delta")} * {_z("rv")} AS flow_toxicity_score,
       buy / nullif(sell, 0) AS taker_buy_sell_ratio,
       buy_count / nullif(sell_count, 0) AS taker_buy_sell_count_ratio,
       p AS taker_buy_sell_percentage,
       buy_count / nullif(buy_count + sell_count, 0) AS taker_buy_sell_count_percentage,
       {", ".join(_flow_buckets())},
       buy + sell AS "Σ|volume_delta|",
       buy_notional + sell_notional AS "Σ|volume_delta_notional|"
FROM shares
WINDOW so_far AS (PARTITION BY native, clock, interval,
                              date_trunc(getvariable('reset'), make_timestamp(start * 1000000))
                 ORDER BY start ROWS UNBOUNDED PRECEDING)
"""

_OHLCV = f"""
SELECT native, clock, interval, {_TIME},
       arg_min(price, ord) AS open, max(price) AS high, min(price) AS low,
       arg_max(price, ord) AS close, fsum(qty) AS volume, fsum(notional) AS volume_notional
FROM trades_by_clock GROUP BY {_BAR}
"""

_L1_FIGURES = {
    "imbalance": "{b} - {a}",
    "imbalance_ratio": "({b} - {a}) / nullif({b} + {a}, 0)",
    "bid_ask_ratio": "{b} / nullif({a}, 0)",
    "bid_percentage": "{b} / nullif({b} + {a}, 0)",
    "ask_percentage": "{a} / nullif({b} + {a}, 0)",
}


def _l1_columns() -> Iterator[str]:
    for name, figure in _L1_FIGURES.items():
        yield f"{figure.format(b='last.b', a='last.a')} AS {name}"
    for name in _L1_FIGURES:
        yield f"{name}_avg"
    for name in _L1_FIGURES:
        yield f'"Σ|{name}_avg|"'


def _l1_sums() -> Iterator[str]:
    for name, template in _L1_FIGURES.items():
        figure = template.format(b="b", a="a")
        yield f"fsum({figure}) / count({figure}) AS {name}_avg"
        yield f'fsum(abs({figure})) / count({figure}) AS "Σ|{name}_avg|"'


_L1_IMBALANCE = f"""
WITH sums AS (
    SELECT {_BAR}, {", ".join(_l1_sums())},
           arg_max({{'b': b, 'a': a}}, ord) FILTER (b + a IS NOT NULL) AS last
    FROM quotes_by_clock GROUP BY {_BAR}
)
SELECT native, clock, interval, {_TIME}, {", ".join(_l1_columns())} FROM sums
"""

_LIQUIDITY_FIGURES = {
    "spread": "{q}ask - {q}bid",
    "spread_bps": "({q}ask - {q}bid) / nullif(({q}bid + {q}ask) / 2, 0) * 1e4",
    "spread_depth_ratio": "({q}ask - {q}bid) / nullif({q}b + {q}a, 0)",
    "total_depth": "{q}b + {q}a",
    "dollar_depth_bid": "{q}bid * {q}b",
    "dollar_depth_ask": "{q}ask * {q}a",
    "total_dollar_depth": "{q}bid * {q}b + {q}ask * {q}a",
}
_LAST_TWO_SIDED = """
    arg_max({'b': b, 'a': a, 'bid': bid, 'ask': ask}, ord) FILTER (b + a IS NOT NULL) AS last,
    arg_max({'b': b, 'bid': bid}, ord) FILTER (b IS NOT NULL) AS last_bid,
    arg_max({'a': a, 'ask': ask}, ord) FILTER (a IS NOT NULL) AS last_ask
"""


def _liquidity_columns() -> Iterator[str]:
    for name, figure in _LIQUIDITY_FIGURES.items():
        side = name.removeprefix("dollar_depth_")
        own = f", {figure.format(q=f'last_{side}.')}" if side in ("bid", "ask") else ""
        yield f"coalesce({figure.format(q='last.')}{own}) AS {name}"
    for name in _LIQUIDITY_FIGURES:
        yield f"{name}_avg"


def _liquidity_sums() -> Iterator[str]:
    for name, template in _LIQUIDITY_FIGURES.items():
        figure = template.format(q="")
        yield f"fsum({figure}) / count({figure}) AS {name}_avg"


_L1_LIQUIDITY = f"""
WITH sums AS (
    SELECT {_BAR}, {", ".join(_liquidity_sums())}, {_LAST_TWO_SIDED}
    FROM quotes_by_clock GROUP BY {_BAR}
)
SELECT native, clock, interval, {_TIME}, {", ".join(_liquidity_columns())} FROM sums
"""

_L1_PRICE = f"""
WITH stood AS (
    SELECT *, coalesce(lead(ts) OVER (PARTITION BY {_BAR} ORDER BY ord),
                       (start + seconds) * 1000000000) - ts AS ns
    FROM quotes_by_clock
), sums AS (
    SELECT {_BAR}, any_value(seconds) AS seconds, count(*) AS updates, {_LAST_TWO_SIDED},
           fsum(bid * ns) / sum(ns) FILTER (bid IS NOT NULL) AS bid_price_twap,
           fsum(ask * ns) / sum(ns) FILTER (ask IS NOT NULL) AS ask_price_twap,
           fsum(bid * b) / nullif(fsum(b), 0) AS bid_price_vwap,
           fsum(ask * a) / nullif(fsum(a), 0) AS ask_price_vwap
    FROM stood GROUP BY {_BAR}
)
SELECT native, clock, interval, {_TIME},
       coalesce(last.bid, last_bid.bid) AS bid_price, coalesce(last.b, last_bid.b) AS bid_amount,
       coalesce(last.ask, last_ask.ask) AS ask_price, coalesce(last.a, last_ask.a) AS ask_amount,
       (last.bid + last.ask) / 2 AS midprice,
       (last.bid * last.a + last.ask * last.b) / nullif(last.b + last.a, 0) AS weighted_midprice,
       bid_price_twap, ask_price_twap, bid_price_vwap, ask_price_vwap,
       updates / seconds AS quote_update_frequency, seconds / updates AS avg_update_interval
FROM sums
"""

_VTWAP = f"""
SELECT native, clock, interval, {_TIME},
       fsum(notional) / fsum(qty) AS vwap, fsum(price * count) / sum(count) AS twap
FROM trades_by_clock GROUP BY {_BAR}
"""

_QUERIES = {
    "flow": _FLOW,
    "l1_imbalance": _L1_IMBALANCE,
    "l1_liquidity": _L1_LIQUIDITY,
    "l1_price": _L1_PRICE,
    "ohlcv": _OHLCV,
    "vtwap": _VTWAP,
}


class Oracle:
    """Bars of recordings of one exchange, given in the order of their first stamps.

    Exchange-clock ticks that arrive `lateness_ns` or more after their second are in no bar. The
    toxicity score starts anew each `reset`, "month" or "day".
    """

    def __init__(
        self,
        exchange: str,
        recordings: Sequence[Path],
        *,
        lateness_ns: int = 1 << 62,
        reset: str = "month",
    ) -> None:
        self._db = duckdb.connect()
        self._db.execute(
            f"SET VARIABLE lateness_ns = {lateness_ns}; SET VARIABLE reset = '{reset}'"
        )
        # Neither the order of lines nor that of windows may depend on threads.
        self._db.execute("SET threads = 1")
        self._db.execute("CREATE TABLE frames (seq BIGINT, local_ns BIGINT, payload JSON)")
        for path in recordings:
            self._db.execute(_FRAMES, [str(path)])
        self._db.execute("CREATE TABLE ladder (name VARCHAR, seconds BIGINT)")
        self._db.executemany("INSERT INTO ladder VALUES (?, ?)", list(SECONDS.items()))
        self._db.execute(_TICKS[exchange])
        self._db.execute("ALTER TABLE trades ADD COLUMN notional DOUBLE")
        self._db.execute("UPDATE trades SET notional = price * qty")
        is_trade = "is_trade AND price > 0 AND qty > 0"
        self._db.execute(_CLOCKED.format(kind="trades", wanted=is_trade))
        self._db.execute(_CLOCKED.format(kind="quotes", wanted="true"))
        for dataset, query in _QUERIES.items():
            self._db.execute(f"CREATE TABLE {dataset} AS {query}")

    def bars(self, dataset: str, native: str, interval: str, clock: str) -> pa.Table:
        """`time`, the dataset's columns, then columns `Σ|x|`: what the error of a sum is of."""
        rows = self._db.sql(
            f"SELECT * EXCLUDE (native, clock, interval) FROM {dataset} "
            "WHERE native = ? AND interval = ? AND clock = ? ORDER BY time",
            params=[native, interval, clock],
        )
        return rows.to_arrow_table()

    def value(self, query: str) -> Any:
        """The one value of a query over `frames`, `trades` and `quotes`."""
        [(value,)] = self._db.execute(query).fetchall()
        return value
