"""One owned partition at work: what is next in both tick topics, sealed, and committed."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TypeVar

import structlog

from aggregate import metrics
from aggregate.partition import PartitionAggregator
from aggregate.shard import Rules
from ingest import records
from ingest.log import Log, NewRecord, Ownership, Record, TopicPartition
from ingest.log.reading import read_kept

COMMIT_EVERY_S = 1.0
"""A partition without new bars commits its offsets at least this often while it reads."""

MORE_BYTES = 256 << 10

log_ = structlog.get_logger(__name__)
T = TypeVar("T")


class PartitionWorker:
    """Owns a partition until an exception: then the next `take_over` goes on from the last commit.

    Sealing is deterministic, so what was emitted and not committed is emitted again, alike.
    Computing is done on `thread`, so that the event loop can give signs of life meanwhile.
    """

    def __init__(
        self, log: Log, owner: Ownership, state: PartitionAggregator, thread: Executor
    ) -> None:
        self._log = log
        self._owner = owner
        self._state = state
        self._thread = thread
        self._committed = time.monotonic()
        self._released = False
        self.more = False
        """Whether the last step read so much that the next one need not wait."""
        self._sizes = {name: len(value) for name, value in owner.state.items()}
        self._last_ns = dict.fromkeys(records.TICK_TOPICS, 0)  # when the last one read came
        for topic in records.TICK_TOPICS:
            metrics.TRIMMED.labels(topic)  # 0, or Prometheus would not see it rise

    @classmethod
    async def take_over(
        cls,
        log: Log,
        group: str,
        partition: int,
        rules: Rules,
        eviction_ns: int,
        thread: Executor,
    ) -> "PartitionWorker":
        """Fence the owner before and start from its last commit."""
        began = time.perf_counter()
        owner = await log.acquire(group, partition)
        loop = asyncio.get_running_loop()
        state = await loop.run_in_executor(thread, PartitionAggregator, owner, rules, eviction_ns)
        metrics.TAKE_OVER_SECONDS.observe(time.perf_counter() - began)
        return cls(log, owner, state, thread)

    @property
    def partition(self) -> int:
        return self._owner.partition

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to read of both tick topics."""
        return {(topic, self.partition): at for topic, at in self._state.positions.items()}

    async def step(self) -> None:
        """Read on, and commit what came of it."""
        found = await self._read()
        self.more = sum(len(record.value) for record in found) > MORE_BYTES
        if not found:
            return
        out = await self._on_thread(lambda: self._digest(found))
        if out or time.monotonic() - self._committed > COMMIT_EVERY_S:
            await self.commit(out)
        self._report()

    async def _read(self) -> list[Record]:
        """What is next of the topic that is behind, and of the other up to about there.

        In a backlog, reading one of them far ahead would hold all its ticks until the other's
        time allows to seal them.
        """
        behind, ahead = sorted(records.TICK_TOPICS, key=self._state.reached.__getitem__)
        found = await self._next(behind)
        if not found or _promised(found) >= self._state.reached[ahead]:
            found += await self._next(ahead)
        return found

    async def _next(self, topic: str) -> list[Record]:
        offset = self._state.positions[topic]
        found, lost = await read_kept(self._log, topic, self.partition, offset)
        if lost:
            log_.error("ticks were lost to retention", topic=topic, offset=offset, count=lost)
            metrics.TRIMMED.labels(topic).inc(lost)
            self._state.positions[topic] = offset + lost
        if found:
            self._last_ns[topic] = found[-1].appended_ns
        return found

    def _digest(self, found: Sequence[Record]) -> list[NewRecord]:
        for record in found:
            self._state.feed(record)
        started = time.perf_counter()
        out = self._state.advance()
        metrics.sealed(time.perf_counter() - started, len(out))
        return out

    async def commit(self, out: Sequence[NewRecord] = ()) -> None:
        """Make what was emitted, read and held durable. After an error: of no more use."""
        changes, offsets, held = await self._on_thread(self._changes)
        with metrics.COMMIT_SECONDS.time():
            await self._log.commit(self._owner, out, changes, offsets)
        self._committed = time.monotonic()
        self._tell_committed(changes, held)

    def _changes(
        self,
    ) -> tuple[dict[str, bytes | None], dict[TopicPartition, int], tuple[int, int]]:
        return self._state.changes(), self._state.offsets(), self._state.held()

    def _tell_committed(self, changes: Mapping[str, bytes | None], held: tuple[int, int]) -> None:
        for name, value in changes.items():
            if value is None:
                self._sizes.pop(name, None)
            else:
                self._sizes[name] = len(value)
        metrics.closed(self._state.closed, time.time())
        self._state.closed.clear()
        if not self._released:
            metrics.state(self.partition, *held, sum(self._sizes.values()))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def release(self) -> None:
        """Give it up without a word more: nothing is committed."""
        self._released = True
        metrics.forget(self.partition, self._state.times(), records.TICK_TOPICS)
        await self._log.release(self._owner)

    async def lag(self) -> float:
        """Tell the metrics how far behind the log's end it is; returns the seconds.

        Infinite where what there is has yet to be read, and where the log ends before what was
        read: nothing more would come of it for long.
        """
        worst = 0.0
        for (topic, partition), offset in self.positions().items():
            _, end = await self._log.bounds(topic, partition)
            if self._released:
                return 0.0
            if end < offset:
                log_.error(
                    "the topic ends before what was read of it: if it was made anew, delete the"
                    " state topic too",
                    topic=topic,
                    partition=partition,
                    end=end,
                    read_to=offset,
                )
                worst = math.inf
            behind = max(0, end - offset)
            last_ns = self._last_ns[topic]
            if behind and not last_ns:
                worst = math.inf
                continue
            seconds = max(0.0, time.time() - last_ns / 1e9) if behind else 0.0
            metrics.lag(topic, partition, behind, seconds)
            worst = max(worst, seconds)
        return worst

    def _report(self) -> None:
        state = self._state
        metrics.dropped(state.dropped)
        withheld = sum(n for (_, _, why), n in state.dropped.items() if why == "withheld")
        if withheld:
            log_.info(
                "windows withheld: collection began inside them",
                partition=self.partition,
                windows=withheld,
            )
        state.dropped.clear()
        for shard, now in state.times().items():
            metrics.watermark(shard, self.partition, now)


def _promised(found: Sequence[Record]) -> int:
    """The latest promise (ns) among them, -1 without one."""
    stamps = (r.headers for r in found if r.headers.get("type") == records.PUNCTUATION)
    return max((int(headers[records.LOCAL_TS]) for headers in stamps), default=-1)
