"""A symbol that is silent while others flow: is its market quiet, or its stream dead? Asks REST.

    overdue (`SymbolWatch`) ──▶ the venue's last trade ──newer──▶ subscribed anew, told, recorded
                                                  └──not newer──▶ quiet: it may take longer now

If that didn't help the next time it is overdue, its connection is replaced by another.

One symbol every `CHECK_S`, the longest overdue first, out of the same budget as healing: so it
costs a venue's limits next to nothing however many symbols are quiet. What was missed while a
stream was dead shows as a gap when the next trade comes, and is healed like any other.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

import httpx
import structlog

from ingest import metrics, rest
from ingest.batches import Universe
from ingest.clock import ArrivalClock
from ingest.history import BadAnswer, newest_print, newest_request
from ingest.rest import Budget
from ingest.symbol_watch import SymbolWatch

CHECK_S = 5.0
SETTLE_S = 2.0
"""REST may be ahead of the stream by so much."""
NEWER_NS = 1_000_000_000
"""A last trade that is newer than what was seen by more is missing. (An aggregate has the time of
its first fill, the venue's list that of each.)"""
_NS_PER_MS = 1_000_000

_log = structlog.get_logger(__name__)


class SymbolChecks:
    """Looks into one overdue symbol after the other, until its task is cancelled.

    `universe` gives the instruments now, `standing` the native ids whose subscriptions all stand
    and are read; `silent(native, kind, again)` is told of those whose "trades" or "quotes" are
    dead, and whether they were before and have not come back.
    """

    def __init__(
        self,
        exchange: str,
        rest_url: str,
        budget: Budget,
        clock: ArrivalClock,
        watch: SymbolWatch,
        universe: Callable[[], Universe],
        standing: Callable[[], Collection[str]],
        silent: Callable[[str, str, bool], None],
    ) -> None:
        self._exchange = exchange
        self._base = rest_url.rstrip("/")
        self._budget = budget
        self._clock = clock
        self._watch = watch
        self._universe = universe
        self._standing = standing
        self._silent = silent
        self._dead: set[tuple[int, str]] = set()

    async def run(self) -> None:
        async with rest.client(self._base) as client:
            while True:
                await asyncio.sleep(CHECK_S)
                now = self._clock.now()
                self._dead -= {(code, kind) for code, kind in self._dead
                               if self._watch.alive(code, kind)}  # fmt: skip
                for code in self._stand(self._watch.unquoted(now)):
                    self._found(code, "quotes")
                suspects = self._stand(self._watch.suspects(now))
                if suspects:
                    await self._check(client, suspects[0])

    def _native(self, code: int) -> str:
        return self._universe().instruments[code].native

    def _stand(self, codes: Sequence[int]) -> list[int]:
        standing = self._standing() if codes else ()
        return [code for code in codes if self._native(code) in standing]

    async def _check(self, client: httpx.AsyncClient, code: int) -> None:
        newest = await self._newest_ms(client, self._native(code))
        await asyncio.sleep(SETTLE_S)
        seen = self._watch.newest(code)
        dead = newest is not None and newest * _NS_PER_MS > seen + NEWER_NS
        if dead and self._stand([code]):
            self._found(code, "trades")
        else:
            self._watch.give_up(code, self._clock.now())

    def _found(self, code: int, kind: str) -> None:
        native = self._native(code)
        again = (code, kind) in self._dead
        self._dead.add((code, kind))
        metrics.SILENT.labels(self._exchange, f"symbol {kind}").inc()
        _log.warning(
            "symbol silent, subscribing it anew",
            exchange=self._exchange,
            symbol=native,
            kind=kind,
            connection="another" if again else "the same",
        )
        self._watch.give_up(code, self._clock.now())
        self._silent(native, kind, again)

    async def _newest_ms(self, client: httpx.AsyncClient, native: str) -> int | None:
        """Exchange time of the venue's last trade; None if it doesn't say."""
        request = newest_request(self._exchange, native)
        try:
            response = await rest.ask(client, self._exchange, self._budget, request)
            response.raise_for_status()
            found = newest_print(self._exchange, response.json())
        except (httpx.HTTPError, BadAnswer, ValueError):
            return None
        return None if found is None else found.exchange_ms
