"""The daemon: owns partitions of the tick topics; reads, seals, rolls up, commits.

What it emits, what it has read and what it still holds become durable in one commit per
partition (DESIGN decision 6), so kill -9 anywhere loses nothing and repeats nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence

import structlog

from aggregate import metrics
from aggregate.partition import PartitionAggregator
from aggregate.shard import Rules
from ingest import records
from ingest.log import Fenced, Log, LogError, NewRecord, Ownership, TopicPartition

log_ = structlog.get_logger(__name__)

GROUP = "aggregator"
COMMIT_EVERY_S = 1.0
"""A partition without new bars commits its offsets at least this often while it reads."""
WAIT_S = 0.2
FIRST_RETRY_S, MAX_RETRY_S = 0.2, 10.0
DRAIN_S = 5.0
"""At a stop, how long it reads on to take what the collectors wrote last."""


class Aggregator:
    """Aggregates the given partitions of one log until stopped or fenced off all of them."""

    def __init__(
        self,
        log: Log,
        partitions: Sequence[int],
        rules: Rules | None = None,
        *,
        group: str = GROUP,
        eviction_ns: int = 30 * 1_000_000_000,
    ) -> None:
        self._log = log
        self._partitions = partitions
        self._rules = rules or Rules()
        self._group = group
        self._eviction_ns = eviction_ns
        self._owned: dict[int, tuple[Ownership, PartitionAggregator]] = {}
        self._committed: dict[int, float] = {}
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to commit and return; safe to call from the loop's signal handlers."""
        self._stopping.set()

    async def run(self) -> None:
        """Read and seal until `stop`. Partitions taken by another owner are let go."""
        for partition in self._partitions:
            owner = await self._log.acquire(self._group, partition)
            state = PartitionAggregator(owner, self._rules, self._eviction_ns)
            self._owned[partition] = (owner, state)
        while self._owned and not self._stopping.is_set():
            if await self._log.wait(self._positions(), WAIT_S):
                await self.step()
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline and await self._log.wait(self._positions(), 0.0):
            await self.step()
        for partition in list(self._owned):
            await self._guarded(partition, self._commit(partition, []))

    def _positions(self) -> dict[TopicPartition, int]:
        return {
            (topic, partition): offset
            for partition, (_, state) in self._owned.items()
            for topic, offset in state.positions.items()
        }

    async def step(self) -> None:
        """Read what is there in every owned partition once, and commit what came of it."""
        for partition in list(self._owned):
            await self._guarded(partition, self._step(partition))

    async def _guarded(self, partition: int, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Fenced:
            log_.warning("partition taken by another aggregator", partition=partition)
            del self._owned[partition]

    async def _step(self, partition: int) -> None:
        _, state = self._owned[partition]
        read = 0
        for topic in records.TICK_TOPICS:
            for record in await self._log.read(topic, partition, state.positions[topic]):
                state.feed(record)
                read += 1
        if not read:
            return
        started = time.perf_counter()
        out = state.advance()
        metrics.sealed(time.perf_counter() - started, len(out))
        if out or time.monotonic() - self._committed.get(partition, 0.0) > COMMIT_EVERY_S:
            await self._commit(partition, out)
        self._report(partition, state)

    async def _commit(self, partition: int, out: Sequence[NewRecord]) -> None:
        """Commit what was emitted; a log that fails is tried again until it takes it.

        What was emitted can't be computed a second time, so nothing else happens meanwhile. At a
        stop the try in flight is the last: an uncommitted state is made anew by the next owner.
        """
        owner, state = self._owned[partition]
        changes, offsets = state.changes(), state.offsets()
        delay = FIRST_RETRY_S
        while True:
            try:
                await self._log.commit(owner, out, changes, offsets)
            except Fenced:
                raise
            except LogError as error:
                metrics.COMMIT_FAILURES.inc()
                log_.error("commit failed", partition=partition, problem=str(error), retry_s=delay)
                if self._stopping.is_set():
                    raise
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), delay)
                delay = min(2 * delay, MAX_RETRY_S)
            else:
                break
        self._committed[partition] = time.monotonic()

    def _report(self, partition: int, state: PartitionAggregator) -> None:
        metrics.dropped(state.dropped)
        withheld = sum(n for (_, _, why), n in state.dropped.items() if why == "withheld")
        if withheld:
            log_.info(
                "windows withheld: collection began inside them",
                partition=partition,
                windows=withheld,
            )
        state.dropped.clear()
        for shard, now in state.times().items():
            metrics.watermark(shard, partition, now)
