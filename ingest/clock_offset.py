"""How far the local clock is from a venue's, by its REST time (EXCHANGES §5.20)."""

import asyncio
import time
from typing import Any

import httpx
import orjson

from ingest import rest
from ingest.instruments import BINANCE, OKX

MAX_OFFSET_MS = 1_000.0
"""A clock this far off puts ticks into other arrival seconds than a right one would."""
ASKS = 4
NO_TIME = (ValueError, KeyError, TypeError, IndexError)
"""What reading a body that holds no time raises."""


async def venue_offset(
    exchange: str, rest_url: str, timeout_s: float
) -> tuple[float, float] | None:
    """(how far the local clock is ahead, ms; how far that may be off, ms).

    Of a few answers the fastest counts; half its round trip is the uncertainty. None: the venue
    has no time endpoint (Hyperliquid) or it does not answer as known.
    """
    path = {BINANCE: "/fapi/v1/time", OKX: "/api/v5/public/time"}.get(exchange)
    if path is None:
        return None
    found: list[tuple[float, float]] = []
    try:
        async with (
            asyncio.timeout(timeout_s),
            rest.client(rest_url, timeout_s) as client,
        ):
            for _ in range(ASKS):
                began = time.monotonic_ns()
                response = await client.get(path)
                half = (time.monotonic_ns() - began) / 2
                venue_ms = _milliseconds(exchange, orjson.loads(response.content))
                found.append((half / 1e6, (time.time_ns() - half) / 1e6 - venue_ms))
    except (httpx.HTTPError, TimeoutError, *NO_TIME):
        pass  # what was answered before counts
    if not found:
        return None
    within, ahead = min(found)
    return ahead, within


def _milliseconds(exchange: str, body: Any) -> float:
    return float(body["serverTime"] if exchange == BINANCE else body["data"][0]["ts"])
