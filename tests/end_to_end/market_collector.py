"""A process that collects the simulated venues by the market's time, to be killed or stopped.

    python -m tests.end_to_end.market_collector DIRECTORY NAME PORT SPEED

The market's time (ns) is the first eight bytes of DIRECTORY/market-time, which the simulator's
process keeps up to date.
"""

import asyncio
import mmap
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.instruments import Instrument
from ingest.keeper import Keeper, KeeperSettings
from ingest.log import Log
from ingest.log.sqlite import SqliteLog
from ingest.simulator import EXCHANGES
from tests.end_to_end.fault_run import accelerate

PARTITIONS = 2
LOG = "perpflow.db"
BATCH_MS = 200.0
"""So that one that is stopped has ticks in its memory."""
_TIME = "market-time"


class SharedTime:
    """The market's time in a file that several processes read; `set` it in one of them."""

    def __init__(self, directory: Path, *, new: bool = False) -> None:
        path = directory / _TIME
        if new:
            path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def set(self, ns: int) -> None:
        self._map[:] = ns.to_bytes(8, "little")

    def __call__(self) -> int:
        return int.from_bytes(self._map[:], "little")


def start(directory: Path, name: str, port: int, speed: float) -> subprocess.Popen[bytes]:
    """Its log lines go to NAME.log beside the others' files."""
    arguments = [str(directory), name, str(port), str(speed)]
    with (directory / f"{name}.log").open("ab") as log:
        command = [sys.executable, "-m", "tests.end_to_end.market_collector", *arguments]
        return subprocess.Popen(command, stdout=log, stderr=log)


async def collect(directory: Path, name: str, port: int, speed: float) -> None:
    accelerate(pytest.MonkeyPatch(), speed)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    now = SharedTime(directory)
    log = SqliteLog(directory / LOG)
    keepers = [_keeper(exchange, directory, name, port, log, now) for exchange in EXCHANGES]
    running = [asyncio.create_task(keeper.run()) for keeper in keepers]
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({stop, *running}, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*(keeper.stop() for keeper in keepers))
    await asyncio.gather(*running)
    await log.close()


def _keeper(
    exchange: str, directory: Path, name: str, port: int, log: Log, now: SharedTime
) -> Keeper:
    rest_url = f"http://127.0.0.1:{port}"
    settings = CollectorSettings(
        exchange,
        ws_url=f"ws://127.0.0.1:{port}",
        rest_url=rest_url,
        collector=name,
        batch_ms=BATCH_MS,
    )

    def collector_of(instruments: list[Instrument]) -> Collector:
        clock = ArrivalClock(wall=now, monotonic=now)
        return Collector(settings, instruments, log, PARTITIONS, clock)

    cache = directory / f"{name}-{exchange}.json"
    kept = KeeperSettings(exchange, ["all"], cache, rest_url, refresh_s=60.0)
    return Keeper(kept, collector_of)  # type: ignore[arg-type]


if __name__ == "__main__":
    place, who, on, fast = sys.argv[1:]
    asyncio.run(collect(Path(place), who, int(on), float(fast)))
