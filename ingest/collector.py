"""The collector: a venue's websockets to tick records on the log, batched and punctuated.

    feeds ──frames, stamped──▶ session ──records──▶ appender ──▶ log
                 └──▶ recorder

Everything but the log's own threads runs on one event loop, which is what makes a punctuation
true: when it is taken, every frame stamped before has been handed over.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from ingest.appender import HIGH_WATER, LOW_WATER, Appender
from ingest.batches import Universe
from ingest.changes import changes
from ingest.clock import ArrivalClock
from ingest.continuity import Continuity
from ingest.fallback import Fallback, Switch
from ingest.feed import Feed
from ingest.frame_recording import FrameRecording
from ingest.healing import Healer
from ingest.instruments import BINANCE, Instrument
from ingest.limits import LIMITS, Limiter, Limits
from ingest.line import Line
from ingest.log import Log, NewRecord
from ingest.reassign import reassigned
from ingest.recorder import Recorder
from ingest.recording import RecordingHeader
from ingest.records import TICK_TOPICS, Source
from ingest.resume import resume
from ingest.session import Session
from ingest.spool import Spool
from ingest.venues import Endpoint, Frame, venue

SPOOL_DRAIN_S = 5.0
"""How long a start waits for spooled records to reach the log before it looks for gaps."""
STOP_S = 8.0
"""How long `stop` waits for the log to take what is left; daemons stop within 10 s."""
SPOOL_BYTES = 1 << 30
RENEW_BEFORE_S = 3600.0
"""How long before the venue would end a connection another takes over."""
STAGGER_S = 97.0
"""Between the ends of connections that were opened together."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CollectorSettings:
    """What one collector of one exchange does.

    `ws_url` and `trades` default to the venue's own. Collectors with the same subscriptions share
    a `shard`, by default the exchange's name. Ticks wait at most `batch_ms` or until `batch_rows`
    of a kind and partition are there. Gaps in the trades are filled from `rest_url`; without one
    they are only recorded. A punctuation is written every `punctuation_ms`. Frames are
    recorded as they arrived in `record_dir`. Reading pauses while more than `high_water` bytes of
    records wait for the log, until fewer than `low_water` do; with `spool_dir` records that the log
    does not take wait on disk first, up to `spool_bytes`, and survive a kill.
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
    spool_dir: Path | None = None
    spool_bytes: int = SPOOL_BYTES


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
        self._active = {i.native: i for i in instruments}
        self._natives_by_symbol = {i.symbol: i.native for i in instruments}
        self._uncovered = set(self._active)
        self._universe = Universe(instruments)
        self._endpoints = self._venue.endpoints(
            instruments, settings.trades or self._venue.trade_channels[0]
        )
        most = LIMITS.get(settings.exchange, Limits()).subscriptions
        streams = sum(len(endpoint.channels) for endpoint in self._endpoints)
        if most is not None and streams > most:
            raise ValueError(
                f"{settings.exchange} allows {most} subscriptions, {len(instruments)} instruments "
                f"need {streams}: choose fewer"
            )
        self._feeds: list[Feed] = []
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._covered_once = False
        self._feeds_changed = asyncio.Event()

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
    def carries(self) -> set[tuple[str, str]]:
        """(channel, native id) of the subscriptions that stand."""
        return set[tuple[str, str]]().union(*(feed.carries for feed in self._feeds))

    @property
    def sizes(self) -> dict[str, float]:
        """The contract sizes that ticks are converted with now, by native id."""
        return {i.native: i.contract_size for i in self._universe.instruments}

    @property
    def uncovered(self) -> bool:
        """Whether there are instruments whose data is not complete yet."""
        return bool(self._uncovered)

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

    def update(self, instruments: Sequence[Instrument]) -> None:
        """Collect these from now on: what is new, gone or of another contract size is recorded.

        A contract size holds for what arrives after this call.
        """
        if not self._feeds or self._stopping.is_set():
            return
        natives = {i.symbol: i.native for i in self._universe.instruments}
        # A code has one native id: of two with one Atlas id, the second is for the next session.
        instruments = [i for i in instruments if natives.get(i.symbol, i.native) == i.native]
        change = changes(self._active, instruments)
        if not change:
            return
        self._universe = self._universe.changed([*change.added, *change.resized])
        self._put(self._session.update(self._universe))
        for what, details in change.events():
            self._put(self._session.event(what, **details))
            _log.info("instrument", exchange=self._settings.exchange, what=what, **details)
        self._active = {i.native: i for i in instruments}
        self._natives_by_symbol |= {i.symbol: i.native for i in instruments}
        gone = {i.native for i in change.gone}
        self._uncovered = (self._uncovered - gone) | {i.native for i in change.added}
        self._reassign(gone, change.added)

    def _reassign(self, gone: set[str], added: Sequence[Instrument]) -> None:
        """Give the feeds their new subscriptions, each on a connection that replaces its old."""
        known = {i.native: i for i in self._universe.instruments}
        trades = self._settings.trades or self._venue.trade_channels[0]
        kept, more = reassigned(
            [feed.endpoint for feed in self._feeds],
            known,
            gone,
            added,
            lambda instruments: self._venue.endpoints(instruments, trades),
        )
        feeds = []
        for feed, endpoint in zip(self._feeds, kept, strict=True):
            if endpoint is not None:
                feeds.append(feed)
                if endpoint is not feed.endpoint:
                    feed.change(endpoint)
        self._feeds = feeds + [self._feed(e, len(feeds) + i) for i, e in enumerate(more)]
        if self._fallback is not None:
            self._fallback.endpoints = self._aggregates()
        self._feeds_changed.set()

    async def _attend(self) -> None:
        """Run the feeds there are; ends when one of them does, which none should."""
        tasks: dict[Feed, asyncio.Task[None]] = {}
        try:
            while not any(task.done() for task in tasks.values()):
                self._feeds_changed.clear()
                await _cancel([tasks.pop(f) for f in list(tasks) if f not in self._feeds])
                tasks |= {f: asyncio.create_task(f.run()) for f in self._feeds if f not in tasks}
                changed = asyncio.create_task(self._feeds_changed.wait())
                await asyncio.wait({changed, *tasks.values()}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            _raise_first(list(tasks.values()))
        finally:
            await _cancel(list(tasks.values()))

    async def _collect(self) -> None:
        settings = self._settings
        session_id = str(self._clock.now())
        shard = settings.shard or settings.exchange
        self._spool = await asyncio.to_thread(self._open_spool)
        self._appender = Appender(
            self._log,
            settings.exchange,
            pause=self._pause,
            resume=self._resume,
            high_water=settings.high_water,
            low_water=settings.low_water,
            spool=self._spool,
        )
        appending = asyncio.create_task(self._appender.run())
        checks = await self._checks()
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
        limits = LIMITS.get(settings.exchange, Limits())
        self._limiter = Limiter(limits)
        self._overlap = limits.leave_room(sum(len(e.channels) for e in self._endpoints))
        self._feeds = [self._feed(endpoint, i) for i, endpoint in enumerate(self._endpoints)]
        self._fallback = self._fallback_of(settings)
        self._put(self._session.start())
        working = [asyncio.create_task(self._attend()), asyncio.create_task(self._keep_time())]
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

    async def _checks(self) -> Continuity:
        """Sequence checks that go on from what the log holds, what was spooled included."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._appender.drain(), SPOOL_DRAIN_S)
        return await resume(
            self._log,
            self._settings.exchange,
            self._universe.symbols,
            self._partitions,
            aggregated=self._settings.trades == "aggTrade",
        )

    def _feed(self, endpoint: Endpoint, number: int = 0) -> Feed:
        """Feeds share the venue's limits; those opened together end at other times."""
        age = self._venue.max_age_s
        return Feed(
            self._settings.exchange,
            self._settings.ws_url or self._venue.ws_url,
            endpoint,
            self._venue.heartbeat,
            self._clock,
            self._deliver,
            self._changed,
            requests=self._venue.requests,
            limiter=self._limiter,
            renew_s=None if age is None else age - RENEW_BEFORE_S - number * STAGGER_S % 3600,
            overlap=self._overlap,
        )

    def _fallback_of(self, settings: CollectorSettings) -> Fallback | None:
        """Aggregates for when @trade is silent (Binance)."""
        if settings.exchange != BINANCE or settings.trades == "aggTrade":
            return None
        return Fallback(settings.exchange, self._aggregates(), self._feed, self._switched)

    def _aggregates(self) -> list[Endpoint]:
        endpoints = self._venue.endpoints(list(self._active.values()), "aggTrade")
        return [e for e in endpoints if all(name == "aggTrade" for name, _ in e.channels)]

    def _switched(self, to: Switch, reason: str) -> None:
        self._put(self._session.event("trade-feed", to=to, reason=reason))

    def _healer_of(self, settings: CollectorSettings) -> Healer | None:
        if settings.rest_url is None:
            return None
        return Healer(
            settings.exchange,
            settings.rest_url,
            self._natives_by_symbol,
            lambda symbol, prints: self._put(self._session.healed(symbol, prints)),
            lambda gap: self._put(self._session.gap(gap)),
        )

    def _open_spool(self) -> Spool | None:
        settings = self._settings
        if settings.spool_dir is None:
            return None
        mine = f"{settings.exchange}.{settings.collector}"
        return Spool(settings.spool_dir / mine, settings.spool_bytes)

    def _recording_of(self, session_id: str) -> "FrameRecording | None":
        directory = self._settings.record_dir
        if directory is None:
            return None
        exchange = self._settings.exchange
        instruments = self._universe.instruments
        header = RecordingHeader(
            exchange, session_id, self._clock.now(), instruments, covered=False
        )
        return FrameRecording(Recorder(directory, header), exchange)

    def _deliver(self, line: Line, frames: list[Frame]) -> None:
        if self._recording is not None:
            self._recording.add(frames)
        self._put(self._session.receive(frames, line.notice, line))

    def _changed(self, feed: Feed, what: str, reason: str) -> None:
        if what != "subscribed":
            self._put(self._session.event(what, path=feed.path, reason=reason))
        if what in ("subscribed", "replaced") and self._uncovered and self.subscribed:
            self._cover()

    def _cover(self) -> None:
        """From now on the data is complete of what all feeds that should carry it do carry."""
        wanted = {channel for feed in self._feeds for channel in feed.endpoint.channels}
        missing = {native for _, native in wanted - self.carries}
        covered = [n for n in self._active if n in self._uncovered and n not in missing]
        if not covered:
            return
        self._uncovered.difference_update(covered)
        local_from = self._clock.now()
        self._session.subscribed(covered, local_from)
        if self._recording is not None and not self._covered_once:
            self._recording.covered(local_from)
        self._covered_once = True
        _log.info("subscribed", exchange=self._settings.exchange, symbols=len(covered))

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
        """Let the log take what waits; what it doesn't take in time stays in the spool."""
        appender, spool = self._appender, self._spool
        drained = asyncio.create_task(appender.drain())
        # A log that is down is not waited for when nothing is lost by it.
        timeout = 0.0 if spool is not None and appender.failing else STOP_S
        await asyncio.wait(
            {appending, drained}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        await _cancel([drained, appending])
        if spool is not None:
            await appender.spill()
            await asyncio.to_thread(spool.close)
        spooled = appender.spooled
        if spool is not None and spooled:
            _log.warning(
                "stopped before the log took everything; the next start appends the rest",
                exchange=self._settings.exchange,
                records=spooled,
                spool=str(spool.directory),
            )
        if appender.waiting > spooled:
            _log.error(
                "stopped before the log took everything",
                exchange=self._settings.exchange,
                records_lost=appender.waiting - spooled,
            )


async def _cancel(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _raise_first(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Raise what ended a task that should not have ended."""
    for task in tasks:
        if task.done() and not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
