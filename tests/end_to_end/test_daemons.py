"""The pipeline's parts as processes of their own on one embedded log."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.processes import published, simulator, wait_until, write_settings

SEED = 5
DEADLINE_S = 60.0


def daemon(config: Path, name: str, number: int = 1) -> subprocess.Popen[bytes]:
    with (config.parent / f"{name}-{number}.log").open("wb") as log:
        command = [sys.executable, "-m", "perpflow", name, "--config", str(config)]
        return subprocess.Popen(command, stdout=log, stderr=log)


def test_three_processes_make_files_and_a_second_aggregator_takes_over(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    with simulator("--seed", SEED) as (_, port):
        config = write_settings(tmp_path, port)
        running = {name: daemon(config, name) for name in ("ingest", "aggregate", "publish")}
        everyone = [*running.values()]
        bars = tmp_path / "bars"
        try:
            wait_until(lambda: published(bars, "ohlcv", "1s", "true"), DEADLINE_S, "files")
            heir = daemon(config, "aggregate", 2)
            everyone.append(heir)
            replaced = running.pop("aggregate")
            assert replaced.wait(DEADLINE_S) == 1
            said = (tmp_path / "aggregate-1.log").read_text()
            assert "another perpflow has taken over the log" in said.splitlines()[-1]
            assert "Traceback" not in said
            before = _rows(bars)
            wait_until(lambda: _rows(bars) > before, DEADLINE_S, "files of the second")
            for process in (*running.values(), heir):
                process.send_signal(signal.SIGTERM)
            for process in (*running.values(), heir):
                assert process.wait(10) == 0
        finally:
            for process in everyone:
                process.kill()
                process.wait()


def _rows(bars: Path) -> int:
    # Asserts that none is there twice.
    return sum(map(len, published(bars, "ohlcv", "1s", "true").values()))
