"""Who may ask, how often, and for what: keys, rates, plans and the free preview."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from starlette.requests import Request

from publish.api.errors import Refused
from publish.catalog import INTERVAL_NAMES
from publish.keys import Key, KeyFile, Plan

KEY_HEADER = "X-API-KEY"
SHORT_INTERVALS = frozenset({"1s", "15s", "30s"})
DATA_PLANS: frozenset[Plan] = frozenset({"standard", "prime", "prime+raw"})
PRIME_PLANS: frozenset[Plan] = frozenset({"prime", "prime+raw"})
RAW_PLANS: frozenset[Plan] = frozenset({"prime+raw"})


@dataclass(frozen=True, slots=True)
class Preview:
    """A month of one instrument that is free."""

    exchange: str
    symbol: str
    first: date
    last: date

    def __str__(self) -> str:
        return f"{self.exchange} {self.symbol} from {self.first} to {self.last}"


class Limiter:
    """Each key's tokens: `rate` a second, no more than a second's kept. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tokens: dict[str, tuple[float, float]] = {}

    def take(self, key: Key) -> float:
        """Take a token; 0, or seconds until there is one."""
        now = self._clock()
        tokens, at = self._tokens.get(key.id, (float(key.rate), now))
        tokens = min(float(key.rate), tokens + (now - at) * key.rate)
        if tokens < 1:
            self._tokens[key.id] = (tokens, now)
            return (1 - tokens) / key.rate
        self._tokens[key.id] = (tokens - 1, now)
        return 0.0


class Access:
    """Raises `Refused` where something may not be."""

    def __init__(self, keys: KeyFile, previews: Sequence[Preview], limiter: Limiter) -> None:
        self._keys = keys
        self._previews = previews
        self._limiter = limiter

    async def key(self, request: Request) -> Key:
        """The key that the request carries: 401 without a good one."""
        key = self._keys.authenticate(request.headers.get(KEY_HEADER, ""))
        if key is None:
            raise Refused(
                401,
                f"{KEY_HEADER} should be a valid API key",
                code="unauthorized",
                headers={"WWW-Authenticate": KEY_HEADER},
            )
        return key

    def limit(self, key: Key) -> None:
        """429 if the key asks too often."""
        wait = self._limiter.take(key)
        if wait:
            raise Refused(
                429,
                f"More than {key.rate} requests a second",
                code="rate_limited",
                headers={"Retry-After": str(math.ceil(wait))},
            )

    def bars(self, key: Key, interval: str) -> None:
        if key.plan not in DATA_PLANS:
            raise _not_in_plan(key, "data outside the preview", "data_not_in_plan")
        if interval not in intervals_of(key.plan):
            raise _not_in_plan(key, f"interval {interval}", "interval_not_in_plan")

    def raw(self, key: Key) -> None:
        if key.plan not in RAW_PLANS:
            raise _not_in_plan(key, "raw data", "raw_not_in_plan")

    def preview(self, exchange: str, symbol: str, first: date, last: date) -> None:
        """403 unless all of these days are free."""
        slices = self._of(exchange, symbol)
        if not any(free.first <= first and last <= free.last for free in slices):
            raise self._no_preview()

    def preview_days(self, exchange: str, symbol: str) -> Preview:
        """The days of an instrument that are free; the first, of several."""
        slices = self._of(exchange, symbol)
        if not slices:
            raise self._no_preview()
        return slices[0]

    def _of(self, exchange: str, symbol: str) -> list[Preview]:
        return [p for p in self._previews if (p.exchange, p.symbol) == (exchange, symbol)]

    def _no_preview(self) -> Refused:
        free = [str(preview) for preview in self._previews] or ["nothing is"]
        return Refused(403, "Not free: see what is", code="not_in_preview", details=free)


def intervals_of(plan: Plan) -> list[str]:
    """What a plan that has data has of it."""
    prime = plan in PRIME_PLANS
    return [name for name in INTERVAL_NAMES if prime or name not in SHORT_INTERVALS]


def _not_in_plan(key: Key, what: str, code: str) -> Refused:
    return Refused(403, f"The plan {key.plan} has no {what}", code=code)
