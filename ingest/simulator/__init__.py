"""The three venues on localhost, for the demo, the tests and fault injection.

    prices ─▶ flow ─▶ frames ─▶ market ─┐
                                        ├─▶ feeds ─▶ server ◀─ protocols (subscribe, acks, errors)
                          recordings ───┘               │
                                                   connection (websocket and REST on one port)

A seeded `Market` (pure) or a recording becomes a `Feed`; `Simulator` serves one feed a venue by
one market clock; `record_span` writes a
simulated span as a recording. `python -m ingest.simulator` runs it as a process.
"""

from ingest.simulator.feeds import Feed, market_feed, recording_feed
from ingest.simulator.listings import DEFAULT_NATIVES, EXCHANGES
from ingest.simulator.market import Market
from ingest.simulator.server import Simulator
from ingest.simulator.spans import record_span

__all__ = [
    "DEFAULT_NATIVES",
    "EXCHANGES",
    "Feed",
    "Market",
    "Simulator",
    "market_feed",
    "record_span",
    "recording_feed",
]
