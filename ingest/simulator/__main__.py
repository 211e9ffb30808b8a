"""Runs the simulator as a process: prints `listening on HOST:PORT`, stops on SIGTERM."""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ingest.errors import UserError
from ingest.simulator import EXCHANGES, Feed, Market, Simulator, market_feed, recording_feed
from ingest.simulator.flow import SECOND


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        feeds = _feeds(options)
        asyncio.run(_serve(options, feeds))
    except (ValueError, UserError, OSError, OverflowError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ingest.simulator",
        description="Binance, OKX and Hyperliquid on localhost: a seeded market or recordings.",
    )
    add = parser.add_argument
    add("--exchange", action="append", choices=EXCHANGES, help="repeatable; default: all three")
    add(
        "--symbols", action="append", default=[], help="native ids of the exchange before it, a,b,c"
    )
    add("--recording", action="append", metavar="EXCHANGE=FILE",
        help="serve recordings instead of a market; repeatable")  # fmt: skip
    add("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    add("--port", type=int, default=0, help="default: a free one")
    add("--seed", type=int, default=1)
    add("--start", type=int, metavar="NS", help="first exchange stamp, ns since the epoch; "
        "nothing is sent before the wall clock reaches it (default: the next second)")  # fmt: skip
    add("--span", type=float, metavar="SECONDS", help="market time after which the feeds end")
    add("--intensity", type=float, default=1.0, help="how much happens; 1: about 130 frames/s")
    add("--speed", type=float, default=1.0, help="market seconds per second; inf: no waiting")
    add("--hold", action="store_true", help="market time stands while too few are subscribed")
    add("--streams", type=int, default=0, help="subscriptions to wait for before market time runs")
    add("--resend", type=float, default=0.0, metavar="SECONDS",
        help="market time that a new subscription is sent again")  # fmt: skip
    return parser


def _feeds(options: argparse.Namespace) -> dict[str, Feed]:
    if options.recording:
        return _recordings(options.recording)
    exchanges = list(dict.fromkeys(options.exchange or EXCHANGES))
    if options.symbols and len(options.symbols) != len(exchanges):
        raise ValueError("give --symbols once for every --exchange, in the same order")
    natives = [text.split(",") for text in options.symbols] or [None] * len(exchanges)
    if options.start is None:  # a second the wall clock is yet to reach, so that stamps follow it
        options.start = (time.time_ns() // SECOND + 1) * SECOND
    return {
        exchange: market_feed(
            Market(options.seed, exchange, names, options.start, intensity=options.intensity),
            options.span,
        )
        for exchange, names in zip(exchanges, natives, strict=True)
    }


def _recordings(pairs: Sequence[str]) -> dict[str, Feed]:
    paths: dict[str, list[Path]] = {}
    for pair in pairs:
        exchange, separator, path = pair.partition("=")
        if not separator or exchange not in EXCHANGES:
            raise ValueError(
                f"--recording {pair}: EXCHANGE=FILE with one of {', '.join(EXCHANGES)}"
            )
        paths.setdefault(exchange, []).append(Path(path))
    return {exchange: recording_feed(exchange, files) for exchange, files in paths.items()}


async def _serve(options: argparse.Namespace, feeds: dict[str, Feed]) -> None:
    simulator = Simulator(
        feeds,
        speed=options.speed,
        hold=options.hold,
        streams=options.streams,
        resend_s=options.resend,
        not_before_ns=options.start or 0,
        host=options.host,
        port=options.port,
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with simulator:
        print(f"listening on {options.host}:{simulator.port}", flush=True)
        ended = asyncio.create_task(_announce_end(simulator))
        await stop.wait()
        ended.cancel()


async def _announce_end(simulator: Simulator) -> None:
    await simulator.finished.wait()
    print("end of feed", flush=True)


if __name__ == "__main__":
    sys.exit(main())
