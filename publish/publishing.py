"""The publisher and the raw archive together, as `perpflow publish` and `perpflow run` run them."""

import asyncio

from ingest.log import Log
from publish import archive
from publish.archive import Archive
from publish.publisher import Publisher
from publish.settings import Settings
from publish.store import Store


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
