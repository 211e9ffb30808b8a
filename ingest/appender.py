"""The way from a collector to the log: in order, one append in flight, bounded by bytes.

    put ──▶ queue (memory) ──▶ log
              └──▶ spool (disk) ──▶ log      while the log is unavailable, slow or behind

The spool is the older end of the one queue: what is in it is appended before what is in memory,
and while anything is in it, what is put goes there too.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import islice

import structlog

from ingest import metrics
from ingest.log import Log, LogError, NewRecord
from ingest.spool import Spool
from ingest.tasks import cancelled
from ingest.trouble import Trouble

HIGH_WATER = 64 << 20
"""Bytes of waiting records above which reading from the sockets pauses."""
LOW_WATER = 16 << 20
SPILL_BYTES = 16 << 20
"""Bytes of records waiting in memory above which they go to the spool: the log is too slow."""
MAX_APPEND = 8 << 20
"""Bytes in one append; more is left for the next."""
RECORD_OVERHEAD = 512
"""Bytes counted for a record beside its value: headers and objects."""
FIRST_RETRY_S = 0.1
MAX_RETRY_S = 5.0
SPOOLED_PATIENCE_S = 3.0
"""At a stop, for a log that answered a moment ago: what it doesn't take stays spooled."""
SLOW_S = 1.0
"""An append that takes longer than this makes the records behind it go to the spool."""
SYNC_S = 1.0
"""How often what goes to the spool is made safe from a power failure too; a kill loses nothing of
it anyway. An fsync of 0.1 to 50 MB took 4 to 40 ms when measured: once for each of 20 spills a
second would be most of the disk's time."""

_log = structlog.get_logger(__name__)


