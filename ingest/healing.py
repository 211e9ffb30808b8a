"""Gaps filled from the venue's REST history, one request at a time within its rate limits.

    found ──▶ the smallest first ──answered──▶ closed: healed, partly, unhealable
                     ▲              └──not──▶ back-off
                     └──────────────────────────┘

A gap stays open while the venue doesn't answer and its history still reaches back to it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

import httpx
import orjson
import structlog

from ingest import rest
from ingest.clock import ArrivalClock
from ingest.gaps import Gap, gap_record
from ingest.history import MAX_MISSING, TOO_MANY, BadAnswer, Print, Request, Walk, walk
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.records import PARTLY, UNHEALABLE, WHOLE, GapRecord
from ingest.tasks import cancelled
from ingest.trouble import Trouble

MAX_WAITING = 10_000
"""Gaps that wait at most; of more the longest are for the archives too."""
DAY_NS = 86_400 * 10**9
HISTORY_NS = {BINANCE: 30 * DAY_NS, OKX: 90 * DAY_NS, HYPERLIQUID: DAY_NS}
"""How far back a venue's history may reach (EXCHANGES §1.4, §2.4; Hyperliquid's is a short list,
a day's at the most): who did not answer for so long need not be asked any more."""
KEY_WANTED = (400, 401, 403)
"""Statuses by which Binance asks for an API key, as it may for historicalTrades (§7)."""
NOT_WELCOME = (403, 451)
"""Statuses that are about our address, not about what is asked: that may change."""
LISTED_LATER = 6
"""How often a list that is behind the stream is asked for again."""
FIRST_RETRY_S, MAX_RETRY_S = 0.5, 60.0

_log = structlog.get_logger(__name__)


