"""The publisher and the raw archive together: `perpflow publish`, and a half of `perpflow run`."""

import asyncio

import structlog

from ingest.errors import UserError
from ingest.log import Fenced, Log
from ingest.records import BARS_TOPIC, TICK_TOPICS
from publish import archive, health
from publish.archive import Archive
from publish.log import open_log, place
from publish.publisher import Publisher
from publish.settings import Settings
from publish.stopping import deadline, on_signals
from publish.store import Store, open_store

_log = structlog.get_logger(__name__)


class PublishError(UserError):
    """Publishing can't go on; the message says why."""


class Publishing:
    """Publishes the bars of `log` into `store`, and archives its ticks if `publish.raw` is set."""

    def __init__(self, settings: Settings, log: Log, store: Store) -> None:
        publish = settings.publish
        self._log = log
        self._publisher = Publisher(
            log,
            store,
            flush_s=publish.flush / 1e9,
            flush_by_interval={name: ns / 1e9 for name, ns in publish.flush_by_interval.items()},
            grace_s=publish.grace / 1e9,
        )
        self._archive = (
            Archive(log, store, lateness_ns=settings.aggregate.lateness) if publish.raw else None
        )

    @property
    def caught_up(self) -> bool:
        """Whether everything on the log had been read at the last look."""
        return self._publisher.caught_up and (self._archive is None or self._archive.caught_up)

    def stop(self) -> None:
        """Make `run` read on to the log's end (for some seconds at most), flush and return."""
        self._publisher.stop()
        if self._archive is not None:
            self._archive.stop()

    async def run(self) -> None:
        """Publish until `stop`; if one half ends with an error, the other is stopped."""
        running = [asyncio.create_task(self._publisher.run())]
        if self._archive is not None:
            running.append(asyncio.create_task(self._archive.run()))
        else:
            await archive.release(self._log)
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self.stop()
            ended = await asyncio.gather(*running, return_exceptions=True)
        for result in ended:
            if isinstance(result, BaseException):
                raise result


async def publish(settings: Settings, stopping: asyncio.Event | None = None) -> None:
    """`perpflow publish`: until SIGTERM or SIGINT, or until `stopping` is set.

    Raises `UserError`s: a log or a store that can't be used, or that another has taken over.
    """
    stopping = stopping or asyncio.Event()
    on_signals(stopping)
    if settings.log.kafka is None and not settings.log.path.exists():
        raise PublishError(f"{settings.log.path}: no such log; say which with --set log.path=FILE")
    store = open_store(settings.publish)
    await asyncio.to_thread(store.check)
    log = open_log(settings.log)
    try:
        await log.create(dict.fromkeys((*TICK_TOPICS, BARS_TOPIC), settings.log.partitions))
        publishing = Publishing(settings, log, store)
        async with health.served(settings.metrics, lambda: publishing.caught_up):
            running = asyncio.create_task(publishing.run())
            asked = asyncio.create_task(stopping.wait())
            _log.info("publishing", log=place(settings.log), out=settings.publish.url)
            await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            with deadline():
                publishing.stop()
                await running
    except Fenced as error:
        raise PublishError(
            f"another perpflow publishes the log {place(settings.log)}: one does, or one `run`"
        ) from error
    finally:
        await log.close()
