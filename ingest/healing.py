"""Gaps filled from the venue's REST history, one request at a time within its rate limits."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace

import httpx
import orjson
import structlog

from ingest import rest
from ingest.gaps import Gap
from ingest.history import BadAnswer, Print, Request, Walk, walk
from ingest.instruments import BINANCE, HYPERLIQUID
from ingest.records import PARTLY, UNHEALABLE, WHOLE, GapRecord
from ingest.session import gap_record

MAX_MISSING = 500_000
"""Longer gaps are for the venues' daily archives: over REST they would take all of the budget for
a quarter of an hour and more."""
KEY_WANTED = (400, 401, 403)
"""Statuses by which Binance asks for an API key, as it may for historicalTrades (§7)."""
RETRIES = 6
FIRST_RETRY_S = 0.5

_log = structlog.get_logger(__name__)


class _Refused(Exception):
    """The venue will not answer this: why, in words for the gap's record."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


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
        deliver: Callable[[str, list[Print]], None],
        closed: Callable[[GapRecord], None],
        processes: int = 1,
    ) -> None:
        self._exchange = exchange
        self._base = rest_url.rstrip("/")
        self._natives = natives
        self._deliver = deliver
        self._closed = closed
        self._budget = rest.budget(exchange, processes)
        self._gaps: asyncio.PriorityQueue[tuple[int, int, Gap]] = asyncio.PriorityQueue()
        self._added = 0
        self._trades = True  # Binance's single trades are there for us
        self.waiting = 0

    def add(self, gap: Gap) -> None:
        self.waiting += 1
        self._added += 1
        self._gaps.put_nowait((gap.missing or 0, self._added, gap))

    async def run(self) -> None:
        async with rest.client(self._base) as client:
            while True:
                _, _, gap = await self._gaps.get()
                record = await self._heal(client, gap)
                self.waiting -= 1
                self._closed(record)

    async def _heal(self, client: httpx.AsyncClient, gap: Gap) -> GapRecord:
        healed = covered = 0
        try:
            if (gap.missing or 0) > MAX_MISSING:
                raise _Refused(f"more than {MAX_MISSING} trades")
            if gap.symbol not in self._natives:  # an earlier session's
                raise _Refused("the symbol is not collected any more")
            if gap.first_missing is None and self._exchange != HYPERLIQUID:
                raise _Refused("no trade before it is known")
            steps = walk(self._exchange, self._natives[gap.symbol], gap, trades=self._trades)
            async for prints in self._pages(client, steps):
                healed += len(prints)
                covered += sum(p.count for p in prints)
                self._deliver(gap.symbol, prints)
            why = steps.why()
        except _Refused as refused:
            if refused.status in KEY_WANTED and self._exchange == BINANCE and self._trades:
                self._trades = False
                _log.warning("history by aggregates from now on", reason=str(refused))
                return await self._heal(client, gap)
            why = str(refused)
        state = WHOLE if not why else PARTLY if healed else UNHEALABLE
        missing = None if gap.missing is None else max(gap.missing - covered, 0)
        level = _log.info if not why else _log.warning
        level("gap " + state, exchange=self._exchange, symbol=gap.symbol, healed=healed, why=why)
        found = gap_record(self._exchange, gap)
        return replace(found, state=state, healed=healed, missing=missing if why else 0, why=why)

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
                if waits > RETRIES:
                    return
                await asyncio.sleep(FIRST_RETRY_S * waits)

    async def _answer(self, client: httpx.AsyncClient, request: Request) -> object:
        """The decoded body of the answer; asked again when the venue or the network is not up to
        it, after as long as the venue says."""
        problem = ""
        for attempt in range(RETRIES):
            try:
                response = await rest.ask(client, self._exchange, self._budget, request)
            except httpx.HTTPError as error:
                problem = f"can't reach {self._base}: {error or type(error).__name__}"
                await asyncio.sleep(FIRST_RETRY_S * 2**attempt)
                continue
            status = response.status_code
            if status == 200:
                with suppress(ValueError):
                    return orjson.loads(response.content)
                raise _Refused("bad answer: not JSON")
            problem = f"{request.path} answered {status}: {response.text[:100]}"
            if delay := rest.retry_after(response):
                _log.warning("asked to wait", exchange=self._exchange, status=status, wait_s=delay)
                await asyncio.sleep(delay)
            elif status >= 500:
                await asyncio.sleep(FIRST_RETRY_S * 2**attempt)
            else:
                raise _Refused(problem, status)
        raise _Refused(problem)
