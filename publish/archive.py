"""The raw archive: every tick on the log into the store, once, in order of arrival.

    log ──▶ chunks, one a flush and partition ──▶ day files, once a day is over

A flush writes what was read as chunks and only then commits the offsets, with the batch numbers
seen; a chunk that was not committed is removed by the next start. What is read and not yet in a
chunk is on the log: retention leaves it there.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from functools import partial

import orjson
import pyarrow as pa
import structlog

from ingest import records
from ingest.log import Log, Ownership, Record, TopicPartition
from ingest.log.reading import read_kept
from publish import metrics, raw_chunks
from publish.raw_chunks import GAPS, QUOTES, SESSIONS, TRADES, Chunk, read_chunk, write_chunks
from publish.raw_days import Instrument, make_day
from publish.retries import READ_ON_S, STOP_S, StoreWork, Unfinished, threads_for
from publish.store import Store

GROUP = "archive"
WAIT_S = 0.5
READ_BYTES = 4 << 20
PENDING_BYTES = 64 << 20
"""Records held at most: beyond it flushes come as fast as they can."""
DECODE_RECORDS = 500
"""Of a topic's partition, decoded at once, long before a flush: decoding what 300 symbols make in
five minutes takes ten seconds and more, for which neither a flush nor a stop can wait."""
FLUSH_S = 300.0
SETTLE_S = 600.0
"""A day's file is made once the day is over and nothing was added to it for so long."""
_SEQUENCE = "sequence"
_FAR = 1 << 62
"""An offset that is never reached: what retention must not wait for."""
_KINDS = {records.TRADES_TOPIC: (TRADES, GAPS, SESSIONS), records.QUOTES_TOPIC: (QUOTES,)}

_log = structlog.get_logger(__name__)
Unit = tuple[str, date, int]
"""Kind, day, partition: what chunks belong together."""


class Unwritten:
    """What was read of one partition of a topic and is in no chunk yet."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        """Those that are not decoded yet."""
        self._tables: dict[str, list[pa.Table]] = defaultdict(list)

    def decode(self) -> None:
        """All that was read so far; what is malformed is said and counted."""
        found, self.records = self.records, []
        tables, malformed = raw_chunks.tables_of(found)
        for kind, table in tables.items():
            self._tables[kind].append(table)
        for problem in malformed:
            _log.error("record left out of the archive", problem=problem)
        metrics.RAW_MALFORMED.inc(len(malformed))

    def tables(self) -> dict[str, pa.Table]:
        """The decoded rows by kind, in the log's order."""
        return {kind: pa.concat_tables(of) for kind, of in self._tables.items()}


