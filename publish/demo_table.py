"""The demo's table: the newest bar of every symbol and clock, as the log gets them."""

import asyncio
import time
from collections import Counter
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from aggregate.bars import read_table
from aggregate.intervals import CLOCKS
from ingest.log import Log, Record
from ingest.records import BARS, BARS_TOPIC
from publish.log import open_log
from publish.settings import Settings

INTERVAL = "1s"
_REFRESH_S = 0.5
_PLAIN_EVERY_S = 15.0
"""Without a terminal the table is printed this often instead of redrawn."""


class BarTable:
    """Follows the bars topic of the demo's log and shows the last `INTERVAL` bars."""

    def __init__(self, console: Console, settings: Settings, seconds: int) -> None:
        self._console = console
        self._settings = settings
        self._seconds = seconds
        self._rows: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._bars: Counter[str] = Counter()

    async def show(self) -> None:
        """Show until cancelled; the last table stays on the screen."""
        log = open_log(self._settings.log)
        try:
            await log.create({BARS_TOPIC: self._settings.log.partitions})
            await (self._redraw(log) if self._console.is_terminal else self._print(log))
        finally:
            await log.close()

    async def _redraw(self, log: Log) -> None:
        started = time.monotonic()
        with Live(self._table(0), console=self._console, auto_refresh=False) as live:
            async for _ in self._follow(log):
                live.update(self._table(time.monotonic() - started), refresh=True)

    async def _print(self, log: Log) -> None:
        started = printed = time.monotonic()
        try:
            async for _ in self._follow(log):
                if time.monotonic() - printed >= _PLAIN_EVERY_S:
                    printed = time.monotonic()
                    done = f"{printed - started:.0f} of {self._seconds} s"
                    self._console.print(f"   {done}, {self._bars.total():,} bars closed")
        finally:
            self._console.print(self._table(time.monotonic() - started))

    async def _follow(self, log: Log) -> Any:
        positions = {(BARS_TOPIC, p): 0 for p in range(self._settings.log.partitions)}
        while True:
            for (topic, partition), offset in positions.items():
                for record in await log.read(topic, partition, offset):
                    positions[topic, partition] = record.offset + 1
                    self._take(record)
            yield
            await asyncio.sleep(_REFRESH_S)

    def _take(self, record: Record) -> None:
        headers = record.headers
        if headers["type"] != BARS:
            return
        table = read_table(record.value)
        self._bars[headers["interval"]] += table.num_rows
        if headers["interval"] == INTERVAL:
            for row in table.to_pylist():
                key = (headers["exchange"], row.pop("symbol"), headers["clock"])
                known = self._rows.setdefault(key, {})
                known[headers["dataset"]] = row

    def _table(self, elapsed: float) -> Table:
        counts = "  ".join(f"{name} {n:,}" for name, n in self._bars.items())
        table = Table(
            title=f"newest {INTERVAL} bars, {min(elapsed, self._seconds):.0f} of {self._seconds} s",
            caption=f"bars closed: {counts or 'none yet'}",
            box=None,
            padding=(0, 1, 0, 0),
        )
        for name in ("venue", "symbol", "clock", "bar"):
            table.add_column(name, no_wrap=True)
        for name in ("close", "volume", "Δ notional", "imbal"):
            table.add_column(name, justify="right", no_wrap=True)
        above = ""
        for exchange, symbol in sorted({key[:2] for key in self._rows}):
            venue = exchange.partition("-")[0]
            names = (
                "" if venue == above else venue,
                symbol.removeprefix("perpetual-").rpartition(":")[0],
            )
            for clock in CLOCKS:
                row = self._rows.get((exchange, symbol, clock), {})
                table.add_row(*names, clock, *_cells(row))
                names = "", ""
            above = venue
        return table


def _cells(row: dict[str, Any]) -> list[str]:
    """Of the newest bar alone: a dataset that has no row for it is left empty."""
    time = max((part["time"] for part in row.values()), default=None)
    if time is None:
        return []
    ohlcv, flow, quotes = (
        part if (part := row.get(name)) and part["time"] == time else None
        for name in ("ohlcv", "flow", "l1_imbalance")
    )
    imbalance = quotes and quotes["imbalance_ratio"]
    return [
        f"{time:%H:%M:%S}",
        f"{ohlcv['close']:.6g}" if ohlcv else "",
        f"{ohlcv['volume']:.3g}" if ohlcv else "",
        f"{flow['volume_delta_notional']:+,.0f}" if flow else "",
        "" if imbalance is None else f"{imbalance:+.2f}",
    ]
