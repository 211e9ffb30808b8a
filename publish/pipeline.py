"""`perpflow run`: collectors, aggregator and publisher in one process on the embedded log.

    loop of the main thread     collectors: sockets are read and stamped here
    loop of the second thread   aggregator and publisher, so that their work delays no stamp

Both halves meet on the log alone, as they would as separate processes.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import structlog

from aggregate.aggregator import Aggregator
from aggregate.shard import Rules
from ingest import event_loop
from ingest.clock import ArrivalClock
from ingest.collector import Collector
from ingest.collector_settings import CollectorSettings
from ingest.errors import UserError
from ingest.identity import IdentityInUse, nobody_else
from ingest.instrument_cache import cache_path
from ingest.instruments import Instrument
from ingest.keeper import Keeper, KeeperSettings
from ingest.log import Fenced, Log
from ingest.log.membership import Fixed, Membership
from ingest.log_wait import until_answered
from ingest.records import BARS_TOPIC, TICK_TOPICS, Source
from ingest.venues import VENUES
from publish import health, metrics
from publish.log import open_log, place
from publish.publishing import Publishing
from publish.serve import beside
from publish.settings import Settings, Venue
from publish.stopping import deadline, on_signals
from publish.store import Store, open_store

RETAIN_EVERY_S = 60.0

_log = structlog.get_logger(__name__)


class PipelineError(UserError):
    """A part of the pipeline ended that should not have; the message says which and why."""


async def run(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """Run the pipeline until SIGTERM or SIGINT, or until `stopping` is set.

    A venue that can't be reached is told and tried again while the others run, a log that can't be
    reached likewise before anything runs. Raises `UserError`s: a log or a store that can't be used.
    """
    stopping = on_signals(stopping)
    store = open_store(settings.publish)
    await asyncio.to_thread(store.check)
    try:
        async with opened(settings) as log:
            venues = settings.venues.enabled().items()
            keepers = {name: keeper(settings, log, name, venue) for name, venue in venues}
            half = _Downstream(settings, store, keepers)

            def at_work() -> bool:
                return half.caught_up and all(keeper.subscribed for keeper in keepers.values())

            async with health.served(settings.metrics, at_work):
                if await ready(settings, log, stopping):
                    await _run(settings, log, store, list(keepers.values()), half, stopping)
    except Fenced as error:
        raise taken(settings) from error


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Log]:
    """The log, closed when the block ends."""
    log = open_log(settings.log)
    try:
        yield log
    finally:
        await log.close()


async def ready(settings: Settings, log: Log, stopping: asyncio.Event) -> bool:
    """Make or check the log's topics, however long it can't be reached; False at a stop before."""
    topics = dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), settings.log.partitions)
    await until_answered(lambda: log.create(topics), stopping, place(settings.log))
    return not stopping.is_set()


def keeper(settings: Settings, log: Log, name: str, venue: Venue) -> Keeper:
    """The collectors of a venue."""
    wanted = KeeperSettings(
        name,
        venue.symbols,
        cache_path(settings.log.path, name),
        rest_url=venue.rest_url,
        dexes=venue.chosen_dexes,
        refresh_s=settings.ingest.refresh / 1e9,
    )
    return Keeper(wanted, lambda found: _collector(settings, log, name, venue, found))


def _collector(
    settings: Settings, log: Log, name: str, venue: Venue, instruments: Sequence[Instrument]
) -> Collector:
    ingest = settings.ingest
    return Collector(
        CollectorSettings(
            name,
            ws_url=venue.ws_url,
            rest_url=venue.rest_url or VENUES[name].rest_url,
            trades=venue.trades,
            collector=ingest.collector,
            batch_ms=ingest.batch_ms,
            batch_rows=ingest.batch_rows,
            punctuation_ms=ingest.punctuation_ms,
            record_dir=ingest.record_dir,
            spool_dir=ingest.spool_dir or Path(f"{settings.log.path}.spool"),
            spool_bytes=ingest.spool_mb << 20,
            processes=ingest.processes_per_address,
        ),
        instruments,
        log,
        settings.log.partitions,
        ArrivalClock(),
    )


async def _run(
    settings: Settings,
    log: Log,
    store: Store,
    keepers: Sequence[Keeper],
    half: "_Downstream",
    stopping: asyncio.Event,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        downstream = await stack.enter_async_context(_downstream(half))
        await stack.enter_async_context(beside(settings, store))
        tasks = [asyncio.create_task(k.run(), name="collector") for k in keepers]
        tasks.append(asyncio.create_task(retain(settings, log), name="retention"))
        tasks.append(asyncio.create_task(_ended(downstream), name="aggregation and publishing"))
        stop = asyncio.create_task(stopping.wait())
        _log.info("running", venues=list(settings.venues.enabled()), out=settings.publish.url)
        await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("stopping")
        stopping_all = stack.pop_all()
        ended = [task for task in tasks if task.done()]
    with deadline():
        async with stopping_all:
            await asyncio.gather(*(k.stop() for k in keepers))
            for task in (stop, *tasks[len(keepers) :]):
                task.cancel()
            await asyncio.gather(stop, *tasks, return_exceptions=True)
    for task in ended:
        task.result()
        raise PipelineError(f"{task.get_name()} ended while the pipeline was running")
    downstream.result()
    _log.info("stopped")


async def _ended(downstream: Future[None]) -> None:
    watched = asyncio.wrap_future(downstream)
    # What it failed with is raised where the thread is joined, not reported as never looked at.
    watched.add_done_callback(lambda future: future.cancelled() or future.exception())
    # Shielded: cancelling the watcher must not cancel the thread's own future.
    await asyncio.shield(watched)


@contextlib.asynccontextmanager
async def _downstream(half: "_Downstream") -> AsyncIterator[Future[None]]:
    """The second thread; leaving the block lets it finish what is on the log, and joins it."""
    result: Future[None] = Future()

    def work() -> None:
        try:
            half.work()
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(None)

    thread = threading.Thread(target=work, name="downstream")
    thread.start()
    try:
        yield result
    finally:
        half.stop()
        await asyncio.to_thread(thread.join)


class _Downstream:
    """Aggregator and publisher on a loop and a log connection of their own."""

    def __init__(self, settings: Settings, store: Store, keepers: Mapping[str, Keeper]) -> None:
        self._settings = settings
        self._store = store
        self._keepers = keepers
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._stop = asyncio.Event()
        self._parts: Sequence[Aggregator | Publishing] = ()

    @property
    def caught_up(self) -> bool:
        """Whether both are at work and not far behind the log's end."""
        return bool(self._parts) and all(part.caught_up for part in self._parts)

    def work(self) -> None:
        """`run` on an event loop of this thread's own."""
        event_loop.run(self.run(), uvloop=self._settings.runtime.uvloop)

    def stop(self) -> None:
        """From any thread, also before `run` has begun."""
        self._stopping.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stopping.is_set():
            self._stop.set()
        settings = self._settings
        log = open_log(settings.log)
        try:
            # Who is refused as a collector must not have taken the log from who goes on.
            for problem in await asyncio.gather(
                *(self._alone(log, name) for name in self._keepers), return_exceptions=True
            ):
                if problem is not None:
                    raise problem
            aggregator = make_aggregator(settings, log, Fixed(range(settings.log.partitions)))
            publishing = Publishing(settings, log, self._store)
            self._parts = (aggregator, publishing)
            async with event_loop.lag_told(metrics.LOOP_LAG.labels("downstream")):
                await self._until_stopped(aggregator, publishing)
        finally:
            await log.close()

    async def _alone(self, log: Log, exchange: str) -> None:
        """Raises `IdentityInUse` if another process collects the venue under this one's id."""
        ingest = self._settings.ingest
        source = Source(exchange, exchange, ingest.collector, "")
        try:
            await until_answered(
                lambda: nobody_else(log, source, ingest.punctuation_ms),
                self._stop,
                place(self._settings.log),
            )
        except IdentityInUse:
            if not self._keepers[exchange].began:  # else the promises are its own
                raise

    async def _until_stopped(self, aggregator: Aggregator, publishing: Publishing) -> None:
        aggregating = asyncio.create_task(aggregator.run())
        running = asyncio.create_task(publishing.run())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({aggregating, running, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        replaced = aggregating.done() and not self._stop.is_set()
        # In this order: the publisher takes what the aggregator commits last.
        aggregator.stop()
        await asyncio.wait({aggregating})
        publishing.stop()
        await asyncio.gather(aggregating, running)
        if replaced:
            raise taken(self._settings)


def make_aggregator(settings: Settings, log: Log, members: Membership) -> Aggregator:
    chosen = settings.aggregate
    rules = Rules(
        hold_ns=chosen.hold, lateness_ns=chosen.lateness, toxicity_reset=chosen.toxicity_reset
    )
    return Aggregator(log, members, rules, eviction_ns=chosen.eviction)


def taken(settings: Settings) -> PipelineError:
    own = "log.path" if settings.log.kafka is None else "log.kafka.prefix"
    return PipelineError(
        f"another perpflow has taken over the log {place(settings.log)}: "
        f"one pipeline runs on a log; give this one its own {own}"
    )


async def retain(settings: Settings, log: Log) -> None:
    """Keep the log within its bounds; what is still to be read is never removed."""
    megabytes = settings.log.retention_mb
    partitions = settings.log.partitions
    while True:
        await asyncio.sleep(RETAIN_EVERY_S)
        for topic in (*TICK_TOPICS, BARS_TOPIC):
            await log.retain(
                topic,
                max_age_s=settings.log.retention_hours * 3600,
                max_bytes=None if megabytes is None else (megabytes << 20) // (3 * partitions),
            )
