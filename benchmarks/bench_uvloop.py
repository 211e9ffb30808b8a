"""Websocket frames to the log on uvloop and on asyncio's own loop: what `runtime.uvloop` is worth.

`bench_receive`'s work, taken in turns so that what else the machine does meets both; the medians.
"""

import asyncio
from statistics import median

import uvloop

from benchmarks.bench_receive import received
from benchmarks.result import Result

ROUNDS = 5


def run() -> list[Result]:
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(ROUNDS):
        for name, loop in loops.items():
            rates[name].append(received(loop).value)
    found = {name: median(of) for name, of in rates.items()}
    results = [
        Result(f"frames received, parsed, on the log: {name}", rate, "frames/CPU-s")
        for name, rate in found.items()
    ]
    ratio = found["uvloop"] / found["asyncio"]
    return [*results, Result("frames received: uvloop / asyncio", ratio, "×")]
