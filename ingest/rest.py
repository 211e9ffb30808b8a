"""Requests to the venues' REST APIs: one way to ask, within their limits, and counted."""

import asyncio

import httpx

from ingest import metrics
from ingest.history import Request
from ingest.instruments import BINANCE, HYPERLIQUID, OKX
from ingest.limits import PerLoop

USER_AGENT = "perpflow"
"""OKX answers 403 to requests without one (EXCHANGES §2.3)."""
TIMEOUT_S = 10.0
"""For each of connecting, sending and the next piece of the answer."""
BUDGETS = {BINANCE: (20.0, 400.0), OKX: (7.0, 5.0), HYPERLIQUID: (15.0, 200.0)}
"""Weight a second, and at once. Venue limits: 2400 a minute, 20 requests in 2 s, 1200 a minute;
what is left is for instrument lists and other collectors of the same address."""
DEFAULT_RETRY_AFTER_S = {429: 10.0, 418: 120.0}
"""When the venue doesn't say: 418 is a ban, of two minutes at least (EXCHANGES §1.4)."""


class Budget:
    """A token bucket: `rate` of weight a second, `burst` of it at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._left = burst
        self._at: float | None = None

    async def take(self, weight: float) -> None:
        """Wait until that much may be spent."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        self._left -= weight
        if self._left < 0:
            await asyncio.sleep(-self._left / self._rate)


_SHARED: PerLoop[Budget] = PerLoop()


def budget(exchange: str, processes: int = 1) -> Budget:
    """The one that all collectors of a venue on the running loop share: a part of the address's."""
    rate, burst = BUDGETS[exchange]
    return _SHARED.get(exchange, lambda: Budget(rate / processes, burst / processes))


def client(base_url: str, timeout_s: float | None = None) -> httpx.AsyncClient:
    """A client of one venue; `timeout_s` as `TIMEOUT_S`."""
    return httpx.AsyncClient(
        base_url=base_url, headers={"User-Agent": USER_AGENT}, timeout=timeout_s or TIMEOUT_S
    )


async def ask(
    venue: httpx.AsyncClient, exchange: str, spending: Budget, request: Request
) -> httpx.Response:
    """What the venue answers, whatever the status. Raises `httpx.HTTPError` if it doesn't."""
    await spending.take(request.weight)
    metrics.REST_WEIGHT.labels(exchange).inc(request.weight)
    try:
        response = await venue.request(
            request.method, request.path, params=request.params, json=request.body
        )
    except httpx.HTTPError:
        metrics.REST_REQUESTS.labels(exchange, "failed").inc()
        raise
    metrics.REST_REQUESTS.labels(exchange, str(response.status_code)).inc()
    return response


def retry_after(response: httpx.Response) -> float:
    """Seconds for which the venue wants to be left alone; 0: it doesn't say so.

    The venues send seconds (RFC 9110 §10.2.3 also allows a date).
    """
    default = DEFAULT_RETRY_AFTER_S.get(response.status_code)
    if default is None:
        return 0.0
    try:
        return max(float(response.headers["Retry-After"]), 0.0) or default
    except (KeyError, ValueError):
        return default
