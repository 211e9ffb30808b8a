"""The collector: a venue's websockets to tick records on the log, batched and punctuated.

    feeds ──frames, stamped──▶ session ──records──▶ appender ──▶ log
                 └──▶ recorder

Everything but the log's own threads runs on one event loop, which is what makes a punctuation
true: when it is taken, every frame stamped before has been handed over.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from ingest import metrics
from ingest.appender import HIGH_WATER, LOW_WATER, Appender
from ingest.batches import Universe
from ingest.clock import ArrivalClock
from ingest.connection import Feed
from ingest.fallback import Fallback, Switch
from ingest.healing import Healer
from ingest.instruments import BINANCE, Instrument
from ingest.log import Log, NewRecord
from ingest.recorder import Recorder
from ingest.recording import RecordingError, RecordingHeader
from ingest.records import TICK_TOPICS, Source
from ingest.resume import resume
from ingest.session import Session
from ingest.venues import Endpoint, Frame, venue

STOP_S = 8.0
"""How long `stop` waits for the log to take what is left; daemons stop within 10 s."""
FLUSH_RECORDING_NS = 1_000_000_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """What one collector of one exchange does.

    `ws_url` and `trades` default to the venue's own. Collectors with the same subscriptions share
    a `shard`, by default the exchange's name. Ticks wait at most `batch_ms` or until `batch_rows`
    of a kind and partition are there. Gaps in the trades are filled from `rest_url`; without one
    they are only recorded. A punctuation is written every `punctuation_ms`. Frames are
    recorded as they arrived in `record_dir`. Reading pauses while more than `high_water` bytes of
    records wait for the log, until fewer than `low_water` do.
    """

    exchange: str
    ws_url: str | None = None
    rest_url: str | None = None
    trades: str | None = None
    collector: str = "c1"
    shard: str | None = None
    batch_ms: float = 50.0
    batch_rows: int = 4096
    punctuation_ms: float = 250.0
    record_dir: Path | None = None
    high_water: int = HIGH_WATER
    low_water: int = LOW_WATER


class Collector:
    """Collects trades and quotes of `instruments`; one object is one session.

    async with asyncio.TaskGroup() as tasks:
        collector = Collector(CollectorSettings("okx-perps"), instruments, log, 4, ArrivalClock())
        tasks.create_task(collector.run())
        ...
        await collector.stop()
    """

    def __init__(
        self,
        settings: CollectorSettings,
        instruments: Sequence[Instrument],
        log: Log,
        partitions: int,
        clock: ArrivalClock,
    ) -> None:
        """Raises ValueError for an unknown exchange or trades channel, or no instruments."""
        if not instruments:
            raise ValueError(f"{settings.exchange}: no instruments to collect")
        self._settings = settings
        self._venue = venue(settings.exchange)
        self._log = log
        self._partitions = partitions
        self._clock = clock
        self._natives = [i.native for i in instruments]
        self._universe = Universe(instruments)
        self._endpoints = self._venue.endpoints(
            instruments, settings.trades or self._venue.trade_channels[0]
        )
        self._feeds: list[Feed] = []
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._subscribed_once = False

    @property
    def subscribed(self) -> bool:
        """Whether every connection is open and its subscriptions answered."""
        return bool(self._feeds) and all(feed.subscribed for feed in self._feeds)

    @property
    def paused(self) -> bool:
        """Whether reading is paused because the log is behind."""
        return bool(self._feeds) and self._appender.paused

    @property
    def healing(self) -> int:
        """Gaps found whose healing has not ended."""
        return self._healer.waiting if self._feeds and self._healer else 0

    @property
    def ticks(self) -> int:
        """Ticks parsed so far in this session."""
        return self._session.ticks if self._feeds else 0

    async def run(self) -> None:
        """Collect until `stop` or cancellation. Raises `LogError` if the log can't be set up."""
        try:
            await self._log.create(dict.fromkeys(TICK_TOPICS, self._partitions))
            await self._collect()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Close the connections, flush, end the session; returns when `run` has."""
        self._stopping.set()
        await self._stopped.wait()

    async def _collect(self) -> None:
        settings = self._settings
        session_id = str(self._clock.now())
        shard = settings.shard or settings.exchange
        checks = await resume(
            self._log,
            settings.exchange,
            self._universe.symbols,
            self._partitions,
            aggregated=settings.trades == "aggTrade",
        )
        self._healer = self._healer_of(settings)
        self._session = Session(
            Source(settings.exchange, shard, settings.collector, session_id),
            self._venue,
            self._universe,
            self._partitions,
            self._clock,
            settings.batch_rows,
            checks,
            self._healer.add if self._healer else lambda gap: None,
        )
        self._recording = self._recording_of(session_id)
        self._appender = Appender(
            self._log,
            settings.exchange,
            pause=self._pause,
            resume=self._resume,
            high_water=settings.high_water,
            low_water=settings.low_water,
        )
        self._feeds = [self._feed(endpoint) for endpoint in self._endpoints]
        self._fallback = self._fallback_of(settings)
        self._put(self._session.start())
        appending = asyncio.create_task(self._appender.run())
        working = [asyncio.create_task(feed.run()) for feed in self._feeds]
        working.append(asyncio.create_task(self._keep_time()))
        if self._healer is not None:
            working.append(asyncio.create_task(self._healer.run()))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({appending, stopping, *working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel([stopping, *working])
            if self._fallback is not None:
                self._fallback.close()
            if self._recording is not None:
                self._recording.close()
            self._put(self._session.end())
            await self._drain(appending)
        _raise_first([appending, *working])

    def _feed(self, endpoint: Endpoint) -> Feed:
        return Feed(
            self._settings.exchange,
            self._settings.ws_url or self._venue.ws_url,
            endpoint,
            self._venue.heartbeat,
            self._clock,
            self._deliver,
            self._changed,
        )

    def _fallback_of(self, settings: CollectorSettings) -> Fallback | None:
        """Aggregates for when @trade is silent (Binance)."""
        if settings.exchange != BINANCE or settings.trades == "aggTrade":
            return None
        other = self._venue.endpoints(self._universe.instruments, "aggTrade")
        aggregates = [e for e in other if all(name == "aggTrade" for name, _ in e.channels)]
        return Fallback(settings.exchange, aggregates, self._feed, self._switched)

    def _switched(self, to: Switch, reason: str) -> None:
        self._put(self._session.event("trade-feed", to=to, reason=reason))

    def _healer_of(self, settings: CollectorSettings) -> Healer | None:
        if settings.rest_url is None:
            return None
        natives = {i.symbol: i.native for i in self._universe.instruments}
        return Healer(
            settings.exchange,
            settings.rest_url,
            natives,
            lambda symbol, prints: self._put(self._session.healed(symbol, prints)),
            lambda gap: self._put(self._session.gap(gap)),
        )

    def _recording_of(self, session_id: str) -> "_Recording | None":
        directory = self._settings.record_dir
        if directory is None:
            return None
        exchange = self._settings.exchange
        instruments = self._universe.instruments
        header = RecordingHeader(exchange, session_id, self._clock.now(), instruments)
        return _Recording(Recorder(directory, header), exchange)

    def _deliver(self, feed: Feed, frames: list[Frame]) -> None:
        if self._recording is not None:
            self._recording.add(frames)
        self._put(self._session.receive(frames, feed.notice))

    def _changed(self, feed: Feed, what: str, reason: str) -> None:
        if what != "subscribed":
            self._put(self._session.event(what, path=feed.path, reason=reason))
        elif self.subscribed and not self._subscribed_once:
            self._subscribed_once = True
            refused = set[str]().union(*(f.refused for f in self._feeds))
            local_from = self._clock.now()
            self._session.subscribed([n for n in self._natives if n not in refused], local_from)
            if self._recording is not None:
                self._recording.covered(local_from)
            _log.info("subscribed", exchange=self._settings.exchange, symbols=len(self._natives))

    async def _keep_time(self) -> None:
        """Flush every `batch_ms`, and promise every `punctuation_ms`."""
        loop = asyncio.get_running_loop()
        promised = loop.time()
        heard = 0, 0
        while True:
            await asyncio.sleep(self._settings.batch_ms / 1e3)
            if self._recording is not None:
                self._recording.write()
            due = loop.time() - promised >= self._settings.punctuation_ms / 1e3
            # While the log is behind, promises would only make it fall further behind.
            if due and not self._appender.paused:
                promised = loop.time()
                self._put(self._session.punctuate())
            else:
                self._put(self._session.flush())
            if self._fallback is not None:
                now = self._session.singles, self._session.quotes
                self._fallback.saw(now[0] - heard[0], now[1] - heard[1])
                heard = now

    def _put(self, due: list[NewRecord]) -> None:
        self._appender.put(due)

    def _pause(self) -> None:
        for feed in (*self._feeds, *(self._fallback.feeds if self._fallback else ())):
            feed.pause()

    def _resume(self) -> None:
        for feed in (*self._feeds, *(self._fallback.feeds if self._fallback else ())):
            feed.resume()

    async def _drain(self, appending: asyncio.Task[None]) -> None:
        drained = asyncio.create_task(self._appender.drain())
        await asyncio.wait(
            {appending, drained}, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED
        )
        if self._appender.waiting:
            _log.error(
                "stopped before the log took everything",
                exchange=self._settings.exchange,
                records_lost=self._appender.waiting,
            )
        await _cancel([drained, appending])


class _Recording:
    """The recorder beside the pipeline: what fails here is told and never stops the ticks."""

    def __init__(self, recorder: Recorder, exchange: str) -> None:
        self._recorder = recorder
        self._exchange = exchange
        self._frames: list[Frame] = []
        self._flush_at = 0
        self._failing = False

    def add(self, frames: list[Frame]) -> None:
        self._frames += frames

    def covered(self, local_from: int) -> None:
        self.write()
        self._try(lambda: self._recorder.covered(local_from))

    def write(self) -> None:
        """Write what was added; make it safe from kill -9 once a second."""
        frames, self._frames = self._frames, []
        if not frames:
            return
        self._failing = not self._try(lambda: self._recorder.write(frames))
        if frames[-1][0] >= self._flush_at:
            self._flush_at = frames[-1][0] + FLUSH_RECORDING_NS
            self._try(self._recorder.flush)

    def close(self) -> None:
        self.write()
        self._try(self._recorder.close)

    def _try(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except RecordingError as error:
            metrics.RECORDING_FAILURES.labels(self._exchange).inc()
            if not self._failing:
                _log.error("recording failed", exchange=self._exchange, error=str(error))
            return False
        return True


async def _cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _raise_first(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raise what ended a task that should not have ended."""
    for task in tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
