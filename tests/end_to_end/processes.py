"""The simulator and `perpflow run` as processes, and what they left behind."""

import contextlib
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ingest import records
from ingest.log.sqlite import SqliteLog
from ingest.simulator import DEFAULT_NATIVES, EXCHANGES
from ingest.ticks import Quotes, Trades, decode

STREAMS = sum(2 * len(DEFAULT_NATIVES[exchange]) for exchange in EXCHANGES)
"""Trades and quotes of every default symbol of the three venues."""


def wait_until(condition: Callable[[], object], deadline_s: float, what: str) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def simulator(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The running simulator and its port; ended by id when the block ends."""
    command = [sys.executable, "-m", "ingest.simulator", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("listening on"), line
            yield process, int(line.rsplit(":", 1)[1])
        finally:
            process.kill()


def write_settings(
    directory: Path,
    port: int,
    *,
    lateness: str = "5s",
    flush: str = "1s",
    partitions: int = 2,
    natives: Mapping[str, Sequence[str]] = DEFAULT_NATIVES,
    more: str = "",
) -> Path:
    """A perpflow.toml for the simulator's venues, with everything else in `directory`."""
    lines = [
        f'[log]\npath = "{directory}/perpflow.db"\npartitions = {partitions}',
        f'[aggregate]\nlateness = "{lateness}"',
        f'[publish]\nurl = "file://{directory}/bars"\nflush = "{flush}"',
    ]
    for exchange in EXCHANGES:
        symbols = ", ".join(f'"{native}"' for native in natives[exchange])
        lines.append(
            f"[venues.{exchange}]\nsymbols = [{symbols}]\n"
            f'ws_url = "ws://127.0.0.1:{port}"\nrest_url = "http://127.0.0.1:{port}"'
        )
    path = directory / "perpflow.toml"
    path.write_text("\n".join([*lines, more]) + "\n")
    return path


def start_perpflow(config: Path) -> subprocess.Popen[bytes]:
    """`perpflow run`; its log lines go to run.log beside its settings."""
    with (config.parent / "run.log").open("ab") as log:
        command = [sys.executable, "-m", "perpflow", "run", "--config", str(config)]
        return subprocess.Popen(command, stdout=log, stderr=log)


def published(store: Path, dataset: str, interval: str, clock: str) -> dict:
    """{(exchange, symbol): {bar start (s): {column: repr}}} of open parts and month files."""
    out = defaultdict(dict)
    for root in ("metrics", "metrics_open"):
        pattern = f"{root}/{dataset}/*/*/interval={interval}/timestamp={clock}/**/*.parquet"
        for path in store.glob(pattern):
            parts = dict(p.split("=") for p in path.relative_to(store).parts if "=" in p)
            for row in pq.ParquetFile(path).read().to_pylist():
                start = int(np.datetime64(row.pop("time"), "s").astype(int))
                series = out[parts["exchange"], parts["symbol"]]
                assert start not in series, f"{path}: {start} is there twice"
                series[start] = {name: repr(value) for name, value in row.items()}
    return dict(out)


async def logged_ticks(path: Path, until: dict | None = None) -> tuple[list, list, dict]:
    """Trades and quotes on the log as dicts, and each symbol's first coverage (local ns)."""
    log = SqliteLog(path)
    ticks = {records.TRADES: [], records.QUOTES: []}
    covered = {}
    try:
        for topic in records.TICK_TOPICS:
            for partition in range(await log.partitions(topic)):
                offset = 0
                while batch := await log.read(topic, partition, offset):
                    for record in batch:
                        _take(record, ticks, covered)
                    offset = batch[-1].offset + 1
    finally:
        await log.close()
    return ticks[records.TRADES], ticks[records.QUOTES], covered


def _take(record, ticks, covered) -> None:
    kind = record.headers["type"]
    exchange = record.headers["exchange"]
    if kind == records.COVERAGE:
        coverage = records.Coverage.decode(record.value)
        for symbol in coverage.symbols:
            key = (exchange, symbol)
            covered[key] = min(covered.get(key, coverage.local_from), coverage.local_from)
    elif kind in ticks:
        cls = Trades if kind == records.TRADES else Quotes
        batch = decode(cls, record.value)
        names = cls.names()
        for values in zip(*(c.tolist() for c in batch.columns()), strict=True):
            tick = dict(zip(names, values, strict=True))
            tick["symbol"] = (exchange, batch.symbols[tick.pop("code")])
            tick["collector"] = record.headers["collector"]
            tick["identity"] = _identity(kind, exchange, tick)
            tick.setdefault("sequence", tick.get("id"))
            ticks[kind].append(tick)


def _identity(kind, exchange, tick):
    """What makes two ticks copies (DATASETS.md; Hyperliquid has no ordered ids)."""
    symbol = tick["symbol"]
    if kind == records.TRADES:
        hashed = exchange == "hyperliquid-perps"
        return (symbol, tick["id"], tick["exchange_ts"] if hashed else 0)
    if tick["sequence"]:
        return (symbol, tick["sequence"])
    sides = [tick[name] for name in ("bid_price", "bid_qty", "ask_price", "ask_qty")]
    return (symbol, tick["exchange_ts"], repr(sides))
