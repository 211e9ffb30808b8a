"""The venues: their subscriptions and the parsing of their frames. Pure, no I/O."""

from ingest.venues import binance, hyperliquid, okx
from ingest.venues.common import (
    SUBSCRIBE,
    UNSUBSCRIBE,
    Channel,
    Endpoint,
    Frame,
    Notice,
    ParseReport,
    ParserState,
    Requests,
    Route,
    Row,
    Venue,
)

__all__ = [
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "VENUES",
    "Channel",
    "Endpoint",
    "Frame",
    "Notice",
    "ParseReport",
    "ParserState",
    "Requests",
    "Route",
    "Row",
    "Venue",
    "venue",
]

VENUES: dict[str, Venue] = {v.name: v for v in (binance.VENUE, okx.VENUE, hyperliquid.VENUE)}


def venue(name: str) -> Venue:
    """The venue of that name. Raises ValueError naming the known ones."""
    try:
        return VENUES[name]
    except KeyError:
        raise ValueError(f"unknown exchange {name!r}: known are {', '.join(VENUES)}") from None
