"""`perpflow demo`: simulated venues on localhost, a backfilled day, then the pipeline live."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import structlog
from rich.console import Console
from rich.progress import Progress

from aggregate.intervals import NS
from ingest import event_loop
from ingest.errors import UserError
from ingest.simulator import DEFAULT_NATIVES, EXCHANGES
from ingest.simulator.spans import record_span
from publish import pipeline
from publish.demo_table import BarTable
from publish.replay.command import ReplayOptions, ReplaySummary, replay
from publish.settings import Settings

_MARK = ".perpflow-demo"
_BACKFILL_INTENSITY = 0.04
"""About 130,000 frames a venue and day: seconds of work, and bars at every interval."""
_LIVE_INTENSITY = 4
_MARGIN_S = 5
"""Recorded around the day, so that the data covers it from its first second to its last."""
_START_AFTER_S = 3


class DemoError(UserError):
    """The demo can't use its directory or its simulator."""


def demo(out: Path, seconds: int, seed: int) -> None:
    """Backfill a simulated day into `out`, then run live against the simulator for `seconds`.

    Leaves `out/recordings`, `out/perpflow.db` and the parquet under `out/bars`.
    Raises `DemoError` if `out` holds something that is not an earlier demo's.
    """
    structlog.configure(processors=[_warnings_only, structlog.dev.ConsoleRenderer()])
    console = Console()
    _prepare(out)
    day = datetime.now(UTC).date() - timedelta(days=2)
    console.print(f"[bold]1.[/] Replaying a simulated {day} of {len(EXCHANGES)} venues")
    started = time.monotonic()
    bars = _backfill(console, out, day.isoformat(), seed)
    console.print(f"   {bars:,} bars at all ten intervals in {time.monotonic() - started:.1f} s\n")
    console.print(f"[bold]2.[/] Live from the simulated venues for {seconds} s, seed {seed}")
    with _simulator(seed) as port:
        event_loop.run(_live(console, out, seconds, port))
    _closing(console, out)


def _prepare(out: Path) -> None:
    mark = out / _MARK
    if out.exists() and any(out.iterdir()):
        if not mark.exists():
            raise DemoError(f"{out} is not empty and not an earlier demo's: pass another --out")
        shutil.rmtree(out)
    try:
        (out / "recordings").mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise DemoError(f"can't write to {out}: {error.strerror}") from error


def _backfill(console: Console, out: Path, day: str, seed: int) -> int:
    """Record and replay the day of every venue, two at a time; returns the bars made."""
    bars = 0
    with (
        Progress(console=console, transient=True) as progress,
        ProcessPoolExecutor(2, get_context("spawn")) as pool,
    ):
        task = progress.add_task("   recording and replaying", total=len(EXCHANGES))
        jobs = [pool.submit(_backfill_venue, out, exchange, day, seed) for exchange in EXCHANGES]
        for job in jobs:
            bars += job.result().bars
            progress.advance(task)
    return bars


def _backfill_venue(out: Path, exchange: str, day: str, seed: int) -> ReplaySummary:
    start = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) - _MARGIN_S
    path = out / "recordings" / f"{exchange}-{day}.gz"
    record_span(
        path,
        exchange,
        seed=seed,
        start_ns=start * NS,
        seconds=86_400 + 2 * _MARGIN_S,
        intensity=_BACKFILL_INTENSITY,
    )
    return replay(ReplayOptions([path], exchange, _url(out)))


def _url(out: Path) -> str:
    return f"file://{(out / 'bars').absolute()}"


@contextlib.contextmanager
def _simulator(seed: int) -> Iterator[int]:
    """The simulator as a process of its own; yields its port."""
    start = (int(time.time()) + _START_AFTER_S) * NS
    command = [sys.executable, "-m", "ingest.simulator", "--seed", str(seed)]
    command += ["--start", str(start), "--intensity", str(_LIVE_INTENSITY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("listening on"):
                raise DemoError(f"the simulator did not start: {line.strip() or 'it ended'}")
            yield int(line.rsplit(":", 1)[1])
        finally:
            process.terminate()


async def _live(console: Console, out: Path, seconds: int, port: int) -> None:
    settings = _settings(out, port)
    stopping = asyncio.Event()
    running = asyncio.create_task(pipeline.run(settings, stopping))
    table = BarTable(console, settings, seconds)
    showing = asyncio.create_task(table.show())
    try:
        await asyncio.wait({running}, timeout=seconds)
    finally:
        stopping.set()
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
    await running


def _settings(out: Path, port: int) -> Settings:
    venues = {
        exchange: {
            "symbols": list(DEFAULT_NATIVES[exchange]),
            "ws_url": f"ws://127.0.0.1:{port}",
            "rest_url": f"http://127.0.0.1:{port}",
        }
        for exchange in EXCHANGES
    }
    return Settings.model_validate(
        {
            "log": {"path": out / "perpflow.db"},
            "venues": venues,
            "publish": {"url": _url(out), "flush": "5s"},
        }
    )


def _closing(console: Console, out: Path) -> None:
    files = list((out / "bars").rglob("*.parquet"))
    size = sum(path.stat().st_size for path in files) / 1e6
    console.print(
        f"\n[bold]3.[/] {len(files):,} parquet files, {size:.0f} MB, under {out / 'bars'}"
    )
    console.print(f"   month files: {out / 'bars' / 'metrics'}")
    console.print(f"   today's open parts: {out / 'bars' / 'metrics_open'}")
    console.print("   README.md shows how to load them with polars, DuckDB and pandas.")
    console.print(f"   perpflow serve --set publish.url=file://{out / 'bars'} serves them by HTTP.")


def _warnings_only(
    logger: object, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    if method in ("debug", "info"):
        raise structlog.DropEvent
    return event