class Archive:
    """Archives all partitions of the tick topics into `store`.

    `lateness_ns`: the aggregator's, by which trades are in no exchange bar. `flush_s`: seconds
    between flushes. `now`: Unix seconds. Store errors are retried until the store is back;
    `Fenced` and other log errors end `run`.
    """

    def __init__(
        self,
        log: Log,
        store: Store,
        *,
        lateness_ns: int,
        flush_s: float = FLUSH_S,
        settle_s: float = SETTLE_S,
        workers: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._log = log
        self._store = store
        self._lateness_ns = lateness_ns
        self._flush_s = flush_s
        self._settle_s = settle_s
        self._now = now
        self._workers = workers or threads_for(store)
        self._threads = ThreadPoolExecutor(self._workers, "archive")
        self._stopping = asyncio.Event()
        self._work = StoreWork(self._threads, self._stopping)
        self._owners: dict[int, Ownership] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._sequences: dict[int, dict[str, int]] = {}
        self._unwritten: dict[TopicPartition, Unwritten] = defaultdict(Unwritten)
        self._size = 0
        self._added: dict[Unit, float] = {}
        self.caught_up = False
        """Whether the last look at the log found nothing unread."""
        self.read_ns: dict[str, int] = {}
        """When the last record read of each topic was appended (ns since the epoch)."""

    def stop(self) -> None:
        """Make `run` read on to the log's end (for some seconds at most), flush and return."""
        self._stopping.set()

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to read of each partition."""
        return dict(self._positions)

    async def run(self) -> None:
        """Archive until `stop`. Raises `StoreError` if stopped while the store fails.

        Nothing is lost then: what is not in files is still on the log.
        """
        try:
            await self._acquire()
            await self._work.until_done("load", [self._load])
            while not self._stopping.is_set():
                deadline = time.monotonic() + self._flush_s
                await self._read_until(deadline)
                await self._flush()
                await self._make_days(time.monotonic() + self._flush_s)
            deadline = time.monotonic() + READ_ON_S
            while self._size < PENDING_BYTES and time.monotonic() < deadline and await self._read():
                pass
            await self._flush()
            await self._make_days(time.monotonic() + STOP_S)
        except Unfinished as left:
            _log.warning("stopped before all ticks were archived", problem=str(left))
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _acquire(self) -> None:
        for partition in range(await self._log.partitions(records.TRADES_TOPIC)):
            owner = await self._log.acquire(GROUP, partition)
            self._owners[partition] = owner
            self._sequences[partition] = orjson.loads(owner.state.get(_SEQUENCE, b"{}"))
            for topic in records.TICK_TOPICS:
                first, end = await self._log.bounds(topic, partition)
                at = min(owner.offsets.get((topic, partition), first), end)
                self._positions[topic, partition] = self._committed[topic, partition] = at
            # From now on retention spares what we have not read.
            await self._commit(partition)

    def _load(self) -> None:
        """Learn from the store which chunks there are; those that were not committed go."""
        self._added.clear()
        topics = {kind: topic for topic, kinds in _KINDS.items() for kind in kinds}
        for key in self._store.list(raw_chunks.ROOT):
            try:
                kind, partition, day, first, _ = raw_chunks.parse_key(key)
            except ValueError as error:
                _log.warning("no chunk, left alone", url=self._store.url, problem=str(error))
                continue
            if first >= self._committed.get((topics[kind], partition), _FAR):
                self._store.delete(key)
            else:
                self._added[kind, day, partition] = self._now()

    async def _read_until(self, deadline: float) -> None:
        while not self._stopping.is_set() and self._size < PENDING_BYTES:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if not await self._read():
                await self._log.wait(self._positions, min(WAIT_S, left))

    async def _read(self) -> bool:
        """Read some of every partition; whether there was anything."""
        found = False
        for (topic, partition), offset in list(self._positions.items()):
            some, lost = await read_kept(self._log, topic, partition, offset, max_bytes=READ_BYTES)
            if lost:
                _log.error("ticks were lost to retention", topic=topic, offset=offset, count=lost)
                metrics.RAW_TRIMMED.inc(lost)
                self._positions[topic, partition] = offset + lost
            for record in some:
                self._take(record)
            if some:
                self.read_ns[topic] = some[-1].appended_ns
            found = found or bool(some)
        self.caught_up = not found
        loop = asyncio.get_running_loop()
        for unwritten in self._unwritten.values():
            if len(unwritten.records) >= DECODE_RECORDS:
                await loop.run_in_executor(self._threads, unwritten.decode)
        return found

    def _take(self, record: Record) -> None:
        at = (record.topic, record.partition)
        self._positions[at] = record.offset + 1
        if not self._repeated(record):
            self._unwritten[at].records.append(record)
            self._size += len(record.value)

    def _repeated(self, record: Record) -> bool:
        """Whether its producer appended this record before (a retry after a crash)."""
        of = record.headers
        if "seq" not in of or of.get("type") in (records.EVICTION, records.LAGGING):
            return False  # an aggregator's, in a collector's name
        seen = self._sequences[record.partition]
        source = records.Source.of(of)
        of_collector = f"{record.topic}|{source.shard}|{source.collector}|"
        key = of_collector + source.session
        if key not in seen:  # numbers of a collector's earlier sessions are of no more use
            for old in [old for old in seen if old.startswith(of_collector)]:
                del seen[old]
        if int(of["seq"]) <= seen.get(key, -1):
            metrics.RAW_REPEATED.inc()
            return True
        seen[key] = int(of["seq"])
        return False

    async def _flush(self) -> None:
        tasks = [partial(self._write, *item) for item in self._unwritten.items()]
        await self._work.until_done("archive", tasks)
        for partition in self._owners:
            await self._commit(partition)
        self._unwritten.clear()
        self._size = 0
        metrics.RAW_LAST_FLUSH.set(self._now())

    def _write(self, at: TopicPartition, unwritten: Unwritten) -> None:
        """The chunks of what was read of one partition; again is harmless."""
        _, partition = at
        unwritten.decode()
        span, epoch = (self._committed[at], self._positions[at]), self._owners[partition].epoch
        for kind, table in unwritten.tables().items():
            for day in write_chunks(self._store, kind, table, partition, span, epoch):
                self._added[kind, day, partition] = self._now()
            metrics.ARCHIVED.labels(kind).inc(len(table))

    async def _commit(self, partition: int) -> None:
        offsets = {(topic, partition): self._positions[topic, partition] for topic in _KINDS}
        state = {_SEQUENCE: orjson.dumps(self._sequences[partition])}
        await self._log.commit(self._owners[partition], state=state, offsets=offsets)
        self._committed |= offsets

    async def _make_days(self, deadline: float) -> None:
        """Make the files of days that are over.

        What is left at the deadline, or when a stop is asked for, waits for the next call.
        """
        now, asked_before = self._now(), self._stopping.is_set()
        over = datetime.fromtimestamp(now, UTC).date() - timedelta(days=1)
        due = [
            unit
            for unit, added in sorted(self._added.items())
            if unit[1] <= over and now - added >= self._settle_s and now >= self._settled(unit[1])
        ]

        def in_time() -> bool:
            return time.monotonic() < deadline and self._stopping.is_set() == asked_before

        # One after the other: the sessions' file of a day is made of several partitions.
        for unit in due:
            if not in_time() or not await self._make(unit, in_time):
                return

    async def _make(self, unit: Unit, in_time: Callable[[], bool]) -> bool:
        """Make a unit's day files and delete its chunks; whether it came to the end in time."""
        kind, day, _ = unit
        chunks: list[Chunk] = []
        await self._work.until_done("archive", [partial(self._read_chunks, unit, chunks)])
        good = raw_chunks.valid(chunks)
        left = _instruments(kind, good)
        while left:
            if not in_time():
                return False
            some, left = left[: self._workers], left[self._workers :]
            tasks = [
                partial(make_day, self._store, of, day, good, self._lateness_ns) for of in some
            ]
            await self._work.until_done("archive", tasks)
            metrics.RAW_DAYS.labels(kind).inc(len(some))
        deletions = [partial(self._store.delete, chunk.key) for chunk in chunks]
        await self._work.until_done("archive", deletions)
        del self._added[unit]
        return True

    def _settled(self, day: date) -> float:
        """When (Unix seconds) nothing should come for the day any more."""
        end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        return end.timestamp() + self._settle_s

    def _read_chunks(self, unit: Unit, found: list[Chunk]) -> None:
        kind, day, partition = unit
        keys = self._store.list(f"{raw_chunks.prefix(kind, partition)}/day={day}")
        found[:] = [read_chunk(self._store, key) for key in keys]


def _instruments(kind: str, chunks: Iterable[Chunk]) -> list[Instrument]:
    groups = Counter(
        (group.exchange, "" if kind == SESSIONS else group.symbol)
        for chunk in chunks
        for group in chunk.groups
    )
    return [Instrument(kind, *of) for of in sorted(groups)]


async def release(log: Log) -> None:
    """Let retention remove what an archive that is no longer wanted has not read."""
    for partition in range(await log.partitions(records.TRADES_TOPIC)):
        held = (await log.committed(GROUP)).get((records.TRADES_TOPIC, partition), _FAR)
        if held < _FAR:
            owner = await log.acquire(GROUP, partition)
            await log.commit(owner, offsets={(t, partition): _FAR for t in records.TICK_TOPICS})
