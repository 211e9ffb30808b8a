"""Prometheus metrics of ingest, counted per batch, never per tick; no label names a symbol."""

import time
from collections.abc import Collection, Iterable

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from ingest.records import QUOTES, TRADES
from ingest.ticks import F64, I64, LIVE, Quotes, Trades
from ingest.venues import ParseReport

TELL_S = 0.25
CONNECTION_STATES = ("connecting", "subscribing", "subscribed")


class BatchHistogram(Histogram):
    """A histogram that takes the values of a batch at once."""

    def observe_many(self, values: F64) -> None:
        """Count all values, in the cost of a few calls; what is below 0 counts as 0."""
        values = np.maximum(values, 0.0)
        slot = np.searchsorted(self._upper_bounds, values)
        for bucket, n in zip(self._buckets, np.bincount(slot).tolist(), strict=False):
            if n:
                bucket.inc(n)
        self._sum.inc(float(values.sum()))


FRAMES = Counter("perpflow_frames_total", "Complete websocket messages received", ["exchange"])
TICKS = Counter("perpflow_ticks_total", "Ticks parsed from frames", ["exchange", "kind"])
IGNORED = Counter(
    "perpflow_frames_ignored_total", "Well-formed frames of channels not asked for", ["exchange"]
)
MALFORMED = Counter(
    "perpflow_frames_malformed_total",
    "Frames, or rows of frames, that could not be read",
    ["exchange", "reason"],
)
UNKNOWN_SYMBOL = Counter(
    "perpflow_unknown_symbol_total", "Ticks of instruments that were not subscribed", ["exchange"]
)
CONNECTED = Counter("perpflow_connections_opened_total", "Connections opened", ["exchange"])
DISCONNECTED = Counter(
    "perpflow_connections_lost_total",
    "Connections lost or refused: closed with a code, silent, unconfirmed, …",
    ["exchange", "reason"],
)
REFUSED = Counter("perpflow_subscriptions_refused_total", "Subscriptions refused", ["exchange"])
PAUSED = Counter(
    "perpflow_reading_paused_total", "Times reading paused because the log was behind", ["exchange"]
)
CLOCK_STEPS = Counter(
    "perpflow_clock_steps_total", "Steps of the wall clock", ["exchange", "reason"]
)
GAPS = Counter(
    "perpflow_gaps_total", "Gaps found in the trades of a symbol", ["exchange", "reason"]
)
GAPS_CLOSED = Counter(
    "perpflow_gaps_closed_total", "Gaps whose healing has ended, by how", ["exchange", "state"]
)
MISSING = Counter(
    "perpflow_trades_missing_total", "Trade ids that stay missing after healing", ["exchange"]
)
HEALED = Counter("perpflow_trades_healed_total", "Trades fetched over REST for a gap", ["exchange"])
STRADDLES = Counter(
    "perpflow_aggregates_split_total",
    "Aggregates left out because a part of them was seen as single trades",
    ["exchange"],
)
FALLBACKS = Counter(
    "perpflow_trade_feed_switches_total", "Switches of Binance's trade feed", ["exchange", "to"]
)
REST_REQUESTS = Counter(
    "perpflow_history_requests_total",
    "REST requests for history, by status",
    ["exchange", "status"],
)
APPENDED = Counter(
    "perpflow_records_appended_total", "Records appended to the log", ["exchange", "kind"]
)
APPEND_FAILURES = Counter(
    "perpflow_append_failures_total", "Appends to the log that failed and are retried", ["exchange"]
)
QUEUED_BYTES = Gauge(
    "perpflow_append_queue_bytes", "Bytes of records waiting for the log", ["exchange"]
)
RECORDING_FAILURES = Counter(
    "perpflow_recording_failures_total", "Writes of frame recordings that failed", ["exchange"]
)
INSTRUMENTS = Gauge("perpflow_instruments", "Instruments the settings select", ["exchange"])
LIST_FAILURES = Counter(
    "perpflow_instrument_list_failures_total",
    "Instrument lists that could not be fetched over REST",
    ["exchange"],
)
LIST_FETCHED = Gauge(
    "perpflow_instrument_list_fetched_timestamp_seconds",
    "When the instrument list was last fetched",
    ["exchange"],
)
SPOOLED = Counter(
    "perpflow_records_spooled_total", "Records that went to the spool on disk", ["exchange"]
)
SPOOL_BYTES = Gauge("perpflow_spool_bytes", "Bytes in the spool on disk", ["exchange"])
SPOOL_FAILURES = Counter(
    "perpflow_spool_failures_total", "Writes to the spool that failed", ["exchange"]
)
RENEWED = Counter(
    "perpflow_connections_replaced_total",
    "Connections replaced before they ended: age, notice, silence",
    ["exchange", "reason"],
)
SILENT = Counter("perpflow_channel_silent_total", "Channels found silent", ["exchange", "kind"])
GIVEN_UP = Counter(
    "perpflow_subscriptions_given_up_total", "Refused subscriptions given up", ["exchange"]
)
LAST_EVENT = Gauge(
    "perpflow_last_event_timestamp_seconds",
    "Exchange time of the newest live tick",
    ["exchange", "kind"],
)
LAST_ARRIVAL = Gauge(
    "perpflow_last_arrival_timestamp_seconds",
    "When the newest live tick arrived",
    ["exchange", "kind"],
)
EVENT_AGE = BatchHistogram(
    "perpflow_event_age_seconds",
    "From a live tick's exchange time to its arrival; le=0: it came before its own time",
    ["exchange", "kind"],
    buckets=(0, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
RECEIVED_BYTES = Counter(
    "perpflow_received_bytes_total", "Bytes off the websockets, framing included", ["exchange"]
)
CONNECTIONS = Gauge(
    "perpflow_connections",
    f"Connections wanted, by state: {', '.join(CONNECTION_STATES)}",
    ["exchange", "state"],
)
QUEUED_RECORDS = Gauge(
    "perpflow_append_queue_records", "Records waiting in memory for the log", ["exchange"]
)
QUEUE_PEAK = Gauge(
    "perpflow_append_queue_peak_bytes",
    "High-water mark: the most bytes that have waited in memory since the start",
    ["exchange"],
)
QUEUE_LIMIT = Gauge(
    "perpflow_append_queue_limit_bytes",
    "Bytes waiting in memory above which reading pauses",
    ["exchange"],
)
APPEND_SECONDS = Histogram(
    "perpflow_append_seconds",
    "From the first try of an append until the log has it",
    ["exchange"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
)
SPOOL_LIMIT = Gauge("perpflow_spool_limit_bytes", "Bytes that the spool may take", ["exchange"])
REST_WEIGHT = Counter(
    "perpflow_history_weight_total",
    "Weight of REST requests for history, as the venue counts it",
    ["exchange"],
)
CLOCK_OFFSET = Gauge(
    "perpflow_clock_offset_seconds",
    "How far the local clock is ahead of the venue's, by its REST time (not Hyperliquid's)",
    ["exchange"],
)
CLOCK_UNCERTAINTY = Gauge(
    "perpflow_clock_offset_uncertainty_seconds",
    "How far the offset may be off: half the round trip",
    ["exchange"],
)


_FROM_THE_START = (
    MISSING,
    HEALED,
    UNKNOWN_SYMBOL,
    REFUSED,
    GIVEN_UP,
    LIST_FAILURES,
    APPEND_FAILURES,
    SPOOL_FAILURES,
)


def begin(exchange: str) -> None:
    """Tell of a venue that it is to be collected, and what rarely happens as 0: Prometheus sees no
    rise in a series that begins with it."""
    for counter in _FROM_THE_START:
        counter.labels(exchange)
    for reason in ("back", "forward"):
        CLOCK_STEPS.labels(exchange, reason)
    connections(exchange, ())


class Flow:
    """What one session received, bound to its venue once; given every flush, told `TELL_S` apart.

    Flushes come 20 times a second, and most of what telling costs is by the call.
    """

    def __init__(self, exchange: str) -> None:
        self._frames = FRAMES.labels(exchange)
        self._trades = TICKS.labels(exchange, TRADES)
        self._quotes = TICKS.labels(exchange, QUOTES)
        self._ignored = IGNORED.labels(exchange)
        self._live = {kind: _Live(exchange, kind) for kind in (TRADES, QUOTES)}
        self._told = 0.0

    def parsed(self, report: ParseReport) -> None:
        self._frames.inc(report.frames)
        self._trades.inc(report.trades)
        self._quotes.inc(report.quotes)
        self._ignored.inc(report.ignored)

    def arrived(self, trades: Collection[Trades], quotes: Collection[Quotes]) -> None:
        self._live[TRADES].arrived(trades)
        self._live[QUOTES].arrived(quotes)
        now = time.monotonic()
        if now - self._told >= TELL_S:
            self._told = now
            self.tell()

    def tell(self) -> None:
        """What has arrived since the last time."""
        for live in self._live.values():
            live.tell()


class _Live:
    """How fresh the ticks of one kind are that came from the stream: neither backlog nor healed."""

    def __init__(self, exchange: str, kind: str) -> None:
        self._event = LAST_EVENT.labels(exchange, kind)
        self._arrival = LAST_ARRIVAL.labels(exchange, kind)
        self._age = EVENT_AGE.labels(exchange, kind)
        self._newest = 0
        self._stamps: list[tuple[I64, I64]] = []

    def arrived(self, batches: Iterable[Trades] | Iterable[Quotes]) -> None:
        for batch in batches:
            stamps = (batch.exchange_ts, batch.local_ts)
            if batch.origin.any():  # not LIVE, all of them
                live = batch.origin == LIVE
                stamps = (batch.exchange_ts[live], batch.local_ts[live])
            if len(stamps[0]):
                self._stamps.append(stamps)

    def tell(self) -> None:
        if not self._stamps:
            return
        event, arrival = (np.concatenate(of) for of in zip(*self._stamps, strict=True))
        self._stamps.clear()
        self._newest = max(self._newest, int(event.max()))
        self._event.set(self._newest / 1e9)
        self._arrival.set(int(arrival.max()) / 1e9)
        self._age.observe_many((arrival - event) / 1e9)


def connections(exchange: str, states: Iterable[str]) -> None:
    """Tell the state of each connection that is wanted."""
    found = list(states)
    for state in CONNECTION_STATES:
        CONNECTIONS.labels(exchange, state).set(found.count(state))