class Appender:
    """A queue of records in front of a log.

    `put` never blocks and never drops. When more than `high_water` bytes wait in memory, `pause`
    is called; when fewer than `low_water` are left, `resume`. With a `spool` that happens only
    once it is full (or its disk refuses). An append that fails with `LogError` is retried with
    back-off, so records reach the log in the order they were put; any other exception ends `run`.

    What the spool holds when this starts, left by an earlier run, is appended first.
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
        spool: Spool | None = None,
    ) -> None:
        self._destination = log
        self._exchange = exchange
        self._pause = pause
        self._resume = resume
        self._high_water = high_water
        self._low_water = low_water
        self._spool = spool
        self._queue: deque[NewRecord] = deque()
        self._work = asyncio.Event()
        self._empty = asyncio.Event()
        self._spill_due = asyncio.Event()
        self._order = asyncio.Lock()  # of whoever moves records between the queue and the spool
        self._slow = False
        self._spool_failing = False
        self._synced_at = 0.0
        self._trouble = Trouble(
            _log.bind(exchange=exchange), "append failed, will retry", "the log takes records again"
        )
        self._bytes = metrics.QUEUED_BYTES.labels(exchange)
        self._records = metrics.QUEUED_RECORDS.labels(exchange)
        self._peak_bytes = metrics.QUEUE_PEAK.labels(exchange)
        self._seconds = metrics.APPEND_SECONDS.labels(exchange)
        self._peak = 0
        metrics.QUEUE_LIMIT.labels(exchange).set(high_water)
        if spool is not None:
            metrics.SPOOL_LIMIT.labels(exchange).set(spool.max_bytes)
            metrics.SPOOL_BYTES.labels(exchange).set(spool.size)
        self.failing = False
        """Whether the last append failed."""
        self.waiting_bytes = 0
        """Bytes of records waiting in memory."""
        self.paused = False
        if self.spooled:
            _log.info("spool found, appended first", exchange=exchange, records=self.spooled)
            self._work.set()
        else:
            self._empty.set()

    @property
    def spooled(self) -> int:
        """Records in the spool."""
        return len(self._spool) if self._spool is not None else 0

    @property
    def waiting(self) -> int:
        """Records not yet known to be durable, the append in flight included."""
        return len(self._queue) + self.spooled

    def put(self, records: Sequence[NewRecord]) -> None:
        if not records:
            return
        self._queue.extend(records)
        self.waiting_bytes += sum(map(_size, records))
        self._peak = max(self._peak, self.waiting_bytes)
        self._empty.clear()
        self._work.set()
        if self._behind():
            self._spill_due.set()
        if self.waiting_bytes > self._high_water and not self.paused:
            self.paused = True
            metrics.PAUSED.labels(self._exchange).inc()
            _log.warning(
                "log behind, reading paused", exchange=self._exchange, bytes=self.waiting_bytes
            )
            self._pause()

    async def run(self) -> None:
        """Append what is put, until cancelled."""
        spilling = asyncio.create_task(self._spill_when_due())
        try:
            while True:
                await self._work.wait()
                batch = await self._next()
                await self._append(batch)
                await asyncio.shield(self._done(batch))
        finally:
            await cancelled(spilling)

    async def drain(self) -> None:
        """Wait until everything put so far is durable; `run` must be running."""
        await self._empty.wait()

    async def finish(self, running: "asyncio.Task[None]", patience_s: float) -> None:
        """End `run` once the log has taken what waits; what it doesn't in time stays spooled."""
        spool = self._spool
        drained = asyncio.create_task(self.drain())
        # A log that is down is not waited for when nothing is lost by it.
        if spool is not None:
            down = self.failing or self._slow
            patience_s = 0.0 if down else min(patience_s, SPOOLED_PATIENCE_S)
        await asyncio.wait(
            {running, drained}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
        )
        await cancelled(drained, running)
        if spool is not None:
            await self.spill()
            await asyncio.to_thread(spool.close)
        if spool is not None and self.spooled:
            _log.warning(
                "stopped before the log took everything; the next start appends the rest",
                exchange=self._exchange,
                records=self.spooled,
                spool=str(spool.directory),
            )
        if self.waiting > self.spooled:
            _log.error(
                "stopped before the log took everything",
                exchange=self._exchange,
                records_lost=self.waiting - self.spooled,
            )

    async def spill(self) -> None:
        """Move what waits in memory to the spool, as far as there is room."""
        spool = self._spool
        if spool is None:
            return
        async with self._order:
            batch = list(self._queue)
            if not batch or spool.full:
                return
            try:
                moved = await asyncio.to_thread(spool.write, batch)
                self._unqueue(moved)
                await self._sync(spool)
            except OSError as error:
                self._spool_failed(error)
                return
            self._spool_failing = False
            metrics.SPOOLED.labels(self._exchange).inc(moved)
            metrics.SPOOL_BYTES.labels(self._exchange).set(spool.size)
        self._may_resume()

    async def _sync(self, spool: Spool) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._synced_at >= SYNC_S:
            self._synced_at = now
            await asyncio.to_thread(spool.sync)

    def _behind(self) -> bool:
        """Whether what is put goes to the spool."""
        return self._spool is not None and (
            self.failing or self._slow or self.spooled > 0 or self.waiting_bytes > SPILL_BYTES
        )

    async def _spill_when_due(self) -> None:
        while True:
            await self._spill_due.wait()
            self._spill_due.clear()
            # Shielded: a move between queue and spool, once begun, is finished.
            await asyncio.shield(self.spill())

    def _spool_failed(self, error: OSError) -> None:
        metrics.SPOOL_FAILURES.labels(self._exchange).inc()
        if not self._spool_failing:
            self._spool_failing = True
            _log.error(
                "can't spool, records wait in memory", exchange=self._exchange, error=str(error)
            )

    async def _next(self) -> list[NewRecord]:
        """The oldest records, not more than one append should hold."""
        async with self._order:
            if self._spool is not None and self.spooled:
                batch = await asyncio.to_thread(self._spool.read, MAX_APPEND)
                if batch:
                    return batch
            batch = []
            size = 0
            for record in self._queue:
                size += _size(record)
                if batch and size > MAX_APPEND:
                    break
                batch.append(record)
            return batch

    async def _append(self, batch: list[NewRecord]) -> None:
        if not batch:
            return
        delay = FIRST_RETRY_S
        began = time.perf_counter()
        while True:
            appending = asyncio.ensure_future(self._destination.append(batch))
            try:
                await self._finish(appending)
            except LogError as error:
                self.failing = True
                self._spill_due.set()
                metrics.APPEND_FAILURES.labels(self._exchange).inc()
                self._trouble.failed(str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, MAX_RETRY_S)
            else:
                self._seconds.observe(time.perf_counter() - began)
                self._trouble.over()
                self.failing = self._slow = False
                return

    async def _finish(self, appending: asyncio.Future[None]) -> None:
        """Until the append is done; what waits behind one that is slow goes to the spool."""
        try:
            if self._spool is not None:
                done, _ = await asyncio.wait({appending}, timeout=SLOW_S)
                if not done:
                    self._slow = True
                    self._spill_due.set()
            await appending
        finally:
            appending.cancel()

    async def _done(self, batch: list[NewRecord]) -> None:
        async with self._order:
            # The batch is the oldest there is, wherever its records have got to meanwhile.
            from_spool = min(self.spooled, len(batch))
            if self._spool is not None and from_spool:
                await asyncio.to_thread(self._spool.forget, from_spool)
                metrics.SPOOL_BYTES.labels(self._exchange).set(self._spool.size)
            self._unqueue(len(batch) - from_spool)
        for kind, count in Counter(record.headers["type"] for record in batch).items():
            metrics.APPENDED.labels(self._exchange, kind).inc(count)
        if not self.waiting:
            self._work.clear()
            self._empty.set()
        elif self._queue and self._behind():
            self._spill_due.set()
        self._may_resume()

    def _unqueue(self, count: int) -> None:
        self.waiting_bytes -= sum(map(_size, islice(self._queue, count)))
        for _ in range(count):
            self._queue.popleft()
        self._bytes.set(self.waiting_bytes)
        self._records.set(len(self._queue))
        self._peak_bytes.set(self._peak)

    def _may_resume(self) -> None:
        if self.paused and self.waiting_bytes < self._low_water:
            self.paused = False
            _log.info("reading again", exchange=self._exchange)
            self._resume()


def _size(record: NewRecord) -> int:
    return len(record.value) + RECORD_OVERHEAD
