"""The API as clients meet it: `perpflow serve` on one core, asked by wrk and by the public client.

The files are made by replaying seeded archives: six months of one symbol, and a day of 300 (fewer
with `PERPFLOW_BENCH_SCALE`). wrk asks for a random symbol's files of a random dataset and interval,
over 16 connections, so its rate is the most that one core gives; latency is measured at that load.
"""

import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import aperiodic
import httpx

from aggregate.datasets import datasets
from benchmarks.market import scale
from benchmarks.result import Result
from ingest.simulator.listings import BINANCE, many_natives
from ingest.simulator.spans import record_span
from publish.keys import KeyFile
from publish.replay.command import ReplayOptions, replay

SYMBOLS = max(20, round(300 * scale()))
SECONDS = 10
ROUNDS = 5
NS = 10**9
HALF_YEAR = 1_772_323_200  # 2026-03-01 00:00 UTC
DAY = 1_788_220_800  # 2026-09-01 00:00 UTC
BTC = "perpetual-BTC-USDT:USDT"

_SCRIPT = """
local symbols, datasets, intervals = {%s}, {%s}, {"1s", "1m", "1h", "1d"}
request = function()
  local function any(list) return list[math.random(#list)] end
  return wrk.format("GET", "/api/v1/data/" .. any(datasets)
    .. "?timestamp=true&exchange=binance-futures&start_date=2026-09-01&end_date=2026-09-01"
    .. "&interval=" .. any(intervals) .. "&symbol=" .. any(symbols))
end
"""


def run() -> list[Result]:
    """Requests a second and their p99, and a client's six months of hours."""
    if shutil.which("wrk") is None:
        raise RuntimeError("this benchmark needs wrk (Debian package wrk)")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _make_files(directory)
        key = KeyFile(directory / "keys.json").add("bench", "prime", 100_000)
        with _served(directory, key) as url:
            return [_six_months(url, key), *_requests(directory, url, key)]


def _make_files(directory: Path) -> None:
    spans = [
        ("half_year", ["BTCUSDT"], HALF_YEAR, 184, 0.0005),
        ("day", many_natives(BINANCE, SYMBOLS), DAY, 1, 0.02),
    ]
    for name, natives, start, days, intensity in spans:
        record_span(
            directory / f"{name}.gz",
            BINANCE,
            natives=natives,
            seed=7,
            start_ns=(start - 5) * NS,
            seconds=days * 86_400 + 10,
            intensity=intensity,
        )
        replay(ReplayOptions([directory / f"{name}.gz"], BINANCE, f"file://{directory}/bars"))


@contextlib.contextmanager
def _served(directory: Path, key: str) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "perpflow", "serve", "--set", f"api.port={port}"]
    command += ["--set", f"publish.url=file://{directory}/bars"]
    command += ["--set", f"api.keys={directory}/keys.json"]
    url = f"http://127.0.0.1:{port}"
    # The benchmarks' own variable is no setting.
    environment = {k: v for k, v in os.environ.items() if k != "PERPFLOW_BENCH_SCALE"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as server:
        os.sched_setaffinity(server.pid, {0})
        try:
            _await_answer(f"{url}/api/v1/metadata/catalog", key)
            yield url
        finally:
            server.terminate()


def _await_answer(url: str, key: str) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, headers={"X-API-KEY": key}).status_code == 200:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} does not answer")
        time.sleep(0.1)


def _six_months(url: str, key: str) -> Result:
    times, hours = [], 0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        frame = aperiodic.get_metrics(
            key,
            metric="flow",
            timestamp="true",
            interval="1h",
            exchange="binance-futures",
            symbol=BTC,
            start_date=date(2026, 3, 1),
            end_date=date(2026, 8, 31),
            base_url=f"{url}/api/v1",
            show_progress=False,
        )
        times.append(time.perf_counter() - began)
        hours = len(frame)
    detail: dict[str, object] = {"rows": hours, "seconds": [round(t, 3) for t in times]}
    name = "client: six months of 1 h flow"
    return Result(name, statistics.median(times), "s", 1.0, detail, "lower")


def _requests(directory: Path, url: str, key: str) -> list[Result]:
    symbols = [f"perpetual-SIM{n:03}-USDT%3AUSDT" for n in range(SYMBOLS)]
    script = directory / "ask.lua"
    script.write_text(_SCRIPT % (_lua(symbols), _lua([dataset.name for dataset in datasets()])))
    command = ["wrk", "-t1", "-c16", f"-d{SECONDS}s", "--latency", "-s", str(script)]
    command += ["-H", f"X-API-KEY: {key}", url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise RuntimeError(f"the API refused some:\n{text}")
    rate = _found(r"Requests/sec:\s+([\d.]+)", text)
    p99 = _milliseconds(text)
    detail: dict[str, object] = {"symbols": SYMBOLS, "connections": 16}
    return [
        Result("API requests on one core", rate, "requests/s", 300.0, detail),
        Result("API p99 at that load", p99, "ms", 50.0, detail, "lower"),
    ]


def _lua(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _found(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk printed no {pattern}:\n{text}")
    return float(match[1])


def _milliseconds(text: str) -> float:
    unit = re.search(r"99%\s+[\d.]+(us|ms|s)", text)
    value = _found(r"99%\s+([\d.]+)", text)
    return value * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit[1] if unit else "ms"]
