"""Recorded Binance frames to normalised ticks beside cryptofeed, in one run, in CPU time.

The frames are those of ../shared/data that both know: cryptofeed's own capture of 2021 (aggTrade
and bookTicker of four symbols) and the bookTicker of BTCUSDT of 2024-07-19 (cryptofeed doesn't know
its @trade). Cryptofeed's `BinanceFutures.message_handler` gets each frame as
text with its arrival time and hands a `Trade` or `Ticker` to a callback; ours takes the bytes in
groups of 100 and ends with columns. Both keep all their ticks, which are then compared one by one.
A third figure is of a callback that lets every tick go at once: Python's garbage collector then has
nothing to look through. Rounds alternate and the best of each counts, as other work on the machine
only ever slows one.
"""

import asyncio
import gzip
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from cryptofeed.defines import BINANCE_FUTURES, BUY, PERPETUAL, TICKER, TRADES
from cryptofeed.exchanges import BinanceFutures
from cryptofeed.symbols import Symbols

from benchmarks.result import Result, cpu_time
from ingest.batches import Universe, quotes_batch, trades_batch
from ingest.instruments import BINANCE, instrument_by_name
from ingest.recorder import read_frames
from ingest.venues import Frame, ParseReport, Row, binance

DATA = Path(__file__).parents[2] / "shared/data/binance"
CAPTURE = DATA / "usdm_cryptofeed_20210417.ws.gz"
RECORDING = DATA / "usdm_ws_btcusdt_20240719.gz"
BASES = ("BTC", "DENT", "KSM", "XMR", "YFI")
CHANNELS = (b'"bookTicker"', b'"aggTrade"')
GROUP = 100
BATCH_ROWS = 4_096
ROUNDS = 25
TARGET = 5.0

Tick = tuple[str, int, float, float]
"""Symbol, exchange time (ms), then price and 1 for a buy or 0, or bid and ask."""


def run() -> list[Result]:
    if not DATA.exists():
        print(f"bench_cryptofeed: no recordings at {DATA} (../shared/data)", file=sys.stderr)
        return []
    found = chain(_captured(), ((ns, payload) for _, ns, payload in read_frames(RECORDING)))
    frames = [frame for frame in found if any(name in frame[1][:80] for name in CHANNELS)]
    text = [(payload.decode(), ns / 1e9) for ns, payload in frames]
    own = theirs = dropping = 0.0
    for _ in range(ROUNDS):
        own = max(own, _ours(frames)[0])
        theirs = max(theirs, asyncio.run(_cryptofeed(text))[0])
        dropping = max(dropping, asyncio.run(_cryptofeed(text, keep=False))[0])
    if _ours(frames)[1] != asyncio.run(_cryptofeed(text))[1]:
        raise RuntimeError("cryptofeed's ticks differ from ours")
    detail: dict[str, object] = {
        "frames": len(frames),
        "cryptofeed": version("cryptofeed"),
        "ratio if cryptofeed's ticks are let go": round(own / dropping, 2),
    }
    name = "recorded Binance frames to ticks"
    return [
        Result(f"{name}: cryptofeed", theirs, "frames/s/core"),
        Result(f"{name}: cryptofeed, ticks let go", dropping, "frames/s/core"),
        Result(f"{name}: ours", own, "frames/s/core"),
        Result(f"{name}: ours / cryptofeed", own / theirs, "×", TARGET, detail),
    ]


def _captured() -> Iterator[Frame]:
    with gzip.open(CAPTURE) as lines:
        for line in lines:
            stamp, found, payload = line.rstrip(b"\n").partition(b": ")
            if found and stamp.replace(b".", b"").isdigit():
                yield int(float(stamp) * 1e6) * 1_000, payload


def _ours(frames: Sequence[Frame]) -> tuple[float, list[list[Tick]]]:
    """(frames per CPU second, trades and quotes)."""
    instruments = [instrument_by_name(BINANCE, f"{base}USDT") for base in BASES]
    universe = Universe([i for i in instruments if i is not None])
    rows: tuple[list[Row], list[Row]] = [], []
    routes = universe.routes([rows[0]], [rows[1]])
    report = ParseReport()
    batches: list[Any] = []
    row = 0

    def close() -> None:
        batches.append((trades_batch(universe, rows[0]), quotes_batch(universe, rows[1])))
        rows[0].clear()
        rows[1].clear()

    with cpu_time() as cpu:
        for at in range(0, len(frames), GROUP):
            row = binance.parse(frames[at : at + GROUP], routes, row, report)
            if len(rows[0]) + len(rows[1]) >= BATCH_ROWS:
                close()
        close()
    ticks: list[list[Tick]] = [[], []]
    for trades, quotes in batches:
        names = [BASES[code] for code in trades.code]
        ms = (trades.exchange_ts // 1_000_000).tolist()
        values = trades.price.tolist(), (trades.side > 0).astype(float).tolist()
        ticks[0] += zip(names, ms, *values, strict=True)
        names = [BASES[code] for code in quotes.code]
        ms = (quotes.exchange_ts // 1_000_000).tolist()
        values = quotes.bid_price.tolist(), quotes.ask_price.tolist()
        ticks[1] += zip(names, ms, *values, strict=True)
    return len(frames) / cpu.seconds, ticks


async def _cryptofeed(
    frames: Sequence[tuple[str, float]], *, keep: bool = True
) -> tuple[float, list[list[Tick]]]:
    """(frames per CPU second, trades and quotes)."""
    names = {f"{base}-USDT-PERP": f"{base}USDT" for base in BASES}
    types = {"instrument_type": dict.fromkeys(names, PERPETUAL)}
    Symbols.set(BINANCE_FUTURES, names, types)  # else it asks the exchange
    kept: dict[str, list[Any]] = {TRADES: [], TICKER: []}

    async def on_trade(trade: Any, _received: float) -> None:
        if keep:
            kept[TRADES].append(trade)

    async def on_ticker(ticker: Any, _received: float) -> None:
        if keep:
            kept[TICKER].append(ticker)

    feed = BinanceFutures(
        symbols=list(names),
        channels=[TRADES, TICKER],
        callbacks={TRADES: on_trade, TICKER: on_ticker},
    )
    with cpu_time() as cpu:
        for payload, received in frames:
            await feed.message_handler(payload, None, received)
    trades: list[Tick] = [
        (_base(t.symbol), _ms(t.timestamp), float(t.price), float(t.side == BUY))
        for t in kept[TRADES]
    ]
    quotes: list[Tick] = [
        (_base(t.symbol), _ms(t.timestamp), float(t.bid), float(t.ask)) for t in kept[TICKER]
    ]
    return len(frames) / cpu.seconds, [trades, quotes]


def _base(symbol: str) -> str:
    return symbol.partition("-")[0]


def _ms(seconds: float) -> int:
    return round(Decimal(seconds) * 1000)


if __name__ == "__main__":
    for result in run():
        print(f"{result.name:60} {result.value:12,.1f} {result.unit}")
