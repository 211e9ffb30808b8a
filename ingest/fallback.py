"""Binance: when @trade is silent while quotes flow, @aggTrade takes over, and hands back (§1.1).

@trade is undocumented and has been silenced before; a silent stream is still acknowledged. So the
ticks themselves are watched. Over a switch nothing is counted twice: ids tell what an aggregate
and single trades have in common (`ingest.continuity`, `aggregate.seen`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

import structlog

from ingest import metrics
from ingest.feed import Feed
from ingest.venues import Endpoint

FIRST_S = 30.0
"""Silence that counts before any trade has come."""
FLOOR_S, CEILING_S = 5.0, 600.0
USUAL_PAUSES = 20.0
"""Silence that counts, in usual pauses between trades, within floor and ceiling."""
QUOTES = 20
"""Quotes at least that flow meanwhile: else it is the connection, or the market, that is quiet."""
STEADY_S = 10.0
"""How long single trades must flow again before the aggregates are left."""
_WEIGHT = 0.05  # of a new pause in the usual one

Switch = Literal["aggTrade", "trade"]

_log = structlog.get_logger(__name__)


class Silence:
    """Decides when to switch, from what has arrived. Pure: times are given, in seconds."""

    def __init__(self, now: float) -> None:
        self.aggregates = False
        """Whether the aggregates have been called in."""
        self._trade_at = now
        self._usual: float | None = None
        self._quotes = 0
        self._back_since: float | None = None

    @property
    def limit(self) -> float:
        """Seconds without a trade that are too long."""
        if self._usual is None:
            return FIRST_S
        return min(max(self._usual * USUAL_PAUSES, FLOOR_S), CEILING_S)

    def saw(self, trades: int, quotes: int, now: float) -> Switch | None:
        """So many single trades and quotes have come since the last call: what to switch to now."""
        self._quotes += quotes
        silent = now - self._trade_at
        if not trades:
            if silent > self.limit:
                self._back_since = None
            if self.aggregates or silent <= self.limit or self._quotes < QUOTES:
                return None
            self.aggregates = True
            return "aggTrade"
        if not self.aggregates:
            usual = silent if self._usual is None else self._usual
            self._usual = usual + _WEIGHT * (silent - usual)
        self._trade_at, self._quotes = now, 0
        if not self.aggregates:
            return None
        if self._back_since is None:
            self._back_since = now
        if now - self._back_since < STEADY_S:
            return None
        self.aggregates, self._back_since = False, None
        return "trade"


class Fallback:
    """Says which `feeds` of `endpoints` (@aggTrade) should run: all while single trades are silent.

    `make` makes a feed; `switched(to, reason)` is told before it happens.
    """

    def __init__(
        self,
        exchange: str,
        endpoints: Sequence[Endpoint],
        make: Callable[[Endpoint], Feed],
        switched: Callable[[Switch, str], None],
    ) -> None:
        self.feeds: list[Feed] = []
        self._exchange = exchange
        self.endpoints = endpoints
        self._make = make
        self._switched = switched
        self._silence = Silence(asyncio.get_running_loop().time())

    def saw(self, trades: int, quotes: int) -> bool:
        """So many single trades and quotes have come since the last call: whether to switch."""
        limit = self._silence.limit
        to = self._silence.saw(trades, quotes, asyncio.get_running_loop().time())
        if to is None:
            return False
        reason = f"@trade silent for {limit:.1f} s" if to == "aggTrade" else "@trade flows again"
        metrics.FALLBACKS.labels(self._exchange, to).inc()
        _log.warning("trade feed switched", exchange=self._exchange, to=to, reason=reason)
        self._switched(to, reason)
        self.feeds = [self._make(e) for e in self.endpoints] if to == "aggTrade" else []
        return True
