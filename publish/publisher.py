"""The publisher: bars from the log into day parts and month files, each bar exactly once.

A flush writes what was read since the last one, and only then commits the offsets; those of a day's
close marks only once its days are folded. So after a crash the same records are read again, and
`merging.merge` leaves out what the files have. Only rows that are not in files are held in memory.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial

import structlog

from aggregate.intervals import LADDER
from ingest.log import Log, Ownership, TopicPartition
from ingest.log.reading import read_kept
from ingest.records import BARS_TOPIC
from publish import metrics
from publish.layout import Series
from publish.open_days import OpenDays
from publish.pending import Pending
from publish.retries import READ_ON_S, STOP_S, StoreWork, Unfinished, threads_for
from publish.store import Store

WAIT_S = 0.2
READ_BYTES = 2 << 20
PENDING_BYTES = 64 << 20
"""Bars held at most: after a long pause flushes come as fast as they can."""

_log = structlog.get_logger(__name__)


class Publisher:
    """Publishes all partitions of the bars topic into `store`.

    `flush_s`: seconds between flushes; `flush_by_interval`: of the bars of some intervals.
    `grace_s`: seconds a folded day part stays readable. `now`: Unix seconds, for that grace only.
    Store errors are retried until the store is back; `Fenced` and other log errors end `run`
    (`publishing.py` begins anew).
    """

    def __init__(
        self,
        log: Log,
        store: Store,
        *,
        group: str = "publisher",
        flush_s: float = 30.0,
        flush_by_interval: Mapping[str, float] | None = None,
        grace_s: float = 600.0,
        workers: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._group = group
        self._periods = flush_by_interval or {}
        self._flush_s = flush_s
        self._every_s = min([flush_s, *self._periods.values()])
        self._now = now
        self._days = OpenDays(store, grace_s, now)
        self._workers = workers or threads_for(store)
        self._threads = ThreadPoolExecutor(self._workers, "publisher")
        self._stopping = asyncio.Event()
        self._work = StoreWork(self._threads, self._stopping)
        self._owners: dict[int, Ownership] = {}
        self._committed: dict[int, int] = {}
        self._pending = Pending({})
        self._due: dict[str, float] = {}
        self._to_fold: dict[Series, list[date]] = {}
        self.caught_up = False
        """Whether the last look at the log found nothing unread."""
        self.read_ns: dict[str, int] = {}
        """When the last record read of each topic was appended (ns since the epoch)."""

    def stop(self) -> None:
        """Make `run` read on to the log's end (for some seconds at most), flush and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Publish until `stop`. Raises `StoreError` if stopped while the store fails.

        Nothing is lost then: what is not in files is still on the log.
        """
        try:
            await self._acquire()
            await self._load()
            while not self._stopping.is_set():
                due = time.monotonic() + self._every_s
                await self._read_until(due)
                await self._flush(self._due_intervals())
                await self._tidy(time.monotonic() + self._every_s)
            await self._read_to_the_end(time.monotonic() + READ_ON_S)
            await self._flush(self._pending.intervals)
            await self._tidy(time.monotonic() + STOP_S)
        except Unfinished as left:
            _log.warning("stopped before all bars were in files", problem=str(left))
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _acquire(self) -> None:
        for partition in range(await self._log.partitions(BARS_TOPIC)):
            owner = await self._log.acquire(self._group, partition)
            first, _ = await self._log.bounds(BARS_TOPIC, partition)
            self._owners[partition] = owner
            self._pending.positions[partition] = owner.offsets.get((BARS_TOPIC, partition), first)
        # From now on retention spares what we have not read.
        await self._commit(self._pending.positions)

    async def _load(self) -> None:
        found: list[Series] = []
        await self._work.until_done("load", [lambda: found.extend(self._days.load())])
        await self._work.until_done(
            "load", [partial(self._days.settle, series) for series in found]
        )

    async def _read_until(self, deadline: float) -> None:
        """Read until the deadline (monotonic seconds), a stop, or as much as may be held."""
        while not self._stopping.is_set() and self._pending.size < PENDING_BYTES:
            if not await self._read():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                await self._log.wait(self.positions(), min(WAIT_S, left))
            elif time.monotonic() >= deadline:
                return

    async def _read_to_the_end(self, deadline: float) -> None:
        while await self._read() and time.monotonic() < deadline:
            if self._pending.size >= PENDING_BYTES:
                await self._flush(self._pending.intervals)

    async def _read(self) -> bool:
        """Read some of every partition; whether there was anything."""
        found = False
        for partition, offset in list(self._pending.positions.items()):
            records, lost = await read_kept(
                self._log, BARS_TOPIC, partition, offset, max_bytes=READ_BYTES
            )
            if lost:
                _log.error("bars were lost to retention", partition=partition, count=lost)
                metrics.TRIMMED.inc(lost)
                self._pending.positions[partition] = offset + lost
            for record in records:
                self._pending.add(record)
            if records:
                self.read_ns[BARS_TOPIC] = records[-1].appended_ns
            found = found or bool(records)
        self.caught_up = not found
        self._tell_pending()
        return found

    def _tell_pending(self) -> None:
        metrics.PENDING_BYTES.set(self._pending.size)
        metrics.PENDING_RECORDS.set(len(self._pending))

    def _due_intervals(self) -> set[str]:
        """The intervals whose bars are to be written now."""
        pending, now = self._pending, time.monotonic()
        if pending.closing or pending.size >= PENDING_BYTES:
            return pending.intervals
        # A flush that comes a little early shall not make an interval wait for the next.
        early = now + self._every_s / 2
        due = {interval for interval in pending.intervals if self._due.get(interval, 0) <= early}
        for interval in due:
            self._due[interval] = now + self._periods.get(interval, self._flush_s)
        return due

    async def _flush(self, intervals: set[str]) -> None:
        """Write them in turn, so that a stop in between is in time: the small ones first, and close
        marks (of no interval) last, as all rows before them have to be in files."""
        seconds = {interval.name: interval.seconds for interval in LADDER}
        with metrics.FLUSH_SECONDS.time():
            for interval in sorted(intervals, key=lambda name: -seconds.get(name, 0)):
                if self._work.over:
                    raise Unfinished(
                        f"{len(self._pending)} records left: the next start reads them"
                    )
                await self._write(interval)
            await self._commit_flushed()
        self._tell_pending()
        metrics.FOLDS_PENDING.set(len(self._to_fold))
        metrics.LAST_FLUSH.set(self._now())

    async def _write(self, interval: str) -> None:
        pending, days = self._pending, self._days
        loop = asyncio.get_running_loop()
        new = await loop.run_in_executor(self._threads, pending.decode, {interval})
        for record in new.malformed:
            _log.error("record left out", reason=record.reason, problem=record.detail)
            metrics.MALFORMED.labels(record.reason).inc()
        await self._work.until_done(
            "write", [partial(days.write, *item) for item in new.rows.items()]
        )
        pending.forget({interval})
        for series, over in days.due(new.closed).items():
            self._to_fold[series] = over

    async def _tidy(self, deadline: float) -> None:
        """Fold days that are over and delete parts whose time is over, some at a time.

        What is left at the deadline (monotonic seconds), or when a stop is asked for, waits for the
        next call: at midnight there may be tens of thousands of files to make, and new bars shall
        not wait for them.
        """
        asked_before = self._stopping.is_set()

        def in_time() -> bool:
            return time.monotonic() < deadline and self._stopping.is_set() == asked_before

        await self._fold_what_is_due(in_time)
        # At a stop this is the last try: who has a lease may soon be done with it.
        while self._to_fold and asked_before and in_time():
            await asyncio.sleep(WAIT_S)
            await self._fold_what_is_due(in_time)
        await self._commit_flushed()
        expired = self._days.expired()
        while expired and in_time():
            some_days, expired = expired[: self._workers], expired[self._workers :]
            tasks = [partial(self._days.discard, *item) for item in some_days]
            await self._work.until_done("discard", tasks)

    async def _fold_what_is_due(self, in_time: Callable[[], bool]) -> None:
        # All series of a dataset and instrument together: they have one lease.
        groups: dict[tuple[str, str, str], dict[Series, list[date]]] = defaultdict(dict)
        for series, days in self._to_fold.items():
            groups[series.dataset, series.exchange, series.symbol][series] = days
        waiting = list(groups.values())
        while waiting and in_time():
            some, waiting = waiting[: self._workers], waiting[self._workers :]
            await self._work.until_done("fold", [partial(self._fold, of, in_time) for of in some])
            metrics.FOLDS_PENDING.set(len(self._to_fold))

    def _fold(self, due: Mapping[Series, list[date]], in_time: Callable[[], bool]) -> None:
        for series in self._days.fold(due, in_time):
            del self._to_fold[series]

    async def _commit_flushed(self) -> None:
        # The close marks of days that are not folded yet are to be read again after a crash.
        if not self._to_fold:
            await self._commit({p: self._pending.unwritten(p) for p in self._owners})

    async def _commit(self, positions: Mapping[int, int]) -> None:
        for partition, offset in positions.items():
            if self._committed.get(partition) != offset:
                at = {(BARS_TOPIC, partition): offset}
                await self._log.commit(self._owners[partition], offsets=at)
                self._committed[partition] = offset

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to read of each partition."""
        return {(BARS_TOPIC, p): offset for p, offset in self._pending.positions.items()}
