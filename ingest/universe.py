"""The instruments to collect, from the venues' own lists over REST (EXCHANGES §1.4, §2.4, §3.3).

A list costs little of the venues' limits: weight 1 of Binance's 2400 a minute, one of OKX's 20
requests in 2 s, weight 20 of Hyperliquid's 1200 a minute for each dex.
"""

import asyncio
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import orjson
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from ingest import rest
from ingest.errors import UserError
from ingest.instruments import BINANCE, HYPERLIQUID, OKX, Instrument, Listed, listed_from
from ingest.selection import dexes_of, select
from ingest.venues import venue

ANSWER_S = 30.0
"""For one request as a whole: a server that trickles must not hold a refresh for ever."""
ATTEMPTS = 4


class UniverseError(UserError):
    """A venue's instruments can't be had, or some that were asked for are not among them.

    `retry_s`: how long the venue wants to be left alone, 0 if it didn't say.
    """

    def __init__(self, message: str, retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class InstrumentList:
    """What a venue listed: all perpetuals of `dexes` with their status, as of `fetched_ns`.

    `problems` names the entries that could not be read.
    """

    exchange: str
    url: str
    dexes: tuple[str, ...]
    fetched_ns: int
    listed: tuple[Listed, ...]
    problems: tuple[str, ...] = ()


def rest_base(exchange: str, rest_url: str | None) -> str:
    """The REST base without a slash at its end; None: the venue's own."""
    return (rest_url or venue(exchange).rest_url).rstrip("/")


async def fetch_list(
    exchange: str,
    rest_url: str | None,
    dexes: Sequence[str] = ("",),
    *,
    attempts: int | None = None,
) -> InstrumentList:
    """What the venue lists now. Raises `UniverseError`: can't be reached, or no such list."""
    base = rest_base(exchange, rest_url)
    listed: list[Listed] = []
    problems: list[str] = []
    async with rest.client(base) as client:
        for request, dex in _requests(client, exchange, dexes):
            body = await _body(client, request, exchange, attempts or ATTEMPTS)
            if dex and body is None:
                problems.append(f"{exchange}: no dex {dex!r}, it is left out")
                continue
            payload = {"dex": dex, "meta": body} if dex else body
            try:
                more, wrong = listed_from(exchange, payload)
            except ValueError as error:
                raise UniverseError(f"{request.url}: not the instruments: {error}") from error
            listed += more
            problems += wrong
    return InstrumentList(
        exchange, base, tuple(dexes), time.time_ns(), tuple(listed), tuple(problems)
    )


async def fetch_instruments(
    exchange: str, rest_url: str | None, patterns: Sequence[str], dexes: Sequence[str] = ()
) -> list[Instrument]:
    """The trading instruments that match the patterns, in their order (see `ingest.selection`).

    Raises `UniverseError`: the venue can't be reached or answers something else, or some patterns
    match nothing (all of them are named).
    """
    found = await fetch_list(exchange, rest_url, dexes_of(exchange, patterns, dexes))
    selection = select(found.listed, patterns)
    if selection.unmatched:
        # An entry that could not be read may be the one that is missed.
        why = "".join(f"; {problem}" for problem in found.problems[:3])
        named = ", ".join(selection.unmatched)
        raise UniverseError(f"{exchange} at {found.url} does not list {named}{why}")
    return list(selection.instruments)


def _requests(
    client: httpx.AsyncClient, exchange: str, dexes: Sequence[str]
) -> list[tuple[httpx.Request, str]]:
    """(request, dex) for every list that is needed; dex is "" but for Hyperliquid's HIP-3."""
    if exchange == BINANCE:
        return [(client.build_request("GET", "/fapi/v1/exchangeInfo"), "")]
    if exchange == OKX:
        swaps = {"instType": "SWAP"}
        return [(client.build_request("GET", "/api/v5/public/instruments", params=swaps), "")]
    assert exchange == HYPERLIQUID
    return [
        (
            client.build_request(
                "POST", "/info", json={"type": "meta", **({"dex": d} if d else {})}
            ),
            d,
        )
        for d in dexes
    ]


async def _body(
    client: httpx.AsyncClient, request: httpx.Request, exchange: str, tries: int
) -> object:
    """The decoded answer; tried again a few times when the network or the venue fails."""
    attempts = AsyncRetrying(
        retry=retry_if_exception(_is_transient),
        stop=stop_after_attempt(tries),
        wait=wait_exponential(multiplier=0.3, max=5.0) + wait_random(0.0, 0.3),
        reraise=True,
    )
    try:
        async for attempt in attempts:
            with attempt:
                async with asyncio.timeout(ANSWER_S):
                    response = await client.send(request)
                response.raise_for_status()
        return orjson.loads(response.content)
    except httpx.HTTPStatusError as error:
        answer = f"{error.response.status_code}: {error.response.text[:200]}"
        raise UniverseError(
            f"{exchange}: {request.url} answered {answer}", rest.retry_after(error.response)
        ) from error
    except httpx.TimeoutException as error:
        raise UniverseError(
            f"{exchange}: no answer from {request.url} in {rest.TIMEOUT_S:g} s"
        ) from error
    except TimeoutError as error:
        raise UniverseError(
            f"{exchange}: no answer from {request.url} in {ANSWER_S:g} s"
        ) from error
    except httpx.HTTPError as error:
        reason = why(error)
        raise UniverseError(f"{exchange}: can't reach {request.url}: {reason}") from error
    except ValueError as error:
        raise UniverseError(f"{exchange}: {request.url} did not answer JSON: {error}") from error


def _is_transient(error: BaseException) -> bool:
    """Worth another attempt in seconds: not where the venue says to ask less (429, 418)."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError | TimeoutError)


def why(error: BaseException) -> str:
    """The system's words where there are any: httpx says "All connection attempts failed"."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[0]
        if isinstance(inner, ssl.SSLError):
            return str(inner)
        if isinstance(inner, OSError) and inner.errno is not None:
            # Of a refused connection asyncio's own text leaves out that it was refused.
            return os.strerror(inner.errno) if inner.errno > 0 else str(inner.strerror)
        inner = inner.__cause__ or inner.__context__
    return str(error) or type(error).__name__
