"""The daemon: works on its share of the tick topics' partitions; reads, seals, rolls up, commits.

What it emits, what it has read and what it still holds become durable in one commit per
partition (DESIGN decision 6), so kill -9 anywhere loses nothing and repeats nothing.

    share gained        acquire (fences the owner before), start from its last commit
    share kept          goes on: what it holds stays in memory
    share lost, fenced  let go at once, nothing more is written
    any other failure   let go, and acquired again: the same from the last commit, whatever the log
"""

import asyncio
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

import structlog

from aggregate import metrics
from aggregate.shard import Rules
from aggregate.worker import PartitionWorker
from ingest.log import Fenced, Log, LogError
from ingest.log.membership import Fixed, Membership
from ingest.tasks import cancelled

log_ = structlog.get_logger(__name__)

GROUP = "aggregator"
WAIT_S, DRAIN_WAIT_S = 0.2, 0.02
GATHER_S = 0.02
"""What comes is awaited for so long before it is read: the venues' promises of one moment follow
each other within milliseconds, and each pass costs a commit, whatever it brings."""
FIRST_RETRY_S, MAX_RETRY_S = 0.2, 10.0
SLOW_S = 0.5
"""A partition whose step takes longer is no longer waited for by the others."""
LAG_EVERY_S, FIRST_LAG_EVERY_S = 5.0, 0.2
READY_LAG_S = 10.0
DRAIN_S = 5.0
STOP_S = 3.0
"""At a stop, seconds for what is under way and the last commits."""
RELEASE_S = 0.5


