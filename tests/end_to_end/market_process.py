"""The simulator in a process of its own, which leaves its ledger behind when the market has ended.

`python -m tests.end_to_end.market_process SEED START_NS SECONDS INTENSITY SYMBOLS LEDGER`
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import orjson

from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.simulator import EXCHANGES, Feed, Market, Simulator, market_feed
from ingest.simulator.listings import many_natives
from ingest.simulator.market import Event
from ingest.simulator.spans import instruments_of
from ingest.ticks import I64

TRADES = {BINANCE: "{}@trade", OKX: "trades-all:{}", HYPERLIQUID: "trades:{}"}
QUOTES = {BINANCE: "{}@bookTicker", OKX: "bbo-tbt:{}", HYPERLIQUID: "bbo:{}"}
BUSY = {
    BINANCE: ["BTCUSDT", "ETHUSDT"],
    OKX: ["BTC-USDT-SWAP", "ETH-USDT-SWAP"],
    HYPERLIQUID: ["BTC", "ETH"],
}


@dataclass(frozen=True)
class Made:
    """What a venue made of one instrument: the ids of all trades, how many are to be in bars, and
    how many quotes."""

    ids: I64
    in_bars: int
    quotes: int


WITHHELD_S = 2
"""Of the market's start: coverage begins with a venue's first tick, inside a window."""


def natives(exchange: str, symbols: int) -> list[str]:
    """Two busy ones, the rest quiet."""
    return [*BUSY[exchange], *many_natives(exchange, symbols - 2)]


def key(channel: str, exchange: str, native: str) -> str:
    return channel.format(native.lower() if exchange == BINANCE else native)


def read_ledger(path: Path) -> dict[tuple[str, str], Made]:
    """By (exchange, Atlas id)."""
    with np.load(path) as file:
        counts = orjson.loads(file["counts"].tobytes())
        return {
            (exchange, symbol): Made(file[f"{exchange} {symbol}"], in_bars, quotes)
            for exchange, symbol, in_bars, quotes in counts
        }


async def serve(seed: int, start: int, seconds: float, intensity: float, symbols: int, to: Path):
    quotes: Counter[str] = Counter()
    feeds = {}
    for exchange in EXCHANGES:
        market = Market(seed, exchange, natives(exchange, symbols), start, intensity=intensity)
        feeds[exchange] = counted(market_feed(market, seconds), quotes)
    async with Simulator(feeds, not_before_ns=start) as simulator:
        print(f"listening on 127.0.0.1:{simulator.port}", flush=True)
        await simulator.finished.wait()
        write(simulator, feeds, quotes, to)
        print("end of feed", flush=True)
        await asyncio.Event().wait()  # until killed


def counted(feed: Feed, events: "Counter[str]") -> Feed:
    """The feed, which counts its events by stream."""

    def chunks() -> Iterator[list[Event]]:
        for chunk in feed.chunks:
            events.update(key for _, key, _ in chunk)
            yield chunk

    return replace(feed, chunks=chunks())


def write(simulator: Simulator, feeds: dict[str, Feed], quotes: "Counter[str]", to: Path) -> None:
    """What was made from the market's start on; not Hyperliquid's backlog from before."""
    counts, columns = [], {}
    for exchange, feed in feeds.items():
        for instrument in instruments_of(feed.listings):
            native = instrument.native
            trades = simulator.ledgers[exchange].trades(key(TRADES[exchange], exchange, native))
            since = trades.ms - feed.origin // 1_000_000
            columns[f"{exchange} {instrument.symbol}"] = trades.id[since >= 0]
            in_bars = int((trades.market & (since >= 1000 * WITHHELD_S)).sum())
            of = quotes[key(QUOTES[exchange], exchange, native)]
            counts.append((exchange, instrument.symbol, in_bars, of))
    partial = to.with_suffix(".partial.npz")
    np.savez(partial, counts=np.frombuffer(orjson.dumps(counts), np.uint8), **columns)
    partial.rename(to)


def main() -> None:
    seed, start, seconds, intensity, symbols, to = sys.argv[1:]
    asyncio.run(
        serve(int(seed), int(start), float(seconds), float(intensity), int(symbols), Path(to))
    )


if __name__ == "__main__":
    main()
