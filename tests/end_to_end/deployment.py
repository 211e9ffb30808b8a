"""The daemons as processes of their own, and what the system says of each while they run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from tests.end_to_end.fault_accounts import Scrape, scrape
from tests.publish.conftest import free_ports

STOP_S = 10.0
EXIT_S = 10.0
"""Python's own end, on a machine that is busy with other tests."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Samples:
    """Of one process: when (s), resident bytes, open files, CPU seconds so far."""

    at: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    files: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, pid: int) -> None:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.at.append(time.monotonic())
        self.rss.append(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE)
        self.files.append(len(os.listdir(f"/proc/{pid}/fd")))
        self.cpu.append((int(stat[11]) + int(stat[12])) / _TICK)

    @property
    def cpu_share(self) -> float:
        """CPU seconds a second, from the first sample to the last."""
        return (self.cpu[-1] - self.cpu[0]) / (self.at[-1] - self.at[0])

    def growth(self, values: Sequence[float]) -> float:
        """By how much it rises over the last two thirds: the median slope (Theil and Sen) times
        their length, so that a single peak says nothing."""
        late = len(values) // 3
        t, v = np.array(self.at[late:]), np.array(values[late:])
        i, j = np.triu_indices(len(t), 1)
        return float(np.median((v[j] - v[i]) / (t[j] - t[i])) * (t[-1] - t[0]))


@dataclass
class Daemon:
    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    samples: Samples = field(default_factory=Samples)

    @property
    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return False

    def scrape(self) -> Scrape:
        return scrape(self.port)

    def stop(self) -> float:
        """SIGTERM; seconds until it is gone. It must go by itself, without an error, which is in
        time: after 9.5 s it would end itself with one (publish.stopping)."""
        asked = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_S + EXIT_S)
        took = time.monotonic() - asked
        assert code == 0, (took, self.log.read_text()[-3000:])
        return took


class Deployment:
    """Daemons on the settings of one file; every one has its own port for /metrics."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.daemons: dict[str, Daemon] = {}

    def start(self, name: str, *settings: str, called: str | None = None) -> Daemon:
        """`perpflow NAME`; `called`: by which name it is known, of several of a kind."""
        called = called or name
        (port,) = free_ports(1)
        path = self.config.parent / f"{called}.log"
        command = [sys.executable, "-m", "perpflow", name, "--config", str(self.config)]
        for setting in (f"metrics.port={port}", *settings):
            command += ["--set", setting]
        with path.open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        self.daemons[called] = Daemon(called, process, port, path)
        return self.daemons[called]

    def wait_ready(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        for daemon in self.daemons.values():
            while not daemon.ready:
                assert time.monotonic() < deadline, (daemon.name, daemon.log.read_text()[-3000:])
                time.sleep(0.05)

    def sample(self) -> None:
        for daemon in self.daemons.values():
            assert daemon.process.poll() is None, (daemon.name, daemon.log.read_text()[-3000:])
            daemon.samples.take(daemon.process.pid)


@contextmanager
def deployment(config: Path) -> Iterator[Deployment]:
    """Ends what is left of it by its id."""
    made = Deployment(config)
    try:
        yield made
    finally:
        for daemon in made.daemons.values():
            daemon.process.kill()
            daemon.process.wait()
