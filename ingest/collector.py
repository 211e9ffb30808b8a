"""The collector: a venue's websockets to tick records on the log, batched and punctuated.

    feeds ──frames, stamped──▶ session ──records──▶ appender ──▶ log
                 └──▶ recorder

Everything but the log's own threads runs on one event loop, which is what makes a punctuation
true: when it is taken, every frame stamped before has been handed over.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from ingest.allowance import Allowance, refuse_too_many
from ingest.appender import Appender
from ingest.batches import Universe
from ingest.changes import Changes, changes
from ingest.clock import ArrivalClock
from ingest.collector_settings import CollectorSettings
from ingest.continuity import Continuity
from ingest.covering import Covering
from ingest.fallback import Switch
from ingest.feed import Feed
from ingest.feeds import Feeds
from ingest.frame_recording import FrameRecording
from ingest.healing import Healer
from ingest.identity import nobody_else
from ingest.instruments import Instrument
from ingest.limits import limiter
from ingest.line import Line
from ingest.log import Log, NewRecord
from ingest.log_wait import until_answered
from ingest.recording import RecordingHeader
from ingest.records import TICK_TOPICS, Source
from ingest.rest import budget
from ingest.resume import resume
from ingest.session import Session
from ingest.spool import Spool
from ingest.symbol_checks import SymbolChecks
from ingest.tasks import cancelled, raise_first
from ingest.venues import Channel, Frame, venue
from ingest.venues.common import trade_channel

SPOOL_DRAIN_S = 5.0
"""How long a start waits for spooled records to reach the log before it looks for gaps."""
STOP_S = 8.0
"""How long `stop` waits for the log to take what is left; daemons stop within 10 s."""
TIMER_S = 0.002
"""How much too early a timer of the event loop may go off."""
_log = structlog.get_logger(__name__)

T = TypeVar("T")


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
        refuse_too_many(settings.exchange, len(instruments), settings.processes)
        self._settings = settings
        self._venue = venue(settings.exchange)
        self._log = log
        self._partitions = partitions
        self._clock = clock
        self.began = False
        """Whether it is sure that nobody else collects under its id."""
        self._active = {i.native: i for i in instruments}
        self._natives_by_symbol = {i.symbol: i.native for i in instruments}
        self._universe = Universe(instruments)
        channels = self._venue.trade_channels
        self._trades = trade_channel(settings.exchange, settings.trades or channels[0], channels)
        self._gone: list[Instrument] = []
        self._feeds: Feeds | None = None
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._confirmed = False

    @property
    def subscribed(self) -> bool:
        """Whether every connection is open and its subscriptions answered."""
        return self._feeds is not None and self._feeds.subscribed

    @property
    def paused(self) -> bool:
        """Whether reading is paused because the log is behind."""
        return self._feeds is not None and self._appender.paused

    @property
    def healing(self) -> int:
        """Gaps found whose healing has not ended."""
        return self._healer.waiting if self._feeds and self._healer else 0

    @property
    def carries(self) -> set[Channel]:
        """The subscriptions that stand."""
        return self._feeds.carries if self._feeds else set()

    @property
    def sizes(self) -> dict[str, float]:
        """The contract sizes that ticks are converted with now, by native id."""
        return {i.native: i.contract_size for i in self._universe.instruments}

    @property
    def uncovered(self) -> bool:
        """Whether there are instruments whose data is not complete yet."""
        return self._feeds is None or bool(self._covering)

    @property
    def ticks(self) -> int:
        """Ticks parsed so far in this session."""
        return self._session.ticks if self._feeds else 0

    async def run(self) -> None:
        """Collect until `stop` or cancellation. Raises `LogError` if the log refuses the topics.

        While the log can't be reached it is told and tried again, and no connection is opened: from
        the log's end a session goes on, so that the trades that were missed meanwhile are found as
        a gap, recorded and healed. (Once collecting, what the log doesn't take is spooled.)
        """
        exchange = self._settings.exchange
        self._limiter = limiter(exchange, self._settings.processes)
        self._allowance = Allowance(exchange, self._limiter)
        try:
            topics = dict.fromkeys(TICK_TOPICS, self._partitions)
            await self._answered(lambda: self._log.create(topics))
            if not self._stopping.is_set():
                await self._collect()
        finally:
            self._allowance.end()
            self._stopped.set()

    async def stop(self) -> None:
        """Close the connections, flush, end the session; returns when `run` has."""
        self._stopping.set()
        await self._stopped.wait()

    def delisted(self, instruments: Sequence[Instrument]) -> None:
        """These were collected by the session before, and trade no more: before `run`."""
        known = {i.symbol for i in self._universe.instruments}
        self._gone = [i for i in instruments if i.symbol not in known]
        self._universe = self._universe.changed(self._gone)
        self._natives_by_symbol |= {i.symbol: i.native for i in self._gone}

    def update(self, instruments: Sequence[Instrument]) -> None:
        """Collect these from now on: what is new, gone or of another contract size is recorded.

        A contract size holds for what arrives after this call.
        """
        if self._feeds is None or self._stopping.is_set():
            return
        natives = {i.symbol: i.native for i in self._universe.instruments}
        # A code has one native id: of two with one Atlas id, the second is for the next session.
        instruments = [i for i in instruments if natives.get(i.symbol, i.native) == i.native]
        instruments = self._allowance.take(instruments, self._active)
        change = changes(self._active, instruments)
        if not change:
            return
        self._universe = self._universe.changed([*change.added, *change.resized])
        self._put(self._session.update(self._universe))
        self._record(change)
        self._active = {i.native: i for i in instruments}
        self._natives_by_symbol |= {i.symbol: i.native for i in instruments}
        gone = {i.native for i in change.gone}
        self._covering.gone(gone)
        self._covering.listed([i.native for i in change.added])
        if self._recording is not None:
            self._recording.changed(self._universe.instruments, gone)
        known = {i.native: i for i in self._universe.instruments}
        self._feeds.update(known, gone, change.added, list(self._active.values()))

    def _record(self, change: Changes) -> None:
        for what, details in change.events():
            self._put(self._session.event(what, **details))
            _log.info("instrument", exchange=self._settings.exchange, what=what, **details)

    async def _collect(self) -> None:
        settings = self._settings
        self._active = {i.native: i for i in self._allowance.take(list(self._active.values()))}
        self._covering = Covering(list(self._active))
        session_id = str(self._clock.now())
        shard = settings.shard or settings.exchange
        source = Source(settings.exchange, shard, settings.collector, session_id)
        # Before what an earlier session left in the spool is appended, its promises among it.
        await self._answered(lambda: nobody_else(self._log, source, settings.punctuation_ms))
        self._spool = await asyncio.to_thread(self._open_spool)
        self.began = True
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
        checks = await self._answered(self._checks)
        if checks is None:
            await self._appender.finish(appending, STOP_S)
            return
        self._healer = self._healer_of(settings)
        self._recording = self._recording_of(session_id)
        self._session = Session(
            source,
            self._venue,
            self._universe,
            self._partitions,
            self._clock,
            settings.batch_rows,
            checks,
            self._healer.add if self._healer else lambda gap: None,
            self._recording.covered if self._recording else lambda coverage: None,
        )
        self._feeds = Feeds(
            self._venue,
            settings.ws_url or self._venue.ws_url,
            self._trades,
            list(self._active.values()),
            self._limiter,
            self._clock,
            self._deliver,
            self._changed,
            self._switched,
        )
        self._put(self._session.start())
        self._record(changes({i.native: i for i in self._gone}, ()))
        working = [asyncio.create_task(self._feeds.run()), asyncio.create_task(self._keep_time())]
        if self._healer is not None:
            working.append(asyncio.create_task(self._healer.run()))
        if settings.rest_url is not None:
            checks_of_symbols = self._symbol_checks(settings.rest_url)
            working.append(asyncio.create_task(checks_of_symbols.run()))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({appending, stopping, *working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancelled(stopping, *working)
            self._put(self._session.end())
            if self._recording is not None:
                self._recording.close()
            await self._appender.finish(appending, STOP_S)
        raise_first(appending, *working)

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T | None:
        """What the log answers, however long that takes; None at a stop."""
        return await until_answered(ask, self._stopping, self._settings.exchange)

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

    def _switched(self, to: Switch, reason: str) -> None:
        self._put(self._session.event("trade-feed", to=to, reason=reason))

    def _healer_of(self, settings: CollectorSettings) -> Healer | None:
        if settings.rest_url is None:
            return None
        return Healer(
            settings.exchange,
            settings.rest_url,
            self._natives_by_symbol,
            self._clock,
            lambda symbol, prints: self._put(self._session.healed(symbol, prints)),
            lambda gap: self._put(self._session.gap(gap)),
            settings.processes,
        )

    def _symbol_checks(self, rest_url: str) -> SymbolChecks:
        settings = self._settings
        return SymbolChecks(
            settings.exchange,
            rest_url,
            budget(settings.exchange, settings.processes),
            self._clock,
            self._session.watch,
            lambda: self._universe,
            self._heard,
            self._silent,
        )

    def _heard(self) -> set[str]:
        """Native ids of which everything should be heard now."""
        return set() if self._feeds is None or self._appender.paused else self._feeds.standing

    def _silent(self, native: str, kind: str, again: bool) -> None:
        symbol = self._active[native].symbol
        self._put(self._session.event("symbol-silent", native=native, symbol=symbol, kind=kind))
        if self._feeds is not None and again:
            self._feeds.renew(native, "silence")
        elif self._feeds is not None:
            self._feeds.subscribe_anew(native)

    def _open_spool(self) -> Spool | None:
        settings = self._settings
        if settings.spool_dir is None:
            return None
        mine = f"{settings.exchange}.{settings.collector}"
        return Spool(settings.spool_dir / mine, settings.spool_bytes)

    def _recording_of(self, session_id: str) -> "FrameRecording | None":
        settings, instruments = self._settings, self._universe.instruments
        if settings.record_dir is None:
            return None
        now = self._clock.now()
        header = RecordingHeader(settings.exchange, session_id, now, instruments, covered=())
        return FrameRecording(settings.record_dir, header)

    def _deliver(self, line: Line, frames: list[Frame]) -> None:
        if self._recording is not None:
            self._recording.add(frames)
        self._put(self._session.receive(frames, line.notice, line))

    def _changed(self, feed: Feed, what: str, reason: str) -> None:
        if what in ("connected", "channel-silent", "disconnected", "replaced"):
            self._put(self._session.event(what, path=feed.path, reason=reason))
        if what in ("subscribed", "replaced"):
            self._session.listen({native for _, native in feed.endpoint.channels})
            self._cover()
        # Some venues confirm one by one: what comes between two flushes is one coverage.
        self._confirmed |= what == "confirmed"

    def _cover(self) -> None:
        """From now on the data of the instruments whose subscriptions all stand is complete."""
        self._confirmed = False
        if self._feeds is None or not self._covering:
            return
        ready = self._covering.take(self._feeds.standing)
        if not ready:
            return
        local_from = self._clock.now()
        for anew in set(ready.values()):
            natives = [native for native, listed in ready.items() if listed == anew]
            self._session.subscribed(natives, local_from, anew=anew)
        _log.info("subscribed", exchange=self._settings.exchange, symbols=len(ready))

    async def _keep_time(self) -> None:
        """Flush every `batch_ms`, and promise every `punctuation_ms`, as the wall clock passes
        their multiples: so a promise follows the end of a second and its hold at once, and no bar
        waits for up to another `punctuation_ms`."""
        batch_s, every_s = self._settings.batch_ms / 1e3, self._settings.punctuation_ms / 1e3
        promised = int(time.time() / every_s)
        heard = 0, 0
        assert self._feeds is not None
        while True:
            await asyncio.sleep(batch_s - time.time() % batch_s + TIMER_S)
            if self._recording is not None:
                self._recording.write()
            if self._confirmed:
                self._cover()
            period = int(time.time() / every_s)
            # While the log is behind, promises would only make it fall further behind.
            if period != promised and not self._appender.paused:
                promised = period
                self._put(self._session.punctuate())
            else:
                self._put(self._session.flush())
            now = self._session.singles, self._session.quotes
            self._feeds.saw(now[0] - heard[0], now[1] - heard[1])
            heard = now

    def _put(self, due: list[NewRecord]) -> None:
        self._appender.put(due)

    def _pause(self) -> None:
        if self._feeds is not None:
            self._feeds.pause()

    def _resume(self) -> None:
        if self._feeds is not None:
            self._feeds.resume()
