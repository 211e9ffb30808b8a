"""The publisher and the raw archive together, as `perpflow publish` and `perpflow run` run them."""

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import structlog

from ingest.log import Fenced, Log, LogError, TopicPartition
from publish import archive, metrics
from publish.archive import Archive
from publish.publisher import Publisher
from publish.settings import Settings
from publish.store import Store

RETRY_S = (0.5, 30.0)
LAG_EVERY_S, FIRST_LAG_EVERY_S = 5.0, 0.2
READY_LAG_S = 60.0
"""Behind by more, /readyz says no: more than a flush to a slow store takes."""
_log = structlog.get_logger(__name__)


class _Part(Protocol):
    """A publisher or an archive."""

    caught_up: bool
    read_ns: dict[str, int]

    def positions(self) -> dict[TopicPartition, int]: ...

    def stop(self) -> None: ...

    async def run(self) -> None: ...


class _Lasting:
    """A part that is begun anew, from what it last committed, when the log fails it."""

    def __init__(self, make: Callable[[], _Part]) -> None:
        self._make = make
        self._part = make()
        self._stopping = asyncio.Event()

    @property
    def part(self) -> _Part:
        return self._part

    def stop(self) -> None:
        self._stopping.set()
        self._part.stop()

    async def run(self) -> None:
        """Run it until `stop`. Raises `Fenced`, and a `LogError` of a log that fails at a stop."""
        delay, most = RETRY_S
        while True:
            begun = time.monotonic()
            try:
                await self._part.run()
                return
            except Fenced:
                raise
            except LogError as error:
                if time.monotonic() - begun > 2 * most:  # it had been well again
                    delay = RETRY_S[0]
                metrics.LOG_ERRORS.inc()
                _log.error("the log failed, publishing anew", problem=str(error), retry_s=delay)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                if self._stopping.is_set():
                    raise
                delay = min(2 * delay, most)
                self._part = self._make()


class Publishing:
    """Publishes the bars of `log` into `store`, and archives its ticks if `publish.raw` is set."""

    def __init__(self, settings: Settings, log: Log, store: Store) -> None:
        publish = settings.publish

        def publisher() -> Publisher:
            return Publisher(
                log,
                store,
                flush_s=publish.flush / 1e9,
                flush_by_interval={of: ns / 1e9 for of, ns in publish.flush_by_interval.items()},
                grace_s=publish.grace / 1e9,
            )

        self._log = log
        self._lag_s = math.inf
        self._parts = [_Lasting(publisher)]
        self._archives = publish.raw
        if publish.raw:
            lateness_ns = settings.aggregate.lateness
            self._parts.append(_Lasting(lambda: Archive(log, store, lateness_ns=lateness_ns)))

    @property
    def caught_up(self) -> bool:
        """Whether it has read to the log's end, and is not far behind it now."""
        return self._lag_s < READY_LAG_S

    def stop(self) -> None:
        """Make `run` read on to the log's end (for some seconds at most), flush and return."""
        for part in self._parts:
            part.stop()

    async def run(self) -> None:
        """Publish until `stop`; if one part ends with an error, the other is stopped."""
        if not self._archives:
            await archive.release(self._log)
        running = [asyncio.create_task(part.run()) for part in self._parts]
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            watching.cancel()
            self.stop()
            ended = await asyncio.gather(*running, return_exceptions=True)
        for result in ended:
            if isinstance(result, BaseException):
                raise result

    async def _watch(self) -> None:
        """Keep the metrics of lag, and whether we are ready, up to date."""
        while True:
            try:
                lags = [await self._lag(lasting.part) for lasting in self._parts]
            except LogError:
                self._lag_s = math.inf
            else:
                self._lag_s = max(lags)
            await asyncio.sleep(LAG_EVERY_S if self.caught_up else FIRST_LAG_EVERY_S)

    async def _lag(self, part: _Part) -> float:
        """Tell how far a part is behind the log's end; returns the seconds, inf: not known yet."""
        unread: Counter[str] = Counter()
        for (topic, partition), offset in part.positions().items():
            _, end = await self._log.bounds(topic, partition)
            unread[topic] += max(0, end - offset)
        worst = 0.0 if unread else math.inf
        for topic, count in unread.items():
            metrics.LAG.labels(topic).set(count)
            if count and topic not in part.read_ns:
                return math.inf
            seconds = max(0.0, time.time() - part.read_ns[topic] / 1e9) if count else 0.0
            metrics.LAG_SECONDS.labels(topic).set(seconds)
            worst = max(worst, seconds)
        return worst
