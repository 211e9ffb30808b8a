"""A publisher's runs and what is in the files then, for tests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import IO, Any

from ingest.log import Log
from publish.layout import Series
from publish.partitions import read_series
from publish.publisher import Publisher
from publish.store import Store
from tests.publish.bars import at, value_of

DAY = date(2026, 11, 20)
MIDNIGHT = at("2026-11-21 00:00")


class FailingStore(Store):
    """Counts operations that change the store, and lets `fail(n, done)` raise around the n-th."""

    def __init__(self, url: str, fail: Callable[[int, bool], None]) -> None:
        super().__init__(url)
        self._fail = fail
        self._lock = threading.Lock()
        self.operations = 0

    @contextmanager
    def _around(self) -> Iterator[None]:
        with self._lock:
            self.operations += 1
            number = self.operations
        self._fail(number, False)
        yield
        self._fail(number, True)

    @contextmanager
    def replacing(self, key: str) -> Iterator[IO[bytes]]:
        with self._around(), super().replacing(key) as sink:
            yield sink

    def copy(self, source: str, key: str) -> None:
        with self._around():
            super().copy(source, key)

    def delete(self, key: str) -> None:
        with self._around():
            super().delete(key)


async def publish(log: Log, store: Store, **options: Any) -> Publisher:
    """Publish what is on the log, and stop."""
    publisher = Publisher(log, store, **{"flush_s": 0.05, **options})
    publisher.stop()
    await publisher.run()
    return publisher


def starts(store: Store, of: Series, month: int = 11) -> list[int]:
    """Bar starts (seconds) of a month in the files, each with the value it must have."""
    table = read_series(store, of, 2026, month)
    found = [int((t - t.__class__(1970, 1, 1)).total_seconds()) for t in table["time"].to_pylist()]
    if found:
        assert table["open"].to_pylist() == [value_of(start, of.symbol) for start in found]
    return found