class _Refused(Exception):
    """The venue will not answer this: why, in words for the gap's record."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class _Unanswered(Exception):
    """The venue or the network is not up to it now; `retry_s` as the venue says, or 0."""

    def __init__(self, why: str, retry_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_s = retry_s


@dataclass(slots=True)
class _Job:
    """A gap and how far its healing has come: trades `healed`, and ids they `covered`."""

    gap: Gap
    number: int
    tries: int = 0
    healed: int = 0
    covered: int = 0
    steps: Walk | None = None
    by_trades: bool = False

    def __lt__(self, other: "_Job") -> bool:
        """The smallest first, and those that were not answered behind all others."""
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, int]:
        return self.tries, self.gap.missing or 0, self.number


class Healer:
    """Fills the gaps it is given, the smallest first, until its task is cancelled.

    `deliver(symbol, prints)` gets each page of trades as it arrives, `closed(record)` how the
    healing of each gap ended. `natives` are the venue's names of the symbols; `processes` share
    the address and its limits. `waiting` is how many gaps are not closed yet.
    """

    def __init__(
        self,
        exchange: str,
        rest_url: str,
        natives: Mapping[str, str],
        clock: ArrivalClock,
        deliver: Callable[[str, list[Print]], None],
        closed: Callable[[GapRecord], None],
        processes: int = 1,
    ) -> None:
        self._exchange = exchange
        self._base = rest_url.rstrip("/")
        self._natives = natives
        self._clock = clock
        self._deliver = deliver
        self._closed = closed
        self._budget = rest.budget(exchange, processes)
        self._jobs: list[_Job] = []
        self._some = asyncio.Event()
        self._left_out: asyncio.Queue[_Job] = asyncio.Queue()
        self._added = 0
        self._trades = True  # Binance's single trades are there for us
        self._trouble = Trouble(
            _log.bind(exchange=exchange), "no history, trying again", "history is there again"
        )
        self.waiting = 0

    def add(self, gap: Gap) -> None:
        self.waiting += 1
        self._added += 1
        self._put(_Job(gap, self._added))
        if len(self._jobs) > MAX_WAITING:
            longest = max(self._jobs)
            self._jobs.remove(longest)
            heapify(self._jobs)
            # Not closed here: who adds has not yet recorded that it is open.
            self._left_out.put_nowait(longest)

    def _put(self, job: _Job) -> None:
        heappush(self._jobs, job)
        self._some.set()

    async def run(self) -> None:
        leaving_out = asyncio.create_task(self._leave_out())
        try:
            async with rest.client(self._base) as client:
                while True:
                    await self._heal_all(client)
                    self._some.clear()
                    await self._some.wait()
        finally:
            await cancelled(leaving_out)

    async def _leave_out(self) -> None:
        while True:
            self._close(await self._left_out.get(), f"more than {MAX_WAITING} gaps wait")

    async def _heal_all(self, client: httpx.AsyncClient) -> None:
        """Until no gap is left, however long the venue doesn't answer."""
        delay = FIRST_RETRY_S
        while self._jobs:
            job = heappop(self._jobs)
            try:
                why = await self._heal(client, job)
            except _Unanswered as unanswered:
                self._trouble.failed(str(unanswered))
                self._again(job, str(unanswered))
                await asyncio.sleep(unanswered.retry_s or delay * random.uniform(0.75, 1.0))
                delay = min(2 * delay, MAX_RETRY_S)
            else:
                self._trouble.over()
                delay = FIRST_RETRY_S
                self._close(job, why)

    def _again(self, job: _Job, problem: str) -> None:
        """It waits for when the venue answers, as long as that can be of use."""
        if self._clock.now() - job.gap.local_ts > HISTORY_NS[self._exchange]:
            self._close(job, f"older than the venue's history: {problem}")
        else:
            job.tries += 1
            self._put(job)

    def _close(self, job: _Job, why: str) -> None:
        gap = job.gap
        self.waiting -= 1
        state = WHOLE if not why else PARTLY if job.healed else UNHEALABLE
        missing = None if gap.missing is None else max(gap.missing - job.covered, 0)
        level = _log.info if not why else _log.warning
        level(
            "gap " + state, exchange=self._exchange, symbol=gap.symbol, healed=job.healed, why=why
        )
        found = gap_record(self._exchange, gap)
        missing = missing if why else 0
        self._closed(replace(found, state=state, healed=job.healed, missing=missing, why=why))

    async def _heal(self, client: httpx.AsyncClient, job: _Job) -> str:
        """Go on with it to its end: why trades are missing still, "" if none are."""
        if why := self._hopeless(job.gap):
            return why
        if job.steps is None:
            native = self._natives[job.gap.symbol]
            job.by_trades = self._trades
            job.steps = walk(self._exchange, native, job.gap, trades=self._trades)
        try:
            async for prints in self._pages(client, job.steps):
                job.healed += len(prints)
                job.covered += sum(p.count for p in prints)
                self._deliver(job.gap.symbol, prints)
        except _Refused as refused:
            if refused.status in KEY_WANTED and self._exchange == BINANCE and job.by_trades:
                self._trades = False
                _log.warning("history by aggregates from now on", reason=str(refused))
                job.steps, job.covered = None, 0
                return await self._heal(client, job)
            if refused.status in NOT_WELCOME:
                raise _Unanswered(str(refused)) from refused
            return str(refused)
        return job.steps.why()

    def _hopeless(self, gap: Gap) -> str:
        if (gap.missing or 0) > MAX_MISSING:
            return TOO_MANY
        if gap.symbol not in self._natives:  # an earlier session's
            return "the symbol is not collected any more"
        if gap.first_missing is None and self._exchange != HYPERLIQUID:
            return "no trade before it is known"
        return ""

    async def _pages(self, client: httpx.AsyncClient, steps: Walk) -> AsyncIterator[list[Print]]:
        """The pages of a walk. A list that is behind the stream is asked again a few times."""
        waits = 0
        while (request := steps.next()) is not None:
            body = await self._answer(client, request)
            try:
                prints = steps.take(body)
            except BadAnswer as error:
                raise _Refused(f"bad answer: {error}") from error
            if prints:
                waits = 0
                yield prints
            if steps.behind:
                waits += 1
                if waits > LISTED_LATER:
                    return
                await asyncio.sleep(FIRST_RETRY_S * waits)

    async def _answer(self, client: httpx.AsyncClient, request: Request) -> object:
        """The decoded body of the answer."""
        try:
            response = await rest.ask(client, self._exchange, self._budget, request)
        except httpx.HTTPError as error:
            problem = f"can't reach {self._base}: {error or type(error).__name__}"
            raise _Unanswered(problem) from error
        status = response.status_code
        if status == 200:
            with suppress(ValueError):
                return orjson.loads(response.content)
            raise _Refused("bad answer: not JSON")
        problem = f"{request.path} answered {status}: {response.text[:100]}"
        retry_s = rest.retry_after(response)
        if status >= 500 or retry_s:
            raise _Unanswered(problem, retry_s)
        raise _Refused(problem, status)
