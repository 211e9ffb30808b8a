"""Keeps one venue collected, whatever happens to its REST API.

REST ──▶ instruments ──▶ collector        a venue that can't be reached is told (`Trouble`) and
 └──▶ copy on disk ───▶                    tried again; meanwhile the copy serves
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from ingest import metrics
from ingest.clock_offset import venue_offset
from ingest.collector import Collector
from ingest.instrument_cache import load, save
from ingest.instruments import Instrument
from ingest.selection import dexes_of, select
from ingest.tasks import cancelled
from ingest.trouble import Trouble
from ingest.universe import InstrumentList, UniverseError, fetch_list, rest_base

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
CLOCK_S = 5.0
"""How long asking a venue for its time may take."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeeperSettings:
    """What one venue's collector collects: see `ingest.selection` for `patterns` and `dexes`.

    `cache` is the file that holds a copy of the venue's list; `rest_url` None: the venue's own.
    The list is read again every `refresh_s`.
    """

    exchange: str
    patterns: Sequence[str]
    cache: Path
    rest_url: str | None = None
    dexes: Sequence[str] = ()
    refresh_s: float = 60.0


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
        metrics.begin(settings.exchange)
        self._settings = settings
        self._collector_of = collector_of
        self._url = rest_base(settings.exchange, settings.rest_url)
        self._dexes = tuple(dexes_of(settings.exchange, settings.patterns, settings.dexes))
        self._log = _log.bind(exchange=settings.exchange)
        self._told: dict[str, str] = {}
        self._trouble = Trouble(
            self._log, "can't get the instruments, trying again", "the instruments are there again"
        )
        self._collector: Collector | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()

    @property
    def began(self) -> bool:
        """Whether the collector runs, as the only one of its id."""
        return self._collector is not None and self._collector.began

    @property
    def subscribed(self) -> bool:
        """Whether the collector runs and all its subscriptions are answered."""
        return self._collector is not None and self._collector.subscribed

    async def run(self) -> None:
        """Collect until `stop` or cancellation. Raises what ends the collector."""
        stopping = asyncio.create_task(self._stopping.wait())
        first = asyncio.create_task(self._first())
        tasks: list[asyncio.Task[object]] = [first]
        try:
            await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                found, gone = await first
                self._collector = self._collector_of(found)
                self._collector.delisted(gone)
                tasks.append(asyncio.create_task(self._collector.run()))
                tasks.append(asyncio.create_task(self._refresh(self._collector)))
                await asyncio.wait({stopping, *tasks[1:]}, return_when=asyncio.FIRST_COMPLETED)
                await self._collector.stop()
                await tasks[1]
                if tasks[2].done():
                    await tasks[2]
        finally:
            await cancelled(stopping, *tasks)
            self._stopped.set()

    async def stop(self) -> None:
        """End the collector's session; returns when `run` has."""
        self._stopping.set()
        await self._stopped.wait()

    async def _first(self) -> tuple[Sequence[Instrument], Sequence[Instrument]]:
        """The instruments to start with, from REST or the copy, as soon as there are any; and
        those that traded when the copy was made and don't any more."""
        delay = FIRST_DELAY_S
        kept = await self._kept()
        while True:
            found, wait_s = await self._fetched()
            if kept is not None and found is None:
                since = datetime.fromtimestamp(kept.fetched_ns // 10**9, UTC).isoformat()
                told = f"{self._settings.cache} of {since}"
                self._tell("starting with instruments kept on disk", told)
            instruments = self._selected(found or kept)
            if instruments:
                before = select(kept.listed, self._settings.patterns).instruments if kept else ()
                trading = {i.native for i in instruments}
                return instruments, [i for i in before if i.native not in trading]
            await asyncio.sleep(max(delay * random.uniform(0.75, 1.0), wait_s))
            delay = min(2 * delay, MAX_DELAY_S)

    async def _refresh(self, collector: Collector) -> None:
        """Tell the collector what the venue lists, again and again."""
        wait_s = 0.0
        while True:
            await self._measure_clock()
            # With jitter, so that collectors that started together don't ask together.
            await asyncio.sleep(max(self._settings.refresh_s * random.uniform(0.9, 1.1), wait_s))
            found, wait_s = await self._fetched()
            instruments = self._selected(found)
            if instruments:
                collector.update(instruments)
            elif found is not None:
                # In maintenance nothing trades: the streams are worth more than the list.
                self._tell("nothing that is wanted trades, the subscriptions stay", found.url)

    async def _measure_clock(self) -> None:
        measured = await venue_offset(self._settings.exchange, self._url, CLOCK_S)
        if measured is not None:
            ahead, within = measured
            metrics.CLOCK_OFFSET.labels(self._settings.exchange).set(ahead / 1e3)
            metrics.CLOCK_UNCERTAINTY.labels(self._settings.exchange).set(within / 1e3)

    async def _fetched(self) -> tuple[InstrumentList | None, float]:
        """The venue's list, None if it can't be had; and how long the venue wants to be left."""
        exchange = self._settings.exchange
        try:
            found = await fetch_list(exchange, self._settings.rest_url, self._dexes, attempts=1)
        except UniverseError as error:
            metrics.LIST_FAILURES.labels(exchange).inc()
            self._trouble.failed(str(error))
            return None, error.retry_s
        self._trouble.over()
        metrics.LIST_FETCHED.labels(exchange).set(found.fetched_ns / 1e9)
        await asyncio.to_thread(save, self._settings.cache, found)
        return found, 0.0

    async def _kept(self) -> InstrumentList | None:
        cache, exchange = self._settings.cache, self._settings.exchange
        return await asyncio.to_thread(load, cache, exchange, self._url, self._dexes)

    def _selected(self, found: InstrumentList | None) -> Sequence[Instrument]:
        if found is None:
            return ()
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
