"""`perpflow ingest` of the three simulated venues, to be killed and started again."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import Popen

import httpx

from tests.end_to_end.processes import wait_until
from tests.publish.test_health import free_port

START_S = 90.0
"""Longer than a start takes where the machine is busy."""


class Running:
    """One `perpflow ingest` after another, with one collector id; ended by id."""

    def __init__(self, config: Path, name: str) -> None:
        self._port = free_port()
        values = (f"ingest.collector={name}", f"metrics.port={self._port}")
        options = [text for value in values for text in ("--set", value)]
        command = [sys.executable, "-m", "perpflow", "ingest", "--config", str(config)]
        self._command = [*command, *options]
        self._log = config.with_name(f"{name}.log")
        self.kills = 0
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = Popen(self._command, stdout=log, stderr=log)

    def stands(self) -> bool:
        """Whether all its subscriptions were answered."""
        assert self._process.poll() is None, f"it ended by itself: see {self._log}"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self._port}/readyz").status_code == 200
        return False

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
        self.kills += 1

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(10) == 0, f"see {self._log}"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def collecting(config: Path, names: Sequence[str]) -> Iterator[list[Running]]:
    """These collectors, standing; ended when the block is, however it ends."""
    running: list[Running] = []
    try:
        for name in names:
            running.append(Running(config, name))
        for one in running:
            wait_until(one.stands, START_S, "the first subscriptions")
        yield running
    finally:
        for one in running:
            one.end()
