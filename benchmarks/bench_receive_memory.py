"""Memory of a collector that receives for a minute: does its resident size stay where it is?

A process of its own collects what another sends at a steady rate, Binance's frames as in
`bench_receive`, to an embedded log that retention keeps small. Its resident size is sampled four
times a second. Growth is the median of the last third of the samples less that of the second: the
first is for filling caches. `python -m benchmarks.bench_receive_memory SECONDS RATE` for longer.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import uvloop

from benchmarks import bench_receive
from benchmarks.result import Result
from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import BINANCE
from ingest.log.sqlite import SqliteLog
from ingest.records import TICK_TOPICS

SECONDS, RATE = 60.0, 20_000
SAMPLE_S, RETAIN_S = 0.25, 2.0
KEEP_BYTES = 4 << 20
TARGET = 4.0


def run() -> list[Result]:
    samples, frames = measure(SECONDS, RATE)
    detail: dict[str, object] = {
        "frames": frames,
        "seconds": SECONDS,
        "at the end, MB": samples[-1],
    }
    name = "growth of a collector's memory, second to last third of a minute"
    return [Result(name, growth(samples), "MB", TARGET, detail, better="lower")]


def measure(seconds: float, rate: int) -> tuple[list[float], int]:
    """(resident MB, sampled evenly; frames received) of a collector's process."""
    command = [sys.executable, "-m", "benchmarks.bench_receive_memory", str(seconds), str(rate)]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=2 * seconds + 60,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return found["mb"], found["frames"]


def growth(samples: Sequence[float]) -> float:
    """Median of the last third less that of the second, in the samples' unit."""
    third = len(samples) // 3
    return median(samples[2 * third :]) - median(samples[third : 2 * third])


async def _collect(seconds: float, rate: int) -> tuple[list[float], int]:
    loop = asyncio.get_running_loop()
    samples: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        log = SqliteLog(Path(directory) / "log.db")
        async with bench_receive.sender(rate) as port:
            settings = CollectorSettings(BINANCE, ws_url=f"ws://127.0.0.1:{port}")
            instruments = bench_receive.instruments()
            collector = Collector(
                settings, instruments, log, bench_receive.PARTITIONS, ArrivalClock()
            )
            running = asyncio.create_task(collector.run())
            end = loop.time() + seconds
            retain_at = 0.0
            while loop.time() < end and not running.done():
                await asyncio.sleep(SAMPLE_S)
                samples.append(_resident_mb())
                if loop.time() > retain_at:
                    retain_at = loop.time() + RETAIN_S
                    for topic in TICK_TOPICS:
                        await log.retain(topic, max_bytes=KEEP_BYTES)
            received = collector.ticks
            await collector.stop()
            await running
        await log.close()
    return samples, received


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmRSS: this benchmark needs Linux")


if __name__ == "__main__":
    mb, frames = uvloop.run(_collect(float(sys.argv[1]), int(sys.argv[2])))
    print(json.dumps({"mb": [round(x, 2) for x in mb], "frames": frames}))
