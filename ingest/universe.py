"""The instruments to collect, from the venues' own lists over REST (EXCHANGES §1.4, §2.4, §3.3)."""

from collections.abc import Sequence
from difflib import get_close_matches

import httpx
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from ingest.errors import UserError
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument, instruments_from
from ingest.venues import venue

USER_AGENT = "perpflow"
"""OKX answers 403 to requests without one (EXCHANGES §2.3)."""
TIMEOUT_S = 10.0
ATTEMPTS = 4


class UniverseError(UserError):
    """A venue's instruments can't be had, or some that were asked for are not among them."""


async def fetch_instruments(
    exchange: str, rest_url: str | None, natives: Sequence[str]
) -> list[Instrument]:
    """The instruments of those native ids, in their order; `rest_url` None: the venue's own.

    Raises `UniverseError`: the venue can't be reached or answers something else, or it does not
    list some of `natives` (all of them are named).
    """
    base = (rest_url or venue(exchange).rest_url).rstrip("/")
    headers = {"User-Agent": USER_AGENT}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=TIMEOUT_S) as client:
        listed: dict[str, Instrument] = {}
        for request, dex in _requests(client, exchange, natives):
            body = await _body(client, request, exchange)
            payload = {"dex": dex, "meta": body} if dex else body
            try:
                listed |= {i.native: i for i in instruments_from(exchange, payload)}
            except ValueError as error:
                raise UniverseError(f"{request.url}: not the instruments: {error}") from error
    missing = [native for native in natives if native not in listed]
    if missing:
        named = ", ".join(_with_guess(native, listed) for native in missing)
        raise UniverseError(f"{exchange} at {base} does not list {named}")
    return [listed[native] for native in natives]


def _requests(
    client: httpx.AsyncClient, exchange: str, natives: Sequence[str]
) -> list[tuple[httpx.Request, str]]:
    """(request, dex) for every list that is needed; dex is "" but for Hyperliquid's HIP-3."""
    if exchange == BINANCE:
        return [(client.build_request("GET", "/fapi/v1/exchangeInfo"), "")]
    if exchange == OKX:
        swaps = {"instType": "SWAP"}
        return [(client.build_request("GET", "/api/v5/public/instruments", params=swaps), "")]
    assert exchange == HYPERLIQUID
    dexes = sorted({native.partition(":")[0] if ":" in native else "" for native in natives})
    return [
        (
            client.build_request(
                "POST", "/info", json={"type": "meta", **({"dex": d} if d else {})}
            ),
            d,
        )
        for d in dexes
    ]


async def _body(client: httpx.AsyncClient, request: httpx.Request, exchange: str) -> object:
    """The decoded answer; tried again a few times when the network or the venue fails."""
    attempts = AsyncRetrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=0.3, max=5.0) + wait_random(0.0, 0.3),
        reraise=True,
    )
    try:
        async for attempt in attempts:
            with attempt:
                response = await client.send(request)
                response.raise_for_status()
        return response.json()
    except httpx.HTTPStatusError as error:
        answer = f"{error.response.status_code}: {error.response.text[:200]}"
        raise UniverseError(f"{exchange}: {request.url} answered {answer}") from error
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise UniverseError(f"{exchange}: can't reach {request.url}: {reason}") from error
    except ValueError as error:
        raise UniverseError(f"{exchange}: {request.url} did not answer JSON: {error}") from error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, httpx.TransportError)


def _with_guess(native: str, listed: dict[str, Instrument]) -> str:
    close = get_close_matches(native, listed, n=1, cutoff=0.7)
    return f"{native!r} (did you mean {close[0]!r}?)" if close else repr(native)
