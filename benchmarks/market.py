"""The seeded market that the aggregation benchmarks share: 200 instruments, mixed in time order.

A full day is 20 M trades and 40 M quotes. `PERPFLOW_BENCH_SCALE` (0 < x ≤ 1, default 1) shortens
the day, not the rates, so that a figure per tick stays comparable where memory is small.
"""

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aggregate.intervals import DAY, NS
from ingest.ticks import BUY, F64, I32, I64, LIVE, SELL, Quotes, Trades

SEED = 4
START = 1_709_164_800
"""2024-02-29 00:00 UTC, in seconds."""
INSTRUMENTS = 200
TRADES_A_DAY, QUOTES_A_DAY = 20_000_000, 40_000_000
BURST = 3.0
"""Mean trades that come together: an order that meets several resting ones."""
BATCH = 4096
"""Ticks a record holds."""
PART_S = 600
"""Seconds that are made, and held, at once."""


def scale() -> float:
    return float(os.environ.get("PERPFLOW_BENCH_SCALE", "1"))


def symbols(instruments: int) -> list[str]:
    return [f"perpetual-C{i}-USDT:USDT" for i in range(instruments)]


def day_of_trades(seed: int = SEED) -> Trades:
    """The issue's day (as long as `scale` says) of trades, busier instruments first."""
    return trades(round(TRADES_A_DAY * scale()), INSTRUMENTS, round(DAY * scale()), seed)


def parts(seconds: int, ticks_s: float) -> Iterator[tuple[Trades, Quotes]]:
    """`seconds` of the market in parts of `PART_S`, for who need not hold all of it."""
    for at in range(START, START + seconds, PART_S):
        length = min(PART_S, START + seconds - at)
        yield part(at, length, round(length * ticks_s), INSTRUMENTS)


def part(
    at: int, seconds: int, n: int, instruments: int, *, even: bool = False
) -> tuple[Trades, Quotes]:
    """A third of n ticks as trades, the rest as quotes, over `seconds` from `at` (s) on."""
    both = (
        trades(n // 3, instruments, seconds, seed=at, even=even),
        quotes(n - n // 3, instruments, seconds, seed=at, even=even),
    )
    moved = (at - START) * NS
    for ticks in both:
        ticks.exchange_ts += moved
        ticks.local_ts += moved
    # Ids and update numbers go on where the part before ended, whatever it held.
    both[0].id += at * 10**6
    both[1].sequence += at * 10**6
    return both


def trades(
    n: int, instruments: int, seconds: int, seed: int = SEED, *, even: bool = False
) -> Trades:
    """n trades in time order over `seconds`, in bursts within some ms; `even` rates or skewed."""
    rng = np.random.default_rng(seed)
    burst = rng.geometric(1 / BURST, int(n / BURST * 1.2) + 100)
    first = rng.integers(0, seconds * 1000, len(burst))
    who = rng.random(len(burst)) ** (1 if even else 2) * instruments
    ms = np.repeat(first, burst)[:n] + rng.integers(0, 4, n)
    code = np.repeat(who.astype(np.int32), burst)[:n]
    side = np.repeat(np.where(rng.random(len(burst)) < 0.5, BUY, SELL), burst)[:n]
    order = np.argsort(np.minimum(ms, seconds * 1000 - 1), kind="stable")
    ms, code, side = np.minimum(ms, seconds * 1000 - 1)[order], code[order], side[order]
    exchange_ts = (START * 1000 + ms) * 1_000_000
    price = _prices(rng, code, instruments)
    qty = np.round(rng.lognormal(4, 2, n) / price, 6) + 1e-6
    return Trades(
        symbols(instruments),
        code,
        exchange_ts,
        exchange_ts + 5_000_000,
        _numbered(code, instruments),
        np.ones(n, dtype=np.int32),
        side.astype(np.int8),
        price,
        qty,
        price * qty,
        np.full(n, LIVE, dtype=np.int8),
        np.zeros(n, dtype=np.int8),
        np.arange(n),
    )


def quotes(
    n: int, instruments: int, seconds: int, seed: int = SEED, *, even: bool = False
) -> Quotes:
    """n two-sided top-of-book updates in time order over `seconds`."""
    rng = np.random.default_rng(seed)
    exchange_ts = (START * 1000 + np.sort(rng.integers(0, seconds * 1000, n))) * 1_000_000
    code = (rng.random(n) ** (1 if even else 2) * instruments).astype(np.int32)
    price = _prices(rng, code, instruments)
    return Quotes(
        symbols(instruments),
        code,
        exchange_ts,
        exchange_ts + 5_000_000,
        _numbered(code, instruments) + 1,
        price,
        np.round(rng.lognormal(0, 2, n), 3),
        price * (1 + 1e-4),
        np.round(rng.lognormal(0, 2, n), 3) + 0.001,
        np.full(n, LIVE, dtype=np.int8),
        np.arange(n),
    )


def _prices(rng: np.random.Generator, code: I32, instruments: int) -> F64:
    """Ticks of 0.01 % around each instrument's own level, which wanders with the market's."""
    level = 10 ** np.random.default_rng(SEED).uniform(-1, 4.8, instruments)
    market = np.exp(np.cumsum(rng.normal(0, 2e-6, len(code))))
    return level[code] * market * (1 + 1e-4 * rng.integers(-3, 4, len(code)))


def _numbered(code: I32, instruments: int) -> I64:
    """Each row's number within its instrument, from 1."""
    order = np.argsort(code.astype(np.uint16), kind="stable")
    starts = np.searchsorted(code[order], np.arange(instruments))
    number: npt.NDArray[np.int64] = np.empty(len(code), dtype=np.int64)
    number[order] = np.arange(len(code)) - starts[code[order]] + 1
    return number
