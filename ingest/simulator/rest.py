"""The venues' REST side: instrument lists, history from the ledgers, and refusals of it."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import orjson

from ingest.simulator.connection import Answer
from ingest.simulator.data_faults import DataFaults
from ingest.simulator.listings import (
    BINANCE,
    HYPERLIQUID,
    OKX,
    exchange_info,
    hyperliquid_info,
    okx_instruments,
)
from ingest.simulator.venue_feed import VenueFeed

_NO_JSON = 422, b'"Failed to deserialize the JSON body into the target type"'


@dataclass(frozen=True, slots=True)
class Request:
    """`target` is path and query, `agent` the User-Agent."""

    method: str
    target: str
    body: bytes
    agent: str


def answer(
    venues: Mapping[str, VenueFeed], faults: DataFaults | None, now: int, request: Request
) -> Answer:
    """What the venues that are served answer at market time `now` (ns)."""
    parts = urlsplit(request.target)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if parts.path == "/info" and b'"recentTrades"' in request.body:
        with suppress(orjson.JSONDecodeError):
            query = {name: str(value) for name, value in orjson.loads(request.body).items()}
    history = _history(venues, faults, parts.path, query)
    if history is not None:
        return history
    feeds = {name: venue.listings(now) for name, venue in venues.items()}
    reply: object | None = None
    if parts.path == "/fapi/v1/exchangeInfo" and BINANCE in feeds:
        reply = exchange_info(feeds[BINANCE])
    elif parts.path == "/fapi/v1/time" and BINANCE in feeds:
        reply = {"serverTime": now // 1_000_000}
    elif parts.path == "/api/v5/public/time" and OKX in feeds:
        reply = {"code": "0", "msg": "", "data": [{"ts": str(now // 1_000_000)}]}
    elif parts.path == "/api/v5/public/instruments" and OKX in feeds:
        if not request.agent:
            return 403, b'{"msg":"Forbidden: no User-Agent"}'
        reply = okx_instruments(feeds[OKX], query.get("instId"))
    elif parts.path == "/info" and request.method == "POST" and HYPERLIQUID in feeds:
        with suppress(orjson.JSONDecodeError):
            reply = hyperliquid_info(feeds[HYPERLIQUID], orjson.loads(request.body))
        if reply is None:
            return _NO_JSON
    return (404, b'{"msg":"not simulated"}') if reply is None else (200, orjson.dumps(reply))


def _history(
    venues: Mapping[str, VenueFeed],
    faults: DataFaults | None,
    path: str,
    query: Mapping[str, str],
) -> Answer | None:
    if path == "/info" and query.get("type") != "recentTrades":
        return None
    answers = (venue.ledger.answer(path, query) for venue in venues.values())
    found = next((answer for answer in answers if answer is not None), None)
    throttle = faults.throttled(path) if found and faults else None
    if throttle is not None:
        body = b'{"code":-1003,"msg":"Too many requests"}'
        return throttle.status, body, {"Retry-After": f"{throttle.retry_after_s:g}"}
    return found
