"""`perpflow ingest`, `aggregate` and `publish`: the pipeline's parts as processes of their own.

They meet on the log alone, so any of them may be stopped, killed or moved while the others run.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

import structlog

from aggregate.aggregator import GROUP
from ingest.log import Fenced, Log
from publish import health, pipeline
from publish.log import membership
from publish.publishing import Publishing
from publish.settings import Settings
from publish.stopping import deadline, on_signals
from publish.store import open_store

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Daemon:
    """`parts`: run until `stop` is awaited; `beside`: as long as they do; `ready`: for /readyz."""

    parts: Sequence[Coroutine[None, None, None]]
    stop: Callable[[], Awaitable[object]]
    ready: Callable[[], bool]
    beside: Sequence[Coroutine[None, None, None]] = ()


async def ingest(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """Collect from the configured venues until SIGTERM, SIGINT or `stopping`."""

    def collecting(log: Log) -> _Daemon:
        venues = settings.venues.enabled().items()
        keepers = [pipeline.keeper(settings, log, *item) for item in venues]
        embedded = settings.log.kafka is None  # Kafka's topics have their own retention
        return _Daemon(
            [keeper.run() for keeper in keepers],
            lambda: asyncio.gather(*(keeper.stop() for keeper in keepers)),
            lambda: all(keeper.subscribed for keeper in keepers),
            [pipeline.retain(settings, log)] if embedded else [],
        )

    await _run(settings, collecting, stopping)


async def aggregate(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """Aggregate this process's share of the partitions until SIGTERM, SIGINT or `stopping`.

    On Kafka the share is a group's, and may be none or change; on the embedded log it is all, and a
    second process takes it from the first.
    """

    def aggregating(log: Log) -> _Daemon:
        aggregator = pipeline.make_aggregator(settings, log, membership(settings.log, GROUP))

        async def stop() -> None:
            aggregator.stop(drain_s=0.0)  # who comes next goes on from the commits

        return _Daemon([aggregator.run()], stop, lambda: aggregator.caught_up)

    await _run(settings, aggregating, stopping)


async def publish(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """Publish all bars of the log, and archive its ticks, until SIGTERM, SIGINT or `stopping`."""
    store = open_store(settings.publish)
    await asyncio.to_thread(store.check)

    def publishing(log: Log) -> _Daemon:
        publisher = Publishing(settings, log, store)

        async def stop() -> None:
            publisher.stop()

        return _Daemon([publisher.run()], stop, lambda: publisher.caught_up)

    await _run(settings, publishing, stopping)


async def _run(
    settings: Settings, make: Callable[[Log], _Daemon], stopping: asyncio.Event | None
) -> None:
    stopping = on_signals(stopping)
    with contextlib.ExitStack() as outermost:
        try:
            async with pipeline.opened(settings) as log:
                made: list[_Daemon] = []
                async with health.served(settings.metrics, lambda: any(d.ready() for d in made)):
                    if await pipeline.ready(settings, log, stopping):
                        made.append(make(log))
                        await _until(settings, stopping, made[0], outermost)
        except Fenced as error:
            raise pipeline.taken(settings) from error
    _log.info("stopped")


async def _until(
    settings: Settings,
    stopping: asyncio.Event,
    daemon: _Daemon,
    outermost: contextlib.ExitStack,
) -> None:
    parts = [asyncio.create_task(part) for part in daemon.parts]
    beside = [asyncio.create_task(task) for task in daemon.beside]
    stop = asyncio.create_task(stopping.wait())
    _log.info("running")
    await asyncio.wait({stop, *parts, *beside}, return_when=asyncio.FIRST_COMPLETED)
    _log.info("stopping")
    # Closing the log counts too.
    outermost.enter_context(deadline())
    ended = [task for task in (*parts, *beside) if task.done()]
    await daemon.stop()
    for task in (stop, *beside):
        task.cancel()
    await asyncio.gather(*parts, *beside, stop, return_exceptions=True)
    for task in (*ended, *parts):
        task.result()
    if ended:
        raise pipeline.taken(settings)
