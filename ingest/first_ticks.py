"""A short look at a venue's streams: are subscriptions answered, and does anything come?"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from ingest.batches import Universe
from ingest.connection import MAX_MESSAGE
from ingest.instruments import Instrument
from ingest.tasks import cancelled
from ingest.universe import why
from ingest.venues import Endpoint, ParseReport, ParserState, Row, Venue
from ingest.venues.common import ROW_STAMPS


class Heard:
    """What has come so far. `after_ms`: the first of each kind, since the subscriptions."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = endpoints
        self.expected = sum(endpoint.acks for endpoint in endpoints)
        self.acks = 0
        self.trouble = ""
        """The first thing that went wrong: a refusal, a lost connection."""
        self.after_ms: dict[str, float] = {}
        self.lag_ms: float | None = None
        """The least time (ms) from an exchange stamp to its arrival here."""
        self._began = time.monotonic()
        self._news = asyncio.Event()

    @property
    def answered(self) -> bool:
        return bool(self.trouble) or self.acks >= self.expected

    @property
    def complete(self) -> bool:
        return bool(self.trouble) or len(self.after_ms) == 2

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Until the condition holds or so long."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return

    def failed(self, reason: str) -> None:
        self.trouble = self.trouble or reason
        self._news.set()

    def took(self, report: ParseReport, trades: list[Row], quotes: list[Row]) -> None:
        """Account for the frames of one read."""
        for notice in report.notices:
            if notice.kind == "error":
                self.failed(f"refused: {notice.text}")
            self.acks += notice.kind in ("ack", "error")
        spent = (time.monotonic() - self._began) * 1e3
        for kind, rows in (("quote", quotes), ("trade", trades)):
            if rows:
                self.after_ms.setdefault(kind, spent)
        stamps = [ROW_STAMPS.unpack_from(row) for row in (*trades, *quotes)]
        lags = [local_ns / 1e6 - exchange_ms for exchange_ms, local_ns in stamps]
        if lags:
            self.lag_ms = min(lags if self.lag_ms is None else [self.lag_ms, *lags])
        self._news.set()


@asynccontextmanager
async def listen(
    venue: Venue, ws_url: str, instruments: Sequence[Instrument], trades: str
) -> AsyncIterator[Heard]:
    """Listen to quotes and trades of the instruments while in the block."""
    heard = Heard(venue.endpoints(instruments, trades))
    tasks = [
        asyncio.create_task(_listen(venue, ws_url, endpoint, instruments, heard))
        for endpoint in heard.endpoints
    ]
    try:
        yield heard
    finally:
        await cancelled(*tasks)


async def _listen(
    venue: Venue, ws_url: str, endpoint: Endpoint, instruments: Sequence[Instrument], heard: Heard
) -> None:
    trades: list[Row] = []
    quotes: list[Row] = []
    routes = Universe(instruments).routes([trades], [quotes])
    state = ParserState()
    try:
        # No handshake limit of its own: the examiner's patience is the limit.
        async with connect(
            ws_url + endpoint.path,
            compression=None,
            max_size=MAX_MESSAGE,
            open_timeout=None,
            close_timeout=1,
        ) as connection:
            for message in endpoint.subscribe:
                await connection.send(message, text=True)
            while True:
                payload = await connection.recv(decode=False)
                report = ParseReport()
                venue.parse([(time.time_ns(), payload)], routes, 0, report, state)
                heard.took(report, trades, quotes)
                trades.clear()
                quotes.clear()
    except (OSError, WebSocketException) as error:
        heard.failed(f"{ws_url}{endpoint.path}: {why(error)}")
