"""The way from a collector to the log: in order, one append in flight, bounded by bytes."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence

import structlog

from ingest import metrics
from ingest.log import Log, LogError, NewRecord

HIGH_WATER = 64 << 20
"""Bytes of waiting records above which reading from the sockets pauses."""
LOW_WATER = 16 << 20
MAX_APPEND = 8 << 20
"""Bytes in one append; more is left for the next."""
RECORD_OVERHEAD = 512
"""Bytes counted for a record beside its value: headers and objects."""
FIRST_RETRY_S = 0.1
MAX_RETRY_S = 5.0

_log = structlog.get_logger(__name__)


class Appender:
    """A queue of records in front of a log.

    `put` never blocks and never drops. When more than `high_water` bytes wait, `pause` is called;
    when fewer than `low_water` are left, `resume`. An append that fails with `LogError` is retried
    with back-off, so records reach the log in the order they were put; any other exception ends
    `run`.
    """

    def __init__(
        self,
        log: Log,
        exchange: str,
        *,
        pause: Callable[[], None],
        resume: Callable[[], None],
        high_water: int = HIGH_WATER,
        low_water: int = LOW_WATER,
    ) -> None:
        self._destination = log
        self._exchange = exchange
        self._pause = pause
        self._resume = resume
        self._high_water = high_water
        self._low_water = low_water
        self._queue: deque[NewRecord] = deque()
        self._work = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.waiting_bytes = 0
        self.paused = False

    @property
    def waiting(self) -> int:
        """Records not yet known to be durable, the append in flight included."""
        return len(self._queue)

    def put(self, records: Sequence[NewRecord]) -> None:
        if not records:
            return
        self._queue.extend(records)
        self.waiting_bytes += sum(map(_size, records))
        self._empty.clear()
        self._work.set()
        if self.waiting_bytes > self._high_water and not self.paused:
            self.paused = True
            metrics.PAUSED.labels(self._exchange).inc()
            _log.warning(
                "log behind, reading paused", exchange=self._exchange, bytes=self.waiting_bytes
            )
            self._pause()

    async def run(self) -> None:
        """Append what is put, until cancelled."""
        while True:
            await self._work.wait()
            batch = self._next()
            await self._append(batch)
            self._done(batch)

    async def drain(self) -> None:
        """Wait until everything put so far is durable; `run` must be running."""
        await self._empty.wait()

    def _next(self) -> list[NewRecord]:
        batch: list[NewRecord] = []
        size = 0
        for record in self._queue:
            size += _size(record)
            if batch and size > MAX_APPEND:
                break
            batch.append(record)
        return batch

    async def _append(self, batch: list[NewRecord]) -> None:
        delay = FIRST_RETRY_S
        while True:
            try:
                await self._destination.append(batch)
            except LogError as error:
                metrics.APPEND_FAILURES.labels(self._exchange).inc()
                _log.error(
                    "append failed, will retry",
                    exchange=self._exchange,
                    error=str(error),
                    records=len(batch),
                    retry_s=delay,
                )
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_RETRY_S)
            else:
                return

    def _done(self, batch: list[NewRecord]) -> None:
        for _ in batch:
            self._queue.popleft()
        self.waiting_bytes -= sum(map(_size, batch))
        metrics.QUEUED_BYTES.labels(self._exchange).set(self.waiting_bytes)
        for kind, count in Counter(record.headers["type"] for record in batch).items():
            metrics.APPENDED.labels(self._exchange, kind).inc(count)
        if not self._queue:
            self._work.clear()
            self._empty.set()
        if self.paused and self.waiting_bytes < self._low_water:
            self.paused = False
            _log.info("log caught up, reading again", exchange=self._exchange)
            self._resume()


def _size(record: NewRecord) -> int:
    return len(record.value) + RECORD_OVERHEAD
