"""Keeps one venue collected, whatever happens to its REST API.

REST ──▶ instruments ──▶ collector        a venue that can't be reached is told once per reason
 └──▶ copy on disk ───▶                    and tried again; meanwhile the copy serves
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ingest import metrics
from ingest.collector import Collector
from ingest.instrument_cache import load, save
from ingest.instruments import Instrument
from ingest.selection import dexes_of, select
from ingest.universe import InstrumentList, UniverseError, fetch_list, rest_base

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """What one venue's collector collects: see `ingest.selection` for `patterns` and `dexes`.

    `cache` is the file that holds a copy of the venue's list; `rest_url` None: the venue's own.
    """

    exchange: str
    patterns: Sequence[str]
    cache: Path
    rest_url: str | None = None
    dexes: Sequence[str] = ()


class Keeper:
    """Finds the instruments, then runs the collector that `collector_of` makes of them.

    keeper = Keeper(KeeperSettings("okx-perps", ["BTC-*"], cache), collector_of)
    task = asyncio.create_task(keeper.run())
    ...
    await keeper.stop()
    """

    def __init__(
        self, settings: KeeperSettings, collector_of: Callable[[Sequence[Instrument]], Collector]
    ) -> None:
        self._settings = settings
        self._collector_of = collector_of
        self._url = rest_base(settings.exchange, settings.rest_url)
        self._dexes = tuple(dexes_of(settings.exchange, settings.patterns, settings.dexes))
        self._log = _log.bind(exchange=settings.exchange)
        self._told: dict[str, str] = {}
        self._collector: Collector | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def subscribed(self) -> bool:
        """Whether the collector runs and all its subscriptions are answered."""
        return self._collector is not None and self._collector.subscribed

    async def run(self) -> None:
        """Collect until `stop` or cancellation. Raises what ends the collector."""
        stopping = asyncio.create_task(self._stopping.wait())
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(self._first())]
        try:
            await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                self._collector = self._collector_of(tasks[0].result())  # type: ignore[arg-type]
                tasks.append(asyncio.create_task(self._collector.run()))
                await asyncio.wait({stopping, *tasks[1:]}, return_when=asyncio.FIRST_COMPLETED)
                await self._collector.stop()
                await tasks[1]
        finally:
            for task in (stopping, *tasks):
                task.cancel()
            await asyncio.gather(stopping, *tasks, return_exceptions=True)
            self._stopped.set()

    async def stop(self) -> None:
        """End the collector's session; returns when `run` has."""
        self._stopping.set()
        await self._stopped.wait()

    async def _first(self) -> Sequence[Instrument]:
        """The instruments to start with, from REST or the copy, as soon as there are any."""
        delay = FIRST_DELAY_S
        while True:
            found, wait_s = await self._listed()
            instruments = self._selected(found) if found else ()
            if instruments:
                return instruments
            await asyncio.sleep(max(delay * random.uniform(0.75, 1.0), wait_s))
            delay = min(2 * delay, MAX_DELAY_S)

    async def _listed(self) -> tuple[InstrumentList | None, float]:
        """The venue's list, else the copy, else None; and how long the venue wants to be left."""
        exchange = self._settings.exchange
        try:
            found = await fetch_list(exchange, self._settings.rest_url, self._dexes, attempts=1)
        except UniverseError as error:
            metrics.LIST_FAILURES.labels(exchange).inc()
            kept = await asyncio.to_thread(
                load, self._settings.cache, exchange, self._url, self._dexes
            )
            if kept is None:
                self._tell("can't get the instruments, trying again", str(error))
                return None, error.retry_s
            since = datetime.fromtimestamp(kept.fetched_ns // 10**9, UTC).isoformat()
            self._tell(f"starting with the instruments kept at {since}", str(error))
            return kept, error.retry_s
        metrics.LIST_FETCHED.labels(exchange).set(found.fetched_ns / 1e9)
        await asyncio.to_thread(save, self._settings.cache, found)
        return found, 0.0

    def _selected(self, found: InstrumentList) -> Sequence[Instrument]:
        selection = select(found.listed, self._settings.patterns)
        self._tell("symbols that select nothing", ", ".join(selection.unmatched))
        self._tell("instruments left out", ", ".join(selection.doubled))
        self._tell("instruments that can't be read", "; ".join(found.problems[:5]))
        metrics.INSTRUMENTS.labels(self._settings.exchange).set(len(selection.instruments))
        return selection.instruments

    def _tell(self, what: str, details: str) -> None:
        """A warning whenever the details are others than the last time."""
        if details and self._told.get(what) != details:
            self._log.warning(what, details=details)
        self._told[what] = details
