"""A collector of the three simulated venues as a process, to be killed.

python -m tests.end_to_end.collect LOG PORT COLLECTOR NATIVES…
"""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import Popen

from ingest.clock import ArrivalClock
from ingest.collector import Collector, CollectorSettings
from ingest.log.sqlite import SqliteLog
from ingest.records import TICK_TOPICS
from ingest.simulator import EXCHANGES
from ingest.universe import fetch_instruments
from tests.end_to_end.processes import wait_until

PARTITIONS = 2
START_S = 20.0


async def collect(log: SqliteLog, port: int, name: str, natives: Sequence[Sequence[str]]) -> None:
    """All venues into one log until SIGTERM; says when everything is subscribed."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await log.create(dict.fromkeys(TICK_TOPICS, PARTITIONS))
    collectors = []
    for exchange, names in zip(EXCHANGES, natives, strict=True):
        rest = f"http://127.0.0.1:{port}"
        settings = CollectorSettings(
            exchange, ws_url=f"ws://127.0.0.1:{port}", rest_url=rest, collector=name
        )
        instruments = await fetch_instruments(exchange, rest, names)
        collectors.append(Collector(settings, instruments, log, PARTITIONS, ArrivalClock()))
    async with asyncio.TaskGroup() as tasks:
        for collector in collectors:
            tasks.create_task(collector.run())
        while not stopping.is_set() and not all(c.subscribed for c in collectors):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        print("standing", flush=True)
        await stopping.wait()
        for collector in collectors:
            await collector.stop()


class Running:
    """One collector process after another, with one id; ended by id."""

    def __init__(self, log: Path, port: int, name: str, natives: Mapping[str, Sequence[str]]):
        names = [",".join(natives[exchange]) for exchange in EXCHANGES]
        self._command = [sys.executable, "-m", __name__, str(log), str(port), name, *names]
        self._out = log.with_name(f"{name}.out")
        self.kills = 0
        self.start()

    def start(self) -> None:
        self._said = self._out.stat().st_size if self._out.exists() else 0
        with self._out.open("ab") as out, self._out.with_suffix(".err").open("ab") as errors:
            self._process = Popen(self._command, stdout=out, stderr=errors)

    def stands(self) -> bool:
        """Whether all its subscriptions were answered."""
        assert self._process.poll() is None, f"it ended by itself: see {self._out}"
        return b"standing" in self._out.read_bytes()[self._said :]

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
        self.kills += 1

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(10) == 0, f"see {self._out}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def collecting(
    log: Path, port: int, names: Sequence[str], natives: Mapping[str, Sequence[str]]
) -> Iterator[list[Running]]:
    """These collectors, standing; ended when the block is, however it ends."""
    running: list[Running] = []
    try:
        for name in names:
            running.append(Running(log, port, name, natives))
        for one in running:
            wait_until(one.stands, START_S, "the first subscriptions")
        yield running
    finally:
        for one in running:
            one.end()


if __name__ == "__main__":
    path, port, name, *natives = sys.argv[1:]
    asyncio.run(collect(SqliteLog(path), int(port), name, [n.split(",") for n in natives]))