class Aggregator:
    """Aggregates its share of the partitions of one log until stopped, or replaced for good.

    `members`: the partitions, or a membership that says which they are.
    """

    def __init__(
        self,
        log: Log,
        members: Membership | Collection[int],
        rules: Rules | None = None,
        *,
        group: str = GROUP,
        eviction_ns: int = 30 * 1_000_000_000,
    ) -> None:
        self._log = log
        self._members = members if isinstance(members, Membership) else Fixed(members)
        self._rules = rules or Rules()
        self._group = group
        self._eviction_ns = eviction_ns
        self._taking: dict[int, asyncio.Task[PartitionWorker]] = {}
        self._workers: dict[int, PartitionWorker] = {}
        self._steps: dict[int, asyncio.Task[None]] = {}
        self._failures: dict[int, LogError] = {}
        self._retry_s: dict[int, float] = {}
        self._not_before: dict[int, float] = {}
        self._letting_go: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "aggregate")
        self._stopping = asyncio.Event()
        self._drain_s = 0.0
        self.caught_up = False
        """Whether all of the share is at work, and not far behind the log's end; none, in reserve,
        is all of it too."""

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Ask `run` to commit and return; safe to call from the loop's signal handlers.

        `drain_s`: for so long at most it first reads on to the log's end, to take what collectors
        wrote last.
        """
        self._drain_s = drain_s
        self._stopping.set()

    async def run(self) -> None:
        """Read and seal until `stop`. Raises `LogError` if the last commits fail.

        Nothing is lost by that: the next owner goes on from the commits before.
        """
        await self._members.join()
        working = asyncio.create_task(self._work())
        stopping = asyncio.create_task(self._stopping.wait())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            deadline = time.monotonic() + self._drain_s + STOP_S
            await asyncio.wait({working}, timeout=deadline - time.monotonic())
            if working.done():
                working.result()
            await self._commit_all(deadline)
        finally:
            await cancelled(
                working, stopping, watching, *self._taking.values(), *self._steps.values()
            )
            # Not before the last commit: the next owners start where we end.
            await self._members.leave()
            for partition in list(self._workers):
                self._let_go(partition)
            if self._letting_go:
                await asyncio.wait(self._letting_go, timeout=RELEASE_S)
            await cancelled(*self._letting_go)
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while not self._stopping.is_set():
            self._settle()
            if self._members.over:
                return
            await self._pass(WAIT_S)
        deadline = time.monotonic() + self._drain_s
        while time.monotonic() < deadline:
            self._settle()
            found = await self._pass(DRAIN_WAIT_S)
            if not (found or self._taking or self._steps or self._failures):
                return
        if self._steps:
            await asyncio.wait(self._steps.values())
            self._settle()

    def _settle(self) -> None:
        """Let go what is no longer of the share, take over what is new in it."""
        for partition, taking in list(self._taking.items()):
            if taking.done():
                self._taken(partition, taking)
        for partition, step in list(self._steps.items()):
            if step.done():
                self._stepped(partition, step)
        share = self._members.share()  # after what was fenced is told
        for partition in [p for p in (*self._workers, *self._taking) if p not in share]:
            log_.info("partition let go", partition=partition)
            self._let_go(partition)
        now = time.monotonic()
        for partition in sorted(share - self._workers.keys() - self._taking.keys()):
            if now >= self._not_before.get(partition, 0.0):
                self._taking[partition] = asyncio.create_task(
                    PartitionWorker.take_over(
                        self._log,
                        self._group,
                        partition,
                        self._rules,
                        self._eviction_ns,
                        self._thread,
                    )
                )
        metrics.OWNED.set(len(self._workers))

    def _taken(self, partition: int, taking: asyncio.Task[PartitionWorker]) -> None:
        del self._taking[partition]
        try:
            self._workers[partition] = taking.result()
        except LogError as error:
            self._failed(partition, error)

    def _stepped(self, partition: int, step: asyncio.Task[None]) -> None:
        del self._steps[partition]
        try:
            step.result()
        except LogError as error:
            self._failed(partition, error)
        else:
            self._failures.pop(partition, None)
            self._retry_s.pop(partition, None)

    def _let_go(self, partition: int) -> None:
        """Nothing is written there from now on; what it takes to end it happens beside."""
        self._failures.pop(partition, None)
        tasks = [self._taking.pop(partition, None), self._steps.pop(partition, None)]
        worker = self._workers.pop(partition, None)

        async def release() -> None:
            await cancelled(*(task for task in tasks if task is not None))
            if worker is not None:
                await worker.release()

        letting_go = asyncio.create_task(release())
        self._letting_go.add(letting_go)
        letting_go.add_done_callback(self._letting_go.discard)

    def _failed(self, partition: int, error: LogError) -> None:
        """Whatever it was: what is in memory may not be what is on the log."""
        self._let_go(partition)
        if isinstance(error, Fenced):
            log_.warning("partition taken by another aggregator", partition=partition)
            self._members.fenced(partition)
            return
        metrics.FAILURES.inc()
        self._failures[partition] = error
        delay = self._retry_s.get(partition, FIRST_RETRY_S)
        self._retry_s[partition] = min(2 * delay, MAX_RETRY_S)
        self._not_before[partition] = time.monotonic() + delay
        log_.error("partition failed", partition=partition, problem=str(error), retry_s=delay)

    async def _pass(self, wait_s: float) -> bool:
        """Read what is there in every partition that isn't still busy; whether there was any."""
        idle = [worker for p, worker in self._workers.items() if p not in self._steps]
        if self._steps and not idle:
            await asyncio.wait(self._steps.values(), timeout=wait_s)
            return True
        if not any(worker.more for worker in idle):
            if not await self._wait(idle, wait_s):
                return False
            await asyncio.sleep(GATHER_S)
        steps = {worker.partition: asyncio.create_task(worker.step()) for worker in idle}
        self._steps |= steps
        await asyncio.wait(steps.values(), timeout=SLOW_S)
        return True

    async def _wait(self, workers: Iterable[PartitionWorker], wait_s: float) -> bool:
        positions = {place: at for worker in workers for place, at in worker.positions().items()}
        try:
            return await self._log.wait(positions, wait_s)
        except LogError as error:
            log_.error("the log can't be read", problem=str(error))
            await asyncio.sleep(WAIT_S)
            return False

    async def _commit_all(self, deadline: float) -> None:
        """At a stop: the try is the last. What isn't committed the next owner makes again."""
        commits = [
            asyncio.create_task(worker.commit())
            for partition, worker in self._workers.items()
            if partition not in self._steps
        ]
        busy = set(self._steps.values())
        if commits:
            busy |= (await asyncio.wait(commits, timeout=max(deadline - time.monotonic(), 0.0)))[1]
        if busy:
            log_.warning("stopped before all was committed", partitions=len(busy))
        await cancelled(*commits)
        for commit in commits:
            error = None if commit.cancelled() else commit.exception()
            if error is not None and not isinstance(error, Fenced):
                raise error
        for failure in self._failures.values():
            raise failure

    async def _watch(self) -> None:
        """Keep the metrics of lag, and whether we are ready, up to date."""
        while True:
            workers = list(self._workers.values())
            try:
                complete = self._members.settled and self._members.share() == self._workers.keys()
                lags = await asyncio.gather(*(worker.lag() for worker in workers))
            except LogError:
                self.caught_up = False
            else:
                self.caught_up = complete and max(lags, default=0.0) < READY_LAG_S
            await asyncio.sleep(LAG_EVERY_S if self.caught_up else FIRST_LAG_EVERY_S)
